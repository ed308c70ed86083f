//! Which device measures a matrix, and what happens when the GPU does not: the matrix is measured on the processor, and the ledger
//! says so.

use super::choice::{self, On, Route};
use super::matrix;
use crate::analysis::device::{chosen, or_processor};
use crate::analysis::model::{MeasureLevel, Measured, Spectrum};
use crate::compute::{Cpu, Matrix};
use crate::context::{Context, DeviceChoice};
use crate::error::Result;
use crate::tensor::Kind;

/// Elements below which a matrix is not worth a GPU of its own accord: the processor has its spectrum within a few
/// milliseconds, and the calls of the driver alone take some.
const WORTH: usize = 1 << 20;

/// Whether the GPU, where there is one, is given a matrix of so many elements.
pub(super) fn takes(elements: usize, context: &Context) -> bool {
    match context.device.choice {
        DeviceChoice::Cpu => false,
        DeviceChoice::Auto => elements >= WORTH,
        DeviceChoice::Cuda(_) => elements > 0,
    }
}

/// Whether kernels, which count rows and columns with 32 bits, can count these.
fn is_countable(rows: usize, columns: usize) -> bool {
    [rows, columns].iter().all(|count| u32::try_from(*count).is_ok())
}

/// Whether there is a GPU that is to be used.
pub(super) fn is_there(context: &Context) -> bool {
    chosen(context).is_some()
}

/// The spectrum of `matrix`, which belongs to the tensor `name`, at this depth; `None` when the user asked to stop.
pub(super) fn measure(
    name: &str,
    matrix: &Matrix<'_>,
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
    if !is_for_device || !has_kernels || !takes(rows * columns, context) {
        return on_processor();
    }
    let Some(device) = chosen(context) else { return on_processor() };
    let route = route_on(On::Gpu { has_solver: device.has_solver() });
    let measured =
        device.holding(matrix).and_then(|backend| matrix::measure(&backend, matrix, route, context));
    or_processor(&device, name, measured, on_processor, context)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sides_beyond_thirty_two_bits_are_not_for_a_device() {
        assert!(is_countable(4096, 4096) && is_countable(2, u32::MAX as usize));
        assert!(!is_countable(2, 1 << 32) && !is_countable(1 << 32, 2));
    }
}
