//! A3: a norm that is not finite went into clipping, which spreads it or wipes every gradient.

use super::logs::{is_skipped, log};
use super::{Check, Confidence, Findings, Needs, Rule, Severity, Subject, Thresholds};
use crate::analysis::model::{Analysis, LogPoint, Number};

pub(super) static RULE: Rule = Rule {
    code: "FP103",
    name: "non-finite-clip",
    summary: "a step was taken with a gradient norm that is not finite",
    page: include_str!("../../docs/rules/FP103-non-finite-clip.md"),
    severity: Severity::Critical,
    confidence: Confidence::Exact,
    needs: Needs::LOG,
    thresholds: &[],
    check: Check::Run(check),
};

fn check(analysis: &Analysis, _: &Thresholds, findings: &mut Findings) {
    let Some(log) = log(analysis) else { return };
    if log.points.iter().all(|point| point.grad_norm.is_none()) {
        findings.not_evaluated(Subject::Run, "the log has no gradient norm");
        return;
    }
    let taken = |point: &&LogPoint| {
        point.grad_norm.is_some_and(|norm| norm.finite().is_none()) && !is_skipped(log, point)
    };
    let bad: Vec<&LogPoint> = log.points.iter().filter(taken).collect();
    let Some(first) = bad.first() else { return };
    let norm = first.grad_norm.map_or(f64::NAN, |Number(norm)| norm);
    let layers_finite = !first.grad_norm_by_layer.is_empty()
        && first.grad_norm_by_layer.values().all(|norm| norm.finite().is_some());
    let effect = if layers_finite {
        "the norms of all layers are finite, so that only their sum overflowed: clipping sets every gradient to 0"
    } else if norm.is_nan() {
        "clipping multiplies every gradient by it"
    } else {
        "clipping by it makes the infinite elements NaN and all others 0"
    };
    let last = bad.last().map_or(first.step, |point| point.step);
    let message = format!(
        "the gradient norm is {} at step {} and the step was taken ({} such steps): {effect}",
        if norm.is_nan() { "NaN" } else { "infinite" },
        first.step,
        bad.len(),
    );
    let advice = "skip such steps: clip_grad_norm_(…, error_if_nonfinite=True), or a check before optimizer.step(); accumulate the norm in fp32 or wider";
    let harmless =
        layers_finite && log.points.iter().all(|point| point.loss.is_none_or(|loss| loss.finite().is_some()));
    let finding = findings.push(Subject::Steps(first.step, last), message, advice);
    finding.at_step(first.step).evidence("steps with such a norm", bad.len() as f64, "");
    if harmless {
        finding.severity(Severity::Warning);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::test_support::{judge_run, logged, point};

    #[test]
    fn an_infinite_norm_that_was_not_skipped_is_told() {
        let run = logged(vec![
            point(1).with_norm(1.0),
            point(2).with_norm(f64::INFINITY),
            point(3).with_norm(f64::NAN),
        ]);
        assert_eq!(judge_run(&RULE, &run, &[]).told(), [(Severity::Critical, "steps 2 to 3".to_owned())]);
        assert!(judge_run(&RULE, &logged(vec![point(1).with_norm(1.0)]), &[]).is_clean());
    }

    #[test]
    fn a_step_that_mixed_precision_skips_is_none() {
        let scaled = |step: u64, norm: f64, scale: f64| point(step).with_norm(norm).with_scale(scale);
        let run =
            logged(vec![scaled(1, 1.0, 1024.0), scaled(2, f64::INFINITY, 512.0), scaled(3, 1.0, 512.0)]);
        assert!(judge_run(&RULE, &run, &[]).is_clean());
        let later =
            logged(vec![scaled(1, 1.0, 1024.0), scaled(2, f64::INFINITY, 1024.0), scaled(3, 1.0, 512.0)]);
        assert!(judge_run(&RULE, &later, &[]).is_clean());
        let kept =
            logged(vec![scaled(1, 1.0, 1024.0), scaled(2, f64::INFINITY, 1024.0), scaled(3, 1.0, 1024.0)]);
        assert!(!judge_run(&RULE, &kept, &[]).is_clean());
    }
}
