//! What a run's optimizer says about clipping: its kind, β₂, and gradient norms where neither log nor dump has them (I4, I5).

use crate::analysis::model::{Algorithm, Analysis, CheckpointAnalysis, IntervalAnalysis, OptimizerAnalysis};
use crate::robust::median;

/// β₂ where no optimizer says its own: the default of torch.
pub const USUAL_BETA2: f64 = 0.999;

/// Share of the elements whose gradients must be known for the norm of all to be.
const KNOWN_ELEMENTS: f64 = 0.99;

/// Σv̂/τ² above which every step was clipped: the norms are those after clipping (section 2.2).
pub const SATURATED: f64 = 0.9;

/// How a step depends on the size of a gradient.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The step is the gradient times the learning rate.
    Sgd,
    /// The step is divided by √v: its size does not depend on a constant factor of gradients.
    Adam,
    /// Something else, or not known.
    Unknown,
}

/// What is known of the optimizer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Optimizer {
    /// Its kind.
    pub kind: Kind,
    /// β₂, where it has one.
    pub beta2: Option<f64>,
    /// The largest RMS of an update among its parameters (C3).
    pub update_rms: Option<f64>,
}

/// The optimizer of the newest checkpoint that has one.
pub fn of(analysis: &Analysis) -> Optimizer {
    let newest = newest(analysis).map(|(_, state)| state);
    let summary = newest.and_then(|state| state.optimizers.first());
    let kind = match summary.map(|own| &own.algorithm) {
        Some(Algorithm::Sgd) => Kind::Sgd,
        Some(Algorithm::Adam | Algorithm::AdamW | Algorithm::AdamLike | Algorithm::RmsProp) => Kind::Adam,
        _ => Kind::Unknown,
    };
    let beta2 = summary.and_then(|own| own.groups.iter().find_map(|group| group.beta2));
    let updates = newest.into_iter().flat_map(|state| &state.parameters);
    let update_rms = updates.filter_map(|own| own.update_rms.value().copied()).reduce(f64::max);
    Optimizer { kind, beta2, update_rms }
}

fn newest(analysis: &Analysis) -> Option<(&CheckpointAnalysis, &OptimizerAnalysis)> {
    let mut states = analysis.checkpoints.iter().rev();
    states.find_map(|checkpoint| Some((checkpoint, checkpoint.optimizer.value()?)))
}

/// Gradient norms out of second moments.
#[derive(Debug, Clone, PartialEq)]
pub struct Norms {
    /// RMS over each interval, by its last step; or one, over the recent steps of one checkpoint.
    pub values: Vec<(u64, f64)>,
    /// First and last step they are about.
    pub steps: [u64; 2],
    /// Their median.
    pub median: f64,
    /// What they were computed from.
    pub from: &'static str,
}

/// RMS norms of the whole gradient over intervals; of the newest checkpoint's recent steps where there are no two.
pub fn norms(analysis: &Analysis) -> Result<Norms, String> {
    let values: Vec<(u64, f64)> = analysis.intervals.iter().filter_map(of_interval).collect();
    if let (Some(first), Some(last)) = (analysis.intervals.first(), values.last())
        && let Some(median) = median(values.iter().map(|(_, norm)| *norm)).filter(|median| *median > 0.0)
    {
        let steps = [first.from_step, last.0];
        return Ok(Norms { values, steps, median, from: "the second moments of two checkpoints each (I4)" });
    }
    let (checkpoint, state) = newest(analysis).ok_or("no checkpoint holds optimizer state")?;
    let known = state.optimizers.iter().map(|own| own.gradient_norm.value().copied());
    let known = known.collect::<Option<Vec<f64>>>().filter(|known| !known.is_empty());
    let known = known.ok_or("its optimizer keeps no second moments that gradients can be read from")?;
    let norm = known.iter().map(|norm| norm * norm).sum::<f64>().sqrt();
    if norm <= 0.0 || !norm.is_finite() {
        return Err("its second moments are 0".to_owned());
    }
    let step = checkpoint.step.value().copied().unwrap_or_default();
    Ok(Norms {
        values: vec![(step, norm)],
        // v is a mean over so many steps: what was before is not in it.
        steps: [step.saturating_sub(covered(state)), step],
        median: norm,
        from: "the second moments of one checkpoint (I5)",
    })
}

/// Over how many steps second moments reach back: 1/(1 − β₂) of the slowest.
fn covered(state: &OptimizerAnalysis) -> u64 {
    let groups = state.optimizers.iter().flat_map(|own| &own.groups);
    let slowest = groups.filter_map(|group| group.beta2).fold(0.0, f64::max);
    let slowest = if slowest > 0.0 && slowest < 1.0 { slowest } else { USUAL_BETA2 };
    #[expect(clippy::cast_sign_loss, reason = "β₂ is within 0 and 1")]
    let steps = (1.0 / (1.0 - slowest)).round() as u64;
    steps
}

/// The RMS norm over an interval, where nearly all of the model's gradients are known.
fn of_interval(interval: &IntervalAnalysis) -> Option<(u64, f64)> {
    let (mut known, mut all, mut square) = (0, 0, 0.0);
    for tensor in &interval.tensors {
        all += tensor.elements;
        if let Some(norm) = tensor.gradient_norm.value() {
            known += tensor.elements;
            square += norm * norm;
        }
    }
    let is_known = known > 0 && known as f64 >= KNOWN_ELEMENTS * all as f64;
    (is_known && square.is_finite()).then(|| (interval.to_step, square.sqrt()))
}
