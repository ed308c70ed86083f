//! A6: the elements that bf16 weights cannot move.
//!
//! A step of η|u| is lost by rounding to nearest where it is smaller than half the spacing of bf16 at the weight,
//! ½·2^{⌊log₂|w|⌋−7}. For weights from N(0, 0.02²) and |u| = 1 that is 98 % of them at η = 1e-6, 85 % at 1e-5, 70 % at
//! 3e-5 and 12 % at 1e-4. Exact for weights that are stored and updated in bf16; an export of f32 weights to bf16 looks
//! the same, which is why this is a quantity and not a finding. Kahan summation and stochastic rounding escape it.

/// Digits of a bf16's significand after the first.
const FRACTION_BITS: i32 = 7;
/// Exponent of the smallest normal bf16.
const LOWEST_EXPONENT: i32 = -126;

/// Whether adding `step` leaves `weight` as it is in bf16.
pub fn is_stuck(weight: f64, step: f64) -> bool {
    if !weight.is_finite() {
        return false;
    }
    let exponent = if weight == 0.0 { LOWEST_EXPONENT } else { exponent(weight).max(LOWEST_EXPONENT) };
    step.abs() < 0.5 * 2f64.powi(exponent - FRACTION_BITS)
}

/// ⌊log₂|x|⌋ of a finite x that is not 0; f64's subnormals count as its smallest normal.
fn exponent(x: f64) -> i32 {
    let biased = (x.to_bits() >> 52) & 0x7ff;
    i32::try_from(biased).expect("11 bits fit") - 1023
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;
    use crate::analysis::optimizer::simulation::Noise;

    #[test]
    fn it_is_what_rounding_does() {
        let mut noise = Noise::new(1);
        for _ in 0..100_000 {
            let weight = bf16::from_f64(0.02 * noise.normal());
            let step = 3e-5 * noise.normal();
            let moved = bf16::from_f64(weight.to_f64() + step) != weight;
            let spacing = 2f64.powi(exponent(weight.to_f64()) - FRACTION_BITS);
            // Half way, and just below a power of two, the spacing on the other side decides.
            if (step.abs() / spacing - 0.5).abs() > 0.26 {
                assert_eq!(is_stuck(weight.to_f64(), step), !moved, "{weight} {step}");
            }
        }
    }

    #[test]
    fn shares_for_gaussian_weights_are_the_predicted_ones() {
        for (rate, expected) in [(1e-6, 0.981), (1e-5, 0.845), (3e-5, 0.696), (1e-4, 0.117)] {
            let mut noise = Noise::new(2);
            let count = 400_000;
            let stuck =
                (0..count).filter(|_| is_stuck(bf16::from_f64(0.02 * noise.normal()).to_f64(), rate)).count();
            let share = stuck as f64 / f64::from(count);
            assert!((share - expected).abs() < 0.005, "{rate}: {share}");
        }
    }

    #[test]
    fn zero_moves_by_anything_that_is_a_bf16() {
        assert!(!is_stuck(0.0, 1e-38));
        assert!(is_stuck(0.0, 0.0));
        assert!(!is_stuck(f64::NAN, 0.0));
    }
}
