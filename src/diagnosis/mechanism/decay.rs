//! Weight decay that takes the weights away faster than gradients can hold them.

use super::{CONCLUSIVE, Case, STRONG, SUPPORTING};
use crate::analysis::model::{
    Algorithm, CheckpointAnalysis, ParameterGroup, TensorAnalysis, TensorInterval, decayed, is_mostly_decay,
};
use crate::diagnosis::Mechanism;
use crate::diagnosis::facts::{Facts, States, is_matrix, states};
use crate::diagnosis::onset::{Onset, Sign, loss_levels};
use crate::diagnosis::suspects::is_vector;
use crate::number::short;

/// Norm of a matrix at the end of an interval over that at its start, up to which it was taken away.
const HALVED: f64 = 0.5;

/// Weight decay that is usual for transformers (GPT-3, LLaMA, BLOOM): where it takes the weights away, the learning rate is at fault.
pub(in crate::diagnosis) const USUAL: f64 = 0.1;

/// The last level of the loss over the lowest, from which a run suffers. A run that is decayed on purpose, as to make it
/// generalise, goes on fitting: its loss stays where it is.
const SUFFERS: f64 = 1.05;

/// Weight decay over that of the checkpoint before from which it was set anew: schedules of it are slow.
const RAISED: f64 = 10.0;

/// Pairs of checkpoints, the one around the onset and those before, that it is looked for in: weights take a while to shrink.
const RAISED_WITHIN: usize = 2;

/// What decay did to one matrix.
struct Decayed {
    rate: f64,
    decay: f64,
    share: f64,
}

/// Most matrices halved within an interval by decay alone, or a decay that was raised where the loss left its level, and a loss that is higher for it.
pub(super) fn weight_decay(facts: Facts, onset: Option<&Onset>) -> Option<Case> {
    if !suffers(facts) {
        return None;
    }
    let gone = took_away(facts);
    let Some(raised) = onset.and_then(|onset| raised(facts, onset)) else { return gone };
    // What was raised is where it began, and what it took away later speaks for it too.
    Some(match gone.and_then(|gone| gone.reasons.into_iter().next()) {
        Some(reason) => raised.because(CONCLUSIVE, reason),
        None => raised,
    })
}

/// Most matrices halved within an interval.
fn took_away(facts: Facts) -> Option<Case> {
    facts.analysis.intervals.iter().enumerate().find_map(|(index, interval)| {
        let matrices: Vec<&TensorInterval> =
            interval.tensors.iter().filter(|tensor| !is_vector(tensor.role)).collect();
        let at = |step: u64| facts.checkpoints().find(|(own, _)| *own == step).map(|(_, one)| Settings::of(one));
        let (before, after) = (at(interval.from_step)?, at(interval.to_step)?);
        let gone: Vec<Decayed> =
            matrices.iter().filter_map(|tensor| taken_away(&before, &after, tensor)).collect();
        let worst = gone.iter().max_by(|a, b| a.share.total_cmp(&b.share))?;
        if gone.len() * 2 <= matrices.len() {
            return None;
        }
        let (from, to) = (interval.from_step, interval.to_step);
        let case = Case::of(Mechanism::WeightDecay)
            .because(
                CONCLUSIVE,
                format!(
                    "between steps {from} and {to} {} of {} matrices lost half of their norm or more: a weight decay of {} at the learning rate {} takes off {} of it",
                    gone.len(),
                    matrices.len(),
                    short(worst.decay),
                    short(worst.rate),
                    short(worst.share)
                ),
            )
            .number("share of the weights that decay takes off", worst.share, Some(HALVED), "1");
        Some(if index == 0 { case.since_the_start(from.max(1)) } else { case.at(from + 1, [from, to]) })
    })
}

/// A decay that most matrices were given anew between the two checkpoints around the onset, or the two before: the newest that say one.
fn raised(facts: Facts, onset: &Onset) -> Option<Case> {
    let Sign::Loss(_) = onset.sign else { return None };
    let said: Vec<(u64, Settings)> = facts
        .checkpoints()
        .map(|(step, one)| (step, Settings::of(one)))
        .filter(|(_, settings)| !settings.states.is_empty())
        .collect();
    let mut pairs = said.windows(2).rev().filter(|pair| pair[0].0 < onset.step).take(RAISED_WITHIN);
    pairs.find_map(|pair| raised_between(&pair[0], &pair[1], onset))
}

