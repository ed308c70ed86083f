//! A directory with a model: one file of a known name, the parts of a consolidated model, or an index of shards.

use std::path::Path;

use super::listing::{Listing, newest};
use super::{Parts, hf_trainer, incomplete, open, sharded};
use crate::checkpoint::{Layout, Section, step};
use crate::context::Context;
use crate::error::{Error, ErrorKind, Result};
use crate::format::Container;

/// Names of model files, the preferred first: a directory often holds the same model in several formats.
const MODEL_FILES: &[&str] = &[
    "model.safetensors",
    "pytorch_model.bin",
    "adapter_model.safetensors",
    "adapter_model.bin",
    "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.bin",
    "pytorch_model.pt",
    "model.pt",
];

/// Extensions of files that may hold a model under any name.
const MODEL_EXTENSIONS: &[&str] = &["safetensors", "pt", "pth", "ckpt", "bin"];

/// Reads the model of a directory, which must hold exactly one.
pub(super) fn read(listing: &Listing, context: &Context) -> Result<Parts> {
    if let Some(index) = sharded::find_index(listing) {
        let mut parts = sharded::read(listing, &index, context)?;
        parts.add_other_models(listing, &index, context);
        return Ok(parts);
    }
    let files = model_files(listing)?;
    let mut parts = Parts::new(Layout::ModelDirectory);
    for &file in &files {
        parts.add(listing, file, None, context);
        parts.claims.extend(step::in_name(Path::new(file)));
    }
    parts.tell_apart();
    parts.recognise();
    if let [read] = files[..] {
        parts.add_other_models(listing, read, context);
    }
    Ok(parts)
}

impl Parts {
    /// Says which models lie beside the one that was `read`. What their pickles name is told, their tensors are not.
    fn add_other_models(&mut self, listing: &Listing, read: &str, context: &Context) {
        let is_whole = |file: &str| MODEL_FILES.contains(&file) || sharded::is_index(file);
        for file in listing.files().filter(|file| is_whole(file) && *file != read) {
            let path = listing.path().join(file);
            let is_stray = |problem: &Error| problem.path == path && problem.kind == ErrorKind::StrayShard;
            if !self.problems.iter().any(is_stray) {
                self.problems.push(ErrorKind::OtherModel { read: read.to_owned() }.in_file(&path));
            }
            if sharded::is_index(file) {
                continue;
            }
            // One that cannot be read is no part of this checkpoint.
            if let Ok(mut part) = open(listing.path(), file, Some(Section::Other), context) {
                let Container { format, globals, .. } = part.container;
                part.container = Container { globals, ..Container::empty(format) };
                self.files.push(part);
            }
        }
    }
}

/// Whether `name` is all of the model that the directory holds.
pub(super) fn is_the_model(listing: &Listing, name: &str) -> bool {
    match sharded::find_index(listing) {
        Some(index) => index == name,
        None => model_files(listing).is_ok_and(|files| files == [name]),
    }
}

/// The files that together are the model.
fn model_files(listing: &Listing) -> Result<Vec<&str>> {
    if let Some(&name) = MODEL_FILES.iter().find(|name| listing.has(name)) {
        return Ok(vec![name]);
    }
    let candidates: Vec<&str> = listing.files().filter(|file| may_be_model(file)).collect();
    if let Some(shard) = candidates.iter().find(|file| file.contains("-of-")) {
        return Err(incomplete(
            listing.path(),
            format!("the index of shards such as {}", shard.escape_debug()),
        ));
    }
    match candidates.as_slice() {
        [] => none(listing),
        [_] => Ok(candidates),
        _ if candidates.iter().all(|file| file.starts_with("consolidated.")) => Ok(candidates),
        _ => Err(several(listing, &candidates)),
    }
}

fn may_be_model(file: &str) -> bool {
    let extension = Path::new(file).extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    MODEL_EXTENSIONS.contains(&extension) && hf_trainer::section_of_side_file(file).is_none()
}

/// Why there is no model: the directory is a run, or its checkpoint is not whole, or it is something else.
fn none(listing: &Listing) -> Result<Vec<&str>> {
    let checkpoints = listing.checkpoints();
    if !checkpoints.is_empty() {
        return Err(several(listing, &checkpoints));
    }
    if listing.files().any(|file| hf_trainer::section_of_side_file(file).is_some()) {
        return Err(incomplete(listing.path(), "the model beside its optimizer"));
    }
    Err(ErrorKind::NoCheckpoint.in_file(listing.path()))
}

fn several(listing: &Listing, names: &[&str]) -> crate::error::Error {
    let newest = newest(names).unwrap_or_default().to_owned();
    ErrorKind::SeveralCheckpoints { count: names.len(), newest }.in_file(listing.path())
}
