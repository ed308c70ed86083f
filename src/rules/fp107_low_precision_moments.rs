//! A7: second moments in half precision.

use std::collections::HashMap;

use super::moments::{parameters, subject};
use super::{Check, Confidence, Findings, Needs, Rule, Severity, Thresholds};
use crate::analysis::model::{CheckpointAnalysis, DType, ParameterOptimizer};

pub(super) static RULE: Rule = Rule {
    code: "FP107",
    name: "low-precision-moments",
    summary: "second moments are kept in a format that cannot follow them",
    page: include_str!("../../docs/rules/FP107-low-precision-moments.md"),
    severity: Severity::Critical,
    confidence: Confidence::Exact,
    needs: Needs::NORMS.and(Needs::OPTIMIZER),
    thresholds: &[],
    check: Check::Checkpoint(check),
};

/// 1−β₂ below which v·β₂ rounds back to v: half the largest relative spacing of bf16.
const BF16_DECAY: f64 = 1.0 / 256.0;

fn check(checkpoint: &CheckpointAnalysis, _: &Thresholds, findings: &mut Findings) {
    let place =
        |parameter: &ParameterOptimizer| (parameter.optimizer, parameter.group, parameter.second_moment);
    let mut alike: HashMap<_, usize> = HashMap::new();
    for (parameter, _, _) in parameters(checkpoint) {
        *alike.entry(place(parameter)).or_default() += 1;
    }
    for (parameter, _, group) in parameters(checkpoint) {
        let Some(fault) = fault(parameter.second_moment, group.beta2) else { continue };
        // One finding a group: its parameters are all kept in the same way.
        if let Some(count) = alike.remove(&place(parameter)) {
            report(parameter, count, fault, findings);
        }
    }
}

/// What is wrong with second moments of this dtype: severity, sentence, number.
fn fault(dtype: Option<DType>, beta2: Option<f64>) -> Option<(Severity, &'static str, f64)> {
    match (dtype?, beta2) {
        (DType::Bf16, Some(beta2)) if 1.0 - beta2 < BF16_DECAY => {
            Some((Severity::Critical, "bf16, in which they cannot decay", beta2))
        }
        (DType::F16, beta2) => Some((
            Severity::Warning,
            "f16, in which gradients below 2.4e-4 leave nothing",
            beta2.unwrap_or(0.0),
        )),
        _ => None,
    }
}

fn report(
    parameter: &ParameterOptimizer,
    count: usize,
    fault: (Severity, &str, f64),
    findings: &mut Findings,
) {
    let (severity, sentence, beta2) = fault;
    let message =
        format!("{count} second moments, from {} on, are {sentence} (beta2 {beta2})", parameter.name);
    let advice = "keep optimizer states in f32, or lower beta2 to 0.95 for bf16; the present second moments are stale: reset them with their step";
    findings.push(subject(parameter), message, advice).severity(severity).against(
        "beta2",
        beta2,
        1.0 - BF16_DECAY,
        "",
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::model::Measured;
    use crate::rules::test_support::{checkpoint, judge, moments};

    fn kept_in(dtype: DType, beta2: f64) -> CheckpointAnalysis {
        checkpoint(Vec::new()).with_moments(
            vec![moments("a.weight"), moments("b.weight")],
            |group, parameter| {
                group.beta2 = Some(beta2);
                parameter.second_moment = Some(dtype);
            },
        )
    }

    #[test]
    fn bf16_cannot_follow_a_slow_decay() {
        let told = judge(&RULE, &kept_in(DType::Bf16, 0.999)).told();
        assert_eq!(told, [(Severity::Critical, "a.weight".to_owned())]);
        assert!(judge(&RULE, &kept_in(DType::Bf16, 0.99)).is_clean());
        assert!(judge(&RULE, &kept_in(DType::F32, 0.999)).is_clean());
    }

    #[test]
    fn fifty_thousand_groups_are_told_in_one_pass() {
        let mut saved = kept_in(DType::Bf16, 0.999);
        let Measured::Value(state) = &mut saved.optimizer else { panic!("it has state") };
        let (group, parameter) = (state.optimizers[0].groups[0].clone(), state.parameters[0].clone());
        state.optimizers[0].groups = vec![group; 50_000];
        state.parameters =
            (0..50_000).map(|group| ParameterOptimizer { group, ..parameter.clone() }).collect();
        assert_eq!(judge(&RULE, &saved).found.len(), 50_000);
    }

    #[test]
    fn f16_loses_small_gradients() {
        assert_eq!(judge(&RULE, &kept_in(DType::F16, 0.95)).told()[0].0, Severity::Warning);
    }
}
