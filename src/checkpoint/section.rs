//! What part of the training state each tensor of a file is: model, averaged model, optimizer, or something else.
//!
//! A pickled dict says so by its first keys (`model`, `state_dict_ema`, `optimizer_states`, …). A file without such
//! keys is a bare state dict and all model, but for what only optimizers call their tensors.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::Section;
use crate::format::{Container, Entry, Node, NodeId, Objects};
use crate::tensor::Kind;

/// Where a tensor belongs, and its name there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Placed {
    pub section: Section,
    /// The name without the container that holds the model, or its averaged copy.
    pub name: String,
}

/// A key of the pickled dict that holds part of the training state.
struct Holder {
    /// The key with a dot behind it, and before it the keys on the way.
    prefix: String,
    section: Section,
    /// Whether the key says what it holds. One that does not is judged by what is in it.
    is_known: bool,
}

/// Keys that hold the model, and nothing but say so.
const MODEL_KEYS: &[&str] = &[
    "model",
    "models",
    "state_dict",
    "model_state_dict",
    "model_state",
    "module",
    "net",
    "network",
    "weights",
    "params",
    "parameters",
    "generator",
    "discriminator",
    "generator_state_dict",
    "discriminator_state_dict",
];

/// Words in keys that hold an averaged copy of the model.
const AVERAGE_WORDS: &[&str] = &["ema", "swa", "averaged", "average", "avg", "shadow"];

/// Words in keys that hold what is neither model nor optimizer, whatever else the key says: `scheduler_of_encoder`, `model_args`.
#[rustfmt::skip]
const OTHER_WORDS: &[&str] = &[
    "sched", "schedule", "schedules", "rng", "scaler", "scalers", "scaling", "args", "hparams", "hyperparameters",
    "config", "configs", "cfg", "callback", "callbacks", "loops",
];

/// Words of the same, which are as well parts of the names of modules: `sampler_net`, `hyper_network`, `random_projection`.
#[rustfmt::skip]
const PERHAPS_OTHER_WORDS: &[&str] = &[
    "amp", "random", "seed", "seeds", "sampler", "samplers", "loop", "hyper", "data", "dataset", "datasets", "dataloader",
    "dataloaders", "datamodule", "loader", "queue", "queues", "buffer", "buffers", "replay", "metric", "metrics", "meter",
    "meters", "history", "log", "logs", "losses", "stats", "statistics", "results", "progress", "timer", "timers",
];

/// Words that name a module, beside which the words above only say which one.
#[rustfmt::skip]
const MODULE_WORDS: &[&str] = &[
    "net", "nets", "network", "networks", "module", "modules", "encoder", "decoder", "head", "heads", "backbone", "projector",
    "projection", "proj", "embedding", "embeddings", "embedder", "embed", "layer", "layers", "block", "blocks", "tower",
    "adapter", "generator", "discriminator", "critic", "actor", "policy", "teacher", "student", "prior", "weights", "weight",
];

/// Keys that only wrap the dict that matters (Composer).
const TRANSPARENT_KEYS: &[&str] = &["state", "checkpoint"];

/// What optimizers call the tensors of their state, in torch, torch-optimizer, bitsandbytes and our own files.
const OPTIMIZER_LEAVES: &[&str] = &[
    "exp_avg",
    "exp_avg_sq",
    "max_exp_avg_sq",
    "exp_inf",
    "exp_avg_diff",
    "exp_avg_sq_row",
    "exp_avg_sq_col",
    "momentum_buffer",
    "square_avg",
    "grad_avg",
    "acc_delta",
    "master_param",
];

/// Before every name in a file of optimizer state, as if it had been saved with the model.
const OPTIMIZER_PREFIX: &str = "optimizer.";

