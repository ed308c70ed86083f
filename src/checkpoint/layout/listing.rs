//! What a directory holds, by name, and what its names alone rule out.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::incomplete;
use crate::checkpoint::step;
use crate::error::{Error, ErrorKind, Result};

/// More entries than this are not the directory of a checkpoint.
const MAX_ENTRIES: usize = 100_000;

/// The names in a directory, sorted. Names that are not UTF-8 are none that any layout knows.
pub(super) struct Listing {
    path: PathBuf,
    files: BTreeSet<String>,
    directories: BTreeSet<String>,
}

/// Checkpoints of several files that are recognised and not read, by the beginning and the end of a file's name.
const OTHERS: &[(&str, &str, &str)] = &[
    (".metadata", "", "a PyTorch distributed checkpoint (DCP)"),
    ("mp_rank_", "_model_states.pt", "a DeepSpeed checkpoint"),
    ("zero_pp_rank_", "_states.pt", "a DeepSpeed checkpoint"),
    ("bf16_zero_pp_rank_", "_states.pt", "a DeepSpeed checkpoint"),
    ("_CHECKPOINT_METADATA", "", "an Orbax checkpoint"),
    ("manifest.ocdbt", "", "an Orbax checkpoint"),
    ("saved_model.pb", "", "a TensorFlow SavedModel"),
];

impl Listing {
    pub(super) fn of(path: &Path) -> Result<Self> {
        let refused = |error: &std::io::Error| Error::io(path, "list it", error);
        let mut listing =
            Self { path: path.to_owned(), files: BTreeSet::new(), directories: BTreeSet::new() };
        for (index, entry) in std::fs::read_dir(path).map_err(|error| refused(&error))?.enumerate() {
            if index >= MAX_ENTRIES {
                let (actual, limit) = (index as u64 + 1, MAX_ENTRIES as u64);
                return Err(
                    ErrorKind::TooLarge { what: "the list of its files", actual, limit }.in_file(path)
                );
            }
            let entry = entry.map_err(|error| refused(&error))?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            let names = if entry.path().is_dir() { &mut listing.directories } else { &mut listing.files };
            names.insert(name);
        }
        Ok(listing)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether there is a file of this name.
    pub(super) fn has(&self, name: &str) -> bool {
        self.files.contains(name)
    }

    /// Whether there is a directory of this name.
    pub(super) fn has_directory(&self, name: &str) -> bool {
        self.directories.contains(name)
    }

    /// The files, sorted by name.
    pub(super) fn files(&self) -> impl Iterator<Item = &str> {
        self.files.iter().map(String::as_str)
    }

    /// The directories, sorted by name.
    pub(super) fn directories(&self) -> impl Iterator<Item = &str> {
        self.directories.iter().map(String::as_str)
    }

    /// The files in the directory of this name, sorted. Nothing where it cannot be listed, or holds more entries than are left in
    /// `budget`.
    pub(super) fn files_in(&self, directory: &str, budget: &mut usize) -> Option<Vec<String>> {
        let mut files = Vec::new();
        for entry in std::fs::read_dir(self.path.join(directory)).ok()? {
            *budget = budget.checked_sub(1)?;
            let entry = entry.ok()?;
            let is_directory = entry.file_type().ok()?.is_dir();
            files.extend(entry.file_name().into_string().ok().filter(|_| !is_directory));
        }
        files.sort_unstable();
        Some(files)
    }

    /// The directories whose names say that they are checkpoints.
    pub(super) fn checkpoints(&self) -> Vec<&str> {
        let names = self.directories.iter().map(String::as_str);
        names.filter(|name| step::in_name(Path::new(name)).is_some()).collect()
    }

    /// Refuses what its writer has not put in its place yet.
    pub(super) fn refuse_unfinished(&self) -> Result<()> {
        let name = self.path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let has_extension =
            |file: &str, wanted: &str| Path::new(file).extension().is_some_and(|end| end == wanted);
        let temporary = has_extension(&name, "tmp")
            || name.starts_with("tmp-checkpoint-")
            || name.contains(".orbax-checkpoint-tmp");
        if temporary {
            return Err(incomplete(&self.path, "its writer has not given it its final name"));
        }
        let distributed = self.files().any(|file| has_extension(file, "distcp"));
        if distributed && !self.has(".metadata") {
            return Err(incomplete(&self.path, "the file .metadata of a distributed checkpoint"));
        }
        Ok(())
    }

    /// Refuses what is a checkpoint of a kind that is not read.
    pub(super) fn refuse_others(&self) -> Result<()> {
        let kind = OTHERS
            .iter()
            .find(|(start, end, _)| self.files().any(|file| is_other(file, start, end)))
            .map(|&(_, _, format)| ErrorKind::UnsupportedFormat { format });
        kind.map_or(Ok(()), |kind| Err(kind.in_file(&self.path)))
    }
}

/// Whether `file` is `start`, or, with an `end`, begins and ends so.
fn is_other(file: &str, start: &str, end: &str) -> bool {
    if end.is_empty() { file == start } else { file.starts_with(start) && file.ends_with(end) }
}

/// The name with the highest step; among equals, and among names without one, the last by name.
pub(super) fn newest<'a>(names: &[&'a str]) -> Option<&'a str> {
    names.iter().copied().max_by_key(|name| (step::in_name(Path::new(name)).map(|claim| claim.step), *name))
}
