//! B3: a map that multiplies its input far more than its like, or a recurrence that grows by more than any activation
//! takes back.

use super::drawn::{is_standard_normal, is_uniform_draw};
use super::model_types::adds_gains_to_one;
use super::peers::{FEWEST_PEERS, Kin, Level, Populations, gain};
use super::weights::{fans, is_matrix, maps, norm_gains, rms, wanted};
use super::{Check, Confidence, Finding, Findings, Needs, Rule, Severity, Subject, Threshold, Thresholds};
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
        Threshold {
            name: "drawn-embedding",
            default: 2.0,
            unit: "times RMS 1",
            source: "torch.nn.Embedding and torch.randn draw at 1, beside 0.02 of others of the same network (X-CLIP)",
        },
        Threshold {
            name: "table-drift",
            default: 1.25,
            unit: "times RMS 1",
            source: "design: tables move little in training, since few rows are met in a batch; not measured",
        },
        Threshold {
            name: "fewest-of-tower",
            default: 8.0,
            unit: "other maps of the role in the tower",
            source: "design: the three or four kinds of maps in one block are often alike by something; not measured",
        },
        Threshold {
            name: "small-gain",
            default: 0.004,
            unit: "sigma_w^2 = fan_in * RMS^2",
            source: "what GPT-2's 0.02 gives a map of ten inputs, narrower than which no network is: what began at zero and has taken a few steps",
        },
        Threshold {
            name: "vanished-gain",
            default: 1e-12,
            unit: "sigma_w^2 = fan_in * RMS^2",
            source: "the square of 1e-6, from where f32 tells a branch from nothing; SAM and BLIP are drawn at 1e-10",
        },
    ],
    check: Check::Checkpoint(check),
};

