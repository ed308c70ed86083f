//! I1: second moments that are no sums of squares.

use super::moments::{parameters, subject, wanted};
use super::{Check, Confidence, Findings, Needs, Rule, Severity, Thresholds};
use crate::analysis::model::{CheckpointAnalysis, Defects};

pub(super) static RULE: Rule = Rule {
    code: "FP701",
    name: "impossible-second-moment",
    summary: "a second moment is negative or not finite",
    page: include_str!("../../docs/rules/FP701-impossible-second-moment.md"),
    severity: Severity::Critical,
    confidence: Confidence::Exact,
    needs: Needs::NORMS.and(Needs::OPTIMIZER),
    thresholds: &[],
    check: Check::Checkpoint(check),
};

fn check(checkpoint: &CheckpointAnalysis, _: &Thresholds, findings: &mut Findings) {
    for (parameter, _, _) in parameters(checkpoint) {
        let Some(&defects) = wanted(&parameter.defects, parameter, findings) else { continue };
        let Defects {
            non_finite_first,
            non_finite_second,
            negative_second,
            non_finite_maximum,
            below_second,
        } = defects;
        let non_finite = non_finite_first + non_finite_second + non_finite_maximum;
        if non_finite + negative_second + below_second == 0 {
            continue;
        }
        let maxima = match below_second {
            0 => String::new(),
            count => {
                format!(", {count} of AMSGrad's largest second moments are smaller than the second moment")
            }
        };
        let message = format!(
            "the moments of {} are no moments: {negative_second} second moments are negative, {non_finite} elements are not finite{maxima}",
            parameter.name,
        );
        let advice = "the state was damaged, or written by code that does not compute moments: take an earlier checkpoint, or reset m, v and step together";
        findings
            .push(subject(parameter), message, advice)
            .against("negative second moments", negative_second as f64, 0.0, "elements")
            .against("elements that are not finite", non_finite as f64, 0.0, "elements")
            .against("maxima below the second moment", below_second as f64, 0.0, "elements");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::model::Measured;
    use crate::rules::test_support::{checkpoint, judge, moments};

    fn with_defects(defects: Defects) -> CheckpointAnalysis {
        checkpoint(Vec::new()).with_moments(vec![moments("a.weight")], |_, parameter| {
            parameter.defects = Measured::Value(defects);
        })
    }

    #[test]
    fn one_element_is_enough() {
        assert!(judge(&RULE, &with_defects(Defects::default())).is_clean());
        for defects in [
            Defects { negative_second: 1, ..Defects::default() },
            Defects { non_finite_first: 1, ..Defects::default() },
            Defects { non_finite_second: 1, ..Defects::default() },
            Defects { non_finite_maximum: 1, ..Defects::default() },
            Defects { below_second: 1, ..Defects::default() },
        ] {
            assert_eq!(
                judge(&RULE, &with_defects(defects)).told(),
                [(Severity::Critical, "a.weight".to_owned())]
            );
        }
    }
}
