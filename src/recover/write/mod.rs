//! A copy of a checkpoint's files in a new directory, with exactly the edits asked for.
//!
//! A file keeps its container. Tensors are written in place, in the copy; numbers of a pickle over the opcode that holds them, which
//! keeps its length; checksums of the members that changed are computed anew. A safetensors file whose dtypes change, or that
//! gains a tensor, is written anew from its header on. Every byte that no edit touches is that of the source.

mod archive;
mod elements;
pub(super) mod replicas;
mod splice;
pub(super) mod state;
mod table;

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use self::elements::Job;
pub(super) use self::elements::{compare, copy_elements};
use super::edit::{AddedTensor, Edit, NumberAt, NumberEdit, Operation};
use crate::checkpoint::{Checkpoint, Layout};
use crate::context::Context;
use crate::error::{Error, ErrorKind, Result};
use crate::files::{InputFile, lies_within, refuse_outside};
use crate::format::Format;
use crate::tensor::Tensor;

/// Files and directories of one checkpoint beside those that are read.
const MOST_ENTRIES: usize = 10_000;

/// Levels of directories.
const DEEPEST: usize = 8;

/// Bytes copied at once.
const WINDOW: u64 = 4 << 20;

/// A file of the source: its name in the checkpoint, and where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Source {
    pub name: String,
    pub path: PathBuf,
}

/// Every file that belongs to the checkpoint.
///
/// # Errors
/// When a directory cannot be listed, or something in it is no regular file or a link to elsewhere.
pub(super) fn sources(checkpoint: &Checkpoint) -> Result<Vec<Source>> {
    let path = checkpoint.path.as_path();
    if path.is_dir() {
        let mut found = Vec::new();
        list(path, path, "", 0, &mut found)?;
        found.sort_by(|one, other| one.name.cmp(&other.name));
        return Ok(found);
    }
    let own = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut found = vec![Source { name: own.clone(), path: path.to_owned() }];
    if checkpoint.layout == Layout::Sharded {
        let shards = checkpoint.files.iter().filter(|file| file.name != own);
        found.extend(
            shards.map(|file| Source { name: file.name.clone(), path: file.input.path().to_owned() }),
        );
    }
    Ok(found)
}

fn list(root: &Path, folder: &Path, shown: &str, depth: usize, found: &mut Vec<Source>) -> Result<()> {
    let refused = |error: &std::io::Error| Error::io(folder, "list it", error);
    if depth > DEEPEST {
        let kind = ErrorKind::TooMany { what: "levels of directories", limit: DEEPEST as u64 };
        return Err(kind.in_file(root));
    }
    for entry in std::fs::read_dir(folder).map_err(|error| refused(&error))? {
        let entry = entry.map_err(|error| refused(&error))?;
        let path = entry.path();
        let name = format!("{shown}{}", entry.file_name().to_string_lossy());
        let metadata = std::fs::metadata(&path).map_err(|error| Error::io(&path, "look at it", &error))?;
        if !lies_within(root, &path)? {
            return Err(ErrorKind::PathEscapes { name }.in_file(root));
        }
        if metadata.is_dir() {
            list(root, &path, &format!("{name}/"), depth + 1, found)?;
        } else if metadata.is_file() {
            found.push(Source { name, path });
        } else {
            let what = "device, pipe or socket";
            return Err(ErrorKind::NotARegularFile { what }.in_file(&path));
        }
        if found.len() > MOST_ENTRIES {
            let kind = ErrorKind::TooMany { what: "files", limit: MOST_ENTRIES as u64 };
            return Err(kind.in_file(root));
        }
    }
    Ok(())
}

/// All edits, by the file that they change.
struct Work<'a> {
    checkpoint: &'a Checkpoint,
    /// Per tensor what is done to it, in order, and the copies of other ranks that it is averaged with.
    operations: BTreeMap<usize, (Vec<&'a Operation>, Vec<&'a Tensor>)>,
    numbers: Vec<&'a NumberEdit>,
    added: Vec<&'a AddedTensor>,
}

/// Writes `sources` with `edits` into `folder`. False when the user asked to stop.
///
/// # Errors
/// When an edit cannot be made in its file's container, or would change a tensor that no edit names.
pub(super) fn write(
    checkpoint: &Checkpoint,
    sources: &[Source],
    edits: &[Edit],
    replicas: &[Checkpoint],
    folder: &Path,
    context: &Context,
) -> Result<bool> {
    let work = Work::new(checkpoint, edits, replicas)?;
    work.refuse_shared_bytes()?;
    for source in sources {
        let target = folder.join(&source.name);
        if let Some(parent) = target.parent() {
            std::fs::create_dir_all(parent).map_err(|error| Error::io(parent, "make it", &error))?;
        }
        let index = checkpoint.files.iter().position(|file| file.input.path() == source.path);
        let done = match index {
            Some(index) => work.file(index, &target, context)?,
            None if work.is_state(source) => {
                state::write(&source.path, &target, &work.numbers)?;
                true
            }
            None => copy(checkpoint, &source.path, &target, context)?,
        };
        if !done || context.cancelled() {
            return Ok(false);
        }
    }
    table::settle_index(checkpoint, sources, folder, edits, context)?;
    Ok(true)
}

