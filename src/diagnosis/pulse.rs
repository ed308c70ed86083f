//! Lone gradients: how each logged norm stands against the points on both sides of it, and which stand alone.
//!
//! A post-mortem knows what came after. The window before a step, which a detector has to make do with, is wide where
//! norms have a trend, and hides in a noisy run what its neighbours show.

use super::facts::{Facts, median};
use super::onset::{AFTERMATH, SPIKE_RATIO};
use crate::analysis::model::{LogPoint, Number};
use crate::robust::{MAD_FLOOR, MAD_TO_DEVIATION};
use crate::rules::is_of_a_tail;

/// Points on either side that are the neighbours of one (risk catalogue section 2.4: norms are detrended by the median of 51).
pub(super) const NEIGHBOURS: usize = 25;

/// Neighbours without which it is not known what is usual.
pub(super) const FEWEST_NEIGHBOURS: usize = 16;

/// Robust z of ln(norm) among its neighbours from which one stands out. That none is of nearly its size is what makes it a
/// pulse: heavy tails reach 7 in healthy runs, and a pulse of 80 times in a run whose norms have a trend has 4.
const LONE_Z: f64 = 3.5;

/// A pulse stands alone where next to no other excursion has this share of its ln(ratio). Heavy tails give a continuum of
/// excursions: the third largest has at least 0.53 of the largest in 52 healthy runs, at most 0.36 in 20 with a pulse.
pub(super) const NEARLY: f64 = 0.45;

/// Other excursions of nearly its size that a pulse may have.
pub(super) const FEW_OTHERS: usize = 1;

/// The same of the excursions soon after it that are another one: smaller ones are what it left behind.
pub(super) const AGAIN: f64 = 0.7;

/// A pulse is over when the next norm is at most this share of it; a change of regime stays.
const FALLS_BACK_TO: f64 = 0.5;

/// A norm that stands alone.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pulse<'a> {
    /// Where it was logged.
    pub point: &'a LogPoint,
    /// The norm over the median of its neighbours.
    pub ratio: f64,
}

/// How one norm stands among its neighbours.
#[derive(Debug, Clone, Copy)]
pub(super) struct Excursion {
    /// ln(norm) less the median of its neighbours'.
    pub log_ratio: f64,
    /// The same in robust standard deviations of these.
    z: f64,
}

