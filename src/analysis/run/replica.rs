//! Replicas: what one rank wrote against what another wrote of the same step.

use crate::analysis::diff;
use crate::analysis::model::{MeasureLevel, ReplicaAnalysis, Section};
use crate::checkpoint::Checkpoint;
use crate::context::Context;

/// Compares `other`, a replica, with the lowest rank's checkpoint of `step`.
pub(super) fn compare(
    step: u64,
    lowest: &Checkpoint,
    other: &Checkpoint,
    context: &Context,
) -> ReplicaAnalysis {
    let found =
        diff::between(lowest, other, &[Section::Model, Section::Optimizer], MeasureLevel::Stats, context);
    let mut not_compared = found.not_compared;
    for name in found.missing.into_iter().chain(found.new) {
        not_compared.push((name, "only one of the two has it".to_owned()));
    }
    for tensor in found.reshaped {
        not_compared
            .push((tensor.name, format!("its shapes are {:?} and {:?}", tensor.shapes[0], tensor.shapes[1])));
    }
    ReplicaAnalysis {
        name: found.after,
        against: found.before,
        step,
        compared: found.tensors.len() as u64,
        differing: found.tensors.into_iter().filter(|tensor| tensor.changed > 0).collect(),
        not_compared,
    }
}
