//! C10: trouble begins where the warm-up of the learning rate ends.

use super::logs::{GIVEN_BACK, first_divergence, first_non_finite, log, norm_spikes};
use super::{Check, Confidence, Findings, Needs, Rule, Severity, Subject, Threshold, Thresholds};
use crate::analysis::model::{Analysis, LogAnalysis};

pub(super) static RULE: Rule = Rule {
    code: "FP310",
    name: "warmup-end-onset",
    summary: "trouble begins where the warm-up of the learning rate ends",
    page: include_str!("../../docs/rules/FP310-warmup-end-onset.md"),
    severity: Severity::Note,
    confidence: Confidence::Heuristic,
    needs: Needs::LOG,
    thresholds: &[
        Threshold {
            name: "distance",
            default: 0.2,
            unit: "of the warm-up",
            source: "risk.md C10: three cases in the chronicles of tr8-104B",
        },
        Threshold { name: "z", default: 6.0, unit: "robust deviations", source: "FP501" },
        Threshold { name: "ratio", default: 2.5, unit: "times the median", source: "FP501" },
        Threshold { name: "rise", default: 1.5, unit: "times the lowest loss", source: "FP503" },
        Threshold { name: "noise", default: 5.0, unit: "deviations of ln loss", source: "FP503" },
    ],
    check: Check::Run(check),
};

fn check(analysis: &Analysis, thresholds: &Thresholds, findings: &mut Findings) {
    let Some(log) = log(analysis) else { return };
    if log.points.iter().all(|point| point.learning_rate.is_none()) {
        findings.not_evaluated(Subject::Run, "the log has no learning rate");
        return;
    }
    let Some(end) = log.warmup_end else { return };
    let Some(onset) = onset(log, thresholds) else { return };
    let distance = (onset as f64 - end as f64).abs() / end as f64;
    let limit = thresholds.get("distance");
    if distance <= limit {
        let message =
            format!("trouble begins at step {onset}, and the learning rate stops rising at step {end}");
        let advice =
            "the peak learning rate is too high, or reached too early: lower it, or lengthen the warm-up";
        findings
            .push(Subject::Steps(end.min(onset), end.max(onset)), message, advice)
            .at_step(onset)
            .short_of("distance", distance, limit, "of the warm-up");
    }
}

/// The earliest sign: something not finite, a spike that stays, a loss that rises, a loss scale that falls.
fn onset(log: &LogAnalysis, thresholds: &Thresholds) -> Option<u64> {
    let spikes = norm_spikes(log, thresholds.get("z"), thresholds.get("ratio"));
    let spike = spikes.iter().find(|spike| spike.confirmed.is_some()).map(|spike| spike.onset);
    let rise = first_divergence(log, thresholds.get("rise"), thresholds.get("noise"), GIVEN_BACK);
    let rise = rise.map(|left| left.point.step);
    let scale =
        log.scale_falls.iter().find(|fall| !fall.initial && fall.halvings >= 3).map(|fall| fall.first_step);
    [first_non_finite(log), spike, rise, scale].into_iter().flatten().min()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::test_support::{judge_run, logged, point};

    fn run(end: u64, diverges: u64) -> Analysis {
        let points = (1..=200).map(|step| {
            let ratio = if step < diverges { 1.0 } else { 3.0 };
            let mut point = point(step).with_loss(2.0 * ratio);
            point.loss_ratio = Some(ratio);
            point.loss_noise = Some(0.01);
            point.learning_rate = Some(crate::analysis::model::Number(1e-3));
            point
        });
        let mut run = logged(points.collect());
        run.log.as_mut().unwrap().warmup_end = Some(end);
        run
    }

    #[test]
    fn trouble_near_the_end_of_the_warmup_is_told() {
        assert_eq!(
            judge_run(&RULE, &run(100, 110), &[]).told(),
            [(Severity::Note, "steps 100 to 110".to_owned())]
        );
        assert!(judge_run(&RULE, &run(100, 130), &[]).is_clean());
        assert!(judge_run(&RULE, &run(100, 300), &[]).is_clean());
    }
}
