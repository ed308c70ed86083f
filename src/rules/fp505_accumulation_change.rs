//! E5: norm or loss changed by the factor by which accumulation or world size changed.

use super::logs::log;
use super::{Check, Confidence, Findings, Needs, Rule, Severity, Subject, Threshold, Thresholds};
use crate::analysis::model::{AccumulationChange, Analysis, LogPoint, Number};
use crate::number::short;
use crate::robust::median;

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
        Threshold {
            name: "moves-on",
            default: 0.47,
            unit: "of ln, and half of ln factor",
            source: "the smallest jump of a level; nearer to where it came from, or as far again, is no level that it went to",
        },
        Threshold {
            name: "wider",
            default: 2.0,
            unit: "times the noise before",
            source: "a divisor multiplies every value alike, and leaves the spread of ln as it was; the noise of 15 points is known to a factor of 2",
        },
    ],
    check: Check::Run(check),
};

/// Factors that configurations change by.
const WHOLE: &[f64] = &[2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0, 64.0, 128.0];

/// Points before a change without which nothing is usual yet: gradients double in the first steps of a run by themselves,
/// as behind a layer that begins at zero.
const FEWEST_BEFORE: usize = 32;

/// Points of a level, and how many levels behind a change are looked at.
const LEVEL_POINTS: usize = 15;
const LEVELS: usize = 3;

/// Fewer points have no level.
const FEWEST_OF_LEVEL: usize = 5;

/// Noise of ln that values which hardly move may have behind a change.
const STILL: f64 = 0.03;

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
            ("gradient norm", norm as Quantity, change.grad_norm_ratio, change.grad_norm_noise),
            ("loss", loss as Quantity, change.loss_ratio, change.loss_noise),
        ];
        for (what, quantity, ratio, noise) in sides {
            let Some(ratio) = ratio.filter(|ratio| *ratio > 0.0) else { continue };
            let is_early = log.points.partition_point(|point| point.step < change.step) < FEWEST_BEFORE;
            if change.factor.is_none() && (is_early || what == "gradient norm" && loss_moved(change)) {
                continue;
            }
            if let Some(factor) = whole_factor(change, ratio, noise.unwrap_or(0.0), thresholds) {
                let behind = behind(&log.points, change.step, quantity);
                let is_level = || stays(&behind, factor, noise, thresholds);
                if change.factor.is_none() && !(is_level() && is_finite(&log.points, change.step)) {
                    continue;
                }
                tell(change, what, ratio, factor, findings);
                break;
            }
        }
    }
}

/// What is looked at of a point.
type Quantity = fn(&LogPoint) -> Option<Number>;

fn norm(point: &LogPoint) -> Option<Number> {
    point.grad_norm
}

fn loss(point: &LogPoint) -> Option<Number> {
    point.loss
}

/// ln of the values of the levels from `step` on.
fn behind(points: &[LogPoint], step: u64, of: Quantity) -> Vec<f64> {
    let after = points.iter().filter(|point| point.step >= step);
    let values = after.filter_map(|point| of(point)?.finite()).filter(|value| *value > 0.0);
    values.map(f64::ln).take(LEVELS * LEVEL_POINTS).collect()
}

/// Whether the loss stays a number as long as that: no divisor takes it away.
fn is_finite(points: &[LogPoint], step: u64) -> bool {
    let losses = points.iter().filter(|point| point.step >= step).filter_map(|point| point.loss);
    losses.take(LEVELS * LEVEL_POINTS).all(|loss| loss.finite().is_some())
}

/// Whether values of ln behind a change are at one level, and move about it no more than before it.
fn stays(behind: &[f64], factor: f64, noise_before: Option<f64>, thresholds: &Thresholds) -> bool {
    let first = &behind[..behind.len().min(LEVEL_POINTS)];
    let Some(level) = median(first.iter().copied()) else { return false };
    let noise = median(first.iter().map(|value| (value - level).abs())).unwrap_or(0.0);
    let most = thresholds.get("moves-on").min(factor.ln().abs() / 2.0);
    let later = behind.chunks(LEVEL_POINTS).filter(|values| values.len() >= FEWEST_OF_LEVEL);
    noise <= thresholds.get("wider") * noise_before.unwrap_or(0.0) + STILL
        && later
            .filter_map(|values| median(values.iter().copied()))
            .all(|later| (later - level).abs() <= most)
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
