//! What became of the optimizer's state: lost, kept too coarsely, divided by the wrong epsilon, or left behind.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};

use super::{CONCLUSIVE, Case, STRONG, SUPPORTING, rate};
use crate::analysis::model::{IntervalAnalysis, Number, TensorInterval};
use crate::diagnosis::Mechanism;
use crate::diagnosis::facts::{Facts, is_matrix, states};
use crate::diagnosis::onset::{self, Onset, Sign};
use crate::diagnosis::run_up;
use crate::diagnosis::suspects::is_vector;
use crate::number::short;
use crate::rules::{Confidence, Finding};

/// Share of the elements whose second moment fell faster than it can, from which the state was replaced (I3). One
/// element would do but for rounding.
const REPLACED_SHARE: f64 = 0.5;

/// A second moment below this share of its free decay was replaced (I3): rounding takes off parts in a million.
const BELOW_DECAY: f64 = 0.99;

/// RMS of √v̂ over ε below which ε sets the steps (C4).
const EPSILON_FACTOR: f64 = 10.0;

/// The epsilon of torch's Adam: a larger one was chosen.
const USUAL_EPSILON: f64 = 1e-8;

/// Σv_{t+k}/(β₂^k Σv_t) up to which nothing but decay happened (C2).
const FREE_DECAY: f64 = 1.02;

/// Share of what a steady gradient adds to its second moment over an interval, β₂^-k − 1, up to which there was next to no
/// gradient: over a few steps of a slow moment, a steady one adds little more than `FREE_DECAY` itself.
const NEXT_TO_NONE: f64 = 0.1;

/// Gradient of an interval over what the second moment before it expects, from which the moment was stale (C3:
/// RMS_t above 2.3 precedes loss spikes).
const STALE: f64 = 2.3;

/// Second moment over what it was before it only decayed, from which steps have not grown for it: a twentieth.
const HARDLY_FALLEN: f64 = 0.9;

/// Moments, or a step counter, that do not continue those of the checkpoint before.
pub(super) fn state_lost(facts: Facts, _: Option<&Onset>) -> Option<Case> {
    facts.analysis.intervals.iter().find_map(|interval| {
        let (counted_at, counters) = counters_gone_back(facts, interval).unwrap_or_default();
        let replaced: BTreeSet<&str> =
            interval.tensors.iter().filter(|tensor| is_replaced(tensor)).map(|tensor| tensor.canonical_name.as_str()).collect();
        let lost: Vec<&str> = interval
            .tensors
            .iter()
            .map(|tensor| tensor.canonical_name.as_str())
            .filter(|name| counters.contains_key(name) || replaced.contains(name))
            .collect();
        let first = *lost.first()?;
        let (from, to) = (interval.from_step, interval.to_step);
        let everywhere = lost.len() * 2 > interval.tensors.len();
        let whose = if everywhere { format!("{} parameters", lost.len()) } else { first.to_owned() };
        let mut case = Case::of(Mechanism::StateLost)
            .with_confidence(Confidence::Exact)
            .in_tensor((!everywhere).then(|| first.to_owned()))
            .at(from + 1, [from, to])
            .number("parameters whose state was replaced", lost.len() as f64, None, "");
        if let Some((was, is)) = counters.get(first) {
            let since = counted_at.min(from);
            case = case.at(since + 1, [since, to]).because(
                CONCLUSIVE,
                format!("between steps {since} and {to} the step counter of {whose} went back from {was} to {is}"),
            );
        }
        if replaced.contains(first) {
            case = case.because(
                CONCLUSIVE,
                format!("between steps {from} and {to} the second moment of {whose} fell faster than it can decay: it was replaced"),
            );
        }
        if everywhere {
            case = case.although(
                0.0,
                "a new phase that begins with a fresh optimizer on purpose, as fine-tuning does, looks the same: if it was meant, nothing was lost",
            );
        }
        Some(case)
    })
}

/// The step counters of parameters, before and after.
type Counters<'a> = BTreeMap<&'a str, (f64, f64)>;

