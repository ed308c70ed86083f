//! I6: how much of the gradient is signal.
//!
//! R = ‖m̂‖²/Σv̂ is 1 for a constant gradient. For uncorrelated gradients without a mean it is the sum of m̂'s squared
//! weights, f = (1−β₁)/(1+β₁) · (1+β₁^t)/(1−β₁^t), 0.0526 for β₁ = 0.9 and long histories. So (R−f)/(1−f) is the share
//! of the gradient's energy that is its mean. R far below f (to 0.0028) is a gradient that changes sign from step to
//! step: the edge of stability.
//!
//! An estimate, calibrated by simulation to 0.02 for a thousand elements and more. m̂ looks back 1/(1−β₁) steps and v̂
//! 1/(1−β₂): gradients that shrank or grew in between shift it.

use super::history::History;
use super::pass::Sums;
use super::{UNCOUNTED, number};
use crate::analysis::model::{Degenerate, Measured};

/// Fewer elements leave the estimate to chance: its deviation is about 1/√n.
const FEWEST_ELEMENTS: u64 = 1000;

/// R.
pub(super) fn fraction(history: &History, sums: &Sums) -> Measured<f64> {
    if !history.is_counted() {
        return Measured::not(UNCOUNTED);
    }
    if sums.second == 0.0 {
        return Measured::Degenerate(Degenerate::AllZero);
    }
    let first = sums.first / history.first_correction().powi(2);
    number(first / (sums.second / history.second_correction()))
}

/// f.
pub fn noise_floor(history: &History) -> f64 {
    let corrected = history.first_correction();
    (1.0 - history.beta1) / (1.0 + history.beta1) * (2.0 - corrected) / corrected
}

/// (R−f)/(1−f), by how many elements it was measured.
pub fn share(fraction: f64, noise_floor: f64, elements: u64) -> Measured<f64> {
    if elements < FEWEST_ELEMENTS {
        return Measured::not(format!("fewer than {FEWEST_ELEMENTS} elements"));
    }
    if noise_floor >= 1.0 {
        return Measured::not("after one step signal and noise look the same");
    }
    Measured::Value((fraction - noise_floor) / (1.0 - noise_floor))
}

#[cfg(test)]
mod tests {
    use super::super::history::history;
    use super::*;

    #[test]
    fn the_noise_floor_is_the_sum_of_squared_weights() {
        assert!((noise_floor(&history(0.9, 0.999, f64::INFINITY)) - 0.1 / 1.9).abs() < 1e-15);
        for steps in [1, 3, 20] {
            let weights: Vec<f64> = (0..steps).map(|age| 0.9f64.powi(age)).collect();
            let sum: f64 = weights.iter().sum();
            let by_hand: f64 = weights.iter().map(|weight| (weight / sum).powi(2)).sum();
            assert!((noise_floor(&history(0.9, 0.999, f64::from(steps))) / by_hand - 1.0).abs() < 1e-12);
        }
    }

    #[test]
    fn few_elements_and_one_step_have_no_share() {
        assert!(share(0.5, 0.05, 999).value().is_none());
        assert!(share(1.0, 1.0, 10_000).value().is_none());
        assert_eq!(share(1.0, 0.05, 1000), Measured::Value(1.0));
    }
}