/// Places every entry of `container`. `whole` is the section of all of it, where the file's name says so.
pub(super) fn place(container: &Container, whole: Option<Section>) -> Vec<Placed> {
    let objects = container.objects.as_ref();
    let whole = whole.or_else(|| objects.is_some_and(is_optimizer).then_some(Section::Optimizer));
    if let Some(section) = whole {
        let placed = container.entries.iter().map(|entry| place_in(section, &entry.name));
        return separate_averages(placed.collect());
    }
    let mut holders = Holders::new(objects.map(holders).unwrap_or_default());
    holders.settle_unknown(&container.entries);
    let strips = holders.strips_model(&container.entries);
    let has_model = holders.list.iter().any(|holder| holder.section == Section::Model);
    let place = |entry| place_one(entry, holders.of(&entry.name), strips, has_model);
    separate_averages(container.entries.iter().map(place).collect())
}

/// Whether all of a file that the user named is the state of an optimizer, by what is in it.
pub(super) fn is_optimizer_state(container: &Container) -> bool {
    if let Some(objects) = &container.objects {
        return is_optimizer(objects);
    }
    let is_state = |entry: &Entry| is_optimizer_leaf(&entry.name) || is_counter(&entry.name);
    container.entries.iter().all(is_state)
        && container.entries.iter().any(|entry| is_optimizer_leaf(&entry.name))
}

/// Whether any tensor may be a weight: schedulers, scalers and random states keep numbers and bytes.
pub(super) fn may_hold_weights(container: &Container) -> bool {
    container.entries.iter().any(is_weight)
}

/// A floating tensor of at least one axis, or one that cannot be read.
fn is_weight(entry: &Entry) -> bool {
    entry.tensor.as_ref().map_or(true, |tensor| is_float(entry) && !tensor.shape.is_empty())
}

fn is_matrix(entry: &Entry) -> bool {
    is_float(entry) && entry.tensor.as_ref().is_ok_and(|tensor| tensor.shape.len() >= 2)
}

fn is_float(entry: &Entry) -> bool {
    entry.tensor.as_ref().map_or(true, |tensor| tensor.dtype.kind() == Kind::Float)
}

/// The holders of a file, found by the beginnings of names: hostile files have a hundred thousand of each.
struct Holders {
    list: Vec<Holder>,
    places: HashMap<String, usize>,
}

impl Holders {
    /// Beginnings of a name that are looked up; keys have a dot or two.
    const MOST_DOTS: usize = 32;

    fn new(list: Vec<Holder>) -> Self {
        let mut places = HashMap::with_capacity(list.len());
        for (place, holder) in list.iter().enumerate() {
            places.entry(holder.prefix.clone()).or_insert(place);
        }
        Self { list, places }
    }

    fn place_of(&self, name: &str) -> Option<usize> {
        if self.places.is_empty() {
            return None;
        }
        let beginnings = name.match_indices('.').map(|(dot, _)| &name[..=dot]).take(Self::MOST_DOTS);
        beginnings.filter_map(|beginning| self.places.get(beginning).copied()).min()
    }

    fn of(&self, name: &str) -> Option<&Holder> {
        self.place_of(name).map(|place| &self.list[place])
    }

    /// Judges keys that do not say what they hold. Beside a model, weights under any such key are weights: what is judged by
    /// nobody may be anything. In a file that would hold nothing else, so are weights under keys that do say.
    fn settle_unknown(&mut self, entries: &[Entry]) {
        let mut with_weights = vec![false; self.list.len()];
        for entry in entries.iter().filter(|entry| is_weight(entry)) {
            if let Some(place) = self.place_of(&entry.name) {
                with_weights[place] = true;
            }
        }
        let is_nothing_else =
            !self.list.iter().any(|holder| holder.is_known && holder.section != Section::Other);
        let mut with_weights = with_weights.into_iter();
        let mut has_weights = || with_weights.next().unwrap_or(false);
        if is_nothing_else {
            // A bare state dict: keys like any other.
            self.list.retain(|holder| !has_weights() && holder.is_known);
            *self = Self::new(std::mem::take(&mut self.list));
            return;
        }
        for holder in &mut self.list {
            let section = if has_weights() { Section::Model } else { Section::Other };
            if !holder.is_known {
                holder.section = section;
            }
        }
    }