/// The step of the newest checkpoint until the start of an interval that keeps counters, and those before and after of parameters
/// that count fewer steps at the end of the interval: a checkpoint of the weights alone is what an optimizer is lost at.
fn counters_gone_back<'a>(facts: Facts<'a>, interval: &IntervalAnalysis) -> Option<(u64, Counters<'a>)> {
    let mut until = facts.checkpoints().rev().filter(|(step, _)| *step <= interval.from_step);
    let (counted_at, before) =
        until.find_map(|(step, one)| Some((step, states(one))).filter(|(_, states)| !states.is_empty()))?;
    let (_, after) = facts.checkpoints().find(|(own, _)| *own == interval.to_step)?;
    let gone_back = states(after).into_iter().filter_map(|(name, (state, _))| {
        let (was, is) = (before.get(name)?.0.step?, state.step?);
        (is < was).then_some((name, (was, is)))
    });
    Some((counted_at, gone_back.collect()))
}

fn is_replaced(tensor: &TensorInterval) -> bool {
    let fell = tensor.decay_ratio.value().is_some_and(|&ratio| ratio < BELOW_DECAY);
    let below = tensor.below_floor_share.value().is_some_and(|&share| share >= REPLACED_SHARE);
    fell || below
}

/// Second moments in a format that cannot follow them.
pub(super) fn low_precision_state(facts: Facts, _: Option<&Onset>) -> Option<Case> {
    let found = facts.findings("FP107");
    let finding = found.first()?;
    let (first, _) = facts.checkpoints().next()?;
    let tensors: BTreeSet<Option<String>> = found.iter().map(|finding| facts.tensor_of(finding)).collect();
    let one = if let [one] = &tensors.into_iter().collect::<Vec<_>>()[..] { one.clone() } else { None };
    let all = facts.parameters().len() > 1;
    let case = Case::of(Mechanism::LowPrecisionState)
        .with_confidence(Confidence::Exact)
        .in_tensor(one.filter(|_| !all || told_of_one(finding)))
        .since_the_start(finding.step.unwrap_or(first))
        .because(CONCLUSIVE, finding.message.clone());
    Some(match broken_by_a_step(facts) {
        Some(step) => case.because(
            STRONG,
            format!("at step {step} weights are not finite, while every loss and gradient until then is: the steps are what broke them"),
        ),
        None => case,
    })
}

/// The step of the first checkpoint that is not finite, where the log has a finite loss or gradient for it and nothing else before.
pub(in crate::diagnosis) fn broken_by_a_step(facts: Facts) -> Option<u64> {
    let (step, _) = facts.checkpoints().find(|(_, one)| onset::has_non_finite(one))?;
    let logged = facts.points_until(step);
    let finite = |number: Option<Number>| number.is_none_or(|number| number.finite().is_some());
    let seen = logged.last().is_some_and(|point| point.step == step && point.grad_norm.is_some());
    let calm = logged.iter().all(|point| finite(point.loss) && finite(point.grad_norm));
    (seen && calm).then_some(step)
}

/// Whether a finding's numbers say that it is about one parameter alone.
fn told_of_one(finding: &Finding) -> bool {
    finding.evidence.iter().any(|evidence| evidence.unit == "parameters" && evidence.value == 1.0)
}

/// An epsilon that outweighs the gradients, or one that lets rounding noise step.
pub(super) fn epsilon(facts: Facts, onset: Option<&Onset>) -> Option<Case> {
    too_large(facts).or_else(|| too_small(facts, onset))
}

