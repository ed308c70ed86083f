//! Numpy's `.npy`: one array behind a header that says its element type, order and shape.
//!
//! `numpy/lib/format.py` of numpy 2 is the authority. Arrays of Python objects are pickles; they are never unpickled.

mod header;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use self::header::{Descr, Header};
use super::{Container, Entry, Format, GlobalUse, pickle};
use crate::context::Context;
use crate::error::{self, ErrorKind};
use crate::files::InputFile;
use crate::tensor::{DType, Tensor, element_count};

pub use header::{MAX_DIMENSIONS, MAX_HEADER_BYTES};

/// How an array file begins.
const MAGIC: &[u8] = b"\x93NUMPY";

/// Whether a file that begins so is an array of numpy's.
pub fn matches(start: &[u8]) -> bool {
    start.starts_with(MAGIC)
}

/// Reads the one array of a file. It is named like the file, without the ending.
///
/// # Errors
/// When the header cannot be read. An array of elements that are not measured, or with too few of them, is an entry.
#[expect(clippy::needless_pass_by_value, reason = "every reader takes the file that its tensors keep open")]
pub fn read(file: Arc<InputFile>, _context: &Context) -> error::Result<Container> {
    let array = array(&file, 0..file.len()).map_err(|kind| kind.at_byte(file.path(), 0))?;
    let name = file.path().file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let tensor = array.tensor.map_err(|kind| Box::new(kind.in_file(file.path()).for_tensor(&name)));
    let rest = array.end..file.len();
    Ok(Container {
        format: Format::Npy,
        entries: vec![Entry { name, tensor, storage: None }],
        metadata: BTreeMap::new(),
        objects: None,
        globals: array.globals,
        uncovered: if rest.is_empty() { Vec::new() } else { vec![rest] },
        problems: array.problem.map(|kind| kind.in_file(file.path())).into_iter().collect(),
    })
}

/// An array as its header describes it.
pub(super) struct Array {
    /// The array, or why its elements are not measured.
    pub tensor: Result<Tensor, ErrorKind>,
    /// Where it ends in its file; the end of what was given, where that is not known.
    pub end: u64,
    /// What the pickle of an array of objects names, from the start of the pickle.
    pub globals: Vec<GlobalUse>,
    /// Why that pickle cannot be read to its end.
    pub problem: Option<ErrorKind>,
}

impl Array {
    fn of(tensor: Result<Tensor, ErrorKind>, end: u64) -> Self {
        Self { tensor, end, globals: Vec::new(), problem: None }
    }
}

/// The array that fills `bytes` of `file`.
pub(super) fn array(file: &Arc<InputFile>, bytes: Range<u64>) -> Result<Array, ErrorKind> {
    let (Header { descr, column_major, shape }, start) = header::read(file, &bytes)?;
    let dtype = match element_type(&descr) {
        Ok(dtype) => dtype,
        Err(Unmeasured::Objects) => return objects(file, start..bytes.end, shape),
        Err(other) => return Ok(Array::of(Err(other.of_shape(shape)), bytes.end)),
    };
    let count = element_count(&shape);
    let Some(length) = count.and_then(|count| count.checked_mul(dtype.size()?)) else {
        return Err(ErrorKind::ShapeOverflow { shape });
    };
    let available = bytes.end - start;
    if length > available {
        let mismatch = ErrorKind::SizeMismatch { expected: length, actual: available };
        return Ok(Array::of(Err(mismatch), bytes.end));
    }
    let end = start + length;
    Ok(Array::of(tensor(dtype, shape, column_major, file, start..end), end))
}

/// An array of Python objects, whose `bytes` are a pickle. What loading it would call is told.
fn objects(file: &InputFile, bytes: Range<u64>, shape: Vec<u64>) -> Result<Array, ErrorKind> {
    let window = bytes.start..bytes.end.min(bytes.start + pickle::MAX_BYTES);
    let mut buffer = Vec::new();
    let pickle = pickle::read(file.bytes(window, &mut buffer).map_err(|error| error.kind)?, file.len());
    Ok(Array {
        tensor: Err(Unmeasured::Objects.of_shape(shape)),
        end: bytes.start + pickle.length,
        globals: pickle.globals,
        problem: pickle.error.map(|fault| fault.kind),
    })
}

