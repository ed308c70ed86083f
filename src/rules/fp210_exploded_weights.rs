//! B3: weights at a level that no healthy network reaches. Where all of them blew up, none stands out among its peers.

use super::weights::rms;
use super::{Check, Confidence, Findings, Needs, Rule, Severity, Subject, Threshold, Thresholds};
use crate::analysis::model::{CheckpointAnalysis, Role, TensorAnalysis};
use crate::number::short;

pub(super) static RULE: Rule = Rule {
    code: "FP210",
    name: "exploded-weights",
    summary: "the weights of one kind have an RMS far above that of every healthy network measured",
    page: include_str!("../../docs/rules/FP210-exploded-weights.md"),
    severity: Severity::Warning,
    confidence: Confidence::Heuristic,
    needs: Needs::NORMS,
    thresholds: &[
        Threshold {
            name: "map-rms",
            default: 32.0,
            unit: "RMS",
            source: "ten times the healthy maximum, 3.14 (SevenNet l3i5)",
        },
        Threshold {
            name: "embedding-rms",
            default: 40.0,
            unit: "RMS",
            source: "35 times the healthy maximum, 1.15; torch draws embeddings at 1",
        },
        Threshold {
            name: "norm-gain-rms",
            default: 100.0,
            unit: "RMS",
            source: "56 times the healthy maximum, 1.80; gains stored around zero can be larger",
        },
        Threshold {
            name: "bias-rms",
            default: 60.0,
            unit: "RMS",
            source: "eleven times the healthy maximum, 5.40 (silero-vad)",
        },
        Threshold {
            name: "severe-factor",
            default: 10.0,
            unit: "times the limit",
            source: "a hundred times the healthy maximum and more",
        },
    ],
    check: Check::Checkpoint(check),
};

/// What is held against one limit, and how it is called.
struct Kind {
    limit: &'static str,
    word: &'static str,
}

const MAPS: Kind = Kind { limit: "map-rms", word: "maps" };
const EMBEDDINGS: Kind = Kind { limit: "embedding-rms", word: "embeddings and heads" };
const GAINS: Kind = Kind { limit: "norm-gain-rms", word: "norm gains" };
const BIASES: Kind = Kind { limit: "bias-rms", word: "biases" };

fn check(checkpoint: &CheckpointAnalysis, thresholds: &Thresholds, findings: &mut Findings) {
    for kind in [MAPS, EMBEDDINGS, GAINS, BIASES] {
        judge_kind(checkpoint, &kind, thresholds, findings);
    }
}

/// One finding for the worst of a kind: a network blows up in many places at once.
fn judge_kind(
    checkpoint: &CheckpointAnalysis,
    kind: &Kind,
    thresholds: &Thresholds,
    findings: &mut Findings,
) {
    let limit = thresholds.get(kind.limit);
    let mut above = Vec::new();
    for tensor in checkpoint.tensors.iter().filter(|tensor| is_of_kind(tensor, kind)) {
        if let Some(rms) = rms(tensor, findings).filter(|&rms| rms >= limit) {
            above.push((tensor, rms));
        }
    }
    let Some(&(worst, rms)) = above.iter().max_by(|one, other| one.1.total_cmp(&other.1)) else { return };
    let severe = limit * thresholds.get("severe-factor");
    let reached = if rms >= severe { severe } else { limit };
    let message =
        format!("{} has the RMS {} (limit {reached}){}", worst.name, short(rms), others(&above, kind));
    let finding = findings.push(
        Subject::Tensor(worst.name.clone()),
        message,
        "go back to a checkpoint from before the explosion; lower the learning rate, clip the gradient norm",
    );
    finding.against("RMS", rms, reached, "1").evidence(
        "weights of this kind above the limit",
        above.len() as f64,
        "tensors",
    );
    if rms >= severe {
        finding.severity(Severity::Critical);
    }
}

fn others(above: &[(&TensorAnalysis, f64)], kind: &Kind) -> String {
    match above.len() - 1 {
        0 => String::new(),
        others => format!("; other {} above the limit: {others}", kind.word),
    }
}

