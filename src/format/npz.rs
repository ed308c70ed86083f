//! Numpy's `.npz`: a zip archive of `.npy` members.
//!
//! Stored members are read in place. Deflated ones are inflated into memory when the archive is opened, at most
//! [`MAX_INFLATED`] bytes together, and fewer of a short archive: what is beyond that is listed with the reason.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use super::npy::{self, Array};
use super::zip::{Archive, Member, Method};
use super::{Container, Entry, Format, GlobalUse};
use crate::context::Context;
use crate::error::{At, Error, ErrorKind, Result};
use crate::files::InputFile;

/// Bytes that the deflated members of one archive may have together when they are inflated, whatever its length.
pub const MAX_INFLATED: u64 = 256 << 20;

/// The same for a short archive, and so many more for each of its bytes: weights shrink to a half, bombs to a thousandth.
const LEAST_INFLATED: u64 = 32 << 20;
const MAX_RATIO: u64 = 8;

const ENDING: &str = ".npy";

/// Whether the archive holds arrays and is none of PyTorch's.
pub fn matches(archive: &Archive) -> bool {
    let holds = |ending: &str| archive.members().iter().any(|member| member.name.ends_with(ending));
    holds(ENDING) && !holds("/data.pkl")
}

/// Reads the arrays of an archive, each named like its member without the ending.
///
/// # Errors
/// When the file is no zip archive, or holds no array. An array that cannot be read is an entry that says why.
#[expect(clippy::needless_pass_by_value, reason = "every reader takes the file that its tensors keep open")]
pub fn read(file: Arc<InputFile>, _context: &Context) -> Result<Container> {
    let archive = Archive::open(&file)?;
    let mut reader = Reader::new(&file);
    let mut entries = Vec::new();
    for member in archive.members() {
        match member.name.strip_suffix(ENDING) {
            Some(name) => entries.push(reader.entry(name, member)),
            None => reader.leave_out(member.data.clone()),
        }
    }
    archive.uncovered().iter().for_each(|gap| reader.leave_out(gap.clone()));
    reader.problems.extend(archive.lost_members(&file));
    if entries.is_empty() {
        return Err(ErrorKind::NoTensors.in_file(file.path()));
    }
    Ok(Container {
        format: Format::Npz,
        entries,
        metadata: BTreeMap::new(),
        objects: None,
        globals: reader.globals,
        uncovered: reader.uncovered,
        problems: reader.problems,
    })
}

struct Reader<'a> {
    file: &'a Arc<InputFile>,
    /// Bytes that may still be inflated.
    budget: u64,
    globals: Vec<GlobalUse>,
    uncovered: Vec<Range<u64>>,
    problems: Vec<Error>,
}

impl<'a> Reader<'a> {
    fn new(file: &'a Arc<InputFile>) -> Self {
        let (globals, uncovered, problems) = Default::default();
        let budget = MAX_INFLATED.min(LEAST_INFLATED.saturating_add(MAX_RATIO.saturating_mul(file.len())));
        Self { file, budget, globals, uncovered, problems }
    }

    fn entry(&mut self, name: &str, member: &Member) -> Entry {
        let tensor = self.array(member).and_then(|array| {
            self.globals.extend(array.globals);
            self.problems.extend(array.problem.map(|kind| self.refuse(member, kind)));
            array.tensor.map_err(|kind| self.refuse(member, kind))
        });
        let tensor = tensor.map_err(|error| Box::new(error.for_tensor(name)));
        Entry { name: name.to_owned(), tensor, storage: None }
    }

    fn array(&mut self, member: &Member) -> Result<Array> {
        if member.method == Method::Stored {
            let array = npy::array(self.file, member.data.clone());
            let array = array.map_err(|kind| self.refuse(member, kind))?;
            self.leave_out(array.end..member.data.end);
            return Ok(array);
        }
        let inflated = Arc::new(self.inflate(member)?);
        let array = npy::array(&inflated, 0..inflated.len());
        let array = array.map_err(|kind| self.refuse(member, kind))?;
        let bytes = inflated.len() - array.end;
        if bytes > 0 {
            self.problems.push(self.refuse(member, ErrorKind::TrailingBytes { bytes }));
        }
        Ok(array)
    }

    fn refuse(&self, member: &Member, kind: ErrorKind) -> Error {
        kind.in_file(self.file.path()).at(At::Member(member.name.clone(), 0))
    }

    /// Counts what a member declares, also when it then turns out to be a lie: the work was done.
    fn inflate(&mut self, member: &Member) -> Result<InputFile> {
        let budget = self.budget;
        self.budget = budget.saturating_sub(member.size);
        let mut bytes = Vec::new();
        let contents = member.contents(self.file, budget, &mut bytes)?;
        member.check(self.file, contents)?;
        Ok(InputFile::inflated(self.file, bytes))
    }

    /// Takes note of bytes that are no array.
    fn leave_out(&mut self, bytes: Range<u64>) {
        if !bytes.is_empty() {
            self.uncovered.push(bytes);
        }
    }
}
