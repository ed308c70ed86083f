//! The power law of the tail of a spectrum as WeightWatcher 0.7 fits it (`WW_powerlaw.py`; Clauset, Shalizi and Newman
//! 2009), and its metrics by its own definitions and names.
//!
//! Every eigenvalue is tried as the start of the tail; the one whose fit is nearest in the Kolmogorov–Smirnov distance
//! holds. Two things are left out, as they are no definitions but accidents: 1e-10 added to every p of the entropy, and the
//! bias-corrected fit of fewer than 20 eigenvalues, for which there is no exponent here.

use crate::analysis::model::{Measured, WeightWatcher};

/// Eigenvalues at or below it take no part in the fit: `EVALS_THRESH`.
const SMALLEST_EIGENVALUE: f64 = 1e-5;

/// Fewer eigenvalues are not fitted: `SMALL_N_CUTOFF`.
const FEWEST: usize = 20;

/// More are not fitted, as in WeightWatcher (`MAX_NUM_EVALS`): the fit takes quadratic time.
const MOST: usize = 15_000;

/// A power law `p(x) ~ x^−alpha` above `xmin`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PowerLaw {
    /// The exponent.
    pub alpha: f64,
    /// Kolmogorov–Smirnov distance.
    pub distance: f64,
    /// Where the tail begins.
    pub xmin: f64,
    /// Values in the tail.
    pub tail: usize,
    /// Standard error of the exponent.
    pub sigma: f64,
}

/// The best law for these eigenvalues, smallest first; `None` of fewer than 20, or where no start gives a law.
pub fn fit(eigenvalues: &[f64]) -> Option<PowerLaw> {
    let n = eigenvalues.len();
    if n < FEWEST {
        return None;
    }
    let logs: Vec<f64> = eigenvalues.iter().map(|x| x.ln()).collect();
    let mut sums = vec![0.0; n + 1];
    for index in (0..n).rev() {
        sums[index] = sums[index + 1] + logs[index];
    }
    let mut best: Option<PowerLaw> = None;
    for start in 0..n - 1 {
        let tail = (n - start) as f64;
        let alpha = 1.0 + tail / (sums[start] - tail * logs[start]);
        if !(alpha > 1.0 && alpha.is_finite()) {
            continue;
        }
        let limit = best.map_or(f64::INFINITY, |best| best.distance);
        let Some(distance) = distance(&logs[start..], alpha, limit) else { continue };
        best = Some(PowerLaw {
            alpha,
            distance,
            xmin: eigenvalues[start],
            tail: n - start,
            sigma: (alpha - 1.0) / tail.sqrt(),
        });
    }
    best
}

/// max |1 − (x/xmin)^(1−alpha) − j/n| over the tail; `None` once it reaches `limit`.
fn distance(logs: &[f64], alpha: f64, limit: f64) -> Option<f64> {
    let n = logs.len() as f64;
    let mut largest = 0.0f64;
    for (rank, log) in logs.iter().enumerate() {
        let law = 1.0 - ((1.0 - alpha) * (log - logs[0])).exp();
        largest = largest.max((law - rank as f64 / n).abs());
        if largest >= limit {
            return None;
        }
    }
    Some(largest)
}

/// The metrics for all singular values, largest first, of a matrix whose longer side is `longer`.
pub fn metrics(singular_values: &[f64], longer: usize) -> Option<WeightWatcher> {
    let eigenvalues: Vec<f64> = singular_values.iter().map(|x| x * x).collect();
    let largest = *eigenvalues.first().filter(|largest| **largest > 0.0)?;
    let norm: f64 = eigenvalues.iter().sum();
    let mut fitted: Vec<f64> = eigenvalues.iter().copied().filter(|x| *x > SMALLEST_EIGENVALUE).collect();
    fitted.sort_by(f64::total_cmp);
    let law = if fitted.len() <= MOST { fit(&fitted) } else { None };
    let reason = match fitted.len() {
        count if count < FEWEST => {
            format!("{count} eigenvalues above {SMALLEST_EIGENVALUE}, {FEWEST} are needed")
        }
        count if count > MOST => format!("{count} eigenvalues, more than {MOST} are not fitted"),
        _ => "no eigenvalue starts a tail".to_owned(),
    };
    let of_law = |pick: &dyn Fn(PowerLaw) -> f64| {
        law.map_or_else(|| Measured::not(reason.clone()), |law| Measured::Value(pick(law)))
    };
    let tolerance = singular_values[0] * longer as f64 * f64::EPSILON;
    let rank = singular_values.iter().filter(|x| **x > tolerance).count();
    Some(WeightWatcher {
        alpha: of_law(&|law| law.alpha),
        distance: of_law(&|law| law.distance),
        num_pl_spikes: law
            .map_or_else(|| Measured::not(reason.clone()), |law| Measured::Value(law.tail as u64)),
        sigma: of_law(&|law| law.sigma),
        xmin: of_law(&|law| law.xmin),
        alpha_weighted: of_law(&|law| law.alpha * largest.log10()),
        log_alpha_norm: of_law(&|law| fitted.iter().map(|x| x.powf(law.alpha)).sum::<f64>().log10()),
        log_norm: norm.log10(),
        spectral_norm: largest,
        log_spectral_norm: largest.log10(),
        stable_rank: norm / largest,
        matrix_rank: Measured::Value(rank as u64),
        entropy: entropy(&eigenvalues, norm, rank),
    })
}

fn entropy(eigenvalues: &[f64], norm: f64, rank: usize) -> Measured<f64> {
    if rank < 2 {
        return Measured::not("a matrix of rank 1 has no entropy to be relative to");
    }
    let shares = eigenvalues.iter().map(|x| x / norm).filter(|p| *p > 0.0);
    Measured::Value(-shares.map(|p| p * p.ln()).sum::<f64>() / (rank as f64).ln())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// x_j = (1 − (j + ½)/n)^(−1/(alpha − 1)): the quantiles of the law itself.
    #[test]
    fn the_exponent_of_a_pure_law_is_found() {
        let (n, alpha) = (2000usize, 3.0f64);
        let quantile = |j: usize| (1.0 - (j as f64 + 0.5) / n as f64).powf(-1.0 / (alpha - 1.0));
        let law = fit(&(0..n).map(quantile).collect::<Vec<_>>()).unwrap();
        assert!((law.alpha - alpha).abs() < 0.02 && law.distance < 0.01, "{law:?}");
        assert!((law.sigma - (law.alpha - 1.0) / (law.tail as f64).sqrt()).abs() < 1e-15);
    }

    #[test]
    fn equal_or_few_eigenvalues_have_no_exponent() {
        assert_eq!(fit(&[1.0; 50]), None);
        assert_eq!(fit(&[1.0, 2.0, 3.0]), None);
    }
}
