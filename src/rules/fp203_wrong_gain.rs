//! B3: a map that multiplies its input far more than its like, or a recurrence that grows by more than any activation
//! takes back.

use std::collections::BTreeMap;

use super::weights::{fans, is_matrix, maps, norm_gains, rms, wanted};
use super::{Check, Confidence, Finding, Findings, Needs, Rule, Severity, Subject, Threshold, Thresholds};
use crate::analysis::model::{CheckpointAnalysis, Role, TensorAnalysis};
use crate::number::short;
use crate::robust::median;

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
            source: "the critical gain of a tanh recurrence is 1, 2.5 with large biases, and of ReLU 2; at 4, ten steps grow a thousandfold",
        },
        Threshold {
            name: "severe-recurrent-gain",
            default: 25.0,
            unit: "sigma_w^2 = fan_in * RMS^2",
            source: "twice the largest of 6 plain recurrent networks whose training went well, 12.6",
        },
        Threshold {
            name: "loose-spread",
            default: 30.0,
            unit: "times the median RMS of the role",
            source: "experts, routers, adapters and embeddings: at most 1.05 measured, few files; a fault of 1000",
        },
        Threshold {
            name: "norm-gain-spread",
            default: 100.0,
            unit: "times the median RMS of the role",
            source: "at most 1.69 in the published models, but gains stored around zero can stand far apart; a fault of 1000",
        },
        Threshold {
            name: "severe-loose-spread",
            default: 300.0,
            unit: "times the median RMS of the role",
            source: "ten times the first limit, below the known fault of 1000",
        },
    ],
    check: Check::Checkpoint(check),
};

/// Fewer layers say nothing about what is usual for their like.
const FEWEST_PEERS: usize = 3;

fn check(checkpoint: &CheckpointAnalysis, thresholds: &Thresholds, findings: &mut Findings) {
    judge_maps(checkpoint, thresholds, findings);
    for tensor in checkpoint.tensors.iter().filter(|tensor| is_matrix(tensor) && is_loose(tensor.role)) {
        judge_level(tensor, thresholds, "loose-spread", findings);
    }
    for tensor in norm_gains(checkpoint).filter(|tensor| tensor.tied_to.is_none()) {
        judge_level(tensor, thresholds, "norm-gain-spread", findings);
    }
}

/// Weights whose levels are set by more than their fans, so that only a wide limit tells a fault.
fn is_loose(role: Role) -> bool {
    matches!(
        role,
        Role::Expert
            | Role::Router
            | Role::LoraA
            | Role::LoraB
            | Role::TokenEmbedding
            | Role::PositionEmbedding
    )
}

/// Too few peers are no matter here, as most models have one embedding and one router; FP210 sees them alone.
fn judge_level(tensor: &TensorAnalysis, thresholds: &Thresholds, name: &str, findings: &mut Findings) {
    let Some(&spread) = tensor.role_spread.value() else { return };
    let (limit, severe) = (thresholds.get(name), thresholds.get("severe-loose-spread"));
    if spread < limit {
        return;
    }
    let reached = if spread >= severe { severe } else { limit };
    let message =
        format!("{} has {} times the median RMS of its role (limit {reached})", tensor.name, short(spread));
    let finding = findings.push(
        Subject::Tensor(tensor.name.clone()),
        message,
        "restore it from an earlier checkpoint, or scale it back to its peers",
    );
    finding.against("RMS over the median of its role", spread, reached, "1");
    finding.confidence = Confidence::Heuristic;
    if spread >= severe {
        finding.severity(Severity::Critical);
    }
}

