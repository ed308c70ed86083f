//! The spectral radius of a square recurrence, by squaring (Gelfand: ρ = lim ‖Aᵏ‖^(1/k)).
//!
//! `‖Aᵏ‖^(1/k)` is never below ρ and, with k = 2²⁶, above it by less than 1e-6 for all but contrived matrices. A nilpotent
//! matrix ends in zeros; rounding makes its radius about the k-th root of the unit roundoff, as in any eigenvalue routine.

use crate::compute::{Backend, Gemm};
use crate::error::Result;

/// Squarings: A to the power of 2²⁶.
const SQUARINGS: i32 = 26;

/// ρ of the n×n matrix `values`, row-major and finite.
pub fn spectral_radius<B: Backend>(backend: &B, values: &[f64], n: usize) -> Result<f64> {
    let mut power = values.to_vec();
    let mut logarithm = 0.0;
    for squaring in 0..=SQUARINGS {
        let norm = power.iter().map(|x| x * x).sum::<f64>().sqrt();
        if norm == 0.0 {
            return Ok(0.0);
        }
        logarithm += norm.ln() / 2f64.powi(squaring);
        if squaring == SQUARINGS {
            break;
        }
        power.iter_mut().for_each(|x| *x /= norm);
        let gemm = Gemm { batch: 1, m: n, n, k: n, transpose_a: false, transpose_b: false, alpha: 1.0, beta: 0.0 };
        let factor = backend.upload(&power)?;
        let mut square = backend.zeros::<f64>(n * n)?;
        backend.gemm(&gemm, &factor, &factor, &mut square)?;
        power = backend.download(&square)?;
    }
    Ok(logarithm.exp())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compute::Cpu;
    use crate::random::Stream;

    #[test]
    fn rotations_and_triangles_have_their_known_radius() {
        // Eigenvalues 2·e^±i.
        let (sine, cosine) = 1f64.sin_cos();
        let turn = [2.0 * cosine, -2.0 * sine, 2.0 * sine, 2.0 * cosine];
        assert!((spectral_radius(&Cpu, &turn, 2).unwrap() - 2.0).abs() < 1e-7);
        // Far from normal: the norm is a hundred times the radius.
        let triangle = [0.5, 50.0, 0.0, -0.25];
        assert!((spectral_radius(&Cpu, &triangle, 2).unwrap() - 0.5).abs() < 1e-6);
        assert_eq!(spectral_radius(&Cpu, &[0.0, 1.0, 0.0, 0.0], 2).unwrap(), 0.0);
        assert_eq!(spectral_radius(&Cpu, &[0.0; 9], 3).unwrap(), 0.0);
    }

    /// T1: N×N Gaussian of variance 1/N has ρ → 1.
    #[test]
    fn a_gaussian_matrix_has_a_radius_near_one() {
        let n = 400;
        let values: Vec<f64> = Stream::new(1, 1).normals(n * n).iter().map(|x| x / (n as f64).sqrt()).collect();
        let radius = spectral_radius(&Cpu, &values, n).unwrap();
        assert!((radius - 1.0).abs() < 0.06, "{radius}");
    }
}
