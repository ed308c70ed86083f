//! D6: one channel of a norm amplified far beyond the others.

use super::weights::{norm_gains, wanted};
use super::{Check, Confidence, Findings, Needs, Rule, Severity, Subject, Threshold, Thresholds};
use crate::analysis::model::CheckpointAnalysis;
use crate::number::short;

pub(super) static RULE: Rule = Rule {
    code: "FP406",
    name: "norm-gain-outlier",
    summary: "the largest gain of a norm is far above the typical one",
    page: include_str!("../../docs/rules/FP406-norm-gain-outlier.md"),
    severity: Severity::Warning,
    confidence: Confidence::Heuristic,
    needs: Needs::STATS,
    thresholds: &[
        Threshold {
            name: "ratio",
            default: 10.0,
            unit: "largest over median absolute gain",
            source: "design choice of the failure catalogue, D6; at most 4.3 in 101 norms of 6 published models",
        },
        Threshold {
            name: "smallest-median",
            default: 0.2,
            unit: "absolute gain",
            source: "weight decay shrinks batch-norm gains: a median of 0.026 in a published model",
        },
    ],
    check: Check::Checkpoint(check),
};

fn check(checkpoint: &CheckpointAnalysis, thresholds: &Thresholds, findings: &mut Findings) {
    let (limit, floor) = (thresholds.get("ratio"), thresholds.get("smallest-median"));
    for tensor in norm_gains(checkpoint) {
        let Some(&median) = wanted(&tensor.median_abs, tensor, "median", findings) else { continue };
        let Some(statistics) = wanted(&tensor.statistics, tensor, "statistics", findings) else { continue };
        let Some(&largest) = wanted(&statistics.max_abs, tensor, "maximum", findings) else { continue };
        let typical = median.max(floor);
        if largest <= limit * typical {
            continue;
        }
        let message = format!(
            "the largest gain of {} is {}, {} times the typical {} (limit {limit})",
            tensor.name,
            short(largest),
            short(largest / typical),
            short(typical),
        );
        findings
            .push(
                Subject::Tensor(tensor.name.clone()),
                message,
                "compare with earlier checkpoints: if it grows, exempt gains from low precision and lower their learning rate",
            )
            .against("largest |gain| over the typical", largest / typical, limit, "1")
            .evidence("largest |gain|", largest, "1")
            .evidence("median |gain|", median, "1");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::model::{Degenerate, Measured, Role, TensorAnalysis};
    use crate::rules::test_support::{checkpoint, judge, judge_with, tensor};

    fn gain(largest: f64, median: f64) -> TensorAnalysis {
        tensor("ln_1.weight", Role::NormGain, &[64]).filled(largest).with_median_abs(median)
    }

    fn told(tensor: TensorAnalysis) -> Vec<(Severity, String)> {
        judge(&RULE, &checkpoint(vec![tensor])).told()
    }

    #[test]
    fn a_gain_fifty_times_the_median_is_a_warning_of_either_sign() {
        let expected = [(Severity::Warning, "ln_1.weight".to_owned())];
        assert_eq!(told(gain(50.0, 1.0)), expected);
        assert_eq!(told(gain(-50.0, 1.0)), expected);
    }

    #[test]
    fn ten_times_the_median_is_the_last_that_is_silent() {
        assert!(told(gain(10.0, 1.0)).is_empty());
        assert_eq!(told(gain(10.01, 1.0)).len(), 1);
    }

    #[test]
    fn the_ratio_can_be_overridden() {
        assert!(judge_with(&RULE, &checkpoint(vec![gain(50.0, 1.0)]), &[("ratio", 60.0)]).is_clean());
    }

    #[test]
    fn gains_that_shrank_to_nothing_make_no_outlier_of_an_ordinary_one() {
        assert!(told(gain(1.8, 1e-6)).is_empty());
        assert_eq!(told(gain(2.1, 1e-6)).len(), 1);
    }

    #[test]
    fn running_statistics_may_be_as_large_as_they_like() {
        let variance = tensor("bn.running_var", Role::Buffer, &[64]).filled(5e5).with_median_abs(1.0);
        assert!(told(variance).is_empty());
    }

    #[test]
    fn a_gain_without_a_finite_element_is_not_evaluated() {
        let mut broken = gain(1.0, 1.0);
        broken.median_abs = Measured::Degenerate(Degenerate::NoFiniteElement);
        let findings = judge(&RULE, &checkpoint(vec![broken]));
        assert!(findings.told().is_empty());
        assert_eq!(findings.not_evaluated[0].1, "it has no median: no element is finite");
    }
}
