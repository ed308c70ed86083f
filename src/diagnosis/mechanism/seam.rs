//! What changes from one step to the next and stays: another divisor, another learning rate, replicas that part.

use super::{CONCLUSIVE, Case, STRONG, SUPPORTING};
use crate::analysis::model::{LogPoint, Section, TensorDifference};
use crate::diagnosis::Mechanism;
use crate::diagnosis::bracket;
use crate::diagnosis::facts::{Facts, median};
use crate::diagnosis::onset::{self, Onset};
use crate::number::short;
use crate::robust::{MAD_FLOOR, MAD_TO_DEVIATION, MEDIAN_ERROR};
use crate::rules::Confidence;

/// Points on either side that a level is the median of.
const LEVEL_POINTS: usize = 20;

/// Points on either side without which no change of level is told.
const FEWEST_LEVEL_POINTS: usize = 6;

/// Factor between two levels of the gradient norm that a change of the divisor gives: N micro-batches of independent
/// noise grow it by √N, of signal by N; two of the former give 1.41.
const LEVEL_FACTOR: f64 = 1.6;

/// Standard errors of the difference of two medians that the change of level must exceed: at most 4.9 at the seams of
/// healthy runs whose level stays, at least 6.9 where a divisor changed.
const LEVEL_ERRORS: f64 = 6.0;

/// Steps by which two changes are apart that are of one cause.
const ONE_CAUSE_WITHIN: u64 = 3;

/// Micro-batches of one step, beyond which a factor is none of theirs.
const MOST_PARTS: f64 = 1024.0;

/// Share of its height that a new level may drift by: a divergence and an edge of stability go on rising.
const DRIFT: f64 = 0.33;

/// Of so many points next to the change, so many are on its side.
const NEXT: (usize, usize) = (5, 4);

/// Learning rate after over before above which the level follows it.
const SAME_RATE: f64 = 1.2;

/// Two neighbouring learning rates further apart than this are no schedule (C9 asks for 10; schedules of published
/// trainers change by at most 2 from one step to the next, but for the first steps of a warm-up).
const RATE_JUMP: f64 = 3.0;

/// Checkpoints without a rise of the learning rate before a jump, where only their optimizers say it: between two of a warm-up it
/// rises by any factor.
const STEADY_CHECKPOINTS: usize = 3;

/// A learning rate this far above every one before it is none the schedule has had: restarts return to their peak.
const ABOVE_PEAK: f64 = 1.2;

/// Replicas whose copies of a tensor differ.
pub(super) fn replica_drift(facts: Facts, _: Option<&Onset>) -> Option<Case> {
    let parted = facts.analysis.replicas.iter().filter_map(|replica| {
        let weights = replica.differing.iter().filter(|own| own.section == Section::Model);
        let largest = weights.max_by(|a, b| relative(a).total_cmp(&relative(b)))?;
        Some((replica, largest))
    });
    let (replica, tensor) = parted.min_by_key(|(replica, _)| replica.step)?;
    let (step, count) = (replica.step, replica.differing.len());
    let before = bracket::before(facts, step);
    Some(
        Case::of(Mechanism::ReplicaDrift)
            .with_confidence(Confidence::Exact)
            .in_tensor(Some(tensor.canonical_name.clone()))
            .at(before + 1, [before, step])
            .because(
                CONCLUSIVE,
                format!(
                    "at step {step} {} differs from {} in {count} tensors, most in {}",
                    replica.name, replica.against, tensor.canonical_name
                ),
            )
            .number("tensors that differ between replicas", count as f64, Some(0.0), ""),
    )
}

/// How far two replicas of a tensor are apart.
fn relative(tensor: &TensorDifference) -> f64 {
    tensor.relative_difference.value().copied().unwrap_or(f64::INFINITY)
}

/// A learning rate that is not the schedule's.
pub(super) fn schedule_break(facts: Facts, _: Option<&Onset>) -> Option<Case> {
    let jump = rate_jump(facts);
    let disagreement = facts.findings("FP309").into_iter().next();
    let mut case = Case::of(Mechanism::ScheduleBreak).with_confidence(Confidence::Calibrated);
    if let Some(jump) = jump {
        let [before, step] = jump.between;
        let (from, to) = (short(jump.from), short(jump.to));
        let sentence = if jump.is_logged {
            format!("at step {step} the learning rate went from {from} to {to}, above every one before")
        } else {
            format!(
                "by the optimizers in the checkpoints, the learning rate went from {from} to {to} between steps {before} and {step}, above every one before"
            )
        };
        case = case.at(jump.step, jump.between).because(STRONG, sentence).number(
            "learning rate over the one before",
            jump.to / jump.from,
            Some(RATE_JUMP),
            "1",
        );
        if jump.is_logged && facts.checkpoints().any(|(own, _)| own == before) {
            case = case.because(SUPPORTING, "that is the first step after a checkpoint, as after a resume");
        }
    }
    if let Some(finding) = disagreement {
        case = case.because(STRONG, finding.message.clone()).with_confidence(Confidence::Exact);
        if case.onset.is_none()
            && let Some(step) = finding.step
        {
            let before = bracket::before(facts, step);
            case = case.at(before + 1, [before, step]);
        }
    }
    (!case.reasons.is_empty()).then_some(case)
}

