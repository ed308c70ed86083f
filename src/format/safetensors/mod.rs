//! safetensors: a length, a JSON header, and the bytes of the tensors behind it.
//!
//! The `safetensors` crate reads every well-formed file. Where it refuses one, or could be fooled by one (a name that
//! occurs twice, a header that costs it too much memory), the header is audited entry by entry instead, so that a
//! damaged file still says which of its tensors are intact. Layout: `docs/formats.md`.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use safetensors::tensor::{Dtype, Metadata};
use serde::de::{Deserializer as _, IgnoredAny, MapAccess, Visitor};

use self::outline::Outline;
use super::{Container, Entry, Format};
use crate::error::{ErrorKind, Result};
use crate::files::InputFile;
use crate::tensor::{DType, Tensor};

mod audit;
mod outline;
#[cfg(test)]
mod tests;
mod write;

pub use write::{Written, has_dtype, header as written_header};

/// Bytes of the length that a file begins with.
const LENGTH_BYTES: u64 = 8;

/// Longest header that the reference reader accepts.
pub(super) const MAX_HEADER_BYTES: u64 = 100_000_000;

/// Longest header given to the crate, which holds each value of it in about sixteen times its bytes and looks at it again
/// before it believes it.
///
/// The audit streams: longer headers cost their own length, and three fifths of the crate's time. 512 KiB is about 5,000 tensors.
const MAX_REFERENCE_BYTES: usize = 512 << 10;

/// Most axes of a tensor that is given to the crate, sixteen times those of torch: what reads them may take the square of their number.
const MAX_REFERENCE_AXES: usize = 1024;

/// Reads the header of `file` and lists its tensors, in the order of their bytes.
///
/// # Errors
/// When the header is not in the file, or not a single entry can be read from it. What is wrong with single tensors is
/// in their entries, and what is wrong with the rest in [`Container::problems`].
pub fn read(file: &Arc<InputFile>) -> Result<Container> {
    let header = header_range(file)?;
    let mut buffer = Vec::new();
    let text = file.bytes(header.clone(), &mut buffer)?;
    if let Some(container) = by_reference(file, &header, text) {
        return Ok(container);
    }
    let outline = Outline::of(text);
    if let Some((what, limit)) = outline.excess {
        return Err(ErrorKind::TooMany { what, limit }.in_file(file.path()));
    }
    audit::read(file, &header, outline)
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
fn by_reference(file: &Arc<InputFile>, header: &Range<u64>, text: &[u8]) -> Option<Container> {
    // The crate takes blanks before the first brace, which the format does not allow.
    if text.len() > MAX_REFERENCE_BYTES || text.first() != Some(&b'{') {
        return None;
    }
    let metadata: Metadata = serde_json::from_slice(text).ok()?;
    let complete = header.end.checked_add(metadata.data_len() as u64)? == file.len();
    let names = metadata.offset_keys();
    if !complete || keys(text)? != names.len() + usize::from(metadata.metadata().is_some()) {
        return None;
    }
    let mut tensors = Vec::with_capacity(names.len());
    for name in names {
        let info = metadata.info(&name)?;
        if info.shape.len() > MAX_REFERENCE_AXES {
            return None;
        }
        tensors.push((name, info));
    }
    // Tensors of no bytes share their offsets, and the crate gives them in an order that changes from run to run.
    tensors.sort_by(|(name, info), (other, others)| {
        info.data_offsets.cmp(&others.data_offsets).then_with(|| name.cmp(other))
    });
    // Most tensors have the dtype of the one before.
    let mut before = None;
    let mut dtype_of = |dtype: Dtype| match before {
        Some((same, known)) if same == dtype => Some(known),
        _ => {
            let found = DType::from_name(&dtype.to_string())?;
            before = Some((dtype, found));
            Some(found)
        }
    };
    let entries = tensors
        .into_iter()
        .map(|(name, info)| {
            let dtype = dtype_of(info.dtype)?;
            let shape = info.shape.iter().map(|&size| size as u64).collect();
            let bytes = header.end + info.data_offsets.0 as u64..header.end + info.data_offsets.1 as u64;
            let tensor = Tensor::contiguous(dtype, shape, file.clone(), bytes);
            let tensor = tensor.map_err(|error| Box::new(error.for_tensor(&name)));
            Some(Entry { name, tensor, storage: None })
        })
        .collect::<Option<_>>()?;
    let metadata =
        metadata.metadata().iter().flatten().map(|(key, value)| (key.clone(), value.clone())).collect();
    Some(container(entries, metadata))
}

/// How many keys a header has, repeated ones included: of these the crate keeps the last one without a word.
fn keys(text: &[u8]) -> Option<usize> {
    struct Keys;

    impl<'de> Visitor<'de> for Keys {
        type Value = usize;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a header")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<usize, A::Error> {
            let mut count = 0;
            while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {
                count += 1;
            }
            Ok(count)
        }
    }

    serde_json::Deserializer::from_slice(text).deserialize_map(Keys).ok()
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
