//! What several rules ask of optimizer state.

use std::collections::HashMap;

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
pub(super) fn parameters(checkpoint: &CheckpointAnalysis) -> impl Iterator<Item = Entry<'_>> {
    state(checkpoint).into_iter().flat_map(|state| {
        state.parameters.iter().filter_map(|parameter| {
            let optimizer = state.optimizers.get(usize::try_from(parameter.optimizer).ok()?)?;
            let group = optimizer.groups.get(usize::try_from(parameter.group).ok()?)?;
            Some((parameter, optimizer, group))
        })
    })
}

/// A parameter with its optimizer and group.
pub(super) type Entry<'a> = (&'a ParameterOptimizer, &'a OptimizerSummary, &'a ParameterGroup);

/// The parameters of Adam and its like. Every other optimizer is noted once: a rule that asks for Adam's moments says nothing of it.
pub(super) fn of_adam<'a>(checkpoint: &'a CheckpointAnalysis, findings: &mut Findings) -> Vec<Entry<'a>> {
    for optimizer in state(checkpoint).into_iter().flat_map(|state| &state.optimizers) {
        if !optimizer.algorithm.is_adam() {
            let reason = format!("{}: it does not keep the moments of Adam and its like", optimizer.place);
            findings.not_evaluated(Subject::Checkpoint, reason);
        }
    }
    parameters(checkpoint).filter(|(_, optimizer, _)| optimizer.algorithm.is_adam()).collect()
}

/// What is said of an optimizer that counts no steps.
pub(super) fn uncounted(optimizer: &OptimizerSummary) -> String {
    format!("{}: no parameter has a step counter", optimizer.place)
}

/// Notes of how many parameters `quantity` could not be measured: once for each optimizer and reason.
pub(super) fn note_unmeasured<T>(
    checkpoint: &CheckpointAnalysis,
    quantity: impl for<'a> Fn(&'a ParameterOptimizer) -> &'a Measured<T>,
    findings: &mut Findings,
) {
    let mut places = HashMap::new();
    let mut notes: Vec<(&OptimizerSummary, &ParameterOptimizer, &str, u64)> = Vec::new();
    for (parameter, optimizer, _) in parameters(checkpoint) {
        let Some(reason) = why_not(quantity(parameter)) else { continue };
        let place = *places.entry((parameter.optimizer, reason)).or_insert_with(|| {
            notes.push((optimizer, parameter, reason, 0));
            notes.len() - 1
        });
        notes[place].3 += 1;
    }
    for (optimizer, first, reason, count) in notes {
        let of = match count {
            1 => first.name.clone(),
            _ => format!("{count} parameters, from {} on", first.name),
        };
        findings.not_evaluated(Subject::Checkpoint, format!("{}: {of}: {reason}", optimizer.place));
    }
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
    if let Some(reason) = why_not(quantity) {
        findings.not_evaluated(subject(parameter), reason);
    }
    quantity.value()
}

/// Why a quantity cannot be judged; nothing where it can, and where there is nothing to judge.
fn why_not<T>(quantity: &Measured<T>) -> Option<&str> {
    match quantity {
        Measured::NotMeasured(reason) => Some(reason),
        Measured::Degenerate(Degenerate::AllZero) => Some("every element is zero: frozen, or never used"),
        Measured::Degenerate(Degenerate::Overflow) => Some("the value is beyond the range of f64"),
        Measured::Value(_) | Measured::Degenerate(_) => None,
    }
}