fn is_of_kind(tensor: &TensorAnalysis, kind: &Kind) -> bool {
    tensor.is_parameter()
        && tensor.elements > 0
        && tensor.tied_to.is_none()
        && kind_of(tensor).is_some_and(|its| its.limit == kind.limit)
}

/// `None` for what has no known scale.
fn kind_of(tensor: &TensorAnalysis) -> Option<Kind> {
    match tensor.role {
        Role::TokenEmbedding | Role::PositionEmbedding | Role::OutputHead => Some(EMBEDDINGS),
        Role::NormGain => Some(GAINS),
        Role::Bias if is_of_attention_input(tensor) => None,
        Role::Bias | Role::NormBias => Some(BIASES),
        Role::Buffer | Role::OptimizerState | Role::Other => None,
        _ => Some(MAPS),
    }
}

/// The softmax cancels most of a key's bias, so that nothing holds it back, and a fused one contains it.
fn is_of_attention_input(tensor: &TensorAnalysis) -> bool {
    const MARKS: [&str; 6] = ["k_proj", "key", "qkv", "c_attn", "in_proj", "query"];
    let name = tensor.canonical_name.to_ascii_lowercase();
    MARKS.iter().any(|mark| name.contains(mark))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::test_support::{checkpoint, judge, judge_with, tensor};

    fn weight(name: &str, role: Role, rms: f64) -> TensorAnalysis {
        tensor(name, role, &[8, 8]).filled(rms)
    }

    #[test]
    fn every_kind_has_its_limit_and_is_critical_at_ten_times_it() {
        let kinds = [
            (Role::Linear, 32.0),
            (Role::LoraB, 32.0),
            (Role::TokenEmbedding, 40.0),
            (Role::OutputHead, 40.0),
            (Role::NormGain, 100.0),
            (Role::NormBias, 60.0),
            (Role::Bias, 60.0),
        ];
        for (role, limit) in kinds {
            let with = |rms| judge(&RULE, &checkpoint(vec![weight("a", role, rms)]));
            assert!(with(limit - 0.1).is_clean(), "{role:?}");
            assert_eq!(with(limit).told(), [(Severity::Warning, "a".to_owned())]);
            assert_eq!(with(10.0 * limit).told(), [(Severity::Critical, "a".to_owned())]);
        }
    }

    #[test]
    fn many_of_a_kind_are_one_finding_that_names_the_worst() {
        let saved = [("a", 50.0), ("b", 70.0), ("c", 60.0), ("d", 1.0)];
        let saved = checkpoint(saved.map(|(name, rms)| weight(name, Role::Linear, rms)).to_vec());
        let findings = judge(&RULE, &saved);
        assert_eq!(findings.told(), [(Severity::Warning, "b".to_owned())]);
        assert_eq!(findings.found[0].message, "b has the RMS 70 (limit 32); other maps above the limit: 2");
    }

    #[test]
    fn what_has_no_known_scale_is_not_judged() {
        let other = weight("rescale.shift", Role::Other, 1e6);
        let key = weight("layers.0.self_attn.k_proj.bias", Role::Bias, 300.0);
        let variance = weight("bn.running_var", Role::Buffer, 1e9);
        assert!(judge(&RULE, &checkpoint(vec![other, key, variance])).is_clean());
    }

    #[test]
    fn the_limits_can_be_overridden() {
        let saved = checkpoint(vec![weight("a", Role::Linear, 50.0)]);
        assert!(judge_with(&RULE, &saved, &[("map-rms", 51.0)]).is_clean());
    }

    #[test]
    fn a_tied_matrix_is_judged_once() {
        let head = weight("head", Role::OutputHead, 50.0).tied_to("embedding");
        let saved = checkpoint(vec![weight("embedding", Role::TokenEmbedding, 50.0), head]);
        assert_eq!(judge(&RULE, &saved).told().len(), 1);
    }
}
