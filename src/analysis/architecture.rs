//! The parameters of a checkpoint against those of the network that its config describes. Reads no element.

use super::model::{ArchitectureMatch, Measured, ReshapedParameter};
use crate::checkpoint::{Checkpoint, Role};
use crate::network::builders::{self, Population};

/// Compares names and shapes; not measured where the config is of no network that is built here, or the checkpoint is no plain
/// copy of it.
pub fn compare(checkpoint: &Checkpoint) -> Measured<ArchitectureMatch> {
    let Some(config) = &checkpoint.config else {
        return Measured::not("no config.json beside the weights");
    };
    if config.get("quantization_config").is_some_and(|value| !value.is_null()) {
        return Measured::not("its config says that it is quantised");
    }
    if checkpoint.tensors.iter().any(|tensor| matches!(tensor.role, Role::LoraA | Role::LoraB)) {
        return Measured::not("it holds low-rank adapters");
    }
    let population = match builders::population(checkpoint) {
        Ok(population) => population,
        Err(error) => return Measured::not(error.kind.to_string()),
    };
    let Population { architecture, expected, missing, reshaped, unexpected } = population;
    // Where most names are others, the names are those of another writer.
    if 2 * missing.len() > expected {
        let missing = missing.len();
        let reason = format!(
            "{missing} of {expected} parameters of {architecture} have other names, or are not there"
        );
        return Measured::not(reason);
    }
    let reshaped = reshaped.into_iter().filter_map(|(index, expected)| {
        let named = &checkpoint.tensors[index];
        let shape = named.tensor.as_ref().ok()?.shape.clone();
        Some(ReshapedParameter { name: named.name.clone(), shape, expected })
    });
    Measured::Value(ArchitectureMatch {
        architecture,
        parameters: expected as u64,
        missing,
        reshaped: reshaped.collect(),
        unexpected,
    })
}
