//! What stopped: units that never fire again, parameters that are no longer trained.

use std::collections::BTreeSet;

use super::{CONCLUSIVE, Case, STRONG, SUPPORTING, rate, start};
use crate::analysis::model::{IntervalAnalysis, Role, TensorInterval, weight_of};
use crate::diagnosis::Mechanism;
use crate::diagnosis::facts::{Facts, States, is_query_or_key, median, states, whole};
use crate::diagnosis::onset::{self, LEVEL_POINTS, Onset, Sign, loss_levels};
use crate::number;
use crate::rules::{Confidence, Habit};

/// Share of a parameter's elements without any gradient over an interval above which its units are dead (D8: more than half).
const DEAD_SHARE: f64 = 0.5;

/// The same, above which a whole layer is dead.
const DEAD_LAYER: f64 = 0.9;

/// Points of the log with a learning rate of exactly 0, from one step to the end, that are no end of a schedule.
const FROZEN_POINTS: usize = 3;

/// Relative change over an interval below which a parameter that momentum moves has come to rest: the resolution of
/// f32, √k ulp over an interval.
const AT_REST: f64 = 1e-6;

/// A parameter that was trained, and is no more.
pub(super) fn frozen(facts: Facts, _: Option<&Onset>) -> Option<Case> {
    zero_rate(facts).or_else(|| stopped(facts))
}

/// A learning rate of 0 long before the end.
fn zero_rate(facts: Facts) -> Option<Case> {
    let rates: Vec<(u64, f64)> = facts
        .points()
        .iter()
        .filter_map(|point| Some((point.step, point.learning_rate?.finite()?)))
        .collect();
    let moving = rates.iter().rposition(|(_, rate)| *rate > 0.0)?;
    let zero = rates.len() - 1 - moving;
    if zero < FROZEN_POINTS {
        return None;
    }
    let (before, first) = (rates[moving].0, rates[moving + 1].0);
    Some(Case::of(Mechanism::Frozen).with_confidence(Confidence::Exact).at(first, [before, first]).because(
        CONCLUSIVE,
        format!("from step {first} on the learning rate is exactly 0, and nothing moves"),
    ))
}

/// Parameters that moved, and from one interval on are bit for bit what they were while others go on.
fn stopped(facts: Facts) -> Option<Case> {
    let intervals = &facts.analysis.intervals;
    for (index, interval) in intervals.iter().enumerate().skip(1) {
        let still: Vec<&TensorInterval> = interval
            .tensors
            .iter()
            .filter(|tensor| is_unmoved(tensor) && moved_before(intervals, index, tensor))
            .collect();
        let stays = |tensor: &&TensorInterval| {
            intervals[index..].iter().all(|later| {
                later.tensors.iter().filter(|own| own.canonical_name == tensor.canonical_name).all(is_unmoved)
            })
        };
        let still: Vec<&TensorInterval> =
            still.into_iter().filter(stays).filter(|tensor| !is_counting(facts, interval, tensor)).collect();
        // A bias before a norm has no gradient but rounding noise, and rests once steps are smaller than its ulp.
        if still.iter().all(|tensor| matches!(tensor.role, Role::Bias)) {
            continue;
        }
        let Some(first) = still.first() else { continue };
        let (from, to) = (interval.from_step, interval.to_step);
        let all = still.len() == interval.tensors.len();
        // Nothing moves either where a loss scaler skips every step.
        if all && onset::scale_collapse(facts).is_some_and(|collapse| collapse.step <= to) {
            return None;
        }
        let name = &first.canonical_name;
        let sentence = match still.len() - 1 {
            _ if all => format!("from step {from} on no parameter moved any more"),
            0 => format!("from step {from} on {name} was not updated any more, while the others were"),
            more => format!(
                "from step {from} on {name} and {} were not updated any more, while the others were",
                number::counted(more as u64, "more parameter")
            ),
        };
        let case = Case::of(Mechanism::Frozen)
            .with_confidence(Confidence::Exact)
            .in_tensor((!all).then(|| first.canonical_name.clone()))
            .at(from + 1, [from, to])
            .because(CONCLUSIVE, sentence);
        return Some(match start::explosive_recurrence(facts) {
            Some(layer) if layer == first.layer.path => case.although(
                STRONG,
                "its recurrence began with a gain at which its units saturate, and saturated units pass no gradient on",
            ),
            _ => case,
        });
    }
    None
}

