//! The spectrum of one stored matrix.

use super::block_lanczos::{self, Outcome};
use super::bracket;
use super::choice::{LARGEST_BIDIAGONAL, Route};
use super::lanczos::{self, Ritz};
use super::{bidiagonal, density, krylov, marchenko_pastur, power_law, symmetric};
use crate::analysis::model::{
    Degenerate, Density, MarchenkoPastur, Measured, SpectralNorm, Spectrum, SpectrumMethod, SpectrumOf,
    WeightWatcher,
};
use crate::compute::{Backend, Matrix};
use crate::context::Context;
use crate::error::Result;
use crate::random::Stream;

/// Largest singular values that are reported.
const REPORTED: usize = 16;

/// A Ritz value is reported beside the first where it is this near to a singular value.
pub(super) const CONVERGED: f64 = 1e-2;

/// The seed of all random starts: the same input gives the same numbers.
pub(in crate::analysis) const SEED: u64 = 0x5EED_F1A5;

/// The stream of the first vector of a block: what comes before are the starts of other algorithms.
const FIRST_OF_BLOCK: u64 = 1 << 32;

const NOT_CONVERGED: &str = "the eigenvalue iteration did not converge";

const NEEDS_FULL: &str = "needs --measure full";

/// Measures `matrix`, whose elements are finite, by `route`; `None` when the user asked to stop.
///
/// # Errors
/// A file that cannot be read.
pub fn measure<B: Backend>(
    backend: &B,
    matrix: &Matrix<'_>,
    route: Route,
    context: &Context,
) -> Result<Option<Measured<Spectrum>>> {
    let (rows, columns) = (matrix.row_count(), matrix.column_count());
    if rows == 0 || columns == 0 {
        return Ok(Some(Measured::Degenerate(Degenerate::Empty)));
    }
    let spectrum = match route {
        Route::Direct => {
            let norm = matrix.to_dense()?.iter().map(|x| x * x).sum::<f64>().sqrt();
            Some(of_all(vec![norm], rows, columns, SpectrumMethod::Direct, rounding(rows, columns)))
        }
        Route::Gram | Route::GramThenBidiagonal => {
            let Some(eigenvalues) = gram_eigenvalues(backend, matrix)? else {
                return Ok(Some(Measured::not(NOT_CONVERGED)));
            };
            return of_gram(matrix, eigenvalues, route).map(Some);
        }
        Route::Lanczos | Route::LanczosAndDensity => {
            let Some(spectrum) = largest(backend, matrix, route, context)? else { return Ok(None) };
            Some(spectrum)
        }
        Route::BlockLanczos => match largest_in_blocks(backend, matrix, context)? {
            Some(Measured::Value(spectrum)) => Some(spectrum),
            other => return Ok(other),
        },
    };
    Ok(Some(finished(matrix, spectrum)))
}

/// What is reported of a spectrum; `None` is of an iteration that did not converge.
fn finished(matrix: &Matrix<'_>, spectrum: Option<Spectrum>) -> Measured<Spectrum> {
    match spectrum {
        Some(spectrum) if spectrum.spectral_norm.value == 0.0 => Measured::Degenerate(Degenerate::AllZero),
        Some(spectrum) => Measured::Value(spectrum.scaled(1.0 / matrix.scale())),
        None => Measured::not(NOT_CONVERGED),
    }
}

/// By how much a value may be off: `error` times σ₁²/σ for the Gram route, but at most √error·σ₁; `error`·σ₁ otherwise.
///
/// Sums of n products have rounding errors that grow like √n unless they conspire (Higham and Mary 2019); 4 is a margin.
pub(super) fn rounding(rows: usize, columns: usize) -> f64 {
    rounding_of(rows, columns, f64::EPSILON / 2.0)
}

/// The same where products have this unit roundoff.
pub(in crate::analysis) fn rounding_of(rows: usize, columns: usize, unit: f64) -> f64 {
    4.0 * ((rows as f64).sqrt() + (columns as f64).sqrt()) * unit
}

/// The eigenvalues of the Gram matrix of the shorter side, ascending; `None` where the iteration did not converge.
fn gram_eigenvalues<B: Backend>(backend: &B, matrix: &Matrix<'_>) -> Result<Option<Vec<f64>>> {
    let side = matrix.row_count().min(matrix.column_count());
    symmetric::eigenvalues_on(backend, &backend.gram(matrix)?, side, 1)
}

