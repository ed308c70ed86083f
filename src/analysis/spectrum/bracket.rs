//! How far the largest Ritz value may lie below the largest singular value, for any matrix.
//!
//! Kuczyński and Woźniakowski 1992 (SIAM J. Matrix Anal. Appl. 13(4), theorem 4.2): after k steps of Lanczos on a positive
//! semidefinite n×n matrix from a start that is uniform on the sphere, the largest Ritz value θ and eigenvalue λ satisfy
//!
//! `P[(λ − θ)/λ > ε] ≤ 1.648·√n·exp(−√ε·(2k − 1))`.
//!
//! The spectrum does not matter, only ln n. Here λ = σ², so that σ ≤ θ/√(1 − ε).
//!
//! **Blocks** of b vectors need fewer steps, by the same argument from a better start. Let λ = 1 be the largest eigenvalue, v₁ its vector, X
//! the n×b start of independent standard normal numbers, g = Xᵀv₁. The Krylov space of X holds that of x = X·g/|g|, whose component
//! along v₁ is |g|: |g|² is χ² with b degrees of freedom. g says nothing about the other components of X, so that those of x are
//! independent standard normal numbers: the sum of their squares is χ² with n − 1 degrees, independent of the first. Where θ ≤ 1 − ε, no
//! polynomial q of degree k − 1 has a Rayleigh quotient above it: `Σ xᵢ²·q(λᵢ)²·(λᵢ − 1 + ε) ≤ 0`. Take the q with
//! `√(1 − ε − λ)·q(λ) = √(1 − ε)·T(√(1 − λ/(1 − ε)))`, T the Chebyshev polynomial of degree 2k − 1, which is odd and at most 1 in size on
//! `0 ≤ λ ≤ 1 − ε`. What is left is
//!
//! `|g|²·S² ≤ Σ xᵢ²` over i ≥ 2, with `S = sinh((2k − 1)·artanh √ε)`.
//!
//! For even b the density of χ² gives `P[χ² ≤ t] ≤ (t/2)^(b/2)/(b/2)!`, and the moments of the other do the rest:
//!
//! `P[(λ − θ)/λ > ε] ≤ S^(−b)·∏ (n − 1 + 2j)/(2j + 2)` over 0 ≤ j < b/2.
//!
//! Products and orthogonalisation must be in f64: what is rounded away must be far below `ε·|g|/√n` of the largest eigenvalue, some 1e-5,
//! or the components of the start that the bound counts on are lost in it. bf16 vectors round a thousandth away.

/// How often the stated upper bound may fail, for each matrix.
pub const FAILURE_PROBABILITY: f64 = 1e-3;

/// The relative gap in σ² that the number of steps is chosen for: 1 % in σ.
pub const GAP: f64 = 0.02;

const FACTOR: f64 = 1.648;

/// Steps after which the gap exceeds [`GAP`] with a probability of at most [`FAILURE_PROBABILITY`].
#[expect(clippy::cast_sign_loss, reason = "a positive number of steps")]
pub fn steps(n: usize) -> usize {
    let exponent = (FACTOR * (n as f64).sqrt() / FAILURE_PROBABILITY).ln();
    (0.5 * (exponent / GAP.sqrt() + 1.0)).ceil() as usize
}

/// The gap ε that `steps` steps exceed with a probability of at most [`FAILURE_PROBABILITY`]; `None` where there is none
/// below 1.
pub fn gap(n: usize, steps: usize) -> Option<f64> {
    let exponent = (FACTOR * (n as f64).sqrt() / FAILURE_PROBABILITY).ln();
    let gap = (exponent / (2.0 * steps as f64 - 1.0)).powi(2);
    (gap < 1.0).then_some(gap)
}

/// ln S for which the bound for blocks is [`FAILURE_PROBABILITY`]: of an even number of vectors, the largest up to `width`.
fn logarithm(n: usize, width: usize) -> f64 {
    let pairs = width / 2;
    let factor = |j: usize| ((n - 1 + 2 * j) as f64 / (2 * j + 2) as f64).ln();
    let product: f64 = (0..pairs).map(factor).sum();
    (product - FAILURE_PROBABILITY.ln()) / (2 * pairs) as f64
}

/// Steps with blocks of `width` vectors, two or more, after which the gap exceeds [`GAP`] with a probability of at most
/// [`FAILURE_PROBABILITY`].
#[expect(clippy::cast_sign_loss, reason = "a positive number of steps")]
pub fn block_steps(n: usize, width: usize) -> usize {
    let degrees = logarithm(n, width).exp().asinh() / GAP.sqrt().atanh();
    (0.5 * (degrees + 1.0)).ceil().max(1.0) as usize
}

/// The gap ε that `steps` steps with blocks of `width` vectors, two or more, exceed with a probability of at most
/// [`FAILURE_PROBABILITY`].
pub fn block_gap(n: usize, width: usize, steps: usize) -> f64 {
    (logarithm(n, width).exp().asinh() / (2 * steps - 1) as f64).tanh().powi(2)
}

#[cfg(test)]
mod tests {
    use super::super::symmetric;
    use super::*;
    use crate::random::Stream;

