//! D2: attention heads that are expected to attend to almost nothing but single keys.

use super::{Check, Confidence, Findings, Needs, Rule, Severity, Subject, Threshold, Thresholds};
use crate::analysis::model::{CheckpointAnalysis, HeadAnalysis};
use crate::number::short;

pub(super) static RULE: Rule = Rule {
    code: "FP402",
    name: "attention-entropy-collapse",
    summary: "the entropy of attention expected from the weights is almost nothing",
    page: include_str!("../../docs/rules/FP402-attention-entropy-collapse.md"),
    severity: Severity::Warning,
    confidence: Confidence::Heuristic,
    needs: Needs::SPECTRA.and(Needs::ATTENTION),
    thresholds: &[Threshold {
        name: "entropy",
        default: 0.1,
        unit: "share of ln T",
        source: "failure catalogue, D2, after Zhai et al. 2023; healthy heads keep 0.23 or more",
    }],
    check: Check::Checkpoint(check),
};

fn check(checkpoint: &CheckpointAnalysis, thresholds: &Thresholds, findings: &mut Findings) {
    let Some(layers) = checkpoint.attention.value() else {
        return findings.not_evaluated(Subject::Checkpoint, "the attention layers have no value");
    };
    let limit = thresholds.get("entropy");
    for layer in layers {
        let entropy = |head: &HeadAnalysis| head.predicted_entropy.value().copied();
        let Some(entropies) = layer.heads.iter().map(entropy).collect::<Option<Vec<f64>>>() else {
            let reason = "the config does not say how long the context is";
            findings.not_evaluated(Subject::Tensor(layer.tensor.clone()), reason);
            continue;
        };
        let collapsed = entropies.iter().filter(|share| **share < limit).count();
        let Some((number, least)) = entropies.iter().enumerate().min_by(|a, b| a.1.total_cmp(b.1)) else {
            continue;
        };
        if collapsed == 0 {
            continue;
        }
        let message = format!(
            "{collapsed} of {} heads of {} are expected to look at single keys: head {number} keeps {} of the entropy (limit {limit})",
            entropies.len(),
            layer.layer,
            short(*least),
        );
        findings
            .push(
                Subject::Tensor(layer.tensor.clone()),
                message,
                "add QK-norm or sigma-reparametrisation of queries and keys, or go back to before the logits grew",
            )
            .short_of("expected entropy over ln T", *least, limit, "1");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::model::Measured;
    use crate::rules::test_support::{attention, checkpoint, judge};

    fn layer(entropy: f64) -> CheckpointAnalysis {
        let mut checkpoint = checkpoint(Vec::new());
        checkpoint.attention = attention(1.0, 2.0, entropy);
        checkpoint
    }

    #[test]
    fn less_than_a_tenth_is_a_warning() {
        assert_eq!(
            judge(&RULE, &layer(0.09)).told(),
            [(Severity::Warning, "h.0.attn.c_attn.weight".to_owned())]
        );
        assert!(judge(&RULE, &layer(0.11)).is_clean());
    }

    #[test]
    fn an_unknown_entropy_is_not_evaluated() {
        let mut unknown = layer(0.01);
        if let Measured::Value(layers) = &mut unknown.attention {
            layers[0].heads[0].predicted_entropy = Measured::not("the config does not say");
        }
        assert_eq!(judge(&RULE, &unknown).not_evaluated.len(), 1);
    }
}
