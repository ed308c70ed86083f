//! The header of a new file. What follows it are the tensors' bytes, one after the other in the order given.

use std::collections::BTreeMap;

use safetensors::tensor::Metadata;
use serde_json::{Map, Value, json};

use super::LENGTH_BYTES;
use crate::error::ErrorKind;
use crate::tensor::{DType, element_count};

/// A tensor that is to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// Its name.
    pub name: String,
    /// Its element type.
    pub dtype: DType,
    /// Its sizes.
    pub shape: Vec<u64>,
}

impl Written {
    /// Bytes of its elements.
    pub fn byte_count(&self) -> u64 {
        let count = element_count(&self.shape).unwrap_or(u64::MAX);
        (u128::from(count) * u128::from(self.dtype.bits())).div_ceil(8).min(u128::from(u64::MAX)) as u64
    }
}

/// Whether the format has this element type.
pub const fn has_dtype(dtype: DType) -> bool {
    !matches!(dtype, DType::C128)
}

/// Length and header of a file that holds `tensors`, in this order, and `metadata`. The reference reader has read it.
///
/// # Errors
/// As a kind: when the reference reader would refuse the file.
pub fn header(tensors: &[Written], metadata: &BTreeMap<String, String>) -> Result<Vec<u8>, ErrorKind> {
    let mut entries = Map::new();
    if !metadata.is_empty() {
        entries.insert("__metadata__".to_owned(), json!(metadata));
    }
    let mut start = 0u64;
    for tensor in tensors {
        let end = start.saturating_add(tensor.byte_count());
        let entry =
            json!({"dtype": tensor.dtype.name(), "shape": tensor.shape, "data_offsets": [start, end]});
        if entries.insert(tensor.name.clone(), entry).is_some() {
            return Err(ErrorKind::RepeatedName);
        }
        start = end;
    }
    let mut text = serde_json::to_vec(&Value::Object(entries)).expect("plain data with text keys");
    // The reader wants the data to begin at a multiple of eight.
    text.resize(text.len().next_multiple_of(LENGTH_BYTES as usize), b' ');
    serde_json::from_slice::<Metadata>(&text)
        .map_err(|error| ErrorKind::HeaderSyntax { message: error.to_string() })?;
    if text.len() as u64 > super::MAX_HEADER_BYTES {
        let actual = text.len() as u64;
        return Err(ErrorKind::TooLarge { what: "the header", actual, limit: super::MAX_HEADER_BYTES });
    }
    Ok([&(text.len() as u64).to_le_bytes()[..], &text].concat())
}
