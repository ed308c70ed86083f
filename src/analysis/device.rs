//! The GPU that is to be used, and what happens when it does not do a piece of work: the processor does it, and the ledger says so.

use std::sync::Arc;

use crate::compute::cuda::{self, Device};
use crate::context::Context;
use crate::error::{ErrorKind, Result};

/// The GPU that is to be used, where there is one. One that is there and cannot be used is noted in the ledger.
pub(super) fn chosen(context: &Context) -> Option<Arc<Device>> {
    cuda::chosen(&context.device).unwrap_or_else(|reason| {
        context.device.ledger.unused(reason.to_string());
        None
    })
}

/// What the device found of `piece`, or else what the processor finds.
pub(super) fn or_processor<T>(
    device: &Device,
    piece: &str,
    found: Result<T>,
    processor: impl FnOnce() -> Result<T>,
    context: &Context,
) -> Result<T> {
    let ledger = &context.device.ledger;
    match found {
        Ok(found) => {
            ledger.done(&device.name());
            Ok(found)
        }
        Err(error) => {
            let ErrorKind::Device { message } = error.kind else { return Err(error) };
            ledger.redone(&device.name(), piece, message);
            processor()
        }
    }
}
