//! C2: a second moment that does nothing but decay, so that steps grow until they overshoot.

use super::intervals::{never_measured, span, subject, tensors};
use super::{Check, Confidence, Findings, Needs, Rule, Severity, Threshold, Thresholds};
use crate::analysis::model::{Analysis, TensorInterval};

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
            name: "fewest-steps",
            default: 0.02,
            unit: "of 1/(1-beta2) steps",
            source: "over fewer steps steady gradients add less than 2 %",
        },
    ],
    check: Check::Run(check),
};

fn check(analysis: &Analysis, thresholds: &Thresholds, findings: &mut Findings) {
    let limit = thresholds.get("decay-ratio");
    for (interval, tensor) in tensors(analysis) {
        let Some((ratio, steps)) = tensor.decay_ratio.value().zip(tensor.steps.value()) else { continue };
        // What does not move is frozen, or rests in its minimum: nothing can overshoot.
        let moves = tensor.relative_change.value().is_some_and(|&change| change > 0.0);
        let Some(beta2) = decay_per_step(analysis, &interval.to, tensor) else { continue };
        let long_enough = *steps > thresholds.get("fewest-steps") / (1.0 - beta2);
        // After a spike v decays as well, although gradients are what they were.
        let fed =
            tensor.gradient_ratio.value().is_some_and(|&ratio| ratio > thresholds.get("gradient-ratio"));
        if *ratio > limit || fed || !moves || !long_enough || is_sparse(tensor) {
            continue;
        }
        let doubling = 2.0 * std::f64::consts::LN_2 / -beta2.ln();
        let message = format!(
            "{}: its second moments did nothing but decay {}: its steps per gradient double every {doubling:.0} steps",
            tensor.name,
            span(interval),
        );
        findings
            .push(subject(tensor), message, ADVICE)
            .at_step(interval.from_step)
            .against("second moments over free decay", *ratio, limit, "times")
            .evidence("steps until the preconditioned sharpness has doubled", doubling, "optimizer steps");
    }
    never_measured(analysis, |tensor| &tensor.decay_ratio, findings);
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
}
