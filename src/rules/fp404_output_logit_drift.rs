//! D4: an output head so wide that the logits of any state are decided before the state says anything.

use super::weights::{is_meant_to_be_zero, norm_gains};
use super::{Check, Confidence, Findings, Needs, Rule, Severity, Subject, Threshold, Thresholds};
use crate::analysis::model::{CheckpointAnalysis, Role, Section, TensorAnalysis};
use crate::number::short;

pub(super) static RULE: Rule = Rule {
    code: "FP404",
    name: "output-logit-drift",
    summary: "the logits of an output head are far beyond the point where a softmax over its vocabulary condenses",
    page: include_str!("../../docs/rules/FP404-output-logit-drift.md"),
    severity: Severity::Warning,
    confidence: Confidence::Heuristic,
    needs: Needs::NORMS,
    thresholds: &[
        Threshold {
            name: "condensation",
            default: 5.0,
            unit: "RMS logit over sqrt(2 ln V)",
            source: "at most 0.35 in a published model and our runs; about 1.2 in GPT-2 by its published norms",
        },
        Threshold {
            name: "smallest-vocabulary",
            default: 256.0,
            unit: "outputs",
            source: "design choice: classifiers of few classes read features without a norm",
        },
    ],
    check: Check::Checkpoint(check),
};

/// What the last norm before a head is called.
const LAST_NORMS: [&str; 9] = [
    "ln_f",
    "norm",
    "final_layer_norm",
    "final_layernorm",
    "norm_f",
    "final_norm",
    "ln_final",
    "transform.LayerNorm",
    "layer_norm",
];

fn check(checkpoint: &CheckpointAnalysis, thresholds: &Thresholds, findings: &mut Findings) {
    let (limit, smallest) = (thresholds.get("condensation"), thresholds.get("smallest-vocabulary"));
    let is_head = |tensor: &&TensorAnalysis| {
        tensor.section == Section::Model
            && tensor.role == Role::OutputHead
            && matches!(tensor.shape[..], [outputs, _] if outputs as f64 >= smallest)
            && !is_meant_to_be_zero(tensor)
    };
    for head in checkpoint.tensors.iter().filter(is_head) {
        let Some(gains) = last_norm(checkpoint) else {
            let reason = "no norm is known to stand before it, so that the size of its input is not known";
            findings.not_evaluated(Subject::Tensor(head.name.clone()), reason);
            continue;
        };
        let (Some(norm), Some(gain)) = (l2(head), rms(gains)) else { continue };
        let outputs = head.shape[0] as f64;
        let logit = norm * gain / outputs.sqrt();
        let ratio = logit / (2.0 * outputs.ln()).sqrt();
        if ratio < limit {
            continue;
        }
        let message = format!(
            "{} gives any state logits of RMS {}, {} times what a softmax over {} outputs condenses at (limit {limit})",
            head.name,
            short(logit),
            short(ratio),
            head.shape[0],
        );
        findings
            .push(
                Subject::Tensor(head.name.clone()),
                message,
                "train with a z-loss, decay the head, or go back to before the logits drifted",
            )
            .against("RMS logit over sqrt(2 ln V)", ratio, limit, "1")
            .evidence("Frobenius norm of the head", norm, "1")
            .evidence("RMS gain of the norm before it", gain, "1");
    }
}

/// The norm outside all blocks that comes last.
fn last_norm(checkpoint: &CheckpointAnalysis) -> Option<&TensorAnalysis> {
    let is_last = |tensor: &&TensorAnalysis| {
        let path = tensor.layer.path.as_str();
        let ends = |name: &str| path == name || path.ends_with(&format!(".{name}"));
        tensor.layer.index.is_none() && LAST_NORMS.iter().any(|name| ends(name))
    };
    norm_gains(checkpoint).filter(is_last).max_by_key(|tensor| tensor.layer.order)
}

fn l2(tensor: &TensorAnalysis) -> Option<f64> {
    tensor.statistics.value()?.l2.value().copied()
}

fn rms(tensor: &TensorAnalysis) -> Option<f64> {
    tensor.statistics.value()?.rms.value().copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::test_support::{checkpoint, judge, judge_with, tensor};

    /// 1024 outputs condense at 3.72; a row of 64 elements x has the norm 8x.
    fn model(element: f64, gain: f64) -> CheckpointAnalysis {
        let head = tensor("lm_head.weight", Role::OutputHead, &[1024, 64]).filled(element);
        let norm = tensor("model.norm.weight", Role::NormGain, &[64]).filled(gain);
        checkpoint(vec![norm, head])
    }

    #[test]
    fn five_times_condensation_is_a_warning() {
        assert_eq!(judge(&RULE, &model(2.4, 1.0)).told(), [(Severity::Warning, "lm_head.weight".to_owned())]);
        assert!(judge(&RULE, &model(2.3, 1.0)).is_clean());
        assert!(judge_with(&RULE, &model(2.4, 1.0), &[("condensation", 6.0)]).is_clean());
    }

    #[test]
    fn the_gain_of_the_norm_before_it_counts() {
        assert!(judge(&RULE, &model(0.24, 1.0)).is_clean());
        assert_eq!(judge(&RULE, &model(0.24, 10.0)).told().len(), 1);
    }

    #[test]
    fn a_head_behind_no_known_norm_is_not_evaluated_and_a_small_one_not_judged() {
        let mut unknown = model(5.0, 1.0);
        unknown.tensors.remove(0);
        assert_eq!(judge(&RULE, &unknown).not_evaluated.len(), 1);
        let small = tensor("lm_head.weight", Role::OutputHead, &[10, 64]).filled(5.0);
        assert!(judge(&RULE, &checkpoint(vec![small])).is_clean());
    }
}
