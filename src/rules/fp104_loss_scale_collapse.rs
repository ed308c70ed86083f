//! A4: the loss scale of mixed precision falls and falls.

use super::logs::log;
use super::{Check, Confidence, Finding, Findings, Needs, Rule, Severity, Subject, Threshold, Thresholds};
use crate::analysis::model::{Analysis, LogAnalysis, Number, ScaleFall};
use crate::number::short;

pub(super) static RULE: Rule = Rule {
    code: "FP104",
    name: "loss-scale-collapse",
    summary: "the loss scale is halved again and again",
    page: include_str!("../../docs/rules/FP104-loss-scale-collapse.md"),
    severity: Severity::Warning,
    confidence: Confidence::Calibrated,
    needs: Needs::LOG,
    thresholds: &[
        Threshold {
            name: "halvings",
            default: 3.0,
            unit: "in 100 steps",
            source: "risk.md A4; the search for the largest scale halves once in about 1000",
        },
        Threshold {
            name: "net-halvings",
            default: 6.0,
            unit: "in 1000 steps",
            source: "tr8b-104B: 7 between iterations 13251 and 14000, before it diverged",
        },
        Threshold {
            name: "smallest-scale",
            default: 1.0,
            unit: "loss scale",
            source: "the smallest of Megatron and DeepSpeed; OPT-175B hit it before it crashed",
        },
    ],
    check: Check::Run(check),
};

/// Steps among which halvings are counted, as the thresholds say.
const BURST: u64 = 100;
const LONG: u64 = 1000;

fn check(analysis: &Analysis, thresholds: &Thresholds, findings: &mut Findings) {
    let Some(log) = log(analysis) else { return };
    if log.points.iter().all(|point| point.loss_scale.is_none()) {
        findings
            .not_evaluated(Subject::Run, "the log has no loss scale: fp16 is not used, or it is not logged");
        return;
    }
    let (often, net, smallest) =
        (thresholds.get("halvings"), thresholds.get("net-halvings"), thresholds.get("smallest-scale"));
    for fall in log.scale_falls.iter().filter(|fall| !fall.initial) {
        let at_the_end = fall.to <= smallest;
        let halvings = fall.halvings as f64;
        let span = (fall.last_step - fall.since).max(1) as f64;
        let so_often = |limit: f64, within: u64| {
            halvings >= limit && halvings / span.max(within as f64) >= limit / within as f64
        };
        let in_bursts = so_often(often, BURST).then_some((BURST, often, "in 100 steps"));
        let in_all = || so_often(net, LONG).then_some((LONG, net, "in 1000 steps"));
        let rate = in_bursts.or_else(in_all);
        if rate.is_none() && !at_the_end {
            continue;
        }
        let finding = tell(fall, span, findings);
        if let Some((within, limit, unit)) = rate {
            finding.against("halvings", most_within(log, fall, within), limit, unit);
        }
        if at_the_end {
            finding.severity(Severity::Critical).short_of("loss scale", fall.to, smallest, "");
        }
    }
}

/// The most halvings of a fall among so many steps, and as many at least as there are on average. Between two logged steps further apart
/// they are taken to be spread evenly.
fn most_within(log: &LogAnalysis, fall: &ScaleFall, within: u64) -> f64 {
    let within_fall = log.points.iter().filter(|point| (fall.since..=fall.last_step).contains(&point.step));
    let scales: Vec<(u64, f64)> = within_fall
        .filter_map(|point| Some((point.step, point.loss_scale.and_then(Number::finite)?)))
        // A scale of 0 was halved to the smallest number that is none.
        .filter(|(_, scale)| *scale > 0.0)
        .map(|(step, scale)| (step, scale.log2()))
        .collect();
    let between = |first: (u64, f64), last: (u64, f64)| {
        let steps = (last.0 - first.0).max(within) as f64;
        (first.1 - last.1) * within as f64 / steps
    };
    let from = |at: usize| {
        let end = scales.partition_point(|(step, _)| *step <= scales[at].0 + within);
        // The next one, where nothing was logged in between.
        let end = end.max(at + 2).min(scales.len());
        between(scales[at], scales[end - 1])
    };
    let span = (fall.last_step - fall.since).max(within) as f64;
    let average = fall.halvings as f64 * within as f64 / span;
    (0..scales.len()).map(from).fold(average, f64::max).round()
}

fn tell<'a>(fall: &ScaleFall, span: f64, findings: &'a mut Findings) -> &'a mut Finding {
    let message = format!(
        "the loss scale falls from {} to {} between steps {} and {}: {} halvings in {span} steps",
        short(fall.from),
        short(fall.to),
        fall.since,
        fall.last_step,
        fall.halvings,
    );
    let advice = "gradients overflow fp16 more and more: go back to before the first halving, lower the learning rate, or train in bf16";
    findings.push(Subject::Steps(fall.first_step, fall.last_step), message, advice).at_step(fall.first_step)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::test_support::{judge_run, logged, point};

    fn run(falls: Vec<ScaleFall>) -> Analysis {
        let mut run = logged(vec![point(1).with_scale(1024.0)]);
        run.log.as_mut().unwrap().scale_falls = falls;
        run
    }

    fn fall(since: u64, first_step: u64, last_step: u64, halvings: u64, to: f64) -> ScaleFall {
        let from = to * 2_f64.powi(halvings as i32);
        ScaleFall { since, first_step, last_step, halvings, from, to, initial: false }
    }

    #[test]
    fn bursts_and_long_falls_and_the_smallest_scale_are_told() {
        let told = |one: ScaleFall| judge_run(&RULE, &run(vec![one]), &[]).told();
        assert_eq!(told(fall(17_062, 17_063, 17_068, 5, 32_768.0))[0].0, Severity::Warning);
        assert_eq!(told(fall(13_251, 14_000, 14_000, 7, 4096.0))[0].0, Severity::Warning);
        assert_eq!(told(fall(5000, 5001, 5001, 1, 1.0))[0].0, Severity::Critical);
        assert!(told(fall(5000, 5001, 5001, 1, 4096.0)).is_empty());
        assert!(told(fall(5000, 5001, 5400, 4, 4096.0)).is_empty());
        assert!(told(ScaleFall { initial: true, ..fall(0, 1, 10, 9, 64.0) }).is_empty());
    }

    /// A scale that is halved at every `every`th logged step from step 1000 on, as often as `halvings`.
    fn halved(halvings: u64, every: u64) -> Analysis {
        let last = 1000 + every * halvings;
        let scale = |step: u64| 2_f64.powi(17 - ((step - 1000) / every) as i32);
        let mut run = logged((1000..=last).map(|step| point(step).with_scale(scale(step))).collect());
        run.log.as_mut().unwrap().scale_falls = vec![ScaleFall {
            from: scale(1000),
            ..fall(1000 + every - 1, 1000 + every, last, halvings, scale(last))
        }];
        run
    }

    #[test]
    fn halvings_are_counted_within_the_steps_that_are_named_and_scales_are_short() {
        let findings = judge_run(&RULE, &halved(160, 2), &[]);
        let told = &findings.found[0];
        let halvings = &told.evidence[0];
        assert_eq!((halvings.value, halvings.unit.as_str()), (50.0, "in 100 steps"));
        assert!(told.message.contains("from 1.31e5 to 8.97e-44 "), "{}", told.message);
        // One in 125 steps is no burst, but eight in a thousand are a long fall.
        let findings = judge_run(&RULE, &halved(8, 125), &[]);
        let halvings = &findings.found[0].evidence[0];
        assert_eq!((halvings.value, halvings.unit.as_str()), (8.0, "in 1000 steps"));
    }
}
