//! What came in with one batch or one gradient: a spike, a number that is none, a range that half precision lacks.

use std::collections::BTreeMap;

use super::{CONCLUSIVE, Case, STRONG, SUPPORTING, rate, seam, state};
use crate::analysis::model::{CheckpointAnalysis, IntervalAnalysis, LogPoint, TensorInterval};
use crate::diagnosis::Mechanism;
use crate::diagnosis::burst::{self, Burst};
use crate::diagnosis::facts::{Facts, median, whole};
use crate::diagnosis::lone::Lone;
use crate::diagnosis::onset::{self, Onset, ScaleCollapse, Sign};
use crate::diagnosis::pulse::{self, LayerNorms, Pulse};
use crate::diagnosis::suspects::{self, Lead, is_vector};
use crate::diagnosis::{bracket, lone, run_up};
use crate::number::{counted, short};
use crate::rules::Confidence;

/// Interval gradient over its trailing median from which an interval stands out: a gradient twelve times the usual,
/// once in 100 steps, gives √((99 + 144)/100).
const INTERVAL_RATIO: f64 = 1.56;

/// Intervals before one without which what is usual is not known well enough to tell a spike by it alone.
const HISTORY: usize = 3;

/// Relative change over its trailing median, of the interval of a logged spike, from which a parameter took part in it.
const CHANGE_RATIO: f64 = 1.2;

/// Steps before a spike within which a change of the learning rate is its cause.
const RATE_STEPS: u64 = 20;

/// Excess of the largest norm of an interval over that which one gradient of a parameter must have given, between which
/// they are the same: 0.94 to 1.4 in runs with such a gradient; 1.8 and more where the energy came otherwise.
const SAME_SIZE: (f64, f64) = (0.7, 1.6);

/// Share of the gradient of an interval from which another interval's is as large.
const AS_LARGE: f64 = 0.8;

/// Steps by which another sign may come before this one without being its cause.
const MAY_PRECEDE: u64 = 3;

/// Points before one whose norms by layer are what is usual.
const LAYER_POINTS: usize = 32;

/// A layer's norm over its own median, over that of the others in the same step, from which it leads.
const LAYER_LEAD: f64 = 5.0;

