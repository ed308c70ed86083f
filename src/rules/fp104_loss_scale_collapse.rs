//! A4: the loss scale of mixed precision falls and falls.

use super::logs::log;
use super::{Check, Confidence, Findings, Needs, Rule, Severity, Subject, Threshold, Thresholds};
use crate::analysis::model::{Analysis, ScaleFall};

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
        let in_bursts = halvings >= often && halvings / span.max(100.0) >= often / 100.0;
        let in_all = halvings >= net && halvings / span.max(1000.0) >= net / 1000.0;
        if in_bursts || in_all || at_the_end {
            tell(fall, span, often, at_the_end.then_some(smallest), findings);
        }
    }
}

fn tell(fall: &ScaleFall, span: f64, often: f64, smallest: Option<f64>, findings: &mut Findings) {
    let message = format!(
        "the loss scale falls from {} to {} between steps {} and {}: {} halvings in {span} steps",
        fall.from, fall.to, fall.since, fall.last_step, fall.halvings,
    );
    let advice = "gradients overflow fp16 more and more: go back to before the first halving, lower the learning rate, or train in bf16";
    let finding = findings.push(Subject::Steps(fall.first_step, fall.last_step), message, advice);
    finding.at_step(fall.first_step).against("halvings", fall.halvings as f64, often, "in 100 steps");
    if let Some(smallest) = smallest {
        finding.severity(Severity::Critical).short_of("loss scale", fall.to, smallest, "");
    }
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
}
