//! Steps that are too long: of the whole model, of one parameter, or at the very start.

use super::{Case, STRONG, SUPPORTING, fast, standstill};
use crate::analysis::model::{CheckpointAnalysis, LogPoint};
use crate::diagnosis::Mechanism;
use crate::diagnosis::facts::{Facts, is_matrix, median, rms, states};
use crate::diagnosis::onset::{Onset, Sign, loss_rose};
use crate::diagnosis::recovery;
use crate::number::short;
use crate::rules::Confidence;

/// One step over the weight it changes from which it is too long (C7 warns at 1e-2 for large models; FP307's limit for
/// small ones lies between 0.061, the largest of healthy small runs, and 1).
const LONG_STEP: f64 = 0.1;

/// Steps by which a warm-up has to last to be one: 1/(1−β₂) of β₂ = 0.98, half of what is recommended (Ma 2019: 2/(1−β₂)).
const WARMUP_STEPS: u64 = 20;

/// Share of the run from which on it is no longer its start.
const START_SHARE: f64 = 0.25;

/// Points back to which a learning rate is compared to tell whether it rises.
const RISE_POINTS: usize = 20;

/// Logged points that are the first of a run.
const FIRST_POINTS: usize = 15;

/// Learning rate over that of `RISE_POINTS` before from which it rises.
const RISING: f64 = 1.05;

/// Learning rate over its peak from which it is at its peak.
const AT_PEAK: f64 = 0.95;

/// A learning rate that this run cannot take.
pub(super) fn learning_rate(facts: Facts, onset: Option<&Onset>) -> Option<Case> {
    one_tensor(facts).or_else(|| whole_model(facts, onset))
}

/// One parameter by a rate of its own.
fn one_tensor(facts: Facts) -> Option<Case> {
    let fast = fast::parameters(facts)?;
    let [only] = &fast.matrices[..] else { return None };
    Some(
        Case::of(Mechanism::LearningRate)
            .with_confidence(Confidence::Calibrated)
            .in_tensor(Some(only.name.clone()))
            .since_the_start(fast.step)
            .because(
                STRONG,
                format!(
                    "{} is trained by {} times the learning rate of the others",
                    only.name,
                    short(only.rate)
                ),
            )
            .because(STRONG, format!("it moved {} times as far as they did", short(only.distance)))
            .number("learning rate over the median of the others", only.rate, Some(fast::OWN_RATE), "1")
            .number("change over the median of the others", only.distance, Some(fast::FARTHER), "1"),
    )
}

/// All parameters together.
fn whole_model(facts: Facts, onset: Option<&Onset>) -> Option<Case> {
    let long = long_steps(facts);
    let mut case = Case::of(Mechanism::LearningRate);
    if let Some((step, length)) = long {
        let before =
            facts.checkpoints().map(|(own, _)| own).take_while(|&own| own < step).last().unwrap_or(0);
        case = case
            .at(before + 1, [before, step])
            .with_confidence(Confidence::Calibrated)
            .because(
                STRONG,
                format!("at step {step} one step changed the matrices by {} of their norm", short(length)),
            )
            .number("step over weight, median of the matrices", length, Some(LONG_STEP), "1");
    }
    let onset = onset.filter(|onset| matches!(onset.sign, Sign::Loss(_) | Sign::GradientNorm(_)));
    if let Some(onset) = onset {
        let sign = match onset.sign {
            Sign::Loss(ratio) => format!("the loss rose to {} times its lowest before", short(ratio)),
            Sign::GradientNorm(ratio) => {
                format!("gradient norms rose to {} times their median", short(ratio))
            }
            _ => return None,
        };
        case = case
            .at(onset.step, onset.interval)
            .because(SUPPORTING, format!("from step {} on {sign}", onset.step));
        if onset.is_explosion() && facts.points_until(onset.step).len() <= FIRST_POINTS {
            case = case.because(SUPPORTING, "it exploded in its first steps, before anything was learned");
        }
        // Norms leave their window at the edge of stability too, where the loss goes on falling.
        let suffers = matches!(onset.sign, Sign::Loss(_)) || loss_rose(facts, onset.step);
        if suffers && !was_taken(facts, onset) && is_rising_or_at_peak(facts, onset.step) {
            case = case.because(SUPPORTING, "the learning rate was rising or at its peak");
        }
    }
    (!case.reasons.is_empty()).then_some(case)
}

