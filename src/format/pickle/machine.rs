//! The symbolic stack machine.

use std::collections::HashMap;

use super::literal::{self, Integer};
use super::opcode::{Cursor, Opcode};
use super::{Danger, Global, GlobalUse, Judgement, Node, NodeId, Object, Objects, Span, judge};
use crate::error::ErrorKind;

/// The longest pickle that is read: real ones have some hundred bytes a tensor.
pub const MAX_BYTES: u64 = 256 << 20;

/// Bytes that nodes, stack, lists and memo of one pickle may take together: some 33,000 tensors, of 1.2 kB each.
///
/// A program of one byte a value would otherwise take eighty times its length. Text longer than `CHARGED_TEXT` is
/// beside this, since it takes no more than its own length.
pub const MAX_HELD: u64 = 40 << 20;

/// Real checkpoints have storages besides: each so many bytes of the file allow one more byte of memory.
const FILE_BYTES_A_BYTE: u64 = 64;

/// The most different globals outside the allow-list. A whole training framework has some hundred.
pub const MAX_GLOBALS: usize = 1 << 12;

/// The longest text that counts as a value of its own length. Longer ones are arrays that protocol 2 writes as text.
const CHARGED_TEXT: usize = 4096;

/// What an allocation costs beyond its bytes.
const ALLOCATION: usize = 32;

/// The longest module path or name that `STACK_GLOBAL` may fetch, which costs no bytes of the pickle.
const MAX_NAME: usize = 4096;

/// What one pickle says, as far as it could be read.
#[derive(Debug)]
pub struct Pickle {
    /// What it builds. The root is absent after an error.
    pub objects: Objects,
    /// Globals that it names and that are not on the allow-list, also those before an error.
    pub globals: Vec<GlobalUse>,
    /// Bytes up to and including STOP; another pickle may follow.
    pub length: u64,
    /// What stopped the machine before STOP.
    pub error: Option<Fault>,
}

/// What is wrong with a pickle, and at which opcode.
#[derive(Debug, Clone, PartialEq)]
pub struct Fault {
    /// What is wrong.
    pub kind: ErrorKind,
    /// Where the opcode starts, from the start of the pickle.
    pub offset: u64,
}

/// Reads the pickle at the start of `bytes`, at most [`MAX_BYTES`] of it, out of a file of `file_length` bytes. Nothing is
/// called, imported or opened.
pub fn read(bytes: &[u8], file_length: u64) -> Pickle {
    let mut machine = Machine::new(&bytes[..bytes.len().min(MAX_BYTES as usize)]);
    machine.limit = MAX_HELD + file_length / FILE_BYTES_A_BYTE;
    let error = machine.run().err();
    Pickle { objects: machine.objects, globals: machine.globals, length: machine.cursor.position(), error }
}

/// Whether STOP was reached.
#[derive(PartialEq, Eq)]
enum Flow {
    Continue,
    Stop,
}

struct Machine<'a> {
    cursor: Cursor<'a>,
    /// Where the current opcode starts, and which it is.
    start: u64,
    opcode: Opcode,
    objects: Objects,
    /// The values that have no content of their own, made once.
    constants: Constants,
    stack: Vec<NodeId>,
    /// Heights of the stack at each open mark. Nothing below the last one can be taken.
    marks: Vec<usize>,
    memo: Memo,
    /// Bytes that everything made so far takes; nothing is given back.
    held: u64,
    limit: u64,
    globals: Vec<GlobalUse>,
    reported: HashMap<Global, usize>,
}

/// What was memorised. Picklers count up from 0; any other index is kept apart, whatever it is.
#[derive(Default)]
struct Memo {
    counted: Vec<NodeId>,
    sparse: HashMap<u64, NodeId>,
}

impl Memo {
    fn len(&self) -> u64 {
        (self.counted.len() + self.sparse.len()) as u64
    }

    fn get(&self, index: u64) -> Option<NodeId> {
        self.counted.get(index as usize).or_else(|| self.sparse.get(&index)).copied()
    }

    fn insert(&mut self, index: u64, id: NodeId) {
        if let Some(place) = self.counted.get_mut(index as usize) {
            *place = id;
        } else if index == self.counted.len() as u64 && self.sparse.is_empty() {
            self.counted.push(id);
        } else {
            self.sparse.insert(index, id);
        }
    }
}

