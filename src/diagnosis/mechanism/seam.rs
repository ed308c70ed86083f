//! What changes from one step to the next and stays: another divisor, another learning rate, replicas that part.

use super::{CONCLUSIVE, Case, STRONG, SUPPORTING};
use crate::analysis::model::{LogPoint, Number};
use crate::diagnosis::Mechanism;
use crate::diagnosis::facts::{Facts, median};
use crate::diagnosis::onset::Onset;
use crate::number::short;
use crate::rules::Confidence;

/// Points on either side that a level is the median of.
const LEVEL_POINTS: usize = 20;

/// Points on either side without which no change of level is told.
const FEWEST_LEVEL_POINTS: usize = 6;

/// Factor between two levels of the gradient norm that a change of the divisor gives: N micro-batches of independent
/// noise grow it by √N, of signal by N; two of the former give 1.41.
const LEVEL_FACTOR: f64 = 1.6;

/// Robust standard deviations of ln(norm) that the change of level must exceed.
const LEVEL_DEVIATIONS: f64 = 4.0;

/// Two neighbouring learning rates further apart than this are no schedule (C9 asks for 10; schedules of published
/// trainers change by at most 2 from one step to the next, but for the first steps of a warm-up).
const RATE_JUMP: f64 = 3.0;

/// A learning rate this far above every one before it is none the schedule has had: restarts return to their peak.
const ABOVE_PEAK: f64 = 1.2;

/// Replicas whose copies of a tensor differ.
pub(super) fn replica_drift(facts: Facts, _: Option<&Onset>) -> Option<Case> {
    let found = [facts.findings("FP601"), facts.findings("FP602")].concat();
    let first = found.iter().filter(|finding| finding.step.is_some()).min_by_key(|finding| finding.step);
    let finding = first.or(found.first())?;
    let step = finding.step.or_else(|| facts.checkpoints().next().map(|(step, _)| step)).unwrap_or(0);
    let before = facts.checkpoints().map(|(own, _)| own).take_while(|&own| own < step).last().unwrap_or(0);
    Some(
        Case::of(Mechanism::ReplicaDrift)
            .with_confidence(Confidence::Exact)
            .in_tensor(facts.tensor_of(finding))
            .at(before + 1, [before, step])
            .because(CONCLUSIVE, finding.message.clone()),
    )
}

/// A learning rate that is not the schedule's.
pub(super) fn schedule_break(facts: Facts, _: Option<&Onset>) -> Option<Case> {
    let jump = rate_jump(facts);
    let disagreement = facts.findings("FP309").into_iter().next();
    let mut case = Case::of(Mechanism::ScheduleBreak).with_confidence(Confidence::Calibrated);
    if let Some((before, step, from, to)) = jump {
        case = case
            .at(step, [before, step])
            .because(
                STRONG,
                format!(
                    "at step {step} the learning rate went from {} to {}, above every one before",
                    short(from),
                    short(to)
                ),
            )
            .number("learning rate over the one before", to / from, Some(RATE_JUMP), "1");
        if facts.checkpoints().any(|(own, _)| own == before) {
            case = case.because(SUPPORTING, "that is the first step after a checkpoint, as after a resume");
        }
    }
    if let Some(finding) = disagreement {
        case = case.because(STRONG, finding.message.clone()).with_confidence(Confidence::Exact);
        if case.onset.is_none()
            && let Some(step) = finding.step
        {
            let before = facts.checkpoints().map(|(own, _)| own).take_while(|&own| own < step).last().unwrap_or(0);
            case = case.at(before + 1, [before, step]);
        }
    }
    (!case.reasons.is_empty()).then_some(case)
}

/// The first jump of the logged learning rate to where no schedule has had it: (step before, step, from, to).
fn rate_jump(facts: Facts) -> Option<(u64, u64, f64, f64)> {
    let rates: Vec<(u64, f64)> = facts
        .points()
        .iter()
        .filter_map(|point| Some((point.step, point.learning_rate?.finite()?)))
        .filter(|(_, rate)| *rate > 0.0)
        .collect();
    let mut peak: f64 = 0.0;
    for (index, pair) in rates.windows(2).enumerate() {
        let ((before, from), (step, to)) = (pair[0], pair[1]);
        peak = peak.max(from);
        // The first steps of a warm-up double, and a schedule that starts at zero does more.
        if index >= FEWEST_LEVEL_POINTS && to > RATE_JUMP * from && to > ABOVE_PEAK * peak {
            return Some((before, step, from, to));
        }
    }
    None
}

