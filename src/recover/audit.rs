//! What a resume from a checkpoint has and lacks, and how exactly training can go on from it.
//!
//! By names and keys alone: nothing is executed, and whether the program that resumes reads what is there is its own affair.
//! What each framework saves, and what it is known to lose, is section 3.3 of the risk catalogue.

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;

use serde::Serialize;
use serde_json::Value;

use super::write::{sources, state};
use crate::checkpoint::optimizer::Algorithm;
use crate::checkpoint::{Checkpoint, Layout, MAX_STATE_BYTES, Section, TRAINER_STATE};
use crate::context::Context;
use crate::error::{Error, ErrorKind, Result};
use crate::files::open_sibling;
use crate::format::detect;
use crate::history::log;
use crate::number::counted;
use crate::tensor::DType;

/// What a resume from a checkpoint has and lacks.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Audit {
    /// How its files are laid out.
    pub layout: Layout,
    /// Every part of a resumable state, in a fixed order.
    pub components: Vec<Component>,
    /// The worst that a missing part costs.
    pub exactness: Exactness,
    /// Why, in one sentence.
    pub sentence: String,
}

/// One part of a resumable state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Component {
    /// Which.
    pub part: Part,
    /// Whether it is there.
    pub presence: Presence,
    /// Where it is, or why it is not needed, or what its absence does.
    pub detail: String,
    /// How exact a resume can be with what there is of it.
    pub allows: Exactness,
}

/// Parts of a resumable state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Part {
    /// The weights.
    Model,
    /// First and second moments, momentum.
    OptimizerMoments,
    /// The step counters that bias correction needs.
    OptimizerStep,
    /// The learning-rate schedule.
    Scheduler,
    /// The loss scale of fp16.
    Scaler,
    /// States of the random-number generators.
    RandomStates,
    /// Which samples come next.
    DataPosition,
    /// How many steps were taken.
    Progress,
    /// What the run was started with.
    Config,
}

/// Whether a part is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Presence {
    /// It is.
    Present,
    /// Some of it is.
    Partial,
    /// It is not.
    Missing,
    /// It is not, and nothing depends on it.
    NotNeeded,
}

/// How exactly training can go on, the most exact first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Exactness {
    /// The same numbers as if it had never stopped, on the same machine with the same software.
    Bit,
    /// The same state, other batches or other rounding: the same run in distribution.
    Numeric,
    /// Something that every step depends on starts anew.
    Restart,
}

impl Part {
    /// Its name for people.
    pub fn name(self) -> &'static str {
        match self {
            Part::Model => "model",
            Part::OptimizerMoments => "optimizer moments",
            Part::OptimizerStep => "optimizer step",
            Part::Scheduler => "scheduler",
            Part::Scaler => "loss scaler",
            Part::RandomStates => "random states",
            Part::DataPosition => "data position",
            Part::Progress => "progress",
            Part::Config => "config",
        }
    }
}

impl Component {
    /// Whether it was looked for among the files, and not found.
    fn is_found_by_files(&self) -> bool {
        let by_files = [Part::Scheduler, Part::Scaler, Part::RandomStates, Part::DataPosition, Part::Config];
        self.presence == Presence::Missing && by_files.contains(&self.part)
    }
}

impl Presence {
    /// Its name for people.
    pub fn name(self) -> &'static str {
        match self {
            Presence::Present => "present",
            Presence::Partial => "partial",
            Presence::Missing => "missing",
            Presence::NotNeeded => "not needed",
        }
    }
}

impl fmt::Display for Exactness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Exactness::Bit => "bit",
            Exactness::Numeric => "numeric",
            Exactness::Restart => "restart",
        })
    }
}

/// Looks at what a resume from `checkpoint` has and lacks.
pub fn audit(checkpoint: &Checkpoint, context: &Context) -> Audit {
    let look = Look::at(checkpoint, context);
    let mut components = vec![
        look.model(),
        look.moments(),
        look.step(),
        look.scheduler(),
        look.scaler(),
        look.random_states(),
        look.data_position(),
        look.progress(),
        look.config(),
    ];
    if let Some(reason) = &look.unread {
        for component in components.iter_mut().filter(|component| component.is_found_by_files()) {
            component.detail = format!("not known: {reason}");
        }
    }
    let exactness = components.iter().map(|component| component.allows).max().unwrap_or(Exactness::Restart);
    let limiting: Vec<&str> = components
        .iter()
        .filter(|component| component.allows == exactness && exactness > Exactness::Bit)
        .map(|component| component.part.name())
        .collect();
    let sentence = match exactness {
        Exactness::Bit => {
            "nothing is missing: bit for bit, with the same software, devices and number of ranks".to_owned()
        }
        Exactness::Numeric => format!("not bit for bit, because of: {}", limiting.join(", ")),
        Exactness::Restart => format!("parts that every step depends on start anew: {}", limiting.join(", ")),
    };
    Audit { layout: checkpoint.layout, components, exactness, sentence }
}