/// Whether not one element changed over the interval.
fn is_unmoved(tensor: &TensorInterval) -> bool {
    tensor.change_rms.value() == Some(&0.0)
}

fn moved_before(intervals: &[IntervalAnalysis], index: usize, tensor: &TensorInterval) -> bool {
    let earlier = intervals[..index].iter().flat_map(|one| &one.tensors);
    earlier
        .filter(|own| own.canonical_name == tensor.canonical_name)
        .any(|own| own.change_rms.value().is_some_and(|&change| change > 0.0))
}

/// Whether the optimizer went on counting steps of the parameter: then it had a gradient, even if one of zeros.
fn is_counting(facts: Facts, interval: &IntervalAnalysis, tensor: &TensorInterval) -> bool {
    let step_at = |at: u64| {
        let (_, checkpoint) = facts.checkpoints().find(|(step, _)| *step == at)?;
        states(checkpoint).get(tensor.canonical_name.as_str())?.0.step
    };
    matches!((step_at(interval.from_step), step_at(interval.to_step)), (Some(from), Some(to)) if to > from)
}

/// The step by which the units of a layer had died, if any did.
pub(super) fn died(facts: Facts, onset: Option<&Onset>) -> Option<u64> {
    let died = facts.analysis.intervals.iter().find(|one| boundary(one, &dead_in(facts, one)).is_some())?;
    (!learned_on(facts, [died.from_step, died.to_step], onset, LEARNED_ON)).then_some(died.to_step)
}

/// Level of the loss after units died over that before, up to which the run learned on without them. 0.09 to 0.11 in small convolutional networks that
/// learn well with half of a layer dead from their first steps on; 0.36 and more in the zoos' runs whose units died of a fault.
const LEARNED_ON: f64 = 0.25;

/// Whether the loss went on falling, to a `share` of what it was, after something happened between these steps, up to where something else went wrong.
pub(super) fn learned_on(facts: Facts, [from, to]: [u64; 2], onset: Option<&Onset>, share: f64) -> bool {
    let end = onset.map_or(u64::MAX, |onset| onset.step);
    let losses: Vec<(u64, f64)> =
        facts.points().iter().filter_map(|point| Some((point.step, point.loss?.finite()?))).collect();
    // Of what happened before there was a level, the first one.
    let until_then = losses.partition_point(|(step, _)| *step <= from).max(LEVEL_POINTS);
    let until_end = losses.partition_point(|(step, _)| *step < end);
    let is_after = until_end >= LEVEL_POINTS && losses[until_end - LEVEL_POINTS].0 > to;
    if !is_after || until_then > until_end {
        return false;
    }
    let level = |until: usize| median(losses[until - LEVEL_POINTS..until].iter().map(|(_, loss)| *loss));
    matches!((level(until_then), level(until_end)), (Some(before), Some(after)) if after <= share * before)
}

/// The parameters most of whose elements had no gradient over an interval.
fn dead_in<'a>(facts: Facts, interval: &'a IntervalAnalysis) -> BTreeSet<&'a str> {
    let states = states_after(facts, interval);
    let dead = |tensor: &&TensorInterval| {
        dead_share(states.as_ref(), tensor).is_some_and(|share| share > DEAD_SHARE)
    };
    interval.tensors.iter().filter(dead).map(|tensor| tensor.canonical_name.as_str()).collect()
}

/// Intervals before the first without any gradient in which units may have begun to die.
const DIE_WITHIN: usize = 2;

/// Whether the level of the loss ends where it is lowest, but for what a run comes back from in waves.
fn ends_at_its_lowest(facts: Facts) -> bool {
    let levels = loss_levels(facts);
    let lowest = levels.iter().copied().fold(f64::INFINITY, f64::min);
    levels.last().is_some_and(|last| *last <= lowest * Habit::CALM.exp())
}

