//! What was measured about a run as a whole: the intervals between its checkpoints, its gradient dumps, its log.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{ChangeSpectrum, DType, Layer, Measured, Role, Section};
pub use crate::history::{LogSemantics, LogSource, Number, Remark, RemarkKind};

/// The run that checkpoints, dumps and logs belong to.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Run {
    /// The path's last component, never absolute.
    pub name: String,
    /// The last step that was looked at, where the user asked to stop there.
    pub until: Option<u64>,
    /// The clipping threshold that a config says, where the run has no log whose semantics have it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clip_threshold: Option<f64>,
    /// What was taken for what, and what was left out, in the order in which it was found.
    pub remarks: Vec<Remark>,
}

/// What happened to the tensors between two checkpoints.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct IntervalAnalysis {
    /// Name of the earlier checkpoint.
    pub from: String,
    /// Name of the later one.
    pub to: String,
    /// Step of the earlier checkpoint.
    pub from_step: u64,
    /// Step of the later one.
    pub to_step: u64,
    /// Every tensor of the model that both have, in the later one's order.
    pub tensors: Vec<TensorInterval>,
    /// Parameters that only one has, or that changed shape: `(canonical name, what)`.
    pub unmatched: Vec<(String, String)>,
}

/// What happened to one parameter between two checkpoints, k optimizer steps apart.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct TensorInterval {
    /// Its name in the later checkpoint.
    pub name: String,
    /// The name both are joined by.
    pub canonical_name: String,
    /// Its layer.
    pub layer: Layer,
    /// Its role.
    pub role: Role,
    /// Number of elements.
    pub elements: u64,
    /// The fp32 master weights of the optimizer were compared, not the stored weights.
    pub from_master: bool,
    /// RMS(w) at the later checkpoint.
    pub weight_rms: Measured<f64>,
    /// RMS(Δw), less what rounding to the stored dtype alone would give.
    pub change_rms: Measured<f64>,
    /// RMS(Δw)/RMS(w), w at the earlier checkpoint.
    pub relative_change: Measured<f64>,
    /// ln(‖w_{t+k}‖/‖w_t‖)/k, per step.
    pub growth_rate: Measured<f64>,
    /// Optimizer steps k between the two states, by the parameter's own counter.
    pub steps: Measured<f64>,
    /// ΣE_k = (Σv_{t+k} − β₂^k Σv_t)/(1−β₂): discounted energy of the interval's gradients (I4).
    pub energy: Measured<f64>,
    /// RMS over the interval of the norm of its gradient: √(ΣE_k·(1−β₂)/(1−β₂^k)).
    pub gradient_norm: Measured<f64>,
    /// `gradient_norm` over the median of those of up to eight intervals before.
    pub gradient_ratio: Measured<f64>,
    /// `relative_change` per √step over the median of those of up to eight intervals before.
    pub change_ratio: Measured<f64>,
    /// Σv_{t+k}/(β₂^k Σv_t): 1 when no gradient arrived at all (C2).
    pub decay_ratio: Measured<f64>,
    /// Share of the elements with v_t > 0 whose v did nothing but decay (I3).
    pub floor_share: Measured<f64>,
    /// Share of the elements whose v fell below free decay: the state was replaced in between (I3).
    pub below_floor_share: Measured<f64>,
    /// cos(Δw, −m/√v) for the state the mapping gives (I9).
    pub mapping_cosine: Measured<f64>,
}

/// A replica of a checkpoint, by another rank, against the lowest rank's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ReplicaAnalysis {
    /// Its name.
    pub name: String,
    /// Name of the lowest rank's checkpoint.
    pub against: String,
    /// The step of both.
    pub step: u64,
    /// Tensors that both have in one shape and that were compared element by element.
    pub compared: u64,
    /// Those whose bits differ.
    pub differing: Vec<TensorDifference>,
    /// Tensors that could not be compared, and why.
    pub not_compared: Vec<(String, String)>,
}

/// One tensor at two places: two checkpoints, two ranks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct TensorDifference {
    /// Its name in the second.
    pub name: String,
    /// The name both are joined by.
    pub canonical_name: String,
    /// What part of the training state it is.
    pub section: Section,
    /// Its layer.
    pub layer: Layer,
    /// Its role.
    pub role: Role,
    /// Number of elements.
    pub elements: u64,
    /// Element types in the first and in the second.
    pub dtypes: [DType; 2],
    /// ‖Δ‖.
    pub difference: Measured<f64>,
    /// ‖Δ‖ over the norm of the first.
    pub relative_difference: Measured<f64>,
    /// Cosine of the two.
    pub cosine: Measured<f64>,
    /// Largest |Δ|.
    pub largest_difference: Measured<f64>,
    /// Elements whose values differ.
    pub changed: u64,
    /// Elements that are NaN or infinite in either; the numbers above but `changed` are over the others.
    pub non_finite: u64,
    /// Elements that are NaN or infinite in the first, and in the second; absent in files from before they were told apart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub non_finite_each: Option<[u64; 2]>,
    /// The singular values of Δ, of a matrix that changed.
    #[serde(default = "super::not_in_the_file::<ChangeSpectrum>")]
    pub spectrum: Measured<ChangeSpectrum>,
}

