//! The spectrum of a change: ΔW = W′ − W, known by its products alone, against the direction in which W is largest.
//!
//! σ₁(ΔW) by Golub–Kahan–Lanczos with the bracket of [`super::bracket`]; W's own leading singular triplet (σ, u, v) by as many
//! steps. A change of low stable rank along u and v grows σ₁ itself: to first order uᵀΔWv is what σ₁ gains (Stewart and Sun
//! 1990, theorem IV.2.3).

use super::bracket;
use super::lanczos::{self, Ritz};
use super::matrix::{CONVERGED, SEED, norm_of};
use super::operator::Operator;
use crate::analysis::model::{ChangeSpectrum, Degenerate, Measured};
use crate::compute::{Backend, Matrix, Side};
use crate::context::Context;
use crate::error::Result;
use crate::random::Stream;

/// Why there is no direction.
const UNSETTLED: &str = "the largest singular values are too near to each other for a direction";

/// W′ − W.
struct Change<'m, 't> {
    before: &'m Matrix<'t>,
    after: &'m Matrix<'t>,
}

impl<B: Backend> Operator<B> for Change<'_, '_> {
    fn rows(&self) -> usize {
        self.before.row_count()
    }

    fn columns(&self) -> usize {
        self.before.column_count()
    }

    fn apply(&self, backend: &B, side: Side, x: &B::Buffer<f64>, y: &mut B::Buffer<f64>) -> Result<()> {
        let length = if side == Side::Plain { self.before.row_count() } else { self.before.column_count() };
        let mut earlier = backend.zeros(length)?;
        backend.multiply(self.before, side, 1, x, &mut earlier)?;
        backend.multiply(self.after, side, 1, x, y)?;
        backend.axpy(-1.0, &earlier, y)
    }
}

/// The unit vectors u and v of the largest Ritz value of `operator`; `None` where they have not settled.
fn leading<B: Backend, O: Operator<B>>(
    backend: &B,
    operator: &O,
    ritz: &Ritz<B::Buffer<f64>>,
) -> Result<Option<[B::Buffer<f64>; 2]>> {
    let (Some(&value), Some(&residual)) = (ritz.values.first(), ritz.residuals.first()) else {
        return Ok(None);
    };
    if value == 0.0 || residual > CONVERGED * value {
        return Ok(None);
    }
    let is_tall = operator.rows() >= operator.columns();
    let forward = if is_tall { Side::Plain } else { Side::Transposed };
    let (short, long) = (operator.rows().min(operator.columns()), operator.rows().max(operator.columns()));
    let mut shorter = backend.zeros(short)?;
    backend.place(&ritz.vector, &mut shorter, 0)?;
    let mut longer = backend.zeros(long)?;
    operator.apply(backend, forward, &shorter, &mut longer)?;
    backend.scale(1.0 / value, &mut longer)?;
    Ok(Some(if is_tall { [longer, shorter] } else { [shorter, longer] }))
}

/// Measures how `after` differs from `before`, two matrices of one shape whose elements are finite, and whose difference has
/// the Frobenius norm `difference`; `None` when the user asked to stop.
///
/// # Errors
/// A file that cannot be read.
pub fn measure<B: Backend>(
    backend: &B,
    before: &Matrix<'_>,
    after: &Matrix<'_>,
    difference: f64,
    context: &Context,
) -> Result<Option<Measured<ChangeSpectrum>>> {
    let shorter = before.row_count().min(before.column_count());
    if shorter == 0 {
        return Ok(Some(Measured::Degenerate(Degenerate::Empty)));
    }
    let change = Change { before, after };
    let steps = bracket::steps(shorter);
    let Some(ritz) = lanczos::run(backend, &change, steps, Stream::new(SEED, 0), context)? else {
        return Ok(None);
    };
    let Some(own) = lanczos::run(backend, before, steps, Stream::new(SEED, 1), context)? else {
        return Ok(None);
    };
    let spectral_norm = norm_of(&ritz, shorter, difference);
    if spectral_norm.value == 0.0 {
        return Ok(Some(Measured::Degenerate(Degenerate::AllZero)));
    }
    let size = own.values.first().copied().unwrap_or(0.0);
    let over = |value: f64| {
        if size > 0.0 { Measured::Value(value / size) } else { Measured::Degenerate(Degenerate::AllZero) }
    };
    let mut alignment = Measured::not(UNSETTLED);
    let mut growth = Measured::not(UNSETTLED);
    if let Some([left, right]) = leading(backend, before, &own)? {
        let mut moved = backend.zeros(before.row_count())?;
        change.apply(backend, Side::Plain, &right, &mut moved)?;
        growth = over(backend.dot(&left, &moved)?);
        if let Some([changed_left, changed_right]) = leading(backend, &change, &ritz)? {
            let cosines = [backend.dot(&changed_left, &left)?, backend.dot(&changed_right, &right)?];
            alignment = Measured::Value(cosines.map(f64::abs));
        }
    }
    Ok(Some(Measured::Value(ChangeSpectrum {
        stable_rank: (difference / spectral_norm.value).powi(2),
        relative_spectral_norm: over(spectral_norm.value),
        spectral_norm,
        alignment,
        growth,
    })))
}
