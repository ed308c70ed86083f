//! D8: rows of a matrix whose second moments are exactly zero.

use super::moments::{is_matrix, parameters, subject, wanted, why_sparse};
use super::{Check, Confidence, Findings, Needs, Rule, Severity, Threshold, Thresholds};
use crate::analysis::model::{CheckpointAnalysis, ParameterOptimizer};

pub(super) static RULE: Rule = Rule {
    code: "FP408",
    name: "dead-rows",
    summary: "most rows of a matrix have never had a gradient",
    page: include_str!("../../docs/rules/FP408-dead-rows.md"),
    severity: Severity::Warning,
    confidence: Confidence::Heuristic,
    needs: Needs::NORMS.and(Needs::OPTIMIZER),
    thresholds: &[
        Threshold {
            name: "share",
            default: 0.5,
            unit: "of the rows",
            source: "half of a layer that does not learn",
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
    let limit = thresholds.get("share");
    for (parameter, _, _) in parameters(checkpoint).filter(|(parameter, _, _)| is_matrix(parameter)) {
        if parameter.second_moment.is_none() {
            continue;
        }
        let Some(&rows) = wanted(&parameter.rows, parameter, findings) else { continue };
        let share = rows.zero as f64 / rows.count.max(1) as f64;
        if share <= limit {
            continue;
        }
        if let Some(reason) = why_legitimate(parameter, rows.zero == rows.count, thresholds.get("steps")) {
            findings.not_evaluated(subject(parameter), reason);
            continue;
        }
        let message =
            format!("{} of {} rows of {} have never had a gradient", rows.zero, rows.count, parameter.name);
        let advice = "look for units that never fire (a leaky activation, smaller biases, a lower learning rate), or for rows masked on purpose";
        findings
            .push(subject(parameter), message, advice)
            .against("share of rows", share, limit, "")
            .evidence("rows without a gradient", rows.zero as f64, "rows");
    }
}

fn why_legitimate(parameter: &ParameterOptimizer, is_all: bool, steps: f64) -> Option<&'static str> {
    if is_all {
        Some("none of its rows has had a gradient: frozen, or not part of what was trained")
    } else if parameter.step.is_none_or(|step| step < steps) {
        Some("too few steps to reach every row")
    } else {
        why_sparse(parameter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::model::{Measured, Role, SecondMomentRows};
    use crate::rules::test_support::{checkpoint, judge, moments};

    fn with_rows(zero: u64, step: f64) -> CheckpointAnalysis {
        checkpoint(Vec::new()).with_moments(vec![moments("a.weight")], |_, parameter| {
            parameter.rows = Measured::Value(SecondMomentRows { count: 64, zero });
            parameter.step = Some(step);
        })
    }

    #[test]
    fn more_than_half_is_told() {
        assert!(judge(&RULE, &with_rows(32, 5000.0)).is_clean());
        assert_eq!(judge(&RULE, &with_rows(33, 5000.0)).told(), [(Severity::Warning, "a.weight".to_owned())]);
    }

    #[test]
    fn frozen_young_and_sparse_parameters_are_not_judged() {
        let mut embedding = with_rows(40, 5000.0);
        embedding.edit_moments(|parameter| parameter.tensor.as_mut().unwrap().role = Role::TokenEmbedding);
        for saved in [with_rows(64, 5000.0), with_rows(40, 20.0), embedding] {
            let findings = judge(&RULE, &saved);
            assert!(findings.found.is_empty() && findings.not_evaluated.len() == 1);
        }
    }
}
