//! Which files of a directory make up a checkpoint. One layout a file.
//!
//! A layout finds files, opens them, and says what is missing; it does not look inside tensors. Every name that comes
//! from a file, and every symbolic link, is resolved by [`crate::files::open_sibling`].

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use super::optimizer::Hyperparameters;
use super::step::{self, Claim};
use super::{Layout, Section, json};
use crate::context::Context;
use crate::error::{Error, ErrorKind, Result};
use crate::files::{InputFile, open_sibling};
use crate::format::{Container, detect};

mod accelerate;
mod deepspeed;
mod hand_written;
mod hf_trainer;
mod lightning;
mod listing;
mod model_directory;
mod nano_gpt;
mod object;
mod run_directory;
mod sharded;
mod single_file;
#[cfg(test)]
mod tests;
mod timm;

pub(crate) use hf_trainer::{MAX_STATE_BYTES, TRAINER_STATE};
use listing::Listing;
use object::Root;

const CONFIG: &str = "config.json";

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
    /// What is said about the optimizer outside of its own file.
    pub hyperparameters: Option<Hyperparameters>,
}

/// A file that was read.
pub(super) struct Part {
    /// Its name in the checkpoint.
    pub name: String,
    /// What all of it is, where its name says so.
    pub section: Option<Section>,
    pub input: Arc<InputFile>,
    pub container: Container,
    /// What its tensors are told apart by from those of the same names in other parts.
    pub label: Option<String>,
}

/// Finds and opens the files of the checkpoint at `path`.
pub(super) fn read(path: &Path, context: &Context) -> Result<Parts> {
    let metadata = std::fs::metadata(path).map_err(|error| Error::io(path, "look at it", &error))?;
    if metadata.is_dir() {
        return directory(&Listing::of(path)?, context);
    }
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut parts = if sharded::is_index(name) {
        sharded::read(&Listing::of(directory)?, name, context)?
    } else {
        single_file::read(path, context)?
    };
    parts.read_config_beside(directory, name, context);
    Ok(parts)
}

/// Why the directory at `path` is none that is read, by the names in it.
pub(super) fn refusal(path: &Path) -> Option<Error> {
    let refuse = |listing: Listing| listing.refuse_unfinished().and_then(|()| listing.refuse_others());
    Listing::of(path).and_then(refuse).err()
}

fn directory(listing: &Listing, context: &Context) -> Result<Parts> {
    listing.refuse_unfinished()?;
    listing.refuse_others()?;
    let missing = deepspeed::missing_tag(listing, context);
    let read = if run_directory::is_one(listing) {
        run_directory::read(listing, context)
    } else if accelerate::is_one(listing) {
        accelerate::read(listing, context)
    } else if hf_trainer::is_one(listing) {
        hf_trainer::read(listing, context)
    } else {
        model_directory::read(listing, context).map(|mut parts| {
            parts.add_side_files(listing, context);
            parts
        })
    };
    let mut parts = read.map_err(|error| missing.clone().unwrap_or(error))?;
    parts.problems.extend(missing);
    parts.add_other_models(listing, context);
    parts.add_not_read(listing);
    parts.read_config(listing, context);
    Ok(parts)
}

type IsOne = fn(&Root<'_>) -> bool;

/// The layouts that are told by the keys of one object, the most specific first.
const OBJECTS: &[(Layout, IsOne)] = &[
    (Layout::Lightning, lightning::is_one),
    (Layout::NanoGpt, nano_gpt::is_one),
    (Layout::Timm, timm::is_one),
    (Layout::TrainingDict, hand_written::is_training_state),
    (Layout::SavedModule, hand_written::is_module),
];

impl Parts {
    fn new(layout: Layout) -> Self {
        Self {
            layout,
            files: Vec::new(),
            absent: Vec::new(),
            claims: Vec::new(),
            problems: Vec::new(),
            config: None,
            hyperparameters: None,
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
        if part.section.is_none() {
            self.claims.extend(step::in_container(&part.container, &part.name));
        }
        self.files.push(part);
    }

    /// Asks the only file what it is, by the keys of its object, and what it says beside its tensors.
    fn recognise(&mut self) {
        let [part] = self.files.as_slice() else { return };
        let root = Root::of(&part.container).filter(|_| part.section.is_none());
        let Some(root) = root else { return };
        let Some((layout, _)) = OBJECTS.iter().find(|(_, is_one)| is_one(&root)) else { return };
        self.layout = *layout;
        let config = match layout {
            Layout::NanoGpt => nano_gpt::config(&root),
            Layout::Timm => timm::config(&root),
            _ => None,
        };
        self.config = config.map(|config| config.into_iter().collect());
        let loops = (*layout == Layout::Lightning).then(|| lightning::claim(&root, part));
        self.claims.extend(loops.flatten());
    }

    /// Labels the parts by their files, where two of them hold tensors of one name.
    fn tell_apart(&mut self) {
        let mut names = HashSet::new();
        let entries = self.files.iter().flat_map(|part| &part.container.entries);
        let repeated = entries.map(|entry| &entry.name).any(|name| !names.insert(name));
        if repeated {
            for part in &mut self.files {
                let stem = Path::new(&part.name).file_stem();
                part.label = stem.map(|stem| stem.to_string_lossy().into_owned());
            }
        }
    }

    /// The config beside a file that was named by itself, where its directory holds no other model.
    fn read_config_beside(&mut self, directory: &Path, name: &str, context: &Context) {
        // A directory that cannot be listed is no part of what was asked for.
        let listing = directory.join(CONFIG).is_file().then(|| Listing::of(directory).ok()).flatten();
        if let Some(listing) = listing.filter(|listing| model_directory::is_the_model(listing, name)) {
            self.read_config(&listing, context);
        }
    }

    /// What the weights were saved with says more than a file beside them.
    fn read_config(&mut self, listing: &Listing, context: &Context) {
        if self.config.is_some() || !listing.has(CONFIG) {
            return;
        }
        match json::read(listing.path(), CONFIG, CONFIG, MAX_CONFIG_BYTES, context) {
            Ok(config) => self.config = Some(config),
            Err(error) => self.problems.push(error),
        }
    }
}

/// Opens `name` beside the other files of `directory`.
fn open(directory: &Path, name: &str, section: Option<Section>, context: &Context) -> Result<Part> {
    let input = Arc::new(open_sibling(directory, name, context)?);
    let container = detect::read_file(&input, context)?;
    Ok(Part { name: name.to_owned(), section, input, container, label: None })
}

/// The checkpoint at `path` is not complete: `missing` says what is not there.
fn incomplete(path: &Path, missing: impl Into<String>) -> Error {
    ErrorKind::Incomplete { missing: missing.into() }.in_file(path)
}