fn too_large(facts: Facts) -> Option<Case> {
    let (first, _) = facts.checkpoints().find(|(_, one)| !states(one).is_empty())?;
    facts.checkpoints().find_map(|(step, checkpoint)| {
        let states = states(checkpoint);
        let matrices = checkpoint.tensors.iter().filter(|tensor| is_matrix(tensor));
        let judged: Vec<(f64, f64)> = matrices
            .filter_map(|tensor| {
                let (state, group) = states.get(tensor.canonical_name.as_str())?;
                // What never had a gradient is below any epsilon.
                let rms = *state.denominator_rms.value().filter(|&&rms| rms > 0.0)?;
                Some((rms, group.epsilon.filter(|&epsilon| epsilon > 0.0)?))
            })
            .collect();
        let below: Vec<_> = judged.iter().filter(|(rms, epsilon)| *rms < EPSILON_FACTOR * epsilon).collect();
        let (rms, epsilon) = **below.first()?;
        (below.len() * 2 > judged.len()).then(|| {
            let what = format!(
                "at step {step} epsilon ({}) was more than a tenth of the gradients of {} of {} matrices: it set their steps",
                short(epsilon),
                below.len(),
                judged.len()
            );
            let case = Case::of(Mechanism::Epsilon).with_confidence(Confidence::Calibrated);
            // Gradients that vanish come below any epsilon in the end.
            let case = if step == first && epsilon > USUAL_EPSILON {
                case.since_the_start(step).because(STRONG + SUPPORTING, what)
            } else {
                case.at(step, [first, step]).because(SUPPORTING, what)
            };
            case.number("RMS of sqrt(v) over epsilon", rms / epsilon, Some(EPSILON_FACTOR), "1")
        })
    })
}

fn too_small(facts: Facts, onset: Option<&Onset>) -> Option<Case> {
    let finding = facts.findings("FP305").into_iter().next()?;
    let (first, _) = facts.checkpoints().next()?;
    let seen = finding.step.unwrap_or(first);
    let case = Case::of(Mechanism::Epsilon)
        .with_confidence(Confidence::Heuristic)
        .in_tensor(facts.tensor_of(finding).filter(|name| is_known(facts, name)))
        .since_the_start(seen)
        .because(STRONG + SUPPORTING, finding.message.clone());
    Some(match onset {
        Some(onset) if onset.step > seen => {
            case.because(SUPPORTING, "the run failed later, as it does when what moved so far is needed")
        }
        _ => case,
    })
}

/// Whether a name is that of a parameter, and not of state that could not be joined to one.
fn is_known(facts: Facts, name: &str) -> bool {
    facts.parameters().iter().any(|tensor| tensor.canonical_name == name)
}

/// A second moment that only decayed, until gradients came for which it was far too small.
pub(super) fn second_moment_decoupled(facts: Facts, onset: Option<&Onset>) -> Option<Case> {
    outrun(facts, onset).or_else(|| vanished(facts, onset))
}

/// Most second moments did nothing but decay, because gradients had vanished, and then the loss rose: the preconditioned
/// curvature grows with every step of decay until it passes the limit of stability (C2).
fn vanished(facts: Facts, onset: Option<&Onset>) -> Option<Case> {
    let seen = onset.copied().filter(|onset| matches!(onset.sign, Sign::Loss(_) | Sign::GradientNorm(_)));
    // Next to a loss of nothing, what it rises to may be next to nothing too.
    let exploded = onset::explosion(facts);
    let mut onsets: Vec<Onset> = seen.into_iter().chain(exploded).collect();
    onsets.sort_by_key(|onset| onset.step);
    onsets.iter().find_map(|onset| vanished_before(facts, onset))
}

