//! Optimizer state as it was saved: hyperparameters, moments, steps, and which parameter each belongs to.
//!
//! Plain data. What torch's `Optimizer.state_dict()` holds is found and read in `read.rs`, named in `algorithm.rs`,
//! and joined to the model's tensors in `mapping.rs`: the state itself only numbers its parameters.

use serde::{Deserialize, Serialize};

mod algorithm;
mod exchanged;
mod impossible;
mod mapping;
mod named;
mod place;
mod read;
mod registration;
pub(super) mod scalar;
#[cfg(test)]
mod tests;
mod unfilled;

pub use impossible::{ImpossibleNumber, Range};
pub(super) use mapping::{Candidate, Candidates, map};
pub(super) use named::{Hyperparameters, read as read_named};
pub use place::{Hyperparameter, Place, Quantity, Schedule};
pub(super) use read::{Budget, read};
pub(super) use unfilled::unfilled;
pub use unfilled::{Nothing, UnfilledOptimizer};

/// One optimizer of a checkpoint.
#[derive(Debug, Clone, PartialEq)]
pub struct OptimizerState {
    /// Where it was found: the file, and the keys that lead to it.
    pub place: String,
    /// Which algorithm its state is that of.
    pub algorithm: Algorithm,
    /// Its groups of parameters.
    pub groups: Vec<ParameterGroup>,
    /// The state of each parameter, group by group, in the order of the groups' lists.
    pub parameters: Vec<ParameterState>,
    /// Keys of what is stored as the state of a parameter that no group lists.
    pub orphans: Vec<String>,
    /// How its parameters were joined to the model's tensors.
    pub mapping: Mapping,
    /// States that lie under one another's parameters.
    pub misplaced: Misplaced,
    /// Learning rate per group by the scheduler saved beside it, where there is exactly one.
    pub scheduled: Option<Vec<f64>>,
    /// Index of the file that holds it.
    pub file: usize,
    /// The numbers of its groups that training reads back, and where they are written.
    pub hyperparameters: Vec<Hyperparameter>,
}

/// The optimizers whose state is recognised.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Algorithm {
    /// Adam: a weight decay is an L2 penalty and goes through the moments.
    Adam,
    /// `AdamW`: the weight decay passes the moments by.
    AdamW,
    /// One of both; torch before 2.7 does not say which.
    AdamLike,
    /// SGD, with or without momentum.
    Sgd,
    /// `RMSprop`.
    RmsProp,
    /// Adafactor: a factored second moment.
    Adafactor,
    /// Lion: a first moment only.
    Lion,
    /// Adagrad.
    Adagrad,
    /// Moments in 8 bits with a codebook (bitsandbytes).
    EightBit,
    /// None of these; the keys of its state.
    Unknown {
        /// Sorted.
        keys: Vec<String>,
    },
}

/// Hyperparameters of one group. `None` is what the group does not say, or says in no finite number.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ParameterGroup {
    /// Learning rate of the next step.
    pub learning_rate: Option<f64>,
    /// Decay of the first moment, `betas[0]`.
    pub beta1: Option<f64>,
    /// Decay of the second moment, `betas[1]`.
    pub beta2: Option<f64>,
    /// ε in the denominator.
    pub epsilon: Option<f64>,
    /// Weight decay.
    pub weight_decay: Option<f64>,
    /// Momentum of SGD and `RMSprop`.
    pub momentum: Option<f64>,
    /// Dampening of SGD.
    pub dampening: Option<f64>,
    /// Decay of `RMSprop`'s mean square.
    pub alpha: Option<f64>,
    /// Whether the denominator is the largest second moment so far.
    pub amsgrad: bool,
    /// Number of parameters.
    pub parameters: u64,
}

/// What is stored for one parameter. Tensors are indices into [`Checkpoint::tensors`](super::Checkpoint::tensors).
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ParameterState {
    /// Its key in the state: a number, an address, or a name.
    pub key: String,
    /// Index of its group.
    pub group: usize,
    /// Its name, where the group lists names or the key is one.
    pub name: Option<String>,
    /// The model's tensor it belongs to.
    pub parameter: Option<usize>,
    /// Steps taken.
    pub step: Option<f64>,
    /// Where its own counter is written; `None` where it has none, or shares one.
    pub step_place: Option<Place>,
    /// Whether anything is stored: a parameter that never had a gradient has no state.
    pub stored: bool,
    /// Adam's m, Lion's momentum.
    pub exp_avg: Option<usize>,
    /// Adam's v.
    pub exp_avg_sq: Option<usize>,
    /// AMSGrad's largest v.
    pub max_exp_avg_sq: Option<usize>,
    /// SGD's or `RMSprop`'s buffer.
    pub momentum_buffer: Option<usize>,
    /// `RMSprop`'s mean square, Adagrad's sum of squares.
    pub square_avg: Option<usize>,
    /// The mean gradient of a centered `RMSprop`.
    pub grad_avg: Option<usize>,
    /// The f32 master weights, where the model holds roundings of them.
    pub master: Option<usize>,
    /// What decodes 8-bit codes in `exp_avg` and `exp_avg_sq`: a codebook and the scales of the blocks, of each.
    pub codebooks: [Codebook; 2],
}

/// What turns the 8-bit codes of one moment into numbers. Tensors as in [`ParameterState`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Codebook {
    /// The value of each code (`qmap1`, `qmap2`).
    pub values: Option<usize>,
    /// The largest magnitude of each block (`absmax1`, `absmax2`).
    pub scales: Option<usize>,
}

/// States that lie under one another's parameters: each has the shape of another parameter among them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Misplaced {
    /// Indices of the model's tensors, with the shape of the moments that are kept for each.
    pub states: Vec<(usize, Vec<u64>)>,
    /// Whether names say whose state each is. Where they do not, it is the order of the model's parameters.
    pub by_name: bool,
}

/// How an optimizer's parameters were joined to the model's tensors.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Mapping {
    /// What the joining stands on.
    pub source: MappingSource,
    /// Every joined pair has equal shapes, and the shapes admit no other pairs. False where no moments are stored to compare, and
    /// where parts of the model could change places unseen: then the pairs stand on the assumed order alone.
    pub confirmed_by_shapes: bool,
    /// Parameters that could not be joined.
    pub refused: u64,
    /// Why they could not.
    pub reason: Option<String>,
}

/// What a mapping stands on, the most trustworthy first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum MappingSource {
    /// The groups list their parameters' names.
    ParamNames,
    /// The state's keys are names.
    Fqn,
    /// Several groups, each in the order in which modules register their parameters.
    FrameworkOrder,
    /// One group, in the order in which modules register their parameters.
    NamedParametersOrder,
    /// Shapes that occur once.
    SoleShapes,
    /// Nothing.
    Refused,
}

impl Algorithm {
    /// Whether m and v are Adam's moments. Of the 8-bit optimizers only those with two states are measured as such.
    pub fn is_adam(&self) -> bool {
        matches!(self, Algorithm::Adam | Algorithm::AdamW | Algorithm::AdamLike | Algorithm::EightBit)
    }
}

impl Mapping {
    fn refused(parameters: usize, reason: impl Into<String>) -> Self {
        Self {
            source: MappingSource::Refused,
            confirmed_by_shapes: false,
            refused: parameters as u64,
            reason: Some(reason.into()),
        }
    }
}
