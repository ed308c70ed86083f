//! From the calls that a PyTorch pickle would make to the tensors they would return.
//!
//! `torch/_utils.py` and `torch/_tensor.py` of PyTorch 2.9 are the authority for the functions and their arguments. None of
//! them is called: their arguments are read as a description of a view of a storage.

use std::collections::HashSet;
use std::ops::Range;

use super::numpy;
use super::storage::Storages;
use crate::error::{Error, ErrorKind};
use crate::format::{Node, NodeId, Objects};
use crate::tensor::{DType, Tensor, element_count};

/// A tensor that a call would return.
pub struct Rebuilt {
    /// The tensor, or why it cannot be read.
    pub tensor: Result<Tensor, ErrorKind>,
    /// Which view of which storage it is.
    pub view: Option<View>,
    /// Attributes that may hold further tensors.
    pub state: Option<NodeId>,
}

/// What makes two tensors the same one: storage, bytes, element type, sizes and strides.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct View {
    storage: usize,
    bytes: Range<u64>,
    dtype: DType,
    shape: Vec<u64>,
    strides: Vec<u64>,
}

/// Reads calls of one pickle against the storages of its file.
pub struct Rebuilder<'a> {
    objects: &'a Objects,
    storages: &'a mut Storages,
    /// Where the pickle starts in the file, if its bytes stand there as they are.
    pickle: Option<u64>,
    /// Nodes whose storages are known to be referred to.
    noted: HashSet<NodeId>,
    /// Arrays that the pickle encodes as text.
    decoded: numpy::Decoded,
}

/// The most that PyTorch's kernels (`dim_bitset_size`) and numpy 2 take.
const MAX_DIMENSIONS: usize = 64;

/// The longest storage key and type name. PyTorch's keys are numbers.
const MAX_WORD: usize = 255;

/// Parameters of parameters of subclasses: real files nest two deep.
const MAX_WRAPPERS: usize = 16;

/// What a rebuilding function does with its arguments.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Maker {
    /// A view of a storage whose type says the element type.
    Typed,
    /// A view of a storage, with the element type as an argument.
    Untyped,
    /// The tensor in its first argument.
    First,
    /// The call of its first argument with its third.
    Delegate,
    /// A tensor without plain elements: what it is called, and where its shape stands.
    Other(&'static str, ShapeAt),
}

/// Where the arguments of a call say the shape.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ShapeAt {
    Argument(usize),
    /// In the tuple that is argument 1.
    Sparse,
    Nowhere,
}

fn maker(module: &str, name: &str) -> Option<Maker> {
    Some(match (module, name) {
        ("torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2") => Maker::Typed,
        ("torch._utils", "_rebuild_tensor_v3") => Maker::Untyped,
        (
            "torch._utils",
            "_rebuild_parameter"
            | "_rebuild_parameter_with_state"
            | "_rebuild_device_tensor_from_cpu_tensor"
            | "_rebuild_device_tensor_from_numpy"
            | "_rebuild_xla_tensor",
        )
        | ("torch.nn.parameter", "Parameter" | "Buffer") => Maker::First,
        ("torch._tensor" | "torch.tensor", "_rebuild_from_type" | "_rebuild_from_type_v2") => Maker::Delegate,
        ("torch._utils", "_rebuild_qtensor") => Maker::Other("quantised", ShapeAt::Argument(2)),
        ("torch._utils", "_rebuild_sparse_tensor" | "_rebuild_sparse_csr_tensor") => {
            Maker::Other("sparse", ShapeAt::Sparse)
        }
        ("torch._utils", "_rebuild_nested_tensor") => Maker::Other("nested", ShapeAt::Nowhere),
        ("torch._utils", "_rebuild_meta_tensor_no_storage") => {
            Maker::Other("meta (without data)", ShapeAt::Argument(1))
        }
        ("torch._utils", "_rebuild_wrapper_subclass") => Maker::Other("wrapped", ShapeAt::Argument(2)),
        ("torch.distributed._shard.sharded_tensor.api", "ShardedTensor") => {
            Maker::Other("sharded", ShapeAt::Nowhere)
        }
        _ => return None,
    })
}

