//! A block whose Jacobian is far larger than those of the other blocks.

use super::jacobians::{jacobian, parts, probe, wanted};
use super::{Check, Confidence, Findings, Needs, Rule, Severity, Subject, Threshold, Thresholds};
use crate::analysis::model::{CheckpointAnalysis, JacobianAnalysis, PartKind};
use crate::number::short;
use crate::robust::median;

pub(super) static RULE: Rule = Rule {
    code: "FP802",
    name: "block-gain-outlier",
    summary: "the Jacobian of one block is far larger than those of the other blocks",
    page: include_str!("../../docs/rules/FP802-block-gain-outlier.md"),
    severity: Severity::Warning,
    confidence: Confidence::Heuristic,
    needs: Needs::JACOBIAN,
    thresholds: &[
        Threshold {
            name: "ratio",
            default: 10.0,
            unit: "times the median sigma_1 of the blocks",
            source: "design choice: no healthy run of the zoo reaches it (docs/jacobian.md)",
        },
        Threshold {
            name: "gain",
            default: 10.0,
            unit: "sigma_1",
            source: "design choice: below it a block is large only beside blocks that do nothing",
        },
        Threshold {
            name: "note",
            default: 5.0,
            unit: "times the median sigma_1 of the blocks, and sigma_1",
            source: "design choice: healthy runs of the zoo reach 1.7 times the median (docs/jacobian.md)",
        },
    ],
    check: Check::Checkpoint(check),
};

/// Fewer blocks have no usual gain.
const FEWEST: usize = 3;

fn check(checkpoint: &CheckpointAnalysis, thresholds: &Thresholds, findings: &mut Findings) {
    let Some(jacobian) = jacobian(checkpoint) else { return };
    let mut norms = Vec::new();
    for part in parts(jacobian, PartKind::Block) {
        let subject = Subject::Layer(part.name.clone());
        if let Some(norm) = wanted(&part.spectral_norm, &subject, "sigma_1", findings) {
            norms.push((part, norm.mean));
        }
    }
    let Some(usual) = usual(norms.iter().map(|(_, norm)| *norm)) else { return };
    let warned = (Severity::Warning, thresholds.get("ratio"), thresholds.get("gain"));
    let noted = (Severity::Note, thresholds.get("note"), thresholds.get("note"));
    for (part, norm) in norms {
        let is_outlier = |&&(_, limit, least): &&(Severity, f64, f64)| norm > limit * usual && norm > least;
        if let Some(&(severity, limit, _)) = [warned, noted].iter().find(is_outlier) {
            let message = format!(
                "{} multiplies small changes up to {}-fold (sigma_1, {}), {} times the median of the blocks (limit {})",
                part.name,
                short(norm),
                probe(&jacobian.setting),
                short(norm / usual),
                short(limit),
            );
            let finding = findings.push(
                Subject::Layer(part.name.clone()),
                message,
                "look at its attention and feed-forward branches, and at what its weights did between checkpoints (flashpoint diff)",
            );
            finding
                .severity(severity)
                .against("sigma_1 over the blocks' median", norm / usual, limit, "1")
                .evidence("sigma_1", norm, "1");
            if let Some(paths) = branch_paths(jacobian, part.block) {
                finding.evidence("sigma_1 through the values of its attention", paths.value, "1").evidence(
                    "sigma_1 through its softmax",
                    paths.softmax,
                    "1",
                );
            }
        }
    }
}

/// The usual σ₁ of blocks; nothing of so few that there is none.
fn usual(norms: impl Iterator<Item = f64>) -> Option<f64> {
    let norms: Vec<f64> = norms.collect();
    if norms.len() < FEWEST { None } else { median(norms) }
}

/// The σ₁ above which a block of these is an outlier, at a limit of `ratio` and of `gain`.
pub(crate) fn outlier_above(jacobian: &JacobianAnalysis, ratio: f64, gain: f64) -> Option<f64> {
    let blocks = parts(jacobian, PartKind::Block);
    let usual = usual(blocks.filter_map(|part| part.spectral_norm.value()).map(|norm| norm.mean))?;
    Some((ratio * usual).max(gain))
}

fn branch_paths(
    jacobian: &JacobianAnalysis,
    block: Option<u64>,
) -> Option<&crate::analysis::model::AttentionPaths> {
    parts(jacobian, PartKind::Attention).find(|part| part.block == block)?.paths.value()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::test_jacobian::blocks;
    use crate::rules::test_support::{judge, judge_with};

    #[test]
    fn a_block_of_more_than_ten_times_the_median_is_named() {
        let hot = blocks(&[863.0, 14.3, 13.5, 13.0]);
        assert_eq!(judge(&RULE, &hot).told(), [(Severity::Warning, "h.0".to_owned())]);
        let raised = judge_with(&RULE, &hot, &[("ratio", 100.0)]);
        assert_eq!(raised.told(), [(Severity::Note, "h.0".to_owned())]);
        assert!(judge(&RULE, &blocks(&[3.96, 3.1, 2.6, 2.34])).is_clean());
    }

    #[test]
    fn a_block_of_more_than_five_times_the_median_is_worth_a_note() {
        let warm = blocks(&[7.06, 0.971, 0.963, 0.747]);
        assert_eq!(judge(&RULE, &warm).told(), [(Severity::Note, "h.0".to_owned())]);
        assert!(judge_with(&RULE, &warm, &[("note", 8.0)]).is_clean());
        assert!(judge(&RULE, &blocks(&[4.9, 0.971, 0.963, 0.747])).is_clean());
        assert!(judge(&RULE, &blocks(&[49.0, 10.0, 10.0, 10.0])).is_clean());
    }

    #[test]
    fn blocks_that_do_nothing_make_no_outlier_of_one_that_works() {
        let severity = |norm: f64| judge(&RULE, &blocks(&[norm, 0.1, 0.1, 0.1])).told()[0].0;
        assert_eq!((severity(9.0), severity(11.0)), (Severity::Note, Severity::Warning));
        assert!(judge(&RULE, &blocks(&[4.0, 0.1, 0.1, 0.1])).is_clean());
    }

    #[test]
    fn what_a_plot_shows_as_the_limit_is_where_the_rule_fires() {
        for norms in [vec![50.0, 7.0, 5.0, 3.0], vec![9.0, 0.1, 0.1, 0.1]] {
            let known = blocks(&norms);
            let limit =
                outlier_above(known.jacobian.value().expect("it has one"), 10.0, 10.0).expect("a limit");
            for (factor, severity) in [(0.999, Severity::Note), (1.001, Severity::Warning)] {
                // The first stays the largest, and does not move the median.
                let mut moved = norms.clone();
                moved[0] = limit * factor;
                assert_eq!(judge(&RULE, &blocks(&moved)).told()[0].0, severity, "{moved:?}");
            }
        }
        assert_eq!(
            outlier_above(blocks(&[900.0, 1.0]).jacobian.value().expect("it has one"), 10.0, 10.0),
            None
        );
    }

    #[test]
    fn two_blocks_have_no_usual_gain() {
        assert!(judge(&RULE, &blocks(&[900.0, 1.0])).is_clean());
    }
}
