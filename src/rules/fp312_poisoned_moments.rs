//! C12: a spike that outlives its gradient in the second moment.

use super::moments::{note_unmeasured, parameters, subject};
use super::{Check, Confidence, Findings, Needs, Rule, Severity, Threshold, Thresholds};
use crate::analysis::model::CheckpointAnalysis;

pub(super) static RULE: Rule = Rule {
    code: "FP312",
    name: "poisoned-moments",
    summary: "a past spike keeps the steps of a parameter short",
    page: include_str!("../../docs/rules/FP312-poisoned-moments.md"),
    severity: Severity::Warning,
    confidence: Confidence::Heuristic,
    needs: Needs::NORMS.and(Needs::OPTIMIZER),
    thresholds: &[
        Threshold {
            name: "inflation",
            default: 3.0,
            unit: "times the usual sqrt(v)",
            source: "one gradient of 100 times the usual gives 3.3 with beta2 = 0.999",
        },
        Threshold {
            name: "fewest-steps",
            default: 10.0,
            unit: "optimizer steps",
            source: "design: behind maps that begin at zero the first gradients are zero too, so that the first ones that are not look like spikes; not measured",
        },
    ],
    check: Check::Checkpoint(check),
};

fn check(checkpoint: &CheckpointAnalysis, thresholds: &Thresholds, findings: &mut Findings) {
    let limit = thresholds.get("inflation");
    // Where no gradient dominates, nothing is inflated; where one does that cannot be dated, it is not known by how much.
    note_unmeasured(checkpoint, |parameter| &parameter.inflation, findings);
    for (parameter, _, group) in parameters(checkpoint) {
        let (Some(&inflation), Some(spike), Some(beta2)) =
            (parameter.inflation.value(), parameter.spike.value(), group.beta2)
        else {
            continue;
        };
        if inflation <= limit {
            continue;
        }
        if let Some(step) = parameter.step.filter(|&step| step < thresholds.get("fewest-steps")) {
            let reason = format!(
                "{step:.0} steps tell no usual gradient: behind maps that begin at zero, gradients do too"
            );
            findings.not_evaluated(subject(parameter), reason);
            continue;
        }
        let half_life = std::f64::consts::LN_2 / (1.0 - beta2);
        let message = format!(
            "a gradient {:.0} steps ago makes the denominator of {} about {inflation:.1} times too large; it halves in v every {half_life:.0} steps",
            spike.age, parameter.name,
        );
        findings
            .push(subject(parameter), message, "reset m, v and step of this parameter together, and warm its learning rate up again; or roll back to before the spike")
            .against("inflation of sqrt(v)", inflation, limit, "")
            .evidence("age of the spike", spike.age, "optimizer steps");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::model::{Degenerate, Measured, SpikeAge};
    use crate::rules::test_support::{checkpoint, judge, moments};

    fn inflated(inflation: f64) -> CheckpointAnalysis {
        checkpoint(Vec::new()).with_moments(vec![moments("a.weight")], |_, parameter| {
            parameter.inflation = Measured::Value(inflation);
            parameter.spike =
                Measured::Value(SpikeAge { age: 12.0, spread: 0.2, coordinates: 64, gradient_norm: 100.0 });
        })
    }

    #[test]
    fn a_large_inflation_is_told() {
        assert!(judge(&RULE, &inflated(2.9)).is_clean());
        assert_eq!(judge(&RULE, &inflated(3.3)).told(), [(Severity::Warning, "a.weight".to_owned())]);
    }

    #[test]
    fn the_first_steps_tell_no_usual_gradient() {
        let at = |step| {
            let mut saved = inflated(42.0);
            saved.edit_moments(|parameter| parameter.step = Some(step));
            let found = judge(&RULE, &saved);
            (found.told().len(), found.not_evaluated.len())
        };
        assert_eq!((at(9.0), at(10.0)), ((0, 1), (1, 0)));
    }

    #[test]
    fn a_spike_that_is_not_dated_is_not_evaluated_and_none_is_silence() {
        let mut saved = inflated(2.9);
        saved.edit_moments(|parameter| parameter.inflation = Measured::Degenerate(Degenerate::Absent));
        assert!(judge(&RULE, &saved).is_clean());
        saved.edit_moments(|parameter| parameter.inflation = Measured::not("too old to be dated"));
        let findings = judge(&RULE, &saved);
        assert_eq!(findings.not_evaluated.len(), 1);
        assert!(findings.not_evaluated[0].1.ends_with("a.weight: too old to be dated"));
    }
}
