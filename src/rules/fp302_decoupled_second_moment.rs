//! C2: a second moment that does nothing but decay, so that steps grow until they overshoot.

use std::collections::BTreeMap;

use super::intervals::{never_measured, subject, tensors};
use super::{Check, Confidence, Findings, Needs, Rule, Severity, Threshold, Thresholds};
use crate::analysis::model::{Analysis, IntervalAnalysis, TensorInterval};

pub(super) static RULE: Rule = Rule {
    code: "FP302",
    name: "decoupled-second-moment",
    summary: "a tensor's second moments only decay while it is still being stepped",
    page: include_str!("../../docs/rules/FP302-decoupled-second-moment.md"),
    severity: Severity::Warning,
    confidence: Confidence::Heuristic,
    needs: Needs::NORMS.and(Needs::OPTIMIZER).and(Needs::INTERVALS),
    thresholds: &[
        Threshold {
            name: "decay-ratio",
            default: 1.02,
            unit: "times free decay",
            source: "Bai et al., arXiv:2506.04805; 1 is no gradient at all",
        },
        Threshold {
            name: "gradient-ratio",
            default: 0.1,
            unit: "times the median of the intervals before",
            source: "after a spike v decays too, under gradients as large as before",
        },
        Threshold {
            name: "growth",
            default: 1.3,
            unit: "times the step per gradient at first",
            source: "training hovers at the edge of stability: what FP301 takes to be above it",
        },
    ],
    check: Check::Run(check),
};

/// Successive intervals in which nothing but decay was seen.
struct Stretch {
    from_step: u64,
    /// How much steps per gradient grew, β₂^(−k/2).
    growth: f64,
    told: bool,
}

fn check(analysis: &Analysis, thresholds: &Thresholds, findings: &mut Findings) {
    let limit = thresholds.get("growth");
    let mut stretches: BTreeMap<&str, Stretch> = BTreeMap::new();
    for (interval, tensor) in tensors(analysis) {
        let name = tensor.canonical_name.as_str();
        let Some((beta2, steps, ratio)) = free_decay(analysis, interval, tensor, thresholds) else {
            stretches.remove(name);
            continue;
        };
        let new = Stretch { from_step: interval.from_step, growth: 1.0, told: false };
        let stretch = stretches.entry(name).or_insert(new);
        stretch.growth *= beta2.powf(-0.5 * steps);
        if stretch.told || stretch.growth < limit {
            continue;
        }
        stretch.told = true;
        let doubling = 2.0 * std::f64::consts::LN_2 / -beta2.ln();
        let message = format!(
            "{}: its second moments did nothing but decay between steps {} and {}: its steps per gradient double every {doubling:.0} steps",
            tensor.name, stretch.from_step, interval.to_step,
        );
        findings
            .push(subject(tensor), message, ADVICE)
            .at_step(stretch.from_step)
            .against("growth of the step per gradient", stretch.growth, limit, "times")
            .evidence("second moments over free decay", ratio, "times")
            .evidence("steps until the preconditioned sharpness has doubled", doubling, "optimizer steps");
    }
    never_measured(analysis, |tensor| &tensor.decay_ratio, findings);
}

/// β₂, steps and decay ratio of a tensor that still moves while its second moments do nothing but decay.
fn free_decay(
    analysis: &Analysis,
    interval: &IntervalAnalysis,
    tensor: &TensorInterval,
    thresholds: &Thresholds,
) -> Option<(f64, f64, f64)> {
    let (&ratio, &steps) = (tensor.decay_ratio.value()?, tensor.steps.value()?);
    // What does not move is frozen, or rests in its minimum: nothing can overshoot.
    let moves = tensor.relative_change.value().is_some_and(|&change| change > 0.0);
    // After a spike v decays as well, although gradients are what they were.
    let fed = tensor.gradient_ratio.value().is_some_and(|&ratio| ratio > thresholds.get("gradient-ratio"));
    let decays = ratio <= thresholds.get("decay-ratio") && steps > 0.0;
    if !decays || fed || !moves || is_sparse(tensor) {
        return None;
    }
    Some((decay_per_step(analysis, &interval.to, tensor)?, steps, ratio))
}

/// β₂ of the group that the tensor is in, at the checkpoint `name`.
fn decay_per_step(analysis: &Analysis, name: &str, tensor: &TensorInterval) -> Option<f64> {
    let checkpoint = analysis.checkpoints.iter().find(|checkpoint| checkpoint.name == name)?;
    let beta2 = super::moments::parameters(checkpoint)
        .find(|(parameter, _, _)| {
            parameter.tensor.as_ref().is_some_and(|known| known.canonical_name == tensor.canonical_name)
        })
        .and_then(|(_, _, group)| group.beta2.or(group.alpha));
    beta2.filter(|beta2| (0.0..1.0).contains(beta2) && *beta2 > 0.0)
}

/// Rows that no batch reached decay for good reasons.
fn is_sparse(tensor: &TensorInterval) -> bool {
    use crate::analysis::model::Role;
    matches!(tensor.role, Role::TokenEmbedding | Role::PositionEmbedding | Role::Expert | Role::Router)
}

const ADVICE: &str = "lower beta2 (0.95 to 0.98) or the learning rate, or clip updates by their RMS, before the first gradient that counts arrives";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::model::{Measured, Role};
    use crate::rules::test_support::{interval_tensor, judge_run, run_of};

    #[test]
    fn free_decay_of_what_still_moves_is_told_with_the_time_in_which_steps_double() {
        let mut run = run_of(2, || vec![interval_tensor("fc.weight")]);
        assert!(judge_run(&RULE, &run, &[]).is_clean());
        run.intervals[1].tensors[0].steps = Measured::Value(600.0);
        run.intervals[1].tensors[0].decay_ratio = Measured::Value(1.0001);
        assert!(judge_run(&RULE, &run, &[]).is_clean(), "after a spike");
        run.intervals[1].tensors[0].gradient_ratio = Measured::Value(0.01);
        let findings = judge_run(&RULE, &run, &[]);
        assert_eq!(findings.told(), [(Severity::Warning, "fc.weight".to_owned())]);
        assert!(
            findings.found[0].message.contains("double every 1386 steps"),
            "{}",
            findings.found[0].message
        );
        run.intervals[1].tensors[0].relative_change = Measured::Value(0.0);
        assert!(judge_run(&RULE, &run, &[]).is_clean(), "frozen");
        run.intervals[1].tensors[0].relative_change = Measured::Value(1e-3);
        run.intervals[1].tensors[0].role = Role::TokenEmbedding;
        assert!(judge_run(&RULE, &run, &[]).is_clean(), "rows that no batch reached");
    }

    #[test]
    fn decay_that_grows_no_step_is_silent_until_intervals_together_do() {
        let mut run = run_of(2, || vec![interval_tensor("fc.weight")]);
        for interval in &mut run.intervals {
            interval.tensors[0].decay_ratio = Measured::Value(1.0);
            interval.tensors[0].gradient_ratio = Measured::not("lost in rounding");
            // 0.999^(-300/2) is 1.16, its square 1.35.
            interval.tensors[0].steps = Measured::Value(300.0);
        }
        let findings = judge_run(&RULE, &run, &[]);
        assert_eq!(findings.told(), [(Severity::Warning, "fc.weight".to_owned())]);
        assert_eq!(findings.found[0].step, Some(run.intervals[0].from_step));
        run.intervals[0].tensors[0].decay_ratio = Measured::Value(2.0);
        assert!(judge_run(&RULE, &run, &[]).is_clean(), "fed in between");
    }
}