/// The same between these two checkpoints.
fn raised_between(
    (from, before): &(u64, Settings),
    (to, after): &(u64, Settings),
    onset: &Onset,
) -> Option<Case> {
    let is_stepped = |tensor: &&TensorAnalysis| {
        is_matrix(tensor) && after.states.contains_key(tensor.canonical_name.as_str())
    };
    let matrices =
        after.checkpoint.tensors.iter().filter(is_stepped).map(|tensor| tensor.canonical_name.as_str());
    let matrices: Vec<&str> = matrices.collect();
    let change = |name: &&str| Some((before.decay(name)?, after.decay(name)?));
    let is_raised = |(was, is): &(f64, f64)| *was > 0.0 && *is >= RAISED * was && *is > USUAL;
    let risen: Vec<(f64, f64)> = matrices.iter().filter_map(change).filter(is_raised).collect();
    if risen.len() * 2 <= matrices.len() {
        return None;
    }
    let (was, is) = risen.iter().copied().max_by(|a, b| a.1.total_cmp(&b.1))?;
    let alike = if risen.iter().all(|one| *one == (was, is)) { "" } else { ", for one," };
    let raised = format!(
        "between steps {from} and {to} the weight decay of {} of {} matrices was raised,{alike} from {} to {}",
        risen.len(),
        matrices.len(),
        short(was),
        short(is)
    );
    let suffers = format!("the loss left its level then or soon after, at step {}", onset.step);
    let case = Case::of(Mechanism::WeightDecay).at(onset.step, onset.interval);
    let case = case.because(STRONG, raised).because(SUPPORTING, suffers);
    Some(case.number("weight decay", is, Some(USUAL), "1"))
}

/// What decay took off a matrix that lost half of its norm, mostly by it.
fn taken_away(before: &Settings, after: &Settings, tensor: &TensorInterval) -> Option<Decayed> {
    let before = before.get(&tensor.canonical_name)?;
    let after = after.get(&tensor.canonical_name)?;
    let steps = *tensor.steps.value()?;
    let (rate, decay) = (f64::midpoint(before.0, after.0), after.1);
    let share = decayed(rate, decay, steps);
    let halved = (tensor.growth_rate.value()? * steps).exp() <= HALVED;
    (halved && is_mostly_decay(share, *tensor.relative_change.value()?)).then_some(Decayed {
        rate,
        decay,
        share,
    })
}

/// What the optimizer of a checkpoint is set to for each parameter.
struct Settings<'a> {
    checkpoint: &'a CheckpointAnalysis,
    states: States<'a>,
}

impl<'a> Settings<'a> {
    fn of(checkpoint: &'a CheckpointAnalysis) -> Self {
        Self { checkpoint, states: states(checkpoint) }
    }

    /// What steps a parameter, and its group.
    fn of_parameter(&self, name: &str) -> Option<(&'a Algorithm, &'a ParameterGroup)> {
        let (parameter, group) = *self.states.get(name)?;
        let optimizer = self.checkpoint.optimizer.value()?.optimizers.get(parameter.optimizer as usize)?;
        Some((&optimizer.algorithm, group))
    }

    /// The decay of a parameter that shrinks it at each step: that of AdamW passes the moments by, and without them a penalty is the same.
    fn decay(&self, name: &str) -> Option<f64> {
        let (algorithm, group) = self.of_parameter(name)?;
        matches!(algorithm, Algorithm::AdamW | Algorithm::Sgd).then_some(group.weight_decay?)
    }

    /// Learning rate and decay of a parameter whose decay passes the moments by, and is no usual one.
    fn get(&self, name: &str) -> Option<(f64, f64)> {
        let (algorithm, group) = self.of_parameter(name)?;
        let decay = group.weight_decay.filter(|&decay| decay > USUAL)?;
        (*algorithm == Algorithm::AdamW).then_some((group.learning_rate?, decay))
    }
}

/// Whether the loss ends above its lowest level, by a share of that level and of what was learned: of a loss that is next to nothing, as where
/// a network has memorised its data, noise is a large share.
fn suffers(facts: Facts) -> bool {
    let levels = loss_levels(facts);
    let lowest = levels.iter().copied().fold(f64::INFINITY, f64::min);
    let (Some(first), Some(last)) = (levels.first(), levels.last()) else { return false };
    let rise = last - lowest;
    lowest > 0.0 && rise > (SUFFERS - 1.0) * lowest && rise > (SUFFERS - 1.0) * (first - lowest)
}

/// The decay and the learning rate that took the weights away, at the newest checkpoint that says them.
pub(in crate::diagnosis) fn largest(facts: Facts) -> Option<(f64, f64)> {
    let (_, newest) = facts.checkpoints().rev().find(|(_, one)| !states(one).is_empty())?;
    let newest = Settings::of(newest);
    let settings = newest.states.keys().filter_map(|name| newest.get(name));
    settings.map(|(rate, decay)| (decay, rate)).max_by(|a, b| a.0.total_cmp(&b.0))
}

#[cfg(test)]
mod tests {
    use crate::analysis::model::{Algorithm, LogAnalysis, LogPoint, Measured, Number, ParameterGroup, Role};
    use crate::diagnosis::{Mechanism, diagnose};
    use crate::rules::Assessment;
    use crate::rules::test_support::{interval_tensor, run_of, tensor};