/// A tensor over `bytes`, its first index the fastest where it is column-major.
pub(super) fn tensor(
    dtype: DType,
    shape: Vec<u64>,
    column_major: bool,
    file: &Arc<InputFile>,
    bytes: Range<u64>,
) -> Result<Tensor, ErrorKind> {
    let tensor = if column_major {
        let strides = column_major_strides(&shape);
        Tensor::strided(dtype, shape, &strides, file.clone(), bytes)
    } else {
        Tensor::contiguous(dtype, shape, file.clone(), bytes)
    };
    tensor.map_err(|error| error.kind)
}

fn column_major_strides(shape: &[u64]) -> Vec<u64> {
    let mut next = 1u64;
    let mut stride = |&size: &u64| {
        let stride = next;
        next = next.saturating_mul(size);
        stride
    };
    shape.iter().map(&mut stride).collect()
}

/// The element type of a code without its byte order, such as `f4`.
pub(super) fn plain_type(code: &str) -> Option<DType> {
    Some(match code {
        "f8" => DType::F64,
        "f4" => DType::F32,
        "f2" => DType::F16,
        "c8" => DType::C64,
        "c16" => DType::C128,
        "i8" => DType::I64,
        "i4" => DType::I32,
        "i2" => DType::I16,
        "i1" => DType::I8,
        "u8" => DType::U64,
        "u4" => DType::U32,
        "u2" => DType::U16,
        "u1" => DType::U8,
        "b1" => DType::Bool,
        _ => return None,
    })
}

/// Elements that are not measured.
enum Unmeasured {
    /// A kind of element that numpy has and a tensor has not.
    Kind(&'static str),
    /// References to Python objects, pickled.
    Objects,
    /// A code that numpy does not have.
    Unknown(String),
}

impl Unmeasured {
    fn of_shape(self, shape: Vec<u64>) -> ErrorKind {
        match self {
            Self::Kind(what) => ErrorKind::UnsupportedTensor { what, shape: Some(shape.into()) },
            Self::Objects => Self::Kind("Python object").of_shape(shape),
            Self::Unknown(dtype) => ErrorKind::UnknownDtype { dtype },
        }
    }
}

fn element_type(descr: &Descr) -> Result<DType, Unmeasured> {
    let text = match descr {
        Descr::Plain(text) => text,
        Descr::Structured { objects: true } => return Err(Unmeasured::Objects),
        Descr::Structured { objects: false } => return Err(Unmeasured::Kind("structured numpy")),
    };
    let code = text.trim_start_matches(['<', '>', '=', '|']);
    match plain_type(code) {
        Some(dtype) if text.starts_with('>') && dtype.size() != Some(1) => {
            Err(Unmeasured::Kind("big-endian numpy"))
        }
        Some(dtype) => Ok(dtype),
        None if header::is_of_objects(code) => Err(Unmeasured::Objects),
        None => Err(unmeasured(code).map_or_else(|| Unmeasured::Unknown(text.clone()), Unmeasured::Kind)),
    }
}

/// What numpy calls the elements of a code that no tensor has.
fn unmeasured(code: &str) -> Option<&'static str> {
    Some(match (code, code.as_bytes().first()?) {
        ("V2", _) => "raw 2-byte numpy (bfloat16 loses its name in numpy files)",
        ("V1", _) => "raw 1-byte numpy (float8 loses its name in numpy files)",
        ("f12" | "f16", _) => "long double numpy",
        ("c24" | "c32", _) => "complex long double numpy",
        (_, b'V') => "raw numpy",
        (_, b'M' | b'm') => "date and time numpy",
        (_, b'S' | b'U' | b'a') => "text numpy",
        _ => return None,
    })
}
