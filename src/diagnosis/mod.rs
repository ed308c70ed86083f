//! From findings and series to one story: onset, mechanism, tensor, last healthy state, what to do.
//!
//! Pure functions over what was measured and found; overrides no severity, touches no file.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::rules::{Confidence, Evidence};

/// What happened to a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Diagnosis {
    /// The kind of failure.
    pub mechanism: Mechanism,
    /// The parameter it began in, by its canonical name; `None` where it began everywhere at once.
    pub tensor: Option<String>,
    /// The step at which it began, as well as it can be told.
    pub onset_step: Option<u64>,
    /// The steps between which it began: checkpoints or log points that bracket it.
    pub onset_interval: Option<[u64; 2]>,
    /// Name of the newest checkpoint to go back to.
    pub last_healthy: Option<String>,
    /// Its step.
    pub last_healthy_step: Option<u64>,
    /// How far to trust the mechanism.
    pub confidence: Confidence,
    /// The story, one sentence a line, in order of time.
    pub story: Vec<String>,
    /// The numbers it stands on.
    pub evidence: Vec<Evidence>,
    /// What speaks against it.
    pub against: Vec<String>,
    /// The next most likely mechanism.
    pub runner_up: Option<RunnerUp>,
    /// Tensors ranked, the most suspect first.
    pub suspects: Vec<Suspect>,
    /// What to do, in order.
    pub actions: Vec<Action>,
}

/// Kinds of failure: a closed list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "each variant is its own name; docs/postmortem.md explains them")]
pub enum Mechanism {
    GradientSpike,
    LearningRate,
    NoWarmup,
    RecurrentGain,
    InitGain,
    ZeroInit,
    AttentionLogits,
    OutputLogits,
    SecondMomentDecoupled,
    Epsilon,
    StateLost,
    LowPrecisionState,
    Fp16Overflow,
    NonFinite,
    DeadUnits,
    Frozen,
    AccumulationChange,
    ScheduleBreak,
    ReplicaDrift,
    /// Nothing is wrong.
    None,
    /// Something is, and what is kept does not show what.
    Unknown,
}

/// A mechanism that was considered and not chosen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RunnerUp {
    /// Which.
    pub mechanism: Mechanism,
    /// The parameter it would have begun in.
    pub tensor: Option<String>,
    /// What speaks for it.
    pub reason: String,
    /// What speaks against it.
    pub against: String,
}

/// How suspect one parameter is, on each side.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Suspect {
    /// Its canonical name.
    pub tensor: String,
    /// Gradient side: its interval gradient over its own trailing median.
    pub gradient_ratio: Option<f64>,
    /// Update side: its relative change over that of the other parameters.
    pub change_ratio: Option<f64>,
    /// Geometry side: how far its weights left the others of their role.
    pub geometry_ratio: Option<f64>,
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Action {
    /// What, in one sentence.
    pub what: String,
    /// Commands or configuration lines that do it, each with the framework it is for.
    pub snippets: Vec<Snippet>,
}

/// Text to copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Snippet {
    /// Where it goes: `shell`, `PyTorch`, `Hugging Face Trainer`, …
    pub place: String,
    /// The text.
    pub text: String,
}
