//! The mean of ln σ, which a quadrature resolves only where no singular value is far below the largest: Lanczos sees the
//! smallest last, and a logarithm asks for nothing else.

use crate::analysis::model::{Degenerate, Measured};
use crate::analysis::spectrum::density::Quadrature;

/// The least share of σ₁ that a node of the quadrature may have: below it a Jacobian's mean of 0.2 came out as 0.6 to 1.5.
pub const LEAST_SHARE: f64 = 1e-3;

/// From a quadrature.
pub(super) fn of_quadrature(found: &Quadrature) -> Measured<f64> {
    let (Some(&(least, _)), Some(&(most, _))) = (found.nodes.first(), found.nodes.last()) else {
        return Measured::Degenerate(Degenerate::Empty);
    };
    if most == 0.0 {
        return Measured::Degenerate(Degenerate::AllZero);
    }
    if least <= LEAST_SHARE * most || !found.resolves_smallest {
        return Measured::not(format!(
            "not resolvable: the smallest node of the quadrature is {:.1e} of the largest, and what lies below it is not seen",
            least / most
        ));
    }
    let total: f64 = found.nodes.iter().map(|(_, weight)| weight).sum();
    let sum: f64 = found.nodes.iter().map(|(value, weight)| weight * value.ln()).sum();
    Measured::Value(sum / total)
}

/// From all singular values, largest first, each known within `error`.
pub fn of_values(values: &[f64], error: f64) -> Measured<f64> {
    match values.last() {
        None => Measured::Degenerate(Degenerate::Empty),
        Some(&least) if least <= 2.0 * error => Measured::not(format!(
            "not resolvable: the smallest singular value is below the rounding error {error:.1e}"
        )),
        Some(_) => Measured::Value(values.iter().map(|value| value.ln()).sum::<f64>() / values.len() as f64),
    }
}
