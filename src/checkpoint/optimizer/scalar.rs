//! The one element of a tensor that counts or sets something.

use crate::format::Entry;

/// The element of a tensor that has one, finite or not.
pub(in crate::checkpoint) fn of_entry(entry: &Entry) -> Option<f64> {
    let tensor = entry.tensor.as_ref().ok()?;
    if tensor.count() != 1 || tensor.dtype.size().is_none() {
        return None;
    }
    let mut values = Vec::new();
    tensor.read_f64(0..1, &mut values).ok()?;
    values.first().copied()
}
