//! Steps that are a large share of the weights, and by the slope under them a large share of the loss.

use std::collections::HashMap;

use super::logs::{LEVEL_POINTS, finite_losses, log, no_norms, norm_spikes};
use super::moments::parameters;
use super::{Check, Confidence, Findings, Needs, Rule, Severity, Subject, Threshold, Thresholds};
use crate::analysis::model::{Analysis, CheckpointAnalysis, LogAnalysis, LogPoint, Number, TensorAnalysis};
use crate::robust::median;

pub(super) static RULE: Rule = Rule {
    code: "FP314",
    name: "overshooting-steps",
    summary: "each step is a large share of the weights and, by the slope under it, of the loss",
    page: include_str!("../../docs/rules/FP314-overshooting-steps.md"),
    severity: Severity::Warning,
    confidence: Confidence::Heuristic,
    needs: Needs::NORMS.and(Needs::LOG),
    thresholds: &[
        Threshold {
            name: "loss-share",
            default: 0.5,
            unit: "lr |u| |g| / first loss",
            source: "at most 0.31 in 143 healthy small runs; as far as the slope goes, a step changes the loss by no more",
        },
        Threshold {
            name: "weight-share",
            default: 0.03,
            unit: "lr |u| / |w|",
            source: "at most 0.026 in healthy small runs whose loss share is above 0.02; 1e-3 is usual",
        },
        Threshold { name: "z", default: 6.0, unit: "robust deviations", source: "FP501" },
        Threshold { name: "ratio", default: 2.5, unit: "times the median", source: "FP501" },
    ],
    check: Check::Run(check),
};

/// Norms without which there is no level of them.
const FEWEST_NORMS: usize = 5;

fn check(analysis: &Analysis, thresholds: &Thresholds, findings: &mut Findings) {
    let Some(log) = log(analysis) else { return };
    if let Some(reason) = no_norms(log) {
        return findings.not_evaluated(Subject::Run, reason);
    }
    let Some(first) = first_loss(log) else {
        let reason = "the log has no positive losses from the beginning of the run on";
        return findings.not_evaluated(Subject::Run, reason);
    };
    // What a spike leaves behind are large steps too, of a learning rate that need not be.
    let spikes = norm_spikes(log, thresholds.get("z"), thresholds.get("ratio"));
    let calm = spikes.first().map_or(u64::MAX, |spike| spike.onset);
    if analysis.checkpoints.iter().any(has_batch_norm) {
        let reason = "weights before a batch norm have no scale of their own, and such networks bear steps that others do not";
        return findings.not_evaluated(Subject::Run, reason);
    }
    let steps = analysis.checkpoints.iter().filter_map(|saved| next_step(saved, log, first));
    let steps: Vec<Step> = steps.filter(|step| step.at < calm).collect();
    if steps.is_empty() {
        let reason = "no checkpoint with five norms and no spike before it tells how long its steps are";
        return findings.not_evaluated(Subject::Run, reason);
    }
    let limits = [thresholds.get("loss-share"), thresholds.get("weight-share")];
    let is_beyond = |step: &&Step| step.loss_share > limits[0] && step.weight_share > limits[1];
    if let Some(beyond) = steps.iter().find(is_beyond) {
        tell(beyond, limits, findings);
    }
}

/// Whether a checkpoint holds the running statistics of a batch norm.
fn has_batch_norm(saved: &CheckpointAnalysis) -> bool {
    saved.tensors.iter().any(|tensor| tensor.canonical_name.ends_with("running_var"))
}

fn tell(beyond: &Step, limits: [f64; 2], findings: &mut Findings) {
    let Step { at, loss_share, weight_share } = *beyond;
    let message = format!(
        "at step {at} the next step is {weight_share:.3} of the weights, more than {}, and along the gradient it is worth {loss_share:.2} of the first loss, more than {}",
        limits[1], limits[0],
    );
    let advice = "lower the learning rate, or warm it up to a lower peak, before the loss rises";
    findings
        .push(Subject::Steps(at, at), message, advice)
        .at_step(at)
        .against("step times slope over the first loss", loss_share, limits[0], "")
        .evidence("step over weights", weight_share, "");
}

/// What a checkpoint's next step is.
#[derive(Debug, Clone, Copy)]
struct Step {
    at: u64,
    loss_share: f64,
    weight_share: f64,
}

fn next_step(saved: &CheckpointAnalysis, log: &LogAnalysis, first_loss: f64) -> Option<Step> {
    let &at = saved.step.value()?;
    let until = log.points.partition_point(|point| point.step <= at);
    let finite = |point: &LogPoint| point.grad_norm.and_then(Number::finite);
    let norms: Vec<f64> = log.points[..until].iter().rev().filter_map(finite).take(LEVEL_POINTS).collect();
    let slope = median(norms.iter().copied()).filter(|_| norms.len() >= FEWEST_NORMS)?;
    let (length, weights) = lengths(saved)?;
    Some(Step { at, loss_share: length * slope / first_loss, weight_share: length / weights })
}

