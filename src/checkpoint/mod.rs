//! What people call a checkpoint: its layout, its tensors with canonical names, layers and roles, its config as data.
//!
//! Computes no statistic. How files belong together is in `layout/`, what part of the training state a tensor is in
//! `section.rs`, what its name says in `names/`. Conventions and their reasons: `docs/formats.md`.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::context::Context;
use crate::error::{Error, ErrorKind, Result};
use crate::files::InputFile;
use crate::format::{Danger, Format, GlobalUse, MAX_TENSORS};
use crate::tensor::{Kind, Listed, Tensor};

mod json;
mod layout;
mod masters;
pub mod names;
pub mod optimizer;
mod section;
mod step;
mod ties;

pub(crate) use layout::{MAX_STATE_BYTES, TRAINER_STATE};
use layout::{Part, Parts};
pub use names::{Glob, NameRules};
use names::{Named, Subject};
use optimizer::{Candidate, Candidates, ImpossibleNumber, OptimizerState, Schedule, UnfilledOptimizer};
use section::Placed;
use ties::tie;

/// One state of a training run, or what is left of it.
#[derive(Debug)]
pub struct Checkpoint {
    /// The path's last components, never absolute: `run/checkpoint-400`, or a file's name.
    pub name: String,
    /// The path as the user named it.
    pub path: PathBuf,
    /// How its files are laid out.
    pub layout: Layout,
    /// Optimizer steps taken, where the checkpoint says so.
    pub step: Option<u64>,
    /// The place that says so, for people: a key of a file, a name, the optimizer's state.
    pub step_source: Option<String>,
    /// The files that were read.
    pub files: Vec<CheckpointFile>,
    /// Every tensor, file by file and in file order, then those that only an index names.
    pub tensors: Vec<CheckpointTensor>,
    /// What is wrong with files or with the whole. What is wrong with one tensor is in that tensor.
    pub problems: Vec<Error>,
    /// Classes and functions that pickles name and that are not on the allow-list, each with the index of its file.
    pub globals: Vec<(usize, GlobalUse)>,
    /// Text metadata of its files, such as safetensors' `__metadata__`; of the later file where two say one key.
    pub metadata: BTreeMap<String, String>,
    /// Every optimizer whose state is there.
    pub optimizers: Vec<OptimizerState>,
    /// Places for the state of an optimizer that hold none.
    pub unfilled: Vec<UnfilledOptimizer>,
    /// The learning rates that every scheduler whose state is there reads back.
    pub schedules: Vec<Schedule>,
    /// Their numbers that no training goes on from, and those of loss scalers; `None` where there is none of these.
    pub impossible: Option<Vec<ImpossibleNumber>>,
    /// The f32 master weights of tensors of the model, where an optimizer keeps them: both as indices into `tensors`.
    pub masters: BTreeMap<usize, usize>,
    /// The architecture's `config.json`, where there is one.
    pub config: Option<BTreeMap<String, serde_json::Value>>,
}

/// One file of a checkpoint.
#[derive(Debug)]
pub struct CheckpointFile {
    /// Its name in the checkpoint.
    pub name: String,
    /// Its format.
    pub format: Format,
    /// Its length.
    pub bytes: u64,
    /// Data bytes that no tensor refers to.
    pub uncovered: Vec<Range<u64>>,
    /// The file itself, to ask at the end whether it is still the same.
    pub input: Arc<InputFile>,
}

/// One tensor of a checkpoint.
#[derive(Debug)]
pub struct CheckpointTensor {
    /// Its name as stored, untrusted text; behind that of its file, where several files of a model repeat each other's names.
    pub name: String,
    /// Its name without the containers and wrappers around it: the key that series join on.
    pub canonical_name: String,
    /// Index of the file that holds it. `None` where an index names it and its shard is missing.
    pub file: Option<usize>,
    /// What part of the training state it is.
    pub section: Section,
    /// Its layer.
    pub layer: Layer,
    /// What it does in its layer.
    pub role: Role,
    /// The tensor, or why it cannot be read.
    pub tensor: Listed,
    /// Name of the first tensor with the same bytes and view, where this one is tied to it.
    pub tied_to: Option<String>,
}