struct Constants {
    none: NodeId,
    yes: NodeId,
    no: NodeId,
    empty: NodeId,
}

impl<'a> Machine<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        let mut objects = Objects::default();
        let mut constant = |node| objects.push(node, Span::default());
        let constants = Constants {
            none: constant(Node::None),
            yes: constant(Node::Bool(true)),
            no: constant(Node::Bool(false)),
            empty: constant(Node::Tuple(Vec::new())),
        };
        Self {
            cursor: Cursor::new(bytes),
            start: 0,
            opcode: Opcode::Stop,
            objects,
            constants,
            stack: Vec::new(),
            marks: Vec::new(),
            memo: Memo::default(),
            held: 0,
            limit: MAX_HELD,
            globals: Vec::new(),
            reported: HashMap::new(),
        }
    }

    fn run(&mut self) -> Result<(), Fault> {
        loop {
            self.start = self.cursor.position();
            match self.step() {
                Ok(Flow::Continue) => {}
                Ok(Flow::Stop) => return Ok(()),
                Err(kind) => return Err(Fault { kind, offset: self.start }),
            }
        }
    }

    fn step(&mut self) -> Result<Flow, ErrorKind> {
        let byte = self.cursor.u8()?;
        self.opcode = Opcode::from_byte(byte).ok_or(ErrorKind::PickleOpcode { byte })?;
        match self.opcode {
            Opcode::Stop => {
                self.objects.root = Some(self.pop()?);
                return Ok(Flow::Stop);
            }
            Opcode::Proto => self.protocol()?,
            Opcode::Frame => {
                let length = self.cursor.u64()?;
                self.cursor.has(length)?;
            }

            Opcode::Mark => self.mark()?,
            Opcode::Pop => self.discard()?,
            Opcode::PopMark => drop(self.pop_to_mark()?),
            Opcode::Dup => {
                let top = self.top()?;
                self.push(top)?;
            }

            Opcode::Get => {
                let index = self.index_line()?;
                self.get(index)?;
            }
            Opcode::BinGet => {
                let index = self.cursor.u8()?.into();
                self.get(index)?;
            }
            Opcode::LongBinGet => {
                let index = self.cursor.u32()?.into();
                self.get(index)?;
            }
            Opcode::Put => {
                let index = self.index_line()?;
                self.put(index)?;
            }
            Opcode::BinPut => {
                let index = self.cursor.u8()?.into();
                self.put(index)?;
            }
            Opcode::LongBinPut => {
                let index = self.cursor.u32()?.into();
                self.put(index)?;
            }
            Opcode::Memoize => self.put(self.memo.len())?,

            Opcode::None => self.push(self.constants.none)?,
            Opcode::NewTrue => self.push(self.constants.yes)?,
            Opcode::NewFalse => self.push(self.constants.no)?,
            Opcode::Int => self.int_line()?,
            Opcode::Long => self.long_line()?,
            Opcode::BinInt => {
                let value = self.cursor.i32()?;
                self.make(Node::Int(value.into()))?;
            }
            Opcode::BinInt1 => {
                let value = self.cursor.u8()?;
                self.make(Node::Int(value.into()))?;
            }
            Opcode::BinInt2 => {
                let value = self.cursor.u16()?;
                self.make(Node::Int(value.into()))?;
            }
            Opcode::Long1 => {
                let length = self.cursor.u8()?.into();
                self.long(length)?;
            }
            Opcode::Long4 => {
                let length = self.cursor.i32()?;
                let length = u64::try_from(length).map_err(|_| self.refuse("the length is negative"))?;
                self.long(length)?;
            }
            Opcode::Float => {
                let value =
                    std::str::from_utf8(self.cursor.line()?).ok().and_then(|line| line.trim().parse().ok());
                let value = value.ok_or_else(|| self.refuse("not a number"))?;
                self.make(Node::Float(value))?;
            }
            Opcode::BinFloat => {
                let value = f64::from_be_bytes(self.cursor.array()?);
                self.make(Node::Float(value))?;
            }

            Opcode::String => {
                let bytes = literal::quoted(self.cursor.line()?)
                    .ok_or_else(|| self.refuse("the quotes do not match"))?;
                self.python_2_string(bytes)?;
                self.forget_span();
            }
            Opcode::BinString => {
                let length = self.cursor.i32()?;
                let length = u64::try_from(length).map_err(|_| self.refuse("the length is negative"))?;
                let bytes = self.cursor.take(length)?.to_vec();
                self.python_2_string(bytes)?;
            }
            Opcode::ShortBinString => {
                let length = self.cursor.u8()?.into();
                let bytes = self.cursor.take(length)?.to_vec();
                self.python_2_string(bytes)?;
            }
            Opcode::Unicode => {
                let text = literal::raw_unicode(self.cursor.line()?);
                self.make(Node::Text(text))?;
                self.forget_span();
            }
            Opcode::ShortBinUnicode => {
                let length = self.cursor.u8()?.into();
                self.text(length)?;
            }
            Opcode::BinUnicode => {
                let length = self.cursor.u32()?.into();
                self.text(length)?;
            }
            Opcode::BinUnicode8 => {
                let length = self.cursor.u64()?;
                self.text(length)?;
            }
            Opcode::ShortBinBytes => {
                let length = self.cursor.u8()?.into();
                self.bytes(length)?;
            }
            Opcode::BinBytes => {
                let length = self.cursor.u32()?.into();
                self.bytes(length)?;
            }
            Opcode::BinBytes8 | Opcode::ByteArray8 => {
                let length = self.cursor.u64()?;
                self.bytes(length)?;
            }
            Opcode::NextBuffer => drop(self.make(Node::OutOfBand)?),
            Opcode::ReadOnlyBuffer => drop(self.top()?),

            Opcode::EmptyList => drop(self.make(Node::List(Vec::new()))?),
            Opcode::List => {
                let items = self.pop_to_mark()?;
                self.make(Node::List(items))?;
            }
            Opcode::Append => {
                let item = self.pop()?;
                self.extend(vec![item])?;
            }
            Opcode::Appends | Opcode::AddItems => {
                let items = self.pop_to_mark()?;
                self.extend(items)?;
            }
            Opcode::EmptyTuple => self.push(self.constants.empty)?,
            Opcode::Tuple => {
                let items = self.pop_to_mark()?;
                self.make(Node::Tuple(items))?;
            }
            Opcode::Tuple1 => self.tuple(1)?,
            Opcode::Tuple2 => self.tuple(2)?,
            Opcode::Tuple3 => self.tuple(3)?,
            Opcode::EmptySet => drop(self.make(Node::Set(Vec::new()))?),
            Opcode::FrozenSet => {
                let items = self.pop_to_mark()?;
                self.make(Node::Set(items))?;
            }
            Opcode::EmptyDict => drop(self.make(Node::Dict(Vec::new()))?),
            Opcode::Dict => {
                let items = self.pop_to_mark()?;
                let entries = self.pairs(&items)?;
                self.make(Node::Dict(entries))?;
            }
            Opcode::SetItem => {
                let value = self.pop()?;
                let key = self.pop()?;
                self.insert(vec![(key, value)])?;
            }
            Opcode::SetItems => {
                let items = self.pop_to_mark()?;
                let entries = self.pairs(&items)?;
                self.insert(entries)?;
            }

            Opcode::Global => {
                let global = self.global_lines()?;
                self.name(global)?;
            }
            Opcode::StackGlobal => self.stack_global()?,
            Opcode::Ext1 => {
                let code = self.cursor.u8()?.into();
                self.extension(code)?;
            }
            Opcode::Ext2 => {
                let code = self.cursor.u16()?.into();
                self.extension(code)?;
            }
            Opcode::Ext4 => {
                let code = self.cursor.i32()?;
                self.extension(code)?;
            }
            Opcode::Reduce | Opcode::NewObj => {
                let arguments = self.pop()?;
                let callable = self.pop()?;
                self.call(callable, arguments)?;
            }
            Opcode::NewObjEx => {
                let named = self.pop()?;
                let positional = self.pop()?;
                let callable = self.pop()?;
                let arguments = self.add(Node::Tuple(vec![positional, named]))?;
                self.call(callable, arguments)?;
            }
            Opcode::Obj => {
                let mut items = self.pop_to_mark()?.into_iter();
                let callable = items.next().ok_or(ErrorKind::PickleStack { opcode: self.opcode.name() })?;
                let arguments = self.add(Node::Tuple(items.collect()))?;
                self.call(callable, arguments)?;
            }
            Opcode::Inst => {
                let global = self.global_lines()?;
                let items = self.pop_to_mark()?;
                let callable = self.named(global)?;
                let arguments = self.add(Node::Tuple(items))?;
                self.call(callable, arguments)?;
            }
            Opcode::Build => self.build()?,
            Opcode::PersId => {
                let id = literal::text(self.cursor.line()?);
                let id = self.add(Node::Text(id))?;
                self.make(Node::Persistent(id))?;
            }
            Opcode::BinPersId => {
                let id = self.pop()?;
                self.make(Node::Persistent(id))?;
            }
        }
        Ok(Flow::Continue)
    }

    fn refuse(&self, message: &'static str) -> ErrorKind {
        ErrorKind::PickleArgument { opcode: self.opcode.name(), message }
    }

    fn protocol(&mut self) -> Result<(), ErrorKind> {
        match self.cursor.u8()? {
            0..=5 => Ok(()),
            protocol => Err(ErrorKind::PickleProtocol { protocol }),
        }
    }

    /// Counts `bytes` more of the bounded memory that one pickle may take.
    fn charge(&mut self, bytes: usize) -> Result<(), ErrorKind> {
        self.held += bytes as u64;
        if self.held > self.limit {
            return Err(ErrorKind::TooMany { what: "bytes of pickled values", limit: self.limit });
        }
        Ok(())
    }

    fn push(&mut self, id: NodeId) -> Result<(), ErrorKind> {
        self.charge(size_of::<NodeId>())?;
        self.stack.push(id);
        Ok(())
    }

    /// From `start` to here.
    fn span(&self, start: u64) -> Span {
        Span { start: start as u32, end: self.cursor.position() as u32 }
    }

    /// A new node that the current opcode wrote.
    fn add(&mut self, node: Node) -> Result<NodeId, ErrorKind> {
        self.charge(size_of::<Node>() + size_of::<Span>() + content(&node))?;
        let span = self.span(self.start);
        Ok(self.objects.push(node, span))
    }

    /// A new node, on the stack.
    fn make(&mut self, node: Node) -> Result<NodeId, ErrorKind> {
        let id = self.add(node)?;
        self.push(id)?;
        Ok(id)
    }

    fn mark(&mut self) -> Result<(), ErrorKind> {
        self.charge(size_of::<usize>())?;
        self.marks.push(self.stack.len());
        Ok(())
    }

    /// Height below which nothing can be taken.
    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn pop(&mut self) -> Result<NodeId, ErrorKind> {
        let empty = ErrorKind::PickleStack { opcode: self.opcode.name() };
        if self.stack.len() <= self.floor() {
            return Err(empty);
        }
        self.stack.pop().ok_or(empty)
    }

    fn top(&self) -> Result<NodeId, ErrorKind> {
        let values = &self.stack[self.floor()..];
        values.last().copied().ok_or(ErrorKind::PickleStack { opcode: self.opcode.name() })
    }

    /// POP takes a mark where that is what lies on top, as in CPython.
    fn discard(&mut self) -> Result<(), ErrorKind> {
        if self.marks.last() == Some(&self.stack.len()) {
            self.marks.pop();
            return Ok(());
        }
        self.pop().map(drop)
    }

    fn pop_to_mark(&mut self) -> Result<Vec<NodeId>, ErrorKind> {
        let height = self.marks.pop().ok_or(ErrorKind::PickleMark { opcode: self.opcode.name() })?;
        // Not split_off: it may hand out the whole capacity of the stack each time.
        Ok(self.stack.drain(height..).collect())
    }

    fn index_line(&mut self) -> Result<u64, ErrorKind> {
        let line = self.cursor.line()?;
        let index = std::str::from_utf8(line).ok().and_then(|line| line.trim().parse().ok());
        index.ok_or_else(|| self.refuse("not an index"))
    }

    fn get(&mut self, index: u64) -> Result<(), ErrorKind> {
        let id = self.memo.get(index).ok_or(ErrorKind::PickleMemo { index })?;
        self.push(id)
    }

    fn put(&mut self, index: u64) -> Result<(), ErrorKind> {
        // A table outside of the counted ones holds keys as well, and is at most half full.
        let is_counted = index <= self.memo.counted.len() as u64 && self.memo.sparse.is_empty();
        self.charge(size_of::<NodeId>() * if is_counted { 1 } else { 5 })?;
        let id = self.top()?;
        self.memo.insert(index, id);
        Ok(())
    }

    /// INT also writes truth values, as `01` and `00`.
    fn int_line(&mut self) -> Result<(), ErrorKind> {
        match self.cursor.line()? {
            b"01" => self.push(self.constants.yes),
            b"00" => self.push(self.constants.no),
            line => self.decimal(line),
        }
    }

    fn long_line(&mut self) -> Result<(), ErrorKind> {
        let line = self.cursor.line()?;
        self.decimal(line)
    }

    fn decimal(&mut self, line: &[u8]) -> Result<(), ErrorKind> {
        let end = self.cursor.position() as u32 - 1;
        let digits = Span { start: end - line.len() as u32, end };
        let node = match literal::decimal(line).ok_or_else(|| self.refuse("not a number"))? {
            Integer::Small(value) => Node::Int(value),
            Integer::Big => Node::BigInt(digits),
        };
        self.make(node).map(drop)
    }

    fn long(&mut self, length: u64) -> Result<(), ErrorKind> {
        let bytes = self.cursor.take(length)?;
        let digits = self.span(self.cursor.position() - length);
        let node = literal::twos_complement(bytes).map_or(Node::BigInt(digits), Node::Int);
        self.make(node).map(drop)
    }

    fn text(&mut self, length: u64) -> Result<(), ErrorKind> {
        let bytes = self.cursor.take(length)?;
        // Every byte that is not UTF-8 becomes three: a long text of them is kept as the bytes it is.
        if bytes.len() > CHARGED_TEXT && std::str::from_utf8(bytes).is_err() {
            return self.make(Node::bytes(bytes)).map(drop);
        }
        self.make(Node::Text(literal::text(bytes))).map(drop)
    }

    fn bytes(&mut self, length: u64) -> Result<(), ErrorKind> {
        let bytes = self.cursor.take(length)?;
        self.make(Node::bytes(bytes)).map(drop)
    }

    /// A string of Python 2 is text where it can be: PyTorch decodes them as UTF-8.
    fn python_2_string(&mut self, bytes: Vec<u8>) -> Result<(), ErrorKind> {
        let node = match String::from_utf8(bytes) {
            Ok(text) => Node::Text(text),
            Err(error) => Node::bytes(error.as_bytes()),
        };
        self.make(node).map(drop)
    }

    /// Text with escapes does not stand in the file as it is.
    fn forget_span(&mut self) {
        if let Some(span) = self.objects.spans.last_mut() {
            *span = Span::default();
        }
    }

    fn tuple(&mut self, length: usize) -> Result<(), ErrorKind> {
        let height = self.stack.len().checked_sub(length).filter(|&height| height >= self.floor());
        let height = height.ok_or(ErrorKind::PickleStack { opcode: self.opcode.name() })?;
        let items = self.stack.drain(height..).collect();
        self.make(Node::Tuple(items)).map(drop)
    }

    fn pairs(&self, items: &[NodeId]) -> Result<Vec<(NodeId, NodeId)>, ErrorKind> {
        let (pairs, rest) = items.as_chunks::<2>();
        if !rest.is_empty() {
            return Err(self.refuse("a key has no value"));
        }
        Ok(pairs.iter().map(|&[key, value]| (key, value)).collect())
    }

    /// Appends to what lies on top of the stack.
    fn extend(&mut self, items: Vec<NodeId>) -> Result<(), ErrorKind> {
        let target = self.top()?;
        self.charge(ALLOCATION + 2 * items.len() * size_of::<NodeId>())?;
        match &mut self.objects.nodes[target] {
            Node::List(list) | Node::Set(list) => list.extend(items),
            Node::Object(object) => object.items.extend(items),
            _ => return Err(self.refuse("nothing can be appended to what lies below")),
        }
        Ok(())
    }

    /// Sets entries of what lies on top of the stack.
    fn insert(&mut self, pairs: Vec<(NodeId, NodeId)>) -> Result<(), ErrorKind> {
        let target = self.top()?;
        self.charge(2 * ALLOCATION + 2 * pairs.len() * size_of::<(NodeId, NodeId)>())?;
        match &mut self.objects.nodes[target] {
            Node::Dict(entries) => entries.extend(pairs),
            Node::Object(object) => object.entries.extend(pairs),
            _ => return Err(self.refuse("no items can be set on what lies below")),
        }
        Ok(())
    }

    fn global_lines(&mut self) -> Result<Global, ErrorKind> {
        let module = literal::text(self.cursor.line()?);
        let name = literal::text(self.cursor.line()?);
        Ok(Global { module, name })
    }

    /// Module and name are whatever two values lie on top, wherever they came from.
    fn stack_global(&mut self) -> Result<(), ErrorKind> {
        let name = self.pop()?;
        let module = self.pop()?;
        let computed = |id| matches!(self.objects.node(id), Node::Object(_));
        let hides = computed(name) || computed(module);
        let (Some(module), Some(name)) = (self.name_part(module), self.name_part(name)) else {
            return Err(self.refuse("module and name are not text of at most 4096 bytes"));
        };
        let global = Global { module, name };
        if hides {
            self.report(&global, Danger::Dangerous)?;
        }
        self.name(global)
    }

    /// Text, or a stand-in for text that a call would compute while the file is loaded.
    fn name_part(&self, id: NodeId) -> Option<String> {
        match self.objects.node(id) {
            Node::Text(text) if text.len() <= MAX_NAME => Some(text.clone()),
            Node::Object(_) => Some("(computed)".to_owned()),
            _ => None,
        }
    }

    /// The registry of extension codes is the loader's own: what a code stands for cannot be known here.
    fn extension(&mut self, code: i32) -> Result<(), ErrorKind> {
        if code <= 0 {
            return Err(self.refuse("the extension code is not positive"));
        }
        self.name(Global { module: "copyreg".to_owned(), name: format!("extension {code}") })
    }

    fn name(&mut self, global: Global) -> Result<(), ErrorKind> {
        let id = self.named(global)?;
        self.push(id)
    }

    /// A node for a global, which is reported unless it is on the allow-list.
    fn named(&mut self, global: Global) -> Result<NodeId, ErrorKind> {
        match judge(&global) {
            Judgement::Allowed(_) => {}
            Judgement::Unknown => self.report(&global, Danger::Unknown)?,
            Judgement::Dangerous(_) => self.report(&global, Danger::Dangerous)?,
        }
        self.add(Node::Global(Box::new(global)))
    }

    /// One report a global; the gravest danger counts.
    fn report(&mut self, global: &Global, danger: Danger) -> Result<(), ErrorKind> {
        if let Some(&index) = self.reported.get(global) {
            let known = &mut self.globals[index];
            known.danger = known.danger.max(danger);
            return Ok(());
        }
        if self.globals.len() == MAX_GLOBALS {
            return Err(ErrorKind::TooMany { what: "different globals", limit: MAX_GLOBALS as u64 });
        }
        self.reported.insert(global.clone(), self.globals.len());
        self.globals.push(GlobalUse { global: global.clone(), danger, called: false, offset: self.start });
        Ok(())
    }

    fn call(&mut self, callable: NodeId, arguments: NodeId) -> Result<(), ErrorKind> {
        if let Some(global) = self.objects.global(callable)
            && let Some(&index) = self.reported.get(global)
        {
            self.globals[index].called = true;
        }
        let object = Object { callable, arguments, state: None, items: Vec::new(), entries: Vec::new() };
        self.make(Node::Object(Box::new(object))).map(drop)
    }

    fn build(&mut self) -> Result<(), ErrorKind> {
        let state = self.pop()?;
        let target = self.top()?;
        let earlier = match self.objects.node(target) {
            Node::Object(object) => object.state,
            Node::Global(global) => {
                // Setting attributes of a class or function changes it for the whole process that loads the file.
                let global = global.clone();
                return self.report(&global, Danger::Dangerous);
            }
            _ => return Err(self.refuse("no state can be set on what lies below")),
        };
        let state = match earlier {
            Some(earlier) => self.add(Node::Tuple(vec![earlier, state]))?,
            None => state,
        };
        if let Node::Object(object) = &mut self.objects.nodes[target] {
            object.state = Some(state);
        }
        Ok(())
    }
}

/// Bytes that a node takes beside itself.
fn content(node: &Node) -> usize {
    let list = |bytes: usize| if bytes == 0 { 0 } else { ALLOCATION + bytes };
    match node {
        Node::Text(text) => list(text.len().min(CHARGED_TEXT)),
        Node::List(items) | Node::Tuple(items) | Node::Set(items) => list(size_of_val(items.as_slice())),
        Node::Dict(entries) => list(size_of_val(entries.as_slice())),
        Node::Object(_) => list(size_of::<Object>()),
        Node::Global(global) => {
            list(size_of::<Global>()) + list(global.module.len()) + list(global.name.len())
        }
        _ => 0,
    }
}