/// A learning rate that no schedule has had.
pub(super) struct RateJump {
    /// The first step that it can have been used at.
    pub step: u64,
    /// The steps of the rate before it and of itself.
    between: [u64; 2],
    from: f64,
    to: f64,
    is_logged: bool,
}

/// The first jump of the learning rate to where it has never been.
pub(super) fn rate_jump(facts: Facts) -> Option<RateJump> {
    let rates = facts.learning_rates();
    let is_logged = rates.are_logged;
    let positive: Vec<(u64, f64)> = rates.by_step.into_iter().filter(|(_, rate)| *rate > 0.0).collect();
    // The first steps of a warm-up double, and a schedule that starts at zero does more.
    let fewest = if is_logged { FEWEST_LEVEL_POINTS } else { STEADY_CHECKPOINTS - 1 };
    let (mut peak, mut has_risen): (f64, bool) = (0.0, false);
    for (index, pair) in positive.windows(2).enumerate() {
        let ((before, from), (after, to)) = (pair[0], pair[1]);
        peak = peak.max(from);
        let is_known = index >= fewest && (is_logged || !has_risen);
        if is_known && to > RATE_JUMP * from && to > ABOVE_PEAK * peak {
            let step = if is_logged { after } else { before + 1 };
            return Some(RateJump { step, between: [before, after], from, to, is_logged });
        }
        has_risen |= to > from;
    }
    None
}

/// A gradient, or a loss, that is another multiple of what it was, at once and for good, from a checkpoint on.
pub(super) fn accumulation_change(facts: Facts, _: Option<&Onset>) -> Option<Case> {
    let points: Vec<&LogPoint> = facts.points().iter().collect();
    // A divisor changes where a run is resumed.
    let is_seam = |index: &usize| facts.checkpoints().any(|(own, _)| own == points[index - 1].step);
    let steps =
        (1..points.len()).filter(is_seam).filter_map(|index| Some((index, norm_step(&points, index)?)));
    let steps = steps.filter(|(_, (_, factor))| *factor <= MOST_PARTS);
    let (index, (_, factor)) = steps.max_by(|a, b| a.1.0.total_cmp(&b.1.0))?;
    let (before, point) = (points[index - 1].step, points[index]);
    let mut case = Case::of(Mechanism::AccumulationChange)
        .with_confidence(Confidence::Calibrated)
        .at(point.step, [before, point.step])
        .because(
            STRONG,
            format!(
                "from step {} on, the first after a checkpoint, gradient norms were {} times those before, and stayed so",
                point.step,
                short(factor)
            ),
        )
        .number("gradient norm after over before", factor, Some(LEVEL_FACTOR), "1");
    case = match loss_step(&points, index) {
        Some(loss) if (loss - loss.round()).abs() <= 0.2 * loss && loss.round() >= 2.0 => case
            .because(
                SUPPORTING,
                format!("the loss became {} times what it was in the same step", short(loss)),
            )
            .number("loss after over before", loss, None, "1"),
        Some(loss) if loss <= 1.25 => case
            .because(SUPPORTING, "the loss went on as before: the gradient is counted otherwise, not larger"),
        _ => case.although(SUPPORTING, "the loss changed with it, and by no whole number"),
    };
    if let Some(collapse) = onset::scale_collapse(facts)
        && collapse.step.abs_diff(point.step) <= ONE_CAUSE_WITHIN
    {
        case = case.although(STRONG, "the loss scale collapsed with it, which no other divisor makes it do");
    }
    if rate_step(&points, index).is_some_and(|factor| factor > SAME_RATE) {
        case = case.although(STRONG, "the learning rate rose with it");
    }
    if facts
        .points_from(point.step)
        .iter()
        .any(|later| later.loss.is_some_and(|loss| loss.finite().is_none()))
    {
        case = case.although(STRONG, "the loss was lost later, which no other divisor does");
    }
    if facts.findings("FP505").is_empty() {
        return Some(case);
    }
    Some(case.because(SUPPORTING, "the logged level changed by a factor that a divisor explains (FP505)"))
}

