//! Singular values: of weights as matrices, of convolutions as operators, of attention heads as the forms they are.

use serde::{Deserialize, Deserializer, Serialize};

use super::{Measured, not_in_the_file};

/// The singular values of one tensor's map.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Spectrum {
    /// What the singular values are of.
    pub of: SpectrumOf,
    /// Numbers the map gives.
    pub rows: u64,
    /// Numbers the map takes.
    pub columns: u64,
    /// How they were computed.
    pub method: SpectrumMethod,
    /// σ₁.
    pub spectral_norm: SpectralNorm,
    /// √Σσ².
    pub frobenius_norm: f64,
    /// Σσ²/σ₁²: 1 for a map of one direction, at most the shorter side.
    pub stable_rank: f64,
    /// The largest singular values, largest first.
    pub largest: Vec<f64>,
    /// All singular values, largest first.
    pub values: Measured<Vec<f64>>,
    /// How far they may be off by rounding: this times σ₁²/σ for the Gram matrix, but at most its root times σ₁; this times σ₁
    /// otherwise.
    pub rounding: Measured<f64>,
    /// The smallest singular value, where it is above the error.
    pub smallest: Measured<f64>,
    /// σ₁/σ_min.
    pub condition: Measured<f64>,
    /// exp(−Σ p ln p) with p = σ/Σσ (Roy and Vetterli 2007).
    pub effective_rank: Measured<f64>,
    /// Population variance of σ² over the square of its mean: 0 for an orthogonal map, short/long side for a Gaussian one.
    pub spread: Measured<f64>,
    /// Where the singular values lie.
    pub density: Measured<Density>,
    /// What of the spectrum is noise.
    pub marchenko_pastur: Measured<MarchenkoPastur>,
    /// The metrics of WeightWatcher by its own definitions and names.
    pub weight_watcher: Measured<WeightWatcher>,
    /// Largest |eigenvalue| of a square recurrence: the growth of each step where nothing saturates.
    pub spectral_radius: Measured<f64>,
    /// The matrices that are stored as one: query, key and value, experts, gates.
    pub parts: Vec<SpectrumPart>,
}

/// The spectrum of a change ΔW, against the leading singular vectors u and v of the W that changed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ChangeSpectrum {
    /// σ₁(ΔW).
    pub spectral_norm: SpectralNorm,
    /// σ₁(ΔW) over σ₁(W).
    pub relative_spectral_norm: Measured<f64>,
    /// ‖ΔW‖²_F/σ₁(ΔW)²: 1 for a change along one direction.
    pub stable_rank: f64,
    /// |cos| between ΔW's leading vectors and u, and v.
    pub alignment: Measured<[f64; 2]>,
    /// uᵀΔWv over σ₁(W): by what share σ₁ grew, to first order.
    pub growth: Measured<f64>,
}

/// What singular values are of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum SpectrumOf {
    /// The matrix as stored.
    Matrix,
    /// A convolution as the map between whole images or sequences.
    Convolution(ConvolutionSetting),
    /// Experts of one layer, each with an input of its own.
    Experts,
}

/// What a convolution's weight does not say of its operator.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ConvolutionSetting {
    /// Sizes of the input.
    pub input: Vec<u64>,
    /// Beyond the edge is the opposite edge, and not zeros: the value of large inputs, usually above that of zeros.
    pub circular: bool,
    /// Inputs and outputs are one channel each.
    pub depthwise: bool,
    /// σ₁ of the matrix that the kernel is when it is unfolded: below that of the operator.
    pub unfolded: f64,
    /// Distance between neighbouring outputs, for each axis; empty in files of earlier builds, which took 1.
    #[serde(default)]
    pub stride: Vec<u64>,
    /// Zeros before and after the input, for each axis; round the edge nothing depends on it.
    #[serde(default)]
    pub padding: Vec<u64>,
    /// Distance between neighbouring taps, for each axis.
    #[serde(default)]
    pub dilation: Vec<u64>,
    /// Groups of channels that do not meet; 0 in files of earlier builds.
    #[serde(default)]
    pub groups: u64,
    /// Where each of these comes from.
    #[serde(default)]
    pub sources: GeometrySources,
    /// Outputs that share no input, where there are none that do: the map is so many times the same one, and what is reported is of one.
    #[serde(default)]
    pub blocks: Option<u64>,
    /// The largest singular value over all frequencies with the opposite edge beyond inputs that are larger by the reach of the kernel: σ₁
    /// with zeros beyond the edge is not above it.
    #[serde(default = "not_in_the_file::<f64>")]
    pub fourier_bound: Measured<f64>,
}

