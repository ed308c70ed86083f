//! What `torch.save` wrote before PyTorch 1.6, and pickles by themselves: files that are pickles, one after the other.
//!
//! A legacy file has five of them (a magic number, the protocol 1001, facts about the system, the object, the list of its
//! storages' keys), and then for each key a count of elements, 8 bytes, and the elements. Nothing is aligned, and nothing but
//! the counts says where a storage begins: behind one whose count lies, no place is certain any more. `_legacy_load` in
//! `torch/serialization.py` of PyTorch 2.9 is the authority.
//!
//! Of a pickle by itself, numpy arrays are the only tensors that can be read; what it names and calls is told all the same.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

use super::listing::Listing;
use super::rebuild::{self, Reference};
use super::storage::Storages;
use crate::context::Context;
use crate::error::{Error, ErrorKind, Result};
use crate::files::InputFile;
use crate::format::pickle::{self, Fault, Pickle};
use crate::format::{Container, Format, GlobalUse, Node, Objects};

/// The most pickles in one file that are read.
pub const MAX_PICKLES: usize = 4096;

/// The magic number, 0x1950a86a20f9469cfc6c, as protocols 2 and later write it.
const MAGIC: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];

/// The only version of the format.
const PROTOCOL: i64 = 1001;

/// Bytes in which a pickle is looked for at first. It is read again in twice as many as long as it does not end there.
const FIRST_WINDOW: u64 = 64 << 10;

/// Whether a file that begins so is a pickle of protocol 2 or later, as every legacy file is.
pub fn matches(start: &[u8]) -> bool {
    matches!(start, [0x80, 2..=5, ..])
}

/// Reads the tensors of a legacy PyTorch file, or the numpy arrays of a pickle.
///
/// # Errors
/// When the file cannot be read. Everything that is wrong within it is in the container's `problems` and in its entries:
/// what the pickles name is known even where no tensor is.
#[expect(clippy::needless_pass_by_value, reason = "every reader takes the file that its tensors keep open")]
pub fn read(file: Arc<InputFile>, _context: &Context) -> Result<Container> {
    let mut series = Series::new(&file);
    let (format, listing) = match series.next() {
        Ok((first, _)) if is_magic(&file, &first)? => (Format::TorchLegacy, legacy(&file, &mut series)),
        Ok((first, start)) => (Format::Pickle, Ok(bare(&file, first.objects, start, &mut series))),
        Err(error) => (Format::Pickle, Err(error)),
    };
    let mut listing = listing.unwrap_or_else(|error| Listing { problems: vec![error], ..Listing::default() });
    listing.globals = series.globals;
    Ok(listing.into_container(format, BTreeMap::new()))
}

/// Pickles in a file, from its start on.
struct Series<'a> {
    file: &'a InputFile,
    /// Where the next one starts.
    at: u64,
    /// What all of them name.
    globals: Vec<GlobalUse>,
}

impl<'a> Series<'a> {
    fn new(file: &'a InputFile) -> Self {
        Self { file, at: 0, globals: Vec::new() }
    }

    /// The next pickle and where it starts.
    fn next(&mut self) -> Result<(Pickle, u64)> {
        let start = self.at;
        let mut pickle = self.read()?;
        self.at = start + pickle.length;
        self.take_globals(&mut pickle, start)?;
        match pickle.error.take() {
            Some(Fault { kind, offset }) => {
                // Nothing says where another one would start.
                self.at = self.file.len();
                Err(kind.at_byte(self.file.path(), start + offset))
            }
            None => Ok((pickle, start)),
        }
    }

    /// Each pickle is bounded; so are all of them together.
    fn take_globals(&mut self, pickle: &mut Pickle, start: u64) -> Result<()> {
        let named = pickle.globals.drain(..);
        self.globals.extend(named.map(|used| GlobalUse { offset: start + used.offset, ..used }));
        if self.globals.len() > pickle::MAX_GLOBALS {
            self.at = self.file.len();
            let kind = ErrorKind::TooMany { what: "globals", limit: pickle::MAX_GLOBALS as u64 };
            return Err(kind.at_byte(self.file.path(), start));
        }
        Ok(())
    }

    /// A pickle does not say how long it is, and behind it may lie gigabytes that are no part of it.
    fn read(&self) -> Result<Pickle> {
        let most = (self.file.len() - self.at).min(pickle::MAX_BYTES);
        let mut window = most.min(FIRST_WINDOW);
        let mut buffer = Vec::new();
        loop {
            let pickle =
                pickle::read(self.file.bytes(self.at..self.at + window, &mut buffer)?, self.file.len());
            let ends_early = pickle.error.as_ref().is_some_and(|fault| is_truncation(&fault.kind));
            if !ends_early || window == most {
                return Ok(pickle);
            }
            window = most.min(2 * window);
        }
    }

    /// Reads what follows for its globals only, up to the end of the file or to what is no pickle.
    fn scan_rest(&mut self) -> Result<()> {
        for _ in 0..MAX_PICKLES {
            if self.at == self.file.len() {
                return Ok(());
            }
            self.next()?;
        }
        let kind = ErrorKind::TooMany { what: "pickles in a row", limit: MAX_PICKLES as u64 };
        Err(kind.at_byte(self.file.path(), self.at))
    }
}

fn is_truncation(kind: &ErrorKind) -> bool {
    matches!(kind, ErrorKind::PickleTruncated { .. })
}

fn is_magic(file: &InputFile, first: &Pickle) -> Result<bool> {
    let Some(&Node::BigInt(span)) = first.objects.root.map(|root| first.objects.node(root)) else {
        return Ok(false);
    };
    let mut buffer = Vec::new();
    Ok(file.bytes(span.start.into()..span.end.into(), &mut buffer)? == MAGIC)
}

