//! A6: norm gains in half precision that are still exactly what they were at initialisation.

use super::weights::{is_zero, norm_gains, wanted};
use super::{Check, Confidence, Findings, Needs, Rule, Severity, Subject, Threshold, Thresholds};
use crate::analysis::model::{CheckpointAnalysis, DType, Section, Statistics, TensorAnalysis};

pub(super) static RULE: Rule = Rule {
    code: "FP106",
    name: "stagnant-norm-gains",
    summary: "after many steps, every half-precision norm gain is still bit-equal to its initial value",
    page: include_str!("../../docs/rules/FP106-stagnant-norm-gains.md"),
    severity: Severity::Warning,
    confidence: Confidence::Heuristic,
    needs: Needs::STATS.and(Needs::STEP),
    thresholds: &[Threshold {
        name: "steps",
        default: 100.0,
        unit: "optimizer steps",
        source: "a gain that moves by lr = 1e-4 a step crosses the rounding step of bf16 below 1, 2^-8, within 40 steps",
    }],
    check: Check::Checkpoint(check),
};

fn check(checkpoint: &CheckpointAnalysis, thresholds: &Thresholds, findings: &mut Findings) {
    let Some(&step) = checkpoint.step.value() else {
        return findings.not_evaluated(Subject::Checkpoint, "the number of steps taken has no value");
    };
    let gains: Vec<_> = norm_gains(checkpoint).filter(|tensor| is_half(tensor)).collect();
    let limit = thresholds.get("steps");
    if gains.is_empty() || (step as f64) < limit {
        return;
    }
    // No short circuit: every gain that cannot be judged is noted.
    let stagnant = gains.iter().filter(|tensor| is_stagnant(tensor, findings)).count();
    if stagnant == gains.len() {
        report(checkpoint, &gains, step, limit, findings);
    }
}

fn is_half(tensor: &TensorAnalysis) -> bool {
    matches!(tensor.dtype, Some(DType::F16 | DType::Bf16))
}

fn is_stagnant(tensor: &TensorAnalysis, findings: &mut Findings) -> bool {
    let Some(statistics) = wanted(&tensor.statistics, tensor, "statistics", findings) else { return false };
    is_initial(statistics, tensor, findings)
}

/// All ones; or all zeros, which is one to a norm that computes with 1 + w, as Gemma's does. Any other norm whose gains
/// are all zero puts out nothing, so that there is no second reading of it.
fn is_initial(statistics: &Statistics, tensor: &TensorAnalysis, findings: &mut Findings) -> bool {
    is_zero(statistics)
        || wanted(&statistics.all_one, tensor, "comparison with 1.0", findings).copied().unwrap_or(false)
}

fn report(
    checkpoint: &CheckpointAnalysis,
    gains: &[&TensorAnalysis],
    step: u64,
    limit: f64,
    findings: &mut Findings,
) {
    let exported = has_wide_optimizer_state(checkpoint);
    let mut message = format!(
        "after {step} steps all {} half-precision norm gains, from {} on, are bit-equal to their initial value",
        gains.len(),
        gains[0].name,
    );
    if exported {
        message.push_str("; the optimizer state is f32, so that this may be a rounded copy of f32 weights");
    }
    let advice = if exported {
        "look at the gains in the f32 weights: within 2^-9 of 1 a bf16 copy rounds to exactly 1"
    } else {
        "keep f32 master weights, or update with Kahan summation or stochastic rounding; freeze the norms by name if this is meant"
    };
    let finding = findings.push(Subject::Checkpoint, message, advice);
    finding.against("steps taken", step as f64, limit, "optimizer steps").evidence(
        "stagnant norm gains",
        gains.len() as f64,
        "tensors",
    );
    if exported {
        finding.severity(Severity::Note);
    }
}

/// Moments in f32 belong to parameters in f32: torch's optimizers give a moment its parameter's dtype.
fn has_wide_optimizer_state(checkpoint: &CheckpointAnalysis) -> bool {
    let is_wide = |tensor: &TensorAnalysis| {
        tensor.section == Section::Optimizer && tensor.dtype == Some(DType::F32) && tensor.elements > 1
    };
    checkpoint.tensors.iter().any(is_wide)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::model::{Measured, Role};
    use crate::rules::test_support::{checkpoint, judge, judge_with, tensor};

    fn gain(name: &str, value: f64) -> TensorAnalysis {
        tensor(name, Role::NormGain, &[64]).with_dtype(DType::Bf16).filled(value)
    }

    fn two_gains(first: f64, second: f64) -> CheckpointAnalysis {
        checkpoint(vec![gain("ln_1.weight", first), gain("ln_2.weight", second)])
    }

    #[test]
    fn gains_that_are_all_one_at_the_limit_are_a_warning() {
        let told = judge(&RULE, &two_gains(1.0, 1.0).at_step(100)).told();
        assert_eq!(told, [(Severity::Warning, "checkpoint".to_owned())]);
    }

    #[test]
    fn gains_stored_as_the_difference_from_one_are_all_zero() {
        assert_eq!(judge(&RULE, &two_gains(0.0, 0.0).at_step(500)).told().len(), 1);
    }

    #[test]
    fn one_gain_that_moved_is_enough_to_be_silent() {
        assert!(judge(&RULE, &two_gains(1.0, 1.007_812_5).at_step(500)).is_clean());
    }

    #[test]
    fn before_the_limit_nothing_is_said() {
        assert!(judge(&RULE, &two_gains(1.0, 1.0).at_step(99)).is_clean());
        assert!(judge_with(&RULE, &two_gains(1.0, 1.0).at_step(100), &[("steps", 101.0)]).is_clean());
    }

    #[test]
    fn f32_gains_move_by_any_learning_rate_and_are_not_judged() {
        let wide = gain("ln_1.weight", 1.0).with_dtype(DType::F32);
        assert!(judge(&RULE, &checkpoint(vec![wide]).at_step(500)).is_clean());
    }

    #[test]
    fn beside_f32_optimizer_state_it_is_a_note_that_says_so() {
        let mut saved = two_gains(1.0, 1.0).at_step(500);
        saved.tensors.push(tensor("exp_avg", Role::OptimizerState, &[64]).in_section(Section::Optimizer));
        let findings = judge(&RULE, &saved);
        assert_eq!(findings.told(), [(Severity::Note, "checkpoint".to_owned())]);
        assert!(findings.found[0].message.contains("the optimizer state is f32"));
    }

    #[test]
    fn a_gain_that_was_not_measured_is_not_evaluated() {
        let mut saved = two_gains(1.0, 1.0).at_step(500);
        saved.tensors[1].statistics = Measured::not("it could not be read");
        let findings = judge(&RULE, &saved);
        assert!(findings.told().is_empty());
        assert_eq!(findings.not_evaluated.len(), 1);
    }
}
