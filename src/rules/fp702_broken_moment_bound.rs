//! I2: the bound on m by v that every history obeys.

use super::moments::{of_adam, subject, wanted};
use super::{Check, Confidence, Findings, Needs, Rule, Severity, Thresholds};
use crate::analysis::model::CheckpointAnalysis;

pub(super) static RULE: Rule = Rule {
    code: "FP702",
    name: "broken-moment-bound",
    summary: "first and second moments do not come from one history of gradients",
    page: include_str!("../../docs/rules/FP702-broken-moment-bound.md"),
    severity: Severity::Critical,
    confidence: Confidence::Exact,
    needs: Needs::NORMS.and(Needs::OPTIMIZER),
    thresholds: &[],
    check: Check::Checkpoint(check),
};

fn check(checkpoint: &CheckpointAnalysis, _: &Thresholds, findings: &mut Findings) {
    for (parameter, _, group) in of_adam(checkpoint, findings) {
        let Some(&ratio) = wanted(&parameter.bound_ratio, parameter, findings) else { continue };
        let limit = 1.0 + parameter.bound_tolerance;
        if ratio <= limit {
            continue;
        }
        let message = format!(
            "in {} a first moment is {ratio:.2} times the largest that betas {} and {} allow beside its second moment",
            parameter.name,
            group.beta1.unwrap_or_default(),
            group.beta2.unwrap_or_default(),
        );
        let advice = "m and v are not of one history: look for a partial reset, a state of another step or format, or betas that were changed; if they were not, reset m, v and step together";
        findings.push(subject(parameter), message, advice).against("m over its bound", ratio, limit, "");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::model::Measured;
    use crate::rules::test_support::{assert_not_evaluated_without_adam, checkpoint, judge, moments};

    fn with_ratio(ratio: f64) -> CheckpointAnalysis {
        checkpoint(Vec::new()).with_moments(vec![moments("a.weight")], |_, parameter| {
            parameter.bound_ratio = Measured::Value(ratio);
        })
    }

    #[test]
    fn beyond_rounding_it_is_broken() {
        assert!(judge(&RULE, &with_ratio(1.0009)).is_clean());
        assert_eq!(judge(&RULE, &with_ratio(1.0011)).told(), [(Severity::Critical, "a.weight".to_owned())]);
    }

    #[test]
    fn an_optimizer_that_is_no_adam_is_not_evaluated() {
        assert_not_evaluated_without_adam(&RULE, &with_ratio(1.1));
    }
}
