//! How much work the bytes of one file may be: each may be an element of several tensors, and not of any number.

use std::collections::HashSet;

use super::Container;
use crate::error::ErrorKind;
use crate::files::InputFile;
use crate::tensor::Tensor;

/// Different tensors over the same byte. A flat buffer and its parts are two, a weight and its transpose are two more.
const MAX_TENSORS_A_BYTE: u64 = 16;

/// Names of the same tensor: a layer that is used again and again has one for each time, and so have its moments.
const MAX_NAMES_A_BYTE: u64 = 64;

/// Bytes of tensors that are read of any file, however short it is.
const LEAST_BYTES: u64 = 64 << 20;

/// Refuses what tensors of `container` ask for beyond that. What they say is not wrong, but reading it would take any time, of a `file` of
/// any size.
pub(super) fn bound(mut container: Container, file: &InputFile) -> Container {
    let times = |most: u64| LEAST_BYTES.saturating_add(most.saturating_mul(file.len()));
    let (most_distinct, most_named) = (times(MAX_TENSORS_A_BYTE), times(MAX_NAMES_A_BYTE));
    let tensors = container.entries.iter().filter_map(|entry| entry.tensor.as_ref().ok());
    if tensors.map(Tensor::byte_count).fold(0, u64::saturating_add) <= most_distinct {
        return container;
    }
    let (mut seen, mut distinct, mut named) = (HashSet::new(), 0u64, 0u64);
    for entry in &mut container.entries {
        let Ok(tensor) = &entry.tensor else { continue };
        let (once, _) = tensor.without_repeats();
        // What was inflated lies in no file, and is bounded where it is inflated.
        let [piece] = once.pieces.as_slice() else { continue };
        if !std::ptr::eq(piece.file.as_ref(), file) {
            continue;
        }
        let axes: Vec<(u64, u64)> = piece.axes.iter().map(|axis| (axis.size, axis.storage_stride)).collect();
        let view = (piece.bytes.start, tensor.dtype, axes);
        let bytes = once.byte_count();
        let own = if seen.contains(&view) { 0 } else { bytes };
        let limit = if distinct.saturating_add(own) > most_distinct {
            most_distinct
        } else if named.saturating_add(bytes) > most_named {
            most_named
        } else {
            distinct += own;
            named += bytes;
            seen.insert(view);
            continue;
        };
        let kind = ErrorKind::TooMany { what: "bytes of tensors over the same bytes", limit };
        let error = kind.at_byte(file.path(), piece.bytes.start).for_tensor(&entry.name);
        entry.tensor = Err(Box::new(error));
    }
    container
}