/// The spectrum from the eigenvalues of the Gram matrix of the shorter side, ascending, by one of the two routes that take it.
///
/// # Errors
/// A file that cannot be read.
pub(in crate::analysis) fn of_gram(
    matrix: &Matrix<'_>,
    eigenvalues: Vec<f64>,
    route: Route,
) -> Result<Measured<Spectrum>> {
    let (rows, columns) = (matrix.row_count(), matrix.column_count());
    let error = rounding(rows, columns);
    let values: Vec<f64> = eigenvalues.into_iter().rev().map(|x| x.max(0.0).sqrt()).collect();
    let spectrum = of_all(values, rows, columns, SpectrumMethod::Gram, error);
    if route == Route::Gram || spectrum.smallest.value().is_some() || rows * columns > LARGEST_BIDIAGONAL {
        return Ok(finished(matrix, Some(spectrum)));
    }
    let values = bidiagonal::singular_values(matrix.to_dense()?, rows, columns);
    let spectrum = values.map(|values| of_all(values, rows, columns, SpectrumMethod::Bidiagonal, error));
    Ok(finished(matrix, spectrum))
}

/// The spectrum of all singular values, largest first.
pub(in crate::analysis) fn of_all(
    values: Vec<f64>,
    rows: usize,
    columns: usize,
    method: SpectrumMethod,
    error: f64,
) -> Spectrum {
    let largest = values.first().copied().unwrap_or(0.0);
    let squares: f64 = values.iter().map(|x| x * x).sum();
    let error_of = |value: f64| match method {
        SpectrumMethod::Gram => error.sqrt().min(error * largest / value) * largest,
        _ => error * largest,
    };
    let last = values.last().copied().unwrap_or(0.0);
    let smallest = if last > 2.0 * error_of(last) {
        Measured::Value(last)
    } else {
        Measured::not(format!("below the rounding error {:.1e}", error_of(last)))
    };
    let mut weight_watcher = power_law::metrics(&values, rows.max(columns));
    if let (Some(metrics), SpectrumMethod::Gram, None) = (&mut weight_watcher, method, smallest.value()) {
        // What the Gram matrix makes of zeros is its rounding, far above the tolerance of the rank.
        let reason =
            format!("singular values below the rounding error {:.1e} cannot be counted", error_of(last));
        metrics.matrix_rank = Measured::not(reason.clone());
        metrics.entropy = Measured::not(reason);
    }
    Spectrum {
        of: SpectrumOf::Matrix,
        rows: rows as u64,
        columns: columns as u64,
        method,
        spectral_norm: SpectralNorm {
            value: largest,
            upper: Measured::Value(largest + error_of(largest)),
            failure_probability: 0.0,
            residual: error_of(largest),
            steps: 0,
        },
        frobenius_norm: squares.sqrt(),
        stable_rank: squares / (largest * largest),
        condition: smallest.clone().map(|smallest| largest / smallest),
        smallest,
        effective_rank: effective_rank(&values),
        spread: spread(&values),
        density: Measured::Value(Density { quantiles: density::quantiles(&values), is_exact: true }),
        marchenko_pastur: marchenko_pastur::fit(&values, rows, columns)
            .map_or_else(|| Measured::not("no width of noise fits the bulk"), Measured::Value),
        weight_watcher: weight_watcher
            .map_or_else(|| Measured::not("every singular value is zero"), Measured::Value),
        rounding: Measured::Value(error),
        largest: values.iter().copied().take(REPORTED).collect(),
        values: Measured::Value(values),
        spectral_radius: Measured::not("no square recurrence"),
        parts: Vec::new(),
    }
}

/// exp of the entropy of the shares of Σσ.
fn effective_rank(values: &[f64]) -> Measured<f64> {
    let total: f64 = values.iter().sum();
    if total <= 0.0 {
        return Measured::Degenerate(Degenerate::AllZero);
    }
    let shares = values.iter().map(|x| x / total).filter(|p| *p > 0.0);
    Measured::Value((-shares.map(|p| p * p.ln()).sum::<f64>()).exp())
}

/// Population variance of σ² over the square of its mean.
fn spread(values: &[f64]) -> Measured<f64> {
    let n = values.len() as f64;
    let mean = values.iter().map(|x| x * x).sum::<f64>() / n;
    if mean <= 0.0 {
        return Measured::Degenerate(Degenerate::AllZero);
    }
    Measured::Value(values.iter().map(|x| (x * x / mean - 1.0).powi(2)).sum::<f64>() / n)
}

