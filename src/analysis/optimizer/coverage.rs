//! Which parameters the optimizers of a checkpoint list, and of which of them they keep state. Reads no element.

use std::collections::{BTreeMap, BTreeSet};

use crate::analysis::model::{
    Measured, MisplacedState, OptimizerCoverage, RepeatedParameter, StateCoverage, UnevenMoments,
};
use crate::checkpoint::Checkpoint;
use crate::checkpoint::optimizer::{OptimizerState, ParameterGroup, ParameterState};
use crate::tensor::Kind;

/// What the optimizers of `checkpoint` cover of its model.
pub fn coverage(checkpoint: &Checkpoint) -> Measured<StateCoverage> {
    if checkpoint.optimizers.is_empty() && checkpoint.unfilled.is_empty() {
        return Measured::not("the checkpoint holds no optimizer state that is read");
    }
    let optimizers = checkpoint.optimizers.iter().map(|optimizer| of_one(optimizer, checkpoint)).collect();
    Measured::Value(StateCoverage {
        optimizers,
        unlisted: unlisted(checkpoint),
        unfilled: checkpoint.unfilled.clone(),
    })
}

fn of_one(optimizer: &OptimizerState, checkpoint: &Checkpoint) -> OptimizerCoverage {
    let mut places: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (index, state) in optimizer.parameters.iter().enumerate() {
        places.entry(&state.key).or_default().push(index);
    }
    let first = |index: usize, state: &ParameterState| places[state.key.as_str()][0] == index;
    let once = || optimizer.parameters.iter().enumerate().filter(|&(index, state)| first(index, state));
    let repeated = once().filter(|(_, state)| places[state.key.as_str()].len() > 1).map(|(_, state)| {
        let groups = places[state.key.as_str()].iter();
        RepeatedParameter {
            key: state.name.clone().unwrap_or_else(|| state.key.clone()),
            groups: groups.map(|&index| optimizer.parameters[index].group as u64).collect(),
        }
    });
    let bare = once().filter(|(_, state)| !state.stored).filter_map(|(_, state)| state.parameter);
    OptimizerCoverage {
        place: optimizer.place.clone(),
        algorithm: optimizer.algorithm.clone(),
        averages: optimizer.groups.iter().any(averages),
        listed: once().count() as u64,
        stored: once().filter(|(_, state)| state.stored).count() as u64,
        repeated: repeated.collect(),
        orphans: optimizer.orphans.clone(),
        without_state: bare.map(|index| checkpoint.tensors[index].name.clone()).collect(),
        groupless: optimizer.groups.is_empty(),
        uneven: once()
            .filter(|_| optimizer.algorithm.is_adam())
            .filter_map(|(_, state)| uneven(state, checkpoint))
            .collect(),
        misplaced: misplaced(optimizer, checkpoint),
        misplaced_by_name: optimizer.misplaced.by_name,
    }
}

fn averages(group: &ParameterGroup) -> bool {
    group.beta1.or(group.beta2).is_some() || group.momentum.is_some_and(|momentum| momentum != 0.0)
}

/// The two moments of a parameter, where they are numbers of shapes that Adam and its like never keep. Codes of 8 bits are packed as their
/// writer likes.
fn uneven(state: &ParameterState, checkpoint: &Checkpoint) -> Option<UnevenMoments> {
    let shape = |index: Option<usize>| {
        let tensor = checkpoint.tensors[index?].tensor.as_ref().ok()?;
        (tensor.dtype.kind() == Kind::Float).then(|| tensor.shape.clone())
    };
    let (first, second) = (shape(state.exp_avg)?, shape(state.exp_avg_sq)?);
    let named = state.parameter.map(|index| checkpoint.tensors[index].name.clone());
    let parameter = || named.or_else(|| state.name.clone()).unwrap_or_else(|| state.key.clone());
    contradict(&first, &second).then(|| UnevenMoments { parameter: parameter(), first, second })
}

/// Whether no optimizer under Adam's names keeps such moments. `NovoGrad` keeps one second moment for a whole layer, and `AdEMAMix` two first
/// moments one above the other.
fn contradict(first: &[u64], second: &[u64]) -> bool {
    let is_of_layer = second.is_empty();
    let is_doubled = first.split_first().is_some_and(|(&count, rest)| count == 2 && rest == second);
    first != second && !is_of_layer && !is_doubled
}

fn misplaced(optimizer: &OptimizerState, checkpoint: &Checkpoint) -> Vec<MisplacedState> {
    let told = optimizer.misplaced.states.iter().filter_map(|(index, moments)| {
        let named = &checkpoint.tensors[*index];
        let shape = named.tensor.as_ref().ok()?.shape.clone();
        Some(MisplacedState { parameter: named.name.clone(), shape, moments: moments.clone() })
    });
    told.collect()
}

/// The parameters of the model that no optimizer lists.
fn unlisted(checkpoint: &Checkpoint) -> Measured<Vec<String>> {
    let mut listed = BTreeSet::new();
    for state in checkpoint.optimizers.iter().flat_map(|optimizer| &optimizer.parameters) {
        match state.parameter {
            Some(index) => listed.insert(index),
            None => return Measured::not("it is not known which tensor each of its parameters is"),
        };
    }
    if listed.is_empty() {
        return Measured::not("its groups list no parameter of a model");
    }
    let tensors = checkpoint.tensors.iter().enumerate();
    let rest = tensors.filter(|(index, tensor)| tensor.is_parameter() && !listed.contains(index));
    Measured::Value(rest.map(|(_, tensor)| tensor.name.clone()).collect())
}

#[cfg(test)]
mod tests {
    use super::contradict;

    #[test]
    fn a_second_moment_of_a_whole_layer_and_two_first_moments_are_no_contradiction() {
        assert!(!contradict(&[16, 8], &[16, 8]));
        assert!(!contradict(&[16, 8], &[]), "NovoGrad");
        assert!(!contradict(&[2, 16, 8], &[16, 8]), "AdEMAMix");
        assert!(contradict(&[16, 8], &[8, 16]));
        assert!(contradict(&[3, 16, 8], &[16, 8]));
        assert!(contradict(&[], &[16, 8]));
    }
}
