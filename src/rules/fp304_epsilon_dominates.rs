//! C4: epsilon, not the gradient, sets the step.

use std::collections::BTreeSet;

use super::moments::{is_matrix, of_adam, subject, wanted};
use super::{Check, Confidence, Findings, Needs, Rule, Severity, Subject, Threshold, Thresholds};
use crate::analysis::model::CheckpointAnalysis;

pub(super) static RULE: Rule = Rule {
    code: "FP304",
    name: "epsilon-dominates",
    summary: "gradients are smaller than the epsilon they are divided by",
    page: include_str!("../../docs/rules/FP304-epsilon-dominates.md"),
    severity: Severity::Warning,
    confidence: Confidence::Calibrated,
    needs: Needs::NORMS.and(Needs::OPTIMIZER),
    thresholds: &[
        Threshold {
            name: "denominator",
            default: 1.0,
            unit: "times epsilon",
            source: "between 2.4 (smallest matrix of four healthy SevenNet checkpoints) and the 546B run whose gradients fell below 1e-8 before it diverged",
        },
        Threshold {
            name: "severe-denominator",
            default: 0.1,
            unit: "times epsilon",
            source: "a tenth: steps shrink tenfold",
        },
        Threshold {
            name: "fewest-steps",
            default: 10.0,
            unit: "optimizer steps",
            source: "design: behind gates and maps that begin at zero, the first gradients are next to zero; not measured",
        },
    ],
    check: Check::Checkpoint(check),
};

fn check(checkpoint: &CheckpointAnalysis, thresholds: &Thresholds, findings: &mut Findings) {
    let (limit, severe) = (thresholds.get("denominator"), thresholds.get("severe-denominator"));
    // Biases in front of a softmax or a normalisation have gradients of exactly zero but for rounding.
    let mut without_epsilon = BTreeSet::new();
    let parameters = of_adam(checkpoint, findings);
    for (parameter, optimizer, group) in
        parameters.into_iter().filter(|(parameter, _, _)| is_matrix(parameter))
    {
        let Some(epsilon) = group.epsilon else {
            if without_epsilon.insert(parameter.optimizer) {
                let reason = format!("{}: the group of {} has no epsilon", optimizer.place, parameter.name);
                findings.not_evaluated(Subject::Checkpoint, reason);
            }
            continue;
        };
        // What is not added dominates nothing.
        if epsilon <= 0.0 {
            continue;
        }
        let Some(&rms) = wanted(&parameter.denominator_rms, parameter, findings) else { continue };
        if rms >= limit * epsilon {
            continue;
        }
        if let Some(step) = parameter.step.filter(|&step| step < thresholds.get("fewest-steps")) {
            let reason =
                format!("{step:.0} steps: behind gates and maps that begin at zero, gradients do too");
            findings.not_evaluated(subject(parameter), reason);
            continue;
        }
        let message =
            format!("gradients of {} have RMS {rms:.2e}, below its epsilon of {epsilon:e}", parameter.name);
        let advice = "lower epsilon (1e-15 is safe in f32), or scale the loss up; look for a layer that the gradient does not reach";
        let finding = findings.push(subject(parameter), message, advice);
        finding.short_of("RMS of sqrt(v)", rms, limit * epsilon, "");
        if rms < severe * epsilon {
            finding.severity(Severity::Critical);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::model::Measured;
    use crate::rules::test_support::{assert_not_evaluated_without_adam, checkpoint, judge, moments};

    fn with_denominator(rms: f64) -> CheckpointAnalysis {
        checkpoint(Vec::new()).with_moments(vec![moments("a.weight")], |_, parameter| {
            parameter.denominator_rms = Measured::Value(rms);
        })
    }

    #[test]
    fn gradients_below_epsilon_are_told_and_above_are_not() {
        assert_eq!(
            judge(&RULE, &with_denominator(5e-9)).told(),
            [(Severity::Warning, "a.weight".to_owned())]
        );
        assert_eq!(judge(&RULE, &with_denominator(5e-10)).told()[0].0, Severity::Critical);
        assert!(judge(&RULE, &with_denominator(2.4e-8)).is_clean());
        let mut first = with_denominator(5e-10);
        first.edit_moments(|parameter| parameter.step = Some(9.0));
        let found = judge(&RULE, &first);
        assert_eq!((found.told().len(), found.not_evaluated.len()), (0, 1), "behind gates of zeros");
    }

    #[test]
    fn biases_are_not_judged() {
        let mut bias = with_denominator(1e-12);
        bias.edit_moments(|parameter| parameter.shape = vec![64]);
        assert!(judge(&RULE, &bias).is_clean());
    }

    #[test]
    fn an_optimizer_that_is_no_adam_is_not_evaluated() {
        assert_not_evaluated_without_adam(&RULE, &with_denominator(5e-9));
    }
}
