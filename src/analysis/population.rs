//! Each tensor against the others of its role.

use std::collections::BTreeMap;

use super::model::{Measured, TensorAnalysis};
use crate::checkpoint::Role;
use crate::robust::median;

/// Fewer tensors of a role say nothing about what is usual for it.
const FEWEST_PEERS: usize = 3;

/// Sets every parameter's RMS over the median RMS of the parameters of its role.
pub fn fill_role_spread(tensors: &mut [TensorAnalysis]) {
    let medians = medians_by_role(tensors);
    for tensor in tensors {
        tensor.role_spread = match (rms(tensor), medians.get(&tensor.role)) {
            (None, _) => Measured::not("not a finite, non-zero weight with a role"),
            (_, None) => Measured::not(format!("fewer than {FEWEST_PEERS} tensors of this role")),
            (Some(rms), Some(median)) => Measured::Value(rms / median),
        };
    }
}

fn medians_by_role(tensors: &[TensorAnalysis]) -> BTreeMap<Role, f64> {
    let mut by_role: BTreeMap<Role, Vec<f64>> = BTreeMap::new();
    for tensor in tensors {
        if let Some(rms) = rms(tensor) {
            by_role.entry(tensor.role).or_default().push(rms);
        }
    }
    by_role.retain(|_, values| values.len() >= FEWEST_PEERS);
    by_role.into_iter().filter_map(|(role, values)| Some((role, median(values)?))).collect()
}

fn rms(tensor: &TensorAnalysis) -> Option<f64> {
    // Biases of one network differ by orders of magnitude for good reasons: a key's bias cancels in the softmax.
    let judged = tensor.is_parameter() && !matches!(tensor.role, Role::Other | Role::Bias | Role::NormBias);
    let rms = *tensor.statistics.value().filter(|_| judged)?.rms.value()?;
    (rms > 0.0).then_some(rms)
}
