//! Weights without elements: what is left where one part of a sharded parameter was saved as the whole.

use super::{Check, Confidence, Findings, Needs, Rule, Severity, Subject, Threshold, Thresholds};
use crate::analysis::model::{CheckpointAnalysis, Role, TensorAnalysis};

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
        unit: "of the parameters",
        source: "28 of 93 parameters of SevenNet-0 are biases that its layers keep empty",
    }],
    check: Check::Checkpoint(check),
};

fn check(checkpoint: &CheckpointAnalysis, thresholds: &Thresholds, findings: &mut Findings) {
    let parameters = || checkpoint.tensors.iter().filter(|tensor| tensor.is_parameter() && !tensor.damaged);
    let empty: Vec<_> = parameters().filter(|tensor| tensor.elements == 0).collect();
    let count = parameters().count();
    let limit = thresholds.get("empty-share");
    let share = empty.len() as f64 / count as f64;
    let is_told =
        |tensor: &&&TensorAnalysis| share > limit || is_weight(tensor) || is_matrix_of_a_layer(tensor);
    let told: Vec<_> = empty.iter().filter(is_told).collect();
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

/// Whether its layer calls it its weight, whatever is left of its shape: what is partitioned over processes is a vector in each.
fn is_weight(tensor: &TensorAnalysis) -> bool {
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
    use crate::analysis::model::Section;
    use crate::rules::test_support::{checkpoint, judge, judge_with, tensor};

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
    fn weights_that_a_sharded_save_left_as_empty_vectors_are_told() {
        // A third of the parameters, as DeepSpeed leaves those of a GPT-2: vectors without elements in place of matrices.
        let layer = |at: usize| {
            let empty = tensor(&format!("h.{at}.attn.weight"), Role::Other, &[0]);
            let kept = |leaf: &str| tensor(&format!("h.{at}.{leaf}"), Role::NormBias, &[8]);
            [empty, kept("ln.bias"), kept("attn.bias")]
        };
        let found = judge(&RULE, &checkpoint((0..4).flat_map(layer).collect()));
        assert_eq!(found.told(), [(Severity::Critical, "h.0.attn.weight".to_owned())]);
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
