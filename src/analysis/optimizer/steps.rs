//! I8 and C8: whether the step counter is that of the moments.
//!
//! A lost counter makes bias correction start again over moments that are long settled: the first update is too large
//! by √(1−β₂)/(1−β₁), 2.236 for β₂ = 0.95, and too small, 0.316, for 0.999. What one checkpoint proves: moments without
//! a counter, or with a counter of 0, have lost it; and after exactly one step |m| = C₁√v in every element, so that a
//! counter of 1 over any other moments is false. A counter that is only too low is compatible with some history:
//! [`update_factor`] says what it would cost. Counters that differ between parameters are compared by the rules.

use super::bound::bound;
use super::history::History;
use super::pass::Sums;
use crate::analysis::model::{FirstStep, Measured};

/// Whether `step` can be the age of moments with these sums, which round by `tolerance`.
pub(super) fn first_step(
    step: Option<f64>,
    history: &History,
    sums: &Sums,
    tolerance: f64,
) -> Measured<FirstStep> {
    if sums.first == 0.0 && sums.second == 0.0 {
        return Measured::not("its moments are zero");
    }
    Measured::Value(match step {
        None => FirstStep::Missing,
        Some(step) if step < 1.0 => FirstStep::Zero,
        Some(1.0) if sums.smallest_ratio < bound(history) * (1.0 - tolerance) => FirstStep::NotTheFirst,
        Some(_) => FirstStep::Consistent,
    })
}

/// The factor on an update when settled moments are corrected as after one step.
pub fn update_factor(beta1: f64, beta2: f64) -> f64 {
    (1.0 - beta2).sqrt() / (1.0 - beta1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_counter_costs_these_factors() {
        assert!((update_factor(0.9, 0.95) - 2.236_067_977_499_79).abs() < 1e-12);
        assert!((update_factor(0.9, 0.999) - 0.316_227_766_016_838).abs() < 1e-12);
    }
}
