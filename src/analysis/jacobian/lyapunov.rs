//! Lyapunov exponents of a recurrence: how fast small changes of its state grow a step, along the states it really takes.
//!
//! `Q_t·R_t = J_t·Q_{t−1}`, `λ_i = lim (1/T)·Σ ln|R_t,ii|` (Benettin et al. 1980; Engelken, Wolf and Abbott 2020; Vogt et al. 2020).
//! J_t is never formed: k products a step. The standard error is that of the means of twelve batches of steps, which
//! successive steps are too alike to give by themselves.

use crate::analysis::model::{Degenerate, Estimated, Measured};
use crate::random::Stream;

/// Batches whose means the standard error is computed from.
pub const BATCHES: usize = 12;

/// Directions that are followed along a trajectory, orthonormal after every step.
#[derive(Debug, Clone)]
pub struct Directions {
    vectors: Vec<Vec<f64>>,
    /// ln|R_ii| of each step, one list a direction.
    logarithms: Vec<Vec<f64>>,
}

impl Directions {
    /// `count` random directions of a state of `length` numbers, at most as many as it has.
    pub fn new(count: usize, length: usize, start: Stream) -> Self {
        let count = count.min(length);
        let random = start.normals(count * length);
        let mut directions = Self {
            vectors: random.chunks_exact(length.max(1)).map(<[f64]>::to_vec).collect(),
            logarithms: vec![Vec::new(); count],
        };
        directions.orthonormalise();
        directions
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.vectors.len()
    }

    /// They, each a unit vector orthogonal to the others.
    pub fn vectors(&self) -> &[Vec<f64>] {
        &self.vectors
    }

    /// Goes on to their `images` under the Jacobian of a step. With `counted`, the step's growth is kept.
    pub fn step(&mut self, images: Vec<Vec<f64>>, counted: bool) {
        assert_eq!(images.len(), self.vectors.len(), "one image a direction");
        self.vectors = images;
        let growth = self.orthonormalise();
        if counted {
            for (own, growth) in self.logarithms.iter_mut().zip(growth) {
                own.push(growth);
            }
        }
    }

    /// The exponents, largest first.
    pub fn exponents(&self) -> Vec<Measured<Estimated>> {
        self.logarithms.iter().map(|steps| of_steps(steps)).collect()
    }

    /// Gram and Schmidt, twice over; the logarithms of the lengths that were left.
    fn orthonormalise(&mut self) -> Vec<f64> {
        let mut growth = Vec::with_capacity(self.vectors.len());
        for index in 0..self.vectors.len() {
            let (before, rest) = self.vectors.split_at_mut(index);
            let own = &mut rest[0];
            for _ in 0..2 {
                for earlier in before.iter() {
                    let share = dot(earlier, own);
                    own.iter_mut().zip(earlier).for_each(|(x, y)| *x -= share * y);
                }
            }
            let length = dot(own, own).sqrt();
            growth.push(length.ln());
            if length > 0.0 && length.is_finite() {
                for x in own.iter_mut() {
                    *x /= length;
                }
            }
        }
        growth
    }
}

