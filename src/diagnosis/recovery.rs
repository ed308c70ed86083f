//! Whether a run came back by itself from what began at a step.

use super::facts::{Facts, median};
use super::healthy::is_clean;
use super::story::BEFORE_POINTS;
use crate::analysis::model::{LogPoint, Number};

/// Logged losses at the end of a run whose median is where it ended.
const END_POINTS: usize = 15;

/// Share by which a learning rate may have changed and still be the same.
const SAME_RATE: f64 = 0.05;

/// The loss before, and at the end.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Recovery {
    /// Its level before the step.
    pub before: f64,
    /// Its level at the end, which is no higher.
    pub end: f64,
}

/// The recovery from what began at `step`: the loss ends no higher than it was before, every loss after is finite, and nothing
/// critical is found in the newest checkpoint.
pub(super) fn from(facts: Facts, step: u64) -> Option<Recovery> {
    let earlier = facts.points_until(step.checked_sub(1)?);
    let later = facts.points_from(step);
    let is_lost = |point: &LogPoint| point.loss.is_some_and(|loss| loss.finite().is_none());
    let newest = facts.checkpoints().next_back();
    let broken = newest.is_some_and(|(at, one)| at >= step && !is_clean(facts, one));
    if later.len() < 2 * END_POINTS || broken || later.iter().any(is_lost) {
        return None;
    }
    let before = level(last(earlier, BEFORE_POINTS))?;
    let end = level(last(later, END_POINTS))?;
    (end <= before).then_some(Recovery { before, end })
}

/// Whether a run came back while its learning rate stayed what it was: then that rate is one the run can take.
pub(super) fn is_at_the_same_rate(facts: Facts, step: u64) -> bool {
    let rates = facts.learning_rates();
    let (then, end) = (rates.at(step), rates.at(u64::MAX));
    let same = matches!((then, end), (Some(then), Some(end)) if (end - then).abs() <= SAME_RATE * then);
    same && from(facts, step).is_some()
}

fn last(points: &[LogPoint], count: usize) -> &[LogPoint] {
    &points[points.len().saturating_sub(count)..]
}

fn level(points: &[LogPoint]) -> Option<f64> {
    median(points.iter().filter_map(|point| point.loss.and_then(Number::finite)))
}
