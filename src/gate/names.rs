//! Names of a checkpoint's tensors: as stored, and those that two checkpoints of one model share.

use std::collections::HashMap;

use crate::analysis::model::CheckpointAnalysis;
use crate::rules::Subject;

/// The canonical names of one checkpoint. One map for all, because a hostile file has a hundred thousand names.
pub(super) struct Names<'a>(HashMap<&'a str, &'a str>);

impl<'a> Names<'a> {
    pub fn of(checkpoint: &'a CheckpointAnalysis) -> Self {
        let tensors = checkpoint.tensors.iter();
        Self(tensors.map(|tensor| (tensor.name.as_str(), tensor.canonical_name.as_str())).collect())
    }

    /// The canonical name of what is stored as `name`.
    pub fn canonical(&self, name: &str) -> Option<&'a str> {
        self.0.get(name).copied()
    }

    /// A subject by the names that both checkpoints share.
    pub fn shared(&self, subject: &Subject) -> Subject {
        match subject {
            Subject::Tensor(name) => Subject::Tensor(self.canonical(name).unwrap_or(name).to_owned()),
            other => other.clone(),
        }
    }
}
