//! I3: second moments that fell faster than any gradient lets them, or a counter that went back.

use super::intervals::{never_measured, span, subject, tensors};
use super::{Check, Confidence, Findings, Needs, Rule, Severity, Threshold, Thresholds};
use crate::analysis::model::Analysis;

pub(super) static RULE: Rule = Rule {
    code: "FP703",
    name: "replaced-optimizer-state",
    summary: "the optimizer's state was replaced or reset between two checkpoints",
    page: include_str!("../../docs/rules/FP703-replaced-optimizer-state.md"),
    severity: Severity::Critical,
    confidence: Confidence::Exact,
    needs: Needs::NORMS.and(Needs::OPTIMIZER).and(Needs::INTERVALS),
    thresholds: &[Threshold {
        name: "below-floor-share",
        default: 0.01,
        unit: "of the elements",
        source: "an exact bound no element can break; one in a hundred rules out single damaged elements, which FP701 tells",
    }],
    check: Check::Run(check),
};

fn check(analysis: &Analysis, thresholds: &Thresholds, findings: &mut Findings) {
    let limit = thresholds.get("below-floor-share");
    for interval in &analysis.intervals {
        let mut reset =
            interval.tensors.iter().filter(|tensor| tensor.steps.value().is_some_and(|&k| k < 0.0));
        if let Some(first) = reset.next() {
            let message = format!(
                "the step counter of {} parameters, from {} on, went back {}",
                1 + reset.count(),
                first.name,
                span(interval),
            );
            findings.push(subject(first), message, ADVICE).at_step(interval.from_step).evidence(
                "steps by its counter",
                first.steps.value().copied().unwrap_or(0.0),
                "optimizer steps",
            );
        }
    }
    for (interval, tensor) in tensors(analysis) {
        let Some(&share) = tensor.below_floor_share.value() else { continue };
        if share <= limit {
            continue;
        }
        let message = format!(
            "{}: {:.0} % of its second moments fell faster {} than gradients of zero let them",
            tensor.name,
            100.0 * share,
            span(interval),
        );
        findings.push(subject(tensor), message, ADVICE).at_step(interval.from_step).against(
            "share below free decay",
            share,
            limit,
            "of the elements",
        );
    }
    never_measured(analysis, |tensor| &tensor.below_floor_share, findings);
}

const ADVICE: &str = "find out what was loaded at the last resume; go on from the checkpoint before with its own optimizer state, or reset m, v and step together and warm up again";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::model::Measured;
    use crate::rules::test_support::{interval_tensor, judge_run, run_of};

    #[test]
    fn state_below_free_decay_and_counters_that_go_back_are_told() {
        let mut run = run_of(2, || vec![interval_tensor("fc.weight")]);
        assert!(judge_run(&RULE, &run, &[]).is_clean());
        run.intervals[1].tensors[0].below_floor_share = Measured::Value(0.8);
        assert_eq!(judge_run(&RULE, &run, &[]).told(), [(Severity::Critical, "fc.weight".to_owned())]);
        run.intervals[1].tensors[0].below_floor_share = Measured::Value(0.0);
        run.intervals[0].tensors[0].steps = Measured::Value(-390.0);
        let findings = judge_run(&RULE, &run, &[]);
        assert_eq!(findings.told(), [(Severity::Critical, "fc.weight".to_owned())]);
        assert!(findings.found[0].message.contains("went back"));
    }
}