/// Units that never fire: their weights, their biases and what reads them get no gradient, and the bias behind them does.
pub(super) fn dead_units(facts: Facts, onset: Option<&Onset>) -> Option<Case> {
    for (index, interval) in facts.analysis.intervals.iter().enumerate() {
        let dead = dead_in(facts, interval);
        let Some(bias) = boundary(interval, &dead) else { continue };
        // Units take a while to die, and what the log shows of it first is when they began to.
        let since = facts.analysis.intervals[index.saturating_sub(DIE_WITHIN)].from_step;
        let share = dead_share(states_after(facts, interval).as_ref(), bias).unwrap_or(1.0);
        let is_first = interval.from_step == facts.checkpoints().next().map_or(0, |(step, _)| step);
        // Half of the units of a small network die in its ordinary life; a layer that is dead as a whole passes nothing on.
        let points = if largest_share(facts, bias) > DEAD_LAYER { CONCLUSIVE } else { STRONG + SUPPORTING };
        let case = Case::of(Mechanism::DeadUnits)
            .with_confidence(Confidence::Exact)
            .in_tensor(Some(bias.canonical_name.clone()))
            .because(
                points,
                format!(
                    "between steps {} and {} no gradient came through {} of the units of {}, and none to what reads them",
                    interval.from_step,
                    interval.to_step,
                    number::share(whole(1000.0 * share), 1000),
                    bias.layer.path
                ),
            )
            .number("share of units without a gradient", share, Some(DEAD_SHARE), "");
        let long = rate::long_steps(facts).is_some_and(|(step, _)| step <= interval.from_step);
        let case = if learned_on(facts, [interval.from_step, interval.to_step], onset, LEARNED_ON) {
            case.although(CONCLUSIVE, "the loss went on falling after they died")
        } else if is_first {
            case
        } else if long || rate::leaps(facts) {
            case.although(
                STRONG + SUPPORTING,
                "steps before were a large share of the weights: these pushed the units there",
            )
        } else if is_of_a_rising_rate(facts, onset, interval) {
            case.although(
                STRONG + SUPPORTING,
                "the learning rate had been rising until the failure showed: its steps pushed the units there",
            )
        } else if onset.is_some_and(|onset| onset.step <= since) {
            case.although(
                STRONG + SUPPORTING,
                "the log shows the failure long before they died: it is what killed them",
            )
        } else if points < CONCLUSIVE && onset.is_none() && ends_at_its_lowest(facts) {
            case.although(STRONG + SUPPORTING, "the loss went on falling, and is at its lowest")
        } else {
            case
        };
        let earlier = onset.filter(|onset| {
            let is_seen = matches!(onset.sign, Sign::Loss(_) | Sign::GradientNorm(_));
            is_seen && !onset.is_explosion() && (since + 1..=interval.from_step).contains(&onset.step)
        });
        return Some(if is_first {
            case.since_the_start(interval.from_step.max(1))
        } else if let Some(onset) = earlier {
            case.at(onset.step, onset.interval)
        } else {
            case.at(interval.from_step + 1, [interval.from_step, interval.to_step])
        });
    }
    None
}

/// Whether units died over an interval into which the learning rate had been rising, and the loss then rose at a rate that was still
/// the highest so far; or died behind a failure that the log shows while the rate was rising: what the rate did to the loss it did to them.
fn is_of_a_rising_rate(facts: Facts, onset: Option<&Onset>, interval: &IntervalAnalysis) -> bool {
    onset.is_some_and(|onset| match onset.sign {
        Sign::Loss(_) if onset.step > interval.from_step => {
            rate::is_rising(facts, interval.from_step) && rate::is_rising_or_at_peak(facts, onset.step)
        }
        Sign::Loss(_) | Sign::GradientNorm(_) if onset.step <= interval.from_step => {
            rate::is_rising(facts, onset.step)
        }
        _ => false,
    })
}

/// The largest share of a parameter's elements that had no gradient over any one interval.
fn largest_share(facts: Facts, tensor: &TensorInterval) -> f64 {
    let intervals = facts.analysis.intervals.iter();
    let shares = intervals.filter_map(|interval| {
        let own = interval.tensors.iter().find(|own| own.canonical_name == tensor.canonical_name)?;
        dead_share(states_after(facts, interval).as_ref(), own)
    });
    shares.fold(0.0, f64::max)
}