/// How the files of a checkpoint are laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Layout {
    /// One file of tensors.
    SingleFile,
    /// An index and its shards.
    Sharded,
    /// A directory as the Hugging Face Trainer writes it.
    HfTrainer,
    /// A directory as accelerate's `save_state` writes it.
    Accelerate,
    /// One file of Lightning's.
    Lightning,
    /// One file of nanoGPT's.
    NanoGpt,
    /// One file of timm's.
    Timm,
    /// One file with a dict of model and optimizer.
    TrainingDict,
    /// One file with a `torch.nn.Module` and its class.
    SavedModule,
    /// A directory with a model file and perhaps a config.
    ModelDirectory,
    /// A checkpoint of flashpoint's own run directory.
    RunDirectory,
}

/// What part of the training state a tensor is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Section {
    /// The model itself.
    Model,
    /// An averaged copy of the model.
    Average,
    /// Optimizer moments, steps, master weights.
    Optimizer,
    /// Schedulers, scalers, random states, samplers and whatever else was saved.
    Other,
}

/// What a tensor does in its layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs, reason = "each variant is its own name")]
pub enum Role {
    TokenEmbedding,
    PositionEmbedding,
    AttentionQuery,
    AttentionKey,
    AttentionValue,
    AttentionOutput,
    AttentionQkv,
    MlpIn,
    MlpGate,
    MlpOut,
    Linear,
    Convolution,
    RecurrentInput,
    RecurrentHidden,
    OutputHead,
    Expert,
    Router,
    LoraA,
    LoraB,
    NormGain,
    NormBias,
    Bias,
    Buffer,
    OptimizerState,
    Other,
}

impl Role {
    /// Whether it is that of one of the two factors of a low-rank adapter.
    pub fn is_adapter(self) -> bool {
        matches!(self, Role::LoraA | Role::LoraB)
    }
}

/// The layer a tensor belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Layer {
    /// The module's path: the canonical name without its last component.
    pub path: String,
    /// Index of the block in the stack, where the name has one.
    pub index: Option<u64>,
    /// Position in forward order, as far as names tell it; ties keep file order.
    pub order: u64,
}

/// The step that the name of a file or directory gives, and whether the number can only be a step: that of `ckpt_3.pt`
/// may as well be an epoch.
pub fn step_in_name(path: &Path) -> Option<(u64, bool)> {
    step::in_name(path).map(|claim| (claim.step, claim.certain))
}

/// Why the directory at `path` is no checkpoint that is read, by the names in it alone: a kind that is not read, or one
/// that its writer has not finished. `None` where nothing rules it out.
pub fn refusal(path: &Path) -> Option<Error> {
    layout::refusal(path)
}

