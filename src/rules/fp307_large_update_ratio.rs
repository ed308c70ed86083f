//! C7: the size of a step against the weight it changes.

use super::moments::{is_matrix, parameters, subject, wanted};
use super::{Check, Confidence, Findings, Needs, Rule, Severity, Threshold, Thresholds};
use crate::analysis::model::{CheckpointAnalysis, ParameterOptimizer, Role};

pub(super) static RULE: Rule = Rule {
    code: "FP307",
    name: "large-update-ratio",
    summary: "one step changes a weight by a large share of itself",
    page: include_str!("../../docs/rules/FP307-large-update-ratio.md"),
    severity: Severity::Warning,
    confidence: Confidence::Calibrated,
    needs: Needs::NORMS.and(Needs::OPTIMIZER),
    thresholds: &[
        Threshold {
            name: "ratio",
            default: 0.1,
            unit: "lr |u| / |w|",
            source: "between 0.061 (largest matrix of 21 healthy small runs) and 1; 1e-3 is usual",
        },
        Threshold {
            name: "severe-ratio",
            default: 1.0,
            unit: "lr |u| / |w|",
            source: "a step as large as the weight",
        },
        Threshold {
            name: "steps",
            default: 100.0,
            unit: "optimizer steps",
            source: "ten times the memory of m for beta1 = 0.9",
        },
    ],
    check: Check::Checkpoint(check),
};

fn check(checkpoint: &CheckpointAnalysis, thresholds: &Thresholds, findings: &mut Findings) {
    let (limit, severe) = (thresholds.get("ratio"), thresholds.get("severe-ratio"));
    for (parameter, _, _) in parameters(checkpoint).filter(|(parameter, _, _)| is_matrix(parameter)) {
        let Some(&ratio) = wanted(&parameter.update_ratio, parameter, findings) else { continue };
        if ratio <= limit {
            continue;
        }
        let step = parameter.step.or_else(|| Some(*checkpoint.step.value()? as f64));
        if let Some(reason) = why_legitimate(parameter, step, thresholds.get("steps")) {
            findings.not_evaluated(subject(parameter), reason);
            continue;
        }
        let message =
            format!("the next step changes {} by {ratio:.2} of its norm, more than {limit}", parameter.name);
        let advice = "lower the learning rate of its group; if its weights are far smaller than those of other layers, look at how they were initialised";
        let finding = findings.push(subject(parameter), message, advice);
        finding.against("step over weight", ratio, limit, "");
        if ratio > severe {
            finding.severity(Severity::Critical);
        }
    }
}

/// What begins at zero has large steps for its size until it has grown. Where the optimizer counts no steps, as SGD does not, those of the checkpoint count.
fn why_legitimate(parameter: &ParameterOptimizer, step: Option<f64>, steps: f64) -> Option<&'static str> {
    let begins_at_zero = parameter.tensor.as_ref().is_some_and(|tensor| tensor.role == Role::LoraB);
    if begins_at_zero {
        Some("it begins at zero")
    } else if step.is_some_and(|step| step < steps) {
        Some("weights that begin at zero are small in the first steps")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::model::Measured;
    use crate::rules::test_support::{checkpoint, judge, moments};

    fn with_ratio(ratio: f64, step: f64) -> CheckpointAnalysis {
        checkpoint(Vec::new()).with_moments(vec![moments("a.weight")], |_, parameter| {
            parameter.update_ratio = Measured::Value(ratio);
            parameter.step = Some(step);
        })
    }

    #[test]
    fn large_steps_are_told_by_their_size() {
        assert!(judge(&RULE, &with_ratio(0.05, 5000.0)).is_clean());
        assert_eq!(
            judge(&RULE, &with_ratio(0.2, 5000.0)).told(),
            [(Severity::Warning, "a.weight".to_owned())]
        );
        assert_eq!(judge(&RULE, &with_ratio(2.0, 5000.0)).told()[0].0, Severity::Critical);
    }

    #[test]
    fn the_first_steps_are_not_judged() {
        let early = judge(&RULE, &with_ratio(0.2, 50.0));
        assert!(early.found.is_empty() && early.not_evaluated.len() == 1);
    }
}
