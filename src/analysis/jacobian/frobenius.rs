//! The Frobenius norm of a map that is known by its products: what a Krylov space holds exactly, the rest by random vectors.
//!
//! With V an orthonormal basis and P = I − VVᵀ, `‖A‖²_F = ‖AV‖²_F + ‖AP‖²_F`. The first term comes with the
//! bidiagonalisation, `AV = UB`; the second is `E‖APz‖²` for standard normal z (Hutchinson 1990; Meyer et al. 2021,
//! "Hutch++"). The variance is that of the rest alone: a few large singular values, which would decide a plain estimate, are
//! not in it.

use crate::analysis::model::Estimated;
use crate::analysis::spectrum::lanczos::Space;
use crate::analysis::spectrum::operator::Operator;
use crate::compute::Backend;
use crate::context::Context;
use crate::error::Result;
use crate::random::Stream;

/// The first of the streams that random vectors are drawn from.
const FIRST_STREAM: u64 = 100;

/// √Σσ² of `operator`, of whose squares `known` lie in `space`, by `probes` random vectors under `seed`; `None` when the user asked
/// to stop. The standard error is that of √Σσ².
pub fn estimate<B: Backend>(
    backend: &B,
    operator: &dyn Operator<B>,
    space: &Space<B::Buffer<f64>>,
    known: f64,
    probes: usize,
    seed: u64,
    context: &Context,
) -> Result<Option<Estimated>> {
    let (rows, columns) = (operator.rows(), operator.columns());
    let (short, long) = (rows.min(columns), rows.max(columns));
    if space.basis.count() == short || probes == 0 {
        return Ok(Some(Estimated { value: known.sqrt(), standard_error: 0.0 }));
    }
    let mut image = backend.zeros(long)?;
    let mut squares = Vec::with_capacity(probes);
    for probe in 0..probes as u64 {
        if context.cancelled() {
            return Ok(None);
        }
        let mut z = backend.upload(&Stream::new(seed, FIRST_STREAM + probe).normals(short))?;
        space.basis.remove_from(backend, &mut z)?;
        operator.apply(backend, space.forward, &z, &mut image)?;
        squares.push(backend.dot(&image, &image)?);
    }
    Ok(Some(of_samples(known, &squares)))
}

/// √(known + mean), with the standard error of the mean carried through the root.
pub fn of_samples(known: f64, squares: &[f64]) -> Estimated {
    let count = squares.len() as f64;
    let mean = squares.iter().sum::<f64>() / count;
    // In units of the mean: its square may leave the range of f64.
    let variance = if squares.len() > 1 {
        squares.iter().map(|square| (square / mean - 1.0).powi(2)).sum::<f64>() / (count - 1.0)
    } else {
        // A single χ² sample of one degree of freedom, the widest there is.
        2.0
    };
    let value = (known + mean).sqrt();
    let standard_error = if mean > 0.0 { mean / (2.0 * value) * (variance / count).sqrt() } else { 0.0 };
    Estimated { value, standard_error }
}
