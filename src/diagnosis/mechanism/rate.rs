//! Steps that are too long: of the whole model, of one parameter, or at the very start.

use super::{Case, STRONG, SUPPORTING, fast, seam, standstill, state};
use crate::analysis::model::TensorAnalysis;
use crate::diagnosis::Mechanism;
use crate::diagnosis::facts::{Facts, is_matrix, median, rms, states, step_length};
use crate::diagnosis::onset::{Onset, Sign, loss_rose};
use crate::diagnosis::outrun::{self, AT_PEAK, Outrun};
use crate::diagnosis::{bracket, burst, jump, recovery};
use crate::number::short;
use crate::rules::Confidence;

/// One step over the weight it changes from which it is too long (C7 warns at 1e-2 for large models; FP307's limit for
/// small ones lies between 0.061, the largest of healthy small runs, and 1).
const LONG_STEP: f64 = 0.1;

/// Steps by which a warm-up has to last to be one: 1/(1−β₂) of β₂ = 0.98, half of what is recommended (Ma 2019: 2/(1−β₂)).
const WARMUP_STEPS: u64 = 20;

/// Share of the run from which on it is no longer its start.
const START_SHARE: f64 = 0.25;

/// Share of the run up to which what died in it is of how it began.
const LATE_SHARE: f64 = 0.75;

/// Points back to which a learning rate is compared to tell whether it rises.
const RISE_POINTS: usize = 20;

/// The same among checkpoints, where only their optimizers say the learning rate: the one before.
const RISE_CHECKPOINTS: usize = 2;

/// Logged points that are the first of a run.
const FIRST_POINTS: usize = 15;

/// Learning rate over that of `RISE_POINTS` before from which it rises.
const RISING: f64 = 1.05;

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
        let before = bracket::before(facts, step);
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
        // Steps that were too long before are what it began with.
        if case.onset.is_none_or(|long| onset.step < long) {
            case = case.at(onset.step, onset.interval);
        }
        case = case.because(SUPPORTING, format!("from step {} on {sign}", onset.step));
        if onset.is_explosion() && facts.points_until(onset.step).len() <= FIRST_POINTS {
            case = case.because(SUPPORTING, "it exploded in its first steps, before anything was learned");
        }
        // Norms leave their window at the edge of stability too, where the loss goes on falling.
        let suffers = matches!(onset.sign, Sign::Loss(_)) || loss_rose(facts, onset.step);
        if burst::beginning_at(facts, onset.step).is_some() {
            case = case.although(
                SUPPORTING,
                "the large gradients came from one step to the next and went so, whatever the learning rate was",
            );
        } else if jump::at(facts, onset.step).is_some() {
            case = case.although(
                SUPPORTING,
                "the loss jumped from one logged step to the next at a rate that had not risen, and no gradient before it stood out",
            );
        } else if suffers && !was_taken(facts, onset) && is_rising_or_at_peak(facts, onset.step) {
            case = case.because(SUPPORTING, high_rate(facts, onset.step));
        }
    }
    if let Some(outrun) = outrun(facts) {
        case = outran(case, outrun);
    }
    (!case.reasons.is_empty()).then_some(case)
}

/// Where the rate outran the run, not by a jump.
pub(super) fn outrun(facts: Facts) -> Option<Outrun> {
    outrun::outrun(facts).filter(|_| seam::rate_jump(facts).is_none())
}

/// A rate that rose beyond the one at which the loss was lowest.
fn outran(case: Case, outrun: Outrun) -> Case {
    let Outrun { lowest, until, rate, full, ratio } = outrun;
    // What it lost from there on was lost to it: a checkpoint after is none to go back to.
    let case =
        if case.onset.is_some_and(|onset| onset <= lowest) { case } else { case.at(lowest, [lowest, until]) };
    case.because(
        STRONG,
        format!(
            "the loss was lowest around step {lowest}, at a learning rate of {}, which went on rising to {}: there the loss stayed {} times as high",
            short(rate),
            short(full),
            short(ratio)
        ),
    )
    .number("loss at the full learning rate over its lowest", ratio, Some(outrun::LOST), "1")
}

/// The first checkpoint at which the typical matrix is changed far too much by one step, and by how much.
pub(super) fn long_steps(facts: Facts) -> Option<(u64, f64)> {
    facts.checkpoints().find_map(|(step, checkpoint)| {
        let length = step_length(checkpoint)?;
        (length >= LONG_STEP).then_some((step, length))
    })
}

