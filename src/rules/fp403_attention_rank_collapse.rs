//! D3: attention heads whose form has shrunk to about one direction.

use super::{Check, Confidence, Findings, Needs, Rule, Severity, Subject, Threshold, Thresholds};
use crate::analysis::model::CheckpointAnalysis;
use crate::number::short;

pub(super) static RULE: Rule = Rule {
    code: "FP403",
    name: "attention-rank-collapse",
    summary: "what a head compares has shrunk to about one direction",
    page: include_str!("../../docs/rules/FP403-attention-rank-collapse.md"),
    severity: Severity::Note,
    confidence: Confidence::Heuristic,
    needs: Needs::SPECTRA.and(Needs::ATTENTION),
    thresholds: &[
        Threshold {
            name: "directions",
            default: 1.5,
            unit: "exp of the spectral entropy",
            source: "the smallest of 504 heads of 4 healthy models has 2.44",
        },
        Threshold {
            name: "smallest-head",
            default: 8.0,
            unit: "numbers per head",
            source: "design choice: narrower heads have few directions by design",
        },
    ],
    check: Check::Checkpoint(check),
};

fn check(checkpoint: &CheckpointAnalysis, thresholds: &Thresholds, findings: &mut Findings) {
    let Some(layers) = checkpoint.attention.value() else {
        return findings.not_evaluated(Subject::Checkpoint, "the attention layers have no value");
    };
    let (limit, narrowest) = (thresholds.get("directions"), thresholds.get("smallest-head"));
    for layer in layers.iter().filter(|layer| layer.head_width as f64 >= narrowest) {
        let directions = layer.heads.iter().map(|head| head.spectral_entropy.exp());
        let Some((number, least)) = directions.enumerate().min_by(|a, b| a.1.total_cmp(&b.1)) else {
            continue;
        };
        // A head of zeros compares nothing, and is another rule's.
        if least >= limit || layer.heads[number].logit_std == 0.0 {
            continue;
        }
        let message = format!(
            "head {number} of {} compares its inputs along {} directions of {} (limit {limit})",
            layer.layer,
            short(least),
            layer.head_width,
        );
        findings
            .push(
                Subject::Tensor(layer.tensor.clone()),
                message,
                "compare with earlier checkpoints: if it shrinks, compute the softmax in f32 and add QK-norm",
            )
            .short_of("exp of the spectral entropy", least, limit, "1");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::model::Measured;
    use crate::rules::test_support::{attention, checkpoint, judge, judge_with};

    fn layer(directions: f64) -> CheckpointAnalysis {
        let mut checkpoint = checkpoint(Vec::new());
        checkpoint.attention = attention(1.0, directions, 0.5);
        checkpoint
    }

    #[test]
    fn fewer_than_one_and_a_half_directions_are_a_note() {
        assert_eq!(judge(&RULE, &layer(1.4)).told(), [(Severity::Note, "h.0.attn.c_attn.weight".to_owned())]);
        assert!(judge(&RULE, &layer(1.6)).is_clean());
        assert!(judge_with(&RULE, &layer(1.4), &[("directions", 1.2)]).is_clean());
    }

    #[test]
    fn narrow_heads_have_few_directions_by_design() {
        let mut narrow = layer(1.0);
        if let Measured::Value(layers) = &mut narrow.attention {
            layers[0].head_width = 4;
        }
        assert!(judge(&RULE, &narrow).is_clean());
    }
}
