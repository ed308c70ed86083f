//! A map that grows faster and faster: what it makes larger makes it larger again, long before it has outgrown the others.

use crate::analysis::model::{CheckpointAnalysis, Number, Role};
use crate::diagnosis::facts::{Facts, is_matrix, median, rms};
use crate::diagnosis::mechanism::rate;
use crate::diagnosis::onset::LEVEL_POINTS;

/// Intervals in a row in each of which the map grows faster than in the one before.
const INTERVALS: usize = 3;

/// Growth of the map over these intervals: it doubles in them where the gradient rewards large logits (1.9 to 2.1). No map of a
/// healthy run of the zoo grows faster in each of three intervals than in the one before, whatever its growth.
const GROWTH: f64 = 1.5;

/// Level of the loss after over that before, up to which the map grew because it learned: at most 0.77 in healthy runs whose
/// output layer grew by `GROWTH` over as many intervals.
pub(super) const LEARNED: f64 = 0.9;

/// Where the map of a role ran away.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Drift {
    /// Its canonical name.
    pub tensor: String,
    /// The checkpoints between which it began to.
    pub began: [u64; 2],
    /// The last checkpoint of the intervals.
    pub to: u64,
    /// How much larger it became.
    pub growth: f64,
    /// How much larger the typical other matrix became.
    pub others: f64,
}

/// A map and the typical other matrix, at a checkpoint.
#[derive(Debug, Clone, Copy)]
struct Size {
    step: u64,
    own: f64,
    others: f64,
}

/// The first intervals over which the only map of `role` grew faster and faster, also against the other matrices, while the
/// learning rate did not rise and the loss had nothing of it.
pub(super) fn of(facts: Facts, role: Role) -> Option<Drift> {
    let (_, first) = facts.checkpoints().next()?;
    let mut maps = first.tensors.iter().filter(|tensor| is_matrix(tensor) && tensor.role == role);
    let (map, None) = (maps.next()?, maps.next()) else { return None };
    let name = map.canonical_name.as_str();
    let sizes: Option<Vec<Size>> =
        facts.checkpoints().map(|(step, checkpoint)| size(step, checkpoint, name)).collect();
    sizes?.windows(INTERVALS + 1).find_map(|window| {
        let (from, to) = (window[0], window[INTERVALS]);
        let grew = to.own >= GROWTH * from.own;
        let runs_away = grew && accelerates(window) && !rate::is_rising(facts, to.step);
        (runs_away && !has_learned(facts, from.step, to.step)?).then(|| Drift {
            tensor: name.to_owned(),
            began: [from.step, window[1].step],
            to: to.step,
            growth: to.own / from.own,
            others: to.others / from.others,
        })
    })
}

fn size(step: u64, checkpoint: &CheckpointAnalysis, name: &str) -> Option<Size> {
    let own = rms(checkpoint.tensors.iter().find(|tensor| tensor.canonical_name == name)?)?;
    let others =
        checkpoint.tensors.iter().filter(|tensor| is_matrix(tensor) && tensor.canonical_name != name);
    let others = median(others.filter_map(rms))?;
    (own > 0.0 && others > 0.0).then_some(Size { step, own, others })
}

/// Whether the map grows from the first interval on, and in each one faster a step than in the one before, also against the others.
fn accelerates(sizes: &[Size]) -> bool {
    let rates: Vec<(f64, f64)> = sizes
        .windows(2)
        .map(|pair| {
            let steps = (pair[1].step - pair[0].step) as f64;
            let own = (pair[1].own / pair[0].own).ln();
            (own / steps, (own - (pair[1].others / pair[0].others).ln()) / steps)
        })
        .collect();
    rates[0].0 > 0.0
        && rates.last().is_some_and(|(_, against_others)| *against_others > 0.0)
        && rates.windows(2).all(|pair| pair[1].0 > pair[0].0 && pair[1].1 > pair[0].1)
}