/// Where the geometry of a convolution comes from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct GeometrySources {
    /// The sizes of the input.
    pub input: GeometrySource,
    /// The stride.
    pub stride: GeometrySource,
    /// The padding.
    pub padding: GeometrySource,
    /// The dilation.
    pub dilation: GeometrySource,
    /// The groups.
    pub groups: GeometrySource,
}

/// Where a number of a convolution's geometry comes from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum GeometrySource {
    /// Nothing says it: stride 1, outputs of the size of the input, no dilation, one group, or one filter a channel of a kernel with one
    /// input channel that is not the first convolution.
    #[default]
    Assumed,
    /// The config of the network.
    Config,
    /// The shapes of the layers around it.
    Shapes,
    /// The command line.
    Flag,
}

/// How singular values were computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum SpectrumMethod {
    /// Eigenvalues of the Gram matrix in f64: all of them.
    Gram,
    /// Householder's bidiagonalisation: all of them, the smallest too.
    Bidiagonal,
    /// Golub–Kahan–Lanczos, or on a GPU Lanczos with blocks of eight vectors: the largest.
    Lanczos,
    /// One row or one column: its norm.
    Direct,
}

/// The largest singular value and what is certain of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct SpectralNorm {
    /// The best value, and the lower end of the bracket.
    pub value: f64,
    /// The upper end of the bracket.
    pub upper: Measured<f64>,
    /// How often the upper end fails, at most; 0 where it holds but for rounding.
    pub failure_probability: f64,
    /// There is a singular value within this distance of `value`.
    pub residual: f64,
    /// Pairs of products with the map and its transpose, of a vector each, or on a GPU of a block of eight.
    pub steps: u64,
}

/// A matrix within a tensor: queries, keys and values, an expert, or a gate of a recurrence.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct SpectrumPart {
    /// `query`, `key`, `value`; `expert 0`; `i`, `f`, `g`, `o` or `r`, `z`, `n` of the gates of LSTM and GRU in the order of PyTorch.
    pub name: String,
    /// Its rows, as stored.
    pub rows: u64,
    /// Its columns, as stored.
    pub columns: u64,
    /// σ₁.
    pub spectral_norm: SpectralNorm,
    /// √Σσ².
    pub frobenius_norm: f64,
    /// Σσ²/σ₁².
    pub stable_rank: f64,
    /// Largest |eigenvalue| of a gate.
    #[serde(default = "not_in_the_file::<f64>")]
    pub spectral_radius: Measured<f64>,
}

/// Where singular values lie.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Density {
    /// Quantiles of σ at 0, 1/(n−1), …, 1 of the singular values.
    pub quantiles: Vec<f64>,
    /// The quantiles are of all singular values; otherwise they are an estimate by stochastic Lanczos quadrature.
    pub is_exact: bool,
}

/// A spectrum held against that of noise (Marchenko and Pastur 1967).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct MarchenkoPastur {
    /// Standard deviation of the elements of the noise that fits the bulk.
    pub sigma: f64,
    /// The largest singular value that such noise has.
    pub edge: f64,
    /// Singular values beyond the edge by more than it fluctuates.
    pub spikes: u64,
    /// The edge of σ² over σ₁²: `mp_softrank`.
    pub softrank: f64,
}