/// Norms of the next step and of the weights that it changes, over the parameters of which both are known.
fn lengths(saved: &CheckpointAnalysis) -> Option<(f64, f64)> {
    let rms = |tensor: &TensorAnalysis| tensor.statistics.value()?.rms.value().copied();
    let own = saved.tensors.iter().filter(|tensor| tensor.is_parameter());
    let sizes: HashMap<&str, f64> =
        own.filter_map(|tensor| Some((tensor.canonical_name.as_str(), rms(tensor)?))).collect();
    let mut squares = [0.0; 2];
    for (parameter, _, _) in parameters(saved) {
        let size = parameter.tensor.as_ref().and_then(|known| sizes.get(known.canonical_name.as_str()));
        if let (Some(rms), Some(ratio)) = (size, parameter.update_ratio.value()) {
            let square = rms * rms * parameter.elements as f64;
            squares[0] += ratio * ratio * square;
            squares[1] += square;
        }
    }
    (squares[1] > 0.0).then(|| (squares[0].sqrt(), squares[1].sqrt()))
}

/// The level of the loss that the run began with: what there was to lose. Near zero, where a run has learned all, any step is
/// worth more than the loss that is left. `None` where the log begins later.
fn first_loss(log: &LogAnalysis) -> Option<f64> {
    let stride = log.semantics.stride.unwrap_or(1);
    let begins = log.points.first()?.step <= stride.saturating_mul(LEVEL_POINTS as u64);
    median(finite_losses(&log.points).take(LEVEL_POINTS)).filter(|loss| begins && *loss > 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::model::{Measured, Role};
    use crate::rules::test_support::{checkpoint, judge_run, logged, moments, point, tensor};

    /// 40 steps from `from` on whose norms are `norm`, of a loss that falls from 2 to next to nothing behind the fifteenth, and checkpoints of a weight of
    /// norm 0.1·64 at the 20th and the 40th, whose next steps are these shares of it.
    fn run(from: u64, norm: f64, ratios: [f64; 2]) -> Analysis {
        let points = (0..40).map(|at| {
            let loss = if at < 15 { 2.0 } else { 1e-4 };
            point(from + at).with_norm(norm).with_loss(loss)
        });
        let mut run = logged(points.collect());
        let saved = ratios.iter().zip([19, 39]).map(|(ratio, at)| {
            let weights = vec![tensor("a.weight", Role::Linear, &[64, 64])];
            let saved = checkpoint(weights).with_moments(vec![moments("a.weight")], |_, parameter| {
                parameter.update_ratio = Measured::Value(*ratio);
            });
            saved.at_step(from + at)
        });
        run.checkpoints = saved.collect();
        run
    }

    fn told(run: &Analysis) -> Vec<(Severity, String)> {
        judge_run(&RULE, run, &[]).told()
    }

    #[test]
    fn steps_that_are_large_for_weights_and_loss_are_told_at_the_first_checkpoint() {
        // 0.05·6.4·3.2 is 0.512 of a loss of 2.
        let first = [(Severity::Warning, "steps 20 to 20".to_owned())];
        assert_eq!(told(&run(1, 3.2, [0.05, 0.06])), first);
        assert_eq!(told(&run(1, 3.2, [0.04, 0.05]))[0].1, "steps 40 to 40");
        assert!(judge_run(&RULE, &run(1, 3.0, [0.05, 0.05]), &[]).is_clean(), "0.48 of the first loss");
        assert!(
            judge_run(&RULE, &run(1, 90.0, [0.029, 0.029]), &[]).is_clean(),
            "a small share of the weights"
        );
        assert_eq!(judge_run(&RULE, &run(1, 2.4, [0.05, 0.05]), &[("loss-share", 0.3)]).told(), first);
    }

    #[test]
    fn a_loss_that_is_nearly_gone_is_not_what_a_step_is_held_against() {
        let learned = run(1, 0.1, [0.05, 0.05]);
        assert!(judge_run(&RULE, &learned, &[]).is_clean());
        let [findings, early] = [1000, 15].map(|from| judge_run(&RULE, &run(from, 9.0, [0.05, 0.05]), &[]));
        assert!(
            findings.told().is_empty() && findings.not_evaluated.len() == 1,
            "its beginning is not known"
        );
        assert_eq!(early.told().len(), 1);
    }

    #[test]
    fn large_steps_behind_a_spike_are_its_own() {
        let told = |spike: usize| {
            let mut run = run(1, 3.2, [0.05, 0.05]);
            let point = &mut run.log.as_mut().unwrap().points[spike];
            (point.grad_norm_z, point.grad_norm_ratio) = (Some(7.0), Some(3.0));
            judge_run(&RULE, &run, &[]).told().len()
        };
        assert_eq!((told(18), told(20)), (0, 1));
    }

    #[test]
    fn what_cannot_be_measured_is_not_evaluated() {
        let mut clipped = run(1, 9.0, [0.05, 0.05]);
        clipped.log.as_mut().unwrap().semantics.before_clipping = Some(false);
        let mut stateless = run(1, 9.0, [0.05, 0.05]);
        for saved in &mut stateless.checkpoints {
            saved.optimizer = Measured::not("SGD without momentum keeps none");
        }
        let mut normed = run(1, 9.0, [0.05, 0.05]);
        for saved in &mut normed.checkpoints {
            saved.tensors.push(tensor("bn.running_var", Role::Buffer, &[64]));
        }
        let mut unknown = run(1, 9.0, [0.05, 0.05]);
        unknown.checkpoints.iter_mut().for_each(|saved| saved.edit_moments(|own| own.tensor = None));
        let mut sparse = run(1, 9.0, [0.05, 0.05]);
        sparse.log.as_mut().unwrap().points.iter_mut().skip(4).for_each(|point| point.grad_norm = None);
        for run in [clipped, stateless, normed, unknown, sparse] {
            let findings = judge_run(&RULE, &run, &[]);
            assert!(findings.told().is_empty() && findings.not_evaluated.len() == 1);
        }
    }
}
