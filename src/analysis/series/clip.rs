//! Clipping as frameworks do it, and what it does to the direction of a step.
//!
//! Clipping by the global norm keeps the direction of every gradient. Clipping each layer on its own does not: with norms
//! nₗ and coefficients cₗ = min(1, τ/nₗ) the cosine of the clipped gradient to the whole is
//! Σcₗnₗ²/(√Σnₗ²·√Σcₗ²nₗ²), which needs norms only.
//!
//! torch's `clip_grad_norm_` in f32: a single infinite element makes the coefficient 0, that element NaN and all others 0;
//! elements of 1e20 overflow the norm, and all gradients become 0. Norms here are sums in f64 and do neither (A3).

use crate::analysis::model::{Degenerate, Measured};

/// Added to a norm before a limit is divided by it, in torch's `clip_grad_norm_`.
pub const NORM_EPSILON: f64 = 1e-6;

/// The factor of clipping a norm to a limit: min(1, τ/(n + 1e-6)), as torch has it.
pub fn coefficient(norm: f64, limit: f64) -> f64 {
    (limit / (norm + NORM_EPSILON)).min(1.0)
}

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
    super::number(product / (whole.sqrt() * clipped.sqrt()))
}

/// Cosine between the gradient whose layers have these norms and the one clipped layer by layer to `threshold`.
pub fn direction(norms: &[f64], threshold: f64) -> Measured<f64> {
    let norms: Vec<f64> = norms.iter().copied().filter(|norm| *norm > 0.0).collect();
    let factors: Vec<f64> = norms.iter().map(|norm| (threshold / norm).min(1.0)).collect();
    cosine(&norms, &factors)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clipping_by_layer_turns_the_step_and_clipping_nothing_does_not() {
        // (3, 0.1) to 1 a layer: (1, 0.1), 5.7° − 1.9° off.
        let cosine = *direction(&[3.0, 0.1], 1.0).value().unwrap();
        let by_hand = (3.0 * 1.0 + 0.1 * 0.1) / (9.01f64.sqrt() * 1.01f64.sqrt());
        assert!((cosine - by_hand).abs() < 1e-12);
        assert!((direction(&[0.3, 0.1], 1.0).value().unwrap() - 1.0).abs() < 1e-15);
        assert_eq!(direction(&[0.0], 1.0), Measured::Degenerate(Degenerate::AllZero));
    }

    /// torch 2.9, `clip_grad_norm_` of f32 gradients to 1: `[inf, 1]` becomes `[nan, 0]`, `[1e20, 1]` becomes `[0, 0]`.
    #[test]
    fn norms_of_gradients_that_overflow_f32_keep_their_coefficient() {
        let elements = [1e20f32, 1.0];
        let in_f32 = elements.iter().map(|g| g * g).sum::<f32>().sqrt();
        assert!(in_f32.is_infinite() && 1.0 / (in_f32 + 1e-6) == 0.0);
        let norm = elements.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt();
        assert!((coefficient(norm, 1.0) / 1e-20 - 1.0).abs() < 1e-6);
        let infinite = f32::INFINITY * (1.0 / (f32::INFINITY + 1e-6));
        assert!(infinite.is_nan());
        assert!((direction(&[1e200, 1e200], 1.0).value().unwrap() - 1.0).abs() < 1e-12);
    }

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