fn judge_maps(checkpoint: &CheckpointAnalysis, thresholds: &Thresholds, findings: &mut Findings) {
    let populations = Populations::of(checkpoint);
    let initial = checkpoint.step.value() == Some(&0);
    for tensor in maps(checkpoint) {
        // A recurrence is judged by itself, so that it needs no peers; with peers it is judged by them as well.
        let alone = is_plain_recurrence(tensor);
        if alone {
            judge_recurrence(tensor, initial, thresholds, findings);
        }
        if !alone || tensor.role_spread.value().is_some() {
            judge_among_peers(tensor, &populations, thresholds, findings);
        }
    }
}

/// `σ_w² = ‖W‖_F²/fan_out = fan_in·RMS²`: by how much the map multiplies the variance of independent inputs.
fn gain(tensor: &TensorAnalysis) -> Option<f64> {
    let rms = tensor.statistics.value()?.rms.value()?;
    Some(fans(tensor)?.input as f64 * rms * rms)
}

/// The usual RMS and gain of maps that are alike.
struct Usual {
    maps: usize,
    rms: f64,
    gain: f64,
}

/// The maps by role. Depthwise convolutions are a population of their own where there are enough of them: they sum over
/// one channel, so that no rule of initialisation makes them as wide as the others, by RMS or by gain.
struct Populations(BTreeMap<(Role, bool), Usual>);

impl Populations {
    fn of(checkpoint: &CheckpointAnalysis) -> Self {
        let mut levels: BTreeMap<(Role, bool), Vec<(f64, f64)>> = BTreeMap::new();
        for tensor in maps(checkpoint) {
            if let Some(level) = level(tensor).filter(|&(rms, _)| rms > 0.0) {
                levels.entry((tensor.role, is_depthwise(tensor))).or_default().push(level);
            }
        }
        let key = |depthwise| (Role::Convolution, depthwise);
        if levels.get(&key(true)).is_some_and(|few| few.len() < FEWEST_PEERS) {
            let few = levels.remove(&key(true)).unwrap_or_default();
            levels.entry(key(false)).or_default().extend(few);
        }
        let usual = |levels: &[(f64, f64)]| {
            Some(Usual {
                maps: levels.len(),
                rms: median(levels.iter().map(|level| level.0))?,
                gain: median(levels.iter().map(|level| level.1))?,
            })
        };
        Self(levels.into_iter().filter_map(|(key, levels)| Some((key, usual(&levels)?))).collect())
    }

    fn usual(&self, tensor: &TensorAnalysis) -> Option<&Usual> {
        let own = self.0.get(&(tensor.role, is_depthwise(tensor)));
        own.or_else(|| self.0.get(&(tensor.role, false)))
    }
}

/// RMS and gain.
fn level(tensor: &TensorAnalysis) -> Option<(f64, f64)> {
    Some((*tensor.statistics.value()?.rms.value()?, gain(tensor)?))
}

/// A convolution whose outputs each read one channel. One whose whole input is one channel looks the same.
fn is_depthwise(tensor: &TensorAnalysis) -> bool {
    tensor.role == Role::Convolution
        && matches!(tensor.shape[..], [outputs, 1, ..] if outputs > 1 && tensor.elements > outputs)
}

