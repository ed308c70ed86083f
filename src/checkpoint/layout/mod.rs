//! Which files of a directory make up a checkpoint. One layout a file.
//!
//! A layout finds files, opens them, and says what is missing; it does not look inside tensors. Every name that comes
//! from a file, and every symbolic link, is resolved by [`crate::files::sibling`].

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::step::{self, Claim};
use super::{Layout, Section, json};
use crate::context::Context;
use crate::error::{Error, ErrorKind, Result};
use crate::files::{InputFile, sibling};
use crate::format::{Container, detect};

mod hf_trainer;
mod listing;
mod model_directory;
mod run_directory;
mod sharded;
mod single_file;
#[cfg(test)]
mod tests;

use listing::Listing;

/// Longest `config.json` that is read.
const MAX_CONFIG_BYTES: u64 = 4 << 20;

/// What a layout found.
pub(super) struct Parts {
    pub layout: Layout,
    pub files: Vec<Part>,
    /// Tensors that an index names and no file holds.
    pub absent: Vec<(String, Error)>,
    /// What says how far training had come, the most credible first.
    pub claims: Vec<Claim>,
    pub problems: Vec<Error>,
    pub config: Option<BTreeMap<String, serde_json::Value>>,
}

/// A file that was read.
pub(super) struct Part {
    /// Its name in the checkpoint.
    pub name: String,
    /// What all of it is, where its name says so.
    pub section: Option<Section>,
    pub input: Arc<InputFile>,
    pub container: Container,
}

/// Finds and opens the files of the checkpoint at `path`.
pub(super) fn read(path: &Path, context: &Context) -> Result<Parts> {
    let metadata = std::fs::metadata(path).map_err(|error| Error::io(path, "look at it", &error))?;
    if metadata.is_dir() {
        return directory(&Listing::of(path)?, context);
    }
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    if sharded::is_index(name) {
        let directory =
            path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        sharded::read(&Listing::of(directory)?, name, context)
    } else {
        single_file::read(path, context)
    }
}

fn directory(listing: &Listing, context: &Context) -> Result<Parts> {
    listing.refuse_unfinished()?;
    listing.refuse_others()?;
    let mut parts = if run_directory::is_one(listing) {
        run_directory::read(listing, context)?
    } else if hf_trainer::is_one(listing) {
        hf_trainer::read(listing, context)?
    } else {
        model_directory::read(listing, context)?
    };
    parts.read_config(listing, context);
    Ok(parts)
}

impl Parts {
    fn new(layout: Layout) -> Self {
        Self {
            layout,
            files: Vec::new(),
            absent: Vec::new(),
            claims: Vec::new(),
            problems: Vec::new(),
            config: None,
        }
    }

    /// Opens `name` in the directory of `listing` and adds it; a file that cannot be read is a problem.
    fn add(&mut self, listing: &Listing, name: &str, section: Option<Section>, context: &Context) -> bool {
        match open(listing.path(), name, section, context) {
            Ok(part) => {
                self.push(part);
                true
            }
            Err(error) => {
                self.problems.push(error);
                false
            }
        }
    }

    /// Adds a file and what it says about the step.
    fn push(&mut self, part: Part) {
        let is_state = part.section.is_none();
        let objects = part.container.objects.as_ref().filter(|_| is_state);
        self.claims.extend(objects.and_then(|objects| step::in_objects(objects, &part.name)));
        self.files.push(part);
    }

    fn read_config(&mut self, listing: &Listing, context: &Context) {
        if !listing.has("config.json") {
            return;
        }
        match json::read(listing.path(), "config.json", "config.json", MAX_CONFIG_BYTES, context) {
            Ok(config) => self.config = Some(config),
            Err(error) => self.problems.push(error),
        }
    }
}

/// Opens `name` beside the other files of `directory`.
fn open(directory: &Path, name: &str, section: Option<Section>, context: &Context) -> Result<Part> {
    let path = sibling(directory, name)?;
    let input = Arc::new(InputFile::open(&path, context)?);
    let container = detect::read_file(&input, context)?;
    Ok(Part { name: name.to_owned(), section, input, container })
}

/// The checkpoint at `path` is not complete: `missing` says what is not there.
fn incomplete(path: &Path, missing: impl Into<String>) -> Error {
    ErrorKind::Incomplete { missing: missing.into() }.in_file(path)
}
