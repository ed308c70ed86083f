//! What led up to the loss of a run: steps whose loss was far above all before, one after the other, until there were no numbers; and one gradient
//! that threw a run which goes on with numbers.
//!
//! A run that is lost within some steps leaves too few of them for a level or a confirmed spike, and its NaN is the end and not the beginning.

use super::facts::{Facts, median};
use super::onset::{self, LEVEL_POINTS, LOSS_RATIO, SPIKE_Z};
use crate::analysis::model::{LogPoint, Number};

/// Loss over the median of those before it from which it is far above them: what FP503 lets a loss rise to before its noise is known.
const RISEN: f64 = 3.0;

/// Gradient norm over its median, and over the norm of the step before, from which it came at once, as that of a bad batch does: seven times, as
/// for bursts. A learning rate that is too high lets norms grow.
pub(super) const AT_ONCE: f64 = 7.0;

/// Gradient norm over its median, and over that of the step before, from which one gradient can have thrown a run: beyond what curvature gives at once.
pub(super) const THROWN: f64 = 10.0;

/// Steps by which a gradient may come before what it did to the loss.
const FELT_WITHIN: u64 = 3;

/// The steps that led up to the loss of a run.
#[derive(Debug, Clone, Copy)]
pub(super) struct RunUp<'a> {
    /// The first of them.
    pub first: &'a LogPoint,
    /// The first step that has no number.
    pub lost: u64,
    /// The loss of the first over the median of those before.
    pub ratio: f64,
    /// The gradient norm of the first over its median, where it came at once: the weights were sound, and the batch gave both.
    pub norm_at_once: Option<f64>,
}

