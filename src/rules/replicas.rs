//! What both rules over replicas ask: tensor-parallel ranks share some tensors, data-parallel ranks all.

use super::{Findings, Subject};
use crate::analysis::model::{Analysis, Measured, ReplicaAnalysis, Role, Section, TensorDifference};

/// Relative difference beyond which two matrices are parts of a whole, not copies: unrelated ones differ by √2.
const UNRELATED: f64 = 0.9;

/// Whether the two are parts of one model, each with its own matrices: half of those that differ are unrelated.
pub(super) fn are_parts(replica: &ReplicaAnalysis) -> bool {
    let matrices = || replica.differing.iter().filter(|tensor| is_weight(tensor) && !is_replicated(tensor));
    let unrelated = matrices().filter(|tensor| {
        tensor.relative_difference.value().is_some_and(|&difference| difference > UNRELATED)
    });
    let (unrelated, all) = (unrelated.count(), matrices().count());
    unrelated > 0 && 2 * unrelated >= all
}

fn is_weight(tensor: &TensorDifference) -> bool {
    tensor.section == Section::Model && tensor.role != Role::Buffer
}

/// Whether every tensor-parallel rank keeps the whole of it. Biases of split layers are split too.
pub(super) fn is_replicated(tensor: &TensorDifference) -> bool {
    matches!(tensor.role, Role::NormGain | Role::NormBias | Role::PositionEmbedding | Role::Router)
}

/// Tells each tensor of `wanted` in its first step, the weights before the moments.
pub(super) fn tell(analysis: &Analysis, parts: bool, advice: &str, findings: &mut Findings) {
    let mut told: Vec<&str> = Vec::new();
    let mut judged = 0;
    for replica in analysis.replicas.iter().filter(|replica| are_parts(replica) == parts) {
        judged += replica.compared;
        for tensor in replica.differing.iter().filter(|tensor| is_weight(tensor)) {
            if (parts && !is_replicated(tensor)) || told.contains(&tensor.canonical_name.as_str()) {
                continue;
            }
            told.push(&tensor.canonical_name);
            let message = format!(
                "{} is not the same on two ranks at step {}: {} of {} elements differ",
                tensor.name, replica.step, tensor.changed, tensor.elements,
            );
            let finding = findings.push(Subject::Tensor(tensor.name.clone()), message, advice);
            finding.at_step(replica.step);
            if let Measured::Value(largest) = tensor.largest_difference {
                finding.against("largest difference between ranks", largest, 0.0, "");
            }
            if let Measured::Value(relative) = tensor.relative_difference {
                finding.evidence("difference over norm", relative, "");
            }
        }
        for (name, reason) in &replica.not_compared {
            findings.not_evaluated(Subject::Tensor(name.clone()), reason.clone());
        }
    }
    if judged == 0 {
        let what = if parts {
            "parts of one model by several ranks"
        } else {
            "the same checkpoint by several ranks"
        };
        findings.not_evaluated(Subject::Run, format!("needs {what}"));
    }
}
