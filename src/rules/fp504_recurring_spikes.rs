//! E4: spikes come back at a fixed distance, or with the same data.

use std::collections::BTreeMap;

use super::logs::{Spike, log, norm_spikes, norms_missing};
use super::{Check, Confidence, Findings, Needs, Rule, Severity, Subject, Threshold, Thresholds};
use crate::analysis::model::{Analysis, LogAnalysis};

pub(super) static RULE: Rule = Rule {
    code: "FP504",
    name: "recurring-spikes",
    summary: "gradient spikes come back at a fixed distance or with the same data",
    page: include_str!("../../docs/rules/FP504-recurring-spikes.md"),
    severity: Severity::Note,
    confidence: Confidence::Heuristic,
    needs: Needs::LOG,
    thresholds: &[
        Threshold {
            name: "spikes",
            default: 4.0,
            unit: "spikes",
            source: "design: three equal distances are no chance",
        },
        Threshold {
            name: "spread",
            default: 0.05,
            unit: "of the distance",
            source: "design: an epoch whose last batch is dropped repeats to the step",
        },
        Threshold {
            name: "share",
            default: 0.8,
            unit: "of the spikes",
            source: "design: a bad shard is not the only source of spikes",
        },
        Threshold { name: "z", default: 6.0, unit: "robust deviations", source: "FP501" },
        Threshold { name: "ratio", default: 2.5, unit: "times the median", source: "FP501" },
    ],
    check: Check::Run(check),
};

fn check(analysis: &Analysis, thresholds: &Thresholds, findings: &mut Findings) {
    let Some(log) = log(analysis) else { return };
    if norms_missing(log, findings) {
        return;
    }
    let spikes = norm_spikes(log, thresholds.get("z"), thresholds.get("ratio"));
    if (spikes.len() as f64) < thresholds.get("spikes") {
        return;
    }
    let (first, last) = (spikes[0].onset, spikes[spikes.len() - 1].onset);
    if let Some(distance) = regular(&spikes, log, thresholds.get("spread")) {
        let message = format!(
            "{} gradient spikes lie {distance} steps apart, from step {first} to {last}",
            spikes.len()
        );
        let advice = "compare the distance with an epoch, a shard, an evaluation or a save: what happens there is the cause";
        findings.push(Subject::Steps(first, last), message, advice).at_step(first).evidence(
            "distance",
            distance as f64,
            "steps",
        );
    }
    if log.points.iter().all(|point| point.data.is_none()) {
        findings.not_evaluated(
            Subject::Run,
            "the log does not say what its batches were made of: only distances were looked at",
        );
        return;
    }
    if let Some((data, count, share)) = common_data(&spikes, log, thresholds.get("share")) {
        let message = format!(
            "{count} of {} gradient spikes come with the data {data:?}, {:.0} % of the steps",
            spikes.len(),
            100.0 * share
        );
        let advice = "look for repeated n-grams or broken records in it; replay it from a healthy checkpoint before blaming it";
        findings
            .push(Subject::Steps(first, last), message, advice)
            .at_step(first)
            .evidence("spikes with it", count as f64, "")
            .evidence("share of the steps", share, "");
    }
}

/// The distance between neighbouring spikes, where it is the same for all.
fn regular(spikes: &[Spike], log: &LogAnalysis, spread: f64) -> Option<u64> {
    let mut distances: Vec<u64> = spikes.windows(2).map(|pair| pair[1].onset - pair[0].onset).collect();
    distances.sort_unstable();
    let middle = distances[distances.len() / 2];
    let tolerance = (spread * middle as f64).max(log.semantics.stride.unwrap_or(1) as f64);
    let equal = |distance: &u64| (*distance as f64 - middle as f64).abs() <= tolerance;
    // Distances of a few strides are all equal by counting.
    (middle as f64 > 4.0 * tolerance && distances.iter().all(equal)).then_some(middle)
}

/// What most spikes have in common and few other steps have: data, spikes with it, share of all steps with it.
fn common_data(spikes: &[Spike], log: &LogAnalysis, least: f64) -> Option<(String, usize, f64)> {
    let mut counts: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for point in &log.points {
        let Some(data) = &point.data else { continue };
        let (with_spike, all) = counts.entry(data).or_default();
        *with_spike += usize::from(spikes.iter().any(|spike| spike.onset == point.step));
        *all += 1;
    }
    let steps: usize = counts.values().map(|(_, all)| all).sum();
    let (data, (count, all)) = counts.into_iter().max_by_key(|(_, (with_spike, _))| *with_spike)?;
    let share = all as f64 / steps as f64;
    let of_spikes = count as f64 / spikes.len() as f64;
    (of_spikes >= least && share < of_spikes / 2.0).then(|| (data.to_owned(), count, share))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::test_support::{judge_run, logged, point};

    fn run(spikes: &[u64], data: impl Fn(u64) -> Option<String>) -> Analysis {
        let points = (1..=400).map(|step| {
            let mut point = point(step).with_norm(1.0);
            let out = spikes.contains(&step);
            (point.grad_norm_z, point.grad_norm_ratio) =
                if out { (Some(9.0), Some(9.0)) } else { (Some(0.0), Some(1.0)) };
            point.data = data(step);
            point
        });
        logged(points.collect())
    }

    #[test]
    fn equal_distances_are_told_and_others_are_not() {
        let regular = judge_run(&RULE, &run(&[50, 150, 250, 350], |_| None), &[]);
        assert_eq!(regular.told(), [(Severity::Note, "steps 50 to 350".to_owned())]);
        assert!(judge_run(&RULE, &run(&[50, 90, 250, 350], |_| None), &[]).told().is_empty());
        assert!(judge_run(&RULE, &run(&[50, 150, 250], |_| None), &[]).told().is_empty());
    }

    #[test]
    fn data_that_spikes_have_in_common_are_told() {
        let shard = |step: u64| {
            Some(format!("shard-{}", if [50, 90, 250, 350].contains(&step) { 7 } else { step % 5 }))
        };
        let told = judge_run(&RULE, &run(&[50, 90, 250, 350], shard), &[]);
        assert_eq!(told.told().len(), 1);
        let every = |_| Some("all".to_owned());
        assert!(judge_run(&RULE, &run(&[50, 90, 250, 350], every), &[]).is_clean());
    }
}
