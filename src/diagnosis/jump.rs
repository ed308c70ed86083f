//! A loss that jumps from one logged step to the next and stays up, out of steps like those before: what it is taken of has changed.
//!
//! A learning rate that is too high makes gradients grow before the loss leaves its level, and builds up over several points; a bad batch is over
//! with the next one. Where the rate did not rise, and no gradient before stood out, the weights did not go far in one step, unless what steps are
//! made of was lost or other weights were loaded; labels, the order or the scaling of the data, or the loss itself may have changed. Only over a
//! cliff does a step like others do that (Pascanu, Mikolov, Bengio 2013, arXiv:1211.5063, section 2.3), and there the gradient grows by more than
//! the loss, and by a lot.

use super::facts::{Facts, median};
use super::onset::{LEVEL_POINTS, is_spike};
use super::run_up::AT_ONCE;
use crate::analysis::model::LogPoint;

/// The first loss of a jump over the median of the [`LEVEL_POINTS`] before it: a quarter is what a rise comes back to that is over.
const JUMPED: f64 = 1.25;

/// Share of the rise to the largest of the level behind, in ln, that came with the first loss: what builds up has most of it later.
const AT_FIRST: f64 = 0.5;

/// Losses from the first one on, of which [`STAY_UP`] are above all of the level before.
const STAY_AMONG: usize = 10;

/// See [`STAY_AMONG`]. With eight, two more of the zoos' runs whose loss left its level otherwise are jumps; with nine, none of a learning rate.
const STAY_UP: usize = 9;

/// Losses right before a jump whose median is above none of the others of their level, nor the last of them by [`JUMPED`]: else they led up to it.
const LED_UP: usize = 3;

/// The largest learning rate over the smallest before it up to which it did not rise.
const STAYED: f64 = 1.05;

/// Steps between two logged points up to which a jump from one to the next is one: over more of them a divergence has built up.
const MOST_APART: u64 = 10;

/// A jump.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Jump {
    /// The last step with a loss as before.
    pub from: u64,
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
/// It takes a log without gaps, of each tenth step at least, with losses, gradient norms before clipping and learning rates: norms after clipping are all alike.
pub(super) fn at(facts: Facts, step: u64) -> Option<Jump> {
    if facts.analysis.log.as_ref()?.semantics.before_clipping == Some(false) {
        return None;
    }
    let points = facts.points();
    let index = points.partition_point(|point| point.step < step);
    points.get(index).filter(|point| point.step == step)?;
    let before = &points[index.checked_sub(LEVEL_POINTS)?..index];
    let until = &points[index - LEVEL_POINTS..=index];
    let after = points.get(index..index + LEVEL_POINTS)?;
    let (earlier, later) = (losses(before)?, losses(after)?);
    let (largest, loss) = (largest(&earlier), later[0]);
    // Nor do gradients go on growing behind it, as those of a run that explodes.
    let most = AT_ONCE.max(loss / largest);
    let is_no_cliff = after.iter().all(|point| point.grad_norm_ratio.is_some_and(|ratio| ratio <= most));
    let is_usual = |point: &LogPoint| point.grad_norm_ratio.is_some() && !is_spike(point);
    let is_one = is_shift(&earlier, &later)?
        && until[1].step - until[0].step <= MOST_APART
        && until.windows(3).all(|three| three[2].step - three[1].step == three[1].step - three[0].step)
        && before.iter().all(is_usual)
        && is_no_cliff
        && did_not_rise(until)?;
    is_one.then_some(Jump { from: before.last()?.step, step, before: largest, loss })
}

/// Whether the losses of a level are above those before it from the first one on, and nothing led up to it.
fn is_shift(earlier: &[f64], later: &[f64]) -> Option<bool> {
    let (usual, first) = (median(earlier.iter().copied())?, later[0]);
    let (settled, last) = earlier.split_at(earlier.len() - LED_UP);
    let settled = largest(settled);
    let led_up = median(last.iter().copied())? > settled || earlier.last()? > &(JUMPED * settled);
    let is_up = |loss: &&f64| **loss > largest(earlier);
    let at_first = (first / usual).ln() / (largest(later) / usual).ln();
    Some(
        !led_up
            && is_up(&&first)
            && later[..STAY_AMONG].iter().filter(is_up).count() >= STAY_UP
            && first >= JUMPED * usual
            && at_first >= AT_FIRST,
    )
}

/// Whether no learning rate of these is above one before it.
fn did_not_rise(points: &[LogPoint]) -> Option<bool> {
    let rates: Option<Vec<f64>> = points.iter().map(|point| point.learning_rate?.finite()).collect();
    let mut lowest = f64::INFINITY;
    Some(rates?.into_iter().all(|rate| {
        lowest = lowest.min(rate);
        rate <= STAYED * lowest
    }))
}