/// A gradient, or a loss, that is another multiple of what it was, at once and for good.
pub(super) fn accumulation_change(facts: Facts, _: Option<&Onset>) -> Option<Case> {
    let points: Vec<&LogPoint> = facts.points().iter().collect();
    let (index, factor) = (1..points.len()).filter_map(|index| Some((index, norm_step(&points, index)?)))
        .max_by(|a, b| a.1.0.total_cmp(&b.1.0))
        .map(|(index, (_, factor))| (index, factor))?;
    let (before, point) = (points[index - 1].step, points[index]);
    let mut case = Case::of(Mechanism::AccumulationChange)
        .with_confidence(Confidence::Calibrated)
        .at(point.step, [before, point.step])
        .because(
            SUPPORTING,
            format!("from step {} on gradient norms were {} times those before, and stayed so", point.step, short(factor)),
        )
        .number("gradient norm after over before", factor, Some(LEVEL_FACTOR), "1");
    if facts.checkpoints().any(|(own, _)| own == before) {
        case = case.because(SUPPORTING, "that is the first step after a checkpoint, as after a resume with another setting");
    }
    case = match loss_step(&points, index) {
        Some(loss) if (loss - loss.round()).abs() <= 0.1 * loss && loss.round() >= 2.0 => case
            .because(STRONG, format!("the loss became {} times what it was in the same step", short(loss)))
            .number("loss after over before", loss, None, "1"),
        Some(loss) if loss <= 1.15 => {
            case.because(SUPPORTING, "the loss went on as before: the gradient is counted otherwise, not larger")
        }
        _ => case.although(STRONG, "the loss changed with it, and by no whole number"),
    };
    if let (Some(Number(was)), Some(Number(is))) = (points[index - 1].learning_rate, point.learning_rate)
        && is > 1.5 * was
    {
        case = case.although(STRONG, "the learning rate changed in the same step");
    }
    if facts.findings("FP505").is_empty() {
        return Some(case);
    }
    Some(case.because(SUPPORTING, "the logged level changed by a factor that a divisor explains (FP505)"))
}

/// By how many deviations and what factor the gradient norm changes its level at `index`, if it stays changed.
fn norm_step(points: &[&LogPoint], index: usize) -> Option<(f64, f64)> {
    let norm = |point: &&LogPoint| point.grad_norm?.finite().filter(|&norm| norm > 0.0).map(f64::ln);
    let before: Vec<f64> = points[index.saturating_sub(LEVEL_POINTS)..index].iter().filter_map(norm).collect();
    let after: Vec<f64> = points[index..points.len().min(index + LEVEL_POINTS)].iter().filter_map(norm).collect();
    if before.len() < FEWEST_LEVEL_POINTS || after.len() < FEWEST_LEVEL_POINTS {
        return None;
    }
    let (low, high) = (median(before.iter().copied())?, median(after.iter().copied())?);
    let spread = |values: &[f64], middle: f64| median(values.iter().map(|value| (value - middle).abs()));
    let deviation = 1.4826 * spread(&before, low)?.max(spread(&after, high)?).max(0.05);
    let step = high - low;
    // At once: the first norms of the new level are nearer to it than to the old one.
    let at_once = after[..3].iter().all(|value| *value > f64::midpoint(low, high))
        && before[before.len() - 3..].iter().all(|value| *value < f64::midpoint(low, high));
    let half = after.len() / 2;
    let is_flat = (median(after[half..].iter().copied())? - median(after[..half].iter().copied())?).abs() < step / 3.0;
    let stays = points[index..].iter().filter_map(norm).filter(|value| *value < f64::midpoint(low, high)).count();
    let stays = stays * 10 <= points.len() - index;
    (at_once && is_flat && stays && step >= LEVEL_FACTOR.ln() && step >= LEVEL_DEVIATIONS * deviation)
        .then_some((step / deviation, step.exp()))
}

/// By what factor the level of the loss changes at `index`.
fn loss_step(points: &[&LogPoint], index: usize) -> Option<f64> {
    let loss = |point: &&LogPoint| point.loss?.finite().filter(|&loss| loss > 0.0);
    let before = median(points[index.saturating_sub(LEVEL_POINTS)..index].iter().filter_map(loss))?;
    let after = median(points[index..points.len().min(index + FEWEST_LEVEL_POINTS)].iter().filter_map(loss))?;
    Some(after / before)
}
