//! A1: NaN or infinity in weights or optimizer state.

use super::{Check, Confidence, Findings, Needs, Rule, Severity, Subject, Thresholds};
use crate::analysis::model::{CheckpointAnalysis, Role, Section, Statistics, TensorAnalysis};

pub(super) static RULE: Rule = Rule {
    code: "FP101",
    name: "non-finite",
    summary: "a weight or an optimizer state holds NaN or infinity",
    page: include_str!("../../docs/rules/FP101-non-finite.md"),
    severity: Severity::Critical,
    confidence: Confidence::Exact,
    needs: Needs::NORMS,
    thresholds: &[],
    check: Check::Checkpoint(check),
};

fn check(checkpoint: &CheckpointAnalysis, _: &Thresholds, findings: &mut Findings) {
    for tensor in checkpoint.tensors.iter().filter(|tensor| is_state(tensor)) {
        if let Some(statistics) = tensor.statistics.value() {
            report(tensor, statistics, findings);
        }
    }
}

fn is_state(tensor: &TensorAnalysis) -> bool {
    let state = matches!(tensor.section, Section::Model | Section::Average | Section::Optimizer);
    state && tensor.tied_to.is_none()
}

/// Masks hold −Inf on purpose. Running statistics are buffers too, and do not.
fn may_be_infinite(tensor: &TensorAnalysis) -> bool {
    let running = ["running_mean", "running_var"].iter().any(|name| tensor.canonical_name.ends_with(name));
    tensor.role == Role::Buffer && !running
}

fn report(tensor: &TensorAnalysis, statistics: &Statistics, findings: &mut Findings) {
    let infinite = if may_be_infinite(tensor) { 0 } else { statistics.non_finite() - statistics.nan };
    if statistics.nan + infinite == 0 {
        return;
    }
    let message = format!(
        "{} of {} elements of {} are not finite ({} NaN, {infinite} infinite)",
        statistics.nan + infinite,
        statistics.count,
        tensor.told(),
        statistics.nan,
    );
    let advice = "roll back to the last checkpoint without this finding, and resume from there with clipping";
    findings
        .push(Subject::Tensor(tensor.name.clone()), message, advice)
        .against("NaN elements", statistics.nan as f64, 0.0, "elements")
        .against("infinite elements", infinite as f64, 0.0, "elements");
}
