//! Tensors with several names in one checkpoint: which names are one.

use std::collections::HashMap;

use crate::analysis::model::{CheckpointAnalysis, Section, TensorAnalysis};

/// The tensors of a model by canonical name, and the names that are one tensor.
pub(super) struct Ties<'a> {
    tensors: HashMap<&'a str, &'a TensorAnalysis>,
    /// For each name, the first name of its tensor.
    first: HashMap<&'a str, &'a str>,
    /// The names of each tensor that has several, by its first, in file order.
    names: HashMap<&'a str, Vec<&'a str>>,
}

impl<'a> Ties<'a> {
    pub fn of(checkpoint: &'a CheckpointAnalysis) -> Self {
        let model = || checkpoint.tensors.iter().filter(|tensor| tensor.section == Section::Model);
        let stored: HashMap<&str, &str> =
            model().map(|tensor| (tensor.name.as_str(), tensor.canonical_name.as_str())).collect();
        let first_of = |tensor: &'a TensorAnalysis| {
            let first = tensor.tied_to.as_deref().and_then(|first| stored.get(first).copied());
            first.unwrap_or(&tensor.canonical_name)
        };
        let mut ties = Self { tensors: HashMap::new(), first: HashMap::new(), names: HashMap::new() };
        for tensor in model() {
            let (name, first) = (tensor.canonical_name.as_str(), first_of(tensor));
            ties.tensors.insert(name, tensor);
            ties.first.insert(name, first);
            ties.names.entry(first).or_default().push(name);
        }
        ties
    }

    /// The tensor of this canonical name.
    pub fn get(&self, name: &str) -> Option<&'a TensorAnalysis> {
        self.tensors.get(name).copied()
    }

    /// Every name of the tensor that has this one, itself too, in file order.
    pub fn names(&self, name: &str) -> &[&'a str] {
        self.first.get(name).and_then(|first| self.names.get(first)).map_or(&[], Vec::as_slice)
    }

    /// The first of the other names of the tensor that stand before `name`, which is in `other` as well and there of another tensor: one that
    /// has other numbers, since a container without ties keeps a copy for each name.
    pub fn parted_in(&self, name: &str, other: &Ties<'_>) -> Option<&'a str> {
        let tensor = other.get(name)?;
        let earlier = self.names(name).iter().take_while(|earlier| **earlier != name);
        earlier.copied().find(|earlier| {
            let is_apart = other.first.get(earlier) != other.first.get(name);
            is_apart && other.get(earlier).is_some_and(|earlier| !is_copy(tensor, earlier))
        })
    }
}

/// Whether nothing that was measured tells two tensors apart.
fn is_copy(one: &TensorAnalysis, other: &TensorAnalysis) -> bool {
    one.shape == other.shape
        && one.dtype == other.dtype
        && one.statistics.value().is_some()
        && one.statistics == other.statistics
}
