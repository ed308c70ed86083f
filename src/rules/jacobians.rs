//! What several rules ask of Jacobians: the blocks of a network, and why one cannot be judged.

use super::{Findings, Subject};
use crate::analysis::model::{
    CheckpointAnalysis, Degenerate, JacobianAnalysis, JacobianSetting, Measured, PartJacobian, PartKind,
};
use crate::number::counted;

/// The Jacobians of a checkpoint: the planner asks only where there are some.
pub(super) fn jacobian(checkpoint: &CheckpointAnalysis) -> Option<&JacobianAnalysis> {
    checkpoint.jacobian.value()
}

/// The parts of one kind, in order.
pub(super) fn parts(jacobian: &JacobianAnalysis, kind: PartKind) -> impl Iterator<Item = &PartJacobian> {
    jacobian.parts.iter().filter(move |part| part.kind == kind)
}

/// The probe in words: `3 draws of a synthetic probe of 32 tokens`.
pub(super) fn probe(setting: &JacobianSetting) -> String {
    let kind = if setting.probe.is_synthetic() { "a synthetic probe" } else { "data" };
    let length = setting.tokens.value().map(|tokens| format!(" of {}", counted(*tokens, "token")));
    format!("{} of {kind}{}", counted(setting.draws, "draw"), length.unwrap_or_default())
}

/// The value of a quantity a rule cannot judge `subject` without; where there is none, that is noted.
pub(super) fn wanted<'a, T>(
    quantity: &'a Measured<T>,
    subject: &Subject,
    name: &str,
    findings: &mut Findings,
) -> Option<&'a T> {
    let reason = match quantity {
        Measured::Value(value) => return Some(value),
        Measured::NotMeasured(reason) => format!("{name} was not measured: {reason}"),
        Measured::Degenerate(Degenerate::Overflow) => format!("it has no {name}: a product is not finite"),
        Measured::Degenerate(_) => format!("it has no {name}: the Jacobian is zero or empty"),
    };
    findings.not_evaluated(subject.clone(), reason);
    None
}
