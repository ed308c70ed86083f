//! B6: a plain recurrence that grows or forgets by a thousandfold within a hundred steps.

use super::weights::{is_matrix, wanted};
use super::{Check, Confidence, Findings, Needs, Rule, Severity, Subject, Threshold, Thresholds};
use crate::analysis::model::{CheckpointAnalysis, Measured, Role, TensorAnalysis};
use crate::number::short;

pub(super) static RULE: Rule = Rule {
    code: "FP206",
    name: "unstable-recurrence",
    summary: "the spectral radius of a recurrent matrix grows, or its norm forgets, a thousandfold within the steps it is unrolled",
    page: include_str!("../../docs/rules/FP206-unstable-recurrence.md"),
    severity: Severity::Warning,
    confidence: Confidence::Heuristic,
    needs: Needs::SPECTRA,
    thresholds: &[
        Threshold {
            name: "steps",
            default: 100.0,
            unit: "time steps",
            source: "a usual length of truncated backpropagation through time; set it to yours",
        },
        Threshold {
            name: "growth",
            default: 1e3,
            unit: "radius to the power of the steps",
            source: "failure catalogue, B6",
        },
    ],
    check: Check::Checkpoint(check),
};

fn check(checkpoint: &CheckpointAnalysis, thresholds: &Thresholds, findings: &mut Findings) {
    let is_plain = |tensor: &&TensorAnalysis| {
        is_matrix(tensor)
            && tensor.role == Role::RecurrentHidden
            && matches!(tensor.shape[..], [rows, columns] if rows == columns)
    };
    let initial = checkpoint.step.value() == Some(&0);
    for tensor in checkpoint.tensors.iter().filter(is_plain) {
        if !matches!(tensor.spectrum, Measured::Degenerate(_)) {
            judge(tensor, initial, thresholds, findings);
        }
    }
}

fn judge(tensor: &TensorAnalysis, initial: bool, thresholds: &Thresholds, findings: &mut Findings) {
    let (steps, growth) = (thresholds.get("steps"), thresholds.get("growth"));
    let Some(spectrum) = wanted(&tensor.spectrum, tensor, "spectrum", findings) else { return };
    let Some(&radius) = wanted(&spectrum.spectral_radius, tensor, "spectral radius", findings) else {
        return;
    };
    let limit = growth.powf(1.0 / steps);
    if radius > limit {
        let message = format!(
            "the recurrence {} has the spectral radius {} (limit {}): what nothing saturates grows {}-fold in {steps} steps",
            tensor.name,
            short(radius),
            short(limit),
            short(radius.powf(steps).min(f64::MAX)),
        );
        findings
            .push(
                Subject::Tensor(tensor.name.clone()),
                message,
                "start from an orthogonal matrix, or divide it by its radius; clip the gradient norm",
            )
            .against("spectral radius", radius, limit, "1")
            .evidence("sigma_1", spectrum.spectral_norm.value, "1")
            // Trained recurrences saturate: their radius alone does not say that they are unstable.
            .severity(if initial { Severity::Warning } else { Severity::Note });
        return;
    }
    let Some(&norm) = spectrum.spectral_norm.upper.value() else { return };
    let least = growth.powf(-1.0 / steps);
    if norm < least {
        let message = format!(
            "the recurrence {} has the spectral norm {} (limit {}): with a slope of at most 1 gradients shrink to {} in {steps} steps",
            tensor.name,
            short(norm),
            short(least),
            short(norm.powf(steps)),
        );
        findings
            .push(
                Subject::Tensor(tensor.name.clone()),
                message,
                "where long memory is wanted, start from an orthogonal matrix",
            )
            .short_of("sigma_1", norm, least, "1")
            .severity(Severity::Note);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::test_support::{self, checkpoint, judge_with, spectrum, tensor};

    fn recurrence(radius: f64, norm: f64) -> CheckpointAnalysis {
        let mut hidden = tensor("rnn.weight_hh_l0", Role::RecurrentHidden, &[32, 32]);
        let mut own = spectrum(32, 32, norm);
        own.spectral_radius = Measured::Value(radius);
        hidden.spectrum = Measured::Value(own.into());
        checkpoint(vec![hidden])
    }

    #[test]
    fn a_growing_start_is_a_warning_and_a_growing_trained_one_a_note() {
        let told = |checkpoint| test_support::judge(&RULE, &checkpoint).told();
        assert_eq!(told(recurrence(1.5, 3.0).at_step(0))[0].0, Severity::Warning);
        assert_eq!(told(recurrence(1.5, 3.0).at_step(400))[0].0, Severity::Note);
        assert!(told(recurrence(1.07, 3.0).at_step(0)).is_empty());
        assert_eq!(told(recurrence(1.08, 3.0).at_step(0)).len(), 1);
    }

    #[test]
    fn the_number_of_steps_is_the_users() {
        let start = recurrence(1.5, 3.0).at_step(0);
        assert!(judge_with(&RULE, &start, &[("steps", 10.0)]).is_clean());
    }

    #[test]
    fn a_norm_that_must_forget_is_a_note() {
        let told = test_support::judge(&RULE, &recurrence(0.5, 0.9)).told();
        assert_eq!(told, [(Severity::Note, "rnn.weight_hh_l0".to_owned())]);
        assert!(test_support::judge(&RULE, &recurrence(0.9, 1.2)).is_clean());
    }

    #[test]
    fn gated_recurrences_are_not_judged() {
        let mut gated = recurrence(5.0, 60.0);
        gated.tensors[0].shape = vec![128, 32];
        assert!(test_support::judge(&RULE, &gated).is_clean());
    }
}
