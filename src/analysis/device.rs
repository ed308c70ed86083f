//! What happens when a GPU does not do a piece of work: the processor does it, and the ledger says so.

use crate::compute::cuda::Device;
use crate::context::Context;
use crate::error::{ErrorKind, Result};

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
