//! safetensors: a length, a JSON header, and the bytes of the tensors behind it.
//!
//! The `safetensors` crate reads every well-formed file. Where it refuses one, or would be fooled by one (a name that
//! occurs twice, a header that costs it too much memory), the header is audited entry by entry instead, so that a
//! damaged file still says which of its tensors are intact. Layout: `docs/formats.md`.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use safetensors::tensor::Metadata;

use self::outline::Outline;
use super::{Container, Entry, Format, MAX_TENSORS};
use crate::error::{ErrorKind, Result};
use crate::files::InputFile;
use crate::tensor::{DType, Tensor};

mod audit;
mod outline;
#[cfg(test)]
mod tests;

/// Bytes of the length that a file begins with.
const LENGTH_BYTES: u64 = 8;

/// Longest header that the reference reader accepts.
pub(super) const MAX_HEADER_BYTES: u64 = 100_000_000;

/// Longest header given to the crate, which holds each value of it in about sixteen times its bytes.
///
/// The audit streams, so that longer headers cost their own length. 8 MiB is about 80,000 tensors.
const MAX_REFERENCE_BYTES: usize = 8 << 20;

/// Reads the header of `file` and lists its tensors, in the order of their bytes.
///
/// # Errors
/// When the header is not in the file, or not a single entry can be read from it. What is wrong with single tensors is
/// in their entries, and what is wrong with the rest in [`Container::problems`].
pub fn read(file: &Arc<InputFile>) -> Result<Container> {
    let header = header_range(file)?;
    let mut buffer = Vec::new();
    let text = file.bytes(header.clone(), &mut buffer)?;
    let outline = Outline::of(text);
    if outline.has_too_many {
        return Err(ErrorKind::TooMany { what: "tensors", limit: MAX_TENSORS }.in_file(file.path()));
    }
    match by_reference(file, &header, text, &outline) {
        Some(container) => Ok(container),
        None => audit::read(file, &header, &outline),
    }
}

/// Where the header's JSON lies.
fn header_range(file: &InputFile) -> Result<Range<u64>> {
    let mut length = [0; LENGTH_BYTES as usize];
    file.read_exact_at(&mut length, 0)?;
    let length = u64::from_le_bytes(length);
    if length > MAX_HEADER_BYTES {
        let kind = ErrorKind::TooLarge { what: "the header", actual: length, limit: MAX_HEADER_BYTES };
        return Err(kind.at_byte(file.path(), 0));
    }
    let end = LENGTH_BYTES + length;
    if end > file.len() {
        let kind = ErrorKind::PastEndOfFile { needed: end, available: file.len() };
        return Err(kind.at_byte(file.path(), LENGTH_BYTES));
    }
    Ok(LENGTH_BYTES..end)
}

/// The file as the crate reads it; `None` where the audit must look.
fn by_reference(
    file: &Arc<InputFile>,
    header: &Range<u64>,
    text: &[u8],
    outline: &Outline<'_>,
) -> Option<Container> {
    if text.len() > MAX_REFERENCE_BYTES || outline.damage.is_some() {
        return None;
    }
    let metadata: Metadata = serde_json::from_slice(text).ok()?;
    let complete = header.end.checked_add(metadata.data_len() as u64)? == file.len();
    let every_name_once = metadata.tensors().len() == outline.tensors.len();
    if !complete || !every_name_once {
        return None;
    }
    let mut tensors = Vec::with_capacity(outline.tensors.len());
    for declared in &outline.tensors {
        tensors.push((metadata.info(&declared.name)?, &declared.name));
    }
    // The crate gives tensors of no bytes, which share their offsets, in an order that changes from run to run.
    tensors.sort_by_key(|(info, _)| info.data_offsets);
    let entries = tensors
        .into_iter()
        .map(|(info, name)| {
            let dtype = DType::from_name(&info.dtype.to_string())?;
            let shape = info.shape.iter().map(|&size| size as u64).collect();
            let bytes = header.end + info.data_offsets.0 as u64..header.end + info.data_offsets.1 as u64;
            let tensor = Tensor::contiguous(dtype, shape, file.clone(), bytes);
            let tensor = tensor.map_err(|error| error.for_tensor(name));
            Some(Entry { name: name.clone(), tensor, storage: None })
        })
        .collect::<Option<_>>()?;
    let metadata =
        metadata.metadata().iter().flatten().map(|(key, value)| (key.clone(), value.clone())).collect();
    Some(container(entries, metadata))
}

/// A container with nothing wrong with it.
fn container(entries: Vec<Entry>, metadata: BTreeMap<String, String>) -> Container {
    Container {
        format: Format::Safetensors,
        entries,
        metadata,
        objects: None,
        globals: Vec::new(),
        uncovered: Vec::new(),
        problems: Vec::new(),
    }
}