/// The states of the checkpoint that an interval ends at.
fn states_after<'a>(facts: Facts<'a>, interval: &IntervalAnalysis) -> Option<States<'a>> {
    let (_, checkpoint) = facts.checkpoints().find(|(step, _)| *step == interval.to_step)?;
    Some(states(checkpoint))
}

/// Share of a parameter's elements that had no gradient over an interval, by the states at its end.
fn dead_share(states: Option<&States>, tensor: &TensorInterval) -> Option<f64> {
    let state = states?.get(tensor.canonical_name.as_str()).map(|(state, _)| *state);
    let never =
        state.and_then(|state| state.rows.value()).map(|rows| rows.zero as f64 / rows.count.max(1) as f64);
    if let Some(&decayed) = tensor.floor_share.value() {
        // Free decay is asked of elements that have a second moment; those without never had a gradient.
        let never = never.unwrap_or(0.0);
        return Some(never + (1.0 - never) * decayed);
    }
    if never.is_some_and(|never| never == 1.0) {
        return Some(1.0);
    }
    let change = tensor.relative_change.value()?;
    Some(if *change <= AT_REST { 1.0 } else { 0.0 })
}

/// The bias of the last layer that is dead, with its weight, and with the weight of the layer after it, whose own bias
/// is alive: that is where the gradient stops.
fn boundary<'a>(interval: &'a IntervalAnalysis, dead: &BTreeSet<&str>) -> Option<&'a TensorInterval> {
    let mut biased: Vec<(&TensorInterval, &TensorInterval)> = interval
        .tensors
        .iter()
        .filter(|tensor| matches!(tensor.role, Role::Bias))
        .filter_map(|bias| {
            let weight = weight_of(interval, bias)?;
            // A softmax cancels what a bias of its keys adds: it has no gradient in any run, and behind it there are no units.
            (!is_query_or_key(weight.role)).then_some((bias, weight))
        })
        .collect();
    biased.sort_by_key(|(bias, _)| bias.layer.order);
    biased.windows(2).rev().find_map(|pair| {
        let ((bias, weight), (next_bias, next_weight)) = (pair[0], pair[1]);
        let is_dead = |tensor: &TensorInterval| dead.contains(tensor.canonical_name.as_str());
        let zero = weight.weight_rms.value() == Some(&0.0);
        (is_dead(bias) && is_dead(weight) && is_dead(next_weight) && !is_dead(next_bias) && !zero)
            .then_some(bias)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::model::{LogAnalysis, LogPoint, Measured, Number};
    use crate::rules::Assessment;
    use crate::rules::test_support::{interval_tensor, run_of};

    /// Weight and bias of three layers, of which the first and the weight of the second have no gradient.
    fn dead_layer(roles: [Role; 3]) -> Option<String> {
        let tensors = || {
            let of = |(at, role): (usize, Role)| {
                ["weight", "bias"].map(|leaf| {
                    let mut tensor = interval_tensor(&format!("layer{at}.{leaf}"));
                    tensor.layer.order = at as u64;
                    tensor.role = if leaf == "bias" { Role::Bias } else { role };
                    tensor
                })
            };
            roles.into_iter().enumerate().flat_map(of).collect()
        };
        let run = run_of(1, tensors);
        let dead = BTreeSet::from(["layer0.weight", "layer0.bias", "layer1.weight"]);
        boundary(&run.intervals[0], &dead).map(|bias| bias.canonical_name.clone())
    }

    #[test]
    fn keys_whose_bias_a_softmax_cancels_are_no_dead_units() {
        assert_eq!(dead_layer([Role::Linear; 3]), Some("layer0.bias".to_owned()));
        assert_eq!(dead_layer([Role::AttentionKey, Role::AttentionValue, Role::Linear]), None);
        assert_eq!(dead_layer([Role::AttentionQuery, Role::Linear, Role::Linear]), None);
    }

    /// Points against dead units that die between steps 700 and 800 of a run whose loss rises from step `rises` on, at these learning
    /// rates of its log.
    fn against(rises: u64, rate: fn(f64) -> f64) -> f64 {
        let layers = || {
            let of = |at: u64| {
                ["weight", "bias"].map(|leaf| {
                    let mut tensor = interval_tensor(&format!("layer{at}.{leaf}"));
                    tensor.layer.order = at;
                    tensor.role = if leaf == "bias" { Role::Bias } else { Role::Linear };
                    tensor
                })
            };
            (0..3).flat_map(of).collect()
        };
        let mut run = run_of(9, layers);
        for tensor in &mut run.intervals[7].tensors[..3] {
            tensor.floor_share = Measured::Value(1.0);
        }
        let points = (1..=900).map(|step| LogPoint {
            step,
            learning_rate: Some(Number(rate(step as f64))),
            ..LogPoint::default()
        });
        run.log = Some(LogAnalysis { points: points.collect(), ..LogAnalysis::default() });
        let facts = Facts { analysis: &run, assessment: &Assessment::default() };
        let onset = Onset { step: rises, interval: [rises - 1, rises], sign: Sign::Loss(1.6) };
        let case = dead_units(facts, Some(&onset)).expect("units died");
        // What the log shows in the two intervals before is when they began to.
        let began = if (501..=700).contains(&rises) { rises } else { 701 };
        assert_eq!((case.tensor.as_deref(), case.onset), (Some("layer0.bias"), Some(began)));
        CONCLUSIVE - case.points
    }

    #[test]
    fn units_that_a_rising_rate_killed_on_its_way_are_not_the_cause() {
        let creeping = |step: f64| 1e-3 * (step / 130.0).exp();
        assert_eq!(against(792, creeping), STRONG + SUPPORTING);
        // Or soon behind the loss that it raised.
        assert_eq!(against(650, creeping), STRONG + SUPPORTING);
        // Steady, or falling again.
        assert_eq!(against(792, |_| 1e-3), 0.0);
        assert_eq!(against(792, |step| 1e-3 * (750.0 - step).abs().max(1.0)), 0.0);
        assert_eq!(against(650, |_| 1e-3), 0.0);
    }

    #[test]
    fn units_that_died_long_after_the_log_shows_the_failure_are_not_its_cause() {
        // The two intervals before that in which they are dead begin at step 500.
        assert_eq!(against(501, |_| 1e-3), 0.0);
        assert_eq!(against(500, |_| 1e-3), STRONG + SUPPORTING);
    }

    /// Units that are dead from step 100 to 200 of 600, and a loss of 2 that is `after` from step 250 on and 2 again from step 500 on.
    #[test]
    fn units_whose_death_a_run_learns_on_without_are_not_what_failed() {
        let learns = |after: f64, onset: Option<u64>| {
            let mut run = run_of(6, Vec::new);
            let loss = |step: u64| if (250..500).contains(&step) { after } else { 2.0 };
            let points = (1..=600).map(|step| LogPoint {
                step,
                loss: Some(Number(loss(step))),
                ..LogPoint::default()
            });
            run.log = Some(LogAnalysis { points: points.collect(), ..LogAnalysis::default() });
            let onset = onset.map(|step| Onset { step, interval: [step - 1, step], sign: Sign::Loss(2.0) });
            let facts = Facts { analysis: &run, assessment: &Assessment::default() };
            learned_on(
                facts,
                [run.intervals[1].from_step, run.intervals[1].to_step],
                onset.as_ref(),
                LEARNED_ON,
            )
        };
        assert!(learns(0.45, Some(500)));
        assert!(!learns(0.55, Some(500)), "by less than three quarters");
        assert!(!learns(0.45, None), "in the end it is where it was");
        assert!(!learns(0.45, Some(210)), "too little of it is after they died");
        assert!(!learns(0.45, Some(150)), "something went wrong before");
    }

    #[test]
    fn a_loss_ends_at_its_lowest_up_to_what_a_run_comes_back_from() {
        let ends = |end: f64| {
            let loss = |step: u64| Some(Number(if step < 800 { 2.0 - step as f64 / 800.0 } else { end }));
            let points = (0..900).map(|step| LogPoint { step, loss: loss(step), ..LogPoint::default() });
            let mut run = run_of(1, Vec::new);
            run.log = Some(LogAnalysis { points: points.collect(), ..LogAnalysis::default() });
            ends_at_its_lowest(Facts { analysis: &run, assessment: &Assessment::default() })
        };
        // The lowest level is about 1.01: a quarter above it is 1.26.
        assert_eq!([0.5, 1.2, 1.3].map(ends), [true, true, false]);
    }
}
