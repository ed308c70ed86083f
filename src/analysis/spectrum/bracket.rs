//! How far the largest Ritz value may lie below the largest singular value, for any matrix.
//!
//! Kuczyński and Woźniakowski 1992 (SIAM J. Matrix Anal. Appl. 13(4), theorem 4.2): after k steps of Lanczos on a positive
//! semidefinite n×n matrix from a start that is uniform on the sphere, the largest Ritz value θ and eigenvalue λ satisfy
//!
//! `P[(λ − θ)/λ > ε] ≤ 1.648·√n·exp(−√ε·(2k − 1))`.
//!
//! The spectrum does not matter, only ln n. Here λ = σ², so that σ ≤ θ/√(1 − ε).

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

#[cfg(test)]
mod tests {
    use super::*;

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
}
