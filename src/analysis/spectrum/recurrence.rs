//! The spectral radius of a square recurrence, by squaring (Gelfand: ρ = lim ‖Aᵏ‖^(1/k)).
//!
//! `‖Aᵏ‖^(1/k)` is never below ρ and, with k = 2²⁶, above it by less than 1e-6 for all but contrived matrices. Units whose eigenvalue
//! stands alone, as all of a triangular matrix or a delay line do, are taken out first, as LAPACK's balancing does: powers of such matrices
//! grow so far from their eigenvalues that these underflow beside them. A nilpotent matrix ends in zeros; rounding makes its radius about
//! the k-th root of the unit roundoff, as in any eigenvalue routine.

use crate::compute::{Backend, Gemm};
use crate::error::Result;

/// Squarings: A to the power of 2²⁶.
const SQUARINGS: i32 = 26;

/// ρ of the n×n matrix `values`, row-major and finite.
pub fn spectral_radius<B: Backend>(backend: &B, values: &[f64], n: usize) -> Result<f64> {
    let coupled = coupled(values, n);
    let is_alone = |unit: &usize| coupled.binary_search(unit).is_err();
    let alone = (0..n).filter(is_alone).fold(0.0f64, |most, unit| most.max(values[unit * n + unit].abs()));
    if coupled.is_empty() {
        return Ok(alone);
    }
    let rest: Vec<f64> =
        coupled.iter().flat_map(|row| coupled.iter().map(move |column| values[row * n + column])).collect();
    Ok(by_squaring(backend, rest, coupled.len())?.max(alone))
}

/// The units that are left when those are taken out, again and again, that no other one feeds or that feed no other one: the eigenvalue of
/// such a unit is its diagonal element.
fn coupled(values: &[f64], n: usize) -> Vec<usize> {
    let mut left: Vec<usize> = (0..n).collect();
    loop {
        let is_alone = |&unit: &usize| {
            let none = |element: &dyn Fn(usize) -> f64| {
                left.iter().all(|other| *other == unit || element(*other) == 0.0)
            };
            none(&|other| values[unit * n + other]) || none(&|other| values[other * n + unit])
        };
        let Some(place) = left.iter().position(is_alone) else { return left };
        left.remove(place);
    }
}

fn by_squaring<B: Backend>(backend: &B, mut power: Vec<f64>, n: usize) -> Result<f64> {
    let mut logarithm = 0.0f64;
    for squaring in 0..=SQUARINGS {
        let norm = power.iter().map(|x| x * x).sum::<f64>().sqrt();
        if norm == 0.0 {
            // The n-th power of a nilpotent matrix is 0; where a higher power is the first, its elements are below the range of f64.
            let is_nilpotent = 2f64.powi(squaring - 1) < n as f64;
            return Ok(if is_nilpotent { 0.0 } else { logarithm.exp() });
        }
        logarithm += norm.ln() / 2f64.powi(squaring);
        if squaring == SQUARINGS {
            break;
        }
        for x in &mut power {
            *x /= norm;
        }
        let gemm =
            Gemm { batch: 1, m: n, n, k: n, transpose_a: false, transpose_b: false, alpha: 1.0, beta: 0.0 };
        let factor = backend.upload(&power)?;
        let mut square = backend.zeros::<f64>(n * n)?;
        backend.gemm(&gemm, &factor, &factor, &mut square)?;
        power = backend.download(&square)?;
    }
    Ok(logarithm.exp())
}

