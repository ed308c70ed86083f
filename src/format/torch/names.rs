//! Every tensor of a pickled object under its dotted path, as `state_dict` would name it.
//!
//! Text keys stand as they are, integers in decimal, list positions in decimal, attributes by their names. The parameters,
//! buffers and submodules of a module are named without the attributes that hold them. The walk needs no call stack.

use std::collections::HashMap;
use std::fmt::Write as _;

use super::numpy;
use super::rebuild::{Rebuilder, Rebuilt, View};
use crate::error::ErrorKind;
use crate::format::{MAX_TENSORS, Node, NodeId, Objects};
use crate::tensor::Tensor;

/// The tensors of one pickle.
#[derive(Default)]
pub struct Named {
    /// In the order of the walk.
    pub tensors: Vec<NamedTensor>,
    /// What is wrong with the names.
    pub problems: Vec<Problem>,
}

/// One tensor under one name.
#[derive(Clone)]
pub struct NamedTensor {
    /// The dotted path.
    pub name: String,
    /// The node that stands for it.
    pub node: NodeId,
    /// The tensor, or why it cannot be read.
    pub tensor: Result<Tensor, ErrorKind>,
    /// Equal for tensors that are the same view of the same storage.
    pub identity: Option<u64>,
}

/// Something wrong at one path.
pub struct Problem {
    /// The dotted path.
    pub name: String,
    /// What is wrong.
    pub kind: ErrorKind,
}

/// The deepest path. Real ones have some ten parts.
pub const MAX_DEPTH: usize = 512;

/// The longest dict key that becomes part of a name. Values under longer ones are named by position.
pub const MAX_KEY_BYTES: usize = 4096;

/// Bytes of all names together.
pub const MAX_NAME_BYTES: u64 = 16 << 20;

/// Problems that are told one by one; a file with more has made its point.
pub const MAX_PROBLEMS: usize = 1000;

/// Finds every tensor that the root of `objects` leads to. All names begin with `prefix`.
pub fn named_tensors<'a>(objects: &'a Objects, rebuilder: &mut Rebuilder<'a>, prefix: &str) -> Named {
    let mut walk = Walk {
        objects,
        rebuilder,
        named: Named::default(),
        path: prefix.to_owned(),
        visited: vec![false; objects.nodes.len()],
        known: HashMap::new(),
        views: HashMap::new(),
        name_bytes: 0,
    };
    if let Some(root) = objects.root {
        walk.run(root);
    }
    walk.report_collisions();
    walk.named
}

/// What a child adds to the path.
#[derive(Clone, Copy)]
enum Part {
    /// Nothing: the holder is not part of the name.
    Transparent,
    /// A position.
    Index(usize),
    /// A dict key.
    Key(NodeId),
    /// A fixed word.
    Word(&'static str),
}

/// A container whose children are being visited.
struct Frame {
    children: std::vec::IntoIter<(Part, NodeId)>,
    /// Length of the container's own path.
    path: usize,
}

struct Walk<'a, 'b> {
    objects: &'a Objects,
    rebuilder: &'b mut Rebuilder<'a>,
    named: Named,
    path: String,
    visited: Vec<bool>,
    /// The first name of each tensor node.
    known: HashMap<NodeId, usize>,
    views: HashMap<View, u64>,
    name_bytes: u64,
}

impl Walk<'_, '_> {
    fn run(&mut self, root: NodeId) {
        let first = vec![(Part::Transparent, root)].into_iter();
        let mut frames = vec![Frame { children: first, path: self.path.len() }];
        while let Some(frame) = frames.last_mut() {
            self.path.truncate(frame.path);
            let Some((part, id)) = frame.children.next() else {
                frames.pop();
                continue;
            };
            if !self.may_hold_tensors(id) {
                continue;
            }
            self.append(part);
            let within = match self.visit(id) {
                Ok(within) => within,
                Err(kind) => return self.report(kind),
            };
            if within.is_empty() {
                continue;
            }
            if frames.len() > MAX_DEPTH {
                self.report(ErrorKind::TooMany { what: "levels of nesting", limit: MAX_DEPTH as u64 });
                continue;
            }
            frames.push(Frame { children: within.into_iter(), path: self.path.len() });
        }
    }

