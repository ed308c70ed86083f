//! A loss that was lowest while the learning rate was still rising, and that never came back once the rate was higher: a rate that the run
//! cannot take, though it never diverges from it.
//!
//! What a warm-up leads to is a loss that goes on falling. One that turns round on the way, and stays above for the rest of the run, says at
//! which rate it still learned.

use super::facts::{Facts, median, step_length};
use super::onset::LEVEL_POINTS;
use crate::robust::{MAD_TO_DEVIATION, MEDIAN_ERROR};

/// Learning rate over its peak from which it is at its peak, and a warm-up over.
pub(super) const AT_PEAK: f64 = 0.95;

/// Loss at the full rate over its lowest level from which the run lost what it had learned: 1.09 and more where the rate was eight to fifty
/// times one that works; no healthy run of the zoo was lowest on its way up.
pub(super) const LOST: f64 = 1.08;

/// One step over the matrices that it changes, at some checkpoint from there on, from which the rate may be why: at least 0.025 where it was; at most 0.006
/// where a task that became harder, or another objective, raised the loss of a healthy run.
const FAR_STEP: f64 = 0.02;

/// Standard errors of a level by which the later losses are above the lowest: it is the lowest of many.
const ERRORS: f64 = 4.0;

/// Levels that the run goes on for at the full rate: a hump after a warm-up passes.
const LEVELS_AFTER: usize = 4;

/// Where the learning rate outran the run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Outrun {
    /// The middle step of the lowest level.
    pub lowest: u64,
    /// The last step of it.
    pub until: u64,
    /// The learning rate in the middle of it.
    pub rate: f64,
    /// The full one.
    pub full: f64,
    /// The median loss at the full rate over the lowest level.
    pub ratio: f64,
}

/// A logged point that has both.
struct Point {
    step: u64,
    /// ln(loss).
    loss: f64,
    rate: f64,
}

/// Where the learning rate outran the run, if it did.
///
/// It takes losses above zero and learning rates at the same steps, rates that never fell until they were full, and a loss that had learned more by
/// then than it lost later: one that only rises, as of Q-learning, is no such loss.
pub(super) fn outrun(facts: Facts) -> Option<Outrun> {
    let points = points(facts);
    let full_rate = points.iter().map(|point| point.rate).fold(0.0, f64::max);
    let full = points.iter().position(|point| point.rate >= AT_PEAK * full_rate)?;
    let rises = points[..=full].windows(2).all(|pair| pair[1].rate >= pair[0].rate);
    let later = &points[full..];
    if !rises || later.len() < LEVELS_AFTER * LEVEL_POINTS {
        return None;
    }
    let levels: Vec<f64> = points.windows(LEVEL_POINTS).filter_map(level).collect();
    let (start, lowest) = levels.iter().copied().enumerate().min_by(|a, b| a.1.total_cmp(&b.1))?;
    let (middle, last) = (start + LEVEL_POINTS / 2, start + LEVEL_POINTS - 1);
    // A rate that stood still until it was lowest, and jumped later, is another matter.
    let was_rising = points[middle].rate > points[start].rate;
    let lost = median(later.iter().map(|point| point.loss))? - lowest;
    let learned = levels.first()? - lowest;
    let is_outrun = was_rising
        && middle < full
        && lost >= LOST.ln()
        && lost >= ERRORS * error(&points, &levels)?
        && learned > lost;
    let has_long_steps = || lengths(facts, points[middle].step).any(|length| length >= FAR_STEP);
    (is_outrun && has_long_steps()).then(|| Outrun {
        lowest: points[middle].step,
        until: points[last].step,
        rate: points[middle].rate,
        full: full_rate,
        ratio: lost.exp(),
    })
}

/// The median matrix's step over its norm, by the checkpoints from `step` on that keep what a step is.
fn lengths(facts: Facts<'_>, step: u64) -> impl Iterator<Item = f64> {
    facts.checkpoints().filter(move |(own, _)| *own >= step).filter_map(|(_, one)| step_length(one))
}

fn points(facts: Facts) -> Vec<Point> {
    let own = facts.points().iter().filter_map(|point| {
        let loss = point.loss?.finite().filter(|loss| *loss > 0.0)?;
        Some(Point { step: point.step, loss: loss.ln(), rate: point.learning_rate?.finite()? })
    });
    own.collect()
}

fn level(window: &[Point]) -> Option<f64> {
    median(window.iter().map(|point| point.loss))
}

