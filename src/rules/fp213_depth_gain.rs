//! B3, over depth: a plain stack at the start of training whose maps together multiply signals tenfold or more, or down to nothing.

use super::weights::{fans, is_plain_stack, maps, rms};
use super::{Check, Confidence, Findings, Needs, Rule, Severity, Subject, Threshold, Thresholds};
use crate::analysis::model::CheckpointAnalysis;
use crate::number::short;

pub(super) static RULE: Rule = Rule {
    code: "FP213",
    name: "depth-gain",
    summary: "the maps of a plain stack multiply signals beyond measure from its first to its last layer",
    page: include_str!("../../docs/rules/FP213-depth-gain.md"),
    severity: Severity::Warning,
    confidence: Confidence::Heuristic,
    needs: Needs::NORMS.and(Needs::STEP),
    thresholds: &[
        Threshold { name: "gain", default: 10.0, unit: "times the signal", source: "failure catalogue, B3" },
        Threshold {
            name: "severe-gain",
            default: 1000.0,
            unit: "times the signal",
            source: "failure catalogue, B3",
        },
    ],
    check: Check::Checkpoint(check),
};

/// Fewer maps are no stack.
const FEWEST: usize = 3;

/// E[φ'²] of SiLU for normal inputs, the smallest of the activations that do not saturate: ReLU has 0.5, GELU 0.456, tanh 0.464.
const LEAST_SLOPE: f64 = 0.3795;

fn check(checkpoint: &CheckpointAnalysis, thresholds: &Thresholds, findings: &mut Findings) {
    if checkpoint.step.value() != Some(&0) || !is_plain_stack(checkpoint) {
        return;
    }
    let (mut logarithm, mut count) = (0.0, 0usize);
    for tensor in maps(checkpoint) {
        let Some(rms) = rms(tensor, findings) else { return };
        let Some(fans) = fans(tensor) else { return };
        if rms == 0.0 {
            // FP201 judges zeros.
            return;
        }
        logarithm += 0.5 * (fans.input as f64 * rms * rms).ln();
        count += 1;
    }
    if count < FEWEST {
        return;
    }
    let (limit, severe) = (thresholds.get("gain"), thresholds.get("severe-gain"));
    // At least so much is multiplied, whatever the activation; and at most so much.
    let least = logarithm + count as f64 * 0.5 * LEAST_SLOPE.ln();
    if least >= limit.ln() {
        let reached = if least >= severe.ln() { severe } else { limit };
        let message = format!(
            "the {count} maps multiply gradients at least {}-fold from the last to the first (limit {reached})",
            short(least.exp()),
        );
        findings
            .push(
                Subject::Checkpoint,
                message,
                "initialise with the critical gain of the activation (He for ReLU), or add norms or skip connections",
            )
            .against("gain over depth with the smallest usual slope", least.exp(), reached, "1")
            .evidence("gain over depth of the weights alone", logarithm.exp(), "1")
            .severity(if least >= severe.ln() { Severity::Critical } else { Severity::Warning });
    } else if logarithm <= -severe.ln() {
        let message = format!(
            "the {count} maps shrink gradients to {} of themselves or less from the last to the first (limit {})",
            short(logarithm.exp()),
            short(1.0 / severe),
        );
        findings
            .push(
                Subject::Checkpoint,
                message,
                "initialise with the critical gain of the activation (He for ReLU)",
            )
            .short_of("gain over depth of the weights alone", logarithm.exp(), 1.0 / severe, "1")
            .severity(Severity::Note);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::model::Role;
    use crate::rules::test_support::{checkpoint, judge, judge_with, tensor};

    /// Maps of the gain σ_w² = 64·RMS².
    fn stack(count: usize, gain: f64) -> CheckpointAnalysis {
        let rms = (gain / 64.0).sqrt();
        let layer = |index| tensor(&format!("{index}.weight"), Role::Linear, &[64, 64]).filled(rms);
        checkpoint((0..count).map(layer).collect()).at_step(0)
    }

    #[test]
    fn tenfold_for_any_activation_is_a_warning_and_a_thousandfold_critical() {
        // ½·ln(8·0.3795) = 0.555 a layer: 10 after 4.15, 1000 after 12.4.
        assert!(judge(&RULE, &stack(4, 8.0)).is_clean());
        assert_eq!(judge(&RULE, &stack(5, 8.0)).told(), [(Severity::Warning, "checkpoint".to_owned())]);
        assert_eq!(judge(&RULE, &stack(13, 8.0)).told()[0].0, Severity::Critical);
        assert!(judge_with(&RULE, &stack(5, 8.0), &[("gain", 30.0)]).is_clean());
    }

    #[test]
    fn usual_initialisations_are_silent_at_any_usual_depth() {
        for gain in [1.0 / 3.0, 1.0, 2.0] {
            assert!(judge(&RULE, &stack(10, gain)).is_clean(), "{gain}");
        }
    }

    #[test]
    fn what_must_vanish_is_a_note() {
        assert_eq!(judge(&RULE, &stack(20, 1.0 / 3.0)).told()[0].0, Severity::Note);
    }

    #[test]
    fn norms_attention_and_trained_weights_are_not_judged() {
        let mut normed = stack(20, 8.0);
        normed.tensors.push(tensor("norm.weight", Role::NormGain, &[64]));
        assert!(judge(&RULE, &normed).is_clean());
        assert!(judge(&RULE, &stack(20, 8.0).at_step(100)).is_clean());
    }
}
