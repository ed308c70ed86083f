//! Storages: the byte ranges of a file that tensors are views of.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use crate::error::ErrorKind;
use crate::files::InputFile;

/// The storages of one file, by key.
#[derive(Debug)]
pub struct Storages {
    /// The file they lie in.
    pub file: Arc<InputFile>,
    list: Vec<Storage>,
    index: HashMap<String, usize>,
}

/// One storage.
#[derive(Debug)]
pub struct Storage {
    /// Its bytes in the file.
    pub bytes: Range<u64>,
    /// Why its elements cannot be read in place, if they cannot.
    pub fault: Option<ErrorKind>,
    /// The bytes that tensors refer to.
    touched: Vec<Range<u64>>,
}

/// Gaps between views that are shorter than this are padding, not data.
const LEAST_UNCOVERED: u64 = 64;

impl Storages {
    /// No storages yet.
    pub fn new(file: Arc<InputFile>) -> Self {
        Self { file, list: Vec::new(), index: HashMap::new() }
    }

    /// Adds the storage of that key.
    pub fn add(&mut self, key: &str, bytes: Range<u64>, fault: Option<ErrorKind>) {
        self.index.insert(key.to_owned(), self.list.len());
        self.list.push(Storage { bytes, fault, touched: Vec::new() });
    }

    /// Which storage has that key.
    pub fn find(&self, key: &str) -> Option<usize> {
        self.index.get(key).copied()
    }

    /// The bytes of a storage that can be read in place.
    pub fn readable(&self, storage: usize) -> Result<Range<u64>, ErrorKind> {
        let Storage { bytes, fault, .. } = &self.list[storage];
        fault.clone().map_or_else(|| Ok(bytes.clone()), Err)
    }

    /// Notes that a tensor refers to `bytes` of a storage.
    pub fn touch(&mut self, storage: usize, bytes: Range<u64>) {
        self.list[storage].touched.push(bytes);
    }

    /// Notes that something refers to all of a storage.
    pub fn touch_all(&mut self, storage: usize) {
        let bytes = self.list[storage].bytes.clone();
        self.touch(storage, bytes);
    }

    /// Bytes of all storages that nothing refers to. PyTorch writes none.
    pub fn unreferenced(&self) -> u64 {
        let storages = self.list.iter().filter(|storage| storage.touched.is_empty());
        storages.map(|storage| storage.bytes.end - storage.bytes.start).fold(0, u64::saturating_add)
    }

    /// Bytes no tensor refers to: whole storages, and gaps of at least 64 bytes in those that tensors do refer to.
    pub fn uncovered(mut self) -> Vec<Range<u64>> {
        let mut uncovered = self.list.iter_mut().flat_map(Storage::uncovered).collect::<Vec<_>>();
        uncovered.sort_by_key(|range| range.start);
        uncovered
    }
}

impl Storage {
    fn uncovered(&mut self) -> Vec<Range<u64>> {
        if self.touched.is_empty() {
            return if self.bytes.is_empty() { Vec::new() } else { vec![self.bytes.clone()] };
        }
        self.touched.sort_by_key(|range| range.start);
        let mut gaps = Vec::new();
        let mut covered = self.bytes.start;
        let end = self.bytes.end..self.bytes.end;
        for range in self.touched.iter().chain([&end]) {
            if range.start.saturating_sub(covered) >= LEAST_UNCOVERED {
                gaps.push(covered..range.start);
            }
            covered = covered.max(range.end);
        }
        gaps
    }
}