/// The standard error of a level, by how far losses lie from the level around them.
fn error(points: &[Point], levels: &[f64]) -> Option<f64> {
    let around = points[LEVEL_POINTS / 2..].iter().zip(levels);
    let distance = median(around.map(|(point, level)| (point.loss - level).abs()))?;
    Some(MEDIAN_ERROR * MAD_TO_DEVIATION * distance / (LEVEL_POINTS as f64).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::model::{Analysis, LogAnalysis, LogPoint, Measured, Number, Role};
    use crate::diagnosis::{Mechanism, diagnose};
    use crate::rules::Assessment;
    use crate::rules::test_support::{checkpoint, moments, run_of, tensor};

    /// Sets one step over the matrix that it changes, at the last step of a run.
    fn with_steps_of(mut run: Analysis, length: f64) -> Analysis {
        let saved = checkpoint(vec![tensor("a.weight", Role::Linear, &[64, 64])]);
        let saved = saved.with_moments(vec![moments("a.weight")], |_, state| {
            state.update_ratio = Measured::Value(length);
        });
        run.checkpoints = vec![saved.at_step(100)];
        run
    }

    /// A run of `steps` steps of a twentieth of its matrix whose rate rises to 1e-2 by step 100, and whose loss has a ripple of a hundredth.
    fn run(steps: u64, rate: impl Fn(u64) -> f64, loss: impl Fn(u64) -> f64) -> Analysis {
        let mut run = run_of(0, Vec::new);
        let points = (1..=steps).map(|step| LogPoint {
            step,
            loss: Some(Number(loss(step) * (1.0 + 0.005 * ((step % 5) as f64 - 2.0)))),
            learning_rate: Some(Number(rate(step))),
            ..LogPoint::default()
        });
        run.log = Some(LogAnalysis { points: points.collect(), ..LogAnalysis::default() });
        with_steps_of(run, 0.05)
    }

    fn warm_up(step: u64) -> f64 {
        1e-4 * step.min(100) as f64
    }

    /// From 3 at step 1 straight down to 1 at step 60, and up to `later` at step 100.
    fn turns(later: f64) -> impl Fn(u64) -> f64 {
        move |step| match step {
            ..=60 => 3.0 - 2.0 * (step - 1) as f64 / 59.0,
            61..=100 => 1.0 + (later - 1.0) * (step - 60) as f64 / 40.0,
            _ => later,
        }
    }

    fn found(run: &Analysis) -> Option<Outrun> {
        outrun(Facts { analysis: run, assessment: &Assessment::default() })
    }

    #[test]
    fn a_loss_that_turns_round_in_the_warm_up_tells_the_rate_at_which_it_was_lowest() {
        let run = run(300, warm_up, turns(1.3));
        let told = found(&run).expect("it turned round at step 60");
        assert!((54..=68).contains(&told.lowest), "{told:?}");
        assert!((told.rate - 1e-4 * told.lowest as f64).abs() < 1e-12, "{told:?}");
        assert!((told.full - 1e-2).abs() < 1e-12 && (1.15..1.31).contains(&told.ratio), "{told:?}");
        let diagnosis = diagnose(&run, &Assessment::default());
        assert_eq!(diagnosis.mechanism, Mechanism::LearningRate);
        assert_eq!(diagnosis.onset_step, Some(told.lowest));
        let lower = diagnosis.actions.iter().any(|action| action.what.contains("the learning rate"));
        assert!(lower, "{:?}", diagnosis.actions);
    }

    #[test]
    fn a_loss_that_comes_back_or_hardly_rises_or_never_fell_is_none() {
        assert_eq!(found(&run(300, warm_up, turns(1.02))), None);
        // It comes back by step 250.
        let back = |step: u64| if step < 200 { turns(1.3)(step) } else { 1.3 - 0.008 * (step - 200) as f64 };
        assert_eq!(found(&run(300, warm_up, back)), None);
        // Steps that are as usual are none that a run cannot take: the task became harder.
        assert_eq!(found(&with_steps_of(run(300, warm_up, turns(1.3)), 0.01)), None);
        // It rises from the start, as a loss of Q-learning does.
        assert_eq!(found(&run(300, warm_up, |step| 0.1 + 0.001 * step as f64)), None);
        // It had learned a tenth, and lost a third.
        let little = |step: u64| match step {
            ..=60 => 1.1 - 0.1 * (step - 1) as f64 / 59.0,
            _ => 1.3,
        };
        assert_eq!(found(&run(300, warm_up, little)), None);
    }

    #[test]
    fn a_rate_that_fell_before_or_a_run_that_ends_soon_after_its_warm_up_is_none() {
        // A restart: the loss was lowest at the end of the first cycle.
        let restart = |step: u64| match step {
            ..=30 => 1e-2,
            31..=60 => 1e-3,
            _ => 2e-2,
        };
        assert_eq!(found(&run(300, restart, turns(1.3))), None);
        // A jump: it was lowest at a rate that had stayed for long.
        for at in [62, 75] {
            assert_eq!(found(&run(300, |step| if step < at { 1e-3 } else { 1e-2 }, turns(1.3))), None);
        }
        assert_eq!(found(&run(150, warm_up, turns(1.3))), None);
        assert!(found(&run(160, warm_up, turns(1.3))).is_some());
        // Constant from the start: there is no rate at which it was better.
        assert_eq!(found(&run(300, |_| 1e-2, turns(1.3))), None);
    }
}
