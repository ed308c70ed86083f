//! B8: a branch that gives far more than the shortcut beside it carries.

use super::jacobians::{jacobian, probe, wanted};
use super::{Check, Confidence, Findings, Needs, Rule, Severity, Subject, Threshold, Thresholds};
use crate::analysis::model::{CheckpointAnalysis, PartJacobian, PartKind};
use crate::number::short;

pub(super) static RULE: Rule = Rule {
    code: "FP208",
    name: "small-shortcut",
    summary: "a branch of a residual block gives far more than the shortcut beside it carries",
    page: include_str!("../../docs/rules/FP208-small-shortcut.md"),
    severity: Severity::Warning,
    confidence: Confidence::Heuristic,
    needs: Needs::JACOBIAN,
    thresholds: &[
        Threshold {
            name: "ratio",
            default: 20.0,
            unit: "times the shortcut's RMS",
            source: "design choice: twice the note",
        },
        Threshold {
            name: "note",
            default: 10.0,
            unit: "times the shortcut's RMS",
            source: "design choice: GPT-2 as it is initialised has about 2 (failure catalogue, B8), a healthy run of the fixtures 10.1 (docs/jacobian.md)",
        },
    ],
    check: Check::Checkpoint(check),
};

fn check(checkpoint: &CheckpointAnalysis, thresholds: &Thresholds, findings: &mut Findings) {
    let Some(jacobian) = jacobian(checkpoint) else { return };
    let limits = [(Severity::Warning, thresholds.get("ratio")), (Severity::Note, thresholds.get("note"))];
    let is_branch = |part: &&PartJacobian| {
        matches!(part.kind, PartKind::Attention | PartKind::FeedForward | PartKind::Branch)
    };
    for part in jacobian.parts.iter().filter(is_branch) {
        let subject = Subject::Layer(part.name.clone());
        let Some(shortcut) = wanted(&part.input_rms, &subject, "size of its shortcut", findings) else {
            continue;
        };
        let Some(branch) = wanted(&part.output_rms, &subject, "size of its output", findings) else {
            continue;
        };
        if shortcut.mean == 0.0 && branch.mean > 0.0 && branch.mean.is_finite() {
            let message = format!(
                "{} gives an RMS of {} beside a shortcut of nothing but zeros, on {}",
                part.name,
                short(branch.mean),
                probe(&jacobian.setting),
            );
            findings
                .push(
                    subject,
                    message,
                    "look at what the shortcut carries: an embedding or a map before it gives zeros",
                )
                .evidence("RMS of the branch", branch.mean, "1");
            continue;
        }
        let ratio = branch.mean / shortcut.mean;
        if !ratio.is_finite() {
            let reason =
                "neither its shortcut nor its output is a number above zero: there is no ratio of them";
            findings.not_evaluated(subject, reason);
            continue;
        }
        if let Some(&(severity, limit)) = limits.iter().find(|(_, limit)| ratio > *limit) {
            let message = format!(
                "{} gives an RMS of {} beside a shortcut of {}: {} times as much (limit {}), on {}",
                part.name,
                short(branch.mean),
                short(shortcut.mean),
                short(ratio),
                short(limit),
                probe(&jacobian.setting),
            );
            findings
                .push(
                    subject,
                    message,
                    "enlarge what the shortcut carries (scale the embedding by sqrt(width), or normalise it), or start the branch smaller",
                )
                .severity(severity)
                .against("branch over shortcut", ratio, limit, "1");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::test_jacobian::{branch, network};
    use crate::rules::test_support::{judge, judge_with};

    #[test]
    fn a_branch_of_more_than_twenty_times_its_shortcut_is_a_warning_and_of_ten_a_note() {
        let of = |ratio| network(vec![branch("h.0 attention", PartKind::Attention, 0.02, 0.02 * ratio)]);
        for (ratio, severity) in [(20.5, Severity::Warning), (19.5, Severity::Note), (10.5, Severity::Note)] {
            assert_eq!(judge(&RULE, &of(ratio)).told(), [(severity, "h.0 attention".to_owned())]);
        }
        assert!(judge(&RULE, &of(9.5)).is_clean());
        assert!(judge_with(&RULE, &of(10.5), &[("note", 20.0)]).is_clean());
    }

    #[test]
    fn a_shortcut_of_zeros_is_a_finding_beside_a_branch_that_gives_something_and_no_ratio_otherwise() {
        let of = |shortcut, given| network(vec![branch("h.0 mlp", PartKind::FeedForward, shortcut, given)]);
        let found = judge(&RULE, &of(0.0, 0.5));
        assert_eq!(found.told(), [(Severity::Warning, "h.0 mlp".to_owned())]);
        let numbers = found.found.iter().flat_map(|finding| &finding.evidence);
        assert!(numbers.map(|evidence| evidence.value).all(f64::is_finite), "{:?}", found.found);
        for (shortcut, given) in [(0.0, 0.0), (f64::NAN, 1.0), (1.0, f64::NAN)] {
            let judged = judge(&RULE, &of(shortcut, given));
            assert!(judged.told().is_empty() && !judged.is_clean(), "{shortcut} {given}");
        }
    }

    #[test]
    fn whole_blocks_and_operations_are_no_branches() {
        let block = network(vec![branch("h.0", PartKind::Block, 0.02, 2.0)]);
        assert!(judge(&RULE, &block).is_clean());
    }
}
