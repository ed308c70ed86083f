//! Weights without elements: what is left where one part of a sharded parameter was saved as the whole.

use super::{Check, Confidence, Findings, Needs, Rule, Severity, Subject, Threshold, Thresholds};
use crate::analysis::model::{CheckpointAnalysis, Layout, OptimizerCoverage, Role, Section, TensorAnalysis};
use crate::number::counted;

pub(super) static RULE: Rule = Rule {
    code: "FP211",
    name: "empty-weight",
    summary: "a weight of the model has no elements",
    page: include_str!("../../docs/rules/FP211-empty-weight.md"),
    severity: Severity::Critical,
    confidence: Confidence::Heuristic,
    needs: Needs::LIST,
    thresholds: &[Threshold {
        name: "empty-share",
        default: 0.5,
        unit: "of the parameters, or of those called weight",
        source: "28 of 93 parameters of SevenNet-0 are vectors that its layers keep empty, 10 of them called weight",
    }],
    check: Check::Checkpoint(check),
};

fn check(checkpoint: &CheckpointAnalysis, thresholds: &Thresholds, findings: &mut Findings) {
    tell_no_model(checkpoint, findings);
    let all = checkpoint.tensors.iter().filter(|tensor| tensor.is_parameter() && !tensor.damaged);
    let (weights, others): (Vec<&TensorAnalysis>, Vec<_>) = all.partition(|tensor| is_called_weight(tensor));
    let count = weights.len() + others.len();
    let empty_weights = weights.iter().filter(|tensor| tensor.elements == 0).count();
    let empty: Vec<_> = weights.iter().chain(&others).filter(|tensor| tensor.elements == 0).collect();
    let limit = thresholds.get("empty-share");
    // What is partitioned over processes is a vector in each, and small vectors are left whole: then it is the weights that are gone.
    let are_most = |part: usize, whole: usize| part as f64 > limit * whole as f64;
    let is_sharded = are_most(empty.len(), count) || are_most(empty_weights, weights.len());
    let told: Vec<_> =
        empty.into_iter().filter(|tensor| is_sharded || is_matrix_of_a_layer(tensor)).collect();
    let Some(first) = told.first() else { return };
    let others = match told.len() - 1 {
        0 => String::new(),
        more => format!("; {more} more of {count} parameters have none"),
    };
    let message = format!("{} has the shape {:?}, no element{others}", first.name, first.shape);
    let advice = "save the model with its parameters gathered: of a sharded one, each process holds a part, and some hold nothing";
    let finding = findings.push(Subject::Tensor(first.name.clone()), message, advice);
    finding.against("parameters without elements", told.len() as f64, 0.0, "tensors");
}

/// A file with a place for the model, nothing in it, and an optimizer beside it that had parameters.
fn tell_no_model(checkpoint: &CheckpointAnalysis, findings: &mut Findings) {
    let has_a_place = matches!(
        checkpoint.layout,
        Layout::TrainingDict | Layout::Lightning | Layout::NanoGpt | Layout::Timm
    );
    let is_of_model = |tensor: &TensorAnalysis| matches!(tensor.section, Section::Model | Section::Average);
    let listed = |optimizer: &OptimizerCoverage| optimizer.listed.max(optimizer.orphans.len() as u64);
    let optimizers = checkpoint.coverage.value().map_or(&[][..], |coverage| &coverage.optimizers);
    let parameters: u64 = optimizers.iter().map(listed).sum();
    if !has_a_place || parameters == 0 || checkpoint.tensors.iter().any(is_of_model) {
        return;
    }
    let message = format!(
        "the model has no tensor, and the optimizer beside it lists {}",
        counted(parameters, "parameter")
    );
    let advice = "the model was saved before it was filled, or its weights were taken out: save it again, or take an earlier file";
    findings.push(Subject::Checkpoint, message, advice).short_of("tensors of the model", 0.0, 1.0, "tensors");
}

fn is_called_weight(tensor: &TensorAnalysis) -> bool {
    tensor.canonical_name.rsplit('.').next() == Some("weight")
}

