//! A network that multiplies small changes far more than the same architecture does when it is initialised.

use super::jacobians::{jacobian, probe, wanted};
use super::{Check, Confidence, Findings, Needs, Rule, Severity, Subject, Threshold, Thresholds};
use crate::analysis::model::{CheckpointAnalysis, Degenerate, JacobianAnalysis, Measured};
use crate::number::short;

pub(super) static RULE: Rule = Rule {
    code: "FP801",
    name: "large-end-to-end-gain",
    summary: "the network multiplies small changes of its first state far more than its architecture does as initialised",
    page: include_str!("../../docs/rules/FP801-large-end-to-end-gain.md"),
    severity: Severity::Warning,
    confidence: Confidence::Heuristic,
    needs: Needs::JACOBIAN,
    thresholds: &[
        Threshold {
            name: "ratio",
            default: 100.0,
            unit: "times sigma_1 as initialised",
            source: "design choice: five times the 18.8 that healthy runs reach (docs/jacobian.md, runs of the zoo)",
        },
        Threshold {
            name: "note",
            default: 20.0,
            unit: "times sigma_1 as initialised",
            source: "design choice: above the 18.8 that healthy runs reach (docs/jacobian.md, runs of the zoo)",
        },
        Threshold {
            name: "gain-per-step",
            default: 10.0,
            unit: "sigma_1 over the steps of a recurrence",
            source: "design choice: thrice the 3.6 of a published LSTM (Resemblyzer, docs/jacobian.md)",
        },
    ],
    check: Check::Checkpoint(check),
};

const ADVICE: &str = "look at the blocks with the largest sigma_1 (flashpoint jacobian --per block); roll back to before it grew, lower the learning rate or lengthen the warmup";

fn check(checkpoint: &CheckpointAnalysis, thresholds: &Thresholds, findings: &mut Findings) {
    let Some(jacobian) = jacobian(checkpoint) else { return };
    let subject = Subject::Checkpoint;
    let Some(whole) = wanted(&jacobian.end_to_end, &subject, "end-to-end Jacobian", findings) else { return };
    if whole.spectral_norm == Measured::Degenerate(Degenerate::Overflow) {
        let message =
            format!("a product with the end-to-end Jacobian is not finite, on {}", probe(&jacobian.setting));
        findings.push(subject, message, ADVICE).severity(Severity::Critical);
        return;
    }
    let Some(norm) = wanted(&whole.spectral_norm, &subject, "end-to-end sigma_1", findings) else { return };
    let Some(initial) = wanted(&jacobian.initial, &subject, "gain as initialised", findings) else { return };
    let ratio = norm.mean / initial.spectral_norm.mean;
    let warned_above = warned_above(jacobian, thresholds.get("ratio"), thresholds.get("gain-per-step"));
    let is_warned = warned_above.is_some_and(|limit| norm.mean > limit);
    let (severity, limit) = if is_warned {
        (Severity::Warning, thresholds.get("ratio"))
    } else {
        (Severity::Note, thresholds.get("note"))
    };
    if ratio > limit {
        let message = format!(
            "small changes grow up to {}-fold end to end (sigma_1, {} to {} over {}), {} times as much as in the architecture as initialised (limit {})",
            short(norm.mean),
            short(norm.least),
            short(norm.most),
            probe(&jacobian.setting),
            short(ratio),
            short(limit),
        );
        findings
            .push(subject, message, ADVICE)
            .severity(severity)
            .against("sigma_1 over that as initialised", ratio, limit, "1")
            .evidence("sigma_1", norm.mean, "1")
            .evidence("sigma_1 as initialised", initial.spectral_norm.mean, "1");
    }
}

/// The σ₁ end to end above which the network is warned of, at these limits.
///
/// The steps of a recurrence add up: where each has a bounded influence on those behind it, the whole grows in proportion to their
/// number, and only where changes explode faster than that.
pub(crate) fn warned_above(jacobian: &JacobianAnalysis, ratio: f64, gain_per_step: f64) -> Option<f64> {
    let by_start = ratio * jacobian.initial.value()?.spectral_norm.mean;
    let steps = jacobian.setting.tokens.value().filter(|_| !jacobian.recurrences.is_empty());
    Some(steps.map_or(by_start, |&steps| by_start.max(gain_per_step * steps as f64)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::test_jacobian::{network_of_gain, recurrence};
    use crate::rules::test_support::{judge, judge_with};

    #[test]
    fn a_hundredfold_of_the_start_is_a_warning() {
        assert_eq!(judge(&RULE, &network_of_gain(1010.0, 10.0)).told()[0].0, Severity::Warning);
        assert_eq!(judge(&RULE, &network_of_gain(990.0, 10.0)).told()[0].0, Severity::Note);
        let raised = judge_with(&RULE, &network_of_gain(1010.0, 10.0), &[("ratio", 1e3)]);
        assert_eq!(raised.told()[0].0, Severity::Note);
    }

    #[test]
    fn a_twentyfold_of_the_start_is_worth_a_note() {
        assert_eq!(judge(&RULE, &network_of_gain(210.0, 10.0)).told()[0].0, Severity::Note);
        assert!(judge(&RULE, &network_of_gain(190.0, 10.0)).is_clean());
        assert!(judge_with(&RULE, &network_of_gain(210.0, 10.0), &[("note", 30.0)]).is_clean());
    }

    #[test]
    fn the_steps_of_a_recurrence_may_add_up_to_ten_each() {
        let over_steps = |gain: f64| {
            let mut known = recurrence(&[(1.0, -0.1, 0.01)]);
            let Measured::Value(own) = &mut known.jacobian else { panic!("it has one") };
            let Measured::Value(whole) = network_of_gain(gain, 1.0).jacobian else { panic!("it has one") };
            (own.end_to_end, own.initial) = (whole.end_to_end, whole.initial);
            judge(&RULE, &known).told()[0].0
        };
        // 32 steps.
        assert_eq!(over_steps(319.0), Severity::Note);
        assert_eq!(over_steps(321.0), Severity::Warning);
    }

    #[test]
    fn a_large_gain_that_the_architecture_has_from_the_start_is_none_of_it() {
        assert!(judge(&RULE, &network_of_gain(1000.0, 900.0)).is_clean());
    }

    #[test]
    fn what_is_not_finite_is_critical_and_what_has_no_start_is_not_evaluated() {
        let mut broken = network_of_gain(10.0, 10.0);
        let Measured::Value(own) = &mut broken.jacobian else { panic!("it has one") };
        let Measured::Value(whole) = &mut own.end_to_end else { panic!("it has one") };
        whole.spectral_norm = Measured::Degenerate(Degenerate::Overflow);
        assert_eq!(judge(&RULE, &broken).told()[0].0, Severity::Critical);
        let mut bare = network_of_gain(1e6, 10.0);
        let Measured::Value(own) = &mut bare.jacobian else { panic!("it has one") };
        own.initial = Measured::not("was not asked for");
        let findings = judge(&RULE, &bare);
        assert!(findings.told().is_empty() && !findings.is_clean());
    }
}
