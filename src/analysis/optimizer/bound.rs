//! I2: no history of gradients gives a first moment larger than C·√v.
//!
//! By Cauchy–Schwarz on the sums in [`history`](super::history),
//!
//! ```text
//! |m| ≤ C √v,   C² = (1−β₁)²/(1−β₂) · (1−r^t)/(1−r),   r = β₁²/β₂,
//! ```
//!
//! with equality for gⱼ ∝ (β₁/β₂)^aⱼ. C is 7.270 for (0.9, 0.999), 2.345 for (0.9, 0.99), 1.698 for (0.9, 0.98) and
//! 1.165 for (0.9, 0.95), all for long histories. Exact, whatever the model and the data. It holds for the gradients
//! that entered the moments, clipped or not, with an L2 penalty or without.
//!
//! Rounding loosens it. A second moment below the range of its dtype is no measurement, so v is not taken to be smaller
//! than [`floor`]. Low-precision moments that cannot follow β₂ are not held to it. Betas that were changed in mid-run
//! break it legitimately. Swapping the states of two parameters of one shape does not: each pair is still one history.

use super::history::{History, correction};
use crate::tensor::DType;

/// C for a history; infinite where β₁² ≥ β₂ and the length is not known.
pub fn bound(history: &History) -> f64 {
    let ratio = history.beta1 * history.beta1 / history.beta2;
    let sum = if ratio == 1.0 {
        history.steps
    } else if ratio > 1.0 && !history.is_counted() {
        f64::INFINITY
    } else {
        correction(ratio, history.steps) / (1.0 - ratio)
    };
    (1.0 - history.beta1) * (sum / (1.0 - history.beta2)).sqrt()
}

/// The bound on |u| that follows: hats and all, and ε only lessens it.
pub fn update_bound(history: &History) -> f64 {
    bound(history) * history.second_correction().sqrt() / history.first_correction()
}

/// How far |m|/(C√v) may exceed 1 by rounding, or why that is not known.
///
/// # Errors
/// With a reason, for moments in formats that cannot hold what the recurrences give.
pub fn tolerance(first: DType, second: DType, history: &History) -> Result<f64, String> {
    match second {
        DType::F32 | DType::F64 => {}
        DType::Bf16 if 1.0 - history.beta2 >= BF16_DECAY => {}
        DType::Bf16 => return Err(format!("bf16 second moments cannot follow β₂ = {}", history.beta2)),
        other => return Err(format!("second moments in {other} underflow")),
    }
    let half = |dtype| matches!(dtype, DType::Bf16 | DType::F16);
    Ok(match first {
        _ if half(second) || half(first) => HALF_TOLERANCE,
        DType::F32 | DType::F64 => {
            // √v carries half the relative error of v, which gathers one rounding a step over the window.
            F32_TOLERANCE.max(4.0 * F32_ROUNDOFF * history.window())
        }
        other => return Err(format!("first moments in {other} are not decoded")),
    })
}

/// The smallest v of `dtype` whose relative error is far below the tolerance: subnormals round by absolute amounts.
pub fn floor(dtype: DType, history: &History) -> f64 {
    let (smallest, roundoff) = match dtype {
        DType::F64 => (f64::MIN_POSITIVE, 2f64.powi(-1074)),
        DType::Bf16 => (f64::from(f32::MIN_POSITIVE), 2f64.powi(-134)),
        _ => (f64::from(f32::MIN_POSITIVE), 2f64.powi(-150)),
    };
    smallest.max(roundoff * history.window() / F32_TOLERANCE)
}

/// 1−β₂ below which v·β₂ rounds back to v in bf16: half the largest relative spacing.
pub const BF16_DECAY: f64 = 1.0 / 256.0;

/// Half the spacing of f32 at 1.
const F32_ROUNDOFF: f64 = 1.0 / 16_777_216.0;
/// Covers 10 roundings in m and 1/(1−β₂) in v for β₂ up to 0.9997.
const F32_TOLERANCE: f64 = 1e-3;
/// One rounding is 2⁻⁹; some ten of them are alive in m, and as many in √v.
const HALF_TOLERANCE: f64 = 3e-2;

#[cfg(test)]
mod tests {
    use super::super::history::history;
    use super::*;

    /// m and v after `gradients`, newest last.
    fn moments(beta1: f64, beta2: f64, gradients: impl Iterator<Item = f64>) -> (f64, f64) {
        gradients
            .fold((0.0, 0.0), |(m, v), g| (beta1 * m + (1.0 - beta1) * g, beta2 * v + (1.0 - beta2) * g * g))
    }

    #[test]
    fn the_worst_history_reaches_the_bound() {
        let ratio: f64 = 0.9 / 0.999;
        let (m, v) = moments(0.9, 0.999, (0..400).rev().map(|age| ratio.powi(age)));
        assert!((m / v.sqrt() - 7.270_291_799_999_693).abs() < 1e-9);
        assert!((bound(&history(0.9, 0.999, f64::INFINITY)) - 7.270_291_799_999_693).abs() < 1e-9);
    }

    #[test]
    fn the_bound_is_reached_after_any_number_of_steps() {
        for (beta1, beta2) in [(0.9f64, 0.999), (0.9, 0.95), (0.95, 0.9), (0.9, 0.81), (0.0, 0.5)] {
            for steps in [1, 2, 5, 30] {
                let worst = (0..steps).rev().map(|age| (beta1 / beta2).powi(age));
                let (m, v) = moments(beta1, beta2, worst);
                let bound = bound(&history(beta1, beta2, f64::from(steps)));
                assert!((m / v.sqrt() / bound - 1.0).abs() < 1e-12, "{beta1} {beta2} {steps}");
            }
        }
    }

    #[test]
    fn values_of_the_literature() {
        let of = |beta2| bound(&history(0.9, beta2, f64::INFINITY));
        for (beta2, expected) in [(0.99, 2.3452), (0.98, 1.6977), (0.95, 1.1650)] {
            assert!((of(beta2) - expected).abs() < 5e-5, "{beta2}");
        }
        assert_eq!(bound(&history(0.99, 0.9, f64::INFINITY)), f64::INFINITY);
    }

    #[test]
    fn an_update_of_the_first_step_is_a_sign() {
        assert!((update_bound(&history(0.9, 0.999, 1.0)) - 1.0).abs() < 1e-12);
    }

    #[test]
    fn formats_that_cannot_hold_the_recurrence_are_not_judged() {
        let history = history(0.9, 0.999, 1000.0);
        assert_eq!(tolerance(DType::F32, DType::F32, &history), Ok(1e-3));
        assert!(tolerance(DType::F32, DType::Bf16, &history).is_err());
        assert!(tolerance(DType::F32, DType::F16, &history).is_err());
        assert_eq!(tolerance(DType::Bf16, DType::Bf16, &History { beta2: 0.95, ..history }), Ok(3e-2));
    }
}