    /// Three matrices under AdamW with ηλ = 0.01 a step: 0.99^100 = 0.366 is left of them after 100 steps.
    fn decayed(
        algorithm: &Algorithm,
        [rate, decay]: [f64; 2],
        grows_by: f64,
        loss: impl Fn(u64) -> f64,
    ) -> (Mechanism, Option<u64>) {
        let matrix = |name: &str| {
            let mut tensor = interval_tensor(name);
            tensor.growth_rate = Measured::Value(grows_by);
            tensor.relative_change = Measured::Value(0.64);
            tensor
        };
        let mut analysis = run_of(3, || vec![matrix("a.weight"), matrix("b.weight"), matrix("c.weight")]);
        for checkpoint in &mut analysis.checkpoints {
            let Measured::Value(state) = &mut checkpoint.optimizer else { panic!("it has one") };
            state.optimizers[0].algorithm = algorithm.clone();
            let group = &mut state.optimizers[0].groups[0];
            (group.learning_rate, group.weight_decay) = (Some(rate), Some(decay));
        }
        let point = |step| LogPoint { step, loss: Some(Number(loss(step))), ..LogPoint::default() };
        analysis.log = Some(LogAnalysis { points: (1..=300).map(point).collect(), ..LogAnalysis::default() });
        let diagnosis = diagnose(&analysis, &Assessment::default());
        (diagnosis.mechanism, diagnosis.onset_step)
    }

    /// Two matrices with a decay of `was` that is `is` from step 200 on, two biases that have none, and a loss that leaves 2 for 6 at step `begins`.
    fn set_anew(was: f64, is: f64, begins: u64) -> (Mechanism, Option<u64>) {
        let names = ["a.weight", "a.bias", "b.weight", "b.bias"];
        let mut analysis = run_of(3, || names.map(interval_tensor).to_vec());
        for (index, checkpoint) in analysis.checkpoints.iter_mut().enumerate() {
            checkpoint.tensors =
                ["a.weight", "b.weight"].map(|name| tensor(name, Role::Linear, &[8, 8])).to_vec();
            let Measured::Value(state) = &mut checkpoint.optimizer else { panic!("it has one") };
            state.optimizers[0].algorithm = Algorithm::AdamW;
            let group = &mut state.optimizers[0].groups[0];
            (group.learning_rate, group.weight_decay) = (Some(1e-3), Some(if index < 2 { was } else { is }));
            let without = ParameterGroup { weight_decay: Some(0.0), ..group.clone() };
            state.optimizers[0].groups.push(without);
            for parameter in &mut state.parameters {
                let name = &parameter.tensor.as_ref().expect("it is mapped").canonical_name;
                parameter.group = u64::from(name.ends_with("bias"));
            }
        }
        let point = |step: u64| {
            let noise = 0.02 * (step % 5) as f64;
            let loss = if step < begins { 2.0 + noise } else { 6.0 + noise };
            LogPoint {
                step,
                loss: Some(Number(loss)),
                learning_rate: Some(Number(1e-3)),
                ..LogPoint::default()
            }
        };
        analysis.log = Some(LogAnalysis { points: (1..=300).map(point).collect(), ..LogAnalysis::default() });
        let diagnosis = diagnose(&analysis, &Assessment::default());
        (diagnosis.mechanism, diagnosis.onset_step)
    }

    #[test]
    fn a_decay_that_was_raised_where_the_loss_left_its_level_is_told() {
        assert_eq!(set_anew(0.01, 8.0, 150), (Mechanism::WeightDecay, Some(150)));
        assert_eq!(set_anew(0.01, 8.0, 250), (Mechanism::WeightDecay, Some(250)), "an interval later");
        // A usual decay, one that is four times what it was, one that began, or one that was raised when the run had been failing for an interval.
        for (was, is, begins) in [(0.01, 0.1, 150), (0.2, 0.9, 150), (0.0, 0.2, 150), (0.01, 8.0, 60)] {
            assert_ne!(set_anew(was, is, begins).0, Mechanism::WeightDecay, "{was} {is} {begins}");
        }
    }

    #[test]
    fn weights_that_decay_takes_away_are_told_where_the_loss_suffers() {
        let absurd = [1e-3, 10.0];
        let shrinks = 0.99f64.ln();
        let suffers = |step: u64| if step < 60 { 4.0 - 0.01 * step as f64 } else { 4.0 };
        assert_eq!(decayed(&Algorithm::AdamW, absurd, shrinks, suffers), (Mechanism::WeightDecay, Some(0)));
        assert_eq!(
            decayed(&Algorithm::AdamW, absurd, shrinks, |step| 4.0 - 0.01 * step as f64),
            (Mechanism::None, None)
        );
        // A network that has memorised its data: the loss is nothing, and trebles by noise.
        let memorised = |step: u64| if step < 100 { 4.0 - 0.04 * step as f64 } else { 1e-6 * step as f64 };
        assert_eq!(decayed(&Algorithm::AdamW, absurd, shrinks, memorised), (Mechanism::None, None));
        // Gradients hold them; Adam's decay is a gradient, and shrinks nothing by this arithmetic.
        assert_eq!(decayed(&Algorithm::AdamW, absurd, 0.0, suffers), (Mechanism::None, None));
        assert_eq!(decayed(&Algorithm::Adam, absurd, shrinks, suffers), (Mechanism::None, None));
        // A usual decay at an absurd learning rate takes as much.
        assert_eq!(decayed(&Algorithm::AdamW, [0.1, 0.1], shrinks, suffers), (Mechanism::None, None));
    }
}
