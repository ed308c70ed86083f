//! I9: a tensor that moved nowhere near where its optimizer state points.

use super::intervals::{span, subject, tensors};
use super::{Check, Confidence, Findings, Needs, Rule, Severity, Subject, Threshold, Thresholds};
use crate::analysis::model::{Analysis, TensorInterval};

pub(super) static RULE: Rule = Rule {
    code: "FP709",
    name: "contradicted-mapping",
    summary: "a tensor did not move as the optimizer state joined to it says",
    page: include_str!("../../docs/rules/FP709-contradicted-mapping.md"),
    severity: Severity::Warning,
    confidence: Confidence::Heuristic,
    needs: Needs::NORMS.and(Needs::OPTIMIZER).and(Needs::INTERVALS),
    thresholds: &[
        Threshold {
            name: "deviations",
            default: 3.0,
            unit: "standard deviations of chance, 1/sqrt(n)",
            source: "the cosine of two unrelated directions of n elements",
        },
        Threshold {
            name: "longest-interval",
            default: 50.0,
            unit: "optimizer steps",
            source: "the right pair gives about 0.7*sqrt(10/k), 0.31 after 50 steps; after 100 matrices of healthy runs of transformers' Trainer had -.05 to .08",
        },
        Threshold {
            name: "elements",
            default: 1000.0,
            unit: "elements",
            source: "below it 3/sqrt(n) is as large as what the right pair gives",
        },
    ],
    check: Check::Run(check),
};

fn check(analysis: &Analysis, thresholds: &Thresholds, findings: &mut Findings) {
    let mut told: Vec<&str> = Vec::new();
    let mut judged = false;
    for (interval, tensor) in tensors(analysis) {
        let Some((cosine, steps)) = judgeable(tensor, thresholds) else { continue };
        judged = true;
        let best = best_cosine(analysis, tensor, thresholds);
        let chance = thresholds.get("deviations") / (tensor.elements as f64).sqrt();
        let expected = 0.7 * (10.0 / steps).sqrt().min(1.0);
        // Half of what the right pair gives leaves room for schedules and weight decay.
        if best >= chance || 2.0 * chance > expected || told.contains(&tensor.name.as_str()) {
            continue;
        }
        told.push(&tensor.name);
        let message = format!(
            "{} moved {} in no relation to the optimizer state joined to it: cosine {cosine:.3}",
            tensor.name,
            span(interval),
        );
        findings
            .push(subject(tensor), message, ADVICE)
            .at_step(interval.to_step)
            .short_of("cosine of the movement and -m/sqrt(v)", cosine, chance, "")
            .evidence("what the right pair gives", expected, "");
    }
    if !judged {
        let reason = "no tensor of enough elements has moments and an interval short enough";
        findings.not_evaluated(Subject::Run, reason);
    }
}

/// The largest cosine of the tensor over the intervals that are judged: a right pair shows itself in one of them.
fn best_cosine(analysis: &Analysis, tensor: &TensorInterval, thresholds: &Thresholds) -> f64 {
    let same = tensors(analysis).filter(|(_, other)| other.canonical_name == tensor.canonical_name);
    same.filter_map(|(_, other)| judgeable(other, thresholds))
        .fold(-1.0, |best, (cosine, _)| best.max(cosine))
}

fn judgeable(tensor: &TensorInterval, thresholds: &Thresholds) -> Option<(f64, f64)> {
    let (&cosine, &steps) = (tensor.mapping_cosine.value()?, tensor.steps.value()?);
    let in_range = steps > 0.0 && steps <= thresholds.get("longest-interval");
    (in_range && tensor.elements as f64 >= thresholds.get("elements")).then_some((cosine, steps))
}

const ADVICE: &str = "the order in which the optimizer was given its parameters is not the one assumed here: build it from named_parameters(), or trust no finding that names this tensor by its moments";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::model::Measured;
    use crate::rules::test_support::{interval_tensor, judge_run, run_of};

    #[test]
    fn a_state_that_points_elsewhere_is_told_once_and_a_long_interval_is_not_judged() {
        let near = || {
            let mut tensor = interval_tensor("fc.weight");
            tensor.steps = Measured::Value(40.0);
            vec![tensor]
        };
        let mut run = run_of(3, near);
        assert!(judge_run(&RULE, &run, &[]).is_clean());
        for interval in &mut run.intervals {
            interval.tensors[0].mapping_cosine = Measured::Value(0.01);
        }
        assert_eq!(judge_run(&RULE, &run, &[]).told(), [(Severity::Warning, "fc.weight".to_owned())]);
        for interval in &mut run.intervals {
            interval.tensors[0].steps = Measured::Value(5000.0);
        }
        let findings = judge_run(&RULE, &run, &[]);
        assert!(findings.told().is_empty());
        assert_eq!(findings.not_evaluated.len(), 1);
    }
}