impl Checkpoint {
    /// Reads the checkpoint at `path`: a file, an index of shards, or a directory.
    ///
    /// Only names, shapes and places are read, no element, but where two shards hold a tensor of the same name, and the
    /// step counters of optimizers.
    ///
    /// # Errors
    /// When nothing can be read, or there is no tensor, or the directory holds several checkpoints. Everything less is
    /// in [`Checkpoint::problems`] and in the tensors.
    pub fn read(path: &Path, names: &NameRules, context: &Context) -> Result<Self> {
        let Parts { layout, files, absent, mut claims, mut problems, config, hyperparameters } =
            layout::read(path, context)?;
        let mut tensors: Vec<CheckpointTensor> = Vec::new();
        let mut labels = Vec::with_capacity(files.len());
        let mut read = Vec::with_capacity(files.len());
        let mut globals = Vec::new();
        let mut metadata = BTreeMap::new();
        let mut optimizers = Vec::new();
        let mut unfilled = Vec::new();
        let mut schedules = Vec::new();
        let mut budget = optimizer::Budget::default();
        let mut impossible: Option<Vec<ImpossibleNumber>> = None;
        for (index, Part { name, section, input, container, label }) in files.into_iter().enumerate() {
            let places = section::place(&container, section);
            let found = optimizer::read(&container, &name, index, tensors.len(), &mut budget);
            optimizers.extend(found.optimizers);
            unfilled.extend(optimizer::unfilled(&container, &name, section == Some(Section::Optimizer)));
            problems.extend(found.problem.map(|kind| kind.in_file(input.path())));
            if section == Some(Section::Optimizer) && container.objects.is_none() {
                let told = hyperparameters.as_ref();
                let steps = claims.first().map(|claim| claim.step);
                optimizers.extend(optimizer::read_named(
                    &container,
                    &name,
                    index,
                    tensors.len(),
                    told,
                    steps,
                ));
            }
            schedules.extend(found.schedules);
            if let Some(numbers) = found.impossible {
                impossible.get_or_insert_default().extend(numbers);
            }
            problems.extend(container.problems);
            metadata.extend(container.metadata);
            globals.extend(container.globals.into_iter().map(|global| (index, global)));
            let entries = container.entries.into_iter().zip(places);
            tensors
                .extend(entries.map(|(entry, place)| unnamed(entry.name, place, Some(index), entry.tensor)));
            labels.push(label);
            let (bytes, uncovered) = (input.len(), container.uncovered);
            read.push(CheckpointFile { name, format: container.format, bytes, uncovered, input });
        }
        tensors.extend(absent.into_iter().map(|(name, error)| {
            let place = Placed { section: Section::Model, name: name.clone() };
            unnamed(name, place, None, Err(Box::new(error)))
        }));
        if tensors.len() as u64 > MAX_TENSORS {
            return Err(ErrorKind::TooMany { what: "tensors", limit: MAX_TENSORS }.in_file(path));
        }
        if tensors.is_empty() {
            // What a pickle would run is worth a report of its own, also where it holds nothing else.
            if !globals.iter().any(|(_, found)| found.danger == Danger::Dangerous) {
                return Err(problems
                    .into_iter()
                    .next()
                    .unwrap_or_else(|| ErrorKind::NoTensors.in_file(path)));
            }
            if problems.is_empty() {
                problems.push(ErrorKind::NoTensors.in_file(path));
            }
        }
        name_all(&mut tensors, &labels, names);
        tie(&mut tensors);
        claims.extend(step::in_optimizers(&optimizers));
        let (claim, disagreement) = step::settle(path, &claims);
        problems.extend(disagreement);
        join_optimizers(&mut optimizers, &tensors, &read);
        let masters = masters::join(&optimizers, &tensors);
        let (rates, schedules) = schedules.into_iter().unzip();
        attach_schedules(&mut optimizers, rates);
        let path = path.to_owned();
        Ok(Self {
            name: short_name(&path),
            path,
            layout,
            step: claim.as_ref().map(|claim| claim.step),
            step_source: claim.map(|claim| claim.place),
            files: read,
            tensors,
            problems,
            globals,
            metadata,
            optimizers,
            unfilled,
            schedules,
            impossible,
            masters,
            config,
        })
    }
}

/// A tensor that has its section but not yet its names: until [`name_all`], its canonical name is the one in its section.
fn unnamed(name: String, place: Placed, file: Option<usize>, tensor: Listed) -> CheckpointTensor {
    CheckpointTensor {
        name,
        canonical_name: place.name,
        file,
        section: place.section,
        layer: Layer { path: String::new(), index: None, order: 0 },
        role: if place.section == Section::Optimizer { Role::OptimizerState } else { Role::Other },
        tensor,
        tied_to: None,
    }
}

/// Gives every tensor its canonical name, layer and role. The model and its averaged copy are each named as a whole, and so
/// is each of several parts that are told apart, by the labels of their files.
fn name_all(tensors: &mut [CheckpointTensor], labels: &[Option<String>], rules: &NameRules) {
    let label_of = |file: Option<usize>| file.and_then(|file| labels[file].as_deref());
    let mut wholes: BTreeMap<(Section, Option<&str>), Vec<usize>> = BTreeMap::new();
    let mut others = Vec::new();
    for (index, tensor) in tensors.iter().enumerate() {
        if [Section::Model, Section::Average].contains(&tensor.section) {
            wholes.entry((tensor.section, label_of(tensor.file))).or_default().push(index);
        } else {
            others.push(index);
        }
    }
    let mut last = 0;
    for members in wholes.into_values() {
        let subjects: Vec<Subject<'_>> = members.iter().map(|&index| tensors[index].subject()).collect();
        let named = names::assign(&subjects, rules);
        for (index, Named { canonical_name, layer, role }) in members.into_iter().zip(named) {
            last = last.max(layer.order + 1);
            let tensor = &mut tensors[index];
            (tensor.canonical_name, tensor.layer, tensor.role) = (canonical_name, layer, role);
        }
    }
    // What is not of the model has no names to read: its layer is its path, after all layers of the model.
    for index in others {
        let path = names::module(&tensors[index].canonical_name).to_owned();
        tensors[index].layer = Layer { path, index: None, order: last };
    }
    for tensor in tensors {
        let Some(label) = label_of(tensor.file) else { continue };
        for text in [&mut tensor.name, &mut tensor.canonical_name, &mut tensor.layer.path] {
            *text = format!("{label}/{text}");
        }
    }
}

