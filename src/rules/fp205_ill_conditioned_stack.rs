//! B5: a plain stack of maps whose singular values lie much further apart than those of random maps of these shapes.

use super::weights::{is_plain_stack, maps, wanted};
use super::{Check, Confidence, Findings, Needs, Rule, Severity, Subject, Threshold, Thresholds};
use crate::analysis::model::{CheckpointAnalysis, Role};
use crate::number::short;

pub(super) static RULE: Rule = Rule {
    code: "FP205",
    name: "ill-conditioned-stack",
    summary: "the singular values of a plain stack of maps lie far further apart than those of random maps",
    page: include_str!("../../docs/rules/FP205-ill-conditioned-stack.md"),
    severity: Severity::Note,
    confidence: Confidence::Heuristic,
    needs: Needs::FULL,
    thresholds: &[Threshold {
        name: "spread",
        default: 10.0,
        unit: "times the spread of Gaussian maps",
        source: "design choice: a stack that behaves as if it were ten times as deep",
    }],
    check: Check::Checkpoint(check),
};

/// Fewer maps are no stack.
const FEWEST: usize = 3;

fn check(checkpoint: &CheckpointAnalysis, thresholds: &Thresholds, findings: &mut Findings) {
    if !is_plain_stack(checkpoint) {
        return;
    }
    let (mut spread, mut gaussian, mut count) = (0.0, 0.0, 0);
    for tensor in maps(checkpoint).filter(|tensor| tensor.role != Role::Convolution) {
        let Some(spectrum) = wanted(&tensor.spectrum, tensor, "spectrum", findings) else { return };
        let Some(&own) = wanted(&spectrum.spread, tensor, "spread of singular values", findings) else {
            return;
        };
        spread += own;
        gaussian += spectrum.rows.min(spectrum.columns) as f64 / spectrum.rows.max(spectrum.columns) as f64;
        count += 1;
    }
    let limit = thresholds.get("spread");
    if count < FEWEST || spread < limit * gaussian {
        return;
    }
    let message = format!(
        "the squared singular values of the {count} maps spread {} times as far as those of random maps (limit {limit})",
        short(spread / gaussian),
    );
    findings
        .push(
            Subject::Checkpoint,
            message,
            "where training is slow, start from orthogonal maps with a critical gain, or add norms or skip connections",
        )
        .against("spread over that of Gaussian maps", spread / gaussian, limit, "1")
        .evidence("sum of variances of squared singular values over their squared means", spread, "1");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::model::{Measured, TensorAnalysis};
    use crate::rules::test_support::{checkpoint, judge, judge_with, spectrum, tensor};

    fn stack(spread: f64) -> CheckpointAnalysis {
        checkpoint((0..3).map(|index| layer(index, spread)).collect())
    }

    fn layer(index: u64, spread: f64) -> TensorAnalysis {
        let mut layer = tensor(&format!("{index}.weight"), Role::Linear, &[64, 64]);
        let mut own = spectrum(64, 64, 1.0);
        own.spread = Measured::Value(spread);
        layer.spectrum = Measured::Value(own.into());
        layer
    }

    #[test]
    fn ten_times_the_spread_of_noise_is_a_note() {
        assert!(judge(&RULE, &stack(9.9)).is_clean());
        assert_eq!(judge(&RULE, &stack(10.1)).told(), [(Severity::Note, "checkpoint".to_owned())]);
        assert!(judge_with(&RULE, &stack(10.1), &[("spread", 20.0)]).is_clean());
    }

    #[test]
    fn two_layers_and_networks_with_norms_are_not_judged() {
        let mut short = stack(50.0);
        short.tensors.pop();
        assert!(judge(&RULE, &short).is_clean());
        let mut normed = stack(50.0);
        normed.tensors.push(tensor("norm.weight", Role::NormGain, &[64]));
        assert!(judge(&RULE, &normed).is_clean());
    }

    #[test]
    fn a_layer_without_a_spectrum_leaves_the_stack_unjudged() {
        let mut broken = stack(50.0);
        broken.tensors[1].spectrum = Measured::not("3 elements are not finite");
        assert_eq!(judge(&RULE, &broken).not_evaluated.len(), 1);
    }
}
