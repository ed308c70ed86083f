//! How much of a weight the next step changes, layer by layer, against the limit of FP307.

use std::collections::BTreeMap;

use super::depth::{Depth, Place, place_of};
use crate::analysis::model::{CheckpointAnalysis, OptimizerAnalysis, ParameterOptimizer, TensorDifference};
use crate::number::short;

/// The rule whose limit it is held against, and the limit's name.
const RULE: (&str, &str) = ("FP307", "ratio");

/// Update over weight of every parameter; `replaced` are the limits of the policy.
pub(super) fn of(checkpoint: &CheckpointAnalysis, replaced: &BTreeMap<String, f64>) -> Option<Depth> {
    let state: &OptimizerAnalysis = checkpoint.optimizer.value()?;
    let place = |parameter: &ParameterOptimizer| {
        let tensor = parameter.tensor.as_ref()?;
        place_of(&tensor.layer, tensor.role, &parameter.update_ratio)
    };
    let places: Vec<Place> = state.parameters.iter().filter_map(place).collect();
    Depth::new("|update| / |weight|", &places, limit(replaced).into_iter().collect())
}

/// Change over weight of every tensor between two checkpoints.
pub(super) fn between(tensors: &[TensorDifference]) -> Option<Depth> {
    let place = |tensor: &TensorDifference| {
        let (layer, role) = (&tensor.layer, tensor.role);
        if tensor.non_finite > 0 {
            return Some(Place::new(layer, role, None));
        }
        place_of(layer, role, &tensor.relative_difference)
    };
    Depth::new("|change| / |weight|", &tensors.iter().filter_map(place).collect::<Vec<_>>(), Vec::new())
}

fn limit(replaced: &BTreeMap<String, f64>) -> Option<(String, f64)> {
    let (code, name) = RULE;
    let limit = super::limit(code, name, replaced)?;
    Some((format!("limit of {code} for matrices: {}", short(limit)), limit))
}