/// σ₁ with its bracket, and at full depth more of the largest and a density.
fn largest<B: Backend>(
    backend: &B,
    matrix: &Matrix<'_>,
    route: Route,
    context: &Context,
) -> Result<Option<Spectrum>> {
    let (rows, columns) = (matrix.row_count(), matrix.column_count());
    let shorter = rows.min(columns);
    let frobenius_norm = frobenius_norm(backend, matrix)?;
    let start = Stream::new(SEED, 0);
    let Some(ritz) = lanczos::run(backend, matrix, bracket::steps(shorter), start, context)? else {
        return Ok(None);
    };
    let spectral_norm = norm_of(&ritz, shorter, frobenius_norm);
    let near = ritz
        .values
        .iter()
        .zip(&ritz.residuals)
        .take_while(|(value, residual)| **residual <= CONVERGED * **value);
    let mut values: Vec<f64> = near.map(|(value, _)| *value).take(REPORTED).collect();
    if values.is_empty() {
        values.push(spectral_norm.value);
    }
    let mut density = Measured::not(NEEDS_FULL);
    if route == Route::LanczosAndDensity {
        let Some(top) = krylov::run(backend, matrix, REPORTED, Stream::new(SEED, 1), context)? else {
            return Ok(None);
        };
        let Some(found) = density::estimate(backend, matrix, &top, context)? else { return Ok(None) };
        density = Measured::Value(found);
        values.clone_from(&top.values);
        values[0] = spectral_norm.value.max(values[0]);
    }
    let reason = if route == Route::Lanczos { NEEDS_FULL } else { "the shorter side is more than 4096" };
    Ok(Some(of_largest((rows, columns), spectral_norm, frobenius_norm, values, density, reason)))
}

/// Frobenius norms whose fourth powers, which lengths of images are the squares of, are safe in f64.
const SAFE: std::ops::Range<f64> = 1e-60..1e60;

/// σ₁ with its bracket, and those of the next that converged, by blocks; `None` when the user asked to stop.
fn largest_in_blocks<B: Backend>(
    backend: &B,
    matrix: &Matrix<'_>,
    context: &Context,
) -> Result<Option<Measured<Spectrum>>> {
    let (rows, columns) = (matrix.row_count(), matrix.column_count());
    let frobenius_norm = frobenius_norm(backend, matrix)?;
    if !frobenius_norm.is_finite() {
        return Ok(Some(Measured::not("an element is not finite")));
    }
    if !SAFE.contains(&frobenius_norm) {
        return Ok(largest(backend, matrix, Route::Lanczos, context)?.map(Measured::Value));
    }
    let start = std::array::from_fn(|vector| Stream::new(SEED, FIRST_OF_BLOCK + vector as u64));
    let found = match block_lanczos::run(backend, matrix, REPORTED, start, context)? {
        Outcome::Found(found) => found,
        Outcome::Failed => return Ok(Some(Measured::not(NOT_CONVERGED))),
        Outcome::Stopped => return Ok(None),
    };
    let shorter = rows.min(columns);
    let value = found.values[0];
    let spectral_norm = bracketed(&Bracketed {
        value,
        residual: found.residuals[0],
        others: found.squares - value * value,
        gap: (found.width >= 2).then(|| bracket::block_gap(shorter, found.width, found.steps)),
        is_complete: found.is_complete,
        steps: found.steps,
        frobenius_norm,
    });
    let near = found.values.iter().zip(&found.residuals).take_while(|(near, residual)| {
        **residual <= CONVERGED * **near && **near > block_lanczos::DEPENDENT.sqrt() * value
    });
    let mut values: Vec<f64> = near.map(|(value, _)| *value).take(REPORTED).collect();
    if values.is_empty() {
        values.push(value);
    }
    let density = Measured::not(NEEDS_FULL);
    let spectrum = of_largest((rows, columns), spectral_norm, frobenius_norm, values, density, NEEDS_FULL);
    Ok(Some(Measured::Value(spectrum)))
}