    fn may_hold_tensors(&self, id: NodeId) -> bool {
        match self.objects.node(id) {
            Node::List(items) | Node::Tuple(items) | Node::Set(items) => {
                !items.is_empty() && !self.visited[id]
            }
            Node::Dict(entries) => !entries.is_empty() && !self.visited[id],
            Node::Object(_) => !self.visited[id],
            Node::Persistent(_) => true,
            _ => false,
        }
    }

    /// Takes note of a tensor, and returns what else lies within.
    fn visit(&mut self, id: NodeId) -> Result<Vec<(Part, NodeId)>, ErrorKind> {
        if let Some(&first) = self.known.get(&id) {
            let tensor = NamedTensor { name: self.path.clone(), ..self.named.tensors[first].clone() };
            self.add(tensor)?;
            return Ok(Vec::new());
        }
        if let Some(Rebuilt { tensor, view, state }) = self.rebuilder.tensor(id) {
            let next = self.views.len() as u64;
            let identity = view.map(|view| *self.views.entry(view).or_insert(next));
            self.known.insert(id, self.named.tensors.len());
            self.add(NamedTensor { name: self.path.clone(), node: id, tensor, identity })?;
            return Ok(state.map_or_else(Vec::new, |state| self.state(state)));
        }
        self.visited[id] = true;
        Ok(self.children(id))
    }

    fn add(&mut self, tensor: NamedTensor) -> Result<(), ErrorKind> {
        self.name_bytes += tensor.name.len() as u64;
        if self.named.tensors.len() as u64 >= MAX_TENSORS {
            return Err(ErrorKind::TooMany { what: "tensors", limit: MAX_TENSORS });
        }
        if self.name_bytes > MAX_NAME_BYTES {
            return Err(ErrorKind::TooMany { what: "bytes of tensor names", limit: MAX_NAME_BYTES });
        }
        self.named.tensors.push(tensor);
        Ok(())
    }

    fn children(&mut self, id: NodeId) -> Vec<(Part, NodeId)> {
        match self.objects.node(id) {
            Node::List(items) | Node::Tuple(items) | Node::Set(items) => self.indexed(items),
            Node::Dict(entries) => self.entries(entries),
            Node::Object(object) => {
                let mut children = self.entries(&object.entries);
                children.extend(self.indexed(&object.items));
                children.extend(object.state.map_or_else(Vec::new, |state| self.state(state)));
                children.extend(self.arguments(object.callable, object.arguments));
                children
            }
            _ => Vec::new(),
        }
    }

    fn indexed(&self, items: &[NodeId]) -> Vec<(Part, NodeId)> {
        let parts = items.iter().enumerate().map(|(index, &item)| (Part::Index(index), item));
        parts.filter(|&(_, item)| self.may_hold_tensors(item)).collect()
    }

    /// Dict entries. Of a key that stands more than once, the last value counts, at the first one's place.
    fn entries(&mut self, entries: &[(NodeId, NodeId)]) -> Vec<(Part, NodeId)> {
        let repeated = self.repeated(entries);
        let mut children = Vec::new();
        for (index, &(key, value)) in entries.iter().enumerate() {
            let value = match repeated.get(&index) {
                Some(Repeated::Superseded) => continue,
                Some(&Repeated::By(last)) => entries[last].1,
                None => value,
            };
            if self.may_hold_tensors(value) {
                let part = if self.has_a_name(key) { Part::Key(key) } else { Part::Index(index) };
                children.push((part, value));
            }
        }
        children
    }

