//! What clipping does to the direction of a step, from the norms of its tensors alone.
//!
//! Scaled as a whole, a gradient keeps its direction. Clipped tensor by tensor, with factors cₗ, it is turned by
//!
//! ```text
//! cos = Σ cₗ nₗ² / (√Σnₗ² · √Σcₗ²nₗ²)
//! ```

use crate::analysis::model::{Degenerate, Measured};

/// Cosine between the gradient whose tensors have these norms and the one whose tensors are multiplied by `factors`, none of
/// them negative.
pub fn cosine(norms: &[f64], factors: &[f64]) -> Measured<f64> {
    // Both scaled by their largest, so that squares of 1e200 do not overflow; the cosine does not see either scale.
    let largest = |values: &[f64]| values.iter().copied().fold(0.0, f64::max);
    let (norm_scale, factor_scale) = (largest(norms), largest(factors));
    if norm_scale == 0.0 || factor_scale == 0.0 {
        return Measured::Degenerate(Degenerate::AllZero);
    }
    if !norm_scale.is_finite() || !factor_scale.is_finite() {
        return Measured::Degenerate(Degenerate::Overflow);
    }
    let (mut product, mut whole, mut clipped) = (0.0, 0.0, 0.0);
    for (norm, factor) in norms.iter().zip(factors) {
        let (norm, factor) = (norm / norm_scale, factor / factor_scale);
        product += factor * norm * norm;
        whole += norm * norm;
        clipped += (factor * norm).powi(2);
    }
    if clipped == 0.0 {
        return Measured::Degenerate(Degenerate::AllZero);
    }
    Measured::Value(product / (whole.sqrt() * clipped.sqrt()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clipping_by_tensor_turns_the_step_and_scaling_it_does_not() {
        // (3, 0.1) to 1 a tensor: (1, 0.1), 5.7° − 1.9° off.
        let cosine_of = |norms: &[f64], factors: &[f64]| *cosine(norms, factors).value().unwrap();
        let by_hand = (3.0 * 1.0 + 0.1 * 0.1) / (9.01f64.sqrt() * 1.01f64.sqrt());
        assert!((cosine_of(&[3.0, 0.1], &[1.0 / 3.0, 1.0]) - by_hand).abs() < 1e-12);
        assert!((cosine_of(&[3.0, 0.1], &[1.0, 1.0]) - 1.0).abs() < 1e-15);
        assert!((cosine_of(&[1e200, 1e200], &[1e-200, 1e-200]) - 1.0).abs() < 1e-12);
        assert_eq!(cosine(&[0.0], &[1.0]), Measured::Degenerate(Degenerate::AllZero));
        assert_eq!(cosine(&[1.0, 0.0], &[0.0, 1.0]), Measured::Degenerate(Degenerate::AllZero));
    }
}
