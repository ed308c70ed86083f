//! A5: the logged gradient norm has the loss scale in it.

use super::logs::log;
use super::{Check, Confidence, Findings, Needs, Rule, Severity, Subject, Threshold, Thresholds};
use crate::analysis::model::Analysis;

pub(super) static RULE: Rule = Rule {
    code: "FP105",
    name: "loss-scaled-norm",
    summary: "the logged gradient norm contains the loss scale",
    page: include_str!("../../docs/rules/FP105-loss-scaled-norm.md"),
    severity: Severity::Note,
    confidence: Confidence::Calibrated,
    needs: Needs::LOG,
    thresholds: &[Threshold {
        name: "correlation",
        default: 0.9,
        unit: "of ln norm with ln loss scale",
        source: "risk.md A5; set where the log is read, so that no other rule sees the factor",
    }],
    check: Check::Run(check),
};

fn check(analysis: &Analysis, thresholds: &Thresholds, findings: &mut Findings) {
    let Some(log) = log(analysis) else { return };
    if log.points.iter().all(|point| point.loss_scale.is_none()) {
        findings
            .not_evaluated(Subject::Run, "the log has no loss scale: fp16 is not used, or it is not logged");
        return;
    }
    if !log.semantics.loss_scaled {
        return;
    }
    let message = "the gradient norms of the log contain the loss scale; they were divided by it before anything was judged";
    let advice = "divide the norm by the loss scale where it is logged: as it stands, no threshold of clipping can be read from it";
    let finding = findings.push(Subject::Run, message.to_owned(), advice);
    if let Some(correlation) = log.semantics.scale_correlation {
        finding.against(
            "correlation",
            correlation,
            thresholds.get("correlation"),
            "of ln norm with ln loss scale",
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::test_support::{judge_run, logged, point};

    #[test]
    fn what_the_reader_divided_is_told() {
        let mut run = logged(vec![point(1).with_norm(1.0).with_scale(1024.0)]);
        assert!(judge_run(&RULE, &run, &[]).is_clean());
        run.log.as_mut().unwrap().semantics.loss_scaled = true;
        assert_eq!(judge_run(&RULE, &run, &[]).told(), [(Severity::Note, "run".to_owned())]);
    }
}