    /// Whether the key of the model is left out of the names in it: of the only one, where no name is then that of another
    /// tensor.
    fn strips_model(&self, entries: &[Entry]) -> bool {
        let is_model = |holder: &&Holder| holder.is_known && holder.section == Section::Model;
        let mut models = self.list.iter().filter(is_model);
        let (Some(model), None) = (models.next(), models.next()) else { return false };
        let is_beside = |name: &&str| self.of(name).is_some_and(|holder| !holder.is_known);
        let beside: HashSet<&str> =
            entries.iter().map(|entry| entry.name.as_str()).filter(is_beside).collect();
        let mut inside = entries.iter().filter_map(|entry| entry.name.strip_prefix(&model.prefix));
        !inside.any(|name| beside.contains(name))
    }
}

/// A tensor of a file that is all `section`.
fn place_in(section: Section, name: &str) -> Placed {
    let prefixed = section == Section::Optimizer && !name.starts_with(OPTIMIZER_PREFIX);
    Placed { section, name: if prefixed { format!("{OPTIMIZER_PREFIX}{name}") } else { name.to_owned() } }
}

fn place_one(entry: &Entry, holder: Option<&Holder>, strips_model: bool, has_model: bool) -> Placed {
    let name = entry.name.as_str();
    let whole = |section| Placed { section, name: name.to_owned() };
    match holder {
        _ if is_optimizer_leaf(name) => whole(Section::Optimizer),
        Some(Holder { section: Section::Model, prefix, is_known: true }) if strips_model => {
            Placed { section: Section::Model, name: name[prefix.len()..].to_owned() }
        }
        Some(Holder { section: Section::Average, prefix, .. }) => {
            Placed { section: Section::Average, name: name[prefix.len()..].to_owned() }
        }
        Some(holder) => whole(holder.section),
        // Beside a model, a number or a row of numbers is a count or a record of losses.
        None if has_model && !(is_matrix(entry) && section_of_key(name).is_none()) => whole(Section::Other),
        None => whole(Section::Model),
    }
}

/// Whether all of it is an optimizer's `state_dict`.
fn is_optimizer(objects: &Objects) -> bool {
    let has = |key| objects.root.is_some_and(|root| objects.get(root, key).is_some());
    has("state") && has("param_groups")
}

/// The sections that the root of a pickle holds by name.
pub(super) fn sections(objects: &Objects) -> BTreeSet<Section> {
    holders(objects).into_iter().filter(|holder| holder.is_known).map(|holder| holder.section).collect()
}

/// Whether a name is that of a counter of steps.
fn is_counter(name: &str) -> bool {
    name.rsplit('.').next() == Some("step")
}

fn is_optimizer_leaf(name: &str) -> bool {
    let leaf = name.rsplit('.').next().unwrap_or(name);
    OPTIMIZER_LEAVES.contains(&leaf)
}

/// The parts of the training state that the root of a pickle holds by name.
fn holders(objects: &Objects) -> Vec<Holder> {
    let mut found = Vec::new();
    if let Some(root) = objects.root {
        collect(objects, root, "", &mut found);
    }
    found
}

fn collect(objects: &Objects, dict: NodeId, path: &str, found: &mut Vec<Holder>) {
    for &(key, value) in objects.entries(dict).unwrap_or_default() {
        let Some(key) = objects.text(key) else { continue };
        if !is_compound(objects.node(value)) {
            continue;
        }
        let prefix = format!("{path}{key}.");
        match section_of_key(key) {
            Some(section) => found.push(Holder { prefix, section, is_known: true }),
            // One level only: deeper, `state` is a name like any other.
            None if path.is_empty() && TRANSPARENT_KEYS.contains(&key) => {
                collect(objects, value, &prefix, found);
            }
            None => found.push(Holder { prefix, section: Section::Other, is_known: false }),
        }
    }
}

/// Whether a node can hold tensors by name.
fn is_compound(node: &Node) -> bool {
    matches!(node, Node::Dict(_) | Node::List(_) | Node::Tuple(_) | Node::Object { .. })
}