/// The numpy arrays of a pickle by itself, and what the pickles behind it name.
fn bare(file: &Arc<InputFile>, objects: Objects, start: u64, series: &mut Series<'_>) -> Listing {
    let mut listing = Listing::of(objects, Storages::new(file.clone()), Some(start), "");
    if listing.entries.is_empty() {
        listing.problems.push(ErrorKind::NoTensors.in_file(file.path()));
    }
    listing.problems.extend(series.scan_rest().err());
    listing
}

/// What follows the magic number.
fn legacy(file: &Arc<InputFile>, series: &mut Series<'_>) -> Result<Listing> {
    if let Err(error) = header(file, series) {
        // Behind a header that is refused, the end of the pickles says nothing; what they name still does.
        let _ = series.scan_rest();
        return Err(error);
    }
    let (object, start) = series.next()?;
    let (keys, _) = series.next()?;
    let keys = storage_keys(file, &keys.objects)?;
    let layout = Layout::of(file, &keys, &wanted(&object.objects), series.at);
    let mut listing = Listing::of(object.objects, layout.storages, Some(start), "");
    if listing.unreferenced > 0 && layout.problem.is_none() {
        let kind = ErrorKind::UncoveredBytes { bytes: listing.unreferenced };
        listing.problems.push(kind.at_byte(file.path(), start));
    }
    listing.problems.extend(layout.problem);
    if let Some(end) = layout.end.filter(|&end| end < file.len()) {
        listing.uncovered.push(end..file.len());
    }
    Ok(listing)
}

/// The protocol's number and the facts about the system.
fn header(file: &InputFile, series: &mut Series<'_>) -> Result<()> {
    let (protocol, start) = series.next()?;
    let found = protocol.objects.root.and_then(|root| protocol.objects.integer(root));
    let (system, _) = series.next()?;
    if found != Some(PROTOCOL) {
        return Err(ErrorKind::LegacyProtocol { found }.at_byte(file.path(), start));
    }
    let little = system.objects.root.and_then(|root| system.objects.get(root, "little_endian"));
    if matches!(little.map(|id| system.objects.node(id)), Some(Node::Bool(false))) {
        return Err(ErrorKind::ByteOrder { found: "big".to_owned() }.in_file(file.path()));
    }
    Ok(())
}

fn storage_keys<'a>(file: &InputFile, objects: &'a Objects) -> Result<Vec<&'a str>> {
    let refuse = |message| Err(ErrorKind::StorageList { message }.in_file(file.path()));
    let Some(items) = objects.root.and_then(|root| objects.sequence(root)) else {
        return refuse("it is not a list");
    };
    let Some(keys) = items.iter().map(|&key| objects.text(key)).collect::<Option<Vec<_>>>() else {
        return refuse("a key is not text");
    };
    let mut seen = HashSet::with_capacity(keys.len());
    if !keys.iter().all(|key| seen.insert(*key)) {
        return refuse("a key stands twice");
    }
    Ok(keys)
}

/// The storages that the object is made of. The first mention of one says its type, as it does for PyTorch.
fn wanted(objects: &Objects) -> HashMap<String, Reference> {
    let mut wanted = HashMap::new();
    for reference in rebuild::references(objects) {
        wanted.entry(reference.key.clone()).or_insert(reference);
    }
    wanted
}

/// Where each storage lies.
struct Layout {
    storages: Storages,
    /// What is wrong with the first one that is not where it should be.
    problem: Option<Error>,
    /// Where the last one ends, if all are where they should be.
    end: Option<u64>,
}

impl Layout {
    /// Follows the counts from `start` on.
    fn of(file: &Arc<InputFile>, keys: &[&str], wanted: &HashMap<String, Reference>, start: u64) -> Self {
        let mut layout = Self { storages: Storages::new(file.clone()), problem: None, end: Some(start) };
        for &key in keys {
            let Some(at) = layout.end else {
                let fault = ErrorKind::UnplacedStorage { key: key.to_owned() };
                layout.storages.add(key, file.len()..file.len(), Some(fault));
                continue;
            };
            match locate(file, key, wanted.get(key), at) {
                Ok(bytes) => {
                    layout.end = Some(bytes.end);
                    layout.storages.add(key, bytes, None);
                }
                Err(kind) => {
                    layout.end = None;
                    layout.storages.add(key, at.min(file.len())..file.len(), Some(kind.clone()));
                    layout.problem = Some(kind.at_byte(file.path(), at));
                }
            }
        }
        layout
    }
}

/// The bytes of the storage whose count stands at `at`.
fn locate(
    file: &InputFile,
    key: &str,
    wanted: Option<&Reference>,
    at: u64,
) -> std::result::Result<Range<u64>, ErrorKind> {
    let reference = wanted.ok_or_else(|| ErrorKind::UnusedStorage { key: key.to_owned() })?;
    let unit = reference.unit()?;
    let mut count = [0; 8];
    file.read_exact_at(&mut count, at).map_err(|error| error.kind)?;
    let stated = i64::from_le_bytes(count);
    let expected = reference.count;
    if u64::try_from(stated) != Ok(expected) {
        return Err(ErrorKind::StorageLength { key: key.to_owned(), stated, expected });
    }
    let start = at + count.len() as u64;
    let end = start.saturating_add(expected.saturating_mul(unit));
    if end > file.len() {
        return Err(ErrorKind::PastEndOfFile { needed: end, available: file.len() });
    }
    Ok(start..end)
}
