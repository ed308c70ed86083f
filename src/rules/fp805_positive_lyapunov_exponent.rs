//! A recurrence along whose states small changes grow for ever.

use super::jacobians::{jacobian, wanted};
use super::{Check, Confidence, Findings, Needs, Rule, Severity, Subject, Threshold, Thresholds};
use crate::analysis::model::{CheckpointAnalysis, RecurrenceAnalysis, RecurrenceAtScale};
use crate::number::short;

pub(super) static RULE: Rule = Rule {
    code: "FP805",
    name: "positive-lyapunov-exponent",
    summary: "small changes of a recurrence's state grow from step to step along the states it takes",
    page: include_str!("../../docs/rules/FP805-positive-lyapunov-exponent.md"),
    severity: Severity::Warning,
    confidence: Confidence::Heuristic,
    needs: Needs::JACOBIAN,
    thresholds: &[
        Threshold {
            name: "errors",
            default: 3.0,
            unit: "standard errors above the least exponent",
            source: "a normal mean exceeds it once in 740",
        },
        Threshold {
            name: "exponent",
            default: 0.01,
            unit: "a step, as a logarithm",
            source: "2.7-fold in 100 steps, a usual length of truncated backpropagation through time",
        },
    ],
    check: Check::Checkpoint(check),
};

fn check(checkpoint: &CheckpointAnalysis, thresholds: &Thresholds, findings: &mut Findings) {
    let Some(jacobian) = jacobian(checkpoint) else { return };
    for recurrence in &jacobian.recurrences {
        judge(recurrence, thresholds, findings);
    }
}

fn judge(recurrence: &RecurrenceAnalysis, thresholds: &Thresholds, findings: &mut Findings) {
    let subject = Subject::Layer(recurrence.name.clone());
    // What it does on inputs of the probe's own scale; without input it may do anything.
    let driven = recurrence.scales.iter().max_by(|one, other| one.scale.total_cmp(&other.scale));
    let Some(driven) = driven else { return };
    let Some(first) = driven.exponents.first() else { return };
    let Some(exponent) = wanted(first, &subject, "Lyapunov exponent", findings) else { return };
    let (errors, least) = (thresholds.get("errors"), thresholds.get("exponent"));
    if exponent.value > least + errors * exponent.standard_error {
        let message = format!(
            "small changes of the state of {} grow by {} a step as a logarithm, with a standard error of {} over {} steps (limit {}): {}-fold in 100 steps",
            recurrence.name,
            short(exponent.value),
            short(exponent.standard_error),
            driven.steps,
            short(least),
            short((100.0 * exponent.value).exp().min(f64::MAX)),
        );
        let finding = findings.push(
            subject,
            message,
            "clip the gradient norm, shorten backpropagation through time, or start from an orthogonal recurrence",
        );
        finding.against("Lyapunov exponent", exponent.value, least, "1/step");
        for other in recurrence.scales.iter().filter(|other| other.scale != driven.scale) {
            add(finding, other);
        }
    }
}

fn add(finding: &mut super::Finding, other: &RecurrenceAtScale) {
    if let Some(exponent) = other.exponents.first().and_then(|exponent| exponent.value()) {
        finding.evidence(&format!("at input scale {}", other.scale), exponent.value, "1/step");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::test_jacobian::recurrence;
    use crate::rules::test_support::{judge, judge_with};

    #[test]
    fn growth_beyond_its_error_is_a_warning() {
        let found = judge(&RULE, &recurrence(&[(0.0, 0.001, 0.001), (1.0, 0.09, 0.01)]));
        assert_eq!(found.told(), [(Severity::Warning, "rnn layer 0".to_owned())]);
        assert!(judge(&RULE, &recurrence(&[(1.0, 0.03, 0.01)])).is_clean(), "within its error");
        let large = recurrence(&[(1.0, 0.09, 0.01)]);
        assert!(judge_with(&RULE, &large, &[("exponent", 0.1)]).is_clean());
    }

    #[test]
    fn growth_without_input_alone_is_not_judged() {
        assert!(
            judge(&RULE, &recurrence(&[(0.0, 0.2, 0.001), (0.1, 0.1, 0.001), (1.0, -0.2, 0.01)])).is_clean()
        );
    }

    #[test]
    fn a_large_norm_with_a_negative_exponent_is_stable() {
        assert!(judge(&RULE, &recurrence(&[(1.0, -0.26, 0.01)])).is_clean());
    }
}
