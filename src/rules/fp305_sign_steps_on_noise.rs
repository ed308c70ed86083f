//! C5: epsilon too small for elements that have no gradient.

use super::moments::{of_adam, subject, wanted};
use super::{Check, Confidence, Findings, Needs, Rule, Severity, Threshold, Thresholds};
use crate::analysis::model::CheckpointAnalysis;

pub(super) static RULE: Rule = Rule {
    code: "FP305",
    name: "sign-steps-on-noise",
    summary: "elements without a gradient are stepped by the sign of rounding noise",
    page: include_str!("../../docs/rules/FP305-sign-steps-on-noise.md"),
    severity: Severity::Warning,
    confidence: Confidence::Heuristic,
    needs: Needs::NORMS.and(Needs::OPTIMIZER),
    thresholds: &[Threshold {
        name: "share",
        default: 0.01,
        unit: "of the elements",
        source: "one in a hundred moves a layer at random",
    }],
    check: Check::Checkpoint(check),
};

fn check(checkpoint: &CheckpointAnalysis, thresholds: &Thresholds, findings: &mut Findings) {
    let limit = thresholds.get("share");
    for (parameter, _, group) in of_adam(checkpoint, findings) {
        let Some(&count) = wanted(&parameter.sign_steps, parameter, findings) else { continue };
        let share = count as f64 / parameter.elements.max(1) as f64;
        if share <= limit {
            continue;
        }
        let epsilon = group.epsilon.unwrap_or(0.0);
        let message = format!(
            "{count} of {} elements of {} have gradients below 1e-12 and are still stepped by half the learning rate or more: epsilon {epsilon:e} is too small",
            parameter.elements, parameter.name,
        );
        findings
            .push(
                subject(parameter),
                message,
                "raise epsilon to 1e-8, or mask the elements that have no gradient",
            )
            .against("share of elements", share, limit, "");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::model::Measured;
    use crate::rules::test_support::{assert_not_evaluated_without_adam, checkpoint, judge, moments};

    fn with_sign_steps(count: u64) -> CheckpointAnalysis {
        checkpoint(Vec::new()).with_moments(vec![moments("a.weight")], |_, parameter| {
            parameter.sign_steps = Measured::Value(count);
        })
    }

    #[test]
    fn one_in_a_hundred_is_the_limit() {
        assert!(judge(&RULE, &with_sign_steps(40)).is_clean());
        assert_eq!(judge(&RULE, &with_sign_steps(42)).told(), [(Severity::Warning, "a.weight".to_owned())]);
    }

    #[test]
    fn an_optimizer_that_is_no_adam_is_not_evaluated() {
        assert_not_evaluated_without_adam(&RULE, &with_sign_steps(42));
    }
}