fn check(checkpoint: &CheckpointAnalysis, thresholds: &Thresholds, findings: &mut Findings) {
    judge_maps(checkpoint, thresholds, findings);
    for tensor in checkpoint.tensors.iter().filter(|tensor| is_matrix(tensor) && is_loose(tensor.role)) {
        judge_level(tensor, thresholds, "loose-spread", findings);
    }
    // Gains around zero and gains around one have no level in common.
    if adds_gains_to_one(checkpoint) {
        return;
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
    if spread < limit || is_as_drawn(tensor, thresholds.get("drawn-embedding")) {
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

/// Whether it is an embedding, or the half of an adapter that is one (`lora_embedding_B`), at the level at which PyTorch draws them, whatever the others of
/// its network are drawn at.
fn is_as_drawn(tensor: &TensorAnalysis, factor: f64) -> bool {
    let rms = tensor.statistics.value().and_then(|statistics| statistics.rms.value());
    let is_embedding = matches!(tensor.role, Role::TokenEmbedding | Role::PositionEmbedding)
        || tensor.canonical_name.contains("lora_embedding_");
    is_embedding && rms.is_some_and(|&rms| rms <= factor && rms * factor >= 1.0)
}

fn judge_maps(checkpoint: &CheckpointAnalysis, thresholds: &Thresholds, findings: &mut Findings) {
    let populations = Populations::of(checkpoint);
    let kin = Kin::of(checkpoint);
    let initial = checkpoint.step.value() == Some(&0);
    for tensor in maps(checkpoint) {
        // A recurrence is judged by itself, so that it needs no peers; with peers it is judged by them as well.
        let alone = is_plain_recurrence(tensor);
        if alone {
            judge_recurrence(tensor, initial, thresholds, findings);
        }
        if !alone || tensor.role_spread.value().is_some() {
            // The scale of a head is that of its targets as soon as it was trained: no norm behind it takes it away, and its weights have to bring
            // hidden units below 1 to prices of a thousand. Before that it is as wide as it was drawn.
            let is_trained = checkpoint.step.value().is_some_and(|step| *step > 0);
            let is_head = is_trained && tensor.role == Role::Linear && kin.ends_with(tensor);
            judge_among_peers(tensor, is_head, &populations, &kin, thresholds, findings);
        }
    }
}

/// The RMS and both gains must stand out: layers of one role differ in their fans, and some parametrisations keep the RMS
/// equal over them, others the gain forward. The smallest spread is the one that none explains. The gain of gradients back explains one only where
/// the others of its role are most alike by it: else it would excuse any layer of few outputs. Where all layers of a part of the network stand out alike, that part is made so, and where a layer
/// is a draw of a usual initialisation, it is: only the widest limit tells a fault.
fn judge_among_peers(
    tensor: &TensorAnalysis,
    is_head: bool,
    populations: &Populations,
    kin: &Kin,
    thresholds: &Thresholds,
    findings: &mut Findings,
) {
    if wanted(&tensor.role_spread, tensor, "spread", findings).is_none() {
        return;
    }
    let (Some(level), Some(usual)) = (Level::of(tensor), populations.usual(tensor)) else { return };
    if usual.maps < FEWEST_PEERS {
        let reason = format!("fewer than {FEWEST_PEERS} maps of this role beside the depthwise ones");
        return findings.not_evaluated(Subject::Tensor(tensor.name.clone()), reason);
    }
    let rms_spread = level.rms / usual.level.rms;
    let gain_spread = (level.gain / usual.level.gain).sqrt();
    let backward_spread = (level.backward_gain / usual.level.backward_gain).sqrt();
    let spread_limit = thresholds.get("spread");
    let forward_spread = rms_spread.min(gain_spread);
    if forward_spread < spread_limit {
        return;
    }
    let is_by_fan_out = usual.is_by_fan_out(&level);
    let spread = if is_by_fan_out { forward_spread.min(backward_spread) } else { forward_spread };
    if spread < spread_limit {
        return;
    }
    if usual.level.gain < thresholds.get("vanished-gain") {
        let gain = short(usual.level.gain);
        let reason = format!("the median gain of its role is {gain}: most of them pass nothing on");
        return findings.not_evaluated(Subject::Tensor(tensor.name.clone()), reason);
    }
    // A layer of a stack that alone is so was drawn without its scale.
    let is_table = tensor.role == Role::Linear
        && is_standard_normal(tensor, thresholds.get("table-drift"))
        && (kin.begins_with(tensor) || !kin.are_scaled(tensor, usual.level.rms));
    let are_alike = kin.are_alike(tensor, spread_limit, thresholds.get("fewest-of-tower"));
    // Beside maps that began at zero and have hardly moved, one that was drawn as usual stands out.
    let is_usual = USUAL_GAINS.contains(&level.gain) && usual.level.gain < thresholds.get("small-gain");
    let is_made_so = is_table || are_alike || is_usual || is_head || is_uniform_draw(tensor);
    let severe = thresholds.get(if is_made_so { "severe-loose-spread" } else { "severe-spread" });
    let is_severe = spread >= severe;
    if is_made_so && !is_severe {
        return;
    }
    let reached = if is_severe { severe } else { spread_limit };
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
    if is_severe && !is_made_so {
        finding.severity(Severity::Critical);
    }
    if is_by_fan_out && backward_spread < forward_spread {
        let label = "square root of its gain of gradients over the median of its role";
        finding.against(label, backward_spread, reached, "1");
    }
    add_reference_gains(finding, tensor, level.gain);
}

/// `σ_w²` from half of that of `torch.nn.Linear` to that of He, the narrowest and the widest of the usual initialisations.
const USUAL_GAINS: std::ops::RangeInclusive<f64> = 1.0 / 6.0..=2.0;

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
    fn unequal_levels_at_unequal_fan_out_are_an_initialisation_by_fan_out() {
        let layer = |name, outputs: u64, rms| {
            tensor(name, Role::Convolution, &[outputs, 4 * outputs, 1, 1]).filled(rms).with_role_spread(8.0)
        };
        // Of 4 outputs and of 256: He by fan-out draws both at sqrt(2 / outputs).
        let wide = layer("0.weight", 4, (2.0f64 / 4.0).sqrt());
        let usual = |name| layer(name, 256, (2.0f64 / 256.0).sqrt());
        let narrow_reader = |name, outputs: u64| {
            tensor(name, Role::Convolution, &[outputs, 4, 1, 1]).filled((2.0 / outputs as f64).sqrt())
        };
        let saved = checkpoint(vec![
            wide,
            usual("1.weight"),
            narrow_reader("2.weight", 256).with_role_spread(1.0),
            narrow_reader("3.weight", 128).with_role_spread(1.0),
            narrow_reader("4.weight", 512).with_role_spread(1.0),
        ]);
        assert!(judge(&RULE, &saved).is_clean());
    }

    #[test]
    fn a_head_of_one_output_is_not_excused_by_its_gain_of_gradients() {
        let layer = |number: u64, outputs: u64, factor: f64| {
            let name = format!("{number}.weight");
            tensor(&name, Role::Linear, &[outputs, 256]).filled(0.036 * factor).with_role_spread(factor)
        };
        let with = |factor: f64| {
            let hidden = (0..4).map(|number| layer(number, 256, 1.0));
            judge(&RULE, &checkpoint(hidden.chain([layer(8, 1, factor)]).collect())).told()
        };
        assert_eq!(with(50.0), [(Severity::Critical, "8.weight".to_owned())]);
        assert_eq!(with(6.0), [(Severity::Warning, "8.weight".to_owned())]);
        assert!(with(3.0).is_empty());
    }

    #[test]
    fn a_trained_head_has_the_scale_of_its_targets_and_a_hidden_layer_or_a_new_head_has_not() {
        let layer = |number: u64, outputs: u64, factor: f64| {
            let name = format!("{number}.weight");
            let tensor = tensor(&name, Role::Linear, &[outputs, 64]).with_order(number);
            tensor.filled(0.09 * factor).with_role_spread(factor)
        };
        // 0.9 is what the head of an MLP of PyTorch's default widths came to on targets of 100·sin(x) in 1500 steps of AdamW.
        let told = |hidden: f64, outputs: u64, head: f64, step: u64| {
            let stack = (0..4).map(|number| layer(number, 64, if number == 2 { hidden } else { 1.0 }));
            let own = checkpoint(stack.chain([layer(8, outputs, head)]).collect()).at_step(step);
            judge(&RULE, &own).told().iter().map(|(_, name)| name.clone()).collect::<Vec<_>>()
        };
        assert!(told(1.0, 1, 11.0, 1500).is_empty() && told(1.0, 2, 11.0, 1500).is_empty());
        assert_eq!(told(1.0, 1, 11.0, 0), ["8.weight"]);
        assert_eq!(told(1.0, 1, 310.0, 1500), ["8.weight"]);
        assert_eq!(told(11.0, 1, 11.0, 1500), ["2.weight"]);
        assert_eq!(told(1.0, 64, 11.0, 1500), ["8.weight"], "what comes next may read it");
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

    /// Four layers of an encoder at 0.02, and a decoder whose layers are `decoder` times as wide.
    fn beside_a_decoder(decoder: &[f64]) -> CheckpointAnalysis {
        let layer = |name: String, factor: f64| {
            tensor(&name, Role::AttentionKey, &[64, 64]).filled(0.02 * factor).with_role_spread(factor)
        };
        let encoder = (0..4).map(|number| layer(format!("encoder.{number}.attn.k_proj.weight"), 1.0));
        let decoder = decoder.iter().enumerate();
        let decoder =
            decoder.map(|(number, &factor)| layer(format!("decoder.{number}.cross.k_proj.weight"), factor));
        checkpoint(encoder.chain(decoder).collect())
    }

    #[test]
    fn a_part_of_the_network_whose_layers_are_all_as_wide_is_made_so() {
        assert!(judge(&RULE, &beside_a_decoder(&[50.0, 50.5])).is_clean(), "X-CLIP draws its prompts at 1");
        assert_eq!(judge(&RULE, &beside_a_decoder(&[16.0, 1.0])).told().len(), 1);
        assert_eq!(judge(&RULE, &beside_a_decoder(&[16.0, 16.0, 1.0])).told().len(), 2);
        assert_eq!(judge(&RULE, &beside_a_decoder(&[16.0])).told()[0].0, Severity::Critical, "no kin");
        let far = judge(&RULE, &beside_a_decoder(&[310.0, 320.0])).told();
        assert_eq!(far.len(), 2);
        assert_eq!(far[0].0, Severity::Warning);
    }

    #[test]
    fn beside_maps_that_pass_nothing_on_none_is_judged() {
        let layer = |number: u64, rms: f64| {
            tensor(&format!("h.{number}.mlp.c_fc.weight"), Role::MlpIn, &[128, 32])
                .filled(rms)
                .with_role_spread(rms / 1e-10)
        };
        let drawn = (0..4).map(|number| layer(number, 1e-10)).chain([layer(4, 0.02)]);
        let findings = judge(&RULE, &checkpoint(drawn.collect()));
        assert!(findings.told().is_empty());
        assert_eq!(findings.not_evaluated.len(), 1);
        assert!(findings.not_evaluated[0].1.ends_with("most of them pass nothing on"));
    }

    #[test]
    fn a_standard_normal_layer_of_a_stack_lacks_its_scale_and_a_table_of_its_own_is_one() {
        let layer = |name: &str| tensor(name, Role::Linear, &[64, 64]).filled(0.08).with_role_spread(1.0);
        let drawn = |name: &str| {
            let mut map = layer(name).filled(1.0).with_role_spread(12.5);
            let Measured::Value(statistics) = &mut map.statistics else { panic!("it was filled") };
            statistics.mean = Measured::Value(0.0);
            statistics.max_abs = Measured::Value((2.0 * 4096f64.ln()).sqrt());
            map
        };
        let severity = |odd: TensorAnalysis| {
            let name = odd.name.clone();
            let of_stack = |number| layer(&format!("net.{number}.weight"));
            let mut tensors: Vec<_> = (0..6).map(of_stack).collect();
            tensors.extend((1..3).map(|number| layer(&format!("net{number}.weight"))));
            // A trained table, and one of too few rows, stand beside those that are as they were drawn.
            let small = tensor("emb4.weight", Role::Linear, &[2, 8]).filled(0.9).with_role_spread(11.0);
            let trained = tensor("emb3.weight", Role::Linear, &[64, 64]).filled(0.6).with_role_spread(7.5);
            tensors.extend([drawn("emb1.weight"), trained, small, odd]);
            let told = judge(&RULE, &checkpoint(tensors)).told();
            told.into_iter().find(|(_, told)| *told == name).map(|(severity, _)| severity)
        };
        for layer in ["net.6.weight", "net3.weight"] {
            assert_eq!(severity(drawn(layer)), Some(Severity::Critical), "{layer}");
        }
        for table in ["label_emb.weight", "emb2.weight"] {
            assert_eq!(severity(drawn(table)), None, "{table}");
        }
    }

    #[test]
    fn an_embedding_that_begins_a_sequence_is_a_table_by_what_reads_its_columns() {
        let layer = |number: u64, shape: &[u64], rms: f64| {
            tensor(&format!("{number}.weight"), Role::Linear, shape)
                .filled(rms)
                .with_role_spread(rms / 0.08)
                .with_order(number)
        };
        let told = |first: &[u64]| {
            let mut drawn = layer(0, first, 1.0);
            let Measured::Value(statistics) = &mut drawn.statistics else { panic!("it was filled") };
            statistics.mean = Measured::Value(0.0);
            statistics.max_abs = Measured::Value((2.0 * (drawn.elements as f64).ln()).sqrt());
            let layers = (2..6).map(|number| layer(number, &[64, 64], 0.08));
            judge(&RULE, &checkpoint([drawn].into_iter().chain(layers).collect())).told().len()
        };
        assert_eq!(told(&[500, 64]), 0, "500 tokens of width 64, and what follows reads 64");
        assert_eq!(told(&[64, 500]), 1, "a layer that gives 64");
        assert_eq!(told(&[64, 64]), 1, "which of both cannot be told");
    }

    #[test]
    fn beside_maps_that_began_at_zero_one_drawn_as_usual_is_none_too_wide() {
        let told = |others: f64, gain: f64| {
            let layer = |number: u64, rms: f64| {
                tensor(&format!("{number}.fc.weight"), Role::Linear, &[64, 64])
                    .filled(rms)
                    .with_role_spread(rms / others)
            };
            let first = tensor("inp.weight", Role::Linear, &[64, 64]).filled((gain / 64.0f64).sqrt());
            let first = first.with_role_spread((gain / 64.0f64).sqrt() / others);
            judge(&RULE, &checkpoint((0..4).map(|number| layer(number, others)).chain([first]).collect()))
                .told()
                .len()
        };
        assert_eq!((told(0.005, 0.33), told(0.005, 2.1), told(0.01, 0.33)), (0, 1, 1));
    }

    #[test]
    fn an_embedding_at_the_level_that_pytorch_draws_is_silent_beside_narrow_ones() {
        let at = |rms| {
            let table = tensor("pos.weight", Role::PositionEmbedding, &[77, 64]).filled(rms);
            judge(&RULE, &checkpoint(vec![table.with_role_spread(50.0)]))
        };
        assert!(at(1.0).is_clean() && at(0.6).is_clean() && at(1.9).is_clean());
        assert_eq!(at(2.1).told().len(), 1);
        assert_eq!(at(0.1).told().len(), 1);
    }

    #[test]
    fn a_tied_matrix_is_judged_once() {
        let mut saved = stack(8.0);
        let copy = saved.tensors[4].clone().tied_to("h.4.mlp.c_fc.weight");
        saved.tensors.push(copy);
        assert_eq!(judge(&RULE, &saved).told().len(), 1);
    }
}