/// Growth of each direction a step, as logarithms, under a product of n×n matrices: Lyapunov exponents, largest first (Benettin et
/// al. 1980). Directions are made orthogonal after every step, so that none is drowned by the first.
pub fn lyapunov_exponents(matrices: impl IntoIterator<Item = Vec<f64>>, n: usize) -> Vec<f64> {
    let mut directions: Vec<Vec<f64>> =
        (0..n).map(|row| (0..n).map(|column| f64::from(u8::from(row == column))).collect()).collect();
    let (mut sums, mut steps) = (vec![0.0f64; n], 0.0f64);
    for matrix in matrices {
        let turn = |direction: &Vec<f64>| -> Vec<f64> {
            matrix.chunks_exact(n).map(|row| dot(row, direction)).collect()
        };
        directions = directions.iter().map(turn).collect();
        for (index, sum) in sums.iter_mut().enumerate() {
            let (before, rest) = directions.split_at_mut(index);
            for _ in 0..2 {
                for earlier in before.iter() {
                    let share = dot(earlier, &rest[0]);
                    rest[0].iter_mut().zip(earlier).for_each(|(x, y)| *x -= share * y);
                }
            }
            let norm = dot(&rest[0], &rest[0]).sqrt();
            *sum += norm.ln();
            rest[0].iter_mut().for_each(|x| *x /= norm);
        }
        steps += 1.0;
    }
    sums.into_iter().map(|sum| sum / steps).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
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

    /// Triangular matrices, whose eigenvalues are on the diagonal, in any order of their units.
    #[test]
    fn delay_lines_and_running_sums_have_the_radius_of_their_diagonal() {
        let n = 256;
        let shift = |row: usize, column: usize| f64::from(u8::from(column == row + 1));
        let same = |row: usize, column: usize| f64::from(u8::from(column == row));
        let sum = |row: usize, column: usize| f64::from(u8::from(column <= row));
        let matrix = |entry: &dyn Fn(usize, usize) -> f64| -> Vec<f64> {
            (0..n * n).map(|at| entry(at / n * 77 % n, at % n * 77 % n)).collect()
        };
        let radius = |entry: &dyn Fn(usize, usize) -> f64| spectral_radius(&Cpu, &matrix(entry), n).unwrap();
        assert_eq!(radius(&|row, column| 1.1 * same(row, column) + shift(row, column)), 1.1);
        assert_eq!(radius(&|row, column| -0.5 * same(row, column) + shift(row, column)), 0.5);
        assert_eq!(radius(&sum), 1.0);
        assert_eq!(radius(&shift), 0.0);
    }

    /// Eigenvalues r·e^±i, each as often as there are links: no unit is alone, and the powers leave the range of f64.
    #[test]
    fn a_chain_of_rotations_has_the_radius_of_one() {
        let (links, radius) = (48, 1.25);
        let n = 2 * links;
        let (sine, cosine) = 1f64.sin_cos();
        let turn = [[cosine, -sine], [sine, cosine]];
        let entry = |row: usize, column: usize| match (row / 2, column / 2) {
            (from, to) if from == to => radius * turn[row % 2][column % 2],
            (from, to) if to == from + 1 => f64::from(u8::from(row % 2 == column % 2)),
            _ => 0.0,
        };
        let values: Vec<f64> = (0..n * n).map(|at| entry(at / n, at % n)).collect();
        let found = spectral_radius(&Cpu, &values, n).unwrap();
        assert!((found / radius - 1.0).abs() < 5e-3, "{found}");
    }

    /// T4: λ_i = ½(ln(2/N) + ψ((N − i + 1)/2)) for products of N×N Gaussians of variance 1/N (Newman 1986).
    #[test]
    fn products_of_gaussians_have_newmans_exponents() {
        // Var ½ ln χ²_k = ψ′(k/2)/4 is largest for k = 1, 1.23: the standard error is 0.0015 at most.
        let (n, steps) = (10, 500_000);
        let matrices = (0..steps).map(|step| {
            let values = Stream::new(3, step).normals(n * n);
            values.into_iter().map(|x| x / (n as f64).sqrt()).collect()
        });
        let found = lyapunov_exponents(matrices, n);
        // ψ(k/2) upwards from ψ(½) = −γ − 2·ln 2 and ψ(1) = −γ.
        let gamma = 0.577_215_664_901_532_9;
        let digamma = |k: usize| -> f64 {
            let (start, first) = if k % 2 == 1 { (-gamma - 2.0 * 2f64.ln(), 1) } else { (-gamma, 2) };
            start + (first..k).step_by(2).map(|j| 2.0 / j as f64).sum::<f64>()
        };
        for (index, found) in found.iter().enumerate() {
            let expected = 0.5 * ((2.0 / n as f64).ln() + digamma(n - index));
            assert!((found - expected).abs() < 0.005, "{index}: {found} {expected}");
        }
        assert!((found[0] + 0.0517).abs() < 0.005 && (found[9] + 1.7865).abs() < 0.005, "{found:?}");
    }
}
