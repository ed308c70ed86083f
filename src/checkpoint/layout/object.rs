//! The object of a pickle, as the layouts that are told by its keys see it.

use serde_json::{Map, Value};

use crate::format::{Container, Node, NodeId, Objects};

/// Levels of a config that are kept.
const MAX_DEPTH: usize = 16;

/// Values of a config that are kept: objects may share parts, and spell a large config many times over.
const MAX_VALUES: usize = 100_000;

/// The root of a pickle.
pub(super) struct Root<'a> {
    pub objects: &'a Objects,
    pub id: NodeId,
}

impl<'a> Root<'a> {
    pub(super) fn of(container: &'a Container) -> Option<Self> {
        let objects = container.objects.as_ref()?;
        Some(Self { objects, id: objects.root? })
    }

    pub(super) fn get(&self, key: &str) -> Option<NodeId> {
        self.objects.get(self.id, key)
    }

    /// Whether it is a dict with all of `keys`.
    pub(super) fn has(&self, keys: &[&str]) -> bool {
        keys.iter().all(|key| self.get(key).is_some())
    }

    /// The value at the end of a path of keys.
    pub(super) fn find(&self, path: &[&str]) -> Option<NodeId> {
        path.iter().try_fold(self.id, |dict, key| self.objects.get(dict, key))
    }

    /// What is plain data under `key`: a dict, or the attributes of an object.
    pub(super) fn plain(&self, key: &str) -> Option<Map<String, Value>> {
        let mut left = MAX_VALUES;
        attributes(self.objects, self.get(key)?, 0, &mut left)
    }
}

/// The text keys and their plain values; what is neither number, text, list nor dict is left out.
fn attributes(objects: &Objects, id: NodeId, depth: usize, left: &mut usize) -> Option<Map<String, Value>> {
    let entries = objects.entries(state_of(objects, id))?;
    let pairs = entries.iter().filter_map(|&(key, item)| {
        Some((objects.text(key)?.to_owned(), value(objects, item, depth + 1, left)?))
    });
    Some(pairs.collect())
}

/// What BUILD would have set on an object such as a `Namespace`.
fn state_of(objects: &Objects, id: NodeId) -> NodeId {
    match objects.node(id) {
        Node::Object(object) => object.state.unwrap_or(id),
        _ => id,
    }
}

fn value(objects: &Objects, id: NodeId, depth: usize, left: &mut usize) -> Option<Value> {
    *left = left.checked_sub(1)?;
    if depth > MAX_DEPTH {
        return None;
    }
    match objects.node(id) {
        Node::None => Some(Value::Null),
        Node::Bool(flag) => Some(Value::Bool(*flag)),
        Node::Int(number) => Some(Value::from(*number)),
        // As in JSON side files: what is not finite is null.
        Node::Float(number) => Some(Value::from(*number)),
        Node::Text(text) => Some(Value::String(text.clone())),
        Node::List(items) | Node::Tuple(items) => {
            Some(items.iter().filter_map(|&item| value(objects, item, depth + 1, left)).collect())
        }
        Node::Dict(_) => attributes(objects, id, depth, left).map(Value::Object),
        _ => None,
    }
}
