//! Jacobians: of a network's operations, of its blocks and of the whole, at the states that a probe drives it through.
//!
//! Every number here belongs to a probe, a length and a precision, which stand beside it: values of other settings are not
//! comparable.

use serde::{Deserialize, Serialize};

use super::{DType, Density, Measured, SpectralNorm};

/// Everything measured about the Jacobians of one checkpoint's network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct JacobianAnalysis {
    /// What the network was built as: `gpt2`, `llama`, `sequential`.
    pub architecture: String,
    /// Where it was measured, and how.
    pub setting: JacobianSetting,
    /// The GPU that ran the network, `NVIDIA H200 (cuda:0)`; none where the processor did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// Parameters of the checkpoint that the network does not use.
    pub unused: Vec<String>,
    /// What nothing in the checkpoint says and was taken for granted, a sentence each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub assumptions: Vec<String>,
    /// Operations, branches and blocks, in the order in which signals pass them.
    pub parts: Vec<PartJacobian>,
    /// From the first hidden state to the last.
    pub end_to_end: Measured<PartJacobian>,
    /// The same of the architecture as it is initialised, at the same probe.
    pub initial: Measured<InitialGain>,
    /// What has become of the first hidden state at each depth, and of the last one's gradient.
    pub depths: Measured<Vec<DepthGain>>,
    /// Recurrences, over the steps they are unrolled.
    pub recurrences: Vec<RecurrenceAnalysis>,
}

/// The probe, the length and the precision that Jacobians belong to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct JacobianSetting {
    /// What the network was run on.
    pub probe: ProbeKind,
    /// The file of the probe, by its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// Sizes of one input, the length of a sequence first.
    pub shape: Vec<u64>,
    /// Length of a sequence, for networks that take one. Values of other lengths are not comparable.
    pub tokens: Measured<u64>,
    /// Inputs that were drawn or read.
    pub draws: u64,
    /// Seed of everything random.
    pub seed: u64,
    /// Precision of the products; sums of them and the bases are in f64.
    pub dtype: DType,
    /// Pairs of products that singular values were sought with.
    pub pairs: u64,
    /// Random vectors that the rest of the Frobenius norm was estimated with.
    pub probes: u64,
    /// What goes back through the depths.
    pub gradient: GradientSource,
}

/// Which gradients of the last state go back through the depths of a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum GradientSource {
    /// Random ones.
    Random,
    /// Those of the probe's labels: by cross-entropy where they are classes, by the mean squared error where they are numbers.
    Labels,
}

/// What a network was run on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum ProbeKind {
    /// Token ids at random, through the model's own embedding: a synthetic probe.
    SyntheticTokens,
    /// Standard normal features, as they are after preprocessing: a synthetic probe.
    SyntheticFeatures,
    /// Inputs of a file.
    Data,
}

impl ProbeKind {
    /// Whether no data was seen.
    pub fn is_synthetic(self) -> bool {
        self != ProbeKind::Data
    }
}

/// A quantity over the draws of a probe.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Spread {
    /// Its mean.
    pub mean: f64,
    /// Its sample standard deviation; 0 for one draw.
    pub standard_deviation: f64,
    /// The least.
    pub least: f64,
    /// The most.
    pub most: f64,
}

impl Spread {
    /// Over `values`; `None` for none.
    pub fn of(values: &[f64]) -> Option<Self> {
        let first = *values.first()?;
        let count = values.len() as f64;
        let mean = values.iter().sum::<f64>() / count;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        let standard_deviation = if values.len() > 1 { (squares / (count - 1.0)).sqrt() } else { 0.0 };
        let least = values.iter().copied().fold(first, f64::min);
        let most = values.iter().copied().fold(first, f64::max);
        Some(Self { mean, standard_deviation, least, most })
    }

    /// Whether all of its numbers are: the square of a deviation may leave the range of f64 where the values do not.
    pub fn is_finite(&self) -> bool {
        [self.mean, self.standard_deviation, self.least, self.most].iter().all(|number| number.is_finite())
    }
}

/// What a part of a network is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum PartKind {
    /// One operation.
    Operation,
    /// The attention branch of a block: norm, attention, projection, without the shortcut.
    Attention,
    /// The feed-forward branch of a block, without the shortcut.
    FeedForward,
    /// Another branch beside a shortcut.
    Branch,
    /// A block as a whole, with its shortcuts.
    Block,
    /// From the first hidden state to the last.
    Network,
}