/// One gradient far above all others, in one step or in a few in a row, in one tensor or in all.
pub(super) fn gradient_spike(facts: Facts, onset: Option<&Onset>) -> Option<Case> {
    let thrown = onset.and_then(|onset| Some((onset, run_up::thrown(facts, onset.step)?)));
    // What stands out behind a gradient that threw the run comes of it.
    let is_behind = |point: &LogPoint| thrown.is_some_and(|(onset, _)| onset.step < point.step);
    let burst = largest_burst(facts).filter(|burst| !is_behind(burst.first));
    let pulse = largest_pulse(facts).filter(|pulse| !is_behind(pulse.point));
    let pulse = pulse.filter(|pulse| burst.is_none_or(|burst| pulse.ratio > burst.ratio));
    let burst = burst.filter(|_| pulse.is_none());
    let is_told = pulse.is_some() || burst.is_some() || thrown.is_some();
    let hidden = if is_told { None } else { layer_pulse(facts) };
    let logged = pulse.map(|pulse| pulse.point).or(burst.map(|burst| burst.first));
    let logged = logged.or(hidden.as_ref().map(|(point, _)| *point));
    let interval = match logged {
        Some(point) => interval_of(facts, point.step),
        None => with_history(facts).iter().find(|one| stands_out(facts, one, false).is_some()),
    };
    let lead = interval.and_then(|one| stands_out(facts, one, logged.is_some()));
    let mut case = Case::of(Mechanism::GradientSpike).with_confidence(Confidence::Calibrated);
    if let Some(point) = logged {
        case = case.at(point.step, onset::interval(facts, point.step));
    }
    if let Some(Pulse { point, ratio }) = pulse {
        case = case
            .in_tensor(leading_layer(facts, point).map(|layer| weight_of(facts, &layer)))
            .because(
                STRONG,
                format!(
                    "the gradient norm of step {} alone was {} times that of the steps around it",
                    point.step,
                    short(ratio)
                ),
            )
            .number(
                "gradient norm over the median of the steps around it",
                ratio,
                Some(onset::SPIKE_RATIO),
                "1",
            );
    }
    if let Some(burst) = burst {
        case = of_burst(facts, case, burst);
    }
    if let Some((point, layer)) = hidden {
        case = case
            .because(
                STRONG,
                format!("at step {} the gradient of {layer} alone left its usual norm", point.step),
            )
            .in_tensor(Some(layer));
    }
    if let (Some(interval), Some(lead)) = (interval, &lead) {
        let (from, to) = (interval.from_step, interval.to_step);
        case = match lead {
            Lead::One { tensor, ratio, others } => case.in_tensor(Some(tensor.clone())).because(
                STRONG,
                format!(
                    "between steps {from} and {to} the gradient of {tensor} was {} times its usual norm, that of the others {}",
                    short(*ratio),
                    short(*others)
                ),
            ),
            Lead::All { ratio } => case.in_tensor(None).because(
                SUPPORTING,
                format!("between steps {from} and {to} all gradients were {} times their usual norm", short(*ratio)),
            ),
        };
        if case.onset.is_none() {
            let step = dated(facts, interval).unwrap_or(from + 1);
            case = case.at(step, [from, to]);
        }
        if let Some(tensor) = &case.tensor
            && state::was_decaying(facts, interval, tensor)
        {
            case = case.although(
                STRONG,
                "its second moment had only decayed for a while: it is the usual that was too small",
            );
        }
        if logged.is_none() {
            let (Lead::One { ratio, .. } | Lead::All { ratio }) = lead;
            case = case.number("gradient of the interval over its usual", *ratio, Some(INTERVAL_RATIO), "1");
        }
        if logged.is_none() && is_denied(facts, interval, lead) {
            case = case.although(
                STRONG + SUPPORTING,
                "the log of these steps has no gradient of the size that one alone must have had",
            );
        }
        let ended = burst.and_then(|burst| interval_of(facts, burst.last.step)).unwrap_or(interval);
        if goes_on(facts, ended, case.tensor.as_deref()) {
            case = case.although(STRONG, "the gradient stayed that large in the intervals after");
        }
        if logged.is_none() && came_up(facts, interval, case.tensor.as_deref()) {
            case = case
                .although(STRONG, "the gradient was nearly that large in the interval before: it grew to it");
        }
    }
    if let (Some(pulse), None) = (pulse, &case.tensor)
        && pulse::again(facts, pulse) > onset::FEW_AGAIN
    {
        case = case.although(STRONG, "it came again and again, which no single gradient does");
    }
    if logged.is_none()
        && let Some(run_up) = run_up::run_up(facts)
        && let Some(ratio) = run_up.norm_at_once
    {
        let (step, lost) = (run_up.first.step, run_up.lost);
        case = case.at(step, onset::interval(facts, step)).until(lost - 1).because(
            STRONG,
            format!(
                "loss and gradient norm of step {step} were {} and {} times what was usual, from one step to the next, and the run was lost by step {lost}",
                short(run_up.ratio),
                short(ratio)
            ),
        );
    }
    if logged.is_none()
        && let Some((onset, ratio)) = thrown
    {
        case = case
            .at(onset.step, onset.interval)
            .because(
                STRONG + SUPPORTING,
                format!(
                    "the gradient norm of step {} was {} times what was usual, from one step to the next and at weights that were sound: one batch threw the run",
                    onset.step,
                    short(ratio)
                ),
            )
            .number("gradient norm over its median", ratio, Some(run_up::THROWN), "1");
    }
    if case.reasons.is_empty()
        && let Some(onset) = onset
        && let Sign::GradientNorm(ratio) = onset.sign
        && rate::was_taken(facts, onset)
    {
        case = case.at(onset.step, onset.interval).because(
            STRONG,
            format!(
                "at step {} the gradient norm was {} times its median, and the loss came back at the same learning rate: single gradients, and not the rate, were too large",
                onset.step,
                short(ratio)
            ),
        );
    }
    if case.points < STRONG
        && let Some(lone) = lone::lone(facts)
    {
        case = of_lone(lone);
    }
    if let (Some(onset), Some(step)) = (onset, case.onset)
        && onset.step + MAY_PRECEDE < step
    {
        let points = if is_lost_by_then(facts, onset, step) { STRONG } else { SUPPORTING };
        case = case.although(points, format!("the run was failing from step {} on, before that", onset.step));
    }
    if let (Some(step), Some(changed)) = (case.onset, seam::rate_jump(facts).map(|jump| jump.step))
        && changed <= step
        && step <= changed + RATE_STEPS
    {
        case = case.although(STRONG, format!("the learning rate had jumped at step {changed}"));
    }
    (!case.reasons.is_empty()).then_some(case)
}

