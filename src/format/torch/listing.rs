//! From a pickle and its storages to named entries.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use super::names::{self, NamedTensor, Problem};
use super::rebuild::Rebuilder;
use super::storage::Storages;
use crate::error::Error;
use crate::format::{Container, Entry, Format, GlobalUse, Node, Objects};

/// What one pickle says about the storages beside it.
#[derive(Default)]
pub struct Listing {
    /// The pickled object, its tensors marked.
    pub objects: Objects,
    /// Its tensors.
    pub entries: Vec<Entry>,
    /// Globals that are not on the allow-list.
    pub globals: Vec<GlobalUse>,
    /// Bytes of storages that no tensor refers to.
    pub uncovered: Vec<Range<u64>>,
    /// How many of them are of whole storages.
    pub unreferenced: u64,
    /// What is wrong with it.
    pub problems: Vec<Error>,
}

impl Listing {
    /// The tensors of `objects`, whose pickle starts at `pickle_start` where it stands in the file as it is.
    ///
    /// All names begin with `prefix`.
    pub fn of(mut objects: Objects, mut storages: Storages, pickle_start: Option<u64>, prefix: &str) -> Self {
        let file = storages.file.clone();
        names::replace_numbers(&mut objects);
        let mut rebuilder = Rebuilder::new(&objects, &mut storages, pickle_start);
        let named = names::named_tensors(&objects, &mut rebuilder, prefix);
        mark_tensors(&mut objects, &named.tensors);
        Self {
            objects,
            entries: named.tensors.into_iter().map(|tensor| entry(file.path(), tensor)).collect(),
            globals: Vec::new(),
            unreferenced: storages.unreferenced(),
            uncovered: storages.uncovered(),
            problems: named.problems.into_iter().map(|problem| at_name(file.path(), problem)).collect(),
        }
    }

    /// Adds the tensors of another pickle of the same file. Its objects are let go.
    pub fn absorb(&mut self, other: Self) {
        let identities = self.entries.len() as u64;
        self.entries.extend(
            other
                .entries
                .into_iter()
                .map(|entry| Entry { storage: entry.storage.map(|identity| identities + identity), ..entry }),
        );
        self.globals.extend(other.globals);
        self.uncovered.extend(other.uncovered);
        self.problems.extend(other.problems);
    }

    /// The whole file.
    pub fn into_container(self, format: Format, metadata: BTreeMap<String, String>) -> Container {
        let Self { objects, entries, globals, uncovered, problems, .. } = self;
        Container { format, entries, metadata, objects: Some(objects), globals, uncovered, problems }
    }
}

fn mark_tensors(objects: &mut Objects, tensors: &[NamedTensor]) {
    // Backwards, so that a tensor with two names is known by the first.
    for (index, tensor) in tensors.iter().enumerate().rev() {
        objects.nodes[tensor.node] = Node::Tensor(index);
    }
}

fn entry(path: &Path, named: NamedTensor) -> Entry {
    let NamedTensor { name, tensor, identity, .. } = named;
    let tensor = tensor.map_err(|kind| Box::new(kind.in_file(path).for_tensor(&name)));
    Entry { name, tensor, storage: identity }
}

fn at_name(path: &Path, problem: Problem) -> Error {
    let error = problem.kind.in_file(path);
    if problem.name.is_empty() { error } else { error.for_tensor(&problem.name) }
}
