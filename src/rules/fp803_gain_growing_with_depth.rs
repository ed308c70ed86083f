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
    if depths.len() < FEWEST {
        return;
    }
    let Some(gains) = gains(depths, findings) else { return };
    let (Some(&total), Some(each)) = (gains.last(), median(growth(&gains))) else { return };
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

/// The gain behind each block; where one has none, that is noted.
fn gains(depths: &[DepthGain], findings: &mut Findings) -> Option<Vec<f64>> {
    let gain = |depth: &DepthGain| {
        let name = format!("gain from the start behind {}", depth.name);
        wanted(&depth.from_input, &Subject::Checkpoint, &name, findings).map(|gain| gain.mean)
    };
    depths.iter().map(gain).collect()
}

/// By how much a small change grows from before each block to behind it; behind one that forgets everything there is no growth.
fn growth(gains: &[f64]) -> Vec<f64> {
    let before = std::iter::once(1.0).chain(gains.iter().copied());
    gains.iter().zip(before).map(|(gain, before)| if before > 0.0 { gain / before } else { 0.0 }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::model::{Degenerate, Measured};
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
    fn a_gain_that_is_not_finite_is_not_evaluated_rather_than_silent() {
        let mut checkpoint = geometric(1.6, 12);
        let Measured::Value(jacobian) = &mut checkpoint.jacobian else { unreachable!("it was just made") };
        let Measured::Value(depths) = &mut jacobian.depths else { unreachable!("it was just made") };
        depths[7].from_input = Measured::Degenerate(Degenerate::Overflow);
        let judged = judge(&RULE, &checkpoint);
        assert!(judged.told().is_empty() && !judged.is_clean());
        let (_, reason) = &judged.not_evaluated[0];
        assert_eq!(reason, "it has no gain from the start behind h.7: a product is not finite");
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
