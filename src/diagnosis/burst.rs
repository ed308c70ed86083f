//! Bursts: gradients of several steps in a row that are large at once and usual again at once, as those of bad batches are.
//!
//! A learning rate that is too high lets norms grow over several steps, and what it did to the weights fades over many; or they
//! never come back. Data comes and goes from one step to the next, at whatever rate there is.

use std::cell::OnceCell;

use super::facts::{Facts, median};
use super::onset::{AFTERMATH, LEVEL_POINTS, SPIKE_RATIO, SPIKE_Z};
use super::pulse::{self, AGAIN, Excursion, FEW_OTHERS, FEWEST_NEIGHBOURS, NEARLY, NEIGHBOURS};
use super::recovery::SAME_RATE;
use crate::analysis::model::{LogPoint, Number};
use crate::robust::{MAD_FLOOR, MAD_TO_DEVIATION};

/// Logged points that a burst has at most: a broken shard, and not another regime.
const MOST_POINTS: usize = 10;

/// The largest norm of a burst over what was usual. At least 7.6 in 49 runs with two to ten bad batches; at most 6.7 in five of 510 runs
/// with other faults, or none, whose norms come and go as suddenly.
const LARGE: f64 = 7.0;

/// Share of a burst's ln(ratio) up to which the norm right after it may be: the weights that it leaves behind give larger
/// gradients for a while. At most 0.51 after bad batches; 0.57 and more where a schedule, an epsilon or dying units were at fault.
const ENDS_AT: f64 = 0.55;

/// Excursions of nearly its size that may come in its aftermath.
const FEW_AGAIN: usize = 1;

/// Consecutive norms far above what was usual.
#[derive(Debug, Clone, Copy)]
pub(super) struct Burst<'a> {
    /// The first of them.
    pub first: &'a LogPoint,
    /// The last.
    pub last: &'a LogPoint,
    /// How many.
    pub points: usize,
    /// The largest over the usual norm before.
    pub ratio: f64,
    /// Whether the log says that the learning rate stayed what it was when it ended.
    pub is_at_the_same_rate: bool,
}

/// The norms of a run, their logarithms, and how each stands among its neighbours, where that is asked.
struct Norms<'a> {
    points: &'a [LogPoint],
    logs: Vec<Option<f64>>,
    excursions: OnceCell<Vec<Option<Excursion>>>,
}

/// What norms were before a step.
#[derive(Clone, Copy)]
struct Usual {
    level: f64,
    deviation: f64,
}

impl Usual {
    fn is_left_by(self, log: f64) -> bool {
        log - self.level > SPIKE_RATIO.ln() && log - self.level > SPIKE_Z * self.deviation
    }
}

/// Every burst of a run. A gradient that stands alone is none ([`pulse`]).
pub(super) fn bursts(facts: Facts<'_>) -> Vec<Burst<'_>> {
    let points = facts.points();
    let logs = points.iter().map(|point| pulse::ln(point.grad_norm)).collect();
    let norms = Norms { points, logs, excursions: OnceCell::new() };
    let mut found = Vec::new();
    let mut index = 0;
    while index < points.len() {
        let burst = norms.burst_at(index);
        index += burst.map_or(1, |burst| burst.points);
        found.extend(burst);
    }
    found
}

impl<'a> Norms<'a> {
    /// The burst whose first point is that at `first`.
    fn burst_at(&self, first: usize) -> Option<Burst<'a>> {
        let usual = self.usual_before(first)?;
        // Where no window lies before a point, the run has only begun, and nothing is usual yet.
        self.points[first].grad_norm_ratio?;
        usual.is_left_by(self.logs[first]?).then_some(())?;
        let (last, height) = self.end(first, usual)?;
        let share = |index: usize| Some((self.logs.get(index).copied()?? - usual.level) / height);
        let comes_at_once = share(first.checked_sub(1)?)? <= NEARLY;
        let goes_at_once = share(last + 1)? <= ENDS_AT;
        let rate_after = self.rate_after(last);
        let burst = Burst {
            first: &self.points[first],
            last: &self.points[last],
            points: last - first + 1,
            ratio: height.exp(),
            is_at_the_same_rate: rate_after == Some(true),
        };
        (burst.points > 1
            && burst.ratio >= LARGE
            && comes_at_once
            && goes_at_once
            && rate_after != Some(false)
            && self.is_alone(first, last, usual, height)
            && self.settles(last, usual))
        .then_some(burst)
    }

    fn usual_before(&self, index: usize) -> Option<Usual> {
        let before: Vec<f64> =
            self.logs[index.saturating_sub(NEIGHBOURS)..index].iter().copied().flatten().collect();
        if before.len() < FEWEST_NEIGHBOURS {
            return None;
        }
        let level = median(before.iter().copied())?;
        let spread = median(before.iter().map(|log| (log - level).abs()))?;
        Some(Usual { level, deviation: MAD_TO_DEVIATION * spread.max(MAD_FLOOR) })
    }

    /// The last point of a burst that begins at `first`, and the ln(ratio) of its largest: all are of about one size.
    fn end(&self, first: usize, usual: Usual) -> Option<(usize, f64)> {
        let mut height = self.logs[first]? - usual.level;
        let mut last = first;
        while let Some(&Some(log)) = self.logs.get(last + 1)
            && log - usual.level >= AGAIN * height
        {
            height = height.max(log - usual.level);
            last += 1;
            if last - first >= MOST_POINTS {
                return None;
            }
        }
        let is_one_of_it = |log: &Option<f64>| {
            log.is_some_and(|log| usual.is_left_by(log) && log - usual.level >= AGAIN * height)
        };
        self.logs[first..=last].iter().all(is_one_of_it).then_some((last, height))
    }

    /// Whether the learning rate right after `last` is that of `last`; `None` where the log has none.
    fn rate_after(&self, last: usize) -> Option<bool> {
        let rate = |index: usize| self.points.get(index)?.learning_rate.and_then(Number::finite);
        let (then, next) = (rate(last)?, rate(last + 1)?);
        Some((next - then).abs() <= SAME_RATE * then)
    }

    /// Whether next to no other norm is of nearly its size, neither soon after nor elsewhere.
    fn is_alone(&self, first: usize, last: usize, usual: Usual, height: f64) -> bool {
        let end = self.logs.len().min(last + 1 + AFTERMATH);
        let soon = self.logs[last + 1..end].iter().flatten();
        let again = soon.filter(|log| **log - usual.level > AGAIN * height).count();
        let excursions = self.excursions.get_or_init(|| pulse::excursions(&self.logs));
        let elsewhere = excursions[..first].iter().chain(&excursions[end..]).flatten();
        let mut others = elsewhere.filter(|other| other.log_ratio > NEARLY * height);
        again <= FEW_AGAIN && others.nth(FEW_OTHERS).is_none()
    }

    /// Whether norms come back to what they were, as far as is known.
    fn settles(&self, last: usize, usual: Usual) -> bool {
        let later = self.logs.get(last + 1 + AFTERMATH..).unwrap_or_default();
        let end = &later[later.len().saturating_sub(LEVEL_POINTS)..];
        let level = median(end.iter().copied().flatten());
        level.is_none_or(|level| level - usual.level <= SPIKE_RATIO.ln())
    }
}

