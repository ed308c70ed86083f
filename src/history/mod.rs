//! What a training run left on disk, by step: its checkpoints, its gradient dumps, its logs.
//!
//! Discovers and orders; opens no tensor and judges nothing. What was taken for what, and what was left out, is said in
//! [`History::remarks`]. Conventions and their reasons: `docs/run-directory.md` for our own, `docs/formats.md` for others.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::Error;

/// A run as found on disk.
#[derive(Debug)]
pub struct History {
    /// The path's last component, never absolute.
    pub name: String,
    /// Its checkpoints, by ascending step; those without a step are left out, with a remark.
    pub checkpoints: Vec<Found>,
    /// Its gradient dumps, by ascending step.
    pub dumps: Vec<Found>,
    /// What was taken for what, what was left out.
    pub remarks: Vec<Remark>,
    /// What could not be read.
    pub errors: Vec<Error>,
}

/// Something to know about what was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Remark {
    /// What kind of thing it is.
    pub kind: RemarkKind,
    /// First and last step it is about.
    pub steps: Option<[u64; 2]>,
    /// The file, in the run.
    pub file: Option<String>,
    /// One sentence, lower case, without a full stop.
    pub message: String,
}

/// Kinds of remarks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RemarkKind {
    /// What a file, a column or a directory was taken for.
    TakenFor,
    /// Left out, and why.
    LeftOut,
    /// Steps for which nothing was recorded.
    Gap,
    /// The step went back: a resume from an earlier state.
    Rewind,
    /// The join of two logs or of two parts of one.
    Seam,
    /// Recorded twice; the last writer was kept.
    Duplicate,
    /// A known way in which logs mislead, and how the numbers were read instead.
    Semantics,
    /// Two checkpoints of a run that do not match tensor by tensor.
    Mismatch,
}

/// A checkpoint or a dump, not opened yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Where it is.
    pub path: PathBuf,
    /// Its step, by its name or by what is beside it.
    pub step: u64,
}
