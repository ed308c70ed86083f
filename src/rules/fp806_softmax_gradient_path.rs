//! An attention whose Jacobian is that of its softmax: where logits are large, bounds by its weights fail.

use super::jacobians::{jacobian, parts, probe, wanted};
use super::{Check, Confidence, Findings, Needs, Rule, Severity, Subject, Threshold, Thresholds};
use crate::analysis::model::{AttentionPaths, CheckpointAnalysis, PartKind};
use crate::number::short;
use crate::robust::median;

pub(super) static RULE: Rule = Rule {
    code: "FP806",
    name: "softmax-gradient-path",
    summary: "the Jacobian of an attention goes through its softmax rather than through its values",
    page: include_str!("../../docs/rules/FP806-softmax-gradient-path.md"),
    severity: Severity::Warning,
    confidence: Confidence::Heuristic,
    needs: Needs::JACOBIAN,
    thresholds: &[
        Threshold {
            name: "ratio",
            default: 5.0,
            unit: "times sigma_1 through the values",
            source: "see the page: what healthy and broken attentions have",
        },
        Threshold {
            name: "gain",
            default: 10.0,
            unit: "sigma_1 through the softmax",
            source: "below it the block amplifies nothing, whichever path it takes",
        },
        Threshold {
            name: "note",
            default: 2.0,
            unit: "times sigma_1 through the values, for a note",
            source: "design choice: few attentions of healthy runs of the zoo are above it (docs/jacobian.md)",
        },
        Threshold {
            name: "siblings",
            default: 4.0,
            unit: "times the median ratio of the other attentions, for a note",
            source: "design choice: healthy attentions above the ratio of a note reach 3.3 (docs/jacobian.md)",
        },
        Threshold {
            name: "note-gain",
            default: 1.0,
            unit: "sigma_1 through the softmax, for a note",
            source: "below it the branch adds less than the shortcut beside it passes",
        },
    ],
    check: Check::Checkpoint(check),
};

fn check(checkpoint: &CheckpointAnalysis, thresholds: &Thresholds, findings: &mut Findings) {
    let Some(jacobian) = jacobian(checkpoint) else { return };
    let mut attentions = Vec::new();
    for part in parts(jacobian, PartKind::Attention) {
        let subject = Subject::Layer(part.name.clone());
        if let Some(paths) = wanted(&part.paths, &subject, "paths through its attention", findings) {
            attentions.push((part.name.as_str(), *paths));
        }
    }
    for (index, &(name, paths)) in attentions.iter().enumerate() {
        let others = attentions.iter().enumerate().filter(|(other, _)| *other != index);
        let others = others.map(|(_, (_, paths))| ratio(*paths)).filter(|ratio| !ratio.is_nan());
        let usual = median(others);
        let Some((severity, limit, beside)) = verdict(paths, usual, thresholds) else { continue };
        let message = format!(
            "{name} passes small changes through its softmax {}-fold and through its values {}-fold (limit {} times{beside}), on {}",
            short(paths.softmax),
            short(paths.value),
            short(limit),
            probe(&jacobian.setting),
        );
        findings
            .push(
                Subject::Layer(name.to_owned()),
                message,
                "bound the logits: QK-norm, a softcap, or QK-clip of its query and key weights; a lower learning rate for them",
            )
            .severity(severity)
            .against("softmax path over value path", ratio(paths), limit, "1")
            .evidence("sigma_1 through the softmax", paths.softmax, "1");
    }
}

/// How bad it is, the limit it is above, and what the message adds; `usual` is the median ratio of the other attentions, if there are any.
fn verdict(
    paths: AttentionPaths,
    usual: Option<f64>,
    thresholds: &Thresholds,
) -> Option<(Severity, f64, String)> {
    let (limit, note) = (thresholds.get("ratio"), thresholds.get("note"));
    if ratio(paths) > limit && paths.softmax > thresholds.get("gain") {
        return Some((Severity::Warning, limit, String::new()));
    }
    let amplifies = paths.softmax > thresholds.get("note-gain");
    let usual =
        usual.filter(|usual| amplifies && ratio(paths) > note.max(thresholds.get("siblings") * usual))?;
    let beside = format!("; the other attentions have {} times in the median", short(usual));
    Some((Severity::Note, note, beside))
}

/// How much more goes through the softmax than through the values.
fn ratio(paths: AttentionPaths) -> f64 {
    paths.softmax / paths.value
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::test_jacobian::{attention, attentions};
    use crate::rules::test_support::{judge, judge_with};

    #[test]
    fn a_softmax_path_of_five_times_the_value_path_is_a_warning() {
        assert_eq!(
            judge(&RULE, &attention(60.0, 11.0)).told(),
            [(Severity::Warning, "h.0 attention".to_owned())]
        );
        assert!(judge(&RULE, &attention(50.0, 11.0)).is_clean());
        assert!(judge_with(&RULE, &attention(60.0, 11.0), &[("ratio", 6.0)]).is_clean());
    }

    #[test]
    fn a_small_gain_through_softmax_alone_is_no_danger() {
        assert!(judge(&RULE, &attention(9.0, 0.1)).is_clean());
    }

    #[test]
    fn one_attention_of_three_whose_softmax_path_leads_is_worth_a_note() {
        let one = attentions(&[(1.0, 2.5), (7.0, 2.8), (1.3, 2.6)]);
        assert_eq!(judge(&RULE, &one).told(), [(Severity::Note, "h.1 attention".to_owned())]);
        assert!(judge_with(&RULE, &one, &[("note", 2.6)]).is_clean());
        assert!(judge_with(&RULE, &one, &[("siblings", 7.0)]).is_clean());
    }

    #[test]
    fn attentions_that_all_lean_on_their_softmax_or_amplify_nothing_are_healthy() {
        assert!(
            judge(&RULE, &attentions(&[(6.6, 3.4), (11.5, 2.8), (7.3, 2.5)])).is_clean(),
            "as a published encoder"
        );
        assert!(judge(&RULE, &attentions(&[(0.1, 2.5), (4.7, 2.5)])).is_clean(), "below the ratio of a note");
        assert!(judge(&RULE, &attentions(&[(0.01, 1.0), (0.9, 0.2)])).is_clean());
        assert!(judge(&RULE, &attentions(&[(9.0, 0.0)])).is_clean(), "there is no other to compare it with");
    }
}