/// Whether the learning rate was on its way up at `step`.
pub(super) fn is_rising(facts: Facts, step: u64) -> bool {
    let rates = facts.learning_rates();
    let back = if rates.are_logged { RISE_POINTS } else { RISE_CHECKPOINTS };
    let until = rates.until(step);
    let before = until.len().checked_sub(back).map(|index| until[index].1);
    matches!((before, until.last()), (Some(before), Some((_, now))) if *now > RISING * before)
}

/// Whether gradients stood out at a rate that was not rising, and at which the run came back by itself: that is none that it
/// cannot take. A loss that left its level tells of the rate even where it comes back to that of guessing.
pub(super) fn was_taken(facts: Facts, onset: &Onset) -> bool {
    matches!(onset.sign, Sign::GradientNorm(_))
        && !is_rising(facts, onset.step)
        && recovery::is_at_the_same_rate(facts, onset.step)
}

/// Whether the learning rate was at its peak so far at `step`, as one that rises is.
pub(super) fn is_rising_or_at_peak(facts: Facts, step: u64) -> bool {
    let rates = facts.learning_rates();
    let peak = rates.peak(step);
    rates.at(step).is_some_and(|now| peak > 0.0 && now >= AT_PEAK * peak)
}

/// That it was so, and how that is known where no log says it.
fn high_rate(facts: Facts, step: u64) -> String {
    let rates = facts.learning_rates();
    let (first, last) = match rates.until(step) {
        [first, .., last] if !rates.are_logged => (first, last),
        [.., (_, now)] if !is_rising(facts, step) => {
            return format!("the learning rate was at its peak, {}", short(*now));
        }
        _ => return "the learning rate was rising or at its peak".to_owned(),
    };
    format!(
        "the learning rate, which only the optimizers in the checkpoints say, was rising or at its peak: {} at step {}, {} at step {}",
        short(first.1),
        first.0,
        short(last.1),
        last.0
    )
}

/// How to lower a learning rate to `lower`, a third of its `peak` by step `until`: by what it did until then.
pub(in crate::diagnosis) fn lowered(facts: Facts, until: u64, peak: f64, lower: &str) -> String {
    let rates = facts.learning_rates();
    let earlier = rates.until(until);
    let reached = earlier.iter().position(|(_, rate)| *rate >= AT_PEAK * peak);
    let (Some(reached), Some((step, now))) = (reached, earlier.last()) else {
        return format!("lower the learning rate from {} to {lower}", short(peak));
    };
    if *now >= AT_PEAK * peak && is_rising(facts, until) {
        return format!(
            "let the learning rate rise to {lower} at most, a third of the {} that it had come to at step {step} and was rising from",
            short(*now)
        );
    }
    if *now < AT_PEAK * peak {
        return format!(
            "lower the peak of the learning rate from {} to {lower}, a third of it (at step {step} it was {})",
            short(peak),
            short(*now)
        );
    }
    let since = match reached {
        0 => "from the start".to_owned(),
        _ => format!("from step {} on", earlier[reached].0),
    };
    format!("lower the learning rate from {}, which it was {since}, to {lower}, a third of it", short(peak))
}

/// Whether the full learning rate came within the first steps, and each of them could change the matrices by a large
/// share of themselves: an early step of Adam moves every element by about the learning rate, whatever the gradient.
pub(super) fn leaps(facts: Facts) -> bool {
    leap(facts).is_some_and(|(_, length)| length >= LONG_STEP)
}

