//! E2: the loss stands far out from the losses before it.

use std::collections::BTreeMap;

use super::logs::{Placed, Spike, log, rest, spikes};
use super::{Check, Confidence, Findings, Needs, Rule, Severity, Subject, Threshold, Thresholds};
use crate::analysis::model::{Analysis, LogAnalysis, Number};
use crate::number::short;
use crate::robust::{FEWEST, Sorted, WINDOW};

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
        Threshold {
            name: "log-z",
            default: 6.0,
            unit: "deviations of ln loss",
            source: "design: as z, where losses spread over orders of magnitude and only their logarithms have a tail that ends",
        },
        Threshold {
            name: "recurring",
            default: 0.005,
            unit: "jumps a loss that come back at once",
            source: "design: three and more, and one in 200 losses, are told together; rarer ones are events, each with its step",
        },
    ],
    check: Check::Run(check),
};

/// Spikes that are told one by one.
const MOST: usize = 10;

/// Two jumps may be two bad batches.
const FEWEST_TOGETHER: usize = 3;

fn check(analysis: &Analysis, thresholds: &Thresholds, findings: &mut Findings) {
    let Some(log) = log(analysis) else { return };
    if log.points.iter().all(|point| point.loss_z.is_none()) {
        findings.not_evaluated(Subject::Run, "the log has too few losses for a window before any of them");
        return;
    }
    let found = loss_spikes(log, thresholds.get("z"), thresholds.get("rise"));
    let log_z = log_deviations(log);
    // A run of jumps is one whatever the tail is. One loss alone is one only where the losses of this run do not spread as far by
    // themselves: those of single examples do over orders of magnitude, and of squared errors the largest is many deviations out.
    let stands_out = |spike: &Spike| {
        spike.confirmed.is_some() || log_z(spike.peak).is_none_or(|found| found > thresholds.get("log-z"))
    };
    let (mut lasting, alone): (Vec<Spike>, Vec<Spike>) =
        found.into_iter().filter(stands_out).partition(stays);
    let losses = log.points.iter().filter(|point| point.loss.is_some()).count();
    let often = thresholds.get("recurring") * losses as f64;
    if alone.len() >= FEWEST_TOGETHER && alone.len() as f64 >= often {
        tell_tail(&alone, thresholds.get("z"), findings);
    } else {
        lasting.extend(alone);
    }
    lasting.sort_by(|a, b| b.z.total_cmp(&a.z));
    lasting.truncate(MOST);
    lasting.sort_by_key(|spike| spike.onset);
    for spike in &lasting {
        tell(log, spike, thresholds.get("z"), findings);
    }
}

/// Whether three of five losses stand out, or the log ends before it is back.
fn stays(spike: &Spike) -> bool {
    spike.confirmed.is_some() || spike.recovered.is_none()
}

fn tell(log: &LogAnalysis, spike: &Spike, z: f64, findings: &mut Findings) {
    let rest = rest(log, spike, |point| point.loss_z);
    let (peak, loss) = spike.peak;
    let after = match spike.recovered {
        Some(step) => format!("it is back at step {step}"),
        None if log.points.last().is_some_and(|last| last.step <= spike.last) => {
            "the log ends with it".to_owned()
        }
        None => "it does not come back".to_owned(),
    };
    let message = format!(
        "the loss jumps at step {} and peaks with {} at step {peak}, {} deviations above its window: {after}",
        spike.onset,
        short(loss),
        short(spike.z),
    );
    let advice = "look whether the gradient norm jumped before it (FP501); if the loss does not come back, go back to a checkpoint before it and skip its batches";
    findings
        .push(Subject::Steps(spike.onset, spike.last), message, advice)
        .severity(if stays(spike) { Severity::Warning } else { Severity::Note })
        .at_step(spike.onset)
        .against("largest z", spike.z, z, "standard deviations")
        .evidence("largest z elsewhere", rest, "standard deviations");
}

/// Jumps that come again and again, each gone at once, in one note.
fn tell_tail(alone: &[Spike], z: f64, findings: &mut Findings) {
    let (Some(first), Some(last)) = (alone.first(), alone.last()) else { return };
    let Some(largest) = alone.iter().max_by(|a, b| a.z.total_cmp(&b.z)) else { return };
    let message = format!(
        "the loss jumps {} times between steps {} and {} and is back at once each time, the largest with {} at step {}: now and then a batch is far harder than the others",
        alone.len(),
        first.onset,
        last.last,
        short(largest.peak.1),
        largest.peak.0,
    );
    let advice = "look at the batch of the largest one; where all are like that the batches are small, or the targets have outliers: a larger batch, or a loss that does not square them, evens that out";
    findings
        .push(Subject::Steps(first.onset, last.last), message, advice)
        .severity(Severity::Note)
        .at_step(first.onset)
        .against("largest z", largest.z, z, "standard deviations")
        .evidence("jumps", alone.len() as f64, "");
}

/// By how many deviations of ln(loss) a loss, given with its step, is above the median of the window before it.
fn log_deviations(log: &LogAnalysis) -> impl Fn((u64, f64)) -> Option<f64> {
    let mut window = Sorted::new(WINDOW);
    let mut usual: BTreeMap<u64, (f64, f64)> = BTreeMap::new();
    for point in &log.points {
        let Some(loss) = point.loss.and_then(Number::finite).filter(|loss| *loss > 0.0) else { continue };
        if let Some(noise) = point.loss_noise.filter(|noise| *noise > 0.0 && window.len() >= FEWEST) {
            usual.insert(point.step, (window.median(), noise));
        }
        window.push(loss.ln());
    }
    move |(step, loss)| {
        let (median, noise) = usual.get(&step)?;
        (loss > 0.0).then(|| (loss.ln() - median) / noise)
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

    #[test]
    fn one_loss_alone_is_no_spike_where_losses_spread_as_far_by_themselves() {
        let told = |noise: f64, confirmed: bool| {
            let mut rows = vec![(1.0, 0.0); 40];
            rows.extend([(20.0, 9.0), (if confirmed { 20.0 } else { 1.0 }, 9.0), (1.5, 7.0), (1.0, 0.0)]);
            let mut run = run(&rows);
            for point in &mut run.log.as_mut().unwrap().points {
                point.loss_noise = Some(noise);
            }
            judge_run(&RULE, &run, &[]).told().len()
        };
        // ln 20 is 3.0: six deviations of 0.5, and ten of 0.3.
        assert_eq!((told(0.51, false), told(0.3, false)), (0, 1));
        assert_eq!(told(0.51, true), 1, "three of five are no tail");
    }

    #[test]
    fn jumps_that_come_again_and_again_are_told_as_one() {
        let told = |jumps: usize| {
            let rows: Vec<(f64, f64)> = (0..100)
                .map(|at| if at % 20 == 10 && at / 20 < jumps { (9.0, 7.0 + at as f64) } else { (2.0, 0.0) })
                .collect();
            judge_run(&RULE, &run(&rows), &[])
        };
        assert_eq!(told(2).told().len(), 2);
        let many = told(4);
        assert_eq!(many.told(), [(Severity::Note, "steps 10 to 70".to_owned())]);
        assert!(many.found[0].message.contains("jumps 4 times"), "{}", many.found[0].message);
    }
}