/// The first checkpoint at which the typical matrix is changed far too much by one step, and by how much.
pub(super) fn long_steps(facts: Facts) -> Option<(u64, f64)> {
    facts.checkpoints().find_map(|(step, checkpoint)| {
        let length = step_length(checkpoint)?;
        (length >= LONG_STEP).then_some((step, length))
    })
}

/// The median over the matrices of one step over the weight it changes.
fn step_length(checkpoint: &CheckpointAnalysis) -> Option<f64> {
    let states = states(checkpoint);
    let matrices = checkpoint.tensors.iter().filter(|tensor| is_matrix(tensor));
    median(
        matrices
            .filter_map(|tensor| states.get(tensor.canonical_name.as_str())?.0.update_ratio.value().copied()),
    )
}

fn rate(point: &LogPoint) -> Option<f64> {
    point.learning_rate?.finite()
}

/// Whether the learning rate was on its way up at `step`.
pub(super) fn is_rising(facts: Facts, step: u64) -> bool {
    let rates: Vec<f64> = facts.points_until(step).iter().filter_map(rate).collect();
    let before = rates.len().checked_sub(RISE_POINTS).map(|index| rates[index]);
    matches!((before, rates.last()), (Some(before), Some(now)) if *now > RISING * before)
}

/// Whether gradients stood out at a rate that was not rising, and at which the run came back by itself: that is none that it
/// cannot take. A loss that left its level tells of the rate even where it comes back to that of guessing.
pub(super) fn was_taken(facts: Facts, onset: &Onset) -> bool {
    matches!(onset.sign, Sign::GradientNorm(_))
        && !is_rising(facts, onset.step)
        && recovery::is_at_the_same_rate(facts, onset.step)
}

fn is_rising_or_at_peak(facts: Facts, step: u64) -> bool {
    let peak = facts.points_until(step).iter().filter_map(rate).fold(0.0, f64::max);
    let now = facts.points_until(step).iter().rev().find_map(rate);
    now.is_some_and(|now| peak > 0.0 && now >= AT_PEAK * peak)
}

/// Whether the full learning rate came within the first steps, and each of them could change the matrices by a large
/// share of themselves: an early step of Adam moves every element by about the learning rate, whatever the gradient.
pub(super) fn leaps(facts: Facts) -> bool {
    leap(facts).is_some_and(|(_, length)| length >= LONG_STEP)
}

/// The step at which the full learning rate came, and that rate over the RMS of the matrices at the first checkpoint.
fn leap(facts: Facts) -> Option<(u64, f64)> {
    let peak = facts.points().iter().filter_map(rate).fold(0.0, f64::max);
    let reached =
        facts.points().iter().find(|point| rate(point).is_some_and(|rate| rate >= AT_PEAK * peak))?.step;
    let (first, checkpoint) = facts.checkpoints().next()?;
    let adam = facts.checkpoints().any(|(_, one)| {
        one.optimizer.value().is_some_and(|state| state.optimizers.iter().any(|own| own.algorithm.is_adam()))
    });
    if peak <= 0.0 || reached > WARMUP_STEPS || !adam || first > WARMUP_STEPS {
        return None;
    }
    let size = median(checkpoint.tensors.iter().filter(|tensor| is_matrix(tensor)).filter_map(rms))?;
    Some((reached, peak / size))
}

/// The full learning rate from the first steps on, and a run that suffers from them.
pub(super) fn no_warmup(facts: Facts, onset: Option<&Onset>) -> Option<Case> {
    let (reached, length) = leap(facts)?;
    let last = facts.last_step()?;
    let early = START_SHARE * last as f64;
    let mut case = Case::of(Mechanism::NoWarmup).since_the_start(reached.max(1));
    if length >= LONG_STEP {
        case = case
            .because(
                SUPPORTING,
                format!(
                    "the full learning rate came at step {reached}, and was {} of the matrices' own size: so much a step moves every element",
                    short(length)
                ),
            )
            .number("learning rate over RMS of the matrices", length, Some(LONG_STEP), "1");
    }
    if let Some(onset) = onset.filter(|onset| onset.step as f64 <= early) {
        case = case.because(STRONG, format!("the run failed at step {}, soon after", onset.step));
    }
    if let Some(died) = standstill::died(facts)
        && died as f64 <= last as f64 * 0.75
    {
        case = case.because(STRONG, format!("by step {died} most units of a layer had died"));
    }
    (!case.reasons.is_empty()).then_some(case)
}
