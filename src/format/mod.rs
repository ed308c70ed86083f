//! Bytes to a table of named tensors and plain metadata. One on-disk format a file.
//!
//! Prints nothing, trusts no length, executes nothing.

use std::collections::BTreeMap;
use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::tensor::{Listed, Tensor};

#[cfg(test)]
mod craft;
pub mod detect;
pub mod npy;
pub mod npz;
pub mod object;
pub mod pickle;
pub mod safetensors;
mod shared;
pub mod torch;
pub mod zip;

pub use object::{Node, NodeId, Object, Objects, Span};

/// The most tensors of one checkpoint, counted by name. Each takes some four kilobytes of the report.
pub const MAX_TENSORS: u64 = 1 << 17;

/// The on-disk formats that are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// A safetensors file.
    Safetensors,
    /// A PyTorch zip archive (1.6 and later).
    TorchZip,
    /// What `torch.save` wrote before 1.6: pickles, then storages.
    TorchLegacy,
    /// A `TorchScript` archive.
    TorchScript,
    /// A pickle by itself.
    Pickle,
    /// One numpy array.
    Npy,
    /// A zip archive of numpy arrays.
    Npz,
}

impl Format {
    /// Whether it is an archive, whose members have checksums.
    pub const fn is_archive(self) -> bool {
        matches!(self, Self::TorchZip | Self::TorchScript | Self::Npz)
    }
}

/// What one file holds.
#[derive(Debug)]
pub struct Container {
    /// The file's format.
    pub format: Format,
    /// Its tensors, in file order. A damaged one is an entry, not an aborted file.
    pub entries: Vec<Entry>,
    /// Text metadata, such as safetensors' `__metadata__`.
    pub metadata: BTreeMap<String, String>,
    /// The pickled object, where the format has one.
    pub objects: Option<Objects>,
    /// Classes and functions a pickle names that are not on the allow-list.
    pub globals: Vec<GlobalUse>,
    /// Data bytes that no tensor refers to.
    pub uncovered: Vec<Range<u64>>,
    /// What is wrong with the file as a whole, although tensors could be read.
    pub problems: Vec<Error>,
}

impl Container {
    /// One that holds nothing, and has nothing wrong with it.
    pub fn empty(format: Format) -> Self {
        Self {
            format,
            entries: Vec::new(),
            metadata: BTreeMap::new(),
            objects: None,
            globals: Vec::new(),
            uncovered: Vec::new(),
            problems: Vec::new(),
        }
    }
}

/// One named tensor of a file.
#[derive(Debug)]
pub struct Entry {
    /// Its name: the key, or the path of keys joined by dots.
    pub name: String,
    /// The tensor, or why it cannot be read.
    pub tensor: Listed,
    /// Identity of the storage it views: equal for tied tensors. `None` where the format has no storages.
    pub storage: Option<u64>,
}

impl Entry {
    /// The tensor, unless it cannot be read.
    ///
    /// # Errors
    /// Why not.
    pub fn readable(&self) -> Result<&Tensor> {
        self.tensor.as_ref().map_err(|error| Error::clone(error))
    }
}

/// A class or function that a pickle names.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Global {
    /// Module path, `posix`.
    pub module: String,
    /// Name in it, `system`.
    pub name: String,
}

/// A global outside the allow-list, and what the pickle does with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GlobalUse {
    /// Which one.
    pub global: Global,
    /// Whether loading the file would run code of the attacker's choice, or only name an unknown class.
    pub danger: Danger,
    /// Whether the pickle calls it (REDUCE, OBJ, INST, NEWOBJ), not only names it.
    pub called: bool,
    /// Where it is named: from the start of the pickle, or of the file where that is a series of pickles.
    pub offset: u64,
}

/// What a global can do to whoever loads the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Danger {
    /// On no list: inert here, code elsewhere.
    Unknown,
    /// On the list of those that run code, open files or reach the network.
    Dangerous,
}
