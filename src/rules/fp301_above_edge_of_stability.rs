//! C1: a learning rate above the edge of stability, by the curvature between two gradient dumps.

use super::moments::state;
use super::{Check, Confidence, Findings, Needs, Rule, Severity, Subject, Threshold, Thresholds};
use crate::analysis::model::{Algorithm, Analysis, CheckpointAnalysis, ParameterGroup};

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
        let Some(&secant) = dump.secant.value() else { continue };
        let mut before = analysis
            .checkpoints
            .iter()
            .filter(|checkpoint| checkpoint.step.value().is_some_and(|&step| step < dump.step));
        let Some((rate, edge)) = before.next_back().and_then(stability) else { continue };
        judged = true;
        let ratio = secant * rate / edge;
        if ratio <= limit {
            continue;
        }
        let message = format!(
            "at step {} the curvature along the step is {secant:.3}: the learning rate {rate} is {ratio:.1} times the edge of stability",
            dump.step,
        );
        findings.push(Subject::Steps(dump.step, dump.step), message, ADVICE).at_step(dump.step).against(
            "learning rate times curvature over the edge",
            ratio,
            limit,
            "times",
        );
    }
    if !judged {
        let reason = "needs two dumps with the weights at which each was taken, and SGD with momentum: other optimizers are bounded by another curvature, or save no rate";
        findings.not_evaluated(Subject::Run, reason);
    }
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
    use crate::analysis::model::Measured;
    use crate::rules::test_support::{checkpoint, dump, judge_run, moments, run_of};

    #[test]
    fn curvature_above_the_edge_is_told_for_sgd_and_adam_is_not_evaluated() {
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
}
