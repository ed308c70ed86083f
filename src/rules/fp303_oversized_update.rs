//! C3: an update larger than a second moment that keeps up would allow.

use super::moments::{of_adam, subject, wanted, why_sparse};
use super::{Check, Confidence, Findings, Needs, Rule, Severity, Threshold, Thresholds};
use crate::analysis::model::{CheckpointAnalysis, ParameterGroup, ParameterOptimizer};

pub(super) static RULE: Rule = Rule {
    code: "FP303",
    name: "oversized-update",
    summary: "the next update is larger than any steady gradient gives",
    page: include_str!("../../docs/rules/FP303-oversized-update.md"),
    severity: Severity::Warning,
    confidence: Confidence::Heuristic,
    needs: Needs::NORMS.and(Needs::OPTIMIZER),
    thresholds: &[Threshold {
        name: "update-rms",
        default: 1.0,
        unit: "RMS of u = m/(sqrt(v)+eps), bias-corrected",
        source: "a constant gradient gives 1, noise 0.229; only growth faster than v forgets gives more",
    }],
    check: Check::Checkpoint(check),
};

/// How far a constant gradient exceeds 1 by rounding.
const ROUNDING: f64 = 1e-3;

fn check(checkpoint: &CheckpointAnalysis, thresholds: &Thresholds, findings: &mut Findings) {
    let limit = thresholds.get("update-rms");
    for (parameter, _, group) in of_adam(checkpoint, findings) {
        let Some(&rms) = wanted(&parameter.update_rms, parameter, findings) else { continue };
        if rms <= limit * (1.0 + ROUNDING) {
            continue;
        }
        match why_legitimate(parameter, group) {
            Some(reason) => findings.not_evaluated(subject(parameter), reason),
            None => report(parameter, rms, limit, findings),
        }
    }
}

/// Why an update of this size may be as it should be.
fn why_legitimate(parameter: &ParameterOptimizer, group: &ParameterGroup) -> Option<String> {
    let window = 1.0 / (1.0 - group.beta2?);
    if parameter.step? < window {
        return Some(format!("updates are large in the first {window:.0} steps"));
    }
    if parameter.shape.len() < 2 {
        return Some(
            "the few elements of gains and biases share the sign of their gradients, which reach 1 as they grow".to_owned(),
        );
    }
    why_sparse(parameter).map(str::to_owned)
}

fn report(parameter: &ParameterOptimizer, rms: f64, limit: f64, findings: &mut Findings) {
    let message = format!(
        "the next update of {} has RMS {rms:.2}, more than the {limit} of a gradient that never changes: its second moment is stale",
        parameter.name,
    );
    let advice = "clip updates by their RMS (StableAdamW), or lower beta2 to 0.95; lower the learning rate for the steps that follow";
    let finding = findings.push(subject(parameter), message, advice);
    finding.against("RMS of u", rms, limit, "");
    if parameter.update_bound.value().is_some_and(|&bound| rms > bound * (1.0 + ROUNDING)) {
        finding.severity(Severity::Critical);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::model::{Measured, Role};
    use crate::rules::test_support::{assert_not_evaluated_without_adam, checkpoint, judge, moments};

    fn with_rms(rms: f64, step: f64) -> CheckpointAnalysis {
        checkpoint(Vec::new()).with_moments(vec![moments("a.weight")], |_, parameter| {
            parameter.update_rms = Measured::Value(rms);
            parameter.step = Some(step);
        })
    }

    #[test]
    fn more_than_a_steady_gradient_is_a_warning() {
        assert_eq!(judge(&RULE, &with_rms(1.3, 5000.0)).told(), [(Severity::Warning, "a.weight".to_owned())]);
        assert!(judge(&RULE, &with_rms(1.0, 5000.0)).is_clean());
        assert_eq!(judge(&RULE, &with_rms(8.0, 5000.0)).told()[0].0, Severity::Critical);
    }

    #[test]
    fn the_first_steps_and_sparse_rows_are_not_judged() {
        let early = judge(&RULE, &with_rms(1.3, 500.0));
        assert!(early.found.is_empty() && early.not_evaluated.len() == 1);
        let mut embedding = with_rms(1.3, 5000.0);
        embedding.edit_moments(|parameter| parameter.tensor.as_mut().unwrap().role = Role::TokenEmbedding);
        let mut gain = with_rms(1.3, 5000.0);
        gain.edit_moments(|parameter| parameter.shape = vec![16]);
        let vector = judge(&RULE, &gain);
        assert!(vector.found.is_empty() && vector.not_evaluated.len() == 1);
        let sparse = judge(&RULE, &embedding);
        assert!(sparse.found.is_empty() && sparse.not_evaluated.len() == 1);
    }

    #[test]
    fn an_optimizer_that_is_no_adam_is_not_evaluated() {
        assert_not_evaluated_without_adam(&RULE, &with_rms(1.3, 5000.0));
    }
}
