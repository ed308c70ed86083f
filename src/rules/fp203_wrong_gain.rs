//! B3: a map that multiplies its input far more than its like, or a recurrence that grows by more than any activation
//! takes back.

use std::collections::BTreeMap;

use super::weights::{fans, maps, median, rms, wanted};
use super::{Confidence, Finding, Findings, Needs, Rule, Severity, Subject, Threshold, Thresholds};
use crate::analysis::model::{CheckpointAnalysis, Role, TensorAnalysis};
use crate::number::short;

pub(super) static RULE: Rule = Rule {
    code: "FP203",
    name: "wrong-gain",
    summary: "a map's gain stands out against the others of its role, or a recurrence has one far above critical",
    page: include_str!("../../docs/rules/FP203-wrong-gain.md"),
    severity: Severity::Warning,
    confidence: Confidence::Calibrated,
    needs: Needs::NORMS,
    thresholds: &[
        Threshold {
            name: "spread",
            default: 4.0,
            unit: "times the median of the role",
            source: "at most 2.64 in 12 published models; 7.9 after an 8-fold init, still 4.4 after 400 steps of training",
        },
        Threshold {
            name: "severe-spread",
            default: 10.0,
            unit: "times the median of the role",
            source: "the depth factor ln 10 of the catalogue, reached by one layer",
        },
        Threshold {
            name: "recurrent-gain",
            default: 4.0,
            unit: "sigma_w^2 = fan_in * RMS^2",
            source: "the critical gain is 2.6 for SiLU, 2.5 for tanh with large biases, 2 for ReLU; at 4, ten steps grow a thousandfold",
        },
        Threshold {
            name: "severe-recurrent-gain",
            default: 25.0,
            unit: "sigma_w^2 = fan_in * RMS^2",
            source: "twice the largest of 6 plain recurrent networks whose training went well, 12.6",
        },
    ],
    check,
};

fn check(checkpoint: &CheckpointAnalysis, thresholds: &Thresholds, findings: &mut Findings) {
    let medians = median_gains(checkpoint);
    let initial = checkpoint.step.value() == Some(&0);
    for tensor in maps(checkpoint) {
        // A recurrence is judged by itself, so that it needs no peers; with peers it is judged by them as well.
        let alone = is_plain_recurrence(tensor);
        if alone {
            judge_recurrence(tensor, initial, thresholds, findings);
        }
        if !alone || tensor.role_spread.value().is_some() {
            judge_among_peers(tensor, &medians, thresholds, findings);
        }
    }
}

/// `σ_w² = ‖W‖_F²/fan_out = fan_in·RMS²`: by how much the map multiplies the variance of independent inputs.
fn gain(tensor: &TensorAnalysis) -> Option<f64> {
    let rms = tensor.statistics.value()?.rms.value()?;
    Some(fans(tensor)?.input as f64 * rms * rms)
}

/// The median gain of every role, over its maps that are not zero.
fn median_gains(checkpoint: &CheckpointAnalysis) -> BTreeMap<Role, f64> {
    let mut gains: BTreeMap<Role, Vec<f64>> = BTreeMap::new();
    for tensor in maps(checkpoint) {
        if let Some(gain) = gain(tensor).filter(|&gain| gain > 0.0) {
            gains.entry(tensor.role).or_default().push(gain);
        }
    }
    gains.into_iter().filter_map(|(role, gains)| Some((role, median(gains)?))).collect()
}

/// Both the RMS and the gain must stand out: layers of one role differ in fan-in, and some parametrisations keep the RMS
/// equal over them, others the gain. The smaller of the two spreads is the one that neither explains.
fn judge_among_peers(
    tensor: &TensorAnalysis,
    medians: &BTreeMap<Role, f64>,
    thresholds: &Thresholds,
    findings: &mut Findings,
) {
    let Some(&rms_spread) = wanted(&tensor.role_spread, tensor, "spread", findings) else { return };
    let (Some(gain), Some(median)) = (gain(tensor), medians.get(&tensor.role)) else { return };
    let gain_spread = (gain / median).sqrt();
    let spread = rms_spread.min(gain_spread);
    let (limit, severe) = (thresholds.get("spread"), thresholds.get("severe-spread"));
    if spread < limit {
        return;
    }
    let message = format!(
        "{} multiplies its input {} times as much as the median of its role (limit {limit})",
        tensor.name,
        short(spread),
    );
    let finding = findings.push(
        Subject::Tensor(tensor.name.clone()),
        message,
        "scale the layer back to its peers or initialise it again; if it grew while training, lower its learning rate",
    );
    finding.against("RMS over the median of its role", rms_spread, limit, "1").against(
        "square root of its gain over the median of its role",
        gain_spread,
        limit,
        "1",
    );
    if spread >= severe {
        finding.severity(Severity::Critical);
    }
    add_reference_gains(finding, tensor, gain);
}