/// Whether the level of the loss fell between two steps; `None` where it is not logged.
fn has_learned(facts: Facts, from: u64, to: u64) -> Option<bool> {
    let level = |step: u64| {
        let points = facts.points_until(step);
        let points = &points[points.len().saturating_sub(LEVEL_POINTS)..];
        median(points.iter().filter_map(|point| point.loss.and_then(Number::finite)))
    };
    Some(level(to)? < LEARNED * level(from)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::model::{Analysis, LogAnalysis, LogPoint};
    use crate::diagnosis::{Mechanism, diagnose};
    use crate::rules::Assessment;
    use crate::rules::test_support::{checkpoint, run_of, tensor};

    /// A run with a checkpoint every 100 steps, whose output layer and whose other matrices have these multiples of their first
    /// RMS, and whose loss goes from 1 to `loss` in a straight line.
    fn run(head: &[f64], others: &[f64], loss: f64) -> Analysis {
        let mut run = run_of(0, Vec::new);
        let at = |(index, (head, other)): (usize, (&f64, &f64))| {
            let head = tensor("lm_head.weight", Role::OutputHead, &[64, 64]).filled(0.03 * head);
            let others = ["blocks.0.fc1.weight", "blocks.1.fc1.weight"]
                .map(|name| tensor(name, Role::MlpIn, &[64, 64]).filled(0.02 * other));
            checkpoint(others.into_iter().chain([head]).collect()).at_step(100 * index as u64)
        };
        run.checkpoints = head.iter().zip(others).enumerate().map(at).collect();
        let last = 100 * (head.len() as u64 - 1);
        let points = (1..=last).map(|step| LogPoint {
            step,
            loss: Some(Number(1.0 + (loss - 1.0) * step as f64 / last as f64)),
            learning_rate: Some(Number(1e-3)),
            ..LogPoint::default()
        });
        run.log = Some(LogAnalysis { points: points.collect(), ..LogAnalysis::default() });
        run
    }

    fn told(head: &[f64], others: &[f64], loss: f64) -> Mechanism {
        diagnose(&run(head, others, loss), &Assessment::default()).mechanism
    }

    /// 1.05, 1.2 and 1.5 times as large in one interval after the other: 1.89 times in all.
    const RUNNING_AWAY: [f64; 6] = [1.0, 1.1, 1.1, 1.155, 1.386, 2.079];

    #[test]
    fn an_output_layer_that_grows_faster_and_faster_is_told_before_it_has_outgrown_the_others() {
        let told = diagnose(&run(&RUNNING_AWAY, &[1.0; 6], 1.0), &Assessment::default());
        assert_eq!(
            (told.mechanism, told.tensor.as_deref()),
            (Mechanism::OutputLogits, Some("lm_head.weight"))
        );
        assert_eq!(told.onset_interval, Some([200, 300]));
        let sentence = "between steps 200 and 500 the output layer grew faster and faster, by 1.890 times (the other matrices by 1), and the loss did not fall for it";
        assert!(told.story.iter().any(|line| line.contains(sentence)), "{:?}", told.story);
    }

    #[test]
    fn one_that_grows_ever_slower_or_as_the_others_do_or_while_the_loss_falls_is_healthy() {
        // The same growth in the other order, as at the start of any run.
        assert_eq!(told(&[1.0, 1.5, 1.8, 1.89, 1.89, 1.89], &[1.0; 6], 1.0), Mechanism::None);
        assert_eq!(told(&RUNNING_AWAY, &RUNNING_AWAY, 1.0), Mechanism::None);
        assert_eq!(told(&RUNNING_AWAY, &[1.0; 6], 0.5), Mechanism::None);
    }

    #[test]
    fn one_whose_learning_rate_rises_is_no_drift() {
        let mut warming_up = run(&RUNNING_AWAY, &[1.0; 6], 1.0);
        for point in warming_up.log.iter_mut().flat_map(|log| &mut log.points) {
            point.learning_rate = Some(Number(1e-5 * (point.step as f64 / 50.0).exp()));
        }
        assert_eq!(diagnose(&warming_up, &Assessment::default()).mechanism, Mechanism::None);
    }
}
