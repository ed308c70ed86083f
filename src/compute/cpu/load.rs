//! Stored tensors as numbers to compute with.

use super::widen;
use crate::compute::Real;
use crate::error::Result;
use crate::tensor::Tensor;

/// Elements that are widened at once.
const READ: u64 = 1 << 16;

pub(super) fn load<T: Real>(tensor: &Tensor) -> Result<Vec<T>> {
    let count = tensor.count();
    let mut values = Vec::with_capacity(count as usize);
    let mut wide = Vec::new();
    let mut buffer = Vec::new();
    for start in (0..count).step_by(READ as usize) {
        let range = start..(start + READ).min(count);
        wide.resize((range.end - range.start) as usize, 0.0);
        widen(tensor.dtype, tensor.bytes(range, &mut buffer)?, &mut wide);
        values.extend(wide.iter().map(|&value| T::from_f64(value)));
    }
    Ok(values)
}
