//! Clipping as frameworks do it, and what it does to the direction of a step.
//!
//! Clipping by the global norm keeps the direction of every gradient. Clipping each layer on its own does not: with norms
//! nₗ and coefficients cₗ = min(1, τ/nₗ) the cosine of the clipped gradient to the whole is
//! Σcₗnₗ²/(√Σnₗ²·√Σcₗ²nₗ²), which needs norms only.
//!
//! torch's `clip_grad_norm_` in f32: a single infinite element makes the coefficient 0, that element NaN and all others 0;
//! elements of 1e20 overflow the norm, and all gradients become 0. Norms here are sums in f64 and do neither (A3).

use crate::analysis::model::{Degenerate, Measured};

/// Cosine between the gradient whose layers have these norms and the one clipped layer by layer to `threshold`.
pub fn direction(norms: &[f64], threshold: f64) -> Measured<f64> {
    // Scaled by the largest, so that squares of 1e200 do not overflow; coefficients do not see the scale.
    let largest = norms.iter().copied().fold(0.0, f64::max);
    if largest == 0.0 || !largest.is_finite() {
        return Measured::Degenerate(if largest == 0.0 { Degenerate::AllZero } else { Degenerate::Overflow });
    }
    // Divided by the largest of them, as the cosine does not see their scale either.
    let smallest = norms.iter().copied().filter(|norm| *norm > 0.0).fold(f64::INFINITY, f64::min);
    let least_clipped = (threshold / smallest).min(1.0);
    let (mut product, mut whole, mut clipped) = (0.0, 0.0, 0.0);
    for &norm in norms.iter().filter(|norm| **norm > 0.0) {
        let (scaled, coefficient) = (norm / largest, (threshold / norm).min(1.0) / least_clipped);
        product += coefficient * scaled * scaled;
        whole += scaled * scaled;
        clipped += (coefficient * scaled).powi(2);
    }
    super::number(product / (whole.sqrt() * clipped.sqrt()))
}

/// The factor of clipping by the global norm: min(1, τ/(n + 1e-6)), as torch has it.
pub fn coefficient(norm: f64, threshold: f64) -> f64 {
    (threshold / (norm + 1e-6)).min(1.0)
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
}