/// Two checkpoints compared.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Difference {
    /// Name of the first.
    pub before: String,
    /// Name of the second.
    pub after: String,
    /// Their steps, where they say so.
    pub steps: [Option<u64>; 2],
    /// Every tensor both have in one shape, in the second's order.
    pub tensors: Vec<TensorDifference>,
    /// Tensors of which only the first has one.
    pub missing: Vec<String>,
    /// Tensors of which only the second has one.
    pub new: Vec<String>,
    /// Tensors whose shape changed, and both shapes.
    pub reshaped: Vec<Reshaped>,
    /// Tensors that could not be compared, and why.
    pub not_compared: Vec<(String, String)>,
}

/// A tensor of another shape.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Reshaped {
    /// Its canonical name.
    pub name: String,
    /// Its shapes.
    pub shapes: [Vec<u64>; 2],
}

/// One gradient dump.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct DumpAnalysis {
    /// Its file or directory, in the run.
    pub name: String,
    /// The step that applied this gradient.
    pub step: u64,
    /// Whether it was taken after clipping, where it says so.
    pub clipped: Option<bool>,
    /// Whether the loss scale is divided out, where it says so.
    pub unscaled: Option<bool>,
    /// Number of micro-batches it is the mean of.
    pub accumulation: Option<u64>,
    /// The rank that wrote it.
    pub rank: Option<u64>,
    /// Norm over all parameters.
    pub norm: Measured<f64>,
    /// Every parameter's gradient, in forward order.
    pub tensors: Vec<DumpTensor>,
    /// (Δgᵀ Δw)/(Δwᵀ Δw) against the dump before, where the weights at both are there (C1).
    pub secant: Measured<f64>,
    /// The same as Adam's preconditioner sees it, where its state is there too (C1, C2).
    #[serde(default = "super::not_in_the_file::<Sharpness>")]
    pub preconditioned: Measured<Sharpness>,
    /// RMS of the gradient of the first layer's maps over that of the last one's (D8).
    #[serde(default = "super::not_in_the_file::<f64>")]
    pub first_last_ratio: Measured<f64>,
    /// Factor by which that RMS changes from one layer to the next deeper one.
    #[serde(default = "super::not_in_the_file::<f64>")]
    pub depth_gain: Measured<f64>,
    /// Cosine between this gradient and the one clipped parameter by parameter, each to the run's threshold over the square
    /// root of their number. Clipping by the norm of the whole keeps the direction.
    #[serde(default = "super::not_in_the_file::<f64>")]
    pub clip_cosine: Measured<f64>,
}

/// Curvature along the line between two dumps, in the metric of Adam's denominators P = √v̂ + ε.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Sharpness {
    /// (Δgᵀ Δw)/(Δwᵀ P Δw): at most the largest eigenvalue of P⁻¹H, where both gradients are of one batch.
    pub value: f64,
    /// (2+2β₁)/((1−β₁)η): that eigenvalue's limit of stability.
    pub edge: f64,
    /// The step by which it reaches the limit if second moments do nothing but decay from here on (C2).
    pub edge_step: Measured<u64>,
}

/// What clipping to the run's threshold does to the mean of the gradients that were dumped.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ClippingAnalysis {
    /// The threshold, by the run's config or log.
    pub threshold: f64,
    /// Dumps of gradients before clipping, whose norm is known.
    pub dumps: u64,
    /// Those of them above the threshold.
    pub clipped: u64,
    /// Every parameter, in forward order; none where no dump is above the threshold, as nothing is clipped then.
    pub tensors: Vec<ClippedTensor>,
}

/// One parameter's mean gradient, clipped and not.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ClippedTensor {
    /// Its name in the dumps.
    pub name: String,
    /// The name series join on.
    pub canonical_name: String,
    /// cos(Σcₜgₜ, Σgₜ) over the dumps, cₜ = min(1, τ/‖gₜ‖) by the norm of the whole: 1 where clipping only shortens the mean.
    pub cosine: Measured<f64>,
}