/// Copies a file of the checkpoint byte for byte. False when the user asked to stop.
fn copy(checkpoint: &Checkpoint, source: &Path, target: &Path, context: &Context) -> Result<bool> {
    let metadata = std::fs::metadata(source).map_err(|error| Error::io(source, "look at it", &error))?;
    let file = create(target)?;
    if metadata.len() == 0 {
        return Ok(true);
    }
    let input = InputFile::open(source, context)?;
    if checkpoint.path.is_dir() {
        // It may have become a link since it was listed.
        refuse_outside(&checkpoint.path, &input)?;
    }
    copy_open(&input, &file, target, context)
}

fn create(target: &Path) -> Result<File> {
    let options = File::options().read(true).write(true).create_new(true).open(target);
    options.map_err(|error| Error::io(target, "write it", &error))
}

fn copy_open(input: &InputFile, file: &File, target: &Path, context: &Context) -> Result<bool> {
    let mut buffer = Vec::new();
    let mut start = 0;
    while start < input.len() {
        if context.cancelled() {
            return Ok(false);
        }
        let end = input.len().min(start + WINDOW);
        write_at(file, target, input.bytes(start..end, &mut buffer)?, start)?;
        start = end;
    }
    input.check_unchanged()?;
    Ok(true)
}

/// Writes `bytes` at `offset`.
fn write_at(file: &File, target: &Path, bytes: &[u8], offset: u64) -> Result<()> {
    #[cfg(unix)]
    let written = std::os::unix::fs::FileExt::write_all_at(file, bytes, offset);
    #[cfg(not(unix))]
    let written = {
        use std::io::{Seek, SeekFrom, Write};
        let mut file = file;
        file.seek(SeekFrom::Start(offset)).and_then(|_| file.write_all(bytes))
    };
    written.map_err(|error| Error::io(target, "write it", &error))
}

impl<'a> Work<'a> {
    fn new(checkpoint: &'a Checkpoint, edits: &'a [Edit], replicas: &'a [Checkpoint]) -> Result<Self> {
        let mut work =
            Self { checkpoint, operations: BTreeMap::new(), numbers: Vec::new(), added: Vec::new() };
        for edit in edits {
            for change in &edit.tensors {
                let index = work.first_of(change.index);
                let (operations, copies) = work.operations.entry(index).or_default();
                operations.push(&change.operation);
                if matches!(change.operation, Operation::Average { .. }) {
                    *copies = replicas::copies(checkpoint, index, replicas)?;
                }
            }
            work.numbers.extend(&edit.numbers);
            work.added.extend(&edit.added);
        }
        Ok(work)
    }

    /// The first tensor that has the bytes of `index`.
    fn first_of(&self, index: usize) -> usize {
        let Some(name) = &self.checkpoint.tensors[index].tied_to else { return index };
        self.checkpoint.tensors.iter().position(|tensor| tensor.name == *name).unwrap_or(index)
    }

    fn is_state(&self, source: &Source) -> bool {
        source.name == state::STATE
            && self.numbers.iter().any(|number| matches!(number.at, NumberAt::Json(_)))
    }

    /// The tensors of the file that are edited, numbers in tensors included.
    fn touched(&self) -> impl Iterator<Item = usize> {
        let in_tensors = self.numbers.iter().filter_map(|number| match number.at {
            NumberAt::Tensor(index) => Some(index),
            _ => None,
        });
        self.operations.keys().copied().chain(in_tensors)
    }

