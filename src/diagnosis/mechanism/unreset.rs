//! Gradients that are never set back to zero: each step adds its own to those of all steps before.

use super::{CONCLUSIVE, Case};
use crate::diagnosis::Mechanism;
use crate::diagnosis::facts::{Facts, median};
use crate::diagnosis::onset::Onset;
use crate::number::short;
use crate::rules::Confidence;

/// Logged points at the start that are looked at: later the sum turns with the weights, and grows less.
const FIRST_POINTS: usize = 20;

/// Exponent of the growth of the norm with the number of the step: 1 where all gradients point one way, ½ where they are noise. At
/// least 0.67 in 13 of 15 runs without `zero_grad`; at most 0.38 in the others, of 761, whose norms follow a power as closely.
const EXPONENT: f64 = 0.6;

/// Median distance of ln(norm) from that power: at most 0.09 in these 13 runs; 0.19 and more in others whose norms grow as fast.
const SCATTER: f64 = 0.12;

/// The most that one step may add to the norm, over the first norm: one gradient, which may be some times the first one. At most
/// 2.1 in these runs.
const ADDED: f64 = 4.0;

/// Norms over the first one, at the end of that start and from there on: a sum stays large where no one takes it away.
const GROWN: f64 = 5.0;

/// Norms that grow in proportion to the step from the first step on, and stay large, in a run that fails: those of one that learns grow
/// too for a while, where a layer began at zero. Only the log of every step shows what one step adds.
pub(super) fn accumulation_without_end(facts: Facts, onset: Option<&Onset>) -> Option<Case> {
    onset?;
    let points = facts.points().iter();
    let logged = points.filter_map(|point| Some((point.step, point.grad_norm?.finite()?)));
    let norms: Vec<(u64, f64)> = logged.filter(|(_, norm)| *norm > 0.0).collect();
    let (start, later) = norms.split_at_checked(FIRST_POINTS)?;
    let (first_step, first) = *start.first()?;
    let (last_step, last) = *start.last()?;
    let is_every_step = first_step <= 1 && start.windows(2).all(|pair| pair[1].0 == pair[0].0 + 1);
    let adds_one_gradient = start.windows(2).all(|pair| (pair[1].1 - pair[0].1).abs() <= ADDED * first);
    let reached = last / first;
    let stays = median(later.iter().map(|(_, norm)| *norm)).is_some_and(|level| level >= GROWN * first);
    // Steps are counted from the first on, whatever number it has.
    let counted: Vec<(f64, f64)> =
        (1_u32..).map(f64::from).zip(start.iter().map(|(_, norm)| *norm)).collect();
    let (exponent, scatter) = power(&counted)?;
    let is_one = is_every_step
        && adds_one_gradient
        && stays
        && reached >= GROWN
        && exponent >= EXPONENT
        && scatter <= SCATTER;
    is_one.then(|| {
        Case::of(Mechanism::AccumulationChange)
            .with_confidence(Confidence::Calibrated)
            .since_the_start(last_step)
            .because(
                CONCLUSIVE,
                format!(
                    "gradient norms grew with the number of the step from the first one on, to {} times the first at step {last_step}, and stayed large: every step's gradient is added to those of all steps before",
                    short(reached),
                ),
            )
            .number("exponent of the growth of the norm with the step", exponent, Some(EXPONENT), "1")
    })
}

/// The exponent of the power of the step that norms follow, by least squares of the logarithms, and the median distance from it.
fn power(norms: &[(f64, f64)]) -> Option<(f64, f64)> {
    let logs: Vec<(f64, f64)> = norms.iter().map(|(step, norm)| (step.ln(), norm.ln())).collect();
    let count = logs.len() as f64;
    let x = logs.iter().map(|(x, _)| x).sum::<f64>() / count;
    let y = logs.iter().map(|(_, y)| y).sum::<f64>() / count;
    let covariance: f64 = logs.iter().map(|own| (own.0 - x) * (own.1 - y)).sum();
    let variance: f64 = logs.iter().map(|own| (own.0 - x).powi(2)).sum();
    let exponent = covariance / variance;
    let scatter = median(logs.iter().map(|own| (own.1 - y - exponent * (own.0 - x)).abs()))?;
    Some((exponent, scatter))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::model::{LogAnalysis, LogPoint, Number};
    use crate::diagnosis::diagnose;
    use crate::rules::Assessment;
    use crate::rules::test_support::run_of;

    /// What is told of a run of 100 steps with these norms, logged so many steps apart, whose loss is lost at the end.
    fn told_of(norm: impl Fn(f64) -> f64, apart: u64, end: f64) -> (Mechanism, Option<u64>) {
        let mut run = run_of(0, Vec::new);
        let points = (1..=100).map(|at| LogPoint {
            step: at * apart,
            loss: Some(Number(if at < 100 { 1.0 } else { end })),
            grad_norm: Some(Number(norm(at as f64))),
            ..LogPoint::default()
        });
        run.log = Some(LogAnalysis { points: points.collect(), ..LogAnalysis::default() });
        let told = diagnose(&run, &Assessment::default());
        (told.mechanism, told.onset_step)
    }

    fn told(norm: impl Fn(f64) -> f64) -> (Mechanism, Option<u64>) {
        told_of(norm, 1, f64::NAN)
    }

    #[test]
    fn a_sum_of_gradients_is_told_and_other_growth_is_not() {
        let sum = (Mechanism::AccumulationChange, Some(0));
        assert_eq!(told(|step| 0.3 * step), sum);
        assert_eq!(told(|step| 0.3 * step.powf(0.7)), sum);
        let none = (Mechanism::NonFinite, Some(100));
        // A start that calms down, a random walk, an exponential, and norms that jump by more than a gradient.
        assert_eq!(told(|step| if step <= 20.0 { 0.3 * step } else { 0.3 }), none);
        assert_eq!(told(|step| 0.3 * step.sqrt()), none);
        assert_eq!(told(|step| 0.3 * (0.12 * step).exp().min(10.0)), none);
        assert_eq!(told(|step| 0.3 * step * if step % 2.0 == 0.0 { 1.5 } else { 1.0 }), none);
    }

    #[test]
    fn norms_that_grow_while_a_layer_leaves_zero_or_between_points_far_apart_are_no_sum_of_gradients() {
        let leaves_zero = |step: f64| 0.05 * step.min(20.0);
        assert_eq!(told_of(leaves_zero, 1, 1.0), (Mechanism::None, None));
        assert_eq!(told_of(leaves_zero, 50, f64::NAN), (Mechanism::NonFinite, Some(5000)));
    }

    #[test]
    fn the_exponent_of_a_power_is_its_own() {
        let norms: Vec<(f64, f64)> =
            (1..=20).map(|step| (f64::from(step), 0.5 * f64::from(step).powf(0.8))).collect();
        let (exponent, scatter) = power(&norms).unwrap();
        assert!((exponent - 0.8).abs() < 1e-12 && scatter < 1e-12, "{exponent} {scatter}");
    }
}
