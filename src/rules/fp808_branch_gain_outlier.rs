//! One branch whose Jacobian is far larger than those of all other branches of its kind: what a block's own gain hides in few blocks.

use super::jacobians::{jacobian, parts, probe, wanted};
use super::{Check, Confidence, Findings, Needs, Rule, Severity, Subject, Threshold, Thresholds};
use crate::analysis::model::{CheckpointAnalysis, PartJacobian, PartKind};
use crate::number::short;

pub(super) static RULE: Rule = Rule {
    code: "FP808",
    name: "branch-gain-outlier",
    summary: "the Jacobian of one branch is far larger than those of all other branches of its kind",
    page: include_str!("../../docs/rules/FP808-branch-gain-outlier.md"),
    severity: Severity::Note,
    confidence: Confidence::Heuristic,
    needs: Needs::JACOBIAN,
    thresholds: &[
        Threshold {
            name: "ratio",
            default: 10.0,
            unit: "times the gain over its own scale of the next largest of its kind",
            source: "design choice: healthy runs of the zoo reach 6.8, two published encoders 1.14 (docs/jacobian.md)",
        },
        Threshold {
            name: "gain",
            default: 2.0,
            unit: "sigma_1",
            source: "design choice: below it the branch adds little to what the shortcut beside it passes",
        },
    ],
    check: Check::Checkpoint(check),
};

fn check(checkpoint: &CheckpointAnalysis, thresholds: &Thresholds, findings: &mut Findings) {
    let Some(jacobian) = jacobian(checkpoint) else { return };
    let (limit, least) = (thresholds.get("ratio"), thresholds.get("gain"));
    for kind in [PartKind::Attention, PartKind::FeedForward] {
        let mut reaches: Vec<(&PartJacobian, f64)> =
            parts(jacobian, kind).filter_map(|part| Some((part, reach(part, findings)?))).collect();
        reaches.sort_by(|(_, a), (_, b)| b.total_cmp(a));
        let [(part, largest), (next, second), ..] = reaches[..] else {
            for (part, _) in reaches {
                let reason = "it is the only branch of its kind: there is nothing to compare it with";
                findings.not_evaluated(Subject::Layer(part.name.clone()), reason);
            }
            continue;
        };
        let subject = Subject::Layer(part.name.clone());
        if second == 0.0 {
            findings
                .not_evaluated(subject, "every other branch of its kind gives nothing: there is no ratio");
            continue;
        }
        let Some(norm) = wanted(&part.spectral_norm, &subject, "sigma_1", findings) else { continue };
        let ratio = largest / second;
        if ratio <= limit || norm.mean <= least {
            continue;
        }
        let all = if reaches.len() == 2 { "the only other of its kind" } else { "the next of its kind" };
        let message = format!(
            "{} answers small changes {} times as strongly as {}, {all} (limit {}), on {}",
            part.name,
            short(ratio),
            next.name,
            short(limit),
            probe(&jacobian.setting),
        );
        findings
            .push(
                subject,
                message,
                "compare the weights of the two (flashpoint inspect, flashpoint diff): was one initialised, scaled or trained unlike the other?",
            )
            .against("gain over its own scale, over the next largest", ratio, limit, "1")
            .evidence("sigma_1", norm.mean, "1");
    }
}

/// By how much its output changes, in root mean square, where every number of its input changes by as much as the input is large: a norm in
/// front divides by that, so that the gain alone falls with the size of the stream.
fn reach(part: &PartJacobian, findings: &mut Findings) -> Option<f64> {
    let subject = Subject::Layer(part.name.clone());
    let gain = wanted(&part.gain, &subject, "gain", findings)?;
    let scale = wanted(&part.input_rms, &subject, "size of its input", findings)?;
    Some(gain.mean * scale.mean)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::test_jacobian::{network, reaching};
    use crate::rules::test_support::{judge, judge_with};

    fn feed_forward(gains: &[f64], scales: &[f64]) -> CheckpointAnalysis {
        let part = |(index, (gain, scale)): (usize, (&f64, &f64))| {
            reaching(&format!("h.{index} mlp"), PartKind::FeedForward, *gain, *scale)
        };
        network(gains.iter().zip(scales).enumerate().map(part).collect())
    }

    #[test]
    fn a_branch_of_more_than_ten_times_the_next_is_worth_a_note() {
        let one = feed_forward(&[0.36, 4.1], &[1.0, 1.0]);
        assert_eq!(judge(&RULE, &one).told(), [(Severity::Note, "h.1 mlp".to_owned())]);
        assert!(judge_with(&RULE, &one, &[("ratio", 12.0)]).is_clean());
        assert!(judge(&RULE, &feed_forward(&[0.36, 3.5, 0.2], &[1.0; 3])).is_clean());
    }

    #[test]
    fn a_small_stream_in_front_of_the_first_block_makes_no_outlier_of_it() {
        assert!(judge(&RULE, &feed_forward(&[40.0, 2.0, 1.0], &[0.02, 0.4, 0.9])).is_clean());
    }

    #[test]
    fn a_branch_beside_others_that_do_next_to_nothing_is_none_while_it_adds_little() {
        assert!(judge(&RULE, &feed_forward(&[1.9, 0.01, 0.0], &[1.0; 3])).is_clean());
        assert_eq!(judge(&RULE, &feed_forward(&[2.1, 0.01, 0.0], &[1.0; 3])).told().len(), 1);
    }

    #[test]
    fn a_branch_without_another_to_compare_with_is_not_evaluated() {
        for gains in [&[50.0][..], &[50.0, 0.0, 0.0], &[0.0, 0.0]] {
            let judged = judge(&RULE, &feed_forward(gains, &[1.0; 3]));
            assert!(judged.told().is_empty() && !judged.is_clean(), "{gains:?}");
        }
        assert!(judge(&RULE, &network(Vec::new())).is_clean(), "no branches, no question");
    }

    #[test]
    fn kinds_are_not_compared_with_each_other() {
        let mut parts = vec![
            reaching("h.0 attention", PartKind::Attention, 40.0, 1.0),
            reaching("h.1 attention", PartKind::Attention, 30.0, 1.0),
        ];
        parts.push(reaching("h.0 mlp", PartKind::FeedForward, 1.0, 1.0));
        parts.push(reaching("h.1 mlp", PartKind::FeedForward, 1.0, 1.0));
        assert!(judge(&RULE, &network(parts)).is_clean());
    }
}
