//! Weights without elements: what is left where one part of a sharded parameter was saved as the whole.

use super::{Check, Confidence, Findings, Needs, Rule, Severity, Subject, Thresholds};
use crate::analysis::model::{CheckpointAnalysis, Role, TensorAnalysis};

pub(super) static RULE: Rule = Rule {
    code: "FP211",
    name: "empty-weight",
    summary: "a weight of the model has no elements",
    page: include_str!("../../docs/rules/FP211-empty-weight.md"),
    severity: Severity::Critical,
    confidence: Confidence::Exact,
    needs: Needs::LIST,
    thresholds: &[],
    check: Check::Checkpoint(check),
};

fn check(checkpoint: &CheckpointAnalysis, _: &Thresholds, findings: &mut Findings) {
    let parameters = || checkpoint.tensors.iter().filter(|tensor| tensor.is_parameter() && !tensor.damaged);
    let (known, other): (Vec<_>, Vec<_>) =
        parameters().filter(|tensor| tensor.elements == 0).partition(|tensor| does_something(tensor));
    for (empty, severity) in [(known, Severity::Critical), (other, Severity::Warning)] {
        let Some(first) = empty.first() else { continue };
        let others = match empty.len() - 1 {
            0 => String::new(),
            more => format!(", and so have {more} more of {} parameters", parameters().count()),
        };
        let message = format!("{} has the shape {:?}, no element{others}", first.name, first.shape);
        let advice = "save the model with its parameters gathered: of a sharded one, each process holds a part, and some hold nothing";
        let finding = findings.push(Subject::Tensor(first.name.clone()), message, advice).severity(severity);
        finding.against("parameters without elements", empty.len() as f64, 0.0, "tensors");
    }
}

/// Whether its name says that it is part of what the model computes.
fn does_something(tensor: &TensorAnalysis) -> bool {
    !matches!(tensor.role, Role::Other | Role::Bias | Role::NormBias)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::model::Section;
    use crate::rules::test_support::{checkpoint, judge, tensor};

    #[test]
    fn weights_without_elements_are_one_critical_finding() {
        let empty = |name: &str| tensor(name, Role::Linear, &[0, 64]);
        let found =
            judge(&RULE, &checkpoint(vec![tensor("a", Role::Linear, &[8, 8]), empty("b"), empty("c")]));
        assert_eq!(found.told(), [(Severity::Critical, "b".to_owned())]);
        assert_eq!(
            found.found[0].message,
            "b has the shape [0, 64], no element, and so have 1 more of 3 parameters"
        );
    }

    #[test]
    fn a_tensor_of_no_known_role_is_a_warning() {
        let found = judge(&RULE, &checkpoint(vec![tensor("extra", Role::Other, &[0])]));
        assert_eq!(found.told(), [(Severity::Warning, "extra".to_owned())]);
    }

    #[test]
    fn buffers_other_sections_and_scalars_are_silent() {
        let tensors = vec![
            tensor("mask", Role::Buffer, &[0]),
            tensor("m", Role::Linear, &[0]).in_section(Section::Optimizer),
            tensor("scale", Role::Other, &[]),
        ];
        assert!(judge(&RULE, &checkpoint(tensors)).is_clean());
    }
}
