//! The directories of a run, listed in a fixed order and in bounded numbers. Symbolic links are not followed out of the run.

use std::path::{Path, PathBuf};

use super::names;
use crate::error::{Error, ErrorKind, Result};
use crate::files::lies_within;
use crate::history::{History, RemarkKind};

/// More entries than this in one directory are not those of a run.
const MAX_ENTRIES: usize = 200_000;

/// Directories deeper than this are not looked into.
const MAX_DEPTH: usize = 6;

/// Names of models in directories that are one checkpoint.
const MODELS: &[&str] = &[
    "model.safetensors",
    "pytorch_model.bin",
    "adapter_model.safetensors",
    "adapter_model.bin",
    "model.safetensors.index.json",
    "pytorch_model.bin.index.json",
];

/// A directory as listed.
#[derive(Debug)]
pub(super) struct Folder {
    pub path: PathBuf,
    /// Its path in the run.
    pub shown: String,
    pub depth: usize,
    /// Files by name, in natural order.
    pub files: Vec<String>,
    /// Directories by name, in natural order.
    pub folders: Vec<String>,
}

impl Folder {
    pub(super) fn read(path: &Path, shown: &str, depth: usize, history: &mut History) -> Result<Self> {
        let refused = |error: &std::io::Error| Error::io(path, "list it", error);
        let mut folder = Self {
            path: path.to_owned(),
            shown: shown.to_owned(),
            depth,
            files: Vec::new(),
            folders: Vec::new(),
        };
        if depth > MAX_DEPTH {
            history.remark(RemarkKind::LeftOut, Some(shown.to_owned()), "it lies too deep to be looked into");
            return Ok(folder);
        }
        for (index, entry) in std::fs::read_dir(path).map_err(|error| refused(&error))?.enumerate() {
            if index >= MAX_ENTRIES {
                let (actual, limit) = (index as u64 + 1, MAX_ENTRIES as u64);
                return Err(
                    ErrorKind::TooLarge { what: "the list of its files", actual, limit }.in_file(path)
                );
            }
            let entry = entry.map_err(|error| refused(&error))?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            if name.starts_with('.') && name != ".metadata" {
                continue;
            }
            let kind = entry.file_type().map_err(|error| refused(&error))?;
            if kind.is_symlink() {
                folder.link(name, history);
            } else if kind.is_dir() {
                folder.folders.push(name);
            } else {
                folder.files.push(name);
            }
        }
        folder.files.sort_by_cached_key(|name| names::natural(name));
        folder.folders.sort_by_cached_key(|name| names::natural(name));
        Ok(folder)
    }

    /// The directory that was given: everything that is read lies in it.
    fn root(&self) -> &Path {
        self.path.ancestors().nth(self.depth).unwrap_or(&self.path)
    }

    /// A link to a file of the run is that file. One to a directory usually names a checkpoint that is there under its own
    /// name.
    fn link(&mut self, name: String, history: &mut History) {
        let target = self.path.join(&name);
        if target.is_file() {
            if lies_within(self.root(), &target).unwrap_or(false) {
                self.files.push(name);
            } else {
                let shown = self.shown(&name);
                history.remark(
                    RemarkKind::LeftOut,
                    Some(shown),
                    "a link to a file outside of the run is not followed: name that file by itself",
                );
            }
        } else if target.is_dir() {
            let shown = self.shown(&name);
            history.remark(
                RemarkKind::LeftOut,
                Some(shown),
                "a link to a directory is not followed: name it by itself",
            );
        }
    }

    /// The path in the run of something in it.
    pub(super) fn shown(&self, name: &str) -> String {
        if self.shown.is_empty() { name.to_owned() } else { format!("{}/{name}", self.shown) }
    }

    /// Whether it holds a model under a name that only the directory of one checkpoint has.
    pub(super) fn holds_a_model(&self) -> bool {
        self.files.iter().any(|file| MODELS.contains(&file.as_str()))
    }

    /// Whether a directory with a step in its name is a checkpoint, and not one of something else.
    pub(super) fn is_checkpoint(&self) -> bool {
        let gradients_only = |file: &&String| names::may_hold_tensors(file) && !names::is_of_gradients(file);
        let distributed = |file: &String| file == ".metadata" || file.ends_with(".distcp");
        self.files
            .iter()
            .any(|file| gradients_only(&file) || distributed(file) || MODELS.contains(&file.as_str()))
            || self.folders.iter().any(|folder| folder.starts_with("mp_rank_") || folder == "model_and_optim")
    }

    /// The one file of a Megatron checkpoint that one rank wrote; or why it cannot be read.
    pub(super) fn megatron(&self) -> Option<std::result::Result<PathBuf, String>> {
        let ranks: Vec<&String> =
            self.folders.iter().filter(|folder| folder.starts_with("mp_rank_")).collect();
        let one = match ranks.as_slice() {
            [] => return None,
            [one] => self.path.join(one),
            _ => {
                let message = "the parts of several ranks of Megatron-LM are not joined by this version; convert it with the framework that wrote it";
                return Some(Err(message.to_owned()));
            }
        };
        let model = ["model_optim_rng.pt", "model_rng.pt"]
            .iter()
            .map(|file| one.join(file))
            .find(|file| file.is_file());
        Some(match model {
            None => Err("the checkpoint of Megatron-LM holds no model_optim_rng.pt".to_owned()),
            Some(model) if lies_within(self.root(), &model).unwrap_or(false) => Ok(model),
            Some(_) => {
                Err("the model of its one rank is a link to a file outside of the run, which is not followed"
                    .to_owned())
            }
        })
    }
}
