//! What a repair changes, tensor by tensor and number by number.

use serde::Serialize;

use crate::tensor::DType;

/// Kinds of edits: a closed list (section 4 of the risk catalogue).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// Optimizer state that is not finite, or that no gradients give, is treated as never having been.
    DropNonFinite,
    /// m, v and the step counter back to zero, together.
    ResetMoments,
    /// Every learning rate times one factor: of the groups, of the schedule.
    LearningRate,
    /// ε of every group.
    Epsilon,
    /// β₂ of every group; second moments are not rescaled.
    Beta2,
    /// Queries and keys of heads whose logits are too large, times √γ each.
    QkClip,
    /// A map times limit/σ₁.
    SpectralClip,
    /// Weights and moments as the mean over the ranks that should hold the same.
    SyncReplicas,
    /// Another element type.
    Cast,
}

/// One edit of one kind.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Edit {
    /// Its kind.
    pub action: Action,
    /// What it does, in one sentence.
    pub what: String,
    /// Why, a sentence each: findings, or that it was asked for.
    pub why: Vec<String>,
    /// The network computes something else afterwards, beyond the rounding of a cast.
    pub changes_function: bool,
    /// The tensors it changes.
    pub tensors: Vec<TensorEdit>,
    /// The numbers it changes.
    pub numbers: Vec<NumberEdit>,
    /// Tensors that it adds.
    pub added: Vec<AddedTensor>,
}

/// One tensor changed.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct TensorEdit {
    /// Its name as stored.
    pub tensor: String,
    /// The file that holds it.
    pub file: String,
    /// What becomes of its elements.
    pub operation: Operation,
    /// Its index in the checkpoint.
    #[serde(skip)]
    pub index: usize,
}

/// What becomes of the elements of a tensor; each result is rounded once, to nearest and even, in the dtype stored.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Operation {
    /// Every element is 0.
    Zero,
    /// Every element times `factor`.
    Scale {
        /// The factor.
        factor: f64,
        /// The largest singular value that is asked for.
        limit: f64,
    },
    /// Elements by their index along one axis, times the factor of its range; the others stay.
    ScaleRanges {
        /// The axis.
        axis: usize,
        /// The ranges.
        ranges: Vec<ScaledRange>,
    },
    /// The mean of this copy and those of other ranks, summed in f64 in the order of the ranks.
    Average {
        /// Copies, this one included.
        copies: u64,
    },
    /// The same numbers in another dtype.
    Cast {
        /// Which.
        to: DType,
    },
}

/// A range along an axis and its factor.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ScaledRange {
    /// First index.
    pub from: u64,
    /// One past the last.
    pub to: u64,
    /// The factor.
    pub factor: f64,
}

/// One number changed.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct NumberEdit {
    /// Where it stands: `param_groups[0].lr`.
    pub name: String,
    /// The file.
    pub file: String,
    /// What it was.
    pub from: f64,
    /// What it is.
    pub to: f64,
    /// Where it is written.
    #[serde(skip)]
    pub at: NumberAt,
}

/// Where a number is written.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum NumberAt {
    /// Nowhere that is known.
    #[default]
    Nowhere,
    /// In a tensor of one element, by its index in the checkpoint.
    Tensor(usize),
    /// In the pickle of a file, by the file's index and the bytes of the opcode.
    Pickled {
        /// Index of the file.
        file: usize,
        /// First byte, from the start of the pickle.
        start: u32,
        /// One past the last.
        end: u32,
    },
    /// In `state.json`, by JSON pointer.
    Json(String),
}

/// A step counter that the state did not have.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct AddedTensor {
    /// Its name: one F32 element, 0.
    pub tensor: String,
    /// The file it is added to.
    pub file: String,
    /// Index of that file in the checkpoint.
    #[serde(skip)]
    pub file_index: usize,
}

/// What would help and is not done unasked.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Proposal {
    /// What, in one sentence.
    pub what: String,
    /// Why, a sentence each.
    pub why: Vec<String>,
    /// The argument that asks for it; none where the training has to be changed, not the checkpoint.
    pub ask: Option<String>,
}