fn section_of_key(key: &str) -> Option<Section> {
    let key = key.to_ascii_lowercase();
    let any_word = |says: &dyn Fn(&str) -> bool| key.split(['_', '-', '.', ' ']).any(says);
    let listed = |words: &[&str]| any_word(&|word| words.contains(&word));
    if listed(OTHER_WORDS) || any_word(&is_scheduler) {
        Some(Section::Other)
    } else if any_word(&is_optimizer_word) {
        Some(Section::Optimizer)
    } else if listed(AVERAGE_WORDS) {
        Some(Section::Average)
    } else if MODEL_KEYS.contains(&key.as_str()) {
        Some(Section::Model)
    } else {
        (listed(PERHAPS_OTHER_WORDS) && !listed(MODULE_WORDS)).then_some(Section::Other)
    }
}

/// `scheduler`, `lrscheduler`, `schedulers`, `schedulerg`.
fn is_scheduler(word: &str) -> bool {
    word.split_once("scheduler").is_some_and(|(before, behind)| before.len() <= 2 && behind.len() <= 2)
}

/// `optimizer`, `optimiser`, `optim`, `opt`, and those with a letter or a number behind: `optimizerg`, `optim2`.
fn is_optimizer_word(word: &str) -> bool {
    let words = ["optimizer", "optimiser", "optims", "optim", "opt"];
    words.iter().any(|start| word.strip_prefix(start).is_some_and(|rest| rest.len() <= 1)) && word != "opts"
}