fn vanished_before(facts: Facts, onset: &Onset) -> Option<Case> {
    let intervals = &facts.analysis.intervals;
    let index = intervals.iter().rposition(|one| one.to_step <= onset.step)?;
    let before = &intervals[index];
    let left = before.tensors.iter().filter(|tensor| tensor.decay_ratio.value().is_some());
    let decays = Decays::of(facts);
    let decay: Vec<f64> = left.map(|tensor| decays.before(index + 1, &tensor.canonical_name).left).collect();
    let free = decay.iter().filter(|left| **left <= HARDLY_FALLEN).count();
    (free * 2 > decay.len()).then(|| {
        let case = Case::of(Mechanism::SecondMomentDecoupled)
            .with_confidence(Confidence::Calibrated)
            .at(onset.step, onset.interval)
            .because(
                STRONG + STRONG,
                format!(
                    "between steps {} and {} the second moments of {free} of {} parameters did nothing but decay: gradients had vanished",
                    before.from_step,
                    before.to_step,
                    decay.len()
                ),
            )
            .because(SUPPORTING, "steps grow as the second moment decays, until the curvature is too much for them");
        let case = match run_up::at_once(facts, onset.step) {
            Some(ratio) => case.although(
                CONCLUSIVE,
                format!("a gradient {} times the usual came from one step to the next, and curvature lets them grow", short(ratio)),
            ),
            None => case,
        };
        unless_rate_rises(facts, onset.step, case)
    })
}

/// The step by which the second moments of most parameters had done nothing but decay over an interval.
pub(super) fn gone_by(facts: Facts) -> Option<u64> {
    let gone = facts.analysis.intervals.iter().find(|interval| {
        let own = OnlyDecayed::over(facts, interval);
        own.growth.len() * 2 > own.evaluated
    });
    gone.map(|interval| interval.to_step)
}

/// A learning rate that rises makes steps grow without any decay, and gradients vanish in what its steps have broken; as they do in what the first
/// ones have.
fn unless_rate_rises(facts: Facts, step: u64, case: Case) -> Case {
    if rate::is_rising(facts, step) {
        case.although(STRONG + SUPPORTING, "the learning rate was still rising: that alone makes steps grow")
    } else if rate::leaps(facts) {
        case.although(
            STRONG + SUPPORTING,
            "the first steps were a large share of the weights: gradients vanish in what these have broken",
        )
    } else {
        case
    }
}

/// Gradients came back that the decayed second moment did not expect.
fn outrun(facts: Facts, onset: Option<&Onset>) -> Option<Case> {
    let decays = Decays::of(facts);
    for (index, interval) in facts.analysis.intervals.iter().enumerate().skip(1) {
        let Some((_, before)) = facts.checkpoints().find(|(step, _)| *step == interval.from_step) else {
            continue;
        };
        let states = states(before);
        // Gradients of gains and biases come and go with the data.
        let matrices = interval.tensors.iter().filter(|tensor| !is_vector(tensor.role));
        let stale = matrices.filter_map(|tensor| {
            let expected = *states.get(tensor.canonical_name.as_str())?.0.gradient_norm.value()?;
            let ratio = *tensor.gradient_norm.value()? / expected;
            if !ratio.is_finite() || ratio < STALE {
                return None;
            }
            let decayed = decays.before(index, &tensor.canonical_name);
            (decayed.left <= HARDLY_FALLEN).then_some((tensor, ratio, decayed.steps))
        });
        let stale: Vec<(&TensorInterval, f64, u64)> = stale.collect();
        let Some((tensor, ratio, decayed)) = stale.iter().max_by(|a, b| a.1.total_cmp(&b.1)).copied() else {
            continue;
        };
        let everywhere = stale.len() * 2 > interval.tensors.len();
        let (from, to) = (interval.from_step, interval.to_step);
        let step = match onset {
            Some(onset) if from < onset.step && onset.step <= to => onset.step,
            _ => from + 1,
        };
        let case = Case::of(Mechanism::SecondMomentDecoupled)
            .with_confidence(Confidence::Calibrated)
            .in_tensor((!everywhere).then(|| tensor.canonical_name.clone()))
            .at(step, [from, to])
            .because(
                STRONG,
                format!(
                    "for {decayed} steps before step {from} the second moment of {} did nothing but decay",
                    if everywhere { format!("{} parameters", stale.len()) } else { tensor.canonical_name.clone() }
                ),
            )
            .because(
                STRONG,
                format!("then gradients {} times what it was prepared for arrived, and steps were that much too long", short(ratio)),
            )
            .number("gradient over what the second moment expects", ratio, Some(STALE), "1");
        return Some(unless_rate_rises(facts, step, case));
    }
    None
}

