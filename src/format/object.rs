//! A pickled object as plain data: an arena of nodes, so that sharing, cycles and depth cost nothing to hold or drop.

use super::Global;

/// Index of a node in its [`Objects`].
pub type NodeId = usize;

/// Everything one or more pickles built.
#[derive(Debug, Clone, Default)]
pub struct Objects {
    /// The nodes, in the order they were made.
    pub nodes: Vec<Node>,
    /// Where each node was written: the opcode with its argument, which ends where the opcode ends. Empty for what no
    /// single opcode wrote, and for text with escapes.
    pub spans: Vec<Span>,
    /// The object the file stands for.
    pub root: Option<NodeId>,
}

/// One pickled value. Nothing was called to make it.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Node {
    /// `None`.
    None,
    /// A truth value.
    Bool(bool),
    /// An integer that fits.
    Int(i64),
    /// An integer that does not, by the span of its digits: little-endian two's complement, or decimal text.
    BigInt(Span),
    /// A float.
    Float(f64),
    /// Text. What is not UTF-8 in it is replaced.
    Text(String),
    /// Bytes: how many, and the first of them. All of them stand in the pickle, and end where the node's span ends.
    Bytes {
        /// How many.
        length: u64,
        /// The first ones, zeros behind the last.
        start: [u8; 16],
    },
    /// A tensor: index into the container's entries.
    Tensor(usize),
    /// A list.
    List(Vec<NodeId>),
    /// A tuple.
    Tuple(Vec<NodeId>),
    /// A set or frozenset.
    Set(Vec<NodeId>),
    /// A dict, in order, keys of any kind. A key that occurs twice stands twice; the last one counts.
    Dict(Vec<(NodeId, NodeId)>),
    /// A class or function, by name only.
    Global(Box<Global>),
    /// What a call or a constructor would have made.
    Object(Box<Object>),
    /// A persistent id, such as that of a tensor's storage.
    Persistent(NodeId),
    /// A buffer that travels beside the pickle, and that no file holds.
    OutOfBand,
}

/// What a call or a constructor would have made: its target, arguments, and the state set on it afterwards.
#[derive(Debug, Clone)]
pub struct Object {
    /// What would have been called.
    pub callable: NodeId,
    /// Its arguments, as a node.
    pub arguments: NodeId,
    /// What BUILD would have set.
    pub state: Option<NodeId>,
    /// List items appended to it.
    pub items: Vec<NodeId>,
    /// Dict items set on it, such as those of an `OrderedDict`.
    pub entries: Vec<(NodeId, NodeId)>,
}

/// Bytes of the pickle stream, which is shorter than 4 GiB: there is a span for every node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Span {
    /// First byte, from the start of the pickle.
    pub start: u32,
    /// One past the last.
    pub end: u32,
}

impl Node {
    /// The node of `bytes`, which are not kept.
    pub fn bytes(bytes: &[u8]) -> Self {
        let mut start = [0; 16];
        let kept = bytes.len().min(start.len());
        start[..kept].copy_from_slice(&bytes[..kept]);
        Self::Bytes { length: bytes.len() as u64, start }
    }
}

impl Objects {
    /// Adds a node that was written at `span`.
    pub fn push(&mut self, node: Node, span: Span) -> NodeId {
        self.nodes.push(node);
        self.spans.push(span);
        self.nodes.len() - 1
    }

    /// The node of that id.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id]
    }

    /// The entries of a dict-like node: a dict, an `OrderedDict`, a `defaultdict`.
    pub fn entries(&self, id: NodeId) -> Option<&[(NodeId, NodeId)]> {
        match self.node(id) {
            Node::Dict(entries) => Some(entries),
            Node::Object(object) if !object.entries.is_empty() => Some(&object.entries),
            _ => None,
        }
    }

    /// The value under a text key of a dict-like node; the last one where it occurs twice.
    pub fn get(&self, id: NodeId, key: &str) -> Option<NodeId> {
        let is_key = |node: &Node| matches!(node, Node::Text(text) if text == key);
        self.entries(id)?.iter().rev().find(|(name, _)| is_key(self.node(*name))).map(|&(_, value)| value)
    }

    /// An integer, also where it is a whole float.
    pub fn integer(&self, id: NodeId) -> Option<i64> {
        match *self.node(id) {
            Node::Int(value) => Some(value),
            Node::Float(value) if value.fract() == 0.0 && value.abs() < 9e15 => Some(value as i64),
            _ => None,
        }
    }

    /// An integer that counts something.
    pub fn count(&self, id: NodeId) -> Option<u64> {
        u64::try_from(self.integer(id)?).ok()
    }

    /// A number.
    pub fn number(&self, id: NodeId) -> Option<f64> {
        match *self.node(id) {
            Node::Int(value) => Some(value as f64),
            Node::Float(value) => Some(value),
            _ => None,
        }
    }

    /// Text.
    pub fn text(&self, id: NodeId) -> Option<&str> {
        match self.node(id) {
            Node::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The items of a tuple or a list.
    pub fn sequence(&self, id: NodeId) -> Option<&[NodeId]> {
        match self.node(id) {
            Node::Tuple(items) | Node::List(items) => Some(items),
            _ => None,
        }
    }

    /// A class or function.
    pub fn global(&self, id: NodeId) -> Option<&Global> {
        match self.node(id) {
            Node::Global(global) => Some(global),
            _ => None,
        }
    }

    /// The function or class that an object names as its maker, and the arguments it would get.
    pub fn call(&self, id: NodeId) -> Option<(&Global, &[NodeId])> {
        match self.node(id) {
            Node::Object(object) => Some((self.global(object.callable)?, self.sequence(object.arguments)?)),
            _ => None,
        }
    }
}