/// Whether the level of the loss right before a gradient that came at `step` was far above that before the onset already.
fn is_lost_by_then(facts: Facts, onset: &Onset, step: u64) -> bool {
    let level = |until: u64| {
        let points = facts.points_until(until);
        let last = &points[points.len().saturating_sub(onset::LEVEL_POINTS)..];
        median(last.iter().filter_map(|point| point.loss?.finite()))
    };
    let (before, then) = (onset.step.checked_sub(1).and_then(level), step.checked_sub(1).and_then(level));
    matches!(onset.sign, Sign::Loss(_))
        && matches!((before, then), (Some(before), Some(then)) if before > 0.0 && then >= onset::EXPLODED * before)
}

/// What several gradients in a row say that came and went at once.
fn of_burst(facts: Facts, case: Case, burst: Burst) -> Case {
    let (first, last) = (burst.first.step, burst.last.step);
    let case = case
        .in_tensor(leading_layer(facts, burst.first).map(|layer| weight_of(facts, &layer)))
        .until(last)
        .because(
            STRONG,
            format!(
                "the gradient norms of steps {first} to {last}, {} in a row, were up to {} times what was usual, from one step to the next, and as suddenly they were not: so many batches were bad",
                counted(burst.points as u64, "logged step"),
                short(burst.ratio)
            ),
        )
        .number("gradient norm over the median of the steps before", burst.ratio, Some(onset::SPIKE_RATIO), "1");
    if !burst.is_at_the_same_rate {
        return case;
    }
    case.because(
        SUPPORTING,
        "the learning rate was the same before and after it ended: it is not what was too large",
    )
}

/// What one gradient of one parameter says that the norm of all nearly hid.
fn of_lone(lone: Lone) -> Case {
    let Lone { tensor, step, interval, ratio } = lone;
    let [from, to] = interval;
    Case::of(Mechanism::GradientSpike)
        .with_confidence(Confidence::Calibrated)
        .at(step, [from, step])
        .because(
            STRONG,
            format!(
                "between steps {from} and {to} the share of {tensor} in the gradients was {} times that of the intervals around, no other's left it so, and step {step} has just the norm that one gradient of it must have given",
                short(ratio)
            ),
        )
        .in_tensor(Some(tensor))
        .number("share of the gradients over that around it", ratio, Some(lone::LEFT.exp()), "1")
}

