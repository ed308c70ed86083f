//! Small changes that grow block after block: a network above criticality.

use super::jacobians::{jacobian, probe, wanted};
use super::{Check, Confidence, Findings, Needs, Rule, Severity, Subject, Threshold, Thresholds};
use crate::analysis::model::{CheckpointAnalysis, DepthGain};
use crate::number::short;
use crate::robust::median;

pub(super) static RULE: Rule = Rule {
    code: "FP803",
    name: "gain-growing-with-depth",
    summary: "small changes grow block after block, so that depth alone makes gradients explode",
    page: include_str!("../../docs/rules/FP803-gain-growing-with-depth.md"),
    severity: Severity::Warning,
    confidence: Confidence::Heuristic,
    needs: Needs::JACOBIAN,
    thresholds: &[
        Threshold {
            name: "factor",
            default: 1.5,
            unit: "times in the median block, in root mean square",
            source: "chi above 2 a block: 12 blocks multiply by 130, 32 by 4e5 (Schoenholz et al. 2017)",
        },
        Threshold {
            name: "gain",
            default: 100.0,
            unit: "times from the first to the last state, in root mean square",
            source: "failure catalogue, B3: between its 10 and its 1000",
        },
    ],
    check: Check::Checkpoint(check),
};

/// Fewer blocks have no trend.
const FEWEST: usize = 3;

fn check(checkpoint: &CheckpointAnalysis, thresholds: &Thresholds, findings: &mut Findings) {
    let Some(jacobian) = jacobian(checkpoint) else { return };
    let Some(depths) = wanted(&jacobian.depths, &Subject::Checkpoint, "gain by depth", findings) else {
        return;
    };
    let Some(last) = depths.last().filter(|_| depths.len() >= FEWEST) else { return };
    let total = last.from_input.mean;
    let Some(each) = median(growth(depths)) else { return };
    let (factor, gain) = (thresholds.get("factor"), thresholds.get("gain"));
    if total > gain && each > factor {
        let message = format!(
            "small changes grow {}-fold in root mean square over {} blocks, {}-fold in the median block (limit {}), on {}",
            short(total),
            depths.len(),
            short(each),
            short(factor),
            probe(&jacobian.setting),
        );
        findings
            .push(
                Subject::Checkpoint,
                message,
                "bring the gain of each block to 1: the critical gain of its activation, norms, or branches scaled by 1/sqrt(depth)",
            )
            .against("growth in the median block", each, factor, "1")
            .against("growth over depth", total, gain, "1");
    }
}

/// By how much a small change grows from before each block to behind it.
fn growth(depths: &[DepthGain]) -> Vec<f64> {
    let before = std::iter::once(1.0).chain(depths.iter().map(|depth| depth.from_input.mean));
    depths.iter().zip(before).map(|(depth, before)| depth.from_input.mean / before).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::test_jacobian::depths;
    use crate::rules::test_support::{judge, judge_with};

    fn geometric(factor: f64, blocks: i32) -> CheckpointAnalysis {
        depths(&(1..=blocks).map(|block| factor.powi(block)).collect::<Vec<_>>())
    }

    #[test]
    fn growth_in_every_block_is_a_warning() {
        assert_eq!(judge(&RULE, &geometric(1.6, 12)).told(), [(Severity::Warning, "checkpoint".to_owned())]);
        assert!(judge(&RULE, &geometric(1.6, 9)).is_clean(), "69-fold");
        assert!(judge(&RULE, &geometric(1.4, 30)).is_clean());
        assert!(judge_with(&RULE, &geometric(1.6, 12), &[("factor", 2.0)]).is_clean());
    }

    #[test]
    fn one_large_block_is_no_growth_with_depth() {
        assert!(judge(&RULE, &depths(&[1e6, 1e6, 1e6, 1e6])).is_clean());
    }

    #[test]
    fn signals_that_vanish_and_shallow_networks_are_not_judged() {
        assert!(judge(&RULE, &geometric(0.5, 20)).is_clean());
        assert!(judge(&RULE, &geometric(100.0, 2)).is_clean());
    }
}