/// A storage as a persistent id names it.
pub struct Reference {
    /// Under which key it lies in the file.
    pub key: String,
    /// Its elements, also those that a view of it leaves out.
    pub count: u64,
    /// `None` for bytes without a type.
    dtype: Option<DType>,
    type_name: String,
    is_meta: bool,
    /// First element and count, where only a part of the storage is meant.
    part: Option<(u64, u64)>,
}

/// The sizes and strides that a call asks for, in elements.
struct Layout {
    offset: u64,
    shape: Vec<u64>,
    strides: Vec<u64>,
}

impl<'a> Rebuilder<'a> {
    /// A reader of the calls in `objects`. `pickle` is where the pickle's own bytes stand in the file.
    pub fn new(objects: &'a Objects, storages: &'a mut Storages, pickle: Option<u64>) -> Self {
        Self { objects, storages, pickle, noted: HashSet::new(), decoded: numpy::Decoded::default() }
    }

    /// The tensor that a node stands for, if it stands for one, its bytes noted as referred to.
    pub fn tensor(&mut self, id: NodeId) -> Option<Rebuilt> {
        let rebuilt = self.interpret(id)?;
        match &rebuilt.view {
            Some(view) => self.storages.touch(view.storage, view.bytes.clone()),
            None => self.note_storages_below(id),
        }
        Some(rebuilt)
    }

    fn interpret(&self, id: NodeId) -> Option<Rebuilt> {
        if let Node::Persistent(_) = self.objects.node(id) {
            return self.bare_storage(id);
        }
        if let Some(array) = numpy::array(self.objects, id) {
            return Some(self.array(&array));
        }
        let (mut global, mut arguments) = self.objects.call(id)?;
        let mut state = None;
        for _ in 0..MAX_WRAPPERS {
            match maker(&global.module, &global.name)? {
                Maker::First => {
                    state = state.or_else(|| arguments.get(3).copied());
                    let &first = arguments.first()?;
                    if let Some(array) = numpy::array(self.objects, first) {
                        return Some(self.array(&array));
                    }
                    (global, arguments) = self.objects.call(first)?;
                }
                Maker::Delegate => {
                    state = state.or_else(|| arguments.get(3).copied());
                    global = self.objects.global(*arguments.first()?)?;
                    arguments = self.objects.sequence(*arguments.get(2)?)?;
                }
                Maker::Typed => return Some(self.view(arguments, None, 6).with_state(state)),
                Maker::Untyped => return Some(self.view(arguments, Some(6), 7).with_state(state)),
                Maker::Other(what, shape) => {
                    return Some(self.other(what, shape, arguments).with_state(state));
                }
            }
        }
        Some(refused(ErrorKind::MalformedTensor { message: "parameters are nested in parameters" }))
    }

    fn array(&self, array: &numpy::Array) -> Rebuilt {
        let tensor = array.tensor(self.objects, &self.storages.file, self.pickle, &self.decoded);
        Rebuilt { tensor, view: None, state: None }
    }

    /// A storage that was saved by itself is a vector of its elements.
    fn bare_storage(&self, id: NodeId) -> Option<Rebuilt> {
        let reference = reference(self.objects, id)?;
        let dtype = reference.dtype.or((reference.type_name == "UntypedStorage").then_some(DType::U8));
        let layout = Layout { offset: 0, shape: vec![reference.length()], strides: vec![1] };
        Some(self.place(&reference, dtype, layout).unwrap_or_else(refused))
    }

    /// The view that `(storage, offset, size, stride, …)` describe.
    fn view(&self, arguments: &[NodeId], dtype_at: Option<usize>, metadata_at: usize) -> Rebuilt {
        self.read_view(arguments, dtype_at, metadata_at).unwrap_or_else(refused)
    }