/// What the audit looks at: names of files, and keys of the state where one file holds it.
struct Look<'a> {
    checkpoint: &'a Checkpoint,
    files: BTreeSet<String>,
    /// Why the files could not be listed, or our own state could not be read.
    unread: Option<String>,
    keys: BTreeSet<String>,
    /// Our own state.
    state: Option<Value>,
    /// Fraction of an epoch, where the Trainer says it; why what it says cannot be read.
    epoch: std::result::Result<Option<f64>, String>,
}

impl<'a> Look<'a> {
    fn at(checkpoint: &'a Checkpoint, context: &Context) -> Self {
        let mut unread = None;
        let mut note = |error: Error| {
            unread.get_or_insert(error.to_string());
        };
        let listed = sources(checkpoint).map_err(&mut note).unwrap_or_default();
        let state = state::read(checkpoint).map_err(&mut note).unwrap_or_default();
        let files = listed.into_iter().map(|source| source.name).collect();
        let is_trainers = checkpoint.layout == Layout::HfTrainer;
        let epoch = if is_trainers { epoch_in(&checkpoint.path, context) } else { Ok(None) };
        let epoch = epoch.map_err(|error| error.kind.to_string());
        Self { checkpoint, files, unread, keys: root_keys(checkpoint, context), state, epoch }
    }

    fn has_file(&self, start: &str) -> Option<&str> {
        self.files.iter().map(String::as_str).find(|name| name.starts_with(start))
    }

