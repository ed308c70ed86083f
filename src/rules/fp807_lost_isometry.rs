//! A deep network whose singular values lie far farther apart than depth alone spreads them.

use super::jacobians::{jacobian, probe, wanted};
use super::{Check, Confidence, Findings, Needs, Rule, Severity, Subject, Threshold, Thresholds};
use crate::analysis::model::{CheckpointAnalysis, JacobianSpectrum};
use crate::number::short;

pub(super) static RULE: Rule = Rule {
    code: "FP807",
    name: "lost-isometry",
    summary: "the singular values of the end-to-end Jacobian lie farther apart than depth alone spreads them",
    page: include_str!("../../docs/rules/FP807-lost-isometry.md"),
    severity: Severity::Note,
    confidence: Confidence::Heuristic,
    needs: Needs::JACOBIAN,
    thresholds: &[Threshold {
        name: "spread",
        default: 10.0,
        unit: "variance of sigma^2 over its squared mean, a layer",
        source: "failure catalogue, B5 and T9: 2 for Gaussian ReLU layers, 1 for linear ones, 0 for orthogonal ones",
    }],
    check: Check::Checkpoint(check),
};

/// Fewer layers spread too little to tell.
const FEWEST: usize = 3;

fn check(checkpoint: &CheckpointAnalysis, thresholds: &Thresholds, findings: &mut Findings) {
    let Some(jacobian) = jacobian(checkpoint) else { return };
    let subject = Subject::Checkpoint;
    let Some(whole) = wanted(&jacobian.end_to_end, &subject, "end-to-end Jacobian", findings) else { return };
    let Some(depths) = wanted(&jacobian.depths, &subject, "gain by depth", findings) else { return };
    if depths.len() < FEWEST {
        return;
    }
    let mut spreads = Vec::new();
    for draw in &whole.draws {
        let Some(spectrum) = wanted(draw, &subject, "end-to-end spectrum", findings) else { return };
        let spectrum: &JacobianSpectrum = spectrum;
        let Some(spread) = wanted(&spectrum.spread, &subject, "spread of its singular values", findings)
        else {
            return;
        };
        spreads.push(*spread);
    }
    if spreads.is_empty() {
        return;
    }
    let spread = spreads.iter().sum::<f64>() / spreads.len() as f64;
    let limit = thresholds.get("spread") * depths.len() as f64;
    if spread > limit {
        let message = format!(
            "the singular values end to end spread by {} (variance of sigma^2 over its squared mean, {}); {} layers of independent weights spread by at most about {} (limit {})",
            short(spread),
            probe(&jacobian.setting),
            depths.len(),
            short(2.0 * depths.len() as f64),
            short(limit),
        );
        findings
            .push(
                subject,
                message,
                "a few directions carry all signal and gradient: orthogonal weights with the critical gain, or skip connections",
            )
            .against("spread of sigma^2", spread, limit, "1");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::test_jacobian::spread;
    use crate::rules::test_support::{judge, judge_with};

    #[test]
    fn ten_times_the_depth_is_a_note() {
        assert_eq!(judge(&RULE, &spread(85.0, 8)).told(), [(Severity::Note, "checkpoint".to_owned())]);
        assert!(judge(&RULE, &spread(16.0, 8)).is_clean(), "Gaussian ReLU layers");
        assert!(judge_with(&RULE, &spread(85.0, 8), &[("spread", 20.0)]).is_clean());
    }

    #[test]
    fn without_all_singular_values_it_is_not_evaluated() {
        let found = judge(&RULE, &spread(f64::NAN, 8));
        assert!(found.told().is_empty() && !found.is_clean());
    }
}
