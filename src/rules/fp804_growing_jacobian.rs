//! A network whose end-to-end gain grows from checkpoint to checkpoint.

use super::{Check, Confidence, Findings, Needs, Rule, Severity, Subject, Threshold, Thresholds};
use crate::analysis::model::{Analysis, CheckpointAnalysis, JacobianAnalysis, JacobianSetting, Spread};
use crate::number::short;

pub(super) static RULE: Rule = Rule {
    code: "FP804",
    name: "growing-jacobian",
    summary: "the end-to-end gain grows from checkpoint to checkpoint beyond what draws differ by",
    page: include_str!("../../docs/rules/FP804-growing-jacobian.md"),
    severity: Severity::Warning,
    confidence: Confidence::Heuristic,
    needs: Needs::JACOBIAN,
    thresholds: &[Threshold {
        name: "growth",
        default: 10.0,
        unit: "times the least sigma_1 before it",
        source: "165 in a transformer trained too hot (docs/jacobian.md); see the page for healthy runs",
    }],
    check: Check::Run(check),
};

/// A checkpoint of the run with its end-to-end gain.
struct Point<'a> {
    name: &'a str,
    step: u64,
    setting: &'a JacobianSetting,
    norm: &'a Spread,
}

fn check(analysis: &Analysis, thresholds: &Thresholds, findings: &mut Findings) {
    let points: Vec<Point<'_>> = analysis.checkpoints.iter().filter_map(point).collect();
    let limit = thresholds.get("growth");
    let mut least: Option<&Point<'_>> = None;
    let mut is_compared = false;
    for own in &points {
        let Some(before) = least else {
            least = Some(own);
            continue;
        };
        if !is_same(before.setting, own.setting) {
            continue;
        }
        is_compared = true;
        // What the draws of either differ by is no growth.
        let growth = own.norm.least / before.norm.most;
        if growth > limit {
            let message = format!(
                "end to end sigma_1 grows from {} at step {} to {} at step {} (limit {}-fold)",
                short(before.norm.mean),
                before.step,
                short(own.norm.mean),
                own.step,
                short(limit),
            );
            findings
                .push(
                    Subject::Steps(before.step, own.step),
                    message,
                    "go back to the checkpoint before it, and lower the learning rate or clip; flashpoint jacobian says which block grew",
                )
                .against("growth of sigma_1", growth, limit, "1")
                .evidence("sigma_1 before", before.norm.mean, "1")
                .evidence("sigma_1", own.norm.mean, "1")
                .at_step(own.step);
            return;
        }
        if own.norm.mean < before.norm.mean {
            least = Some(own);
        }
    }
    if !is_compared {
        let names: Vec<&str> = points.iter().map(|point| point.name).collect();
        let reason =
            format!("no two of the checkpoints with Jacobians ({}) have the same setting", names.join(", "));
        findings.not_evaluated(Subject::Run, reason);
    }
}

fn point(checkpoint: &CheckpointAnalysis) -> Option<Point<'_>> {
    let own: &JacobianAnalysis = checkpoint.jacobian.value()?;
    let norm = own.end_to_end.value()?.spectral_norm.value()?;
    Some(Point { name: &checkpoint.name, step: *checkpoint.step.value()?, setting: &own.setting, norm })
}

/// Whether values of both may be compared: the same inputs of the same length in the same precision.
fn is_same(one: &JacobianSetting, other: &JacobianSetting) -> bool {
    one == other
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::model::Measured;
    use crate::rules::test_jacobian::network_of_gain;
    use crate::rules::test_support::{judge_run, logged};

    fn run(gains: &[f64]) -> Analysis {
        let mut run = logged(Vec::new());
        run.checkpoints = (0..)
            .zip(gains)
            .map(|(index, gain)| {
                let mut saved = network_of_gain(*gain, 10.0).at_step(100 * index);
                saved.name = format!("step-{}", 100 * index);
                saved
            })
            .collect();
        run
    }

    #[test]
    fn growth_beyond_tenfold_of_the_least_is_a_warning_at_its_step() {
        let found = judge_run(&RULE, &run(&[10.0, 8.0, 30.0, 90.0, 1600.0]), &[]);
        assert_eq!(found.told(), [(Severity::Warning, "steps 100 to 300".to_owned())]);
        assert!(judge_run(&RULE, &run(&[10.0, 8.0, 30.0, 70.0]), &[]).is_clean());
        assert!(judge_run(&RULE, &run(&[10.0, 8.0, 90.0]), &[("growth", 20.0)]).is_clean());
    }

    #[test]
    fn a_gain_that_falls_is_none_that_grows() {
        assert!(judge_run(&RULE, &run(&[1000.0, 100.0, 10.0]), &[]).is_clean());
    }

    #[test]
    fn draws_that_differ_as_much_are_no_growth() {
        let mut wide = run(&[10.0, 150.0]);
        let Measured::Value(own) = &mut wide.checkpoints[1].jacobian else { panic!("it has one") };
        let Measured::Value(whole) = &mut own.end_to_end else { panic!("it has one") };
        let Measured::Value(norm) = &mut whole.spectral_norm else { panic!("it has one") };
        norm.least = 20.0;
        assert!(judge_run(&RULE, &wide, &[]).is_clean());
    }

    #[test]
    fn other_lengths_are_never_compared() {
        let mut other = run(&[10.0, 1000.0]);
        let Measured::Value(own) = &mut other.checkpoints[1].jacobian else { panic!("it has one") };
        own.setting.tokens = Measured::Value(64);
        let found = judge_run(&RULE, &other, &[]);
        assert!(found.told().is_empty() && !found.is_clean());
    }
}
