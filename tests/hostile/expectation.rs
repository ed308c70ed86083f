//! What a hostile input is, and what must come of it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// One lie, and what flashpoint must say.
pub struct Case {
    /// Folder and file, named for the lie it tells.
    pub name: &'static str,
    pub input: Input,
    pub expected: Expected,
    /// Megabytes beyond the limit that this input is allowed, for what its report holds.
    pub allowance: u64,
}

/// What lies on the disk.
pub enum Input {
    /// A small file, kept in `fixtures/hostile`.
    File(Vec<u8>),
    /// A small directory, kept there too.
    Directory(Vec<(&'static str, Vec<u8>)>),
    /// What no repository should hold: links, pipes, long names, sparse and large files. Made in a new directory, of which
    /// the path to inspect is returned.
    Made(fn(&Path) -> PathBuf),
}

/// What must come of it.
#[derive(Debug, Default, Clone)]
pub struct Expected {
    pub exit: i32,
    /// The kinds of all problems, and of why a path was not read.
    pub kinds: BTreeSet<&'static str>,
    /// Every tensor whose elements were read, with Σ|x|.
    pub tensors: Vec<(String, f64)>,
    /// Tensors that are listed with a reason, by the kind of it and its beginning.
    pub listed: Vec<(&'static str, &'static str, &'static str)>,
    /// Rules that fire beside FP902, FP903 and FP904.
    pub findings: BTreeSet<&'static str>,
}

/// Nothing is read.
pub fn refused(kind: &'static str) -> Expected {
    Expected { exit: 2, kinds: [kind].into(), ..Expected::default() }
}

/// Something is lost: exit 2, and what is intact is still read.
pub fn damaged(kinds: &[&'static str], tensors: &[(&str, f64)]) -> Expected {
    Expected { exit: 2, ..noted(kinds, tensors) }
}

/// Odd, and nothing is lost.
pub fn noted(kinds: &[&'static str], tensors: &[(&str, f64)]) -> Expected {
    Expected { kinds: kinds.iter().copied().collect(), ..reads(tensors) }
}

/// It looks hostile and is legal.
pub fn reads(tensors: &[(&str, f64)]) -> Expected {
    let tensors = tensors.iter().map(|&(name, sum)| (name.to_owned(), sum)).collect();
    Expected { tensors, ..Expected::default() }
}

/// Not one element is read: no answer, although nothing is wrong.
pub fn unjudged() -> Expected {
    Expected { exit: 2, ..Expected::default() }
}

impl Expected {
    pub fn finding(mut self, rule: &'static str) -> Self {
        self.findings.insert(rule);
        self
    }

    /// A tensor is listed, and its elements are not read, because of `kind`: `reason` begins the sentence.
    pub fn listing(mut self, name: &'static str, kind: &'static str, reason: &'static str) -> Self {
        self.listed.push((name, kind, reason));
        self
    }

    /// Every kind it is about.
    pub fn all_kinds(&self) -> impl Iterator<Item = &'static str> {
        self.kinds.iter().copied().chain(self.listed.iter().map(|(_, kind, _)| *kind))
    }
}

pub fn file(name: &'static str, bytes: Vec<u8>, expected: Expected) -> Case {
    Case { name, input: Input::File(bytes), expected, allowance: 0 }
}

pub fn directory(name: &'static str, files: Vec<(&'static str, Vec<u8>)>, expected: Expected) -> Case {
    Case { name, input: Input::Directory(files), expected, allowance: 0 }
}

pub fn made(name: &'static str, make: fn(&Path) -> PathBuf, expected: Expected) -> Case {
    Case { name, input: Input::Made(make), expected, allowance: 0 }
}

impl Case {
    pub fn allowing(self, megabytes: u64) -> Self {
        Self { allowance: megabytes, ..self }
    }
}

/// Writes `bytes` as `name` in `directory`, and returns where.
pub fn write(directory: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = directory.join(name);
    std::fs::write(&path, bytes).expect("a temporary file can be written");
    path
}
