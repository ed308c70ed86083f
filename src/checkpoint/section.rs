//! What part of the training state each tensor of a file is: model, averaged model, optimizer, or something else.
//!
//! A pickled dict says so by its first keys (`model`, `state_dict_ema`, `optimizer_states`, …). A file without such
//! keys is a bare state dict and all model, but for what only optimizers call their tensors.

use std::collections::BTreeSet;

use super::Section;
use crate::format::{Container, Node, NodeId, Objects};

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

/// Beginnings of words in keys that hold what is neither model nor optimizer.
const OTHER_WORDS: &[&str] = &[
    "sched", "rng", "random", "scaler", "amp", "sampler", "loop", "callback", "args", "hparams", "hyper",
    "config", "data",
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
    let holders = objects.filter(|_| whole.is_none()).map(holders).unwrap_or_default();
    let names = container.entries.iter().map(|entry| entry.name.as_str());
    let placed = names.map(|name| match whole {
        Some(section) => place_in(section, name),
        None => place_one(name, &holders),
    });
    separate_averages(placed.collect())
}

/// A tensor of a file that is all `section`.
fn place_in(section: Section, name: &str) -> Placed {
    let prefixed = section == Section::Optimizer && !name.starts_with(OPTIMIZER_PREFIX);
    Placed { section, name: if prefixed { format!("{OPTIMIZER_PREFIX}{name}") } else { name.to_owned() } }
}

fn place_one(name: &str, holders: &[Holder]) -> Placed {
    let whole = |section| Placed { section, name: name.to_owned() };
    let models = holders.iter().filter(|holder| holder.section == Section::Model).count();
    let holder = holders.iter().find(|holder| name.starts_with(&holder.prefix));
    match holder {
        _ if is_optimizer_leaf(name) => whole(Section::Optimizer),
        Some(Holder { section: Section::Model, prefix }) if models == 1 => {
            Placed { section: Section::Model, name: name[prefix.len()..].to_owned() }
        }
        Some(Holder { section: Section::Average, prefix }) => {
            Placed { section: Section::Average, name: name[prefix.len()..].to_owned() }
        }
        Some(holder) => whole(holder.section),
        None if models > 0 => whole(Section::Other),
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
    holders(objects).into_iter().map(|holder| holder.section).collect()
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
            Some(section) => found.push(Holder { prefix, section }),
            // One level only: deeper, `state` is a name like any other.
            None if path.is_empty() && TRANSPARENT_KEYS.contains(&key) => {
                collect(objects, value, &prefix, found);
            }
            None => {}
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
    if any_word(&|word| OTHER_WORDS.iter().any(|beginning| word.starts_with(beginning))) {
        Some(Section::Other)
    } else if any_word(&|word| word.starts_with("optim") || word == "opt") {
        Some(Section::Optimizer)
    } else if any_word(&|word| AVERAGE_WORDS.contains(&word)) {
        Some(Section::Average)
    } else {
        MODEL_KEYS.contains(&key.as_str()).then_some(Section::Model)
    }
}

/// Finds averaged copies inside the model's own dict: `model_ema.…` beside `model.…`.
fn separate_averages(mut placed: Vec<Placed>) -> Vec<Placed> {
    let is_average = |placed: &Placed| {
        let first = placed.name.split('.').next().unwrap_or_default().to_ascii_lowercase();
        placed.section == Section::Model && first.split('_').any(|word| AVERAGE_WORDS.contains(&word))
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
            tensor: Err(ErrorKind::NoTensors.in_file(std::path::Path::new("x"))),
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
                ("extra.x", Section::Other, "extra.x"),
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