/// What led up to the loss of the run; `None` where nothing stood out, or nothing was lost.
pub(super) fn run_up(facts: Facts<'_>) -> Option<RunUp<'_>> {
    let points = facts.points();
    let lost = onset::first_lost(facts)?.step;
    let end = points.partition_point(|point| point.step < lost);
    let is_up = |&index: &usize| loss_ratio(points, index).is_some_and(|ratio| ratio >= RISEN);
    let index = (0..end).rev().take_while(is_up).last()?;
    Some(RunUp {
        first: &points[index],
        lost,
        ratio: loss_ratio(points, index)?,
        norm_at_once: norm_at_once(points, index, AT_ONCE),
    })
}

/// By how many times a gradient norm right at `step`, or a few steps before, was what is usual, where it came at once.
pub(super) fn at_once(facts: Facts, step: u64) -> Option<f64> {
    let points = facts.points();
    let until = points.partition_point(|point| point.step <= step);
    let near = (0..until).rev().take_while(|index| points[*index].step + FELT_WITHIN >= step);
    near.filter_map(|index| norm_at_once(points, index, AT_ONCE)).reduce(f64::max)
}

/// By how many times the gradient of a step was what is usual, where it came at once from weights that were sound: the loss of the step was what it
/// had been; or it fell to a seventh in the next one, though the weights were worse by then, so that it was the batch's.
pub(super) fn thrown(facts: Facts, step: u64) -> Option<f64> {
    let points = facts.points();
    let index = points.partition_point(|point| point.step < step);
    let ratio = norm_at_once(points, index, THROWN)?;
    let loss = |index: usize| points.get(index)?.loss.and_then(Number::finite).filter(|loss| *loss > 0.0);
    let is_as_before = loss_ratio(points, index).is_some_and(|ratio| ratio < LOSS_RATIO);
    let is_the_batchs =
        matches!((loss(index), loss(index + 1)), (Some(own), Some(next)) if own >= AT_ONCE * next);
    (is_as_before || is_the_batchs).then_some(ratio)
}

/// The gradient norm of a point over its median, where it is a spike and `times` its median and that of the point before.
fn norm_at_once(points: &[LogPoint], index: usize, times: f64) -> Option<f64> {
    let norm = |index: usize| points.get(index)?.grad_norm.and_then(Number::finite);
    let (before, now) = (norm(index.checked_sub(1)?)?, norm(index)?);
    points[index].grad_norm_z.filter(|z| *z > SPIKE_Z)?;
    points[index].grad_norm_ratio.filter(|ratio| *ratio >= times && now >= times * before)
}

/// The loss over the median of the level before it.
fn loss_ratio(points: &[LogPoint], index: usize) -> Option<f64> {
    let loss = |point: &LogPoint| point.loss.and_then(Number::finite).filter(|loss| *loss > 0.0);
    let before = median(points[index.saturating_sub(LEVEL_POINTS)..index].iter().filter_map(loss))?;
    Some(loss(&points[index])? / before)
}

#[cfg(test)]
mod tests {
    use super::super::{Mechanism, diagnose};
    use crate::analysis::model::{LogAnalysis, LogPoint, Number};
    use crate::rules::Assessment;
    use crate::rules::test_support::run_of;

    /// What is told of so many steps at a loss and a norm near 1, and of these behind them, with or without the loss over its lowest.
    fn told_of(
        calm: usize,
        behind: impl Iterator<Item = (f64, f64)>,
        with_ratio: bool,
    ) -> (Mechanism, Option<u64>) {
        let all: Vec<(f64, f64)> = (0..calm).map(|at| (noise(at), noise(at))).chain(behind).collect();
        let points = all.iter().enumerate().map(|(at, (loss, norm))| LogPoint {
            step: at as u64 + 1,
            loss: Some(Number(*loss)),
            loss_ratio: with_ratio.then_some(*loss),
            grad_norm: Some(Number(*norm)),
            // As the analysis measures them, of a window of ones.
            grad_norm_z: (at >= 32).then(|| norm.ln() / 0.05),
            grad_norm_ratio: (at >= 32).then_some(*norm),
            learning_rate: Some(Number(0.1)),
            ..LogPoint::default()
        });
        let mut run = run_of(0, Vec::new);
        run.log = Some(LogAnalysis { points: points.collect(), ..LogAnalysis::default() });
        let told = diagnose(&run, &Assessment::default());
        (told.mechanism, told.onset_step)
    }

    fn noise(at: usize) -> f64 {
        1.0 + 0.05 * f64::from(u8::from(at.is_multiple_of(2)))
    }

    /// These, up to numbers that are none.
    fn told(calm: usize, end: &[(f64, f64)]) -> (Mechanism, Option<u64>) {
        told_of(calm, end.iter().copied().chain(std::iter::repeat_n((f64::NAN, f64::NAN), 5)), false)
    }

    /// A step with these, and a loss and norms that grow behind it, without an end.
    fn goes_on(loss: f64, norm: f64, next: f64) -> (Mechanism, Option<u64>) {
        let after = (0..60).map(|at| (next * noise(at), 8.0 + f64::from(u8::from(at % 3 == 0)) * 6.0));
        told_of(60, [(loss, norm)].into_iter().chain(after), true)
    }

    #[test]
    fn one_gradient_that_came_at_once_from_sound_weights_is_what_threw_a_run() {
        assert_eq!(goes_on(1.0, 300.0, 20.0), (Mechanism::GradientSpike, Some(61)), "a loss as before");
        assert_eq!(
            goes_on(200.0, 300.0, 20.0),
            (Mechanism::GradientSpike, Some(61)),
            "a loss of the batch's own"
        );
        // A loss that stays where that step had it was the weights', which the step before had left so.
        assert_eq!(goes_on(20.0, 300.0, 20.0).0, Mechanism::LearningRate);
    }

    #[test]
    fn a_run_that_is_lost_is_told_by_what_led_up_to_it() {
        assert_eq!(told(60, &[]), (Mechanism::NonFinite, Some(61)), "nothing did");
        // A gradient that came at once, and two steps in which the weights it threw did the rest.
        assert_eq!(told(60, &[(90.0, 500.0), (1e3, 2e3), (1e6, 1e9)]), (Mechanism::GradientSpike, Some(61)));
        // Norms that grow from step to step are no batch.
        let grows = [(1.2, 3.0), (2.0, 9.0), (9.0, 50.0), (400.0, 1e4)];
        assert_eq!(told(60, &grows), (Mechanism::LearningRate, Some(63)));
        // In the first steps nothing is usual yet.
        assert_eq!(told(2, &[(100.0, 90.0), (1e6, 1e8)]), (Mechanism::LearningRate, Some(3)));
    }
}
