//! How large the weights of each layer are, from the first to the last.

use super::depth::{Depth, Place, place_of};
use crate::analysis::model::CheckpointAnalysis;

/// RMS of every parameter along depth; a cross where one holds NaN or infinity.
pub(super) fn of(checkpoint: &CheckpointAnalysis) -> Option<Depth> {
    let places = checkpoint.tensors.iter().filter(|tensor| tensor.is_parameter()).flat_map(|tensor| {
        let statistics = tensor.statistics.value();
        let (layer, role) = (&tensor.layer, tensor.role);
        let own = statistics.and_then(|statistics| place_of(layer, role, &statistics.rms));
        let is_broken = statistics.is_some_and(|statistics| statistics.non_finite() > 0);
        own.into_iter().chain(is_broken.then(|| Place::new(layer, role, None)))
    });
    Depth::new("RMS of weights", &places.collect::<Vec<_>>(), Vec::new())
}