/// The Jacobian of one part of a network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct PartJacobian {
    /// Its name: `block 3`, `block 3 attention`, `h.3.attn.c_proj`.
    pub name: String,
    /// What it is.
    pub kind: PartKind,
    /// The block it belongs to, from 0.
    pub block: Option<u64>,
    /// Numbers it gives.
    pub rows: u64,
    /// Numbers it takes.
    pub columns: u64,
    /// σ₁ over the draws.
    pub spectral_norm: Measured<Spread>,
    /// ‖J‖_F/√rows over the draws: by how much independent small changes of the input grow in root mean square. Its square is
    /// the averaged partial Jacobian norm, the measured χ of mean-field theory.
    pub gain: Measured<Spread>,
    /// ‖J‖²_F/σ₁² over the draws: how many directions carry the gain.
    pub stable_rank: Measured<Spread>,
    /// Root mean square of what goes in, over the draws.
    pub input_rms: Measured<Spread>,
    /// Root mean square of what comes out, over the draws.
    pub output_rms: Measured<Spread>,
    /// The two ways through an attention.
    pub paths: Measured<AttentionPaths>,
    /// Each draw by itself.
    pub draws: Vec<Measured<JacobianSpectrum>>,
}

/// The Jacobian of an attention branch taken apart: with the softmax held still, and through the softmax alone.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct AttentionPaths {
    /// σ₁ through the values, the weights of the softmax held still; mean of the draws.
    pub value: f64,
    /// σ₁ through queries and keys, the values held still; mean of the draws.
    pub softmax: f64,
}

/// The singular values of a Jacobian at one input.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct JacobianSpectrum {
    /// σ₁.
    pub spectral_norm: SpectralNorm,
    /// The largest singular values that are known to a hundredth, largest first.
    pub largest: Vec<f64>,
    /// √Σσ².
    pub frobenius_norm: Estimated,
    /// Σσ²/σ₁².
    pub stable_rank: f64,
    /// The mean of ln σ over all singular values.
    pub mean_logarithm: Measured<f64>,
    /// The smallest singular value.
    pub smallest: Measured<f64>,
    /// Population variance of σ² over the square of its mean: 0 for an isometry.
    pub spread: Measured<f64>,
    /// Where the singular values lie.
    pub density: Measured<Density>,
}

/// A value and the standard error of its estimate.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Estimated {
    /// The value.
    pub value: f64,
    /// Its standard error; 0 where it is exact.
    pub standard_error: f64,
}

/// The end-to-end Jacobian of the architecture with weights as it is initialised.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct InitialGain {
    /// How the weights were drawn.
    pub scheme: String,
    /// σ₁ over the draws.
    pub spectral_norm: Spread,
    /// ‖J‖_F/√rows over the draws.
    pub gain: Spread,
}

/// What a small change of the first hidden state has become at one depth, and a small gradient of the last one's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct DepthGain {
    /// The block before this depth.
    pub name: String,
    /// The block's index, from 0.
    pub block: u64,
    /// ‖dh_l/dh_0‖_F/√N_l over the draws.
    pub from_input: Measured<Spread>,
    /// ‖dh_L/dh_l ᵀ·u‖/‖u‖ over the draws: by how much a gradient of the last state has grown when it arrives here.
    pub gradient: Measured<Spread>,
    /// σ₁ of the map from the first state to this depth, over the draws.
    pub spectral_norm: Measured<Spread>,
    /// Root mean square of the state here, over the draws.
    pub state_rms: Measured<Spread>,
}

/// A recurrence over the steps it is unrolled.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct RecurrenceAnalysis {
    /// Its layer: `lstm layer 0`.
    pub name: String,
    /// Numbers of its state.
    pub state: u64,
    /// What it does at each scale of its input.
    pub scales: Vec<RecurrenceAtScale>,
}

/// A recurrence driven by inputs of one scale.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct RecurrenceAtScale {
    /// Factor of the probe.
    pub scale: f64,
    /// Steps that were averaged over.
    pub steps: u64,
    /// Steps before them, in which directions and state settled.
    pub transient: u64,
    /// The largest Lyapunov exponents, largest first: growth of a small change of the state a step, as a logarithm.
    pub exponents: Vec<Measured<Estimated>>,
    /// σ₁ of the state's Jacobian of one step, over steps.
    pub step_norm: Measured<Spread>,
}

/// What measuring Jacobians takes, before it starts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct JacobianCost {
    /// Blocks, or layers where there are none.
    pub blocks: u64,
    /// Parts that are measured, operations and branches and blocks.
    pub parts: u64,
    /// Numbers of the first hidden state.
    pub state: u64,
    /// Products with a Jacobian or its transpose.
    pub products: u64,
    /// Floating-point operations.
    pub operations: u64,
    /// Bytes of parameters that are in memory at once, with those of the architecture as it is initialised.
    pub parameter_bytes: u64,
    /// Whether these are all parameters; otherwise those of one block, for each draw that is at work.
    pub is_resident: bool,
    /// Bytes of activations.
    pub activation_bytes: u64,
    /// Bytes of the vectors that Lanczos keeps and of the matrices that are formed, on all threads.
    pub vector_bytes: u64,
}

impl JacobianCost {
    /// Bytes in all.
    pub fn bytes(&self) -> u64 {
        self.parameter_bytes.saturating_add(self.activation_bytes).saturating_add(self.vector_bytes)
    }
}