    /// What becomes of the entries whose keys stand more than once, which is reported.
    fn repeated(&mut self, entries: &[(NodeId, NodeId)]) -> HashMap<usize, Repeated> {
        let key = |index: &u32| self.key(entries[*index as usize].0);
        let mut order: Vec<u32> = (0..entries.len() as u32).filter(|index| key(index).is_some()).collect();
        order.sort_unstable_by(|one, other| key(one).cmp(&key(other)).then(one.cmp(other)));
        let mut repeated = HashMap::new();
        let mut first_seen: Option<(u32, u64)> = None;
        for group in order.chunk_by(|one, other| key(one) == key(other)).filter(|group| group.len() > 1) {
            let last = group[group.len() - 1];
            repeated.insert(group[0] as usize, Repeated::By(last as usize));
            repeated.extend(group[1..].iter().map(|&index| (index as usize, Repeated::Superseded)));
            if first_seen.is_none_or(|(first, _)| group[0] < first) {
                first_seen = Some((group[0], group.len() as u64));
            }
        }
        if let Some((first, count)) = first_seen {
            self.report_repeated(entries[first as usize].0, count);
        }
        repeated
    }

    /// A key as Python tells it apart, where it is one that names have.
    fn key(&self, id: NodeId) -> Option<Key<'_>> {
        match self.objects.node(id) {
            Node::Text(text) if text.len() <= MAX_KEY_BYTES => Some(Key::Text(text)),
            Node::Int(value) => Some(Key::Int(*value)),
            _ => None,
        }
    }

    fn has_a_name(&self, key: NodeId) -> bool {
        match self.objects.node(key) {
            Node::Text(text) => text.len() <= MAX_KEY_BYTES,
            Node::Int(_) | Node::Bool(_) | Node::None | Node::Float(_) => true,
            _ => false,
        }
    }

    /// Whether a part of an object is met for the first time. Objects may share their parts.
    fn is_new(&mut self, id: NodeId) -> bool {
        !std::mem::replace(&mut self.visited[id], true)
    }

    /// Attributes: a dict of them, or a pair of such dicts where the class has slots.
    fn state(&mut self, state: NodeId) -> Vec<(Part, NodeId)> {
        match self.objects.node(state) {
            Node::Tuple(parts) if parts.len() <= 2 && parts.iter().all(|&part| self.is_attributes(part)) => {
                parts.iter().flat_map(|&part| self.attributes(part)).collect()
            }
            _ if self.is_attributes(state) => self.attributes(state),
            _ => vec![(Part::Word("state"), state)],
        }
    }

    fn is_attributes(&self, id: NodeId) -> bool {
        matches!(self.objects.node(id), Node::Dict(_) | Node::None)
    }

    fn attributes(&mut self, id: NodeId) -> Vec<(Part, NodeId)> {
        let Node::Dict(entries) = self.objects.node(id) else { return Vec::new() };
        if !self.is_new(id) {
            return Vec::new();
        }
        let is_module = self.objects.get(id, "_modules").is_some();
        let mut children = self.entries(entries);
        for (part, _) in &mut children {
            let Part::Key(key) = *part else { continue };
            let is_holder = matches!(self.objects.text(key), Some("_parameters" | "_buffers" | "_modules"));
            if is_module && is_holder {
                *part = Part::Transparent;
            }
        }
        children
    }

    /// The arguments of a call, without those of calls that copy a container.
    fn arguments(&mut self, callable: NodeId, arguments: NodeId) -> Vec<(Part, NodeId)> {
        let Some(items) = self.objects.sequence(arguments).filter(|_| self.is_new(arguments)) else {
            return Vec::new();
        };
        let global = self.objects.global(callable);
        let is_tagged = global.is_some_and(|global| global.name == "restore_type_tag");
        let copies = global.is_some_and(|global| {
            matches!(
                global.name.as_str(),
                "OrderedDict"
                    | "Counter"
                    | "deque"
                    | "set"
                    | "frozenset"
                    | "list"
                    | "dict"
                    | "build_tensorlist"
            )
        });
        match items {
            // Python 2 writes an ordered dict as a call with a list of pairs.
            &[pairs] if copies => match self.pairs(pairs).filter(|_| self.is_new(pairs)) {
                Some(entries) => self.entries(&entries),
                None => vec![(Part::Transparent, pairs)],
            },
            // TorchScript writes the type of a container beside it.
            &[value, _] if is_tagged => vec![(Part::Transparent, value)],
            items => self.indexed(items),
        }
    }

