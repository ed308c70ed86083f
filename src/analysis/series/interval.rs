//! One interval: what two neighbouring checkpoints say together, tensor by tensor.
//!
//! Joins by canonical name. What is linear in what each checkpoint's own analysis holds (norms, Σv) is taken from there,
//! so that measurement files are enough; what needs elements comes from the pass over both, where both are open.

use std::collections::HashMap;
use std::hash::BuildHasher;

use super::energy::Ends;
use super::pass::Sums;
use super::{decay, movement};
use crate::analysis::model::{
    Algorithm, CheckpointAnalysis, DType, IntervalAnalysis, Measured, ParameterGroup, ParameterOptimizer,
    TensorAnalysis, TensorInterval, decayed, is_mostly_decay,
};
use crate::analysis::optimizer::gradient::penalty;

/// What the pass over the elements of one tensor gave, or why there was none.
pub type Elements = Result<(Sums, Read), String>;

/// What a pass could read.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Read {
    /// The weights were the f32 masters of the optimizer.
    pub masters: bool,
    /// The weights are roundings of what the optimizer updates.
    pub rounded: bool,
    /// Free decay, where the second moments were read.
    pub floor: Option<decay::Floor>,
    /// The first moment was read too.
    pub first: bool,
}

/// What happened between `from` at `steps[0]` and `to` at `steps[1]`. `elements` has the tensors that were read at both,
/// by canonical name; `unread` is said of the others.
pub fn between<S: BuildHasher>(
    from: &CheckpointAnalysis,
    to: &CheckpointAnalysis,
    steps: [u64; 2],
    elements: &HashMap<String, Elements, S>,
    unread: &str,
) -> IntervalAnalysis {
    let before = Side::of(from);
    let after = Side::of(to);
    let mut tensors = Vec::new();
    let mut unmatched = Vec::new();
    for tensor in to.tensors.iter().filter(|tensor| tensor.is_parameter()) {
        match before.tensors.get(tensor.canonical_name.as_str()) {
            None => unmatched.push((tensor.canonical_name.clone(), format!("only in {}", to.name))),
            Some(earlier) if earlier.shape != tensor.shape => {
                let shapes = format!("its shape changed from {:?} to {:?}", earlier.shape, tensor.shape);
                unmatched.push((tensor.canonical_name.clone(), shapes));
            }
            Some(earlier) => {
                let unread = Err(unread.to_owned());
                let elements = elements.get(&tensor.canonical_name).unwrap_or(&unread);
                tensors.push(one_tensor([earlier, tensor], [&before, &after], steps, elements));
            }
        }
    }
    let gone = from.tensors.iter().filter(|tensor| tensor.is_parameter());
    let gone = gone.filter(|tensor| !after.tensors.contains_key(tensor.canonical_name.as_str()));
    unmatched.extend(gone.map(|tensor| (tensor.canonical_name.clone(), format!("only in {}", from.name))));
    IntervalAnalysis {
        from: from.name.clone(),
        to: to.name.clone(),
        from_step: steps[0],
        to_step: steps[1],
        tensors,
        unmatched,
    }
}

/// One checkpoint by canonical name.
struct Side<'a> {
    tensors: HashMap<&'a str, &'a TensorAnalysis>,
    states: HashMap<&'a str, State<'a>>,
    /// Why there is no optimizer state at all.
    reason: Option<&'a str>,
}

/// The state of one parameter.
#[derive(Clone, Copy)]
struct State<'a> {
    parameter: &'a ParameterOptimizer,
    group: &'a ParameterGroup,
    algorithm: &'a Algorithm,
}

impl<'a> Side<'a> {
    fn of(checkpoint: &'a CheckpointAnalysis) -> Self {
        let parameters = checkpoint.tensors.iter().filter(|tensor| tensor.is_parameter());
        let mut states = HashMap::new();
        let mut reason = None;
        match &checkpoint.optimizer {
            Measured::Value(optimizer) => {
                for parameter in &optimizer.parameters {
                    let Some(tensor) = &parameter.tensor else { continue };
                    let Some(summary) = optimizer.optimizers.get(parameter.optimizer as usize) else {
                        continue;
                    };
                    let Some(group) = summary.groups.get(parameter.group as usize) else { continue };
                    let state = State { parameter, group, algorithm: &summary.algorithm };
                    states.insert(tensor.canonical_name.as_str(), state);
                }
            }
            Measured::NotMeasured(why) => reason = Some(why.as_ref()),
            Measured::Degenerate(_) => {}
        }
        let tensors = parameters.map(|tensor| (tensor.canonical_name.as_str(), tensor)).collect();
        Self { tensors, states, reason }
    }

