//! F4: one tensor's gradients stand out in one interval, and those of no other: what a batch does not do.

use std::collections::BTreeSet;

use super::intervals::{span, subject};
use super::{Check, Confidence, Findings, Needs, Rule, Severity, Subject, Threshold, Thresholds};
use crate::analysis::model::{Analysis, IntervalAnalysis, Role, TensorInterval, cancelled_biases};

pub(super) static RULE: Rule = Rule {
    code: "FP604",
    name: "lone-gradient-outlier",
    summary: "one tensor's gradients stand out in one interval, and those of no other",
    page: include_str!("../../docs/rules/FP604-lone-gradient-outlier.md"),
    severity: Severity::Warning,
    confidence: Confidence::Heuristic,
    needs: Needs::NORMS.and(Needs::OPTIMIZER).and(Needs::INTERVALS),
    thresholds: &[
        Threshold {
            name: "ratio",
            default: 5.0,
            unit: "times the median of up to eight intervals before",
            source: "a single gradient of 50 times the usual in 100 steps gives 5",
        },
        Threshold {
            name: "lead",
            default: 5.0,
            unit: "times the next tensor's ratio",
            source: "at most 2.1 in 29 healthy runs of ours, 3.6 in failing ones of another kind, 19 where one tensor was hit",
        },
        Threshold {
            name: "fewest-tensors",
            default: 3.0,
            unit: "tensors",
            source: "of two neither is the rule",
        },
    ],
    check: Check::Run(check),
};

fn check(analysis: &Analysis, thresholds: &Thresholds, findings: &mut Findings) {
    let mut judged = false;
    let cancelled = cancelled_biases(&analysis.intervals);
    for interval in &analysis.intervals {
        let ranked = ranked(interval, &cancelled);
        if (ranked.len() as f64) < thresholds.get("fewest-tensors") {
            continue;
        }
        judged = true;
        let [(ratio, tensor), (next, _), ..] = ranked[..] else { continue };
        let lead = ratio / next;
        if ratio <= thresholds.get("ratio") || lead <= thresholds.get("lead") {
            continue;
        }
        if let Some(reason) = why_legitimate(tensor) {
            findings.not_evaluated(subject(tensor), reason);
            continue;
        }
        let message = format!(
            "{}: its gradient norm {} is {ratio:.1} times that of the intervals before, and no other tensor's is above {next:.1}: a batch reaches more than one",
            tensor.name,
            span(interval),
        );
        findings
            .push(subject(tensor), message, ADVICE)
            .at_step(interval.from_step)
            .against("lead over the next tensor", lead, thresholds.get("lead"), "times")
            .evidence("gradient norm over its trailing median", ratio, "times");
    }
    if !judged {
        let reason = "needs three tensors whose gradients are known in two intervals";
        findings.not_evaluated(Subject::Run, reason);
    }
}

/// Every tensor whose ratio is known, the largest first. The gradient of a bias of keys that a softmax cancels is rounding, and of rounding
/// any multiple follows by itself.
fn ranked<'a>(interval: &'a IntervalAnalysis, cancelled: &BTreeSet<&str>) -> Vec<(f64, &'a TensorInterval)> {
    let told = interval.tensors.iter().filter(|tensor| !cancelled.contains(tensor.canonical_name.as_str()));
    let known = told.filter_map(|tensor| Some((*tensor.gradient_ratio.value()?, tensor)));
    let mut ranked: Vec<_> = known.collect();
    ranked.sort_by(|one, other| other.0.total_cmp(&one.0));
    ranked
}

fn why_legitimate(tensor: &TensorInterval) -> Option<&'static str> {
    let is_sparse =
        matches!(tensor.role, Role::TokenEmbedding | Role::PositionEmbedding | Role::Expert | Role::Router);
    is_sparse.then_some("a batch of new tokens, or one that is routed to it, reaches it alone")
}

const ADVICE: &str = "replay these steps from the checkpoint before: where the norm is as usual then, a device computed it wrong, and its node is to be tested";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::model::Measured;
    use crate::rules::test_support::{interval_tensor, judge_run, run_of};

    fn three(ratios: [f64; 3]) -> Analysis {
        let names = ["emb.weight", "fc.weight", "head.weight"];
        let mut run = run_of(2, || names.map(interval_tensor).to_vec());
        for (tensor, ratio) in run.intervals[1].tensors.iter_mut().zip(ratios) {
            tensor.gradient_ratio = Measured::Value(ratio);
        }
        run
    }

    #[test]
    fn one_alone_is_told_and_what_reaches_several_is_not() {
        let findings = judge_run(&RULE, &three([1.0, 40.0, 2.0]), &[]);
        assert_eq!(findings.told(), [(Severity::Warning, "fc.weight".to_owned())]);
        assert_eq!(findings.found[0].step, Some(100));
        for ratios in [[30.0, 40.0, 2.0], [1.0, 5.0, 0.5], [1.0, 8.0, 1.7]] {
            assert!(judge_run(&RULE, &three(ratios), &[]).is_clean(), "{ratios:?}");
        }
    }

    #[test]
    fn a_bias_of_keys_whose_gradient_is_rounding_is_no_outlier_and_one_with_a_gradient_is() {
        let told = |gradient: f64| {
            let names = ["fc.weight", "head.weight", "attn.k_proj.weight", "attn.k_proj.bias"];
            let mut run = run_of(2, || names.map(interval_tensor).to_vec());
            for interval in &mut run.intervals {
                for (tensor, ratio) in interval.tensors.iter_mut().zip([1.0, 2.0, 1.0, 40.0]) {
                    tensor.layer.path.clone_from(&tensor.name);
                    tensor.gradient_norm = Measured::Value(0.01);
                    tensor.gradient_ratio = Measured::Value(ratio);
                }
                for tensor in &mut interval.tensors[2..] {
                    tensor.layer.path = "attn.k_proj".to_owned();
                }
                (interval.tensors[2].role, interval.tensors[3].role) = (Role::AttentionKey, Role::Bias);
                interval.tensors[3].gradient_norm = Measured::Value(gradient);
            }
            judge_run(&RULE, &run, &[]).told()
        };
        assert!(told(1e-7).is_empty(), "4e-8 to 4e-5 of that of the weight were measured in f32");
        assert_eq!(told(1e-4)[0].1, "attn.k_proj.bias");
    }

    #[test]
    fn rare_tokens_and_too_few_tensors_are_not_evaluated() {
        let mut rare = three([40.0, 1.0, 1.0]);
        rare.intervals[1].tensors[0].role = Role::TokenEmbedding;
        let few = run_of(2, || vec![interval_tensor("fc.weight")]);
        for run in [rare, few] {
            let findings = judge_run(&RULE, &run, &[]);
            assert_eq!((findings.found.len(), findings.not_evaluated.len()), (0, 1));
        }
    }
}
