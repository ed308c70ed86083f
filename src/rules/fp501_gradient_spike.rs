//! E1: the gradient norm stands far out from the norms before it.

use super::logs::{Spike, is_of_a_tail, log, norm_spikes, norms_missing, rest, swings};
use super::{Check, Confidence, Findings, Needs, Rule, Severity, Subject, Threshold, Thresholds};
use crate::analysis::model::{Analysis, LogAnalysis, Number};
use crate::number::short;

pub(super) static RULE: Rule = Rule {
    code: "FP501",
    name: "gradient-spike",
    summary: "the gradient norm jumps far above the norms before it",
    page: include_str!("../../docs/rules/FP501-gradient-spike.md"),
    severity: Severity::Warning,
    confidence: Confidence::Calibrated,
    needs: Needs::LOG,
    thresholds: &[
        Threshold {
            name: "z",
            default: 6.0,
            unit: "robust deviations",
            source: "risk.md §6: no false alarm in 10,000 steps of log-normal norms; BLOOM-176B is flagged 4 steps early",
        },
        Threshold {
            name: "ratio",
            default: 2.5,
            unit: "times the median",
            source: "risk.md §6: a norm that hardly moves makes a large z of a small step",
        },
        Threshold {
            name: "standing-out",
            default: 2.0,
            unit: "times the largest ln ratio elsewhere",
            source: "design: in a heavy tail single norms stand out all the time",
        },
        Threshold {
            name: "towering",
            default: 10.0,
            unit: "times the median",
            source: "design: full-batch training at the edge of stability rises some times and comes back",
        },
    ],
    check: Check::Run(check),
};

/// Spikes that are told one by one.
const MOST: usize = 10;

fn check(analysis: &Analysis, thresholds: &Thresholds, findings: &mut Findings) {
    let Some(log) = log(analysis) else { return };
    if norms_missing(log, findings) {
        return;
    }
    let mut spikes = norm_spikes(log, thresholds.get("z"), thresholds.get("ratio"));
    let count = spikes.len();
    // The ones that stay first, then by size; told in the order of time.
    spikes.sort_by(|a, b| {
        (b.confirmed.is_some(), b.z)
            .partial_cmp(&(a.confirmed.is_some(), a.z))
            .unwrap_or(std::cmp::Ordering::Equal)
    });
    spikes.truncate(MOST);
    spikes.sort_by_key(|spike| spike.onset);
    for spike in &spikes {
        tell(log, spike, count, thresholds, findings);
    }
}

fn tell(log: &LogAnalysis, spike: &Spike, count: usize, thresholds: &Thresholds, findings: &mut Findings) {
    let (peak, norm) = spike.peak;
    let ratio =
        log.points.iter().find(|point| point.step == spike.onset).and_then(|point| point.grad_norm_ratio);
    let after = match (spike.confirmed, spike.recovered) {
        (Some(confirmed), Some(recovered)) => {
            format!("three of five steps stand out by step {confirmed}; it is back at step {recovered}")
        }
        (Some(confirmed), None) => {
            format!("three of five steps stand out by step {confirmed}, and it does not come back")
        }
        (None, _) => format!("{} of the steps around it", spike.points),
    };
    let message = format!(
        "the gradient norm leaves its window at step {} ({} times the median) and peaks with {} at step {peak}: {after}",
        spike.onset,
        short(ratio.unwrap_or(f64::NAN)),
        short(norm),
    );
    let advice = "clip below the peak (flashpoint clip), look at the batches of these steps, and if the loss followed go back to a checkpoint well before them";
    let rest = rest(log, spike, |point| point.grad_norm_ratio.map(f64::ln));
    let height = height(log, spike);
    let alone = height.ln() > thresholds.get("standing-out") * rest;
    let severity = match spike.confirmed {
        Some(_) if swings(log, spike) => Severity::Note,
        Some(_) if hurt(log, spike) => Severity::Critical,
        Some(_) if height > thresholds.get("towering") => Severity::Warning,
        None if alone && !is_of_a_tail(log, [spike.onset, spike.last]) => Severity::Warning,
        _ => Severity::Note,
    };
    findings
        .push(Subject::Steps(spike.onset, spike.last), message, advice)
        .severity(severity)
        .at_step(spike.onset)
        .against("largest z", spike.z, thresholds.get("z"), "robust deviations")
        .evidence("peak norm", norm, "")
        .evidence("largest ratio", height, "times the median")
        .evidence("largest ratio elsewhere", rest.exp(), "times the median")
        .evidence("spikes in the log", count as f64, "");
}

/// The largest ratio of the spike.
fn height(log: &LogAnalysis, spike: &Spike) -> f64 {
    let within = log.points.iter().filter(|point| (spike.onset..=spike.last).contains(&point.step));
    within.filter_map(|point| point.grad_norm_ratio).fold(1.0, f64::max)
}