/// Joins every optimizer to the model's parameters.
fn join_optimizers(
    optimizers: &mut [OptimizerState],
    tensors: &[CheckpointTensor],
    files: &[CheckpointFile],
) {
    if optimizers.is_empty() {
        return;
    }
    let parameters: Vec<(usize, &CheckpointTensor, &Tensor)> = tensors
        .iter()
        .enumerate()
        .filter(|(_, tensor)| tensor.is_parameter())
        .filter_map(|(index, named)| Some((index, named, named.tensor.as_ref().ok()?)))
        .collect();
    // A safetensors file is sorted by name; a pickled state dict keeps the order of registration.
    let in_order = parameters
        .iter()
        .all(|(_, named, _)| named.file.is_some_and(|file| files[file].format != Format::Safetensors));
    let candidates: Vec<Candidate> = parameters
        .into_iter()
        .map(|(index, named, tensor)| Candidate {
            index,
            names: [named.name.clone(), named.canonical_name.clone()],
            shape: tensor.shape.clone(),
        })
        .collect();
    let mut candidates = Candidates::new(&candidates, in_order);
    for optimizer in optimizers {
        let shapes: Vec<_> = optimizer.parameters.iter().map(|state| moment_shape(state, tensors)).collect();
        optimizer::map(optimizer, &shapes, &mut candidates);
    }
}

impl CheckpointTensor {
    fn subject(&self) -> Subject<'_> {
        let tensor = self.tensor.as_ref().ok();
        let shape = tensor.map(|tensor| tensor.shape.as_slice());
        Subject { name: &self.canonical_name, shape, dtype: tensor.map(|tensor| tensor.dtype) }
    }

    /// The tensor, unless it cannot be read.
    ///
    /// # Errors
    /// Why not.
    pub fn readable(&self) -> Result<&Tensor> {
        self.tensor.as_ref().map_err(|error| Error::clone(error))
    }

    /// Whether training adjusts it: a floating tensor of the model that is no buffer, counted once where tied.
    pub fn is_parameter(&self) -> bool {
        self.section == Section::Model
            && self.role != Role::Buffer
            && self.tied_to.is_none()
            && self.tensor.as_ref().is_ok_and(|tensor| tensor.dtype.kind() == Kind::Float)
    }
}

/// The shape of a parameter, by what is stored for it element by element.
fn moment_shape(state: &optimizer::ParameterState, tensors: &[CheckpointTensor]) -> Option<Vec<u64>> {
    let moments = [state.exp_avg, state.exp_avg_sq, state.momentum_buffer, state.square_avg];
    let tensor = tensors[moments.into_iter().flatten().next()?].tensor.as_ref().ok()?;
    Some(tensor.shape.clone())
}

/// Gives optimizers their schedulers' learning rates, where it is plain which belongs to which.
fn attach_schedules(optimizers: &mut [OptimizerState], schedules: Vec<Vec<f64>>) {
    if optimizers.len() != schedules.len() {
        return;
    }
    for (optimizer, rates) in optimizers.iter_mut().zip(schedules) {
        optimizer.scheduled = (rates.len() == optimizer.groups.len()).then_some(rates);
    }
}

/// The last component of a file's path, the last two of a directory's.
fn short_name(path: &Path) -> String {
    let resolved = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let own = if path.is_dir() { 2 } else { 1 };
    // A link into a hub cache resolves to a digest, which nobody recognises.
    let named = if path.file_name().is_some() && own == 1 { path } else { resolved.as_path() };
    let mut components: Vec<_> = named
        .components()
        .rev()
        .filter_map(|component| match component {
            std::path::Component::Normal(text) => Some(text.to_string_lossy()),
            _ => None,
        })
        .take(own)
        .collect();
    components.reverse();
    components.join("/")
}