/// The losses of all of these points, which are finite and above zero.
fn losses(points: &[LogPoint]) -> Option<Vec<f64>> {
    points.iter().map(|point| point.loss?.finite().filter(|loss| *loss > 0.0)).collect()
}

fn largest(losses: &[f64]) -> f64 {
    losses.iter().copied().fold(0.0, f64::max)
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
                // As the analysis measures it of norms that are all alike: ln 3 over 1.4826·0.05.
                (point.grad_norm_ratio, point.grad_norm_z) = (Some(3.0), Some(14.8));
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

    /// The steps that jumps are found at, of these losses logged every `apart` steps at these rates.
    fn jumps(apart: u64, loss: impl Fn(u64) -> f64, rate: impl Fn(u64) -> f64) -> Vec<u64> {
        let mut run = run(|_| {});
        let log = run.log.as_mut().expect("it has one");
        for (point, at) in log.points.iter_mut().zip(1..) {
            point.step = at * apart;
            (point.loss, point.learning_rate) = (Some(Number(loss(at))), Some(Number(rate(at))));
            point.grad_norm_ratio = Some(if at < 500 { 1.0 } else { 3.0 });
        }
        let facts = Facts { analysis: &run, assessment: &Assessment::default() };
        log_steps(&run).filter(|step| super::at(facts, *step).is_some()).collect()
    }

    fn log_steps(run: &Analysis) -> impl Iterator<Item = u64> {
        run.log.iter().flat_map(|log| log.points.iter().map(|point| point.step))
    }

    /// From 1.7 to 1.8, to 3 at the point 500, from where half of the rise is learned in every 20: the level of fifteen is 1.4 times that before.
    fn another_level(at: u64) -> f64 {
        match at {
            500.. => 1.75 + 1.25 * (-(at as f64 - 500.0) / 20.0).exp2(),
            _ => 1.7 + 0.05 * (at % 3) as f64,
        }
    }

    #[test]
    fn a_level_that_jumped_by_less_than_half_is_one_however_often_it_is_logged() {
        for apart in [1, 5, 10] {
            assert_eq!(jumps(apart, another_level, |_| 2e-3), [500 * apart]);
        }
        // What came in a hundred steps may have built up in them.
        assert!(jumps(100, another_level, |_| 2e-3).is_empty());
        let told = told(|point| point.loss = Some(Number(another_level(point.step))));
        assert_ne!(told.mechanism, Mechanism::LearningRate, "{:?}", told.story);
    }

    #[test]
    fn a_rate_that_fell_made_no_loss_jump_and_one_that_rose_may_have() {
        assert_eq!(jumps(1, another_level, |at| 1e-3 * (-(at as f64) / 100.0).exp()), [500]);
        assert!(jumps(1, another_level, |at| 1e-3 * (at as f64 / 100.0).exp()).is_empty());
    }

    #[test]
    fn a_loss_that_builds_up_over_several_points_is_no_jump_at_any_of_them() {
        for factor in [1.1_f64, 1.3, 2.0, 4.0] {
            let grows = |at: u64| {
                let above = factor.powi(i32::try_from(at.saturating_sub(499)).expect("few")).min(100.0);
                (1.7 + 0.05 * (at % 3) as f64) * above
            };
            assert!(jumps(10, grows, |_| 2e-3).is_empty(), "{factor}");
        }
        // A creep of three points leads up to the leap behind it.
        let creeps = |at: u64| match at {
            497..500 => 1.9 + 0.1 * (at - 497) as f64,
            500.. => 4.0,
            _ => another_level(at),
        };
        assert!(jumps(1, creeps, |_| 2e-3).is_empty());
    }

    #[test]
    fn a_run_that_learns_on_behind_a_jump_came_back_by_itself() {
        let told = |end: f64| {
            told(|point| {
                if point.step >= 500 {
                    let share = (-(point.step as f64 - 500.0) / 25.0).exp2();
                    point.loss = Some(Number(end + (7.0 - end) * share));
                }
            })
        };
        // The level of the twenty before is 0.25.
        let came_back = told(0.2);
        assert_eq!((came_back.mechanism, came_back.onset_step), (Mechanism::Unknown, Some(500)));
        assert!(
            came_back.verdict.starts_with("the loss jumped at step 500, the run came back by itself"),
            "{}",
            came_back.verdict
        );
        assert!(came_back.actions[0].what.starts_with("nothing has to be gone back to"));
        assert!(came_back.actions[1].what.starts_with("look at what step 500"), "{:?}", came_back.actions);
        assert!(told(0.3).verdict.starts_with("the loss jumped at step 500 and stayed up"));
    }
}
