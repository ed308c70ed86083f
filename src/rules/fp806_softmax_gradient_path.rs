//! An attention whose Jacobian is that of its softmax: where logits are large, bounds by its weights fail.

use super::jacobians::{jacobian, parts, probe, wanted};
use super::{Check, Confidence, Findings, Needs, Rule, Severity, Subject, Threshold, Thresholds};
use crate::analysis::model::{CheckpointAnalysis, PartKind};
use crate::number::short;

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
    ],
    check: Check::Checkpoint(check),
};

fn check(checkpoint: &CheckpointAnalysis, thresholds: &Thresholds, findings: &mut Findings) {
    let Some(jacobian) = jacobian(checkpoint) else { return };
    let (limit, least) = (thresholds.get("ratio"), thresholds.get("gain"));
    for part in parts(jacobian, PartKind::Attention) {
        let subject = Subject::Layer(part.name.clone());
        let Some(paths) = wanted(&part.paths, &subject, "paths through its attention", findings) else {
            continue;
        };
        if paths.softmax > limit * paths.value && paths.softmax > least {
            let message = format!(
                "{} passes small changes through its softmax {}-fold and through its values {}-fold (limit {} times), on {}",
                part.name,
                short(paths.softmax),
                short(paths.value),
                short(limit),
                probe(&jacobian.setting),
            );
            findings
                .push(
                    subject,
                    message,
                    "bound the logits: QK-norm, a softcap, or QK-clip of its query and key weights; a lower learning rate for them",
                )
                .against("softmax path over value path", paths.softmax / paths.value, limit, "1")
                .evidence("sigma_1 through the softmax", paths.softmax, "1");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::test_jacobian::attention;
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
}