/// Whether the loss was thrown too, or is not logged so that it may have been.
fn hurt(log: &LogAnalysis, spike: &Spike) -> bool {
    let from = log.points.partition_point(|point| point.step < spike.onset);
    let to = log.points.partition_point(|point| point.step <= spike.last);
    let near = &log.points[from..(to + 10).min(log.points.len())];
    let unlogged = near.iter().all(|point| point.loss.is_none());
    let thrown = near.iter().any(|point| {
        point.loss.is_some_and(|Number(loss)| !loss.is_finite())
            || point.loss_ratio.is_some_and(|ratio| ratio > 1.5)
            || point.loss_z.is_some_and(|z| z > 6.0)
    });
    unlogged || thrown
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::model::LogPoint;
    use crate::rules::test_support::{judge_run, logged, point};

    /// 60 norms around 1, those of `spikes` with z and ratio of their own, without a loss.
    fn run(spikes: &[(u64, f64)]) -> Analysis {
        let points = (1..=60).map(|step| {
            let z = spikes.iter().find(|(at, _)| *at == step).map_or(0.5, |(_, z)| *z);
            let mut point = point(step).with_norm(1.0 + z);
            point.grad_norm_z = Some(z);
            point.grad_norm_ratio = Some(1.0 + z);
            point
        });
        logged(points.collect())
    }

    #[test]
    fn a_spike_that_stays_is_critical_and_one_step_that_stands_alone_a_warning() {
        let told = |spikes: &[(u64, f64)]| judge_run(&RULE, &run(spikes), &[]).told();
        assert!(judge_run(&RULE, &run(&[(40, 5.9)]), &[]).is_clean());
        assert_eq!(told(&[(40, 9.0)]), [(Severity::Warning, "steps 40 to 40".to_owned())]);
        assert_eq!(
            told(&[(40, 9.0), (41, 7.0), (43, 30.0)]),
            [(Severity::Critical, "steps 40 to 43".to_owned())]
        );
        assert_eq!(
            told(&[(20, 7.0), (30, 8.0), (40, 9.0)])
                .iter()
                .map(|(severity, _)| *severity)
                .collect::<Vec<_>>(),
            [Severity::Note; 3]
        );
    }

    #[test]
    fn a_spike_that_the_loss_did_not_feel_is_a_warning() {
        let mut felt = run(&[(40, 9.0), (41, 7.0), (43, 30.0)]);
        for point in &mut felt.log.as_mut().unwrap().points {
            point.loss = Some(Number(2.0));
        }
        assert_eq!(judge_run(&RULE, &felt, &[]).told()[0].0, Severity::Warning);
        felt.log.as_mut().unwrap().points[44].loss_ratio = Some(2.0);
        assert_eq!(judge_run(&RULE, &felt, &[]).told()[0].0, Severity::Critical);
    }

    #[test]
    fn norms_after_clipping_are_not_judged() {
        let mut clipped = run(&[(40, 9.0)]);
        clipped.log.as_mut().unwrap().semantics.before_clipping = Some(false);
        let findings = judge_run(&RULE, &clipped, &[]);
        assert!(findings.told().is_empty() && !findings.is_clean());
    }

    /// 200 norms of 1 and losses near 1, but for what `edit` makes of them.
    fn edited(mut edit: impl FnMut(u64, &mut LogPoint)) -> Vec<(Severity, String)> {
        let points = (1..=200).map(|step| {
            let mut point =
                point(step).with_norm(1.0).with_loss(1.0 + 0.05 * f64::from(u8::from(step % 2 == 0)));
            (point.grad_norm_z, point.grad_norm_ratio) = (Some(0.0), Some(1.0));
            edit(step, &mut point);
            point
        });
        judge_run(&RULE, &logged(points.collect()), &[]).told()
    }

    #[test]
    fn a_batch_that_is_as_hard_as_others_are_now_and_then_is_a_note() {
        let told = |hard: &[u64]| {
            let told = edited(|step, point| {
                if step == 150 {
                    (point.grad_norm, point.grad_norm_z) = (Some(Number(80.0)), Some(15.0));
                    point.grad_norm_ratio = Some(80.0);
                }
                if hard.contains(&step) {
                    point.loss = Some(Number(20.0));
                }
            });
            told.iter().map(|(severity, _)| *severity).collect::<Vec<_>>()
        };
        assert_eq!(told(&[60, 90, 120, 150]), [Severity::Note]);
        assert_eq!(told(&[60, 90, 150]), [Severity::Warning], "two others are no tail");
        assert_eq!(told(&[60, 90, 120]), [Severity::Warning], "its own batch was like any other");
        assert_eq!(told(&[152, 154, 156, 150]), [Severity::Warning], "what it left behind is no tail");
    }

    #[test]
    fn norms_that_swing_out_and_leave_a_lower_loss_are_a_note() {
        // Twelve steps up by `by`, and as many down.
        let told = |by: f64, end: f64| {
            let told = edited(|step, point| {
                let away = (150.0 - step as f64).abs();
                if away < 12.0 {
                    let norm = by.powf(12.0 - away);
                    (point.grad_norm, point.grad_norm_ratio) = (Some(Number(norm)), Some(norm));
                    (point.grad_norm_z, point.loss_ratio) = (Some(norm.ln() / 0.075), Some(2.0));
                }
                if step > 150 {
                    point.loss = Some(Number(end));
                }
            });
            told.iter().map(|(severity, _)| *severity).collect::<Vec<_>>()
        };
        assert_eq!(told(1.3, 0.5), [Severity::Note]);
        assert_eq!(told(1.3, 1.5), [Severity::Critical], "the loss stays up");
        assert_eq!(told(3.0, 0.5), [Severity::Critical], "it came at once");
    }
}