    /// Views may share bytes: an edit through one must not change another that no edit names.
    fn refuse_shared_bytes(&self) -> Result<()> {
        let place = |index: usize| {
            let tensor = self.checkpoint.tensors[index].tensor.as_ref().ok()?;
            let piece = tensor.pieces.first()?;
            Some((Arc::as_ptr(&piece.file), piece.bytes.clone()))
        };
        let mut edited: Vec<(*const InputFile, Range<u64>, usize)> = self
            .touched()
            .filter_map(|index| place(index).map(|(file, bytes)| (file, bytes, index)))
            .collect();
        edited.sort_by_key(|(file, bytes, _)| (*file, bytes.start));
        // The farthest that any edit of the same file up to here reaches.
        let mut reach: Vec<u64> = Vec::with_capacity(edited.len());
        for (at, (file, bytes, _)) in edited.iter().enumerate() {
            let before =
                at.checked_sub(1).filter(|&before| edited[before].0 == *file).map(|before| reach[before]);
            reach.push(bytes.end.max(before.unwrap_or(0)));
        }
        for index in 0..self.checkpoint.tensors.len() {
            let Some((file, bytes)) = place(index).filter(|(_, bytes)| !bytes.is_empty()) else { continue };
            let first = self.first_of(index);
            let until = edited.partition_point(|(other, own, _)| (*other, own.start) < (file, bytes.end));
            let near = (0..until).rev().take_while(|&at| edited[at].0 == file && reach[at] > bytes.start);
            let shares =
                near.map(|at| &edited[at]).find(|(_, own, by)| own.end > bytes.start && *by != first);
            if let Some((_, _, by)) = shares {
                let name = |index: usize| self.checkpoint.tensors[index].name.clone();
                let message =
                    format!("{} shares bytes with {}, which is to be edited", name(index), name(*by));
                return Err(ErrorKind::NotEditable { message }.in_file(&self.checkpoint.path));
            }
        }
        Ok(())
    }

    /// One of the files that were read. False when the user asked to stop.
    fn file(&self, index: usize, target: &Path, context: &Context) -> Result<bool> {
        let own = &self.checkpoint.files[index];
        let is_own = |tensor: usize| self.checkpoint.tensors[tensor].file == Some(index);
        let casts = |operations: &[&Operation]| {
            operations.iter().any(|operation| matches!(operation, Operation::Cast { .. }))
        };
        let added: Vec<&AddedTensor> =
            self.added.iter().copied().filter(|added| added.file_index == index).collect();
        let is_cast =
            self.operations.iter().any(|(&tensor, (operations, _))| is_own(tensor) && casts(operations));
        let numbers: Vec<&NumberEdit> = self
            .numbers
            .iter()
            .copied()
            .filter(|number| match number.at {
                NumberAt::Pickled { file, .. } => file == index,
                NumberAt::Tensor(tensor) => is_own(tensor),
                NumberAt::Json(_) | NumberAt::Nowhere => false,
            })
            .collect();
        let is_edited = self.operations.keys().any(|&tensor| is_own(tensor)) || !numbers.is_empty();
        if !is_edited && added.is_empty() {
            return copy_open(&own.input, &create(target)?, target, context);
        }
        if is_cast || !added.is_empty() {
            return table::write(self, index, &added, target, context);
        }
        if !matches!(own.format, Format::Safetensors | Format::TorchZip) {
            let message = format!("{} is none of the containers that are written", format_name(own.format));
            return Err(ErrorKind::NotEditable { message }.in_file(own.input.path()));
        }
        let file = create(target)?;
        if !copy_open(&own.input, &file, target, context)? {
            return Ok(false);
        }
        for tensor in self.operations.keys().copied().filter(|&tensor| is_own(tensor)) {
            if !self.job(tensor)?.write_in_place(&file, target, context)? {
                return Ok(false);
            }
        }
        for number in &numbers {
            if let NumberAt::Tensor(tensor) = number.at {
                elements::write_number(&self.checkpoint.tensors[tensor], number.to, &file, target)?;
            }
        }
        if own.format == Format::TorchZip {
            archive::write_numbers(&own.input, &numbers, &file, target)?;
            let touched: Vec<Range<u64>> = self
                .touched()
                .filter(|&tensor| is_own(tensor))
                .filter_map(|tensor| self.checkpoint.tensors[tensor].tensor.as_ref().ok())
                .flat_map(|tensor| tensor.pieces.iter().map(|piece| piece.bytes.clone()))
                .collect();
            archive::write_checksums(&own.input, &touched, !numbers.is_empty(), &file, target)?;
        }
        Ok(true)
    }

    /// What has to be done to the elements of one tensor.
    fn job(&self, tensor: usize) -> Result<Job<'_>> {
        let named = &self.checkpoint.tensors[tensor];
        let stored = named.readable()?;
        let (operations, copies) = self
            .operations
            .get(&tensor)
            .map_or((&[][..], &[][..]), |(operations, copies)| (operations.as_slice(), copies.as_slice()));
        Job::new(&named.name, stored, operations, copies)
    }
}

fn format_name(format: Format) -> &'static str {
    match format {
        Format::Safetensors => "safetensors",
        Format::TorchZip => "a PyTorch archive",
        Format::TorchLegacy => "a PyTorch file of before 1.6",
        Format::TorchScript => "a TorchScript archive",
        Format::Pickle => "a pickle by itself",
        Format::Npy => "a numpy array",
        Format::Npz => "an archive of numpy arrays",
    }
}
