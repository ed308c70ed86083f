//! f32 master weights: what mixed-precision optimizers update, while the model holds roundings of it.
//!
//! They are found where optimizers keep them: in each parameter's state (`master_param` of Transformer Engine and of hand-written
//! loops, `param` and `fp32_param` of Megatron's distributed optimizer), in lists beside the optimizer, group by group
//! (`fp32_from_fp16_params` of Megatron, `fp32_from_fp16` of apex), or in files of their own (`master_weights…` of PaddleNLP) under
//! the names of the model. Flat buffers (`single_partition_of_fp32_groups` of DeepSpeed) are not taken apart.

use std::collections::{BTreeMap, HashMap};

use super::optimizer::OptimizerState;
use super::{CheckpointTensor, Section};
use crate::tensor::DType;

/// Before the names of a file of master weights.
pub(super) const LABEL: &str = "master_weights";

/// Whether a file beside the model holds master weights, by its name.
pub(super) fn is_file(name: &str) -> bool {
    let stem = name.rsplit_once('.').map_or(name, |(stem, _)| stem);
    let rest = stem.strip_prefix(LABEL);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['-', '_'])) && name.ends_with(".safetensors")
}

/// The master of each tensor of the model that has one, both as indices among `tensors`.
pub(super) fn join(optimizers: &[OptimizerState], tensors: &[CheckpointTensor]) -> BTreeMap<usize, usize> {
    let states = optimizers.iter().flat_map(|optimizer| &optimizer.parameters);
    let mut found: BTreeMap<usize, usize> =
        states.filter_map(|state| Some((state.parameter?, state.master?))).collect();
    for (parameter, master) in by_name(tensors) {
        found.entry(parameter).or_insert(master);
    }
    found.retain(|&parameter, &mut master| fits(&tensors[parameter], &tensors[master]));
    found
}

/// Masters from files of their own, which are named as the tensors of the model are.
fn by_name(tensors: &[CheckpointTensor]) -> Vec<(usize, usize)> {
    let masters: Vec<(&str, usize)> = tensors
        .iter()
        .enumerate()
        .filter_map(|(index, tensor)| Some((tensor.name.strip_prefix(LABEL)?.strip_prefix('/')?, index)))
        .collect();
    if masters.is_empty() {
        return Vec::new();
    }
    let mut named: HashMap<&str, usize> = HashMap::new();
    for (index, tensor) in tensors.iter().enumerate().filter(|(_, tensor)| tensor.section == Section::Model) {
        named.insert(&tensor.canonical_name, index);
        named.insert(&tensor.name, index);
    }
    masters.into_iter().filter_map(|(own, master)| Some((*named.get(own)?, master))).collect()
}

/// Whether one can be the rounding of the other.
fn fits(parameter: &CheckpointTensor, master: &CheckpointTensor) -> bool {
    let (Ok(parameter), Ok(master)) = (&parameter.tensor, &master.tensor) else { return false };
    let is_wide = matches!(master.dtype, DType::F32 | DType::F64);
    is_wide && parameter.shape == master.shape && parameter.dtype.size() < master.dtype.size()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_master_weights_are_told_by_their_names() {
        for name in ["master_weights.safetensors", "master_weights-00001-of-00002.safetensors"] {
            assert!(is_file(name), "{name}");
        }
        for name in
            ["model.safetensors", "master_weights.bin", "master_weightsx.safetensors", "master.safetensors"]
        {
            assert!(!is_file(name), "{name}");
        }
    }
}
