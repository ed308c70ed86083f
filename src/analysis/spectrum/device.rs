//! Which device measures a matrix, and what happens when the GPU does not: the matrix is measured on the processor, and the ledger
//! says so.

use super::{choice, matrix};
use crate::analysis::model::{MeasureLevel, Measured, Spectrum};
use crate::compute::{Cpu, Matrix, cuda};
use crate::context::{Context, DeviceChoice};
use crate::error::{ErrorKind, Result};
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

/// Whether there is a GPU that is to be used. One that is there and cannot be used is noted in the ledger.
pub(super) fn is_there(context: &Context) -> bool {
    match cuda::chosen(&context.device) {
        Ok(device) => device.is_some(),
        Err(reason) => {
            context.device.ledger.unused(reason.to_string());
            false
        }
    }
}

/// The spectrum of `matrix`, which belongs to the tensor `name`, at this depth; `None` when the user asked to stop.
pub(super) fn measure(
    name: &str,
    matrix: &Matrix<'_>,
    level: MeasureLevel,
    context: &Context,
) -> Result<Option<Measured<Spectrum>>> {
    let (rows, columns) = (matrix.row_count(), matrix.column_count());
    let route = choice::route(level, rows, columns).expect("asked for where there is one");
    let on_processor = || matrix::measure(&Cpu, matrix, route, context);
    let has_kernels = matrix.dtype().kind() == Kind::Float;
    if !has_kernels || !takes(rows * columns, context) {
        return on_processor();
    }
    // Why there is none stands in the ledger.
    let Ok(Some(device)) = cuda::chosen(&context.device) else { return on_processor() };
    let route = if device.has_solver() {
        choice::route_with_solver(level, rows, columns).expect("there is a route")
    } else {
        route
    };
    let measured =
        device.holding(matrix).and_then(|backend| matrix::measure(&backend, matrix, route, context));
    let ledger = &context.device.ledger;
    match measured {
        Ok(measured) => {
            ledger.done(&device.name());
            Ok(measured)
        }
        Err(error) if matches!(error.kind, ErrorKind::Device { .. }) => {
            let ErrorKind::Device { message } = error.kind else { unreachable!("just matched") };
            ledger.redone(&device.name(), name, message);
            on_processor()
        }
        Err(error) => Err(error),
    }
}
