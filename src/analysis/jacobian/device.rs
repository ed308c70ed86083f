//! Which device runs a network.

use std::sync::Arc;

use crate::analysis::device;
use crate::compute::cuda::Device;
use crate::context::{Context, DeviceChoice};

/// Operations below which a network is not worth a GPU of its own accord: the processor is through within seconds, and the many short
/// calls of the driver take as long.
const WORTH: u64 = 1 << 36;

/// The GPU that is to run a network whose Jacobians take so many operations, where there is one.
pub(super) fn chosen(operations: impl FnOnce() -> u64, context: &Context) -> Option<Arc<Device>> {
    let takes = match context.device.choice {
        DeviceChoice::Cpu => false,
        DeviceChoice::Auto => operations() >= WORTH,
        DeviceChoice::Cuda(_) => true,
    };
    if takes { device::chosen(context) } else { None }
}