/// The burst that begins at `step`.
pub(super) fn beginning_at(facts: Facts<'_>, step: u64) -> Option<Burst<'_>> {
    bursts(facts).into_iter().find(|burst| burst.first.step == step)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::model::{Analysis, LogAnalysis};
    use crate::diagnosis::{Mechanism, diagnose};
    use crate::rules::Assessment;
    use crate::rules::test_support::run_of;

    /// A run of 300 steps whose norm is 1 but for `norm`, at the learning rate `rate`.
    fn run(norm: impl Fn(u64) -> Option<f64>, rate: impl Fn(u64) -> f64) -> Analysis {
        let mut run = run_of(0, Vec::new);
        let points = (1..=300).map(|step| LogPoint {
            step,
            grad_norm: Some(Number(norm(step).unwrap_or(1.0))),
            grad_norm_ratio: (step > 20).then_some(1.0),
            learning_rate: Some(Number(rate(step))),
            ..LogPoint::default()
        });
        run.log = Some(LogAnalysis { points: points.collect(), ..LogAnalysis::default() });
        run
    }

    /// First and last step and size of the bursts of a run at a constant rate.
    fn told(norm: impl Fn(u64) -> Option<f64>) -> Vec<(u64, u64, f64)> {
        told_at(norm, |_| 1e-3)
    }

    fn told_at(norm: impl Fn(u64) -> Option<f64>, rate: impl Fn(u64) -> f64) -> Vec<(u64, u64, f64)> {
        let run = run(norm, rate);
        let facts = Facts { analysis: &run, assessment: &Assessment::default() };
        bursts(facts).iter().map(|own| (own.first.step, own.last.step, own.ratio.round())).collect()
    }

    #[test]
    fn gradients_that_come_and_go_at_once_are_a_burst() {
        let bad = |step| match step {
            150 => Some(50.0),
            151..=153 => Some(80.0),
            // What it leaves behind: ln 8 is 0.47 of ln 80.
            154..=170 => Some(8.0),
            _ => None,
        };
        assert_eq!(told(bad), [(150, 153, 80.0)]);
        // The rate was lowered in the very step in which it ended: that may have been why.
        assert!(told_at(bad, |step| if step > 153 { 1e-4 } else { 1e-3 }).is_empty());
    }

    #[test]
    fn gradients_that_grow_fade_stay_or_come_again_are_none() {
        let growing =
            |step| (150..=156).contains(&step).then(|| 2.0f64.powi(i32::try_from(step - 149).unwrap()));
        assert!(told(growing).is_empty());
        let fading = |step| (150..=180).contains(&step).then(|| 80.0 * (-((step - 150) as f64) / 4.0).exp());
        assert!(told(fading).is_empty());
        assert!(told(|step| (step >= 150).then_some(80.0)).is_empty());
        assert!(told(|step| (150..=170).contains(&step).then_some(80.0)).is_empty());
        assert!(told(|step| (step >= 100 && step % 50 < 3).then_some(80.0)).is_empty());
        // It fell back, and to another level.
        assert!(
            told(|step| match step {
                150..=152 => Some(80.0),
                153.. => Some(4.0),
                _ => None,
            })
            .is_empty()
        );
        // One alone is a pulse.
        assert!(told(|step| (step == 150).then_some(80.0)).is_empty());
    }

    #[test]
    fn bad_batches_in_a_row_are_told_with_their_steps() {
        let run = run(|step| (150..=153).contains(&step).then_some(80.0), |_| 1e-3);
        let told = diagnose(&run, &Assessment::default());
        assert_eq!((told.mechanism, told.onset_step), (Mechanism::GradientSpike, Some(150)));
        let reason =
            "the gradient norms of steps 150 to 153, 4 logged steps in a row, were up to 80.00 times";
        assert!(told.story.iter().any(|line| line.starts_with(reason)), "{:?}", told.story);
        let look = "look at the batches of steps 150 to 153;";
        assert!(told.actions.iter().any(|action| action.what.starts_with(look)), "{:?}", told.actions);
    }
}
