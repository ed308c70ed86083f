//! The singular values of one Jacobian: the largest by Golub–Kahan–Lanczos, the Frobenius norm with what that leaves, a
//! density on request, or all of them from the dense matrix.

use super::watched::Watched;
use super::{exact, frobenius, logarithm};
use crate::analysis::model::{
    Degenerate, Density, Estimated, JacobianSpectrum, Measured, SpectralNorm, SpectrumMethod,
};
use crate::analysis::spectrum::krylov::Top;
use crate::analysis::spectrum::lanczos::{self, Basis, Ritz, Space};
use crate::analysis::spectrum::operator::Operator;
use crate::analysis::spectrum::{bracket, density, matrix};
use crate::compute::Backend;
use crate::context::Context;
use crate::error::Result;
use crate::random::Stream;

/// What is asked of a spectrum.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Request {
    /// Pairs of products that the largest singular values are sought with.
    pub pairs: usize,
    /// Random vectors for the rest of the Frobenius norm.
    pub probes: usize,
    /// Where the singular values lie, by quadrature.
    pub density: bool,
    /// All singular values, where the map is small enough.
    pub exact: bool,
    /// Seed of everything random.
    pub seed: u64,
    /// Unit roundoff of the products.
    pub unit: f64,
}

impl Request {
    /// Products of which `measure` makes at most so many, for a map of these sides.
    pub fn products(&self, rows: usize, columns: usize) -> u64 {
        let short = rows.min(columns);
        if self.exact && exact::is_small(rows, columns) {
            return short as u64;
        }
        let quadrature = if self.density { density::PRODUCTS } else { 0 };
        2 * self.pairs.min(short) as u64 + self.probes as u64 + quadrature
    }
}

/// A Ritz value is reported beside the first where it is this near to a singular value.
const CONVERGED: f64 = 1e-2;

const NEEDS_ALL: &str = "needs --exact or --density";

const NEEDS_EXACT: &str = "needs --exact";

/// Measures `operator`; `None` when the user asked to stop.
///
/// # Errors
/// Where the device fails.
pub fn measure<B: Backend>(
    backend: &B,
    operator: &dyn Operator<B>,
    request: &Request,
    context: &Context,
) -> Result<Option<Measured<JacobianSpectrum>>> {
    let (rows, columns) = (operator.rows(), operator.columns());
    if rows == 0 || columns == 0 {
        return Ok(Some(Measured::Degenerate(Degenerate::Empty)));
    }
    let watched = Watched::new(operator);
    let found = if request.exact && exact::is_small(rows, columns) {
        from_dense(backend, &watched, request, context)?
    } else {
        from_products(backend, &watched, request, context)?
    };
    Ok(found.map(|found| {
        let is_finite = found.value().is_none_or(is_finite);
        if watched.has_overflowed() || !is_finite {
            Measured::Degenerate(Degenerate::Overflow)
        } else {
            found
        }
    }))
}

/// Whether the norms are: squares of squares may leave the range of f64 where no product does.
fn is_finite(found: &JacobianSpectrum) -> bool {
    let Estimated { value, standard_error } = found.frobenius_norm;
    [found.spectral_norm.value, value, standard_error, found.stable_rank].iter().all(|x| x.is_finite())
}

fn from_dense<B: Backend>(
    backend: &B,
    operator: &dyn Operator<B>,
    request: &Request,
    context: &Context,
) -> Result<Option<Measured<JacobianSpectrum>>> {
    let (rows, columns) = (operator.rows(), operator.columns());
    let Some(values) = exact::dense(backend, operator, context)? else { return Ok(None) };
    let Some(spectrum) = exact::spectrum(values, rows, columns, request.unit) else {
        return Ok(Some(Measured::not("the eigenvalue iteration did not converge")));
    };
    debug_assert_eq!(spectrum.method, SpectrumMethod::Bidiagonal);
    if spectrum.spectral_norm.value == 0.0 {
        return Ok(Some(Measured::Degenerate(Degenerate::AllZero)));
    }
    let error = spectrum.spectral_norm.residual;
    let mean_logarithm = match &spectrum.values {
        Measured::Value(values) => logarithm::of_values(values, error),
        other => other.clone().map(|_| 0.0),
    };
    Ok(Some(Measured::Value(JacobianSpectrum {
        frobenius_norm: Estimated { value: spectrum.frobenius_norm, standard_error: 0.0 },
        stable_rank: spectrum.stable_rank,
        mean_logarithm,
        smallest: spectrum.smallest,
        spread: spectrum.spread,
        density: spectrum.density,
        largest: spectrum.largest,
        spectral_norm: spectrum.spectral_norm,
    })))
}

