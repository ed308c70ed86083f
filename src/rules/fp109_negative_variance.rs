//! A variance below zero: of a norm's running statistics, or of a second moment that is kept in factors.

use super::{Check, Confidence, Findings, Needs, Rule, Severity, Subject, Thresholds};
use crate::analysis::model::{CheckpointAnalysis, Section, TensorAnalysis};

pub(super) static RULE: Rule = Rule {
    code: "FP109",
    name: "negative-variance",
    summary: "a running variance or a factored second moment is below zero",
    page: include_str!("../../docs/rules/FP109-negative-variance.md"),
    severity: Severity::Critical,
    confidence: Confidence::Exact,
    needs: Needs::NORMS,
    thresholds: &[],
    check: Check::Checkpoint(check),
};

/// Last parts of names under which means of squares are kept: BatchNorm's; those of Adafactor in torch, transformers and
/// fairseq; `RMSprop`'s.
const VARIANCES: &[&str] =
    &["running_var", "row_var", "col_var", "exp_avg_sq_row", "exp_avg_sq_col", "variance", "square_avg"];

fn check(checkpoint: &CheckpointAnalysis, _: &Thresholds, findings: &mut Findings) {
    for tensor in checkpoint.tensors.iter().filter(|tensor| is_variance(tensor)) {
        let Some(statistics) = tensor.statistics.value() else { continue };
        if statistics.negative == 0 {
            continue;
        }
        let message = format!(
            "{} of {} elements of {}, which are means of squares, are below zero",
            statistics.negative,
            statistics.count,
            tensor.told()
        );
        let advice = "its root is NaN where it is next used: take an earlier checkpoint, or compute the statistics again";
        findings.push(Subject::Tensor(tensor.name.clone()), message, advice).against(
            "negative elements",
            statistics.negative as f64,
            0.0,
            "elements",
        );
    }
}

/// `variance` is a tensor of its own only in optimizer state: in a model it may be anything.
fn is_variance(tensor: &TensorAnalysis) -> bool {
    let leaf = tensor.canonical_name.rsplit('.').next().unwrap_or_default();
    let of_state = tensor.section == Section::Optimizer;
    let of_norm = leaf == "running_var" && matches!(tensor.section, Section::Model | Section::Average);
    tensor.tied_to.is_none() && (of_norm || (of_state && VARIANCES.contains(&leaf)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::model::{Measured, Role};
    use crate::rules::test_support::{checkpoint, judge, tensor};

    fn with_negative(name: &str, section: Section, negative: u64) -> CheckpointAnalysis {
        let mut variance = tensor(name, Role::Buffer, &[64]).filled(1.0);
        variance.section = section;
        if let Measured::Value(statistics) = &mut variance.statistics {
            statistics.negative = negative;
        }
        checkpoint(vec![variance])
    }

    #[test]
    fn a_variance_below_zero_is_told_wherever_it_is_kept() {
        for (name, section) in [
            ("bn1.running_var", Section::Model),
            ("bn1.running_var", Section::Average),
            ("state.3.row_var", Section::Optimizer),
            ("state.3.exp_avg_sq_col", Section::Optimizer),
        ] {
            assert_eq!(judge(&RULE, &with_negative(name, section, 1)).told().len(), 1, "{name}");
            assert!(judge(&RULE, &with_negative(name, section, 0)).is_clean(), "{name}");
        }
    }

    #[test]
    fn other_tensors_may_be_below_zero() {
        for (name, section) in [("bn1.running_mean", Section::Model), ("head.variance", Section::Model)] {
            assert!(judge(&RULE, &with_negative(name, section, 3)).is_clean(), "{name}");
        }
    }
}