/// Whether it is a matrix, or more, that does something in its layer: one without elements leaves nothing of what it reads or gives. Vectors and
/// tensors of no known role may be empty on purpose, such as a bias that a layer has not.
fn is_matrix_of_a_layer(tensor: &TensorAnalysis) -> bool {
    tensor.shape.len() > 1 && !matches!(tensor.role, Role::Other | Role::Bias | Role::NormBias)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::model::{Algorithm, Measured, StateCoverage};
    use crate::rules::test_support::{checkpoint, judge, judge_with, optimizer_coverage, tensor};

    #[test]
    fn weights_without_elements_are_one_critical_finding() {
        let empty = |name: &str| tensor(name, Role::Linear, &[0, 64]);
        let found =
            judge(&RULE, &checkpoint(vec![tensor("a", Role::Linear, &[8, 8]), empty("b"), empty("c")]));
        assert_eq!(found.told(), [(Severity::Critical, "b".to_owned())]);
        assert_eq!(
            found.found[0].message,
            "b has the shape [0, 64], no element; 1 more of 3 parameters have none"
        );
    }

    #[test]
    fn a_model_without_any_tensor_beside_an_optimizer_is_critical() {
        let state = |layout, listed| {
            let mut saved = checkpoint(vec![
                tensor("optimizer.state.0.exp_avg", Role::Other, &[8]).in_section(Section::Optimizer),
            ]);
            saved.layout = layout;
            saved.coverage = Measured::Value(StateCoverage {
                optimizers: vec![optimizer_coverage(Algorithm::AdamW, listed, listed)],
                unlisted: Measured::not("there is no model beside the optimizer"),
                unfilled: Vec::new(),
            });
            saved
        };
        let found = judge(&RULE, &state(Layout::TrainingDict, 30));
        assert_eq!(found.told(), [(Severity::Critical, "checkpoint".to_owned())]);
        assert_eq!(
            found.found[0].message,
            "the model has no tensor, and the optimizer beside it lists 30 parameters"
        );
        assert!(judge(&RULE, &state(Layout::SingleFile, 30)).is_clean(), "an optimizer.pt by itself");
        let mut beside = state(Layout::TrainingDict, 30);
        beside.tensors.push(tensor("a.weight", Role::Linear, &[8, 8]));
        assert!(judge(&RULE, &beside).is_clean());
    }

    #[test]
    fn weights_that_a_sharded_save_left_as_empty_vectors_are_told() {
        // A third of the parameters, as DeepSpeed leaves those of a GPT-2: vectors without elements in place of matrices.
        let layer = |at: usize, matrix: u64| {
            let vector = |leaf: &str, size| tensor(&format!("h.{at}.{leaf}"), Role::Other, &[size]);
            [
                vector("attn.weight", 0),
                vector("mlp.weight", matrix),
                vector("attn.bias", 8),
                vector("mlp.bias", 8),
                vector("ln.weight", 8),
                vector("ln.bias", 8),
            ]
        };
        let saved = |matrix: u64| checkpoint((0..4).flat_map(|at| layer(at, matrix)).collect());
        let found = judge(&RULE, &saved(0));
        assert_eq!(found.told(), [(Severity::Critical, "h.0.attn.weight".to_owned())]);
        assert!(
            judge(&RULE, &saved(8)).is_clean(),
            "a third of the weights: those of SevenNet's convolutions"
        );
    }

    #[test]
    fn empty_vectors_are_silent_until_they_are_most_of_the_model() {
        let saved = |empty: usize| {
            let vector =
                |at: usize| tensor(&format!("{at}.bias"), Role::Bias, &[if at < empty { 0 } else { 8 }]);
            checkpoint((0..8).map(vector).collect())
        };
        assert!(judge(&RULE, &saved(4)).is_clean());
        let sharded = judge(&RULE, &saved(5));
        assert_eq!(sharded.told(), [(Severity::Critical, "0.bias".to_owned())]);
        assert_eq!(judge_with(&RULE, &saved(4), &[("empty-share", 0.4)]).told().len(), 1);
    }

    #[test]
    fn a_matrix_of_no_known_role_is_silent() {
        let tensors = vec![tensor("a", Role::Linear, &[8, 8]), tensor("_state", Role::Other, &[0, 2])];
        assert!(judge(&RULE, &checkpoint(tensors)).is_clean());
    }

    #[test]
    fn buffers_other_sections_and_scalars_are_silent() {
        let tensors = vec![
            tensor("mask", Role::Buffer, &[0, 8]),
            tensor("m", Role::Linear, &[0, 8]).in_section(Section::Optimizer),
            tensor("scale", Role::Other, &[]),
        ];
        assert!(judge(&RULE, &checkpoint(tensors)).is_clean());
    }
}