/// Both the RMS and the gain must stand out: layers of one role differ in fan-in, and some parametrisations keep the RMS
/// equal over them, others the gain. The smaller of the two spreads is the one that neither explains.
fn judge_among_peers(
    tensor: &TensorAnalysis,
    populations: &Populations,
    thresholds: &Thresholds,
    findings: &mut Findings,
) {
    if wanted(&tensor.role_spread, tensor, "spread", findings).is_none() {
        return;
    }
    let (Some((rms, gain)), Some(usual)) = (level(tensor), populations.usual(tensor)) else { return };
    if usual.maps < FEWEST_PEERS {
        let reason = format!("fewer than {FEWEST_PEERS} maps of this role beside the depthwise ones");
        return findings.not_evaluated(Subject::Tensor(tensor.name.clone()), reason);
    }
    let (rms_spread, gain_spread) = (rms / usual.rms, (gain / usual.gain).sqrt());
    let spread = rms_spread.min(gain_spread);
    let (limit, severe) = (thresholds.get("spread"), thresholds.get("severe-spread"));
    if spread < limit {
        return;
    }
    let reached = if spread >= severe { severe } else { limit };
    let message = format!(
        "{} multiplies its input {} times as much as the median of its role (limit {reached})",
        tensor.name,
        short(spread),
    );
    let finding = findings.push(
        Subject::Tensor(tensor.name.clone()),
        message,
        "scale the layer back to its peers or initialise it again; if it grew while training, lower its learning rate",
    );
    finding.against("RMS over the median of its role", rms_spread, reached, "1").against(
        "square root of its gain over the median of its role",
        gain_spread,
        reached,
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
    let reached = if gain >= severe { severe } else { limit };
    let message = format!(
        "the recurrent matrix {} has the gain {} (limit {reached}): gradients can grow {}-fold a time step",
        tensor.name,
        short(gain),
        short(gain.sqrt()),
    );
    let finding = findings.push(
        Subject::Tensor(tensor.name.clone()),
        message,
        "initialise it orthogonally or divide it by the square root of its gain, and clip the gradient norm",
    );
    finding
        .against("sigma_w^2", gain, reached, "1")
        .evidence("critical sigma_w^2 of a tanh recurrence", 1.0, "1")
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
    fn heads_are_not_judged() {
        let head = tensor("lm_head.weight", Role::OutputHead, &[128, 32]).with_role_spread(50.0);
        assert!(judge(&RULE, &checkpoint(vec![head])).is_clean());
    }

    #[test]
    fn what_is_set_by_more_than_its_fans_is_judged_by_wide_limits() {
        let loose =
            [Role::Expert, Role::Router, Role::LoraA, Role::LoraB, Role::TokenEmbedding, Role::NormGain];
        for role in loose {
            let limit = if role == Role::NormGain { 100.0 } else { 30.0 };
            let with = |spread| {
                let shape: &[u64] = if role == Role::NormGain { &[32] } else { &[128, 32] };
                judge(&RULE, &checkpoint(vec![tensor("a.weight", role, shape).with_role_spread(spread)]))
            };
            assert!(with(limit - 0.1).is_clean(), "{role:?}");
            assert_eq!(with(limit).told(), [(Severity::Warning, "a.weight".to_owned())]);
            assert_eq!(with(300.0).told()[0].0, Severity::Critical);
        }
    }

    #[test]
    fn an_adapter_that_starts_at_zero_is_silent() {
        let zero = tensor("q.lora_B.weight", Role::LoraB, &[64, 8]).filled(0.0);
        assert!(judge(&RULE, &checkpoint(vec![zero])).is_clean());
    }

    #[test]
    fn depthwise_convolutions_are_not_peers_of_pointwise_ones() {
        let layer = |name: &str, shape: &[u64], width| {
            tensor(name, Role::Convolution, shape).filled(width).with_role_spread(width)
        };
        let depthwise = |name| layer(name, &[96, 1, 3, 3], 0.01);
        let mut tensors: Vec<_> = ["a", "b", "c", "d"].into_iter().map(depthwise).collect();
        tensors.extend(["e", "f", "g"].into_iter().map(|name| layer(name, &[24, 96, 1, 1], 0.3)));
        assert!(judge(&RULE, &checkpoint(tensors.clone())).is_clean());
        tensors[2] = layer("c", &[96, 1, 3, 3], 0.05);
        assert_eq!(judge(&RULE, &checkpoint(tensors)).told(), [(Severity::Warning, "c".to_owned())]);
    }

    #[test]
    fn a_tied_matrix_is_judged_once() {
        let mut saved = stack(8.0);
        let copy = saved.tensors[4].clone().tied_to("h.4.mlp.c_fc.weight");
        saved.tensors.push(copy);
        assert_eq!(judge(&RULE, &saved).told().len(), 1);
    }
}