/// Metrics of WeightWatcher 0.7 over λ = σ², by its definitions and names.
///
/// A power law fits most tails somehow: `alpha` means nothing without `D`, `num_pl_spikes` and `sigma`, and below 50 values in the tail
/// it is mostly noise.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct WeightWatcher {
    /// Exponent of the power law of the tail.
    pub alpha: Measured<f64>,
    /// Kolmogorov–Smirnov distance of the tail from the law.
    #[serde(rename = "D")]
    pub distance: Measured<f64>,
    /// Eigenvalues in the tail.
    pub num_pl_spikes: Measured<u64>,
    /// Standard error of alpha.
    pub sigma: Measured<f64>,
    /// Where the tail begins.
    pub xmin: Measured<f64>,
    /// alpha·log10 λ_max.
    pub alpha_weighted: Measured<f64>,
    /// log10 Σ λ^alpha.
    pub log_alpha_norm: Measured<f64>,
    /// log10 Σλ.
    pub log_norm: f64,
    /// λ_max = σ₁².
    pub spectral_norm: f64,
    /// log10 λ_max.
    pub log_spectral_norm: f64,
    /// Σλ/λ_max.
    pub stable_rank: f64,
    /// Singular values above σ₁·N·ε, N the longer side and ε that of f64.
    #[serde(deserialize_with = "rank_of_any_age")]
    pub matrix_rank: Measured<u64>,
    /// −Σ p ln p / ln rank with p = λ/Σλ.
    pub entropy: Measured<f64>,
}

/// A rank, which measurement files of earlier builds hold as a plain number.
fn rank_of_any_age<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Measured<u64>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Rank {
        Plain(u64),
        Measured(Measured<u64>),
    }
    Ok(match Rank::deserialize(deserializer)? {
        Rank::Plain(rank) => Measured::Value(rank),
        Rank::Measured(rank) => rank,
    })
}

/// Attention of one layer, head by head, from its weights alone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct AttentionAnalysis {
    /// The layer's path: that of the module that holds the projections.
    pub layer: String,
    /// Index of the block in the stack, where the name has one.
    pub index: Option<u64>,
    /// The tensor of the queries, or of queries, keys and values at once.
    pub tensor: String,
    /// Longest context, where the config says so.
    pub context: Option<u64>,
    /// Numbers per head.
    pub head_width: u64,
    /// The norm gains that enter, by name; none where no norm was found before the layer, and 1 is taken.
    pub norm: Option<String>,
    /// Queries and keys are normalised in each head.
    pub normalises_queries: bool,
    /// Queries and keys are rotated by their positions, so that the bound holds for every rotation.
    pub rotates: bool,
    /// The heads, in order.
    pub heads: Vec<HeadAnalysis>,
}

/// One head's form `x·W_qᵀ·W_k·y/√d`, norm gains included, for inputs of a norm layer: |x| = √width.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct HeadAnalysis {
    /// Standard deviation of the logits of independent inputs: ‖M‖_F/√d.
    pub logit_std: f64,
    /// No logit is larger, biases of keys left out, which no softmax sees.
    pub logit_bound: f64,
    /// −Σ p ln p with p = σ²/Σσ² of M.
    pub spectral_entropy: f64,
    /// Share of ln T that the entropy of attention over the longest context T has if logits are independent and normal.
    pub predicted_entropy: Measured<f64>,
}

/// A low-rank adapter: the product of its two halves.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct AdapterAnalysis {
    /// The layer that it adapts.
    pub layer: String,
    /// The tensors A and B.
    pub tensors: [String; 2],
    /// Rank of the product by its shapes.
    pub rank: u64,
    /// σ₁ of B·A, without the adapter's factor, which the weights do not hold.
    pub spectral_norm: f64,
    /// √Σσ² of B·A.
    pub frobenius_norm: f64,
    /// Σσ²/σ₁².
    pub stable_rank: f64,
}
