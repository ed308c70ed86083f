//! D1: attention heads whose logits are so large that the softmax condenses onto single keys.

use super::{Check, Confidence, Findings, Needs, Rule, Severity, Subject, Threshold, Thresholds};
use crate::analysis::model::{AttentionAnalysis, CheckpointAnalysis, HeadAnalysis};
use crate::number::short;

pub(super) static RULE: Rule = Rule {
    code: "FP401",
    name: "attention-logits",
    summary: "the logits that a head gives to independent inputs are beyond the point where a softmax condenses",
    page: include_str!("../../docs/rules/FP401-attention-logits.md"),
    severity: Severity::Warning,
    confidence: Confidence::Heuristic,
    needs: Needs::SPECTRA.and(Needs::ATTENTION),
    thresholds: &[
        Threshold {
            name: "condensation",
            default: 1.0,
            unit: "standard deviation over sqrt(2 ln T)",
            source: "condensation of the random energy model; healthy heads reach 1.32",
        },
        Threshold {
            name: "severe-condensation",
            default: 3.0,
            unit: "standard deviation over sqrt(2 ln T)",
            source: "more than twice the 1.32 of the largest of 504 healthy heads",
        },
        Threshold {
            name: "collapse",
            default: 10.0,
            unit: "standard deviation over sqrt(2 ln T)",
            source: "logits of the order of 100, the limit of QK-clip (Kimi K2, Megatron)",
        },
    ],
    check: Check::Checkpoint(check),
};

fn check(checkpoint: &CheckpointAnalysis, thresholds: &Thresholds, findings: &mut Findings) {
    let Some(layers) = checkpoint.attention.value() else {
        return findings.not_evaluated(Subject::Checkpoint, "the attention layers have no value");
    };
    let initial = checkpoint.step.value() == Some(&0);
    for layer in layers {
        judge(layer, initial, thresholds, findings);
    }
}

fn judge(layer: &AttentionAnalysis, initial: bool, thresholds: &Thresholds, findings: &mut Findings) {
    let Some(context) = layer.context.filter(|context| *context > 1) else {
        let reason = "the config does not say how long the context is";
        return findings.not_evaluated(Subject::Tensor(layer.tensor.clone()), reason);
    };
    let critical = (2.0 * (context as f64).ln()).sqrt();
    let limit = thresholds.get("condensation");
    let beyond = layer.heads.iter().filter(|head| head.logit_std >= limit * critical).count();
    let Some((number, head)) = worst(layer) else { return };
    if beyond == 0 {
        return;
    }
    let ratio = head.logit_std / critical;
    let severity = if ratio >= thresholds.get("collapse") {
        Severity::Critical
    } else if ratio >= thresholds.get("severe-condensation") || initial {
        Severity::Warning
    } else {
        Severity::Note
    };
    let message = format!(
        "head {number} of {} gives independent inputs logits of standard deviation {}, {} times what a softmax over {context} keys condenses at (limit {limit}; {beyond} of {} heads)",
        layer.layer,
        short(head.logit_std),
        short(ratio),
        layer.heads.len(),
    );
    findings
        .push(
            Subject::Tensor(layer.tensor.clone()),
            message,
            "compare with earlier checkpoints: if it grows, add QK-norm or QK-clip, or lower the learning rate of queries and keys",
        )
        .against("standard deviation of logits over sqrt(2 ln T)", ratio, limit, "1")
        .evidence("no logit is larger than", head.logit_bound, "1")
        .severity(severity);
}

/// The head with the largest logits, and its number.
fn worst(layer: &AttentionAnalysis) -> Option<(usize, &HeadAnalysis)> {
    layer.heads.iter().enumerate().max_by(|a, b| a.1.logit_std.total_cmp(&b.1.logit_std))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::test_support::{attention, checkpoint, judge as judged};

    /// T = 512 condenses at 3.53.
    fn layer(logit_std: f64) -> CheckpointAnalysis {
        let mut checkpoint = checkpoint(Vec::new());
        checkpoint.attention = attention(logit_std, 2.0, 0.5);
        checkpoint
    }

    #[test]
    fn severity_follows_the_distance_from_condensation() {
        let told = |std: f64| judged(&RULE, &layer(std)).told();
        assert!(told(3.5).is_empty());
        assert_eq!(told(3.6), [(Severity::Note, "h.0.attn.c_attn.weight".to_owned())]);
        assert_eq!(told(10.7)[0].0, Severity::Warning);
        assert_eq!(told(36.0)[0].0, Severity::Critical);
    }

    #[test]
    fn before_training_condensation_itself_is_a_warning() {
        assert_eq!(judged(&RULE, &layer(3.6).at_step(0)).told()[0].0, Severity::Warning);
    }

    #[test]
    fn an_unknown_context_is_not_evaluated() {
        let mut unknown = layer(50.0);
        if let crate::analysis::model::Measured::Value(layers) = &mut unknown.attention {
            layers[0].context = None;
        }
        assert_eq!(judged(&RULE, &unknown).not_evaluated.len(), 1);
    }
}
