//! A network that multiplies small changes far more than the same architecture does when it is initialised.

use super::jacobians::{jacobian, probe, wanted};
use super::{Check, Confidence, Findings, Needs, Rule, Severity, Subject, Threshold, Thresholds};
use crate::analysis::model::{CheckpointAnalysis, Degenerate, Measured};
use crate::number::short;

pub(super) static RULE: Rule = Rule {
    code: "FP801",
    name: "large-end-to-end-gain",
    summary: "the network multiplies small changes of its first state far more than its architecture does as initialised",
    page: include_str!("../../docs/rules/FP801-large-end-to-end-gain.md"),
    severity: Severity::Warning,
    confidence: Confidence::Heuristic,
    needs: Needs::JACOBIAN,
    thresholds: &[Threshold {
        name: "ratio",
        default: 100.0,
        unit: "times sigma_1 as initialised",
        source: "a transformer trained too hot has 165 (docs/jacobian.md); see the page for healthy ones",
    }],
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
    let (limit, ratio) = (thresholds.get("ratio"), norm.mean / initial.spectral_norm.mean);
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
            .against("sigma_1 over that as initialised", ratio, limit, "1")
            .evidence("sigma_1", norm.mean, "1")
            .evidence("sigma_1 as initialised", initial.spectral_norm.mean, "1");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::test_jacobian::network_of_gain;
    use crate::rules::test_support::{judge, judge_with};

    #[test]
    fn a_hundredfold_of_the_start_is_a_warning() {
        assert_eq!(judge(&RULE, &network_of_gain(1010.0, 10.0)).told()[0].0, Severity::Warning);
        assert!(judge(&RULE, &network_of_gain(990.0, 10.0)).is_clean());
        assert!(judge_with(&RULE, &network_of_gain(1010.0, 10.0), &[("ratio", 1e3)]).is_clean());
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
