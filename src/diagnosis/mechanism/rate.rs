//! Steps that are too long: of the whole model, of one parameter, or at the very start.

use super::logits::own_rate;
use super::{Case, STRONG, SUPPORTING};
use crate::analysis::model::{CheckpointAnalysis, LogPoint};
use crate::diagnosis::Mechanism;
use crate::diagnosis::facts::{Facts, is_matrix, median, states};
use crate::diagnosis::onset::{Onset, Sign};
use crate::number::short;
use crate::rules::Confidence;

/// One step over the weight it changes from which it is too long (C7 warns at 1e-2 for large models; FP307's limit for
/// small ones lies between 0.031, the largest of healthy small runs, and 1).
const LONG_STEP: f64 = 0.1;

/// Learning rate over the median of the others' from which a parameter's own is suspect.
const OWN_RATE: f64 = 3.0;

/// Steps by which a warm-up has to last to be one: 1/(1−β₂) of β₂ = 0.98, half of what is recommended (Ma 2019: 2/(1−β₂)).
const WARMUP_STEPS: u64 = 20;

/// Share of the run from which on it is no longer its start.
const START_SHARE: f64 = 0.25;

/// Learning rate over its peak from which it is at its peak.
const AT_PEAK: f64 = 0.95;

/// A learning rate that this run cannot take.
pub(super) fn learning_rate(facts: Facts, onset: Option<&Onset>) -> Option<Case> {
    one_tensor(facts).or_else(|| whole_model(facts, onset))
}

/// One parameter by a rate of its own.
fn one_tensor(facts: Facts) -> Option<Case> {
    facts.checkpoints().find_map(|(step, checkpoint)| {
        let states = states(checkpoint);
        let fast = states.keys().filter_map(|name| Some((*name, own_rate(checkpoint, name)?)));
        let fast: Vec<(&str, f64)> = fast.filter(|(_, ratio)| *ratio >= OWN_RATE).collect();
        let (name, ratio) = fast.iter().copied().max_by(|a, b| a.1.total_cmp(&b.1))?;
        let length = *states[name].0.update_ratio.value()?;
        let usual = median(states.values().filter_map(|(state, _)| state.update_ratio.value().copied()))?;
        (fast.len() == 1 && length >= 2.0 * usual).then(|| {
            Case::of(Mechanism::LearningRate)
                .with_confidence(Confidence::Calibrated)
                .in_tensor(Some(name.to_owned()))
                .from_the_start(step)
                .because(STRONG, format!("{name} is trained by {} times the learning rate of the others", short(ratio)))
                .because(
                    SUPPORTING,
                    format!("its steps are {} of its weights, those of the others {}", short(length), short(usual)),
                )
                .number("learning rate over the median of the others", ratio, Some(OWN_RATE), "1")
        })
    })
}

/// All parameters together.
fn whole_model(facts: Facts, onset: Option<&Onset>) -> Option<Case> {
    let long = long_steps(facts);
    let mut case = Case::of(Mechanism::LearningRate);
    if let Some((step, length)) = long {
        let before = facts.checkpoints().map(|(own, _)| own).take_while(|&own| own < step).last().unwrap_or(0);
        case = case
            .at(before + 1, [before, step])
            .with_confidence(Confidence::Calibrated)
            .because(STRONG, format!("at step {step} one step changed the matrices by {} of their norm", short(length)))
            .number("step over weight, median of the matrices", length, Some(LONG_STEP), "1");
    }
    let onset = onset.filter(|onset| matches!(onset.sign, Sign::Loss(_) | Sign::GradientNorm(_)));
    if let Some(onset) = onset {
        let sign = match onset.sign {
            Sign::Loss(ratio) => format!("the loss rose to {} times its minimum", short(ratio)),
            Sign::GradientNorm(ratio) => format!("gradient norms rose to {} times their median", short(ratio)),
            _ => return None,
        };
        case = case.at(onset.step, onset.interval).because(SUPPORTING, format!("from step {} on {sign}", onset.step));
        if is_rising_or_at_peak(facts, onset.step) {
            case = case.because(SUPPORTING, "the learning rate was rising or at its peak");
        }
    }
    (!case.reasons.is_empty()).then_some(case)
}

/// The first checkpoint at which the typical matrix is changed far too much by one step, and by how much.
fn long_steps(facts: Facts) -> Option<(u64, f64)> {
    facts.checkpoints().find_map(|(step, checkpoint)| {
        let length = step_length(checkpoint)?;
        (length >= LONG_STEP).then_some((step, length))
    })
}

/// The median over the matrices of one step over the weight it changes.
fn step_length(checkpoint: &CheckpointAnalysis) -> Option<f64> {
    let states = states(checkpoint);
    let matrices = checkpoint.tensors.iter().filter(|tensor| is_matrix(tensor));
    median(matrices.filter_map(|tensor| {
        states.get(tensor.canonical_name.as_str())?.0.update_ratio.value().copied()
    }))
}

fn rate(point: &LogPoint) -> Option<f64> {
    point.learning_rate?.finite()
}

fn is_rising_or_at_peak(facts: Facts, step: u64) -> bool {
    let peak = facts.points_until(step).iter().filter_map(rate).fold(0.0, f64::max);
    let now = facts.points_until(step).iter().rev().find_map(rate);
    now.is_some_and(|now| peak > 0.0 && now >= AT_PEAK * peak)
}

/// The full learning rate from the first steps on, and a run that fails in them.
pub(super) fn no_warmup(facts: Facts, onset: Option<&Onset>) -> Option<Case> {
    let last = facts.last_step()?;
    let peak = facts.points().iter().filter_map(rate).fold(0.0, f64::max);
    let reached = facts.points().iter().find(|point| rate(point).is_some_and(|rate| rate >= AT_PEAK * peak))?.step;
    if peak <= 0.0 || reached > WARMUP_STEPS {
        return None;
    }
    let case = Case::of(Mechanism::NoWarmup).from_the_start(reached.max(1));
    let early = START_SHARE * last as f64;
    let case = match onset {
        Some(onset) if onset.step as f64 <= early => case
            .at(onset.step, onset.interval)
            .because(STRONG, format!("the run failed at step {}, at the full learning rate since step {reached}", onset.step)),
        _ => case,
    };
    let case = match long_steps(facts) {
        Some((step, length)) if step as f64 <= early => case
            .because(
                STRONG,
                format!(
                    "the full learning rate was reached at step {reached}, and at step {step} one step changed the matrices by {} of their norm",
                    short(length)
                ),
            )
            .number("step over weight, median of the matrices", length, Some(LONG_STEP), "1"),
        _ => case,
    };
    (!case.reasons.is_empty()).then_some(case)
}