    fn pairs(&self, id: NodeId) -> Option<Vec<(NodeId, NodeId)>> {
        let pair = |&item: &NodeId| match *self.objects.sequence(item)? {
            [key, value] if self.has_a_name(key) => Some((key, value)),
            _ => None,
        };
        let Node::List(items) = self.objects.node(id) else { return None };
        if self.visited[id] {
            return None;
        }
        items.iter().map(pair).collect()
    }

    fn append(&mut self, part: Part) {
        if matches!(part, Part::Transparent) {
            return;
        }
        if !self.path.is_empty() {
            self.path.push('.');
        }
        let path = &mut self.path;
        let written = match part {
            Part::Transparent => Ok(()),
            Part::Index(index) => write!(path, "{index}"),
            Part::Word(word) => path.write_str(word),
            Part::Key(key) => match self.objects.node(key) {
                Node::Text(text) => path.write_str(text),
                Node::Int(value) => write!(path, "{value}"),
                Node::Bool(true) => path.write_str("True"),
                Node::Bool(false) => path.write_str("False"),
                Node::Float(value) => write!(path, "{value:?}"),
                _ => path.write_str("None"),
            },
        };
        written.expect("writing to a String does not fail");
    }

    fn report(&mut self, kind: ErrorKind) {
        if self.named.problems.len() < MAX_PROBLEMS {
            self.named.problems.push(Problem { name: shortened(&self.path), kind });
        }
    }

    fn report_repeated(&mut self, key: NodeId, count: u64) {
        let key = match self.objects.node(key) {
            Node::Text(text) => text.clone(),
            Node::Int(value) => value.to_string(),
            _ => String::new(),
        };
        self.report(ErrorKind::DuplicateKey { key, count });
    }

    /// Different keys can make one name: `0` and `"0"`, `"a.b"` and `"a"` with `"b"` within.
    fn report_collisions(&mut self) {
        let mut counts = HashMap::with_capacity(self.named.tensors.len());
        for tensor in &self.named.tensors {
            *counts.entry(tensor.name.as_str()).or_insert(0u64) += 1;
        }
        let mut problems = Vec::new();
        for tensor in &self.named.tensors {
            if let Some(count) = counts.remove(tensor.name.as_str()).filter(|&count| count > 1) {
                problems
                    .push(Problem { name: tensor.name.clone(), kind: ErrorKind::DuplicateName { count } });
            }
        }
        let room = MAX_PROBLEMS.saturating_sub(self.named.problems.len());
        self.named.problems.extend(problems.into_iter().take(room));
    }
}

/// What becomes of an entry whose key stands again.
enum Repeated {
    /// It is the first one: its value is that of the last.
    By(usize),
    /// It is a later one, and counts at the place of the first.
    Superseded,
}

/// Keys that Python tells apart.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Key<'a> {
    Text(&'a str),
    Int(i64),
}

/// The beginning of a name, long enough to find it.
fn shortened(name: &str) -> String {
    name.chars().take(MAX_KEY_BYTES).collect()
}

/// Puts plain numbers in place of numpy's.
pub fn replace_numbers(objects: &mut Objects) {
    for id in 0..objects.nodes.len() {
        if let Some(number) = numpy::number(objects, id) {
            objects.nodes[id] = number;
            objects.spans[id] = crate::format::Span::default();
        }
    }
}
