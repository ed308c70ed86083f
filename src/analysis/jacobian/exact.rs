//! The whole Jacobian as a dense matrix, one product a column or a row, and all its singular values: where a map is small
//! enough, or must be known to the last digit.

use crate::analysis::model::Spectrum;
use crate::analysis::model::SpectrumMethod;
use crate::analysis::spectrum::bidiagonal;
use crate::analysis::spectrum::matrix;
use crate::analysis::spectrum::operator::Operator;
use crate::compute::{Backend, Side};
use crate::context::Context;
use crate::error::Result;

/// Largest shorter side that is formed: 4096 products, and 134 MB for a square map.
pub const LARGEST: usize = 4096;

/// Numbers of the dense matrix, 268 MB.
pub const LARGEST_ELEMENTS: usize = 1 << 25;

/// Whether a map of these sides is formed.
pub fn is_small(rows: usize, columns: usize) -> bool {
    rows.min(columns) <= LARGEST && rows.saturating_mul(columns) <= LARGEST_ELEMENTS
}

/// The rows×columns matrix of `operator`, row-major; `None` when the user asked to stop.
pub fn dense<B: Backend>(
    backend: &B,
    operator: &dyn Operator<B>,
    context: &Context,
) -> Result<Option<Vec<f64>>> {
    let (rows, columns) = (operator.rows(), operator.columns());
    let mut matrix = vec![0.0; rows * columns];
    let (side, short, long) =
        if columns <= rows { (Side::Plain, columns, rows) } else { (Side::Transposed, rows, columns) };
    let mut image = backend.zeros(long)?;
    let mut unit = vec![0.0; short];
    for index in 0..short {
        if context.cancelled() {
            return Ok(None);
        }
        unit[index] = 1.0;
        operator.apply(backend, side, &backend.upload(&unit)?, &mut image)?;
        unit[index] = 0.0;
        for (place, value) in backend.download(&image)?.into_iter().enumerate() {
            let at = if side == Side::Plain { place * columns + index } else { index * columns + place };
            matrix[at] = value;
        }
    }
    Ok(Some(matrix))
}

/// Everything about the singular values of a dense matrix whose elements are finite, and whose products had the unit roundoff
/// `unit`; `None` where the iteration does not converge.
pub fn spectrum(values: Vec<f64>, rows: usize, columns: usize, unit: f64) -> Option<Spectrum> {
    let error = matrix::rounding_of(rows, columns, unit);
    let values = bidiagonal::singular_values(values, rows, columns)?;
    Some(matrix::of_all(values, rows, columns, SpectrumMethod::Bidiagonal, error))
}
