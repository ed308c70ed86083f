//! Moments whose shapes the model does not have: the state is that of another model.

use std::collections::{BTreeMap, BTreeSet};

use super::moments::{parameters, state};
use super::{Check, Confidence, Findings, Needs, Rule, Severity, Subject, Threshold, Thresholds};
use crate::analysis::model::{
    Algorithm, CheckpointAnalysis, ParameterOptimizer, Role, Section, TensorAnalysis,
};

pub(super) static RULE: Rule = Rule {
    code: "FP710",
    name: "foreign-optimizer-state",
    summary: "an optimizer holds moments for which the model has no tensor of their shape",
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
        let matrices = once_each(checkpoint, index as u64);
        if matrices.is_empty() || !keeps_whole_moments(&optimizer.algorithm) {
            let reason = format!("{} keeps no moments in the shape of a matrix", optimizer.place);
            findings.not_evaluated(Subject::Checkpoint, reason);
            continue;
        }
        let foreign = foreign(checkpoint, &matrices);
        if foreign.is_empty() {
            continue;
        }
        let share = foreign.len() as f64 / matrices.len() as f64;
        let limit = thresholds.get("foreign-share");
        let told = told(checkpoint, &foreign);
        let message = format!("{} holds moments of {} matrices, and {told}", optimizer.place, matrices.len());
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

/// The matrices with moments of an optimizer, each once: that a parameter stands in two groups is told by another rule.
fn once_each(checkpoint: &CheckpointAnalysis, optimizer: u64) -> Vec<&ParameterOptimizer> {
    let mut seen = BTreeSet::new();
    parameters(checkpoint)
        .map(|(parameter, _, _)| parameter)
        .filter(|parameter| parameter.optimizer == optimizer && parameter.shape.len() > 1)
        .filter(|parameter| seen.insert(parameter.name.as_str()))
        .collect()
}

/// What is so of the `foreign` matrices: the model has no tensor of their shape, or fewer than there are moments.
fn told(checkpoint: &CheckpointAnalysis, foreign: &[&ParameterOptimizer]) -> String {
    let shapes: BTreeSet<&[u64]> = model(checkpoint).map(|tensor| tensor.shape.as_slice()).collect();
    let (left_over, unknown): (Vec<_>, Vec<_>) =
        foreign.iter().partition(|parameter| shapes.contains(parameter.shape.as_slice()));
    let such_as = |some: &[&ParameterOptimizer]| {
        some.first().map_or_else(String::new, |first| format!("such as {} of {:?}", first.name, first.shape))
    };
    let of_no_tensor = format!(
        "{} of these have a shape for which the model has no tensor, {}",
        unknown.len(),
        such_as(&unknown)
    );
    let of_none_left = format!(
        "for {} of these no tensor of the model is left, since others of their shape take all that there are, {}",
        left_over.len(),
        such_as(&left_over)
    );
    match (unknown.is_empty(), left_over.is_empty()) {
        (_, true) => of_no_tensor,
        (true, false) => of_none_left,
        (false, false) => format!("{of_no_tensor}; {of_none_left}"),
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
    let mut model = model(checkpoint).peekable();
    if model.peek().is_none() {
        return Some("there is no model beside the optimizer");
    }
    if model.any(|tensor| tensor.dtype.is_none()) {
        return Some("the shape of a tensor of the model is not known");
    }
    let unread = checkpoint.problems.iter().any(|problem| problem.damage || problem.kind == "other-model");
    unread.then_some("part of the model was not read")
}

fn model(checkpoint: &CheckpointAnalysis) -> impl Iterator<Item = &TensorAnalysis> {
    checkpoint.tensors.iter().filter(|tensor| tensor.section == Section::Model)
}

/// The parameters for whose shape there are fewer tensors than moments: those beyond the number of tensors.
fn foreign<'a>(
    checkpoint: &CheckpointAnalysis,
    matrices: &[&'a ParameterOptimizer],
) -> Vec<&'a ParameterOptimizer> {
    let mut left: BTreeMap<&[u64], u64> = BTreeMap::new();
    for tensor in model(checkpoint) {
        *left.entry(&tensor.shape).or_default() += 1;
    }
    let mut experts = experts(checkpoint);
    let is_foreign = |parameter: &&&ParameterOptimizer| match left.get_mut(parameter.shape.as_slice()) {
        Some(count) if *count > 0 => {
            *count -= 1;
            false
        }
        _ => !take_stacked(&parameter.shape, &mut experts),
    };
    matrices.iter().filter(is_foreign).copied().collect()
}

/// How many experts' matrices of each shape the model has.
fn experts(checkpoint: &CheckpointAnalysis) -> BTreeMap<[u64; 2], u64> {
    let mut experts = BTreeMap::new();
    for tensor in model(checkpoint).filter(|tensor| tensor.role == Role::Expert) {
        if let [rows, columns] = tensor.shape[..] {
            *experts.entry([rows, columns]).or_default() += 1;
        }
    }
    experts
}

/// Takes the experts that moments of three axes are those of: transformers trains the matrices of a layer's experts as one tensor, and
/// gate and value in one, and saves them apart.
fn take_stacked(shape: &[u64], experts: &mut BTreeMap<[u64; 2], u64>) -> bool {
    let &[count, rows, columns] = shape else { return false };
    let mut ways = vec![([rows, columns], count), ([columns, rows], count)];
    if rows.is_multiple_of(2) {
        ways.extend([
            ([rows / 2, columns], count.saturating_mul(2)),
            ([columns, rows / 2], count.saturating_mul(2)),
        ]);
    }
    if columns.is_multiple_of(2) {
        ways.extend([
            ([rows, columns / 2], count.saturating_mul(2)),
            ([columns / 2, rows], count.saturating_mul(2)),
        ]);
    }
    for (matrix, wanted) in ways {
        if let Some(left) = experts.get_mut(&matrix).filter(|left| **left >= wanted) {
            *left -= wanted;
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
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
    fn a_shape_that_the_model_has_too_few_of_is_told_from_one_that_it_has_not() {
        let model: &[&[u64]] = &[&[64, 32], &[64, 64]];
        let message = |moments: &[&[u64]]| judge(&RULE, &trained(model, moments)).found.remove(0).message;
        let (none, left) = ("the model has no tensor", "no tensor of the model is left");
        let too_many = message(&[&[64, 64], &[64, 64], &[64, 32]]);
        assert!(too_many.contains(&format!("for 1 of these {left}")), "{too_many}");
        assert!(too_many.contains("such as 1.weight of [64, 64]") && !too_many.contains(none), "{too_many}");
        let unknown = message(&[&[64, 7], &[64, 32]]);
        assert!(unknown.contains("1 of these have a shape for which the model has no tensor"), "{unknown}");
        assert!(!unknown.contains(left), "{unknown}");
        let both = message(&[&[64, 7], &[64, 32], &[64, 32]]);
        assert!(both.contains(none) && both.contains(left), "{both}");
    }

    #[test]
    fn a_parameter_that_stands_in_two_groups_is_counted_once() {
        let mut saved = trained(&[&[64, 32], &[64, 64]], &[&[64, 32], &[64, 64], &[64, 32], &[64, 64]]);
        let mut index = 0;
        saved.edit_moments(|parameter| {
            parameter.name = format!("{}.weight", index % 2);
            index += 1;
        });
        assert!(judge(&RULE, &saved).is_clean());
    }

    #[test]
    fn experts_that_are_trained_as_one_tensor_and_saved_apart_are_the_models() {
        let expert = |layer: u64, expert: u64, part: &str, shape: &[u64]| {
            let name = format!("layers.{layer}.mlp.experts.{expert}.{part}.weight");
            tensor(&name, Role::Expert, shape)
        };
        let saved = |moments_of: &[&[u64]]| {
            let mut saved = trained(&[&[64, 32]], moments_of);
            for layer in 0..2 {
                for number in 0..4 {
                    saved.tensors.extend([
                        expert(layer, number, "w1", &[128, 64]),
                        expert(layer, number, "w3", &[128, 64]),
                        expert(layer, number, "w2", &[64, 128]),
                    ]);
                }
            }
            judge(&RULE, &saved)
        };
        let (gate_and_up, down): (&[u64], &[u64]) = (&[4, 256, 64], &[4, 64, 128]);
        assert!(saved(&[&[64, 32], gate_and_up, down, gate_and_up, down]).is_clean());
        assert_eq!(saved(&[&[64, 32], gate_and_up, down, gate_and_up, down, down]).told().len(), 1);
        assert_eq!(saved(&[&[64, 32], &[4, 200, 64]]).told().len(), 1);
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