/// The gradient of one parameter.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct DumpTensor {
    /// Its name in the dump.
    pub name: String,
    /// The name series join on.
    pub canonical_name: String,
    /// Its layer.
    pub layer: Layer,
    /// Its role.
    pub role: Role,
    /// Number of elements.
    pub elements: u64,
    /// Elements that are NaN or infinite.
    pub non_finite: u64,
    /// L2 norm of the finite elements.
    pub norm: Measured<f64>,
    /// Largest |g|.
    pub max_abs: Measured<f64>,
}

/// Everything the logs of a run say, by step, read with their semantics.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct LogAnalysis {
    /// Where it was read.
    pub sources: Vec<LogSource>,
    /// One point a logged step, by ascending step.
    pub points: Vec<LogPoint>,
    /// What the numbers mean.
    pub semantics: LogSemantics,
    /// Stretches in which the loss scale fell again and again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scale_falls: Vec<ScaleFall>,
    /// What happened where the divisor of gradients changed, or may have.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub accumulation_changes: Vec<AccumulationChange>,
    /// The step at which the first rise of the learning rate ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warmup_end: Option<u64>,
}

impl LogAnalysis {
    /// For each point whether mixed precision skipped its step: the log says so, or the loss scale is lower from there on.
    pub fn skips(&self) -> Vec<bool> {
        let scales: Vec<(usize, f64)> = self
            .points
            .iter()
            .enumerate()
            .filter_map(|(at, point)| Some((at, point.loss_scale?.finite()?)))
            .collect();
        let skipped = |(own, point): (usize, &LogPoint)| {
            let first = self.points.partition_point(|other| other.step < point.step);
            let (earlier, later) = scales.split_at(scales.partition_point(|(at, _)| *at < first));
            // Some log the scale before the step, some after it, and it may have been doubled between.
            let here = scales.binary_search_by_key(&own, |(at, _)| *at).ok().map(|found| scales[found].1);
            let before = earlier.last().map(|(_, scale)| *scale).into_iter().chain(here).reduce(f64::max);
            let after = later.iter().take(2).map(|(_, scale)| *scale).fold(f64::INFINITY, f64::min);
            point.skipped || before.is_some_and(|before| after < before)
        };
        self.points.iter().enumerate().map(skipped).collect()
    }
}

/// A stretch of falls of the loss scale without a rise between.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ScaleFall {
    /// The last logged step before the first fall.
    pub since: u64,
    /// Step of the first fall.
    pub first_step: u64,
    /// Step of the last one.
    pub last_step: u64,
    /// Halvings in all.
    pub halvings: u64,
    /// Scale before the first.
    pub from: f64,
    /// Scale after the last.
    pub to: f64,
    /// It begins with the run: the search for a scale to start from.
    pub initial: bool,
}

/// A step at which accumulation, world size or batch changed, another attempt or log began, or norm or loss went to another
/// level from one point to the next and stayed there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct AccumulationChange {
    /// The step.
    pub step: u64,
    /// By what the divisor changed, where the log says it.
    pub factor: Option<f64>,
    /// Median norm of the points behind over that of the points before.
    pub grad_norm_ratio: Option<f64>,
    /// Median distance of ln(norm) from its median before: how far it moves by itself.
    pub grad_norm_noise: Option<f64>,
    /// The same ratio of the loss.
    pub loss_ratio: Option<f64>,
    /// The same distance of the loss.
    pub loss_noise: Option<f64>,
}

/// What was logged at one step, and how it stands against the steps before it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct LogPoint {
    /// The step.
    pub step: u64,
    /// Training loss.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss: Option<Number>,
    /// L2 norm of the whole gradient, before clipping and without loss scale.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grad_norm: Option<Number>,
    /// Learning rate: of the first group where there are several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub learning_rate: Option<Number>,
    /// Loss scale of mixed precision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss_scale: Option<Number>,
    /// Elements of the gradient that are NaN or infinite.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub non_finite: Option<u64>,
    /// The optimizer skipped this step.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub skipped: bool,
    /// Gradient norm by layer or parameter.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub grad_norm_by_layer: BTreeMap<String, Number>,
    /// What the batch was made of, where it is logged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<String>,
    /// Robust z of ln(grad_norm) against the window before: (ln n − median)/(1.4826·MAD), MAD not below 0.05 (E1).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grad_norm_z: Option<f64>,
    /// grad_norm over the median of the window before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grad_norm_ratio: Option<f64>,
    /// (loss − mean)/standard deviation of the window before (E2).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss_z: Option<f64>,
    /// Median of the last three losses over its running minimum (E3); only where losses are positive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss_ratio: Option<f64>,
    /// Standard deviation of ln(loss) from one point to the next, over the window before, trends left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss_noise: Option<f64>,
}