/// By how many standard errors and what factor the gradient norm changes its level at `index`, if at once and for good.
fn norm_step(points: &[&LogPoint], index: usize) -> Option<(f64, f64)> {
    let norm = |point: &&LogPoint| point.grad_norm?.finite().filter(|&norm| norm > 0.0).map(f64::ln);
    let before: Vec<f64> =
        points[index.saturating_sub(LEVEL_POINTS)..index].iter().filter_map(norm).collect();
    let after: Vec<f64> =
        points[index..points.len().min(index + LEVEL_POINTS)].iter().filter_map(norm).collect();
    if before.len() < FEWEST_LEVEL_POINTS || after.len() < FEWEST_LEVEL_POINTS {
        return None;
    }
    let (low, high) = (median(before.iter().copied())?, median(after.iter().copied())?);
    let spread = |values: &[f64], level: f64| median(values.iter().map(|value| (value - level).abs()));
    let deviation = MAD_TO_DEVIATION * spread(&before, low)?.max(spread(&after, high)?).max(MAD_FLOOR);
    let error = MEDIAN_ERROR * deviation * (1.0 / before.len() as f64 + 1.0 / after.len() as f64).sqrt();
    let (step, middle) = (high - low, f64::midpoint(low, high));
    let (next, enough) = NEXT;
    let above = after.iter().take(next).filter(|value| **value > middle).count();
    let below = before.iter().rev().take(next).filter(|value| **value < middle).count();
    let half = after.len() / 2;
    let drift = median(after[half..].iter().copied())? - median(after[..half].iter().copied())?;
    let fallen = points[index..].iter().filter_map(norm).filter(|value| *value < middle).count();
    let stays = fallen * 4 <= points.len() - index;
    (above >= enough
        && below >= enough
        && drift.abs() <= DRIFT * step
        && stays
        && step >= LEVEL_FACTOR.ln()
        && step >= LEVEL_ERRORS * error)
        .then_some((step / error, step.exp()))
}

/// By what factor the learning rate changes around `index`.
fn rate_step(points: &[&LogPoint], index: usize) -> Option<f64> {
    let rate = |point: &&LogPoint| point.learning_rate?.finite().filter(|&rate| rate > 0.0);
    let before = median(points[index.saturating_sub(LEVEL_POINTS)..index].iter().filter_map(rate))?;
    let after = median(points[index..points.len().min(index + LEVEL_POINTS)].iter().filter_map(rate))?;
    Some(after / before)
}

/// By what factor the level of the loss changes at `index`.
fn loss_step(points: &[&LogPoint], index: usize) -> Option<f64> {
    let loss = |point: &&LogPoint| point.loss?.finite().filter(|&loss| loss > 0.0);
    let before = median(points[index.saturating_sub(LEVEL_POINTS)..index].iter().filter_map(loss))?;
    let after = median(points[index..points.len().min(index + LEVEL_POINTS)].iter().filter_map(loss))?;
    Some(after / before)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::model::{LogAnalysis, LogPoint, Number};
    use crate::rules::Assessment;
    use crate::rules::test_support::{interval_tensor, run_of};

    /// Points for another divisor of norms that are `factor` times as large from step 401 on, right after a checkpoint, and of a loss scale that is
    /// halved from there on, or not.
    fn told(factor: f64, collapses: bool) -> Option<f64> {
        let mut run = run_of(9, || vec![interval_tensor("fc.weight")]);
        let points = (1..=900u64).map(|step| {
            let level = if step > 400 { factor } else { 1.0 };
            let halvings = if collapses { step.saturating_sub(400).min(8) } else { 0 };
            LogPoint {
                step,
                loss: Some(Number(1.0)),
                grad_norm: Some(Number(level * (1.0 + 0.1 * (step % 3) as f64))),
                loss_scale: Some(Number(65536.0 / f64::from(1u32 << halvings))),
                ..LogPoint::default()
            }
        });
        run.log = Some(LogAnalysis { points: points.collect(), ..LogAnalysis::default() });
        let facts = Facts { analysis: &run, assessment: &Assessment::default() };
        accumulation_change(facts, None).map(|case| case.points)
    }

    #[test]
    fn norms_of_another_divisor_are_told_and_those_of_no_divisor_are_not() {
        assert_eq!(told(8.0, false), Some(STRONG + SUPPORTING));
        assert_eq!(told(2000.0, false), None);
        assert_eq!(told(8.0, true), Some(SUPPORTING));
    }
}
