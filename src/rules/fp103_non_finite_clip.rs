//! A3: a norm that is not finite went into clipping, which spreads it or wipes every gradient.

use super::logs::log;
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
    let is_bad = |point: &LogPoint| point.grad_norm.is_some_and(|norm| norm.finite().is_none());
    let taken = log.points.iter().zip(log.skips()).filter(|(_, skipped)| !skipped).map(|(point, _)| point);
    let bad: Vec<&LogPoint> = taken.filter(|point| is_bad(point)).collect();
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
    let what = if norm.is_nan() { "NaN" } else { "infinite" };
    let subject = Subject::Steps(first.step, last);
    let finite = |value: Option<Number>| value.is_some_and(|value| value.finite().is_some());
    let stays_finite = log.points.iter().all(|point| point.loss.is_none() || finite(point.loss))
        && log
            .points
            .iter()
            .any(|point| point.step > last && (finite(point.loss) || finite(point.grad_norm)));
    // A scale that is logged and did not fall says that no scaler skipped the step.
    let is_told = layers_finite || log.points.iter().any(|point| point.loss_scale.is_some());
    let count = bad.len();
    let finding = if stays_finite && !is_told {
        let message = format!(
            "the gradient norm is {what} at step {} ({count} such steps) and the loss stays finite: the step was skipped, or all of its gradients were set to 0",
            first.step
        );
        let advice = "log the loss scale or the skipped steps: only they tell a scaler at work from gradients that are lost";
        findings.push(subject, message, advice).severity(Severity::Note)
    } else {
        let message = format!(
            "the gradient norm is {what} at step {} and the step was taken ({count} such steps): {effect}",
            first.step
        );
        let advice = "skip such steps: norm = clip_grad_norm_(…), then `if torch.isfinite(norm): optimizer.step()`; accumulate the norm in fp32 or wider";
        let finding = findings.push(subject, message, advice);
        if layers_finite && stays_finite { finding.severity(Severity::Warning) } else { finding }
    };
    finding.at_step(first.step).evidence("steps with such a norm", count as f64, "");
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
    fn what_the_run_survives_without_a_word_in_the_log_is_no_warning() {
        let survived = |last: f64| {
            logged(vec![
                point(1).with_norm(1.0).with_loss(2.0),
                point(2).with_norm(f64::INFINITY).with_loss(2.0),
                point(3).with_norm(1.0).with_loss(last),
            ])
        };
        let told = |run| judge_run(&RULE, &run, &[]).told();
        assert_eq!(told(survived(2.0)), [(Severity::Note, "steps 2 to 2".to_owned())]);
        assert_eq!(told(survived(f64::NAN)), [(Severity::Critical, "steps 2 to 2".to_owned())]);
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