/// A spectrum of which only the largest values are known; `reason` says why of the rest.
fn of_largest(
    (rows, columns): (usize, usize),
    spectral_norm: SpectralNorm,
    frobenius_norm: f64,
    largest: Vec<f64>,
    density: Measured<Density>,
    reason: &'static str,
) -> Spectrum {
    Spectrum {
        of: SpectrumOf::Matrix,
        rows: rows as u64,
        columns: columns as u64,
        method: SpectrumMethod::Lanczos,
        stable_rank: (frobenius_norm / spectral_norm.value).powi(2),
        spectral_norm,
        frobenius_norm,
        largest,
        values: Measured::not(reason),
        rounding: Measured::not(reason),
        smallest: Measured::not(reason),
        condition: Measured::not(reason),
        effective_rank: Measured::not(reason),
        spread: Measured::not(reason),
        density,
        marchenko_pastur: Measured::<MarchenkoPastur>::not(reason),
        weight_watcher: Measured::<WeightWatcher>::not(reason),
        spectral_radius: Measured::not("no square recurrence"),
        parts: Vec::new(),
    }
}

/// √Σx².
pub(super) fn frobenius_norm<B: Backend>(backend: &B, matrix: &Matrix<'_>) -> Result<f64> {
    Ok(backend.sum_of_squares(matrix)?.sqrt())
}

/// What a bracket is made of.
struct Bracketed {
    /// The largest Ritz value.
    value: f64,
    residual: f64,
    /// The sum of the squares of the others.
    others: f64,
    /// The gap in σ² of [`bracket`], where it has one.
    gap: Option<f64>,
    is_complete: bool,
    steps: usize,
    frobenius_norm: f64,
}

/// The bracket of what Lanczos found on a map with this Frobenius norm.
pub(super) fn norm_of<V>(ritz: &Ritz<V>, shorter: usize, frobenius_norm: f64) -> SpectralNorm {
    bracketed(&Bracketed {
        value: ritz.values.first().copied().unwrap_or(0.0),
        residual: ritz.residuals.first().copied().unwrap_or(0.0),
        others: ritz.values.iter().skip(1).map(|x| x * x).sum(),
        gap: bracket::gap(shorter, ritz.steps),
        is_complete: ritz.is_complete,
        steps: ritz.steps,
        frobenius_norm,
    })
}

/// The largest Ritz value as a lower bound of σ₁, and the least of three upper bounds: the one of [`bracket`], and two that hold for
/// certain. Ritz values interlace, so that σ₁² ≤ ‖A‖²_F − θ₂² − θ₃² − ….
fn bracketed(found: &Bracketed) -> SpectralNorm {
    let &Bracketed { value, residual, others, frobenius_norm, .. } = found;
    let rounding = 1.0 + 1e-12;
    let certain = (frobenius_norm.powi(2) * rounding - others).max(0.0).sqrt().max(value) * rounding;
    let likely = found.gap.map(|gap| value / (1.0 - gap).sqrt() * rounding);
    let (upper, failure_probability) = match likely {
        _ if found.is_complete => (value * rounding, 0.0),
        Some(likely) if likely < certain => (likely, bracket::FAILURE_PROBABILITY),
        _ => (certain, 0.0),
    };
    SpectralNorm {
        value,
        upper: Measured::Value(upper),
        failure_probability,
        residual,
        steps: found.steps as u64,
    }
}

impl Spectrum {
    /// Takes away what is of all singular values of one matrix, where only the largest is that of the whole.
    pub(super) fn keep_the_largest(&mut self, reason: &'static str) {
        self.values = Measured::not(reason);
        self.smallest = Measured::not(reason);
        self.condition = Measured::not(reason);
        self.effective_rank = Measured::not(reason);
        self.spread = Measured::not(reason);
        self.density = Measured::not(reason);
        self.marchenko_pastur = Measured::not(reason);
        self.weight_watcher = Measured::not(reason);
    }

    /// The spectrum of the map times `factor`, a power of two.
    pub(super) fn scaled(mut self, factor: f64) -> Self {
        if factor == 1.0 {
            return self;
        }
        let scale = |value: &mut f64| *value *= factor;
        scale(&mut self.spectral_norm.value);
        scale(&mut self.spectral_norm.residual);
        scale(&mut self.frobenius_norm);
        self.largest.iter_mut().for_each(scale);
        self.spectral_norm.upper = self.spectral_norm.upper.map(|x| x * factor);
        self.smallest = self.smallest.map(|x| x * factor);
        self.values = self.values.map(|values| values.into_iter().map(|x| x * factor).collect());
        if let Measured::Value(density) = &mut self.density {
            density.quantiles.iter_mut().for_each(scale);
        }
        // Widths and exponents of numbers so large or small that their squares leave the range of f64.
        self.marchenko_pastur = Measured::not("the elements leave the range that is fitted");
        self.weight_watcher = Measured::not("the elements leave the range that is fitted");
        self
    }
}
