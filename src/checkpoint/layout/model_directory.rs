//! A directory with a model: one file of a known name, the parts of a consolidated model, or an index of shards.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use super::listing::{Listing, newest};
use super::{Parts, hf_trainer, incomplete, open, sharded};
use crate::checkpoint::{Layout, Section, step};
use crate::context::Context;
use crate::error::{ErrorKind, Result};
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

/// Those of them behind which some write `.tar`.
const TARRED_EXTENSIONS: &[&str] = &["pt", "pth", "ckpt"];

/// Extensions of pickles that hold anything: vocabularies, scalers, pipelines. What they name is looked at.
const PICKLE_EXTENSIONS: &[&str] = &["pkl", "pickle", "p", "joblib", "dill", "dat"];

/// Extensions of files that hold tensors and never are the model that is read, in its directory or below.
const OTHER_EXTENSIONS: &[&str] = &["npz", "npy", "h5", "keras", "msgpack", "onnx", "gguf", "ot"];

/// Entries that all folders together are looked through for, and files that are named.
const MOST_ENTRIES: usize = 10_000;
const NAMED: usize = 4;

/// Reads the model of a directory, which must hold exactly one.
pub(super) fn read(listing: &Listing, context: &Context) -> Result<Parts> {
    if let Some(index) = index(listing) {
        return sharded::read(listing, &index, context);
    }
    let files = model_files(listing)?;
    let mut parts = Parts::new(Layout::ModelDirectory);
    for &file in &files {
        parts.add(listing, file, None, context);
        parts.claims.extend(step::in_name(Path::new(file)));
    }
    parts.tell_apart();
    parts.recognise();
    Ok(parts)
}

/// The index that the model is read by: none of pickles where the model is there as safetensors too, as transformers does.
fn index(listing: &Listing) -> Option<String> {
    let is_whole = |file: &str| {
        MODEL_FILES.contains(&file) && file.ends_with(".safetensors") && !file.starts_with("adapter")
    };
    let has_safetensors = listing.files().any(is_whole);
    sharded::find_index(listing).filter(|index| sharded::is_of_safetensors(index) || !has_safetensors)
}

impl Parts {
    /// Says which models lie beside what was read, under whatever name. What their pickles name is told, their tensors are not.
    pub(super) fn add_other_models(&mut self, listing: &Listing, context: &Context) {
        let used = index(listing);
        let read = used.clone().or_else(|| self.files.first().map(|part| part.name.clone()));
        let Some(read) = read else { return };
        // What was read or refused has been told about.
        let known: HashSet<PathBuf> = self.problems.iter().map(|problem| problem.path.clone()).collect();
        // Which of its shards the index does not name has been told too.
        let is_told = |file: &str, path: &PathBuf| {
            known.contains(path) || used.as_deref().is_some_and(|index| sharded::is_shard_of(file, index))
        };
        let opened: HashSet<String> = self.files.iter().map(|part| part.name.clone()).collect();
        let other_indexes: Vec<&str> =
            listing.files().filter(|file| sharded::is_index(file) && used.as_deref() != Some(file)).collect();
        for &file in &other_indexes {
            self.problems
                .push(ErrorKind::OtherModel { read: read.clone() }.in_file(&listing.path().join(file)));
        }
        for file in listing.files().filter(|file| may_be_model(file) && !opened.contains(*file)) {
            let path = listing.path().join(file);
            let is_of_index =
                other_indexes.iter().any(|index| file.contains("-of-") && sharded::is_shard_of(file, index));
            if !is_of_index && !is_told(file, &path) {
                self.problems.push(ErrorKind::OtherModel { read: read.clone() }.in_file(&path));
            }
            self.search(listing, file, context);
        }
        for file in listing.files().filter(|file| has_extension(file, PICKLE_EXTENSIONS)) {
            if !opened.contains(file) {
                self.search(listing, file, context);
            }
        }
    }

    /// Looks at what a pickle beside the model names, and at nothing else of it.
    fn search(&mut self, listing: &Listing, file: &str, context: &Context) {
        // One that cannot be read is no part of this checkpoint.
        if let Ok(mut part) = open(listing.path(), file, Some(Section::Other), context) {
            let Container { format, globals, .. } = part.container;
            part.container = Container { globals, ..Container::empty(format) };
            self.files.push(part);
        }
    }

    /// Says which files of formats that no model is read from lie beside what was read, and which files of any format in the folders
    /// of the directory. Whether they belong to the model nobody knows: they are no second model, and nothing is said against them.
    pub(super) fn add_not_read(&mut self, listing: &Listing) {
        let used = index(listing).or_else(|| self.files.first().map(|part| part.name.clone()));
        let Some(read) = used else { return };
        let is_read: HashSet<&str> = self.files.iter().map(|part| part.name.as_str()).collect();
        let known: HashSet<PathBuf> = self.problems.iter().map(|problem| problem.path.clone()).collect();
        let beside = listing.files().filter(|file| has_extension(file, OTHER_EXTENSIONS)).map(str::to_owned);
        let mut budget = MOST_ENTRIES;
        let below = listing.directories().filter(|folder| !folder.starts_with('.'));
        let below = below.flat_map(|folder| {
            // Links lead anywhere: they are not followed.
            if std::fs::symlink_metadata(listing.path().join(folder)).is_ok_and(|found| found.is_symlink()) {
                return Vec::new();
            }
            let files = listing.files_in(folder, &mut budget);
            // One that could not be looked through may hold anything.
            let Some(files) = files else { return vec![format!("{folder}/*")] };
            let files = files.into_iter().filter(|file| holds_tensors(file));
            files.map(|file| format!("{folder}/{file}")).collect()
        });
        let is_new =
            |file: &String| !is_read.contains(file.as_str()) && !known.contains(&listing.path().join(file));
        let not_read: Vec<String> = beside.chain(below).filter(is_new).collect();
        if let [first, others @ ..] = not_read.as_slice() {
            let named = others.iter().take(NAMED).cloned().collect();
            let kind = ErrorKind::NotRead { read, others: others.len(), named };
            let error = kind.in_file(&listing.path().join(first));
            self.problems.push(error);
        }
    }
}

/// Whether `name` is all of the model that the directory holds.
pub(super) fn is_the_model(listing: &Listing, name: &str) -> bool {
    match index(listing) {
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
    // No archive: `model.pth.tar` is what examples of PyTorch and timm call what `torch.save` writes.
    let pickled = file.strip_suffix(".tar").filter(|file| has_extension(file, TARRED_EXTENSIONS));
    (pickled.is_some() || has_extension(file, MODEL_EXTENSIONS))
        && hf_trainer::section_of_side_file(file).is_none()
}

fn holds_tensors(file: &str) -> bool {
    may_be_model(file) || has_extension(file, OTHER_EXTENSIONS)
}

fn has_extension(file: &str, extensions: &[&str]) -> bool {
    let extension = Path::new(file).extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    extensions.contains(&extension)
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
