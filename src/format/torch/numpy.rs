//! Numpy arrays and numbers inside of a pickle.
//!
//! An array is `_reconstruct(…)` with the state `(version, shape, dtype, fortran order, bytes)`, or in protocol 5
//! `_frombuffer(bytes, dtype, shape, order)`. Its elements stand in the pickle itself, as plain bytes from protocol 3 on.
//! Protocol 2 encodes them as text, in which each byte from 128 on takes two: they are decoded into memory, each text
//! once, however many arrays claim it, so that no more is held than the pickle has.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

use super::rebuild::sizes;
use crate::error::ErrorKind;
use crate::files::InputFile;
use crate::format::npy;
use crate::format::{Node, NodeId, Objects, Span};
use crate::tensor::{DType, Tensor, element_count};

/// An array as the pickle describes it.
pub struct Array {
    shape: NodeId,
    dtype: NodeId,
    column_major: bool,
    elements: NodeId,
}

/// The array that a node stands for, if it stands for one with plain elements.
pub fn array(objects: &Objects, id: NodeId) -> Option<Array> {
    let (global, arguments) = objects.call(id)?;
    let array = match (global.module.as_str(), global.name.as_str()) {
        ("numpy.core.multiarray" | "numpy._core.multiarray", "_reconstruct") => {
            let Node::Object(object) = objects.node(id) else { return None };
            let state = objects.sequence(object.state?)?;
            let &[shape, dtype, order, elements] = state.get(state.len().checked_sub(4)?..)? else {
                return None;
            };
            let column_major = matches!(objects.node(order), Node::Bool(true) | Node::Int(1));
            Array { shape, dtype, column_major, elements }
        }
        ("numpy.core.numeric" | "numpy._core.numeric", "_frombuffer") => {
            let &[elements, dtype, shape, order] = arguments else { return None };
            Array { shape, dtype, column_major: objects.text(order) == Some("F"), elements }
        }
        _ => return None,
    };
    // The elements of an array of objects are a list, whose items are found by their own paths.
    (!matches!(objects.node(array.elements), Node::List(_))).then_some(array)
}

impl Array {
    /// The array as a tensor over bytes of `file`, of which the pickle starts at `pickle`, or over decoded text.
    pub fn tensor(
        &self,
        objects: &Objects,
        file: &Arc<InputFile>,
        pickle: Option<u64>,
        decoded: &Decoded,
    ) -> Result<Tensor, ErrorKind> {
        let shape = sizes(objects, self.shape)
            .ok_or(ErrorKind::MalformedTensor { message: "the shape is not a tuple of counts" })?;
        let dtype = element_type(objects, self.dtype)?;
        let count = element_count(&shape).ok_or_else(|| ErrorKind::ShapeOverflow { shape: shape.clone() })?;
        let size = dtype.size().expect("numpy's element types are whole bytes");
        let expected =
            count.checked_mul(size).ok_or_else(|| ErrorKind::ShapeOverflow { shape: shape.clone() })?;
        let unsupported = |what| ErrorKind::UnsupportedTensor { what, shape: Some(shape.clone().into()) };
        if let Some(text) = encoded(objects, self.elements) {
            let bytes = decoded.bytes(objects, text, file)?;
            let actual = bytes.len();
            if actual != expected {
                return Err(ErrorKind::SizeMismatch { expected, actual });
            }
            return npy::tensor(dtype, shape, self.column_major, &bytes, 0..expected);
        }
        let &Node::Bytes { length: actual, .. } = objects.node(self.elements) else {
            return Err(ErrorKind::MalformedTensor { message: "the array's elements are not bytes" });
        };
        let span = objects.spans[self.elements];
        let Some(pickle) = pickle.filter(|_| span != Span::default()) else {
            return Err(unsupported("numpy (in a compressed pickle)"));
        };
        if actual != expected {
            return Err(ErrorKind::SizeMismatch { expected, actual });
        }
        let end = pickle + u64::from(span.end);
        npy::tensor(dtype, shape, self.column_major, file, end - expected..end)
    }
}

/// Texts that were decoded to bytes, by their node.
#[derive(Default)]
pub struct Decoded(RefCell<HashMap<NodeId, Arc<InputFile>>>);

