//! How far a tensor moved between two checkpoints, less what rounding to the stored dtype adds.
//!
//! Weights that are updated in f32 and stored in bf16 (or f16) are rounded at either end, by errors spread evenly over a
//! spacing: each adds spacing²/12 to (Δw)², as expected. Where these sum to more than half of Σ(Δw)², what is left is not
//! the change any more: for changes that are small against the spacing rounding is not independent at the two ends
//! (at a third of a spacing the estimate is 22 % too high), and nothing is said. Weights that are themselves updated
//! in the stored dtype are changed by exactly what is seen; so are f32 masters.

use super::pass::Sums;
use crate::analysis::model::{Degenerate, Measured};
use crate::tensor::DType;

/// Share of Σ(Δw)² that may be rounding.
const LARGEST_ROUNDING: f64 = 0.5;

/// Expected square of the error of rounding to `dtype`, for a value that was rounded to `value`.
pub(super) fn rounding(value: f64, dtype: DType) -> f64 {
    let (fraction_bits, lowest) = match dtype {
        DType::Bf16 => (7, -126),
        DType::F16 => (10, -14),
        _ => return 0.0,
    };
    let exponent = i32::try_from((value.to_bits() >> 52) & 0x7ff).expect("11 bits fit") - 1023;
    let spacing = 2f64.powi(exponent.max(lowest) - fraction_bits);
    spacing * spacing / 12.0
}

/// RMS(Δw), where the weights were rounded when they were stored (`rounded`) or were not.
pub fn change_rms(sums: &Sums, rounded: bool) -> Measured<f64> {
    if sums.elements == 0 {
        return Measured::Degenerate(Degenerate::Empty);
    }
    if sums.non_finite > 0 {
        return Measured::not(format!("{} elements are not finite", sums.non_finite));
    }
    let rounding = if rounded { sums.rounding } else { 0.0 };
    if rounding > LARGEST_ROUNDING * sums.change && sums.change > 0.0 {
        return Measured::not("the change is within what rounding to the stored dtype gives");
    }
    super::number(((sums.change - rounding).max(0.0) / sums.elements as f64).sqrt())
}

/// RMS(Δw)/RMS(w) at the earlier checkpoint.
pub fn relative_change(change: &Measured<f64>, sums: &Sums) -> Measured<f64> {
    let before = (sums.before / sums.elements as f64).sqrt();
    match change {
        Measured::Value(_) if before == 0.0 => Measured::Degenerate(Degenerate::AllZero),
        Measured::Value(change) => super::number(change / before),
        other => other.clone(),
    }
}

/// ln(‖w'‖/‖w‖)/k per step.
pub fn growth_rate(before: f64, after: f64, steps: f64) -> Measured<f64> {
    if before == 0.0 || after == 0.0 {
        return Measured::Degenerate(Degenerate::AllZero);
    }
    if steps <= 0.0 {
        return Measured::not("no step lies between the two checkpoints");
    }
    super::number((after / before).ln() / steps)
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;

    /// A weight and a change, seen in f64 and rounded to bf16, for many weights.
    fn moved(change: f64) -> Sums {
        let mut sums = Sums::default();
        for index in 0..100_000u32 {
            // Weyl's sequence: evenly spread over [0.02, 0.03], within one binade of spacing 2⁻⁶⁻⁷.
            let weight = 0.02 + 0.01 * (f64::from(index) * 0.618_033_988_749_894_9).fract();
            let before = bf16::from_f64(weight).to_f64();
            let after = bf16::from_f64(weight + change).to_f64();
            sums.elements += 1;
            sums.change += (after - before).powi(2);
            sums.before += before * before;
            sums.rounding += rounding(before, DType::Bf16) + rounding(after, DType::Bf16);
        }
        sums
    }

    #[test]
    fn the_bias_of_rounding_is_removed_and_what_it_hides_is_not_measured() {
        let spacing = 2f64.powi(-6 - 7);
        for (change, tolerance) in [(10.0, 0.002), (2.5, 0.03), (1.0, 0.1)] {
            let seen = *change_rms(&moved(change * spacing), true).value().unwrap();
            assert!((seen / (change * spacing) - 1.0).abs() < tolerance, "{change}: {}", seen / spacing);
        }
        assert!(matches!(change_rms(&moved(0.1 * spacing), true), Measured::NotMeasured(_)));
        assert!(change_rms(&moved(0.1 * spacing), false).value().is_some());
    }

    #[test]
    fn growth_is_per_step_and_needs_one() {
        let rate = *growth_rate(1.0, 2.0, 100.0).value().unwrap();
        assert!((rate - 2f64.ln() / 100.0).abs() < 1e-15);
        assert!(matches!(growth_rate(1.0, 2.0, 0.0), Measured::NotMeasured(_)));
        assert_eq!(growth_rate(0.0, 2.0, 1.0), Measured::Degenerate(Degenerate::AllZero));
    }
}
