//! What people call a checkpoint: its layout, its tensors with canonical names, layers and roles, its config as data.

pub mod names;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How the files of a checkpoint are laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Layout {
    /// One file of tensors.
    SingleFile,
    /// An index and its shards.
    Sharded,
    /// A directory as the Hugging Face Trainer writes it.
    HfTrainer,
    /// A directory with a model file and perhaps a config.
    ModelDirectory,
    /// A checkpoint of flashpoint's own run directory.
    RunDirectory,
}

/// What part of the training state a tensor is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
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

/// The layer a tensor belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Layer {
    /// The module's path: the canonical name without its last component.
    pub path: String,
    /// Index of the block in the stack, where the name has one.
    pub index: Option<u64>,
    /// Position in forward order, as far as names tell it; ties keep file order.
    pub order: u64,
}