    fn read_view(
        &self,
        arguments: &[NodeId],
        dtype_at: Option<usize>,
        metadata_at: usize,
    ) -> Result<Rebuilt, ErrorKind> {
        let malformed = |message| ErrorKind::MalformedTensor { message };
        let &[storage, offset, size, stride, ..] = arguments else {
            return Err(malformed("it has fewer than four arguments"));
        };
        let reference =
            reference(self.objects, storage).ok_or(malformed("the first argument is not a storage"))?;
        let dtype = match dtype_at {
            None => reference.dtype,
            Some(at) => {
                let name = arguments.get(at).and_then(|&dtype| self.objects.global(dtype));
                let name = name.filter(|name| name.name.len() <= MAX_WORD);
                let name = name.ok_or(malformed("the element type is missing"))?;
                let dtype = dtype_named(&name.name);
                Some(dtype.ok_or_else(|| ErrorKind::UnknownDtype { dtype: name.name.clone() })?)
            }
        };
        let layout = self.layout(offset, size, stride)?;
        let lazy = arguments.get(metadata_at).is_some_and(|&metadata| self.is_lazily_changed(metadata));
        if lazy {
            return Err(ErrorKind::UnsupportedTensor {
                what: "lazily negated or conjugated",
                shape: Some(layout.shape.into()),
            });
        }
        self.place(&reference, dtype, layout)
    }

    /// The `neg` and `conj` bits: the elements seen are not those stored.
    fn is_lazily_changed(&self, metadata: NodeId) -> bool {
        let set = |key| {
            let value = self.objects.get(metadata, key).map(|id| self.objects.node(id));
            matches!(value, Some(Node::Bool(true)))
        };
        set("neg") || set("conj")
    }

    fn place(
        &self,
        reference: &Reference,
        dtype: Option<DType>,
        layout: Layout,
    ) -> Result<Rebuilt, ErrorKind> {
        if reference.is_meta {
            return Err(ErrorKind::UnsupportedTensor {
                what: "meta (without data)",
                shape: Some(layout.shape.into()),
            });
        }
        let dtype = dtype.ok_or_else(|| match reference.type_name.as_str() {
            name if name.starts_with('Q') => {
                ErrorKind::UnsupportedTensor { what: "quantised", shape: Some(layout.shape.clone().into()) }
            }
            name => ErrorKind::UnknownDtype { dtype: name.to_owned() },
        })?;
        let missing = || ErrorKind::MissingStorage { key: reference.key.clone() };
        let storage = self.storages.find(&reference.key).ok_or_else(missing)?;
        let bytes = self.storages.readable(storage)?;
        let expected = reference.count.saturating_mul(reference.unit()?);
        if expected != bytes.end - bytes.start {
            return Err(ErrorKind::SizeMismatch { expected, actual: bytes.end - bytes.start });
        }
        let bytes = viewed(&reference.part_of(bytes)?, dtype, &layout)?;
        let file = self.storages.file.clone();
        let tensor = Tensor::strided(dtype, layout.shape.clone(), &layout.strides, file, bytes.clone());
        let view = View { storage, bytes, dtype, shape: layout.shape, strides: layout.strides };
        Ok(Rebuilt { tensor: tensor.map_err(|error: Error| error.kind), view: Some(view), state: None })
    }

    fn layout(&self, offset: NodeId, size: NodeId, stride: NodeId) -> Result<Layout, ErrorKind> {
        let outside = |message: &str| ErrorKind::ViewOutOfStorage { message: message.to_owned() };
        let offset = self.objects.integer(offset).and_then(|offset| u64::try_from(offset).ok());
        let offset = offset.ok_or_else(|| outside("the offset is not a count"))?;
        let shape = self.sizes(size).ok_or_else(|| outside("the sizes are not at most 64 counts"))?;
        let strides = self.sizes(stride).ok_or_else(|| outside("the strides are not at most 64 counts"))?;
        if shape.len() != strides.len() {
            return Err(outside("there are not as many strides as sizes"));
        }
        if element_count(&shape).is_none() {
            return Err(ErrorKind::ShapeOverflow { shape });
        }
        Ok(Layout { offset, shape, strides })
    }

    /// A tuple of counts, or a `torch.Size` of one.
    fn sizes(&self, id: NodeId) -> Option<Vec<u64>> {
        sizes(self.objects, id)
    }

