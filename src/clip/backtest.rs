//! What a method would have done to a recorded series, without training: a function of norms alone.
//!
//! *Healthy* steps are those that the fit looked at, less spikes; spikes are those of the whole series. The oracle clips spikes to
//! what was usual before them and nothing else. Regret is the mean distance to it over healthy steps and spikes: of a healthy
//! step the share that is lost, 1 − min(1, τ/n); of a spike ln of how far above the usual it is let through. Intervals are of
//! 90 %, for as many independent steps as the norms are worth.

use serde::{Deserialize, Serialize};

use super::estimate::{Estimate, mean, share};
use super::fit::Fit;
use super::method::{Method, Needs};
use super::series::{Point, Series};
use crate::analysis::model::Measured;
use crate::analysis::series::clip::{coefficient, cosine};
use crate::robust::median;

/// A method held against the record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Candidate {
    /// Its name on the command line.
    pub method: String,
    /// Its name with its constants.
    pub label: String,
    /// What it needs to be judged.
    pub needs: Needs,
    /// What it would have done.
    pub backtest: Measured<Backtest>,
    /// Why it is not recommended, in a few words; of the recommended one, what it does.
    pub why: String,
}

/// What a method would have done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Backtest {
    /// Median over the steps that were looked at of what a step is limited to; `None` where it mostly is not.
    pub threshold: Option<f64>,
    /// The same over the median norm.
    pub multiple_of_median: Option<f64>,
    /// Share of healthy steps that are clipped or skipped.
    pub share_clipped: Estimate,
    /// Mean over healthy steps of min(1, τ/n).
    pub shrinkage: Estimate,
    /// `1 − E[min(n, τ)]/E[n]` over healthy steps: by how much the learning rate of SGD is lower.
    pub rate_loss: Estimate,
    /// Spikes in the series.
    pub spikes: u64,
    /// Those that are clipped or skipped.
    pub spikes_clipped: u64,
    /// The largest norm that a spike keeps, over the median norm.
    pub containment: Option<f64>,
    /// The largest factor by which a spike inflates √v of Adam.
    pub inflation: Option<f64>,
    /// Mean cosine between a clipped step and what it was; 1 for all that scale a gradient as a whole.
    pub direction: Option<f64>,
    /// Share of the clipped steps that were no spikes.
    pub needless: Option<Estimate>,
    /// Mean distance to the oracle.
    pub regret: Estimate,
    /// The first step of the series that is clipped.
    pub first_clipped_step: Option<u64>,
    /// The first spike that is.
    pub first_clipped_spike: Option<u64>,
}

/// What became of one step.
struct Outcome {
    /// What it is limited to, where that is one number.
    limit: f64,
    /// Norm that is left.
    left: f64,
    /// Whether it was changed.
    clipped: bool,
    /// Cosine to what it was.
    cosine: f64,
}

/// Runs `method` over all of `series`, and scores it on what `fit` looked at and on every spike; `beta2` is Adam's.
pub fn run(method: Method, series: &Series, fit: &Fit, beta2: f64) -> Measured<Backtest> {
    match method.needs() {
        Needs::Gradients => {
            return Measured::not("needs the gradients themselves, and only their norms were kept");
        }
        Needs::TensorNorms if series.tensors.is_empty() => {
            return Measured::not("needs the norm of every tensor at every step");
        }
        Needs::TensorNorms
            if matches!(method, Method::BlockRms(_)) && series.tensors.iter().any(|(_, size)| *size == 0) =>
        {
            return Measured::not("needs the number of elements of every tensor");
        }
        _ => {}
    }
    let mut clipper = method.start();
    let sizes: Vec<u64> = series.tensors.iter().map(|(_, size)| *size).collect();
    let by_tensor = method.needs() == Needs::TensorNorms;
    let outcomes: Vec<Outcome> = series
        .points
        .iter()
        .map(|point| {
            if by_tensor {
                let factors = clipper.factors(&point.tensors, &sizes).unwrap_or_default();
                tensor_wise(point, &factors)
            } else {
                let limit = clipper.threshold(point.norm).unwrap_or(f64::INFINITY);
                match method {
                    Method::FixedNorm(_) | Method::RollingMedian(_) => as_torch_does(point, limit),
                    _ => as_a_whole(point, limit),
                }
            }
        })
        .collect();
    Measured::Value(score(series, fit, beta2, &outcomes))
}

fn as_a_whole(point: &Point, limit: f64) -> Outcome {
    Outcome { limit, left: point.norm.min(limit), clipped: point.norm > limit, cosine: 1.0 }
}

/// With the 1e-6 that is added to the norm, which is most of it where norms are about as small.
fn as_torch_does(point: &Point, limit: f64) -> Outcome {
    let factor = coefficient(point.norm, limit);
    Outcome { limit, left: factor * point.norm, clipped: factor < 1.0, cosine: 1.0 }
}