fn from_products<B: Backend>(
    backend: &B,
    operator: &dyn Operator<B>,
    request: &Request,
    context: &Context,
) -> Result<Option<Measured<JacobianSpectrum>>> {
    let start = Stream::new(request.seed, 0);
    let Some((ritz, space)) =
        lanczos::run_with_space(backend, operator, request.pairs.max(1), start, None, context)?
    else {
        return Ok(None);
    };
    let value = ritz.values.first().copied().unwrap_or(0.0);
    if value == 0.0 {
        return Ok(Some(Measured::Degenerate(Degenerate::AllZero)));
    }
    let Some(frobenius_norm) = norm(backend, operator, &ritz, &space, request, context)? else {
        return Ok(None);
    };
    let (density, mean_logarithm) = if request.density {
        let top = top(backend, &ritz, &space)?;
        let Some(found) = density::quadrature(backend, operator, &top, context)? else { return Ok(None) };
        (Measured::Value(found.density()), logarithm::of_quadrature(&found))
    } else {
        (Measured::<Density>::not(NEEDS_ALL), Measured::not(NEEDS_ALL))
    };
    let mut largest: Vec<f64> = converged(&ritz).map(|index| ritz.values[index]).collect();
    if largest.is_empty() {
        largest.push(value);
    }
    Ok(Some(Measured::Value(JacobianSpectrum {
        stable_rank: (frobenius_norm.value / value).powi(2),
        spectral_norm: bracketed(&ritz, (operator.rows(), operator.columns()), request.unit),
        largest,
        frobenius_norm,
        mean_logarithm,
        smallest: Measured::not(NEEDS_EXACT),
        spread: Measured::not(NEEDS_EXACT),
        density,
    })))
}

/// Indices of the Ritz values that are near singular values, from the first on without a gap.
fn converged<V>(ritz: &Ritz<V>) -> impl Iterator<Item = usize> + '_ {
    (0..ritz.values.len()).take_while(|&index| ritz.residuals[index] <= CONVERGED * ritz.values[index])
}

fn bracketed<V>(ritz: &Ritz<V>, (rows, columns): (usize, usize), unit: f64) -> SpectralNorm {
    let value = ritz.values.first().copied().unwrap_or(0.0);
    // Of the products, and of the iteration in f64.
    let error = matrix::rounding_of(rows, columns, unit).max(1e-12);
    let rounding = 1.0 + error;
    // A complete space has seen all that the start reaches, which is everything but for a chance of 0.
    let (upper, failure_probability) = if ritz.is_complete {
        (Measured::Value(value * rounding), 0.0)
    } else {
        match bracket::gap(rows.min(columns), ritz.steps) {
            Some(gap) => {
                (Measured::Value(value / (1.0 - gap).sqrt() * rounding), bracket::FAILURE_PROBABILITY)
            }
            None => (Measured::not(format!("{} pairs of products are too few for a bound", ritz.steps)), 0.0),
        }
    };
    SpectralNorm {
        value,
        upper,
        failure_probability,
        residual: ritz.residuals.first().copied().unwrap_or(0.0).max(unit * value),
        steps: ritz.steps as u64,
    }
}

fn norm<B: Backend>(
    backend: &B,
    operator: &dyn Operator<B>,
    ritz: &Ritz<B::Buffer<f64>>,
    space: &Space<B::Buffer<f64>>,
    request: &Request,
    context: &Context,
) -> Result<Option<Estimated>> {
    let known = if space.is_isometric {
        ritz.values.iter().map(|value| value * value).sum()
    } else {
        images(backend, operator, space)?
    };
    frobenius::estimate(backend, operator, space, known, request.probes, request.seed, context)
}

/// `‖A·V‖²_F` by the products themselves.
fn images<B: Backend>(backend: &B, operator: &dyn Operator<B>, space: &Space<B::Buffer<f64>>) -> Result<f64> {
    let mut image = backend.zeros(operator.rows().max(operator.columns()))?;
    let mut sum = 0.0;
    let vectors = space.basis.numbers(backend)?;
    for vector in vectors.chunks_exact(space.basis.length().max(1)) {
        operator.apply(backend, space.forward, &backend.upload(vector)?, &mut image)?;
        sum += backend.dot(&image, &image)?;
    }
    Ok(sum)
}

/// What Lanczos found, as what the quadrature leaves out.
fn top<B: Backend>(
    backend: &B,
    ritz: &Ritz<B::Buffer<f64>>,
    space: &Space<B::Buffer<f64>>,
) -> Result<Top<B::Buffer<f64>>> {
    let taken: Vec<usize> = converged(ritz).collect();
    let mut vectors = Basis::new(backend, taken.len(), space.basis.length())?;
    for &index in &taken {
        let factors = backend.upload(&space.factors[index])?;
        vectors.push(backend, &space.basis.combine(backend, &factors)?)?;
    }
    Ok(Top {
        values: taken.iter().map(|&index| ritz.values[index]).collect(),
        residuals: taken.iter().map(|&index| ritz.residuals[index]).collect(),
        vectors,
        forward: space.forward,
    })
}
