//! C1: a learning rate above the edge of stability, by the curvature between two gradient dumps.

use super::moments::state;
use super::{Check, Confidence, Findings, Needs, Rule, Severity, Subject, Threshold, Thresholds};
use crate::analysis::model::{
    Algorithm, Analysis, CheckpointAnalysis, DumpAnalysis, Measured, ParameterGroup,
};

pub(super) static RULE: Rule = Rule {
    code: "FP301",
    name: "above-edge-of-stability",
    summary: "the learning rate is above what the curvature along the last steps lets be stable",
    page: include_str!("../../docs/rules/FP301-above-edge-of-stability.md"),
    severity: Severity::Warning,
    confidence: Confidence::Heuristic,
    needs: Needs::LIST.and(Needs::DUMPS),
    thresholds: &[Threshold {
        name: "ratio",
        default: 1.3,
        unit: "times the edge of stability",
        source: "Cohen et al., arXiv:2103.00065: training hovers at the edge itself",
    }],
    check: Check::Run(check),
};

fn check(analysis: &Analysis, thresholds: &Thresholds, findings: &mut Findings) {
    let limit = thresholds.get("ratio");
    let mut judged = false;
    for dump in &analysis.dumps {
        let Some(Edge { curvature, rate, ratio, kind }) =
            of_adam(analysis, dump).or_else(|| of_sgd(analysis, dump))
        else {
            continue;
        };
        judged = true;
        if ratio <= limit {
            continue;
        }
        let message = format!(
            "at step {} the {kind} along the step is {curvature:.3}: the learning rate {rate} is {ratio:.1} times the edge of stability",
            dump.step,
        );
        findings
            .push(Subject::Steps(dump.step, dump.step), message, ADVICE)
            .at_step(dump.step)
            .against("learning rate times curvature over the edge", ratio, limit, "times")
            .evidence(kind, curvature, "");
    }
    if !judged {
        findings.not_evaluated(Subject::Run, why_not(analysis));
    }
}

/// Where a step stands against the edge of stability.
struct Edge {
    curvature: f64,
    rate: f64,
    ratio: f64,
    kind: &'static str,
}

/// By the curvature that Adam's preconditioner sees; its limit was measured with it.
fn of_adam(analysis: &Analysis, dump: &DumpAnalysis) -> Option<Edge> {
    let sharpness = dump.preconditioned.value()?;
    let [group, ..] = state(before(analysis, dump)?)?.optimizers.first()?.groups.as_slice() else {
        return None;
    };
    let ratio = sharpness.value / sharpness.edge;
    Some(Edge {
        curvature: sharpness.value,
        rate: group.learning_rate?,
        ratio,
        kind: "preconditioned curvature",
    })
}

fn of_sgd(analysis: &Analysis, dump: &DumpAnalysis) -> Option<Edge> {
    let &curvature = dump.secant.value()?;
    let (rate, edge) = stability(before(analysis, dump)?)?;
    Some(Edge { curvature, rate, ratio: curvature * rate / edge, kind: "curvature" })
}

/// The last checkpoint before the dump's step.
fn before<'a>(analysis: &'a Analysis, dump: &DumpAnalysis) -> Option<&'a CheckpointAnalysis> {
    let earlier =
        |checkpoint: &&CheckpointAnalysis| checkpoint.step.value().is_some_and(|&step| step < dump.step);
    analysis.checkpoints.iter().rfind(earlier)
}

/// Why no dump could be judged: what was said of the last one's curvature.
fn why_not(analysis: &Analysis) -> String {
    let reason = analysis.dumps.iter().rev().find_map(|dump| match (&dump.secant, &dump.preconditioned) {
        (Measured::Value(_), Measured::NotMeasured(reason)) => Some(reason.as_ref()),
        _ => None,
    });
    let needs = "needs two dumps with the weights at which each was taken, and SGD with momentum or Adam";
    reason.map_or_else(|| needs.to_owned(), |reason| format!("{needs}: {reason}"))
}

/// The learning rate, and the η·λ at which SGD of this kind stops to be stable.
fn stability(checkpoint: &CheckpointAnalysis) -> Option<(f64, f64)> {
    let [optimizer] = state(checkpoint)?.optimizers.as_slice() else { return None };
    let [group] = optimizer.groups.as_slice() else { return None };
    (optimizer.algorithm == Algorithm::Sgd).then_some(())?;
    Some((group.learning_rate?, edge(group)))
}

/// 2 for gradient descent, 2+2β with Polyak's momentum (Cohen et al., appendix B).
fn edge(group: &ParameterGroup) -> f64 {
    2.0 + 2.0 * group.momentum.unwrap_or(0.0)
}

const ADVICE: &str = "lower the learning rate, or warm it up longer";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::model::Sharpness;
    use crate::rules::test_support::{checkpoint, dump, judge_run, moments, run_of};

    #[test]
    fn curvature_above_the_edge_is_told_for_sgd_and_adam_without_its_own_is_not_evaluated() {
        let mut saved = checkpoint(Vec::new())
            .with_moments(vec![moments("a.weight")], |group, _| {
                (group.learning_rate, group.momentum) = (Some(0.1), Some(0.9));
            })
            .at_step(9);
        let mut run = run_of(1, Vec::new);
        run.dumps = vec![dump(10), dump(11)];
        run.dumps[1].secant = Measured::Value(60.0);
        run.checkpoints = vec![saved.clone()];
        assert_eq!(judge_run(&RULE, &run, &[]).not_evaluated.len(), 1, "Adam");
        if let Measured::Value(state) = &mut saved.optimizer {
            state.optimizers[0].algorithm = Algorithm::Sgd;
        }
        run.checkpoints = vec![saved];
        assert_eq!(judge_run(&RULE, &run, &[]).told(), [(Severity::Warning, "steps 11 to 11".to_owned())]);
        run.dumps[1].secant = Measured::Value(40.0);
        assert!(judge_run(&RULE, &run, &[]).told().is_empty(), "at the edge");
    }

    #[test]
    fn adam_is_judged_by_its_preconditioned_curvature() {
        let saved = checkpoint(Vec::new())
            .with_moments(vec![moments("a.weight")], |group, _| group.learning_rate = Some(1e-3))
            .at_step(9);
        let mut run = run_of(1, Vec::new);
        (run.checkpoints, run.dumps) = (vec![saved], vec![dump(10)]);
        run.dumps[0].secant = Measured::Value(1.0);
        let sharpness =
            |value| Measured::Value(Sharpness { value, edge: 38_000.0, edge_step: Measured::Value(10) });
        run.dumps[0].preconditioned = sharpness(1.31 * 38_000.0);
        assert_eq!(judge_run(&RULE, &run, &[]).told(), [(Severity::Warning, "steps 10 to 10".to_owned())]);
        run.dumps[0].preconditioned = sharpness(38_000.0);
        assert!(judge_run(&RULE, &run, &[]).is_clean(), "at the edge");
    }
}