    /// A key of our own state that is not null.
    fn has_state(&self, keys: &[&'static str]) -> Option<&'static str> {
        let state = self.state.as_ref()?;
        keys.iter().copied().find(|key| state.get(key).is_some_and(|value| !value.is_null()))
    }

    fn has_key(&self, keys: &[&'static str]) -> Option<&'static str> {
        keys.iter().copied().find(|key| self.keys.contains(*key))
    }

    /// Present under one of these beginnings of file names, keys of the one file, or keys of our own state.
    fn find(&self, files: &[&str], keys: &[&'static str], own: &[&'static str]) -> Option<String> {
        let file = files.iter().find_map(|start| self.has_file(start)).map(str::to_owned);
        let key = || self.has_key(keys).map(|key| format!("{key} in the file"));
        file.or_else(key).or_else(|| self.has_state(own).map(|key| format!("{key} in state.json")))
    }

    fn model(&self) -> Component {
        let tensors = self.checkpoint.tensors.iter().filter(|tensor| tensor.section == Section::Model);
        let unread = tensors.clone().filter(|tensor| tensor.tensor.is_err()).count();
        let is_empty = tensors.clone().next().is_none();
        let count = counted(tensors.count() as u64, "tensor");
        let (presence, detail, allows) = match unread {
            _ if is_empty => (Presence::Missing, "there are no weights".to_owned(), Exactness::Restart),
            0 => (Presence::Present, count, Exactness::Bit),
            unread => (Presence::Partial, format!("{unread} of {count} cannot be read"), Exactness::Restart),
        };
        Component { part: Part::Model, presence, detail, allows }
    }

    fn moments(&self) -> Component {
        let part = Part::OptimizerMoments;
        let optimizers = &self.checkpoint.optimizers;
        let parameters = optimizers.iter().flat_map(|optimizer| &optimizer.parameters);
        let (all, stored) = (parameters.clone().count(), parameters.filter(|state| state.stored).count());
        if optimizers.is_empty() && self.is_stated_to_keep_none() {
            let detail = "SGD without momentum keeps none".to_owned();
            return Component { part, presence: Presence::NotNeeded, detail, allows: Exactness::Bit };
        }
        if optimizers.is_empty() {
            let detail = "no optimizer state: every moment starts at zero".to_owned();
            return Component { part, presence: Presence::Missing, detail, allows: Exactness::Restart };
        }
        let keeps_none = optimizers.iter().all(|optimizer| {
            optimizer.algorithm == Algorithm::Sgd
                && optimizer.groups.iter().all(|group| group.momentum.unwrap_or(0.0) == 0.0)
        });
        let (presence, detail, allows) = match stored {
            0 if keeps_none => {
                (Presence::NotNeeded, "SGD without momentum keeps none".to_owned(), Exactness::Bit)
            }
            0 => (Presence::Missing, "the optimizer's state is empty".to_owned(), Exactness::Restart),
            stored if stored < all => (
                Presence::Partial,
                format!(
                    "{stored} of {} have state; the others never had a gradient, or lost it",
                    counted(all as u64, "parameter")
                ),
                Exactness::Numeric,
            ),
            stored => (
                Presence::Present,
                format!("{} in {}", counted(stored as u64, "parameter"), optimizers[0].place),
                Exactness::Bit,
            ),
        };
        Component { part, presence, detail, allows }
    }

    /// Whether our own state says that the optimizer is SGD without momentum, of which there is no tensor.
    fn is_stated_to_keep_none(&self) -> bool {
        let optimizer = self.state.as_ref().and_then(|state| state.get("optimizer"));
        let has_momentum = |group: &Value| {
            group.get("momentum").and_then(Value::as_f64).is_some_and(|momentum| momentum != 0.0)
        };
        optimizer.is_some_and(|optimizer| {
            let groups = optimizer.get("groups").and_then(Value::as_array);
            optimizer.get("algorithm").and_then(Value::as_str) == Some("sgd")
                && groups.is_some_and(|groups| !groups.iter().any(has_momentum))
        })
    }

    fn step(&self) -> Component {
        let part = Part::OptimizerStep;
        let corrected: Vec<_> = self
            .checkpoint
            .optimizers
            .iter()
            .filter(|optimizer| optimizer.algorithm.is_adam())
            .flat_map(|optimizer| optimizer.parameters.iter().filter(|state| state.stored))
            .collect();
        let counted_ones = corrected.iter().filter(|state| state.step.is_some()).count();
        let (presence, detail, allows) = match (corrected.len(), counted_ones) {
            (0, _) => {
                (Presence::NotNeeded, "no optimizer whose bias is corrected".to_owned(), Exactness::Bit)
            }
            (all, known) if all == known => {
                let last = corrected.iter().filter_map(|state| state.step).fold(0.0, f64::max);
                (Presence::Present, format!("step {last}"), Exactness::Bit)
            }
            (_, 0) => (
                Presence::Missing,
                "the first updates would be corrected as if the moments were new".to_owned(),
                Exactness::Restart,
            ),
            (all, known) => {
                (Presence::Partial, format!("{known} of {all} parameters have one"), Exactness::Restart)
            }
        };
        Component { part, presence, detail, allows }
    }

    fn scheduler(&self) -> Component {
        let part = Part::Scheduler;
        let own = ["schedule", "scheduler", "lr_scheduler"];
        let found =
            self.find(&["scheduler."], &["lr_schedulers", "lr_scheduler", "scheduler", "schedulers"], &own);
        let by_step = self.checkpoint.layout == Layout::NanoGpt;
        let (presence, detail, allows) = match found {
            Some(place) => (Presence::Present, place, Exactness::Bit),
            None if by_step => {
                let detail = "the script computes the rate from iter_num".to_owned();
                (Presence::NotNeeded, detail, Exactness::Bit)
            }
            None => {
                let detail = "a schedule starts anew, unless the program computes it by the step";
                (Presence::Missing, detail.to_owned(), Exactness::Numeric)
            }
        };
        Component { part, presence, detail, allows }
    }

    fn scaler(&self) -> Component {
        let part = Part::Scaler;
        let found = self.find(
            &["scaler."],
            &["scaler", "amp_scaler", "grad_scaler", "MixedPrecision", "MixedPrecisionPlugin"],
            &["scaler", "loss_scale"],
        );
        let is_half = self.checkpoint.tensors.iter().any(|tensor| {
            tensor.section == Section::Model
                && tensor.tensor.as_ref().is_ok_and(|tensor| tensor.dtype == DType::F16)
        });
        let (presence, detail, allows) = match found {
            Some(place) => (Presence::Present, place, Exactness::Bit),
            None if is_half => {
                let detail = "the loss scale starts at its default, and steps are skipped until it fits";
                (Presence::Missing, detail.to_owned(), Exactness::Numeric)
            }
            None => (Presence::NotNeeded, "only fp16 keeps one".to_owned(), Exactness::Bit),
        };
        Component { part, presence, detail, allows }
    }

    fn random_states(&self) -> Component {
        let files = ["rng_state", "random_states_"];
        let keys = ["rng", "rng_state", "rng_states", "random_state", "torch_rng_state"];
        let found = self.find(&files, &keys, &["random", "random_states", "rng"]);
        let (presence, detail, allows) = match found {
            Some(place) => (Presence::Present, place, Exactness::Bit),
            None => {
                (Presence::Missing, "dropout and shuffling draw other numbers".to_owned(), Exactness::Numeric)
            }
        };
        Component { part: Part::RandomStates, presence, detail, allows }
    }

    fn data_position(&self) -> Component {
        let part = Part::DataPosition;
        let component =
            |presence, detail: &str, allows| Component { part, presence, detail: detail.to_owned(), allows };
        if let Some(place) = self.find(
            &["dl_state_dict", "sampler."],
            &["dataset_state", "data_state", "dataloader"],
            &["data", "data_position"],
        ) {
            return component(Presence::Present, &place, Exactness::Bit);
        }
        match self.checkpoint.layout {
            Layout::HfTrainer => match &self.epoch {
                Ok(Some(epoch)) if epoch.fract() == 0.0 => component(
                    Presence::Present,
                    "trainer_state.json stands at the end of an epoch",
                    Exactness::Bit,
                ),
                Ok(Some(_)) => component(
                    Presence::Partial,
                    "mid-epoch: random states are set after the first fetch",
                    Exactness::Numeric,
                ),
                Ok(None) => {
                    component(Presence::Missing, "trainer_state.json says no epoch", Exactness::Numeric)
                }
                Err(reason) => {
                    let detail = format!("trainer_state.json cannot be read: {reason}");
                    component(Presence::Missing, &detail, Exactness::Numeric)
                }
            },
            Layout::Lightning => component(
                Presence::Partial,
                "the loops count batches; only a stateful loader goes on where it was",
                Exactness::Numeric,
            ),
            _ => component(
                Presence::Missing,
                "other batches come next, or the same ones again",
                Exactness::Numeric,
            ),
        }
    }

    fn progress(&self) -> Component {
        let part = Part::Progress;
        match (self.checkpoint.step, &self.checkpoint.step_source) {
            (Some(step), Some(place)) => Component {
                part,
                presence: Presence::Present,
                detail: format!("step {step} by {place}"),
                allows: Exactness::Bit,
            },
            _ => Component {
                part,
                presence: Presence::Missing,
                detail: "nothing says how many steps were taken".to_owned(),
                allows: Exactness::Restart,
            },
        }
    }

    /// What does not change a step as long as the program is started as before.
    fn config(&self) -> Component {
        let keys = ["config", "args", "model_args", "hyper_parameters", "hparams"];
        let beside_run = self.checkpoint.layout == Layout::RunDirectory
            && self.checkpoint.path.parent().is_some_and(|run| run.join("run.json").is_file());
        let found = self.find(&["training_args.bin", "config.json"], &keys, &["config"]);
        let found = found.or_else(|| beside_run.then(|| "run.json".to_owned()));
        let (presence, detail) = match found {
            Some(place) => (Presence::Present, place),
            None => (Presence::Missing, "start the program with the arguments it had".to_owned()),
        };
        Component { part: Part::Config, presence, detail, allows: Exactness::Bit }
    }
}

/// The keys of a single file's object that hold something: `lr_schedulers` of Lightning is there also when there are none.
fn root_keys(checkpoint: &Checkpoint, context: &Context) -> BTreeSet<String> {
    if checkpoint.path.is_dir() {
        return BTreeSet::new();
    }
    let Some(file) = checkpoint.files.first() else { return BTreeSet::new() };
    let Ok(container) = detect::read_file(&file.input, context) else { return BTreeSet::new() };
    let Some(objects) = container.objects else { return BTreeSet::new() };
    let entries = objects.root.and_then(|root| objects.entries(root)).unwrap_or_default();
    let holds = |value| {
        let empty =
            objects.entries(value).map(<[_]>::is_empty).or(objects.sequence(value).map(<[_]>::is_empty));
        empty != Some(true) && !matches!(objects.node(value), crate::format::Node::None)
    };
    let keys = entries.iter().filter(|&&(_, value)| holds(value));
    keys.filter_map(|&(key, _)| objects.text(key).map(str::to_owned)).collect()
}

/// What `trainer_state.json` says under `epoch`.
fn epoch_in(directory: &Path, context: &Context) -> Result<Option<f64>> {
    let file = open_sibling(directory, TRAINER_STATE, context)?;
    if file.len() > MAX_STATE_BYTES {
        let kind = ErrorKind::TooLarge { what: TRAINER_STATE, actual: file.len(), limit: MAX_STATE_BYTES };
        return Err(kind.in_file(file.path()));
    }
    let mut buffer = Vec::new();
    Ok(log::outermost_number(file.bytes(0..file.len(), &mut buffer)?, "epoch"))
}