/// The gain beside those of the usual initialisations at this shape.
fn add_reference_gains(finding: &mut Finding, tensor: &TensorAnalysis, gain: f64) {
    finding.evidence("sigma_w^2", gain, "1");
    if let Some(fans) = fans(tensor) {
        finding.evidence(
            "sigma_w^2 of Glorot",
            2.0 * fans.input as f64 / (fans.input + fans.output) as f64,
            "1",
        );
    }
    finding.evidence("sigma_w^2 of He", 2.0, "1").evidence("sigma_w^2 of LeCun", 1.0, "1").evidence(
        "sigma_w^2 of torch.nn.Linear",
        1.0 / 3.0,
        "1",
    );
}

/// A square hidden matrix: those of an LSTM or a GRU hold four or three, and their gates bound what passes.
fn is_plain_recurrence(tensor: &TensorAnalysis) -> bool {
    tensor.role == Role::RecurrentHidden && matches!(tensor.shape[..], [rows, columns] if rows == columns)
}

fn judge_recurrence(
    tensor: &TensorAnalysis,
    initial: bool,
    thresholds: &Thresholds,
    findings: &mut Findings,
) {
    if rms(tensor, findings).is_none() {
        return;
    }
    let Some(gain) = gain(tensor) else { return };
    let (limit, severe) = (thresholds.get("recurrent-gain"), thresholds.get("severe-recurrent-gain"));
    if gain < limit {
        return;
    }
    let message = format!(
        "the recurrent matrix {} has the gain {} (limit {limit}): gradients can grow {}-fold a time step",
        tensor.name,
        short(gain),
        short(gain.sqrt()),
    );
    let finding = findings.push(
        Subject::Tensor(tensor.name.clone()),
        message,
        "initialise it orthogonally or divide it by the square root of its gain, and clip the gradient norm",
    );
    let reached = if gain >= severe { severe } else { limit };
    finding
        .against("sigma_w^2", gain, reached, "1")
        .evidence("critical sigma_w^2 of SiLU", 2.64, "1")
        .severity(match (gain >= severe, initial) {
            (true, _) => Severity::Critical,
            (false, true) => Severity::Warning,
            (false, false) => Severity::Note,
        });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::model::{Degenerate, Measured};
    use crate::rules::test_support::{checkpoint, judge, judge_with, tensor};

    /// Five maps of one role and shape, the last of them `factor` times as wide as the others.
    fn stack(factor: f64) -> CheckpointAnalysis {
        let layer = |number: u64, factor: f64| {
            let name = format!("h.{number}.mlp.c_fc.weight");
            tensor(&name, Role::MlpIn, &[128, 32]).filled(0.02 * factor).with_role_spread(factor)
        };
        checkpoint((0..4).map(|number| layer(number, 1.0)).chain([layer(4, factor)]).collect())
    }

    fn recurrence(gain: f64) -> CheckpointAnalysis {
        let rms = (gain / 64.0).sqrt();
        checkpoint(vec![tensor("rnn.weight_hh_l0", Role::RecurrentHidden, &[64, 64]).filled(rms)])
    }

    #[test]
    fn a_layer_eight_times_as_wide_is_a_warning_that_names_it() {
        let told = judge(&RULE, &stack(8.0)).told();
        assert_eq!(told, [(Severity::Warning, "h.4.mlp.c_fc.weight".to_owned())]);
    }

    #[test]
    fn from_the_second_limit_on_it_is_critical() {
        assert_eq!(judge(&RULE, &stack(10.5)).told()[0].0, Severity::Critical);
    }

    #[test]
    fn the_widest_healthy_spread_is_silent() {
        assert!(judge(&RULE, &stack(2.7)).is_clean());
        assert!(judge(&RULE, &stack(3.99)).is_clean());
        assert_eq!(judge(&RULE, &stack(4.01)).told().len(), 1);
    }

    #[test]
    fn the_spread_can_be_overridden() {
        assert!(judge_with(&RULE, &stack(8.0), &[("spread", 9.0)]).is_clean());
    }

    #[test]
    fn a_first_layer_of_small_fan_in_is_wide_but_has_the_gain_of_the_others() {
        let wide = tensor("0.weight", Role::Linear, &[256, 4]).filled(0.5).with_role_spread(16.0);
        let layer = |name| tensor(name, Role::Linear, &[256, 1024]).filled(0.5 / 16.0).with_role_spread(1.0);
        let saved = checkpoint(vec![wide, layer("1.weight"), layer("2.weight"), layer("3.weight")]);
        assert!(judge(&RULE, &saved).is_clean());
    }

    #[test]
    fn equal_widths_at_unequal_fan_in_are_a_parametrisation() {
        let layer =
            |name, inputs| tensor(name, Role::Linear, &[64, inputs]).filled(1.0).with_role_spread(1.0);
        let tensors =
            vec![layer("0.weight", 4), layer("1.weight", 4), layer("2.weight", 4), layer("3.weight", 400)];
        assert!(judge(&RULE, &checkpoint(tensors)).is_clean());
    }

    #[test]
    fn a_recurrence_far_above_critical_is_a_warning_before_training_and_a_note_after() {
        assert_eq!(judge(&RULE, &recurrence(9.0).at_step(0)).told()[0].0, Severity::Warning);
        assert_eq!(judge(&RULE, &recurrence(9.0).at_step(100)).told()[0].0, Severity::Note);
        assert_eq!(judge(&RULE, &recurrence(9.0)).told()[0].0, Severity::Note);
    }

    #[test]
    fn a_recurrence_beyond_what_training_reaches_is_critical_at_any_step() {
        assert_eq!(judge(&RULE, &recurrence(26.0).at_step(400)).told()[0].0, Severity::Critical);
        assert_eq!(judge(&RULE, &recurrence(26.0).at_step(0)).told()[0].0, Severity::Critical);
    }

    #[test]
    fn a_critical_recurrence_is_silent_and_needs_no_peers() {
        assert!(judge(&RULE, &recurrence(1.0).at_step(0)).is_clean());
        assert!(judge(&RULE, &recurrence(3.99).at_step(0)).is_clean());
    }

    #[test]
    fn gated_recurrences_are_judged_by_peers_only() {
        let gated = tensor("lstm.weight_hh_l0", Role::RecurrentHidden, &[256, 64]).filled(2.0);
        let findings = judge(&RULE, &checkpoint(vec![gated]).at_step(0));
        assert!(findings.told().is_empty());
        assert_eq!(findings.not_evaluated.len(), 1);
    }

    #[test]
    fn a_recurrence_without_a_finite_element_is_not_evaluated() {
        let mut broken = recurrence(9.0);
        if let Measured::Value(statistics) = &mut broken.tensors[0].statistics {
            statistics.rms = Measured::Degenerate(Degenerate::NoFiniteElement);
        }
        let findings = judge(&RULE, &broken);
        assert!(findings.told().is_empty());
        assert_eq!(findings.not_evaluated[0].1, "it has no RMS: no element is finite");
    }

    #[test]
    fn heads_and_embeddings_are_not_judged() {
        let head = tensor("lm_head.weight", Role::OutputHead, &[128, 32]).with_role_spread(50.0);
        let embedding = tensor("wte.weight", Role::TokenEmbedding, &[128, 32]).with_role_spread(50.0);
        assert!(judge(&RULE, &checkpoint(vec![head, embedding])).is_clean());
    }

    #[test]
    fn a_tied_matrix_is_judged_once() {
        let mut saved = stack(8.0);
        let copy = saved.tensors[4].clone().tied_to("h.4.mlp.c_fc.weight");
        saved.tensors.push(copy);
        assert_eq!(judge(&RULE, &saved).told().len(), 1);
    }
}