/// Every norm that comes at once, falls back at once and is of another size than all others but those it left behind. That of a batch
/// whose loss stands out as those of other batches do is one of a tail, however far out it lies.
pub(super) fn pulses(facts: Facts<'_>) -> Vec<Pulse<'_>> {
    let points = facts.points();
    let logs: Vec<Option<f64>> = points.iter().map(|point| ln(point.grad_norm)).collect();
    let excursions = excursions(&logs);
    let is_pulse = |&index: &usize| {
        // Where no window lies before a point, the run has only begun, and nothing is usual yet.
        points[index].grad_norm_ratio.is_some()
            && stands_out(excursions[index])
            && comes_at_once(&logs, &excursions, index)
            && falls_back(points, index)
            && is_alone(&excursions, index)
            && !facts.analysis.log.as_ref().is_some_and(|log| is_of_a_tail(log, [points[index].step; 2]))
    };
    let told = (0..points.len()).filter(is_pulse);
    told.filter_map(|index| Some(Pulse { point: &points[index], ratio: excursions[index]?.log_ratio.exp() }))
        .collect()
}

/// Excursions of nearly the size of `pulse` among the points that come soon after it.
pub(super) fn again(facts: Facts, pulse: Pulse) -> usize {
    let points = facts.points();
    let logs: Vec<Option<f64>> = points.iter().map(|point| ln(point.grad_norm)).collect();
    let first = points.partition_point(|point| point.step <= pulse.point.step);
    let later = (first..points.len().min(first + AFTERMATH)).filter_map(|index| excursion(&logs, index));
    later.filter(|own| stands_out(Some(*own)) && own.log_ratio > AGAIN * pulse.ratio.ln()).count()
}

/// The logged norms of one layer, and how each stands among its neighbours.
#[derive(Debug)]
pub(super) struct LayerNorms {
    steps: Vec<u64>,
    logs: Vec<Option<f64>>,
    excursions: Vec<Option<Excursion>>,
}

impl LayerNorms {
    pub(super) fn of(facts: Facts, layer: &str) -> Self {
        let logged = facts
            .points()
            .iter()
            .filter_map(|point| Some((point.step, point.grad_norm_by_layer.get(layer)?)));
        let (steps, logs): (Vec<u64>, Vec<Option<f64>>) =
            logged.map(|(step, norm)| (step, ln(Some(*norm)))).unzip();
        let excursions = excursions(&logs);
        Self { steps, logs, excursions }
    }

    /// Whether the norm of `step` is a pulse.
    pub(super) fn is_pulse(&self, step: u64) -> bool {
        let Self { steps, logs, excursions } = self;
        let Ok(index) = steps.binary_search(&step) else { return false };
        let falls = match (logs[index], logs.get(index + 1)) {
            (Some(now), Some(Some(next))) => *next <= now + FALLS_BACK_TO.ln(),
            (_, next) => next.is_none(),
        };
        stands_out(excursions[index])
            && comes_at_once(logs, excursions, index)
            && falls
            && is_alone(excursions, index)
    }
}

pub(super) fn ln(norm: Option<Number>) -> Option<f64> {
    norm?.finite().filter(|&norm| norm > 0.0).map(f64::ln)
}

pub(super) fn excursions(logs: &[Option<f64>]) -> Vec<Option<Excursion>> {
    (0..logs.len()).map(|index| excursion(logs, index)).collect()
}

fn excursion(logs: &[Option<f64>], index: usize) -> Option<Excursion> {
    let own = logs[index]?;
    let before = &logs[index.saturating_sub(NEIGHBOURS)..index];
    let after = &logs[index + 1..logs.len().min(index + 1 + NEIGHBOURS)];
    let neighbours: Vec<f64> = before.iter().chain(after).copied().flatten().collect();
    if neighbours.len() < FEWEST_NEIGHBOURS {
        return None;
    }
    let usual = median(neighbours.iter().copied())?;
    let spread = median(neighbours.iter().map(|log| (log - usual).abs()))?;
    let log_ratio = own - usual;
    Some(Excursion { log_ratio, z: log_ratio / (MAD_TO_DEVIATION * spread.max(MAD_FLOOR)) })
}

fn stands_out(excursion: Option<Excursion>) -> bool {
    excursion.is_some_and(|own| own.z > LONE_Z && own.log_ratio > SPIKE_RATIO.ln())
}

/// Whether a norm is far above the one before it, and that one was none of it yet: as of a burst.
fn comes_at_once(logs: &[Option<f64>], excursions: &[Option<Excursion>], index: usize) -> bool {
    let Some(before) = index.checked_sub(1) else { return false };
    let share = |own: Excursion, earlier: Excursion| earlier.log_ratio / own.log_ratio;
    matches!((logs[before], logs[index]), (Some(before), Some(now)) if now - before >= SPIKE_RATIO.ln())
        && matches!((excursions[index], excursions[before]), (Some(own), Some(earlier)) if share(own, earlier) <= NEARLY)
}

/// Whether the next logged norm is far below this one, if there is one.
fn falls_back(points: &[LogPoint], index: usize) -> bool {
    let Some(now) = points[index].grad_norm.and_then(Number::finite) else { return false };
    points
        .get(index + 1)
        .and_then(|next| next.grad_norm)
        .is_none_or(|next| next.finite().is_some_and(|next| next <= FALLS_BACK_TO * now))
}

fn is_alone(excursions: &[Option<Excursion>], index: usize) -> bool {
    let Some(own) = excursions[index] else { return false };
    let elsewhere = excursions[..index].iter().chain(excursions.iter().skip(index + AFTERMATH));
    let mut others = elsewhere.flatten().filter(|other| other.log_ratio > NEARLY * own.log_ratio);
    // One too many is enough: where spikes recur, each would look through the whole log.
    others.nth(FEW_OTHERS).is_none()
}