    fn state(&self, name: &str) -> Result<State<'a>, String> {
        self.states
            .get(name)
            .copied()
            .ok_or_else(|| self.reason.unwrap_or("no optimizer state is joined to it").to_owned())
    }
}

impl State<'_> {
    /// β₂, or what stands for it.
    fn beta2(&self) -> Option<f64> {
        match self.algorithm {
            Algorithm::RmsProp => self.group.alpha,
            algorithm if algorithm.is_adam() => self.group.beta2,
            _ => None,
        }
    }
}

fn one_tensor(
    [earlier, later]: [&TensorAnalysis; 2],
    [before, after]: [&Side<'_>; 2],
    steps: [u64; 2],
    elements: &Elements,
) -> TensorInterval {
    let name = later.canonical_name.as_str();
    let states = before.state(name).and_then(|earlier| Ok([earlier, after.state(name)?]));
    let counted = states.clone().and_then(|states| counted(&states));
    let span = counted.clone().ok().filter(|&k| k > 0.0).unwrap_or((steps[1] - steps[0]) as f64);
    let decayed = states.as_ref().ok().and_then(|states| decayed_between(states, span));
    let ends = states.and_then(|states| ends(&states, &counted));
    let weight_norm = norm(later).value().copied();
    let not = |reason: &String| Measured::not(reason.clone());
    let energy = ends.as_ref().map_or_else(not, |(ends, _)| ends.energy());
    let gradient_norm = match &ends {
        Ok((ends, state)) => gradient_norm(ends, &energy, state, weight_norm),
        Err(reason) => not(reason),
    };
    let decay_ratio = ends.as_ref().map_or_else(not, |(ends, _)| ends.decay_ratio());
    let mut found = TensorInterval {
        name: later.name.clone(),
        canonical_name: later.canonical_name.clone(),
        layer: later.layer.clone(),
        role: later.role,
        elements: later.elements,
        from_master: false,
        weight_rms: statistic(later, |statistics| &statistics.rms),
        change_rms: Measured::not(""),
        relative_change: Measured::not(""),
        growth_rate: growth([earlier, later], span),
        steps: counted.map_or_else(Measured::not, Measured::Value),
        energy,
        gradient_norm,
        gradient_ratio: Measured::not("no interval before it was measured"),
        change_ratio: Measured::not("no interval before it was measured"),
        decay_ratio,
        floor_share: Measured::not(""),
        below_floor_share: Measured::not(""),
        mapping_cosine: Measured::not(""),
    };
    fill_elements(&mut found, elements);
    if let (Some(decayed), Some(&change), Some(_)) =
        (decayed, found.relative_change.value(), found.mapping_cosine.value())
        && is_mostly_decay(decayed, change)
    {
        found.mapping_cosine = Measured::not("weight decay is most of its movement, and is in no moment");
    }
    found
}

/// Share of a parameter that decay takes off past the moments, at the mean of both learning rates.
fn decayed_between([before, after]: &[State<'_>; 2], steps: f64) -> Option<f64> {
    let rate = f64::midpoint(before.group.learning_rate?, after.group.learning_rate?);
    let decay = after.group.weight_decay?;
    (*after.algorithm == Algorithm::AdamW).then(|| decayed(rate, decay, steps))
}

/// What only the elements themselves tell.
fn fill_elements(found: &mut TensorInterval, elements: &Elements) {
    let (sums, read) = match elements {
        Ok((sums, read)) => (sums, read),
        Err(reason) => {
            for quantity in [
                &mut found.change_rms,
                &mut found.relative_change,
                &mut found.floor_share,
                &mut found.below_floor_share,
                &mut found.mapping_cosine,
            ] {
                *quantity = Measured::not(reason.clone());
            }
            return;
        }
    };
    found.from_master = read.masters;
    found.change_rms = movement::change_rms(sums, read.rounded);
    found.relative_change = movement::relative_change(&found.change_rms, sums);
    let shares = match read.floor {
        None => Err("its second moments were not read at both".to_owned()),
        Some(floor) => floor.sharp(),
    };
    let share = |count: u64| match &shares {
        Err(reason) => Measured::not(reason.clone()),
        Ok(()) if sums.decaying == 0 => Measured::not("no second moment is above what its dtype resolves"),
        Ok(()) => Measured::Value(count as f64 / sums.decaying as f64),
    };
    found.floor_share = share(sums.at_floor);
    found.below_floor_share = share(sums.below_floor);
    found.mapping_cosine = if read.first && read.floor.is_some() {
        sums.alignment.cosine()
    } else {
        Measured::not("its moments were not read")
    };
}

/// Steps between the two states by their own counters; negative where the counter went back.
fn counted([before, after]: &[State<'_>; 2]) -> Result<f64, String> {
    match (before.parameter.step, after.parameter.step) {
        (Some(before), Some(after)) => Ok(after - before),
        _ => Err("its state has no step counter".to_owned()),
    }
}

/// The second moments at both ends, where one history may lie between them, and the later state.
fn ends<'a>(
    [before, after]: &[State<'a>; 2],
    counted: &Result<f64, String>,
) -> Result<(Ends, State<'a>), String> {
    let steps = counted.clone()?;
    if steps <= 0.0 {
        return Err(format!(
            "its step counter went {} steps back: the state was replaced in between",
            -steps
        ));
    }
    let beta2 = match (before.beta2(), after.beta2()) {
        (Some(one), Some(other)) if one == other && one > 0.0 && one < 1.0 => one,
        (Some(one), Some(other)) if one != other => {
            return Err(format!("β₂ was changed from {one} to {other} in between"));
        }
        _ if after.algorithm.is_adam() || *after.algorithm == Algorithm::RmsProp => {
            return Err("the group does not say by what factor its second moments decay".to_owned());
        }
        _ => {
            return Err(
                "only Adam, AdamW and RMSprop keep a second moment that decays by a known factor".to_owned()
            );
        }
    };
    let sum = |state: &State<'_>| match &state.parameter.second_moment_sum {
        Measured::Value(sum) => Ok(*sum),
        Measured::NotMeasured(reason) => Err(reason.to_string()),
        Measured::Degenerate(_) => Err("its second moments have no finite sum".to_owned()),
    };
    let dtype = |state: &State<'_>| state.parameter.second_moment.unwrap_or(DType::F32);
    let dtypes = [dtype(before), dtype(after)];
    Ok((Ends { before: sum(before)?, after: sum(after)?, beta2, steps, dtypes }, *after))
}

fn gradient_norm(
    ends: &Ends,
    energy: &Measured<f64>,
    state: &State<'_>,
    weights: Option<f64>,
) -> Measured<f64> {
    let norm = ends.gradient_norm(energy);
    let decay = state.group.weight_decay.unwrap_or(0.0);
    match norm.value().and_then(|&norm| penalty(state.algorithm, decay, weights, norm)) {
        Some(reason) => Measured::not(reason),
        None => norm,
    }
}

fn growth([earlier, later]: [&TensorAnalysis; 2], steps: f64) -> Measured<f64> {
    match (norm(earlier), norm(later)) {
        (Measured::Value(before), Measured::Value(after)) => movement::growth_rate(before, after, steps),
        (Measured::Value(_), other) | (other, _) => other,
    }
}

/// ‖w‖, of tensors that are finite.
fn norm(tensor: &TensorAnalysis) -> Measured<f64> {
    match tensor.statistics.value() {
        Some(statistics) if statistics.non_finite() > 0 => {
            Measured::not(format!("{} elements are not finite", statistics.non_finite()))
        }
        _ => statistic(tensor, |statistics| &statistics.l2),
    }
}

fn statistic(
    tensor: &TensorAnalysis,
    of: impl FnOnce(&crate::analysis::model::Statistics) -> &Measured<f64>,
) -> Measured<f64> {
    match &tensor.statistics {
        Measured::Value(statistics) => of(statistics).clone(),
        Measured::NotMeasured(reason) => Measured::NotMeasured(reason.clone()),
        Measured::Degenerate(kind) => Measured::Degenerate(*kind),
    }
}
