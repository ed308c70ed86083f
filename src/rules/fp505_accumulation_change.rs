//! E5: norm or loss changed by the factor by which accumulation or world size changed.

use super::logs::log;
use super::{Check, Confidence, Findings, Needs, Rule, Severity, Subject, Threshold, Thresholds};
use crate::analysis::model::{AccumulationChange, Analysis};
use crate::number::short;

pub(super) static RULE: Rule = Rule {
    code: "FP505",
    name: "accumulation-change",
    summary: "gradient norm or loss changed by a whole factor and stayed there",
    page: include_str!("../../docs/rules/FP505-accumulation-change.md"),
    severity: Severity::Warning,
    confidence: Confidence::Heuristic,
    needs: Needs::LOG,
    thresholds: &[
        Threshold {
            name: "smallest-factor",
            default: 1.8,
            unit: "times",
            source: "design: below 2 nothing whole changed",
        },
        Threshold {
            name: "tolerance",
            default: 0.12,
            unit: "of ln factor",
            source: "design: medians of 15 norms of log-deviation 0.2 differ by 0.09 by themselves",
        },
        Threshold {
            name: "noise",
            default: 4.0,
            unit: "times the noise",
            source: "design: a norm that moves as much by itself shows no factor",
        },
    ],
    check: Check::Run(check),
};

/// Factors that configurations change by.
const WHOLE: &[f64] = &[2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0, 64.0, 128.0];

/// Points before a change without which nothing is usual yet: gradients double in the first steps of a run by themselves,
/// as behind a layer that begins at zero.
const FEWEST_BEFORE: usize = 32;

fn check(analysis: &Analysis, thresholds: &Thresholds, findings: &mut Findings) {
    let Some(log) = log(analysis) else { return };
    if log.accumulation_changes.is_empty() {
        let logged = log.points.iter().any(|point| point.grad_norm.is_some() || point.loss.is_some());
        if !logged {
            findings.not_evaluated(Subject::Run, "the log has neither loss nor gradient norm");
        }
        return;
    }
    for change in &log.accumulation_changes {
        let sides = [
            ("gradient norm", change.grad_norm_ratio, change.grad_norm_noise),
            ("loss", change.loss_ratio, change.loss_noise),
        ];
        for (what, ratio, noise) in sides {
            let Some(ratio) = ratio.filter(|ratio| *ratio > 0.0) else { continue };
            let is_early = log.points.partition_point(|point| point.step < change.step) < FEWEST_BEFORE;
            if change.factor.is_none() && (is_early || what == "gradient norm" && loss_moved(change)) {
                continue;
            }
            if let Some(factor) = whole_factor(change, ratio, noise.unwrap_or(0.0), thresholds) {
                tell(change, what, ratio, factor, findings);
                break;
            }
        }
    }
}

/// A norm that grows with its loss is no matter of a divisor alone.
fn loss_moved(change: &AccumulationChange) -> bool {
    change.loss_ratio.is_some_and(|ratio| !(0.7..=1.3).contains(&ratio))
}

/// The factor that `ratio` is, where it is one.
fn whole_factor(change: &AccumulationChange, ratio: f64, noise: f64, thresholds: &Thresholds) -> Option<f64> {
    let (size, tolerance) = (ratio.ln().abs(), thresholds.get("tolerance"));
    if size < thresholds.get("smallest-factor").ln() || size < thresholds.get("noise") * noise {
        return None;
    }
    match change.factor {
        // The divisor is known to have changed: only its own factor counts, in either direction.
        Some(factor) => (size - factor.ln().abs()).abs().le(&tolerance).then_some(factor),
        // Averages over more micro-batches are smaller, legitimately: only a growth tells of a divisor that was forgotten.
        None if ratio < 1.0 => None,
        None => WHOLE.iter().copied().find(|whole| (size - whole.ln()).abs() <= tolerance / 2.0),
    }
}

fn tell(change: &AccumulationChange, what: &str, ratio: f64, factor: f64, findings: &mut Findings) {
    let cause = match change.factor {
        Some(factor) => format!("accumulation, world size or batch changed by a factor of {factor}"),
        None => format!("which is about {factor}"),
    };
    let message = format!(
        "the {what} changes by a factor of {} at step {} and stays there; {cause}",
        short(ratio),
        change.step
    );
    let advice = "check that gradients are divided by accumulation times world size (a mean, not a sum), and rescale the clipping threshold with them";
    findings.push(Subject::Steps(change.step, change.step), message, advice).at_step(change.step).against(
        &format!("{what}, behind over before"),
        ratio,
        factor,
        "times",
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::test_support::{judge_run, logged, point};

    fn told(factor: Option<f64>, ratio: f64, noise: f64) -> bool {
        told_at(50, factor, ratio, noise)
    }

    fn told_at(step: u64, factor: Option<f64>, ratio: f64, noise: f64) -> bool {
        let mut run = logged((1..=80).map(|step| point(step).with_norm(1.0)).collect());
        run.log.as_mut().unwrap().accumulation_changes = vec![AccumulationChange {
            step,
            factor,
            grad_norm_ratio: Some(ratio),
            grad_norm_noise: Some(noise),
            loss_ratio: None,
            loss_noise: None,
        }];
        !judge_run(&RULE, &run, &[]).told().is_empty()
    }

    #[test]
    fn the_factor_of_the_divisor_is_told_in_either_direction() {
        assert!(told(Some(4.0), 4.1, 0.05) && told(Some(4.0), 0.26, 0.05) && told(Some(0.25), 4.0, 0.05));
        // Less noise of a larger batch: the root of the factor.
        assert!(!told(Some(4.0), 0.5, 0.05) && !told(Some(4.0), 1.0, 0.05));
    }

    #[test]
    fn without_a_known_change_only_growth_by_a_whole_factor_counts() {
        assert!(told(None, 3.05, 0.05) && told(None, 8.0, 0.05));
        assert!(!told_at(16, None, 3.05, 0.05) && told_at(16, Some(3.0), 3.05, 0.05));
        assert!(!told(None, 0.33, 0.05) && !told(None, 3.5, 0.05) && !told(None, 2.0, 0.3));
    }
}
