//! Whether a run came back by itself from what began at a step.

use super::facts::{Facts, median};
use super::healthy::is_clean;
use super::story::BEFORE_POINTS;
use crate::analysis::model::{LogPoint, Number};
use crate::robust::{MAD_TO_DEVIATION, MEDIAN_ERROR};

/// Logged losses at the end of a run whose median is where it ended.
const END_POINTS: usize = 15;

/// Share by which a learning rate may have changed and still be the same.
pub(super) const SAME_RATE: f64 = 0.05;

/// Standard errors of the difference of two levels of the loss within which they are the same.
const SAME_LEVEL: f64 = 1.0;

/// The loss before, and at the end.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Recovery {
    /// Its level before the step.
    pub before: f64,
    /// Its level at the end, which is no higher but for its noise.
    pub end: f64,
}

impl Recovery {
    /// Whether the loss ends no higher at all: what is to speak for a cause asks for more than what is to be done.
    pub fn is_beyond_doubt(self) -> bool {
        self.end <= self.before
    }
}

/// The recovery from what began at `step`: the loss ends no higher than it was before, but for its noise, every loss after is finite, and nothing
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
    let earlier = losses(last(earlier, BEFORE_POINTS));
    let before = median(earlier.iter().copied())?;
    let end = median(losses(last(later, END_POINTS)))?;
    let noise = MAD_TO_DEVIATION * median(earlier.iter().map(|loss| (loss - before).abs()))?;
    let error = MEDIAN_ERROR * noise * (1.0 / earlier.len() as f64 + 1.0 / END_POINTS as f64).sqrt();
    (end <= before + SAME_LEVEL * error).then_some(Recovery { before, end })
}

/// Whether a run came back while its learning rate stayed what it was: then that rate is one the run can take.
pub(super) fn is_at_the_same_rate(facts: Facts, step: u64) -> bool {
    let rates = facts.learning_rates();
    let (then, end) = (rates.at(step), rates.at(u64::MAX));
    let same = matches!((then, end), (Some(then), Some(end)) if (end - then).abs() <= SAME_RATE * then);
    same && from(facts, step).is_some_and(Recovery::is_beyond_doubt)
}

fn last(points: &[LogPoint], count: usize) -> &[LogPoint] {
    &points[points.len().saturating_sub(count)..]
}

fn losses(points: &[LogPoint]) -> Vec<f64> {
    points.iter().filter_map(|point| point.loss.and_then(Number::finite)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::model::{Analysis, LogAnalysis};
    use crate::diagnosis::{Mechanism, diagnose};
    use crate::rules::Assessment;
    use crate::rules::test_support::run_of;

    /// A run of 300 steps at a falling learning rate, edited.
    fn run(mut edit: impl FnMut(&mut LogPoint)) -> Analysis {
        let mut run = run_of(0, Vec::new);
        let points = (1..=300).map(|step| {
            let mut point = LogPoint {
                step,
                loss: Some(Number(2.0)),
                grad_norm: Some(Number(1.0)),
                learning_rate: Some(Number(1e-3 * (1.0 - step as f64 / 400.0))),
                grad_norm_ratio: (step > 20).then_some(1.0),
                grad_norm_z: (step > 20).then_some(0.0),
                ..LogPoint::default()
            };
            edit(&mut point);
            point
        });
        run.log = Some(LogAnalysis { points: points.collect(), ..LogAnalysis::default() });
        run
    }

    #[test]
    fn a_loss_comes_back_to_its_level_as_far_as_its_noise_says() {
        // Losses of 1.98 and 2.02: MAD 0.02, and the standard error of the difference is
        // 1.2533·1.4826·0.02·sqrt(1/20 + 1/15) = 0.0127.
        let ends = |end: f64| {
            let run = run(|point| {
                let noise = if point.step % 2 == 0 { 0.02 } else { -0.02 };
                point.loss = Some(Number(if point.step < 150 { 2.0 + noise } else { end }));
            });
            from(Facts { analysis: &run, assessment: &Assessment::default() }, 150)
        };
        assert!(ends(2.0).is_some_and(Recovery::is_beyond_doubt));
        assert!(ends(2.01).is_some_and(|recovery| !recovery.is_beyond_doubt()));
        assert_eq!(ends(2.02), None);
    }

    #[test]
    fn a_run_that_came_back_is_not_gone_back_from_for_want_of_a_cause() {
        let told = |end: f64| {
            let run = run(|point| match point.step {
                150..=159 => {
                    let norm = 1.6f64.powf(10.0 - (point.step as f64 - 154.5).abs() * 2.0);
                    (point.grad_norm, point.grad_norm_ratio) = (Some(Number(norm)), Some(norm));
                    point.grad_norm_z = Some(norm.ln() / (MAD_TO_DEVIATION * 0.05));
                    // Too few to move the level of the loss, which is the median of fifteen.
                    if (152..=157).contains(&point.step) {
                        (point.loss, point.loss_ratio) = (Some(Number(4.0)), Some(2.0));
                    }
                }
                160.. => point.loss = Some(Number(end)),
                _ => {}
            });
            diagnose(&run, &Assessment::default())
        };
        let came_back = told(2.0);
        assert_eq!(came_back.mechanism, Mechanism::Unknown, "{:?}", came_back.story);
        assert!(came_back.verdict.contains("the run came back by itself"), "{}", came_back.verdict);
        assert!(came_back.actions[0].what.starts_with("nothing has to be gone back to"));
        let stayed = told(2.2);
        assert_eq!(stayed.mechanism, Mechanism::Unknown, "{:?}", stayed.story);
        assert!(stayed.verdict.starts_with("failing from step"), "{}", stayed.verdict);
    }
}