/// The step at which the full learning rate came, and that rate over the RMS of the matrices at the first checkpoint.
fn leap(facts: Facts) -> Option<(u64, f64)> {
    let rates = facts.learning_rates();
    let peak = rates.peak(u64::MAX);
    let (reached, _) = *rates.by_step.iter().find(|(_, rate)| *rate >= AT_PEAK * peak)?;
    let (first, checkpoint) = facts.checkpoints().next()?;
    let adam = facts.checkpoints().any(|(_, one)| {
        one.optimizer.value().is_some_and(|state| state.optimizers.iter().any(|own| own.algorithm.is_adam()))
    });
    if peak <= 0.0 || reached > WARMUP_STEPS || !adam || first > WARMUP_STEPS {
        return None;
    }
    // What is not trained is not stepped, and of a matrix that begins at zero every step is all there is.
    let states = facts.checkpoints().map(|(_, one)| states(one)).find(|states| !states.is_empty());
    let is_stepped = |tensor: &&TensorAnalysis| {
        is_matrix(tensor)
            && states.as_ref().is_none_or(|states| states.contains_key(tensor.canonical_name.as_str()))
    };
    let sizes = checkpoint.tensors.iter().filter(is_stepped).filter_map(rms);
    let size = median(sizes.filter(|size| *size > 0.0))?;
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
    let is_before_the_end = |step: &u64| *step as f64 <= LATE_SHARE * last as f64;
    if let Some(died) = standstill::died(facts, onset).filter(is_before_the_end) {
        case = case.because(STRONG, format!("by step {died} most units of a layer had died"));
    } else if length >= LONG_STEP
        && let Some(gone) = state::gone_by(facts).filter(is_before_the_end)
    {
        case = case.because(
            STRONG,
            format!("by step {gone} gradients had vanished: the second moments of most parameters did nothing but decay"),
        );
    }
    (!case.reasons.is_empty()).then_some(case)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::model::{Analysis, LogAnalysis, LogPoint, Measured, Number};
    use crate::diagnosis::diagnose;
    use crate::diagnosis::mechanism::seam::rate_jump;
    use crate::rules::Assessment;
    use crate::rules::test_support::{interval_tensor, run_of};

    /// A run of 900 steps that logs its loss alone, which leaves 3 at step 790 for 30; a checkpoint every 100 steps says the rate.
    fn unlogged(rate: impl Fn(f64) -> f64) -> Analysis {
        let mut run = run_of(9, || vec![interval_tensor("fc.weight")]);
        for (index, checkpoint) in run.checkpoints.iter_mut().enumerate() {
            if let Measured::Value(state) = &mut checkpoint.optimizer {
                state.optimizers[0].groups[0].learning_rate = Some(rate(100.0 * index as f64));
            }
        }
        let points = (1..=900).map(|step| LogPoint {
            step,
            loss: Some(Number(if step < 790 { 3.0 + 0.01 * (step % 7) as f64 } else { 30.0 })),
            ..LogPoint::default()
        });
        run.log = Some(LogAnalysis { points: points.collect(), ..LogAnalysis::default() });
        run
    }

    fn jump(rates: [f64; 5]) -> Option<u64> {
        let run = unlogged(|step| rates[crate::diagnosis::facts::whole(step / 100.0).min(4) as usize]);
        let facts = Facts { analysis: &run, assessment: &Assessment::default() };
        rate_jump(facts).map(|jump| jump.step)
    }

    #[test]
    fn a_rate_that_only_the_checkpoints_say_is_the_rate_of_the_run() {
        let creeping = diagnose(&unlogged(|step| 1e-3 * (step / 130.0).exp()), &Assessment::default());
        assert_eq!((creeping.mechanism, creeping.onset_step), (Mechanism::LearningRate, Some(790)));
        // 1e-3·exp(700/130) is 0.21803, a third of it 0.07268.
        let told =
            creeping.story.iter().find(|line| line.contains("only the optimizers")).expect("it is told");
        assert!(told.ends_with("0.001000 at step 0, 0.2180 at step 700"), "{told}");
        let lower = creeping.actions.iter().any(|action| {
            action.what.contains("to 0.07268 at most, a third of the 0.2180 that it had come to at step 700")
        });
        assert!(lower, "{:?}", creeping.actions);
        let falling = diagnose(&unlogged(|step| 1e-3 * (-step / 130.0).exp()), &Assessment::default());
        assert_eq!(falling.mechanism, Mechanism::Unknown);
    }

    #[test]
    fn a_jump_between_checkpoints_is_told_and_a_warm_up_or_a_restart_is_none() {
        assert_eq!(jump([1e-3, 1e-3, 1e-3, 1e-2, 1e-2]), Some(201));
        assert_eq!(jump([1e-5, 1e-4, 1e-3, 1e-2, 1e-2]), None);
        assert_eq!(jump([1e-3, 5e-4, 1e-4, 1e-3, 5e-4]), None);
        assert_eq!(jump([1e-3, 1e-2, 1e-2, 1e-2, 1e-2]), None);
    }
}