/// The mean growth of a step, with its standard error by the means of batches.
fn of_steps(steps: &[f64]) -> Measured<Estimated> {
    if steps.len() < BATCHES {
        return Measured::not(format!("fewer than {BATCHES} steps"));
    }
    if steps.contains(&f64::NEG_INFINITY) {
        // A direction that a step takes to zero is forgotten at once: its exponent is −∞.
        return Measured::Degenerate(Degenerate::AllZero);
    }
    if !steps.iter().all(|step| step.is_finite()) {
        return Measured::Degenerate(Degenerate::Overflow);
    }
    let width = steps.len() / BATCHES;
    let used = &steps[steps.len() - width * BATCHES..];
    let means: Vec<f64> =
        used.chunks_exact(width).map(|batch| batch.iter().sum::<f64>() / width as f64).collect();
    let value = steps.iter().sum::<f64>() / steps.len() as f64;
    let centre = means.iter().sum::<f64>() / BATCHES as f64;
    let variance = means.iter().map(|mean| (mean - centre).powi(2)).sum::<f64>() / (BATCHES as f64 - 1.0);
    Measured::Value(Estimated { value, standard_error: (variance / BATCHES as f64).sqrt() })
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The exponents under `matrix`, a step after the other.
    fn of_product(matrices: impl Iterator<Item = Vec<f64>>, n: usize, k: usize) -> Vec<Measured<Estimated>> {
        let mut directions = Directions::new(k, n, Stream::new(1, 1));
        for (step, matrix) in matrices.enumerate() {
            let images = directions.vectors().iter().map(|vector| multiply(&matrix, vector)).collect();
            directions.step(images, step >= 100);
        }
        directions.exponents()
    }

    fn multiply(matrix: &[f64], vector: &[f64]) -> Vec<f64> {
        matrix.chunks_exact(vector.len()).map(|row| dot(row, vector)).collect()
    }

    #[test]
    fn a_linear_recurrence_has_the_logarithms_of_its_eigenvalues() {
        // Far from normal: the eigenvalues stand on the diagonal, the norm is 40 times the largest.
        let matrix = [0.9, 30.0, -7.0, 0.0, -0.5, 20.0, 0.0, 0.0, 0.1];
        let found = of_product((0..1300).map(|_| matrix.to_vec()), 3, 3);
        for (found, expected) in found.iter().zip([0.9f64, 0.5, 0.1]) {
            let found = found.value().unwrap();
            assert!((found.value - expected.ln()).abs() < 1e-10, "{found:?} {}", expected.ln());
            assert!(found.standard_error < 1e-10);
        }
    }

    /// T4: λ_i = ½(ln(2/N) + ψ((N − i + 1)/2)) for products of N×N Gaussians of variance 1/N (Newman 1986).
    #[test]
    fn a_product_of_gaussians_has_newmans_first_exponent_within_its_error() {
        let n = 10;
        let gaussian = |step| -> Vec<f64> {
            let values = Stream::new(3, step).normals(n * n);
            values.into_iter().map(|x| x / (n as f64).sqrt()).collect()
        };
        let found = of_product((0..6100).map(gaussian), n, 2);
        let (first, second) = (found[0].value().unwrap(), found[1].value().unwrap());
        // ψ(5) and ψ(9/2).
        let gamma = 0.577_215_664_901_532_9;
        let psi_5 = -gamma + 1.0 + 0.5 + 1.0 / 3.0 + 0.25;
        let psi_4_5 = -gamma - 2.0 * 2f64.ln() + 2.0 * (1.0 + 1.0 / 3.0 + 0.2 + 1.0 / 7.0);
        for (found, psi) in [(first, psi_5), (second, psi_4_5)] {
            let expected = 0.5 * ((2.0 / n as f64).ln() + psi);
            assert!((found.value - expected).abs() < 4.0 * found.standard_error, "{found:?} {expected}");
            // Var ln‖Wv‖ = ψ′(N/2)/4 ≈ 1/(2N) for independent steps.
            let independent = (1.0 / (2.0 * n as f64) / 6000.0).sqrt();
            assert!((0.4..2.2).contains(&(found.standard_error / independent)), "{found:?} {independent}");
        }
    }

    #[test]
    fn what_is_forgotten_at_once_and_what_overflows_are_told_apart() {
        let zero = of_product((0..200).map(|_| vec![1.0, 0.0, 0.0, 0.0]), 2, 2);
        assert_eq!(zero[1], Measured::Degenerate(Degenerate::AllZero));
        assert!(zero[0].value().unwrap().value.abs() < 1e-15);
        let beyond = of_product((0..200).map(|_| vec![f64::INFINITY; 4]), 2, 1);
        assert_eq!(beyond[0], Measured::Degenerate(Degenerate::Overflow));
        assert_eq!(of_product((0..105).map(|_| vec![2.0]), 1, 1), [Measured::not("fewer than 12 steps")]);
    }
}
