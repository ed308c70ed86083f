//! What was measured about optimizer state.

use serde::{Deserialize, Serialize};

use super::{DType, Layer, Measured, Role};
pub use crate::checkpoint::optimizer::{
    Algorithm, ImpossibleNumber, Mapping, MappingSource, Nothing, ParameterGroup, Range, UnfilledOptimizer,
};

/// Everything measured about the optimizers of one checkpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct OptimizerAnalysis {
    /// The optimizers, in the order in which they were found.
    pub optimizers: Vec<OptimizerSummary>,
    /// Their parameters.
    pub parameters: Vec<ParameterOptimizer>,
    /// The spike that all parameters that can be dated agree on.
    pub spike: Measured<Spike>,
}

/// Which parameters the optimizers of one checkpoint list, and of which of them they keep state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct StateCoverage {
    /// The optimizers, in the order in which they were found.
    pub optimizers: Vec<OptimizerCoverage>,
    /// Tensors of the model that no optimizer lists; not measured where it is not known which tensors they list.
    pub unlisted: Measured<Vec<String>>,
    /// Places for the state of an optimizer that hold none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unfilled: Vec<UnfilledOptimizer>,
}

/// What one optimizer lists, and what it keeps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct OptimizerCoverage {
    /// Where it was found.
    pub place: String,
    /// Its algorithm.
    pub algorithm: Algorithm,
    /// Whether any of its groups has a momentum other than 0, or decays of averages (`betas`): it then keeps averages of each parameter.
    #[serde(default, alias = "momentum")]
    pub averages: bool,
    /// Parameters that its groups list, each counted once.
    pub listed: u64,
    /// Those of them that have state.
    pub stored: u64,
    /// Parameters that stand more than once in its groups.
    pub repeated: Vec<RepeatedParameter>,
    /// Keys of states that no group lists.
    pub orphans: Vec<String>,
    /// Tensors of the model that it lists and keeps no state of, where it is known which they are.
    pub without_state: Vec<String>,
    /// Whether it has no group of parameters at all.
    #[serde(default)]
    pub groupless: bool,
    /// Parameters whose two moments have different shapes.
    #[serde(default)]
    pub uneven: Vec<UnevenMoments>,
    /// States that lie under one another's parameters: each has the shape of another parameter among them.
    #[serde(default)]
    pub misplaced: Vec<MisplacedState>,
    /// Whether names say whose state each of the misplaced ones is. Where they do not, it is the order of the model's parameters.
    #[serde(default)]
    pub misplaced_by_name: bool,
}

/// A parameter whose two moments have different shapes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct UnevenMoments {
    /// Its tensor's name, or its key in the state.
    pub parameter: String,
    /// Shape of the first moment.
    pub first: Vec<u64>,
    /// Shape of the second moment.
    pub second: Vec<u64>,
}

/// The state of one parameter in the shape of another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct MisplacedState {
    /// The model's tensor.
    pub parameter: String,
    /// Its shape.
    pub shape: Vec<u64>,
    /// The shape of the moments that are kept for it.
    pub moments: Vec<u64>,
}

/// A parameter that stands more than once in the groups of one optimizer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct RepeatedParameter {
    /// Its key in the state, or its name where the groups list names.
    pub key: String,
    /// The groups, one for each time.
    pub groups: Vec<u64>,
}

/// One optimizer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct OptimizerSummary {
    /// Where it was found.
    pub place: String,
    /// Its algorithm.
    pub algorithm: Algorithm,
    /// How its parameters were joined to the model's tensors.
    pub mapping: Mapping,
    /// Its groups.
    pub groups: Vec<ParameterGroup>,
    /// Learning rate per group by the scheduler saved with it.
    pub scheduled: Measured<Vec<f64>>,
    /// RMS over recent steps of the norm of the whole gradient.
    pub gradient_norm: Measured<f64>,
    /// ‖m̂‖²/Σv̂ over all parameters.
    pub signal_fraction: Measured<f64>,
}

