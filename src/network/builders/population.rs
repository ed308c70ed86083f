//! The parameters that a network of the config has, held against those that the checkpoint has: by names and shapes alone.

use std::collections::BTreeSet;

use super::{Places, is_floating, network_of_config, unused};
use crate::checkpoint::{Checkpoint, CheckpointTensor, Role};
use crate::error::Result;
use crate::network::{Network, Operation};

/// How the parameters of a checkpoint differ from those of the network that its config describes.
#[derive(Debug)]
pub struct Population {
    /// The architecture.
    pub architecture: String,
    /// Parameters that the network has.
    pub expected: usize,
    /// Names of those that the checkpoint lacks.
    pub missing: Vec<String>,
    /// Their elements.
    pub missing_elements: u128,
    /// Tensors of the model that hold no parameter of the network, buffers left out.
    pub others: usize,
    /// Their elements, as far as they can be read.
    pub other_elements: u128,
    /// Tensors of another shape, by index, with the shape that the network has. A vocabulary may be padded: more rows are no other shape.
    pub reshaped: Vec<(usize, Vec<u64>)>,
    /// Names of tensors in the stack of blocks that the network has not. Beside the stack there may be any head.
    pub unexpected: Vec<String>,
}

impl Population {
    /// Whether the checkpoint has all parameters of the network in their shapes, and its stack of blocks none beside them.
    pub fn is_whole(&self) -> bool {
        self.missing.is_empty() && self.reshaped.is_empty() && self.unexpected.is_empty()
    }
}

/// Compares `checkpoint` with its config.
///
/// # Errors
/// As [`from_config`](super::from_config), but for parameters that are missing or have another shape.
pub fn population(checkpoint: &Checkpoint) -> Result<Population> {
    let network = network_of_config(checkpoint)?;
    let places = Places::of(checkpoint);
    let turned = turned(&network, checkpoint, &places);
    let (mut used, mut missing, mut reshaped) = (Vec::new(), Vec::new(), Vec::new());
    let mut missing_elements = 0;
    for (number, parameter) in network.parameters.iter().enumerate() {
        let Some(index) = places.find(&parameter.name) else {
            missing.push(parameter.name.clone());
            missing_elements += elements(&parameter.shape);
            continue;
        };
        used.push(index);
        let mut expected: Vec<u64> = parameter.shape.iter().map(|&size| size as u64).collect();
        if turned.contains(&number) {
            expected.reverse();
        }
        let named = &checkpoint.tensors[index];
        // What cannot be read is told as damage.
        if let Ok(tensor) = &named.tensor
            && tensor.shape != expected
            && !is_padded(named.role, &tensor.shape, &expected)
        {
            reshaped.push((index, expected));
        }
    }
    let others: Vec<&CheckpointTensor> =
        unused(checkpoint, &used).map(|index| &checkpoint.tensors[index]).collect();
    let unexpected = unexpected(&network, used.iter().map(|&index| &checkpoint.tensors[index]), &others);
    let readable = others.iter().filter_map(|named| named.tensor.as_ref().ok());
    Ok(Population {
        expected: network.parameters.len(),
        architecture: network.architecture,
        missing,
        missing_elements,
        others: others.len(),
        other_elements: readable.map(|tensor| u128::from(tensor.count())).sum(),
        reshaped,
        unexpected,
    })
}

/// Names of those of the `others` that stand in the stack of blocks. Wrappers around the model are no part of a stack's name.
fn unexpected<'c>(
    network: &Network,
    used: impl Iterator<Item = &'c CheckpointTensor>,
    others: &[&CheckpointTensor],
) -> Vec<String> {
    let parameters = network.parameters.iter().map(|parameter| parameter.name.as_str());
    let names = parameters.chain(used.map(|named| named.canonical_name.as_str()));
    let stacks: BTreeSet<&str> = names.filter_map(stack_of).collect();
    let is_in_stack = |named: &CheckpointTensor| {
        stack_of(&named.canonical_name).is_some_and(|stack| stacks.contains(stack))
    };
    let unexpected = others.iter().filter(|named| is_floating(named) && is_in_stack(named));
    unexpected.map(|named| named.name.clone()).collect()
}

/// Elements of a parameter. Sizes are bounded by the config's reader: they do not reach the end of these numbers.
fn elements(shape: &[usize]) -> u128 {
    shape.iter().map(|&size| size as u128).product()
}

/// The weights that the network stores input first, where most of them stand the other way round: those of a GPT-2 that was trained with
/// PyTorch's own layers. Nothing where they stand as the network has them.
fn turned(network: &Network, checkpoint: &Checkpoint, places: &Places<'_>) -> BTreeSet<usize> {
    let weights = network.nodes.iter().filter_map(|node| match &node.operation {
        Operation::Linear(linear) if linear.transposed => Some(linear.weight.0),
        _ => None,
    });
    let weights: BTreeSet<usize> = weights.collect();
    let (mut as_they_are, mut other_way) = (0, 0);
    for &number in &weights {
        let parameter = &network.parameters[number];
        let tensor =
            places.find(&parameter.name).and_then(|index| checkpoint.tensors[index].tensor.as_ref().ok());
        let Some(tensor) = tensor else { continue };
        let expected = || parameter.shape.iter().map(|&size| size as u64);
        // What is square tells nothing.
        if tensor.shape.first() == tensor.shape.last() {
            continue;
        }
        as_they_are += usize::from(expected().eq(tensor.shape.iter().copied()));
        other_way += usize::from(expected().rev().eq(tensor.shape.iter().copied()));
    }
    if other_way > as_they_are { weights } else { BTreeSet::new() }
}

/// A table of tokens with more rows than the vocabulary.
fn is_padded(role: Role, shape: &[u64], expected: &[u64]) -> bool {
    let is_of_tokens = matches!(role, Role::TokenEmbedding | Role::OutputHead);
    let ([rows, rest @ ..], [declared, others @ ..]) = (shape, expected) else { return false };
    is_of_tokens && rows > declared && rest == others
}

/// What stands before the number of the block in a name.
fn stack_of(name: &str) -> Option<&str> {
    let mut end = 0;
    for component in name.split('.') {
        if component.parse::<u64>().is_ok() {
            return Some(&name[..end]);
        }
        end += component.len() + 1;
    }
    None
}