/// The largest burst of the logged norm.
fn largest_burst(facts: Facts<'_>) -> Option<Burst<'_>> {
    burst::bursts(facts).into_iter().max_by(|a, b| a.ratio.total_cmp(&b.ratio))
}

/// The interval that has seen the gradient of a step.
fn interval_of(facts: Facts<'_>, step: u64) -> Option<&IntervalAnalysis> {
    facts.analysis.intervals.iter().find(|one| one.from_step < step && step <= one.to_step)
}

/// The largest pulse of the logged norm.
fn largest_pulse(facts: Facts<'_>) -> Option<Pulse<'_>> {
    pulse::pulses(facts).into_iter().max_by(|a, b| a.ratio.total_cmp(&b.ratio))
}

/// The layer whose logged norm left its own median by far more than the others' did in the same step.
fn leading_layer(facts: Facts, point: &LogPoint) -> Option<String> {
    let before = facts.points_until(point.step.checked_sub(1)?);
    let before = &before[before.len().saturating_sub(LAYER_POINTS)..];
    let ratios: Vec<(&str, f64)> = point
        .grad_norm_by_layer
        .iter()
        .filter_map(|(layer, norm)| {
            let usual = median(before.iter().filter_map(|own| own.grad_norm_by_layer.get(layer)?.finite()))?;
            Some((layer.as_str(), norm.finite()? / usual)).filter(|(_, ratio)| ratio.is_finite())
        })
        .collect();
    let (first, ratio) = ratios.iter().copied().max_by(|a, b| a.1.total_cmp(&b.1))?;
    let others = median(ratios.iter().filter(|(layer, _)| *layer != first).map(|(_, ratio)| *ratio))?;
    (ratio >= LAYER_LEAD * others.max(1.0)).then(|| first.to_owned())
}

/// The weight of a layer, or the layer where it has no one weight.
fn weight_of(facts: Facts, layer: &str) -> String {
    let own = facts
        .parameters()
        .into_iter()
        .filter(|tensor| tensor.canonical_name == layer || tensor.layer.path == layer);
    let largest = own.max_by_key(|tensor| tensor.elements);
    largest.map_or_else(|| layer.to_owned(), |tensor| tensor.canonical_name.clone())
}

/// The first step at which one layer alone had a gradient far from its usual, though the norm of all hid it.
fn layer_pulse(facts: Facts<'_>) -> Option<(&LogPoint, String)> {
    let points = facts.points();
    let mut logged = points.iter().skip(LAYER_POINTS).filter(|point| point.grad_norm_by_layer.len() > 1);
    // Of each layer that leads once.
    let mut layers: BTreeMap<String, (String, bool, LayerNorms)> = BTreeMap::new();
    let parameters = facts.parameters();
    logged.find_map(|point| {
        let layer = leading_layer(facts, point)?;
        let (weight, is_few, norms) = layers.entry(layer).or_insert_with_key(|layer| {
            let weight = weight_of(facts, layer);
            // The norm of a few gains or biases is one of anything.
            let is_few = parameters.iter().any(|own| own.canonical_name == weight && is_vector(own.role));
            (weight, is_few, LayerNorms::of(facts, layer))
        });
        (!*is_few && norms.is_pulse(point.step)).then(|| (point, weight.clone()))
    })
}

/// The intervals that enough others came before to say what is usual: where no log has a spike, an early one is training that has just begun.
fn with_history(facts: Facts<'_>) -> &[IntervalAnalysis] {
    let intervals = &facts.analysis.intervals[..];
    let is_measured =
        |one: &IntervalAnalysis| one.tensors.iter().any(|own| own.gradient_norm.value().is_some());
    let mut measured = intervals.iter().enumerate().filter(|(_, one)| is_measured(one));
    measured.nth(HISTORY).map_or(&[], |(first, _)| &intervals[first..])
}

/// Whether the log of an interval has no step whose norm is what one gradient of the leading parameter must have made it.
fn is_denied(facts: Facts, interval: &IntervalAnalysis, lead: &Lead) -> bool {
    let Lead::One { tensor, ratio, .. } = lead else { return false };
    let (least, most) = SAME_SIZE;
    let largest = lone::largest_norm(facts, interval, tensor, *ratio);
    largest.is_some_and(|(_, excess)| !(least..=most).contains(&excess))
}

/// Whose gradient stands out in an interval, if anyone's does. Only a spike that the log has seen is looked for by the
/// steps, where no second moment tells: momentum carries one gradient on for 1/(1−μ) of them.
fn stands_out(facts: Facts, interval: &IntervalAnalysis, is_logged: bool) -> Option<Lead> {
    let blind =
        facts.analysis.intervals.iter().flat_map(|one| &one.tensors).all(|own| own.energy.value().is_none());
    if !blind {
        // The gradient of one factor of an adapter is as large as the other is, and that grows from zero.
        let is_asked = |tensor: &TensorInterval| is_logged || !tensor.role.is_adapter();
        let gradient =
            |tensor: &TensorInterval| tensor.gradient_ratio.value().copied().filter(|_| is_asked(tensor));
        return suspects::lead(interval, gradient, INTERVAL_RATIO);
    }
    let change = |tensor: &TensorInterval| tensor.change_ratio.value().copied();
    // Where all parameters have come to move less than before, that is what is usual by now.
    let usual = median(interval.tensors.iter().filter_map(change)).map_or(1.0, |usual| usual.min(1.0));
    if is_logged {
        suspects::lead(interval, |tensor| Some(change(tensor)? / usual), CHANGE_RATIO)
    } else {
        None
    }
}

/// The step that the optimizer's moments at the end of an interval give for a spike in it (I7).
fn dated(facts: Facts, interval: &IntervalAnalysis) -> Option<u64> {
    let (step, checkpoint) = facts.checkpoints().find(|(step, _)| *step == interval.to_step)?;
    let spike = checkpoint.optimizer.value()?.spike.value()?;
    let date = step.checked_sub(whole(spike.age))?;
    (interval.from_step < date && date <= interval.to_step).then_some(date)
}

/// Whether the interval after the next still has a gradient as large: energy leaves an interval with it.
fn goes_on(facts: Facts, interval: &IntervalAnalysis, tensor: Option<&str>) -> bool {
    let later = facts.analysis.intervals.iter().find(|one| one.from_step >= interval.to_step);
    is_as_large(later, interval, tensor)
}

/// Whether the interval before already had a gradient as large: one that grows is above its usual norm all the time.
fn came_up(facts: Facts, interval: &IntervalAnalysis, tensor: Option<&str>) -> bool {
    let earlier = facts.analysis.intervals.iter().rev().find(|one| one.to_step <= interval.from_step);
    is_as_large(earlier, interval, tensor)
}

fn is_as_large(other: Option<&IntervalAnalysis>, interval: &IntervalAnalysis, tensor: Option<&str>) -> bool {
    let norm = |one: &IntervalAnalysis| {
        let own = one.tensors.iter().filter(|own| tensor.is_none_or(|name| name == own.canonical_name));
        median(own.filter_map(|own| own.gradient_norm.value().copied()))
    };
    let (Some(now), Some(other)) = (norm(interval), other.and_then(norm)) else { return false };
    other >= AS_LARGE * now
}

/// A number that is none, in a run that was calm until then.
pub(super) fn non_finite(facts: Facts, onset: Option<&Onset>) -> Option<Case> {
    let first = onset::first_lost(facts);
    let state = facts.checkpoints().find(|(_, one)| onset::has_non_finite(one));
    let mut case = Case::of(Mechanism::NonFinite).with_confidence(Confidence::Exact);
    if let Some(point) = first {
        case = case.at(point.step, onset::interval(facts, point.step)).because(
            STRONG,
            format!("the first loss or gradient that is not finite is that of step {}", point.step),
        );
    }
    if let Some((step, checkpoint)) = state {
        let before = bracket::before(facts, step);
        if case.onset.is_none_or(|onset| onset > step) {
            case = case.at(before + 1, [before, step]);
        }
        case = case
            .in_tensor(only_non_finite(checkpoint))
            .because(STRONG, format!("{} holds NaN or infinity", checkpoint.name));
    }
    let began = case.onset?;
    if let Some(layer) = first.and_then(only_layer) {
        case = case.in_tensor(Some(layer));
    }
    Some(match onset {
        Some(onset)
            if onset.step < began && !matches!(onset.sign, Sign::NonFinite | Sign::NonFiniteState) =>
        {
            case.although(
                CONCLUSIVE,
                format!("the run was failing from step {} on, before anything was not finite", onset.step),
            )
        }
        _ => case.because(SUPPORTING, "nothing stood out in the steps before"),
    })
}

/// The one parameter of a checkpoint that is not finite, where it is one alone.
fn only_non_finite(checkpoint: &CheckpointAnalysis) -> Option<String> {
    let bad = checkpoint.tensors.iter().filter(|tensor| {
        tensor.is_parameter()
            && tensor.statistics.value().is_some_and(|statistics| statistics.non_finite() > 0)
    });
    let mut bad = bad.map(|tensor| tensor.canonical_name.clone());
    let first = bad.next()?;
    bad.next().is_none().then_some(first)
}

/// The one layer whose logged norm is not finite.
fn only_layer(point: &LogPoint) -> Option<String> {
    let mut bad = point.grad_norm_by_layer.iter().filter(|(_, norm)| norm.finite().is_none());
    let (first, _) = bad.next()?;
    bad.next().is_none().then(|| first.clone())
}

/// Numbers beyond 65504: the loss scale is halved again and again and cannot be halved enough.
pub(super) fn fp16_overflow(facts: Facts, onset: Option<&Onset>) -> Option<Case> {
    let ScaleCollapse { step, halvings } = onset::scale_collapse(facts)?;
    let case = Case::of(Mechanism::Fp16Overflow)
        .with_confidence(Confidence::Calibrated)
        .at(step, onset::interval(facts, step));
    let case = match halvings {
        Some(halvings) => case
            .because(
                CONCLUSIVE,
                format!("from step {step} on {halvings} steps had to be skipped, and the loss scale halved, in short time"),
            )
            .number("halvings of the loss scale", halvings as f64, Some(onset::HALVINGS as f64), ""),
        None => case.because(CONCLUSIVE, format!("from step {step} on the loss scale came down to 0 in short time")),
    };
    Some(match onset {
        Some(onset) if onset.step + MAY_PRECEDE < step && onset.sign != Sign::LossScale => {
            case.although(STRONG, format!("the run was failing from step {} on, before that", onset.step))
        }
        _ => case,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::model::{Measured, Role};
    use crate::diagnosis::diagnose;
    use crate::rules::Assessment;
    use crate::rules::test_support::{interval_tensor, run_of};

    /// What is told of a map whose gradient in the interval `at` is 2.4 times its usual 0.1, and was `before` in the one before that.
    fn told_at(at: usize, before: f64, role: Role) -> Mechanism {
        let names = ["a.weight", "b.weight", "c.weight"];
        let mut run = run_of(5, || names.map(interval_tensor).to_vec());
        run.intervals[at - 1].tensors[1].gradient_norm = Measured::Value(before);
        run.intervals[at].tensors[1].gradient_norm = Measured::Value(0.24);
        run.intervals[at].tensors[1].gradient_ratio = Measured::Value(2.4);
        run.intervals.iter_mut().for_each(|one| one.tensors[1].role = role);
        diagnose(&run, &Assessment::default()).mechanism
    }

    fn told(before: f64) -> Mechanism {
        told_at(4, before, Role::Linear)
    }

    #[test]
    fn what_only_an_interval_tells_needs_three_before_it_and_is_none_of_an_adapter() {
        assert_eq!(told_at(3, 0.1, Role::Linear), Mechanism::GradientSpike);
        assert_eq!(told_at(2, 0.1, Role::Linear), Mechanism::None);
        assert_eq!(told_at(4, 0.1, Role::LoraB), Mechanism::None);
    }

    #[test]
    fn a_gradient_that_grew_to_what_it_is_is_no_spike() {
        assert_eq!(told(0.1), Mechanism::GradientSpike);
        assert_eq!(told(0.2), Mechanism::None);
    }
}
