//! I5: the norm that gradients have had, without a single gradient.
//!
//! The mean of v̂ is that of g², so √Σv̂ is the RMS of ‖g‖ over about 1/(1−β₂) steps. Its effective sample size is
//! (Σw)²/Σw² of the weights w = β₂^a, and its standard deviation ½·RMS·CV(‖g‖²)/√ESS.
//!
//! Exact as a weighted mean; what it is the mean of is the gradient that entered the optimizer: clipped, unscaled. In
//! Adam, unlike `AdamW`, it includes the L2 penalty λw; where that could matter there is no value.

use super::history::{History, correction};
use super::pass::Sums;
use super::{UNCOUNTED, number};
use crate::analysis::model::Measured;
use crate::checkpoint::optimizer::Algorithm;

/// Share of the gradient's norm that an L2 penalty may be.
const NEGLIGIBLE_PENALTY: f64 = 0.01;

/// RMS over recent steps of the norm of the gradient.
pub(super) fn norm(history: &History, sums: &Sums) -> Measured<f64> {
    if history.is_counted() {
        number((sums.second / history.second_correction()).sqrt())
    } else {
        Measured::not(UNCOUNTED)
    }
}

/// (1+β₂)/(1−β₂) · (1−β₂^t)/(1+β₂^t): how many gradients the mean is worth.
pub fn effective_steps(history: &History) -> f64 {
    let corrected = correction(history.beta2, history.steps);
    (1.0 + history.beta2) * history.window() * corrected / (2.0 - corrected)
}

/// Standard deviation of the RMS, for gradients whose squared norms vary by `variation` (their CV).
pub fn deviation(rms: f64, variation: f64, effective_steps: f64) -> f64 {
    rms * variation / (2.0 * effective_steps.sqrt())
}

/// Why the moments may not be those of the gradient alone: an L2 penalty of `decay` on weights of norm `weights`.
pub fn penalty(algorithm: &Algorithm, decay: f64, weights: Option<f64>, norm: f64) -> Option<String> {
    if decay == 0.0 || !matches!(algorithm, Algorithm::Adam | Algorithm::AdamLike | Algorithm::RmsProp) {
        return None;
    }
    let Some(weights) = weights else {
        return Some("its moments may include an L2 penalty, of weights that are not known".to_owned());
    };
    let share = decay * weights / norm;
    (share > NEGLIGIBLE_PENALTY)
        .then(|| format!("its moments may include the L2 penalty, up to {share:.2} of what they show"))
}

#[cfg(test)]
mod tests {
    use super::super::history::history;
    use super::*;

    #[test]
    fn effective_sample_sizes_are_those_of_the_weights() {
        for (beta2, expected) in [(0.95, 39.0), (0.99, 199.0), (0.999, 1999.0)] {
            assert!((effective_steps(&history(0.9, beta2, f64::INFINITY)) - expected).abs() < 1e-9);
        }
        for steps in [1, 2, 50] {
            let weights = || (0..steps).map(|age| 0.95f64.powi(age));
            let by_hand =
                weights().sum::<f64>().powi(2) / weights().map(|weight| weight * weight).sum::<f64>();
            assert!((effective_steps(&history(0.9, 0.95, f64::from(steps))) / by_hand - 1.0).abs() < 1e-12);
        }
    }

    #[test]
    fn a_penalty_matters_only_where_it_is_part_of_the_gradient() {
        assert_eq!(penalty(&Algorithm::AdamW, 0.1, Some(10.0), 1.0), None);
        assert_eq!(penalty(&Algorithm::Adam, 0.0, None, 1.0), None);
        assert_eq!(penalty(&Algorithm::Adam, 1e-4, Some(10.0), 1.0), None);
        assert!(penalty(&Algorithm::AdamLike, 0.1, Some(10.0), 1.0).is_some());
        assert!(penalty(&Algorithm::Adam, 1e-4, None, 1.0).is_some());
    }
}