/// Whether the second moment of a parameter did nothing but decay right before an interval.
pub(super) fn was_decaying(facts: Facts, interval: &IntervalAnalysis, name: &str) -> bool {
    let mut intervals = facts.analysis.intervals.iter();
    let index = intervals.position(|own| own.from_step == interval.from_step);
    index.is_some_and(|index| Decays::of(facts).before(index, name).steps > 0)
}

/// For how many steps a second moment did nothing but decay, and what that left of it.
#[derive(Debug, Clone, Copy)]
struct Decay {
    steps: u64,
    left: f64,
}

/// What second moments did over the intervals of a run, each looked at once and only where it is asked for.
struct Decays<'a> {
    facts: Facts<'a>,
    intervals: Vec<OnceCell<OnlyDecayed<'a>>>,
}

impl<'a> Decays<'a> {
    fn of(facts: Facts<'a>) -> Self {
        Self { facts, intervals: facts.analysis.intervals.iter().map(|_| OnceCell::new()).collect() }
    }

    fn over(&self, index: usize) -> &OnlyDecayed<'a> {
        self.intervals[index]
            .get_or_init(|| OnlyDecayed::over(self.facts, &self.facts.analysis.intervals[index]))
    }

    /// The decay of a parameter's second moment over the intervals right before `index`.
    fn before(&self, index: usize, name: &str) -> Decay {
        let earlier = (0..index).rev().map_while(|earlier| {
            let interval = &self.facts.analysis.intervals[earlier];
            Some((interval.to_step - interval.from_step, *self.over(earlier).growth.get(name)?))
        });
        earlier.fold(Decay { steps: 0, left: 1.0 }, |decay, (steps, grown)| Decay {
            steps: decay.steps + steps,
            left: decay.left / (1.0 + grown),
        })
    }
}

/// The second moments that did next to nothing but decay over an interval.
struct OnlyDecayed<'a> {
    /// What a steady gradient would have added to each of them.
    growth: BTreeMap<&'a str, f64>,
    /// Of how many it is known whether they did: that of an optimizer without a β₂ is not.
    evaluated: usize,
}

impl<'a> OnlyDecayed<'a> {
    fn over(facts: Facts<'a>, interval: &'a IntervalAnalysis) -> Self {
        let mut found = Self { growth: BTreeMap::new(), evaluated: 0 };
        let end = facts.checkpoints().find(|(step, _)| *step == interval.to_step);
        let states = end.map(|(_, checkpoint)| states(checkpoint)).unwrap_or_default();
        for tensor in &interval.tensors {
            let name = tensor.canonical_name.as_str();
            let beta2 = states.get(name).and_then(|(_, group)| group.beta2);
            let (Some(&ratio), Some(beta2)) = (tensor.decay_ratio.value(), beta2) else { continue };
            let steady = steady_growth(interval, beta2);
            found.evaluated += 1;
            if ratio <= FREE_DECAY && ratio - 1.0 <= NEXT_TO_NONE * steady {
                found.growth.insert(name, steady);
            }
        }
        found
    }
}

