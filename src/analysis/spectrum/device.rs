//! Which device measures a matrix, and what happens when the GPU does not: the matrix is measured on the processor, and the ledger
//! says so.

use super::choice::{self, On, Route};
use super::{batch, matrix};
use crate::analysis::device::{chosen, or_processor};
use crate::analysis::model::{MeasureLevel, Measured, Spectrum};
use crate::compute::{Cpu, Matrix};
use crate::context::{Context, DeviceChoice};
use crate::error::Result;
use crate::tensor::Kind;

/// Elements of all matrices together below which a checkpoint's spectra are not worth a GPU of its own accord. Opening one with its libraries
/// takes 0.6 to 1.2 s (docs/benchmarks.md, "On a GPU"), in which two threads measure 2²⁵ elements and sixteen cores 2²⁸.
const WORTH: u64 = 1 << 27;

/// What `auto` comes to for the spectra of so many elements: the first GPU for all that it can do, or the processor. It does not depend on the
/// number of threads, since the last bits do on the device.
pub(super) fn settled(elements: u64, context: &Context) -> Context {
    let mut settled = context.clone();
    if context.device.choice == DeviceChoice::Auto {
        let takes = elements >= WORTH && chosen(context).is_some();
        settled.device.choice = if takes { DeviceChoice::Cuda(0) } else { DeviceChoice::Cpu };
    }
    settled
}

/// Whether kernels, which count rows and columns with 32 bits, can count these.
fn is_countable(rows: usize, columns: usize) -> bool {
    [rows, columns].iter().all(|count| u32::try_from(*count).is_ok())
}

/// Of each matrix the eigenvalues of its Gram matrix, where a GPU had them in one call with those of others; the rest is measured alone.
pub(super) fn of_many(matrices: &[(Matrix<'_>, MeasureLevel)], context: &Context) -> Vec<Option<Vec<f64>>> {
    let mut found = vec![None; matrices.len()];
    let device = chosen(context).filter(|device| device.has_solver() && matrices.len() > 1);
    let Some(device) = device else { return found };
    let places: Vec<usize> = (0..matrices.len()).filter(|place| is_gathered(&matrices[*place])).collect();
    let gathered: Vec<&Matrix<'_>> = places.iter().map(|place| &matrices[*place].0).collect();
    for (place, eigenvalues) in places.into_iter().zip(batch::eigenvalues(&device, &gathered, context)) {
        found[place] = eigenvalues;
    }
    found
}

/// Whether all singular values of a matrix, from a Gram matrix that is small, are measured at this depth on a GPU that has a solver.
fn is_gathered((matrix, level): &(Matrix<'_>, MeasureLevel)) -> bool {
    let (rows, columns) = (matrix.row_count(), matrix.column_count());
    let route = choice::route(On::Gpu { has_solver: true }, *level, rows, columns);
    matches!(route, Some(Route::Gram | Route::GramThenBidiagonal))
        && batch::SIDES.contains(&rows.min(columns))
        && is_countable(rows, columns)
        && matrix.dtype().kind() == Kind::Float
}

/// The spectrum of `matrix`, which belongs to the tensor `name`, at this depth; `None` when the user asked to stop. `eigenvalues` are
/// those that [`of_many`] found.
pub(super) fn measure(
    name: &str,
    matrix: &Matrix<'_>,
    eigenvalues: Option<&[f64]>,
    level: MeasureLevel,
    context: &Context,
) -> Result<Option<Measured<Spectrum>>> {
    let (rows, columns) = (matrix.row_count(), matrix.column_count());
    let route_on = |on| choice::route(on, level, rows, columns).expect("asked for where there is one");
    let route = route_on(On::Processor);
    let on_processor = || matrix::measure(&Cpu, matrix, route, context);
    // A norm is read off on the way: nothing of it is the device's.
    let is_for_device = route != Route::Direct && is_countable(rows, columns);
    let has_kernels = matrix.dtype().kind() == Kind::Float;
    if !is_for_device || !has_kernels {
        return on_processor();
    }
    let Some(device) = chosen(context) else { return on_processor() };
    let route = route_on(On::Gpu { has_solver: device.has_solver() });
    let measured = match eigenvalues {
        Some(eigenvalues) => matrix::of_gram(matrix, eigenvalues.to_vec(), route).map(Some),
        None => device.holding(matrix).and_then(|backend| matrix::measure(&backend, matrix, route, context)),
    };
    or_processor(&device, name, measured, on_processor, context)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auto_is_the_processor_where_little_is_measured_and_what_was_asked_for_stays() {
        let settled = |choice, elements| {
            let mut context = Context::default();
            context.device.choice = choice;
            settled(elements, &context).device.choice
        };
        assert_eq!(settled(DeviceChoice::Auto, WORTH - 1), DeviceChoice::Cpu);
        for choice in [DeviceChoice::Cpu, DeviceChoice::Cuda(0), DeviceChoice::Cuda(3)] {
            for elements in [0, WORTH, u64::MAX] {
                assert_eq!(settled(choice, elements), choice);
            }
        }
    }

    #[test]
    fn sides_beyond_thirty_two_bits_are_not_for_a_device() {
        assert!(is_countable(4096, 4096) && is_countable(2, u32::MAX as usize));
        assert!(!is_countable(2, 1 << 32) && !is_countable(1 << 32, 2));
    }
}