/// The state of one parameter.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ParameterOptimizer {
    /// Index of its optimizer.
    pub optimizer: u64,
    /// Index of its group in the optimizer.
    pub group: u64,
    /// The model's tensor by its name as stored, or, where it is not known, what leads to the state.
    pub name: String,
    /// What is known of the model's tensor; `None` where it is not known which one it is.
    pub tensor: Option<MappedTensor>,
    /// Its shape, by its moments.
    pub shape: Vec<u64>,
    /// Number of elements.
    pub elements: u64,
    /// Steps taken.
    pub step: Option<f64>,
    /// Element type of the first moment.
    pub first_moment: Option<DType>,
    /// Element type of the second moment.
    pub second_moment: Option<DType>,
    /// Elements that no history of gradients gives (I1).
    pub defects: Measured<Defects>,
    /// Largest |m|/√v over what any history of gradients allows (I2).
    pub bound_ratio: Measured<f64>,
    /// How far `bound_ratio` may exceed 1 by rounding alone.
    pub bound_tolerance: f64,
    /// Whether the step counter agrees with the moments at their first step (C8).
    pub first_step: Measured<FirstStep>,
    /// Σv: what the energy of an interval is made of (I4).
    #[serde(default = "super::not_in_the_file::<f64>")]
    pub second_moment_sum: Measured<f64>,
    /// RMS over recent steps of the norm of its gradient (I5).
    pub gradient_norm: Measured<f64>,
    /// The same per element: √(Σv̂/n).
    pub gradient_rms: Measured<f64>,
    /// Steps that the RMS effectively averages over.
    pub effective_steps: Measured<f64>,
    /// ‖m̂‖²/Σv̂: 1 for a constant gradient, `noise_floor` for noise (I6).
    pub signal_fraction: Measured<f64>,
    /// The fraction that uncorrelated gradients give.
    pub noise_floor: Measured<f64>,
    /// Share of the gradient's energy that is its mean.
    pub signal_share: Measured<f64>,
    /// RMS of u = m̂/(√v̂+ε) (C3).
    pub update_rms: Measured<f64>,
    /// The largest RMS of u that any history of gradients allows.
    pub update_bound: Measured<f64>,
    /// η‖u‖/‖w‖ (C7).
    pub update_ratio: Measured<f64>,
    /// √mean(v̂) over the elements whose v is not zero (C4).
    pub denominator_rms: Measured<f64>,
    /// Elements with √v̂ < ε.
    pub below_epsilon: Measured<u64>,
    /// Elements that are stepped by their sign although their gradient is nothing but rounding: √v̂ < 1e-12, |u| > ½ (C5).
    pub sign_steps: Measured<u64>,
    /// Rows, and rows whose every v is exactly zero (D8).
    pub rows: Measured<SecondMomentRows>,
    /// The one gradient that dominates its moments, dated (I7).
    pub spike: Measured<SpikeAge>,
    /// Factor by which that gradient inflates √v, and so shortens steps (C12).
    pub inflation: Measured<f64>,
    /// Share of elements that the next update leaves unchanged in bf16 (A6).
    pub stuck_share: Measured<f64>,
}

/// The model's tensor that a state belongs to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct MappedTensor {
    /// Its canonical name.
    pub canonical_name: String,
    /// Its layer.
    pub layer: Layer,
    /// Its role.
    pub role: Role,
    /// Its element type.
    pub dtype: DType,
}

/// Elements of moments that no history of gradients gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Defects {
    /// Non-finite elements of first moments and momentum buffers.
    pub non_finite_first: u64,
    /// Non-finite elements of second moments.
    pub non_finite_second: u64,
    /// Negative elements of second moments.
    pub negative_second: u64,
    /// Non-finite elements of AMSGrad's largest second moments.
    #[serde(default)]
    pub non_finite_maximum: u64,
    /// Elements of AMSGrad's largest second moments that are smaller than the second moment itself.
    #[serde(default)]
    pub below_second: u64,
}

/// What the state says about being at its first step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum FirstStep {
    /// No contradiction.
    Consistent,
    /// There is no step counter, although there are moments.
    Missing,
    /// The counter is 0, although the moments are not.
    Zero,
    /// The counter is 1, and |m|/√v is not the one value it has after one step.
    NotTheFirst,
}

/// Rows of a matrix of second moments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct SecondMomentRows {
    /// Rows.
    pub count: u64,
    /// Rows of zeros.
    pub zero: u64,
}

/// A dominant gradient of the past, dated by the coordinates with the largest v.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct SpikeAge {
    /// Steps since.
    pub age: f64,
    /// Interquartile range of the coordinates' ages.
    pub spread: f64,
    /// Coordinates asked.
    pub coordinates: u64,
    /// Norm of that gradient, if all of Σv is its: an upper bound.
    pub gradient_norm: f64,
}

/// A spike that parameters agree on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Spike {
    /// Steps since: the median of the parameters' ages.
    pub age: f64,
    /// The parameter whose √v it inflates most.
    pub name: String,
    /// Parameters that date it.
    pub parameters: u64,
    /// The largest inflation of √v among them.
    pub inflation: f64,
}

/// A tensor of the model, and the master weights that it is the rounding of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct MasterAnalysis {
    /// Name of the model's tensor.
    pub tensor: String,
    /// Name of its master.
    pub master: String,
    /// Element types of both.
    pub dtypes: [DType; 2],
    /// How far one is from the other.
    pub rounding: Measured<MasterRounding>,
}

/// |w − master|, in spacings of the dtype of w at the master.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct MasterRounding {
    /// Elements.
    pub elements: u64,
    /// Those that are the same in both.
    pub equal: u64,
    /// Those farther than half a spacing: no cast to nearest.
    pub beyond_half: u64,
    /// Those farther than a spacing: no cast at all.
    pub beyond_one: u64,
    /// The largest distance; the largest of all numbers where only one of both is finite.
    pub largest: f64,
}