/// What a steady gradient adds to a second moment over an interval, over what is left of it by then: β₂^-k − 1.
fn steady_growth(interval: &IntervalAnalysis, beta2: f64) -> f64 {
    beta2.powf(-((interval.to_step - interval.from_step) as f64)) - 1.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::model::{LogAnalysis, LogPoint, Measured};
    use crate::diagnosis::diagnose;
    use crate::rules::Assessment;
    use crate::rules::test_support::{interval_tensor, run_of};

    /// What is told of a map whose second moment only decays for 300 steps and then meets a gradient of 2.5 times the one of 0.1 that it
    /// expects, at this learning rate.
    fn told(rate: impl Fn(u64) -> f64) -> Mechanism {
        told_after(3, rate)
    }

    /// The same after so many intervals of 100 steps.
    fn told_after(intervals: usize, rate: impl Fn(u64) -> f64) -> Mechanism {
        let mut run = run_of(5, || vec![interval_tensor("fc.weight")]);
        for interval in &mut run.intervals[4 - intervals..4] {
            interval.tensors[0].decay_ratio = Measured::Value(1.0);
        }
        run.intervals[4].tensors[0].gradient_norm = Measured::Value(0.25);
        let points = (1..=500).map(|step| LogPoint {
            step,
            learning_rate: Some(Number(rate(step))),
            ..LogPoint::default()
        });
        run.log = Some(LogAnalysis { points: points.collect(), ..LogAnalysis::default() });
        diagnose(&run, &Assessment::default()).mechanism
    }

    #[test]
    fn a_moment_that_has_hardly_fallen_is_not_what_made_steps_too_long() {
        // 0.999^100 is 0.905, and its square 0.819.
        assert_eq!(told_after(2, |_| 1e-3), Mechanism::SecondMomentDecoupled);
        assert_ne!(told_after(1, |_| 1e-3), Mechanism::SecondMomentDecoupled);
    }

    #[test]
    fn a_loss_that_explodes_out_of_nothing_after_moments_decayed_is_told_by_them() {
        // It falls to 1e-10 and comes up to 1e-6, a millionth of what it fell; the norm grows by 1.5 a step, or comes at once.
        let told = |at_once: bool| {
            let mut run = run_of(5, || vec![interval_tensor("fc.weight")]);
            for interval in &mut run.intervals[1..4] {
                interval.tensors[0].decay_ratio = Measured::Value(1.0);
            }
            let points = (1..=500).map(|step: u64| {
                let norm = if step < 430 { 1e-5 } else { 1e-5 * 1.5f64.powf((step - 429).min(10) as f64) };
                let is_struck = at_once && step == 429;
                LogPoint {
                    step,
                    loss: Some(Number(if step < 430 { (-0.1 * step as f64).exp().max(1e-10) } else { 1e-6 })),
                    grad_norm: Some(Number(if is_struck { 1.0 } else { norm })),
                    grad_norm_z: is_struck.then_some(90.0),
                    grad_norm_ratio: is_struck.then_some(1e5),
                    learning_rate: Some(Number(1e-3)),
                    ..LogPoint::default()
                }
            });
            run.log = Some(LogAnalysis { points: points.collect(), ..LogAnalysis::default() });
            let told = diagnose(&run, &Assessment::default());
            (told.mechanism, told.onset_step)
        };
        assert_eq!(told(false), (Mechanism::SecondMomentDecoupled, Some(430)));
        assert_ne!(told(true).0, Mechanism::SecondMomentDecoupled);
    }

    #[test]
    fn what_outruns_a_decayed_moment_while_the_rate_rises_is_the_rates() {
        assert_eq!(told(|_| 1e-3), Mechanism::SecondMomentDecoupled);
        assert_eq!(told(|step| 1e-3 - 1e-6 * step as f64), Mechanism::SecondMomentDecoupled);
        assert_ne!(told(|step| 1e-6 * (step as f64 / 100.0).exp()), Mechanism::SecondMomentDecoupled);
    }

    #[test]
    fn a_moment_whose_beta2_is_not_known_is_none_that_decayed() {
        let told = |beta2: Option<f64>| {
            let mut run = run_of(5, || vec![interval_tensor("fc.weight")]);
            for interval in &mut run.intervals[1..4] {
                interval.tensors[0].decay_ratio = Measured::Value(1.0);
            }
            for checkpoint in &mut run.checkpoints {
                if let Measured::Value(state) = &mut checkpoint.optimizer {
                    state.optimizers[0].groups[0].beta2 = beta2;
                }
            }
            let facts = Facts { analysis: &run, assessment: &Assessment::default() };
            (gone_by(facts), was_decaying(facts, &run.intervals[4], "fc.weight"))
        };
        assert_eq!(told(Some(0.999)), (Some(run_of(5, Vec::new).intervals[1].to_step), true));
        assert_eq!(told(None), (None, false));
    }
}
