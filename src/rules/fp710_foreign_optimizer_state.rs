//! Moments whose shapes the model does not have: the state is that of another model.

use std::collections::BTreeMap;

use super::moments::{parameters, state};
use super::{Check, Confidence, Findings, Needs, Rule, Severity, Subject, Threshold, Thresholds};
use crate::analysis::model::{Algorithm, CheckpointAnalysis, ParameterOptimizer, Section};

pub(super) static RULE: Rule = Rule {
    code: "FP710",
    name: "foreign-optimizer-state",
    summary: "an optimizer's moments have shapes that the model's tensors have not",
    page: include_str!("../../docs/rules/FP710-foreign-optimizer-state.md"),
    severity: Severity::Critical,
    confidence: Confidence::Exact,
    needs: Needs::LIST.and(Needs::OPTIMIZER),
    thresholds: &[Threshold {
        name: "foreign-share",
        default: 0.5,
        unit: "of the matrices with moments",
        source: "design: a head or a criterion that is trained and saved elsewhere is less than half of a model",
    }],
    check: Check::Checkpoint(check),
};

fn check(checkpoint: &CheckpointAnalysis, thresholds: &Thresholds, findings: &mut Findings) {
    let Some(state) = state(checkpoint) else { return };
    if let Some(reason) = why_shapes_are_not_known(checkpoint) {
        return findings.not_evaluated(Subject::Checkpoint, reason);
    }
    for (index, optimizer) in state.optimizers.iter().enumerate() {
        let matrices = parameters(checkpoint).map(|(parameter, _, _)| parameter);
        let matrices: Vec<_> = matrices
            .filter(|parameter| parameter.optimizer == index as u64 && parameter.shape.len() > 1)
            .collect();
        if matrices.is_empty() || !keeps_whole_moments(&optimizer.algorithm) {
            let reason = format!("{} keeps no moments in the shape of a matrix", optimizer.place);
            findings.not_evaluated(Subject::Checkpoint, reason);
            continue;
        }
        let foreign = foreign(checkpoint, &matrices);
        let Some(first) = foreign.first() else { continue };
        let share = foreign.len() as f64 / matrices.len() as f64;
        let limit = thresholds.get("foreign-share");
        let message = format!(
            "{} holds moments of {} matrices, and {} of these have a shape for which the model has no tensor, such as {} of {:?}",
            optimizer.place,
            matrices.len(),
            foreign.len(),
            first.name,
            first.shape,
        );
        let advice = "if part of what is trained is saved elsewhere this is as it should be; if not, the state is that of another model, or of another save of this one: a resume would fail or go on with moments that mean nothing";
        let finding = findings.push(Subject::Checkpoint, message, advice);
        finding.against(
            "moments without a tensor of their shape",
            share,
            limit,
            "of the matrices with moments",
        );
        if share <= limit {
            finding.severity(Severity::Note);
        }
    }
}

/// Moments of one element for each of the parameter's.
fn keeps_whole_moments(algorithm: &Algorithm) -> bool {
    match algorithm {
        Algorithm::Adam
        | Algorithm::AdamW
        | Algorithm::AdamLike
        | Algorithm::Sgd
        | Algorithm::RmsProp
        | Algorithm::Lion
        | Algorithm::Adagrad => true,
        Algorithm::Adafactor | Algorithm::EightBit | Algorithm::Unknown { .. } => false,
    }
}

/// Why it is not known which shapes the model has.
fn why_shapes_are_not_known(checkpoint: &CheckpointAnalysis) -> Option<&'static str> {
    let mut model = checkpoint.tensors.iter().filter(|tensor| tensor.section == Section::Model).peekable();
    if model.peek().is_none() {
        return Some("there is no model beside the optimizer");
    }
    if model.any(|tensor| tensor.dtype.is_none()) {
        return Some("the shape of a tensor of the model is not known");
    }
    let unread = checkpoint.problems.iter().any(|problem| problem.damage || problem.kind == "other-model");
    unread.then_some("part of the model was not read")
}

/// The parameters for whose shape there are fewer tensors than moments: those beyond the number of tensors.
fn foreign<'a>(
    checkpoint: &CheckpointAnalysis,
    matrices: &[&'a ParameterOptimizer],
) -> Vec<&'a ParameterOptimizer> {
    let mut left: BTreeMap<&[u64], u64> = BTreeMap::new();
    for tensor in checkpoint.tensors.iter().filter(|tensor| tensor.section == Section::Model) {
        *left.entry(&tensor.shape).or_default() += 1;
    }
    let is_foreign = |parameter: &&&ParameterOptimizer| match left.get_mut(parameter.shape.as_slice()) {
        Some(count) if *count > 0 => {
            *count -= 1;
            false
        }
        _ => true,
    };
    matrices.iter().filter(is_foreign).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::model::Role;
    use crate::rules::test_support::{checkpoint, judge, moments, tensor};

    fn trained(model: &[&[u64]], moments_of: &[&[u64]]) -> CheckpointAnalysis {
        let tensors = model.iter().enumerate();
        let tensors = tensors.map(|(at, shape)| tensor(&format!("{at}.weight"), Role::Linear, shape));
        let states = moments_of.iter().enumerate().map(|(at, shape)| {
            let mut state = moments(&format!("{at}.weight"));
            state.shape = shape.to_vec();
            state
        });
        checkpoint(tensors.collect()).with_moments(states.collect(), |_, _| {})
    }

    #[test]
    fn moments_of_another_model_are_told_and_those_of_a_part_of_it_are_not() {
        let model: &[&[u64]] = &[&[64, 32], &[64, 64], &[10, 64], &[64]];
        assert!(judge(&RULE, &trained(model, &[&[64, 32], &[64, 64], &[10, 64]])).is_clean());
        assert!(judge(&RULE, &trained(model, &[&[10, 64], &[64]])).is_clean());
        let of_another = judge(&RULE, &trained(model, &[&[128, 32], &[128, 128], &[10, 64]]));
        assert_eq!(of_another.told(), [(Severity::Critical, "checkpoint".to_owned())]);
        let more_than_there_are = judge(&RULE, &trained(model, &[&[64, 64], &[64, 64], &[64, 64]]));
        assert_eq!(more_than_there_are.told().len(), 1);
    }

    #[test]
    fn a_head_that_is_saved_elsewhere_is_a_note() {
        let found = judge(&RULE, &trained(&[&[64, 32], &[64, 64]], &[&[64, 32], &[64, 64], &[7, 64]]));
        assert_eq!(found.told(), [(Severity::Note, "checkpoint".to_owned())]);
    }

    #[test]
    fn what_has_no_moments_of_matrices_or_no_model_beside_it_is_not_evaluated() {
        assert_eq!(judge(&RULE, &trained(&[&[64, 32]], &[&[64]])).not_evaluated.len(), 1);
        assert_eq!(judge(&RULE, &trained(&[], &[&[64, 32]])).not_evaluated.len(), 1);
    }
}