impl Decoded {
    /// The bytes that the Latin-1 text of a node stands for.
    fn bytes(
        &self,
        objects: &Objects,
        text: NodeId,
        file: &Arc<InputFile>,
    ) -> Result<Arc<InputFile>, ErrorKind> {
        if let Some(bytes) = self.0.borrow().get(&text) {
            return Ok(bytes.clone());
        }
        let malformed = ErrorKind::MalformedTensor { message: "the array's text is not Latin-1" };
        let characters = objects.text(text).ok_or(malformed.clone())?.chars();
        let bytes = characters.map(u8::try_from).collect::<Result<Vec<_>, _>>().map_err(|_| malformed)?;
        let bytes = Arc::new(InputFile::inflated(file, bytes));
        self.0.borrow_mut().insert(text, bytes.clone());
        Ok(bytes)
    }
}

/// The number that a `scalar(dtype, bytes)` call would return.
pub fn number(objects: &Objects, id: NodeId) -> Option<Node> {
    let (global, arguments) = objects.call(id)?;
    if !matches!(global.module.as_str(), "numpy.core.multiarray" | "numpy._core.multiarray")
        || global.name != "scalar"
    {
        return None;
    }
    let &[dtype, value] = arguments else { return None };
    let bytes = bytes(objects, value)?;
    Some(match element_type(objects, dtype).ok()? {
        DType::F64 => Node::Float(f64::from_le_bytes(bytes.try_into().ok()?)),
        DType::F32 => Node::Float(f32::from_le_bytes(bytes.try_into().ok()?).into()),
        DType::F16 => Node::Float(half::f16::from_le_bytes(bytes.try_into().ok()?).into()),
        DType::I64 => Node::Int(i64::from_le_bytes(bytes.try_into().ok()?)),
        DType::I32 => Node::Int(i32::from_le_bytes(bytes.try_into().ok()?).into()),
        DType::I16 => Node::Int(i16::from_le_bytes(bytes.try_into().ok()?).into()),
        DType::I8 => Node::Int(i8::from_le_bytes(bytes.try_into().ok()?).into()),
        DType::U32 => Node::Int(u32::from_le_bytes(bytes.try_into().ok()?).into()),
        DType::U16 => Node::Int(u16::from_le_bytes(bytes.try_into().ok()?).into()),
        DType::U8 => Node::Int(u8::from_le_bytes(bytes.try_into().ok()?).into()),
        DType::U64 => Node::Int(i64::try_from(u64::from_le_bytes(bytes.try_into().ok()?)).ok()?),
        DType::Bool => Node::Bool(bytes != [0]),
        _ => return None,
    })
}

/// The text of an `_codecs.encode(text, 'latin1')` call.
fn encoded(objects: &Objects, id: NodeId) -> Option<NodeId> {
    let (global, arguments) = objects.call(id)?;
    let &[text, encoding] = arguments else { return None };
    let is_latin_1 = matches!(objects.text(encoding), Some("latin1" | "latin-1"));
    (global.module == "_codecs" && global.name == "encode" && is_latin_1).then_some(text)
}

/// The bytes that a node stands for, at most the eight of a number.
fn bytes(objects: &Objects, id: NodeId) -> Option<Vec<u8>> {
    if let Some(text) = encoded(objects, id) {
        return objects.text(text)?.chars().take(9).map(|character| u8::try_from(character).ok()).collect();
    }
    match objects.node(id) {
        Node::Bytes { length, start } => Some(start[..(*length).min(9) as usize].to_vec()),
        _ => None,
    }
}

/// The longest code of a plain element type, with room for those that are not read.
const MAX_CODE: usize = 32;

/// The element type of a `dtype('f4', …)` call, whose state says the byte order.
fn element_type(objects: &Objects, id: NodeId) -> Result<DType, ErrorKind> {
    let malformed = ErrorKind::MalformedTensor { message: "the element type is not a numpy dtype" };
    let Node::Object(object) = objects.node(id) else { return Err(malformed) };
    let arguments = objects.sequence(object.arguments).unwrap_or_default();
    let code = arguments.first().and_then(|&code| objects.text(code)).filter(|code| code.len() <= MAX_CODE);
    let Some(code) = code else { return Err(malformed) };
    let order = object.state.and_then(|state| objects.text(*objects.sequence(state)?.get(1)?));
    if order == Some(">") || code.starts_with('>') {
        return Err(ErrorKind::UnsupportedTensor { what: "big-endian numpy", shape: None });
    }
    let code = code.trim_start_matches(['<', '=', '|']);
    npy::plain_type(code).ok_or_else(|| ErrorKind::UnknownDtype { dtype: code.to_owned() })
}
