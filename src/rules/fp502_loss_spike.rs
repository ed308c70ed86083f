//! E2: the loss stands far out from the losses before it.

use super::logs::{Placed, Spike, log, rest, spikes};
use super::{Check, Confidence, Findings, Needs, Rule, Severity, Subject, Threshold, Thresholds};
use crate::analysis::model::{Analysis, LogAnalysis, Number};
use crate::number::short;

pub(super) static RULE: Rule = Rule {
    code: "FP502",
    name: "loss-spike",
    summary: "the loss jumps far above the losses before it",
    page: include_str!("../../docs/rules/FP502-loss-spike.md"),
    severity: Severity::Warning,
    confidence: Confidence::Heuristic,
    needs: Needs::LOG,
    thresholds: &[
        Threshold {
            name: "z",
            default: 6.0,
            unit: "standard deviations",
            source: "OLMo-core skips steps from 6 over the last 128",
        },
        Threshold {
            name: "rise",
            default: 1.2,
            unit: "times the lowest loss",
            source: "design: a smooth loss has a small deviation, and a small step is no spike",
        },
    ],
    check: Check::Run(check),
};

/// Spikes that are told one by one.
const MOST: usize = 10;

fn check(analysis: &Analysis, thresholds: &Thresholds, findings: &mut Findings) {
    let Some(log) = log(analysis) else { return };
    if log.points.iter().all(|point| point.loss_z.is_none()) {
        findings.not_evaluated(Subject::Run, "the log has too few losses for a window before any of them");
        return;
    }
    let mut found = loss_spikes(log, thresholds.get("z"), thresholds.get("rise"));
    found.sort_by(|a, b| b.z.total_cmp(&a.z));
    found.truncate(MOST);
    found.sort_by_key(|spike| spike.onset);
    for spike in &found {
        let rest = rest(log, spike, |point| point.loss_z);
        let stays = spike.confirmed.is_some() || spike.recovered.is_none();
        let (peak, loss) = spike.peak;
        let after = spike
            .recovered
            .map_or("it does not come back".to_owned(), |step| format!("it is back at step {step}"));
        let message = format!(
            "the loss jumps at step {} and peaks with {} at step {peak}, {} deviations above its window: {after}",
            spike.onset,
            short(loss),
            short(spike.z),
        );
        let advice = "look whether the gradient norm jumped before it (FP501); if the loss does not come back, go back to a checkpoint before it and skip its batches";
        findings
            .push(Subject::Steps(spike.onset, spike.last), message, advice)
            .severity(if stays { Severity::Warning } else { Severity::Note })
            .at_step(spike.onset)
            .against("largest z", spike.z, thresholds.get("z"), "standard deviations")
            .evidence("largest z elsewhere", rest, "standard deviations");
    }
}

fn loss_spikes(log: &LogAnalysis, z: f64, rise: f64) -> Vec<Spike> {
    let mut lowest = f64::INFINITY;
    let placed = log.points.iter().filter_map(|point| {
        let loss = point.loss.and_then(Number::finite)?;
        let above = loss > rise * lowest || loss < 0.0;
        lowest = lowest.min(loss);
        let stands_out = above && point.loss_z.is_some_and(|found| found > z);
        Some(Placed { step: point.step, value: loss, z: point.loss_z.unwrap_or(0.0), stands_out })
    });
    spikes(placed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::test_support::{judge_run, logged, point};

    fn run(rows: &[(f64, f64)]) -> Analysis {
        let points = rows.iter().enumerate().map(|(index, (loss, z))| {
            let mut point = point(index as u64).with_loss(*loss);
            point.loss_z = Some(*z);
            point
        });
        logged(points.collect())
    }

    #[test]
    fn a_jump_that_is_large_in_both_ways_is_told() {
        let told = |rows: &[(f64, f64)]| judge_run(&RULE, &run(rows), &[]).told();
        assert_eq!(told(&[(2.0, 0.0), (2.6, 7.0)]), [(Severity::Warning, "steps 1 to 1".to_owned())]);
        assert_eq!(told(&[(2.0, 0.0), (2.6, 7.0), (2.0, 0.0)])[0].0, Severity::Note);
        assert_eq!(
            told(&[(2.0, 0.0), (2.6, 7.0), (2.7, 7.0), (2.7, 7.0), (2.0, 0.0)])[0].0,
            Severity::Warning
        );
        assert!(told(&[(2.0, 0.0), (2.1, 7.0)]).is_empty());
        assert!(told(&[(2.0, 0.0), (2.6, 5.0)]).is_empty());
    }
}