/// Finds averaged copies inside the model's own dict: `model_ema.…` beside `model.…`.
fn separate_averages(mut placed: Vec<Placed>) -> Vec<Placed> {
    let is_average = |placed: &Placed| {
        let first = placed.name.split('.').next().unwrap_or_default();
        let says = |word: &str| AVERAGE_WORDS.iter().any(|average| average.eq_ignore_ascii_case(word));
        placed.section == Section::Model && first.split('_').any(says)
    };
    let is_model = |placed: &Placed| placed.section == Section::Model;
    // A file of nothing but averaged weights is the model that was asked for.
    if placed.iter().any(|placed| is_model(placed) && !is_average(placed)) {
        for placed in placed.iter_mut().filter(|placed| is_average(placed)) {
            placed.section = Section::Average;
        }
    }
    placed
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::error::ErrorKind;
    use crate::format::{Entry, Format};

    /// A pickled dict with `keys`, each holding a dict or, after `=`, a tensor; and tensors of these `names`.
    fn container(keys: &[&str], names: &[&str]) -> Container {
        let mut objects = Objects::default();
        let mut entries = Vec::new();
        for key in keys {
            let name = key.trim_end_matches('=');
            let value = if key.ends_with('=') { Node::Tensor(0) } else { Node::Dict(Vec::new()) };
            objects.nodes.extend([Node::Text(name.to_owned()), value]);
            entries.push((objects.nodes.len() - 2, objects.nodes.len() - 1));
        }
        objects.root = Some(objects.nodes.len());
        objects.nodes.push(Node::Dict(entries));
        let entry = |name: &&str| Entry {
            name: (*name).to_owned(),
            tensor: Err(Box::new(ErrorKind::NoTensors.in_file(std::path::Path::new("x")))),
            storage: None,
        };
        Container {
            format: Format::TorchZip,
            entries: names.iter().map(entry).collect(),
            metadata: BTreeMap::new(),
            objects: Some(objects),
            globals: Vec::new(),
            uncovered: Vec::new(),
            problems: Vec::new(),
        }
    }

    fn check(keys: &[&str], expected: &[(&str, Section, &str)]) {
        let names: Vec<&str> = expected.iter().map(|(name, _, _)| *name).collect();
        let placed = place(&container(keys, &names), None);
        for (placed, (name, section, short)) in placed.iter().zip(expected) {
            assert_eq!((placed.section, placed.name.as_str()), (*section, *short), "{name}");
        }
    }

    #[test]
    fn the_first_key_says_which_part_it_is() {
        check(
            &["model", "optimizer", "lr_scheduler", "model_ema", "rng_state=", "extra"],
            &[
                ("model.fc.weight", Section::Model, "fc.weight"),
                ("optimizer.state.0.exp_avg", Section::Optimizer, "optimizer.state.0.exp_avg"),
                ("optimizer.state.0.step", Section::Optimizer, "optimizer.state.0.step"),
                ("lr_scheduler.last", Section::Other, "lr_scheduler.last"),
                ("model_ema.fc.weight", Section::Average, "fc.weight"),
                ("rng_state", Section::Other, "rng_state"),
                // What it is nobody says, and what it holds cannot be read.
                ("extra.x", Section::Model, "extra.x"),
            ],
        );
    }

    #[test]
    fn words_of_keys_are_whole_words() {
        let other = [
            "lr_scheduler",
            "LRScheduler",
            "native_amp_scaling_state",
            "random_states",
            "model_args",
            "scheduler_encoder",
        ];
        let other = other.iter().chain(&[
            "rng_state",
            "hyper_parameters",
            "loops",
            "data",
            "replay_buffer",
            "grad_scaler",
        ]);
        for key in other {
            assert_eq!(section_of_key(key), Some(Section::Other), "{key}");
        }
        for key in [
            "data2vec",
            "amplifier",
            "looped",
            "database",
            "sampler_net",
            "hyper_network",
            "random_projection",
            "optimal_transport",
            "opts",
        ] {
            assert_eq!(section_of_key(key), None, "{key}");
        }
        for key in ["optimizer", "optimizer_states", "optimizerG", "optim_d", "opt", "optim2"] {
            assert_eq!(section_of_key(key), Some(Section::Optimizer), "{key}");
        }
    }

    #[test]
    fn a_file_of_nothing_but_other_state_is_what_was_asked_for() {
        check(&["data", "config"], &[("data.w", Section::Model, "data.w")]);
    }

    #[test]
    fn a_name_that_two_tensors_would_have_keeps_its_key() {
        check(
            &["model", "projector"],
            &[
                ("model.projector.w", Section::Model, "model.projector.w"),
                ("projector.w", Section::Model, "projector.w"),
            ],
        );
    }

    #[test]
    fn lightning_and_timm() {
        check(
            &["state_dict", "optimizer_states", "callbacks", "loops", "state_dict_ema", "amp_scaler"],
            &[
                ("state_dict.model.fc.weight", Section::Model, "model.fc.weight"),
                (
                    "optimizer_states.0.state.0.exp_avg_sq",
                    Section::Optimizer,
                    "optimizer_states.0.state.0.exp_avg_sq",
                ),
                ("callbacks.best", Section::Other, "callbacks.best"),
                ("state_dict_ema.fc.weight", Section::Average, "fc.weight"),
            ],
        );
    }

    #[test]
    fn a_bare_state_dict_is_all_model_whatever_its_names() {
        check(
            &["model.weight=", "optimizer.weight="],
            &[
                ("model.weight", Section::Model, "model.weight"),
                ("optimizer.weight", Section::Model, "optimizer.weight"),
            ],
        );
        check(&["encoder", "decoder"], &[("encoder.weight", Section::Model, "encoder.weight")]);
    }

    #[test]
    fn two_models_keep_the_names_that_tell_them_apart() {
        check(
            &["generator", "discriminator"],
            &[
                ("generator.0.weight", Section::Model, "generator.0.weight"),
                ("discriminator.0.weight", Section::Model, "discriminator.0.weight"),
            ],
        );
    }

    #[test]
    fn averages_inside_the_model_are_found() {
        check(
            &["state_dict"],
            &[
                ("state_dict.model.a", Section::Model, "model.a"),
                ("state_dict.model_ema.a", Section::Average, "model_ema.a"),
            ],
        );
        check(&["state_dict"], &[("state_dict.ema.a", Section::Model, "ema.a")]);
    }

    #[test]
    fn a_file_of_optimizer_state_is_named_as_if_saved_with_the_model() {
        let container = container(&["state", "param_groups"], &["state.0.exp_avg"]);
        let expected = Placed { section: Section::Optimizer, name: "optimizer.state.0.exp_avg".to_owned() };
        for said_by_its_name in [Some(Section::Optimizer), None] {
            assert_eq!(place(&container, said_by_its_name), std::slice::from_ref(&expected));
        }
    }
}
