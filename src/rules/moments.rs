//! What several rules ask of optimizer state.

use super::{Findings, Subject};
use crate::analysis::model::{
    CheckpointAnalysis, Degenerate, Measured, OptimizerAnalysis, OptimizerSummary, ParameterGroup,
    ParameterOptimizer, Role,
};

/// The optimizer state. The planner has seen to it that there is some.
pub(super) fn state(checkpoint: &CheckpointAnalysis) -> Option<&OptimizerAnalysis> {
    checkpoint.optimizer.value()
}

/// Every parameter with its optimizer and group.
pub(super) fn parameters(
    checkpoint: &CheckpointAnalysis,
) -> impl Iterator<Item = (&ParameterOptimizer, &OptimizerSummary, &ParameterGroup)> {
    state(checkpoint).into_iter().flat_map(|state| {
        state.parameters.iter().filter_map(|parameter| {
            let optimizer = state.optimizers.get(usize::try_from(parameter.optimizer).ok()?)?;
            let group = optimizer.groups.get(usize::try_from(parameter.group).ok()?)?;
            Some((parameter, optimizer, group))
        })
    })
}

/// The parameter as the subject of a finding.
pub(super) fn subject(parameter: &ParameterOptimizer) -> Subject {
    Subject::Tensor(parameter.name.clone())
}

/// Whether the parameter has at least two axes.
pub(super) fn is_matrix(parameter: &ParameterOptimizer) -> bool {
    parameter.shape.len() >= 2 && parameter.elements > 0
}

/// Why large steps and dead rows of this parameter say nothing, where that is so: not every batch reaches every row.
pub(super) fn why_sparse(parameter: &ParameterOptimizer) -> Option<&'static str> {
    match parameter.tensor.as_ref().map(|tensor| tensor.role) {
        None => {
            Some("which tensor it is is not known, and rows of embeddings and experts are rarely reached")
        }
        Some(Role::TokenEmbedding | Role::PositionEmbedding | Role::Expert | Role::Router) => {
            Some("its rows are not reached by every batch")
        }
        Some(_) => None,
    }
}

/// The value of a quantity; where there is none, that is noted, but for a parameter without elements.
pub(super) fn wanted<'a, T>(
    quantity: &'a Measured<T>,
    parameter: &ParameterOptimizer,
    findings: &mut Findings,
) -> Option<&'a T> {
    match quantity {
        Measured::Value(value) => return Some(value),
        Measured::NotMeasured(reason) => findings.not_evaluated(subject(parameter), reason.clone()),
        Measured::Degenerate(Degenerate::AllZero) => {
            findings.not_evaluated(subject(parameter), "every element is zero: frozen, or never used");
        }
        Measured::Degenerate(Degenerate::Overflow) => {
            findings.not_evaluated(subject(parameter), "the value is beyond the range of f64");
        }
        Measured::Degenerate(_) => {}
    }
    None
}
