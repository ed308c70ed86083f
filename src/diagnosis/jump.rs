//! A loss that jumps from one step to the next and stays up, out of steps like those before: what it is taken of has changed.
//!
//! A learning rate that is too high makes gradients grow before the loss leaves its level, and a bad batch is over with the next one. Where
//! the rate stays, and no gradient before stood out, the weights did not go far in one step, unless what steps are made of was lost or other weights
//! were loaded; labels, the order or the scaling of the data, or the loss itself may have changed. Only over a cliff does a step like others do that (Pascanu, Mikolov, Bengio 2013, arXiv:1211.5063, section 2.3), and there
//! the gradient grows by more than the loss, and by a lot.

use super::facts::{Facts, median};
use super::onset::{LEVEL_POINTS, LOSS_RATIO, SPIKE_RATIO};
use super::run_up::AT_ONCE;
use crate::analysis::model::{LogPoint, Number};

/// Loss over the largest of the [`LEVEL_POINTS`] before it from which it jumped: what a level of the loss has to rise by to have left its lowest (E3).
const JUMPED: f64 = 1.5;

/// The largest learning rate over the smallest of these steps up to which it stayed.
const STAYED: f64 = 1.05;

/// A jump.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Jump {
    /// The first step with the new loss.
    pub step: u64,
    /// The largest loss of the steps before.
    pub before: f64,
    /// The loss of that step.
    pub loss: f64,
}

/// The jump among the points of the level that begins at `step`.
pub(super) fn near(facts: Facts, step: u64) -> Option<Jump> {
    facts.points_from(step).iter().take(LEVEL_POINTS).find_map(|point| at(facts, point.step))
}

/// The jump at `step`.
///
/// It takes a log of every step with losses, gradient norms before clipping and learning rates: what happened between two logged steps is not
/// known, and norms after clipping are all alike.
pub(super) fn at(facts: Facts, step: u64) -> Option<Jump> {
    if facts.analysis.log.as_ref()?.semantics.before_clipping == Some(false) {
        return None;
    }
    let points = facts.points();
    let index = points.partition_point(|point| point.step < step);
    points.get(index).filter(|point| point.step == step)?;
    let before = &points[index.checked_sub(LEVEL_POINTS)?..index];
    let until = &points[index - LEVEL_POINTS..=index];
    let loss_of = |point: &LogPoint| point.loss.and_then(Number::finite);
    let losses: Option<Vec<f64>> = before.iter().map(loss_of).collect();
    let largest = losses?.into_iter().reduce(f64::max).filter(|largest| *largest > 0.0)?;
    let loss = loss_of(&points[index]).filter(|loss| *loss >= JUMPED * largest)?;
    let has_every_step = until.windows(2).all(|pair| pair[1].step == pair[0].step + 1);
    // Nor do gradients go on growing behind it, as those of a run that explodes.
    let most = AT_ONCE.max(loss / largest);
    let after = points.get(index..index + LEVEL_POINTS)?;
    let is_no_cliff = after.iter().all(|point| point.grad_norm_ratio.is_some_and(|ratio| ratio <= most));
    let is_usual = |point: &LogPoint| point.grad_norm_ratio.is_some_and(|ratio| ratio <= SPIKE_RATIO);
    let rates: Option<Vec<f64>> = until.iter().map(|point| point.learning_rate?.finite()).collect();
    let rates = rates?;
    let (lowest, highest) =
        (rates.iter().copied().fold(f64::INFINITY, f64::min), rates.iter().copied().fold(0.0, f64::max));
    let later: Option<Vec<f64>> = after.iter().map(loss_of).collect();
    let stays = median(later?)? >= LOSS_RATIO * largest;
    let is_one =
        has_every_step && before.iter().all(is_usual) && is_no_cliff && highest <= STAYED * lowest && stays;
    is_one.then_some(Jump { step, before: largest, loss })
}

#[cfg(test)]
mod tests {
    use crate::analysis::model::{Analysis, LogAnalysis, LogPoint, Number};
    use crate::diagnosis::facts::Facts;
    use crate::diagnosis::{Diagnosis, Mechanism, diagnose};
    use crate::rules::Assessment;
    use crate::rules::test_support::run_of;

