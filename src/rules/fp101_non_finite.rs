//! A1: NaN or infinity in weights or optimizer state.

use super::{Confidence, Findings, Needs, Rule, Severity, Subject, Thresholds};
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
    check,
};

fn check(checkpoint: &CheckpointAnalysis, _: &Thresholds, findings: &mut Findings) {
    for tensor in &checkpoint.tensors {
        if let Some(statistics) = judged(tensor) {
            report(tensor, statistics, findings);
        }
    }
}

/// The statistics of a tensor in which nothing may be non-finite: masks hold −Inf on purpose.
fn judged(tensor: &TensorAnalysis) -> Option<&Statistics> {
    let state = matches!(tensor.section, Section::Model | Section::Average | Section::Optimizer);
    (state && tensor.role != Role::Buffer && tensor.tied_to.is_none()).then(|| tensor.statistics.value())?
}

fn report(tensor: &TensorAnalysis, statistics: &Statistics, findings: &mut Findings) {
    let infinite = statistics.positive_infinity + statistics.negative_infinity;
    if statistics.nan + infinite == 0 {
        return;
    }
    let message = format!(
        "{} of {} elements of {} are not finite ({} NaN, {infinite} infinite)",
        statistics.nan + infinite,
        statistics.count,
        tensor.name,
        statistics.nan,
    );
    let advice = "roll back to the last checkpoint without this finding, and resume from there with clipping";
    findings
        .push(Subject::Tensor(tensor.name.clone()), message, advice)
        .against("NaN elements", statistics.nan as f64, 0.0, "elements")
        .against("infinite elements", infinite as f64, 0.0, "elements");
}
