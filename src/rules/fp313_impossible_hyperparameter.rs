//! Hyperparameters, scheduled rates and loss scales that no training goes on from.

use super::{Check, Confidence, Findings, Needs, Rule, Severity, Subject, Thresholds};
use crate::analysis::model::{CheckpointAnalysis, Measured};

pub(super) static RULE: Rule = Rule {
    code: "FP313",
    name: "impossible-hyperparameter",
    summary: "a learning rate, beta, epsilon, weight decay or loss scale is none that training can go on from",
    page: include_str!("../../docs/rules/FP313-impossible-hyperparameter.md"),
    severity: Severity::Critical,
    confidence: Confidence::Exact,
    needs: Needs::LIST,
    thresholds: &[],
    check: Check::Checkpoint(check),
};

fn check(checkpoint: &CheckpointAnalysis, _: &Thresholds, findings: &mut Findings) {
    if let Measured::NotMeasured(reason) = &checkpoint.impossible {
        findings.not_evaluated(Subject::Checkpoint, reason.clone());
    }
    for number in checkpoint.impossible.value().into_iter().flatten() {
        let message = format!("{} is {}, and can be {}", number.place, number.value, number.wanted);
        let advice = "a resume reads it back without a word, and the next step writes it into every weight: set it, or take an earlier checkpoint";
        findings.push(Subject::Checkpoint, message, advice);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::model::{ImpossibleNumber, Range};
    use crate::rules::test_support::{checkpoint, judge};

    #[test]
    fn every_impossible_number_is_told_with_its_place() {
        let mut saved = checkpoint(Vec::new());
        assert_eq!(judge(&RULE, &saved).not_evaluated.len(), 1);
        saved.impossible = Measured::Value(Vec::new());
        assert!(judge(&RULE, &saved).is_clean());
        saved.impossible = Measured::Value(vec![ImpossibleNumber {
            place: "optimizer.pt: param_groups[0].lr".to_owned(),
            value: "NaN".to_owned(),
            wanted: Range::NotNegative,
        }]);
        let found = judge(&RULE, &saved);
        assert_eq!(found.told(), [(Severity::Critical, "checkpoint".to_owned())]);
        assert!(found.found[0].message.contains("param_groups[0].lr is NaN"));
    }
}