    fn other(&self, what: &'static str, shape: ShapeAt, arguments: &[NodeId]) -> Rebuilt {
        let size = match shape {
            ShapeAt::Argument(at) => arguments.get(at).copied(),
            // COO: indices, values, size, is_coalesced. Compressed: two index tensors, values, size.
            ShapeAt::Sparse => arguments.get(1).and_then(|&data| {
                let data = self.objects.sequence(data)?;
                data.iter().skip(2).take(2).copied().find(|&item| self.sizes(item).is_some())
            }),
            ShapeAt::Nowhere => None,
        };
        let shape = size.and_then(|size| self.sizes(size)).map(Vec::into_boxed_slice);
        let is_distributed = arguments.first().and_then(|&class| self.objects.global(class));
        let what = if is_distributed.is_some_and(|class| class.name == "DTensor") { "sharded" } else { what };
        refused(ErrorKind::UnsupportedTensor { what, shape })
    }

    /// Whatever a tensor that is not read stands on is referred to all the same.
    fn note_storages_below(&mut self, id: NodeId) {
        let mut open = vec![id];
        while let Some(id) = open.pop() {
            if !self.noted.insert(id) {
                continue;
            }
            let referred =
                reference(self.objects, id).and_then(|reference| self.storages.find(&reference.key));
            if let Some(storage) = referred {
                self.storages.touch_all(storage);
            }
            match self.objects.node(id) {
                Node::Tuple(items) | Node::List(items) => open.extend(items),
                Node::Dict(entries) => open.extend(entries.iter().map(|&(_, value)| value)),
                Node::Object(object) => {
                    open.push(object.arguments);
                    open.extend(object.state);
                    open.extend(&object.items);
                    open.extend(object.entries.iter().map(|&(_, value)| value));
                }
                _ => {}
            }
        }
    }
}

impl Rebuilt {
    /// Sharded tensors keep their state to themselves: a shard must not pass for the whole.
    fn with_state(self, state: Option<NodeId>) -> Self {
        let sharded = matches!(self.tensor, Err(ErrorKind::UnsupportedTensor { what: "sharded", .. }));
        Self { state: state.filter(|_| !sharded), ..self }
    }
}

fn refused(kind: ErrorKind) -> Rebuilt {
    Rebuilt { tensor: Err(kind), view: None, state: None }
}

/// The counts in a tuple, a list or a `torch.Size`.
pub fn sizes(objects: &Objects, id: NodeId) -> Option<Vec<u64>> {
    let items = match objects.call(id) {
        Some((global, arguments)) if global.name == "Size" => objects.sequence(*arguments.first()?)?,
        _ => objects.sequence(id)?,
    };
    if items.len() > MAX_DIMENSIONS {
        return None;
    }
    items.iter().map(|&item| u64::try_from(objects.integer(item)?).ok()).collect()
}

/// The bytes from the first to past the last element of the view.
fn viewed(storage: &Range<u64>, dtype: DType, layout: &Layout) -> Result<Range<u64>, ErrorKind> {
    let size = u128::from(
        dtype.size().ok_or(ErrorKind::MalformedTensor { message: "its elements are not whole bytes" })?,
    );
    let available = u128::from(storage.end - storage.start);
    let start = u128::from(layout.offset) * size;
    let reach = layout
        .shape
        .iter()
        .zip(&layout.strides)
        .map(|(&size, &stride)| u128::from(size.saturating_sub(1)) * u128::from(stride));
    let last = reach.fold(0u128, u128::saturating_add);
    let length = if layout.shape.contains(&0) { 0 } else { last.saturating_add(1).saturating_mul(size) };
    let end = start.saturating_add(length);
    if length > 0 && end > available {
        let message = format!("it reaches to byte {end} of {available}");
        return Err(ErrorKind::ViewOutOfStorage { message });
    }
    let start = storage.start + start.min(available) as u64;
    Ok(start..start + length as u64)
}

/// Every storage that a persistent id names, in the order in which the pickle does.
pub fn references(objects: &Objects) -> impl Iterator<Item = Reference> {
    (0..objects.nodes.len()).filter_map(|id| reference(objects, id))
}