fn tensor_wise(point: &Point, factors: &[f64]) -> Outcome {
    let left =
        point.tensors.iter().zip(factors).map(|(norm, factor)| (norm * factor).powi(2)).sum::<f64>().sqrt();
    let clipped = factors.iter().any(|factor| *factor < 1.0);
    let cosine = cosine(&point.tensors, factors).value().copied().unwrap_or(1.0);
    Outcome { limit: if clipped { left } else { f64::INFINITY }, left, clipped, cosine }
}

fn score(series: &Series, fit: &Fit, beta2: f64, outcomes: &[Outcome]) -> Backtest {
    let steps = || series.points.iter().zip(outcomes);
    let healthy: Vec<(&Point, &Outcome)> = steps()
        .skip(fit.range.start)
        .take(fit.range.len())
        .filter(|(point, _)| point.usual.is_none())
        .collect();
    let spikes: Vec<(&Point, f64, &Outcome)> =
        steps().filter_map(|(point, outcome)| Some((point, point.usual?, outcome))).collect();
    let worth = fit.effective / fit.core.max(1) as f64;
    let effective = (healthy.len() as f64 * worth).max(1.0);
    let nothing = Estimate { value: 0.0, low: 0.0, high: 0.0 };
    let kept: Vec<f64> = healthy.iter().map(|(point, outcome)| outcome.left / point.norm).collect();
    let clipped = healthy.iter().filter(|(_, outcome)| outcome.clipped).count() as u64;
    let spikes_clipped = spikes.iter().filter(|(_, _, outcome)| outcome.clipped).count() as u64;
    let mut distances: Vec<f64> = kept.iter().map(|kept| (1.0 - kept).max(0.0)).collect();
    // A spike that is skipped, or clipped below the usual, is held.
    distances.extend(spikes.iter().map(|(_, usual, outcome)| (outcome.left / usual).max(1.0).ln()));
    let square =
        healthy.iter().map(|(point, _)| point.norm.powi(2)).sum::<f64>() / healthy.len().max(1) as f64;
    let inflation = |left: f64| (1.0 + (1.0 - beta2) * left * left / square).sqrt();
    let largest = spikes.iter().map(|(_, _, outcome)| outcome.left).reduce(f64::max);
    let judged =
        healthy.iter().map(|(_, outcome)| *outcome).chain(spikes.iter().map(|(_, _, outcome)| *outcome));
    let turned: Vec<f64> = judged.filter(|outcome| outcome.clipped).map(|outcome| outcome.cosine).collect();
    let limit = median(healthy.iter().map(|(_, outcome)| outcome.limit)).filter(|limit| limit.is_finite());
    let first = |spike: bool| {
        let mut clipped =
            steps().filter(|(point, outcome)| outcome.clipped && (!spike || point.usual.is_some()));
        clipped.next().map(|(point, _)| point.step)
    };
    Backtest {
        threshold: limit,
        multiple_of_median: limit.map(|limit| limit / fit.median),
        share_clipped: share(clipped, healthy.len() as u64, effective).unwrap_or(nothing),
        shrinkage: mean(&kept, effective).unwrap_or(nothing),
        rate_loss: rate_loss(&healthy, effective),
        spikes: spikes.len() as u64,
        spikes_clipped,
        containment: largest.map(|left| left / fit.median),
        inflation: largest.map(inflation),
        direction: mean(&turned, effective).map(|turned| turned.value),
        needless: share(
            clipped,
            clipped + spikes_clipped,
            ((clipped + spikes_clipped) as f64 * worth).max(1.0),
        ),
        regret: mean(&distances, (distances.len() as f64 * worth).max(1.0)).unwrap_or(nothing),
        first_clipped_step: first(false),
        first_clipped_spike: first(true),
    }
}

/// 1 − Σ min(n, τ)/Σ n, with the interval of a ratio of means by its linear terms.
fn rate_loss(healthy: &[(&Point, &Outcome)], effective: f64) -> Estimate {
    let whole: f64 = healthy.iter().map(|(point, _)| point.norm).sum();
    let left: f64 = healthy.iter().map(|(_, outcome)| outcome.left).sum();
    let ratio = if whole > 0.0 { left / whole } else { 1.0 };
    let usual = whole / healthy.len().max(1) as f64;
    let terms: Vec<f64> =
        healthy.iter().map(|(point, outcome)| (outcome.left - ratio * point.norm) / usual).collect();
    let half = mean(&terms, effective).map_or(0.0, |terms| (terms.high - terms.low) / 2.0);
    Estimate { value: 1.0 - ratio, low: 1.0 - ratio - half, high: 1.0 - ratio + half }
}