    /// The table of the paper's bound worked out by hand for 1 % on σ.
    #[test]
    fn the_steps_grow_with_the_logarithm_of_the_size() {
        assert_eq!([1_000, 10_000, 100_000, 1_000_000, 100_000_000].map(steps), [39, 43, 48, 52, 60]);
    }

    #[test]
    fn the_gap_after_the_chosen_steps_is_at_most_the_one_they_were_chosen_for() {
        for n in [2, 10, 300, 4096, 1_000_000] {
            let gap = gap(n, steps(n)).unwrap();
            assert!(gap <= GAP && gap > 0.9 * GAP, "{n}: {gap}");
        }
        assert_eq!(gap(1000, 2), None);
    }

    /// For b = 2 the probability has a closed form: P[χ²₂·S² ≤ χ²ₘ] = 1 − (1 + 1/S²)^(−m/2).
    #[test]
    fn the_bound_for_pairs_is_just_above_the_exact_probability() {
        for n in [2, 10, 300, 4096, 1_000_000] {
            let square = (2.0 * logarithm(n, 2)).exp();
            let exact = -(-0.5 * (n - 1) as f64 * square.recip().ln_1p()).exp_m1();
            assert!(exact <= FAILURE_PROBABILITY && exact > 0.998 * FAILURE_PROBABILITY, "{n}: {exact}");
        }
    }

    /// The quantile at 0.001 of χ² with eight degrees is 0.857 (any table), and χ² with 4095 is within a tenth of 4095: S² is between
    /// 0.9·4095/0.857 and what the bound asks for, which leaves out e^(−t/2).
    #[test]
    fn the_bound_for_eight_is_near_what_the_table_of_chi_squared_gives() {
        let found = logarithm(4096, 8).exp();
        assert!(found > (4095.0f64 / 0.857).sqrt() && found < 1.06 * (4095.0f64 / 0.857).sqrt(), "{found}");
    }

    #[test]
    fn blocks_need_fewer_steps_and_the_gap_after_them_is_the_one_they_were_chosen_for() {
        assert_eq!([300, 4096, 32_000, 1_000_000].map(|n| block_steps(n, 8)), [14, 18, 22, 28]);
        for n in [2, 300, 4096, 1_000_000] {
            for width in [2, 4, 8, 9] {
                let taken = block_steps(n, width);
                assert!(block_gap(n, width, taken) <= GAP, "{n}, {width}");
                assert!(taken == 1 || block_gap(n, width, taken - 1) > GAP, "{n}, {width}");
                assert!(taken <= steps(n));
            }
        }
    }

    /// The spectrum that leaves the bound the least room: all others where the Chebyshev polynomial of its proof is 1 in size. At a
    /// probability of a tenth, so that failures can be counted.
    #[test]
    fn the_worst_spectrum_fails_nearly_as_often_as_the_bound_for_pairs_says() {
        let (n, width, steps, probability, draws) = (100, 2, 4, 0.1, 1000);
        let logarithm = logarithm(n, width) + (FAILURE_PROBABILITY / probability).ln() / width as f64;
        let degree = 2 * steps - 1;
        let gap = (logarithm.exp().asinh() / degree as f64).tanh().powi(2);
        let extremum = |index: usize| (std::f64::consts::PI * (index % steps) as f64 / degree as f64).cos();
        let spectrum: Vec<f64> = (0..n)
            .map(|index| if index == 0 { 1.0 } else { (1.0 - gap) * (1.0 - extremum(index).powi(2)) })
            .collect();
        let failures =
            (0..draws).filter(|draw| 1.0 - largest_ritz(&spectrum, width, steps, *draw) > gap).count();
        let share = failures as f64 / draws as f64;
        // Four standard deviations above it; below it by what e^(−t/2) and the moments leave.
        assert!(share < probability + 0.038 && share > 0.5 * probability, "{share}");
    }

    /// The largest eigenvalue of a diagonal matrix in its Krylov space of a random block, written out.
    fn largest_ritz(spectrum: &[f64], width: usize, steps: usize, draw: u64) -> f64 {
        let n = spectrum.len();
        let inner = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f64>();
        let mut basis: Vec<Vec<f64>> = Vec::new();
        for at in 0..width * steps {
            let mut vector = if at < width {
                Stream::new(draw, at as u64).normals(n)
            } else {
                spectrum.iter().zip(&basis[at - width]).map(|(value, x)| value * x).collect()
            };
            for before in basis.iter().chain(&basis) {
                let share = inner(&vector, before);
                for (x, y) in vector.iter_mut().zip(before) {
                    *x -= share * y;
                }
            }
            let norm = inner(&vector, &vector).sqrt();
            basis.push(vector.iter().map(|x| x / norm).collect());
        }
        let image = |x: &[f64]| spectrum.iter().zip(x).map(|(value, x)| value * x).collect::<Vec<f64>>();
        let projected =
            basis.iter().flat_map(|x| basis.iter().map(|y| inner(&image(x), y)).collect::<Vec<_>>());
        let values = symmetric::eigenvalues(projected.collect(), basis.len()).expect("it converges");
        values[basis.len() - 1]
    }
}
