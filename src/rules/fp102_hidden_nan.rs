//! A2: a loss of NaN that the trainer shows as a number.

use super::logs::log;
use super::{Check, Confidence, Findings, Needs, Rule, Severity, Subject, Thresholds};
use crate::analysis::model::Analysis;

pub(super) static RULE: Rule = Rule {
    code: "FP102",
    name: "hidden-nan",
    summary: "the log shows a number for a loss that is NaN",
    page: include_str!("../../docs/rules/FP102-hidden-nan.md"),
    severity: Severity::Critical,
    confidence: Confidence::Calibrated,
    needs: Needs::LOG,
    thresholds: &[],
    check: Check::Run(check),
};

fn check(analysis: &Analysis, _: &Thresholds, findings: &mut Findings) {
    let Some(log) = log(analysis) else { return };
    if log.points.iter().all(|point| point.loss.is_none()) {
        findings.not_evaluated(Subject::Run, "the log has no loss");
        return;
    }
    for &[first, last] in &log.semantics.hidden_nan {
        let message = format!(
            "the loss is NaN from step {first} to {last}, and the log shows a number that stands still or is exactly 0"
        );
        let advice = "go back to the last checkpoint before it, and set logging_nan_inf_filter=False so that the next one is seen";
        findings.push(Subject::Steps(first, last), message, advice).at_step(first);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::test_support::{judge_run, logged, point};

    #[test]
    fn each_stretch_is_told() {
        let mut run = logged(vec![point(1).with_loss(2.0), point(2).with_loss(f64::NAN)]);
        assert!(judge_run(&RULE, &run, &[]).is_clean());
        run.log.as_mut().unwrap().semantics.hidden_nan = vec![[2, 2]];
        assert_eq!(judge_run(&RULE, &run, &[]).told(), [(Severity::Critical, "steps 2 to 2".to_owned())]);
    }
}