/// What `('storage', type, key, location, count)` names; `None` for any other persistent id.
///
/// Before 1.6 a sixth item says which part of the storage is meant: `None`, or `(key, offset, count)`.
fn reference(objects: &Objects, id: NodeId) -> Option<Reference> {
    let Node::Persistent(id) = *objects.node(id) else { return None };
    let &[kind, class, key, location, count, ref rest @ ..] = objects.sequence(id)? else { return None };
    if objects.text(kind)? != "storage" || rest.len() > 1 {
        return None;
    }
    let class = objects.global(class)?;
    let is_storage = matches!(class.module.as_str(), "torch" | "torch.storage" | "torch.cuda");
    let key = objects.text(key)?;
    if !is_storage || key.len() > MAX_WORD || class.name.len() > MAX_WORD {
        return None;
    }
    let part = match rest.first().map(|&part| (part, objects.node(part))) {
        None | Some((_, Node::None)) => None,
        Some((part, _)) => match objects.sequence(part)? {
            &[_, offset, count] => Some((objects.count(offset)?, objects.count(count)?)),
            _ => return None,
        },
    };
    Some(Reference {
        key: key.to_owned(),
        count: objects.count(count)?,
        dtype: storage_dtype(&class.name),
        type_name: class.name.clone(),
        is_meta: objects.text(location)? == "meta",
        part,
    })
}

impl Reference {
    /// Bytes of what the storage counts: elements, or bytes where they have no type or are packed.
    pub fn unit(&self) -> Result<u64, ErrorKind> {
        if let Some(size) = self.dtype.and_then(DType::size) {
            return Ok(size);
        }
        match self.type_name.as_str() {
            "UntypedStorage" | "_UntypedStorage" | "QInt8Storage" | "QUInt8Storage" | "QUInt4x2Storage"
            | "QUInt2x4Storage" => Ok(1),
            "QInt32Storage" => Ok(4),
            other => Err(ErrorKind::UnknownDtype { dtype: other.to_owned() }),
        }
    }

    /// Elements of the storage, or of the part that is meant.
    fn length(&self) -> u64 {
        self.part.map_or(self.count, |(_, count)| count)
    }

    /// The bytes that are meant, of those of the whole storage.
    fn part_of(&self, bytes: Range<u64>) -> Result<Range<u64>, ErrorKind> {
        let Some((offset, count)) = self.part else { return Ok(bytes) };
        if offset.checked_add(count).is_none_or(|end| end > self.count) {
            let message = format!("its part of the storage ends behind element {}", self.count);
            return Err(ErrorKind::ViewOutOfStorage { message });
        }
        let unit = self.unit()?;
        let start = bytes.start + offset * unit;
        Ok(start..start + count * unit)
    }
}

fn storage_dtype(class: &str) -> Option<DType> {
    Some(match class {
        "DoubleStorage" => DType::F64,
        "FloatStorage" => DType::F32,
        "HalfStorage" => DType::F16,
        "BFloat16Storage" => DType::Bf16,
        "LongStorage" => DType::I64,
        "IntStorage" => DType::I32,
        "ShortStorage" => DType::I16,
        "CharStorage" => DType::I8,
        "ByteStorage" => DType::U8,
        "BoolStorage" => DType::Bool,
        "ComplexFloatStorage" => DType::C64,
        "ComplexDoubleStorage" => DType::C128,
        _ => return None,
    })
}

fn dtype_named(name: &str) -> Option<DType> {
    Some(match name {
        "float64" | "double" => DType::F64,
        "float32" | "float" => DType::F32,
        "float16" | "half" => DType::F16,
        "bfloat16" => DType::Bf16,
        "float8_e4m3fn" => DType::F8E4M3,
        "float8_e5m2" => DType::F8E5M2,
        "float8_e4m3fnuz" => DType::F8E4M3Fnuz,
        "float8_e5m2fnuz" => DType::F8E5M2Fnuz,
        "float8_e8m0fnu" => DType::F8E8M0,
        "complex64" => DType::C64,
        "complex128" => DType::C128,
        "int64" | "long" => DType::I64,
        "int32" | "int" => DType::I32,
        "int16" | "short" => DType::I16,
        "int8" => DType::I8,
        "uint64" => DType::U64,
        "uint32" => DType::U32,
        "uint16" => DType::U16,
        "uint8" => DType::U8,
        "bool" => DType::Bool,
        _ => return None,
    })
}