    /// A loss of 0.2 to 0.3 that is 7 from step 500 on, at a constant rate and with usual gradients until then.
    fn run(change: impl Fn(&mut LogPoint)) -> Analysis {
        let point = |step: u64| {
            let noise = 0.05 * (step % 3) as f64;
            let mut point = LogPoint {
                step,
                loss: Some(Number(if step < 500 { 0.2 + noise } else { 7.0 - noise })),
                loss_ratio: Some(if step < 500 { 1.0 } else { 30.0 }),
                grad_norm: Some(Number(if step < 500 { 2.0 + noise } else { 8.0 })),
                grad_norm_ratio: Some(if step < 500 { 1.0 } else { 3.9 }),
                grad_norm_z: Some(0.5),
                learning_rate: Some(Number(2e-3)),
                ..LogPoint::default()
            };
            change(&mut point);
            point
        };
        let mut run = run_of(0, Vec::new);
        run.log = Some(LogAnalysis { points: (1..=900).map(point).collect(), ..LogAnalysis::default() });
        run
    }

    #[test]
    fn what_does_not_tell_that_steps_were_as_usual_is_no_jump() {
        let is_jump = |edit: &dyn Fn(&mut LogAnalysis)| {
            let mut run = run(|_| {});
            edit(run.log.as_mut().expect("it has one"));
            super::at(Facts { analysis: &run, assessment: &Assessment::default() }, 500).is_some()
        };
        let at = |step: usize, edit: fn(&mut LogPoint)| {
            move |log: &mut LogAnalysis| edit(&mut log.points[step - 1])
        };
        assert!(is_jump(&|_| {}));
        assert!(!is_jump(&|log| log.points.retain(|point| point.step != 492)), "a step is missing");
        assert!(!is_jump(&|log| log.points.truncate(513)), "it may not stay");
        assert!(!is_jump(&|log| drop(log.points.drain(..485))), "fourteen steps before it");
        assert!(
            !is_jump(&|log| log.points[506..].iter_mut().for_each(|point| point.loss = Some(Number(0.3)))),
            "it came back"
        );
        assert!(!is_jump(&at(490, |point| point.learning_rate = None)));
        assert!(
            !is_jump(&at(490, |point| point.learning_rate = Some(Number(2.2e-3)))),
            "the rate did not stay"
        );
        assert!(!is_jump(&at(490, |point| point.grad_norm_ratio = None)));
        assert!(!is_jump(&|log| log.semantics.before_clipping = Some(false)));
    }

    fn told(change: impl Fn(&mut LogPoint)) -> Diagnosis {
        diagnose(&run(change), &Assessment::default())
    }

    #[test]
    fn a_loss_that_jumps_out_of_usual_steps_is_no_learning_rate_and_sends_to_the_data() {
        let diagnosis = told(|_| {});
        assert_eq!((diagnosis.mechanism, diagnosis.onset_step), (Mechanism::Unknown, Some(500)));
        let story = diagnosis.story.join("\n");
        assert!(
            story.contains("from step 499 to step 500 the loss went from 0.3000 at most to 6.900"),
            "{story}"
        );
        assert!(
            diagnosis
                .actions
                .iter()
                .any(|action| action.what.contains("what step 500 and those after it were fed"))
        );
    }

    #[test]
    fn a_noisy_batch_before_it_does_not_move_its_date() {
        let diagnosis = told(|point| {
            if (494..=498).contains(&point.step) {
                point.loss = Some(Number(0.45));
            }
        });
        assert_eq!(diagnosis.onset_step, Some(500));
    }

    #[test]
    fn a_rate_that_changed_gradients_that_grew_before_or_a_cliff_may_have_done_it() {
        let rate_changed = told(|point| {
            if point.step >= 499 {
                point.learning_rate = Some(Number(2e-2));
            }
        });
        assert_eq!(rate_changed.mechanism, Mechanism::ScheduleBreak, "{:?}", rate_changed.story);
        let gradients_grew = told(|point| {
            if (497..500).contains(&point.step) {
                point.grad_norm_ratio = Some(3.0);
            }
        });
        let over_a_cliff = told(|point| {
            if point.step == 500 {
                point.grad_norm_ratio = Some(30.0);
            }
        });
        for diagnosis in [gradients_grew, over_a_cliff] {
            assert_eq!(diagnosis.mechanism, Mechanism::LearningRate, "{:?}", diagnosis.story);
        }
    }
}
