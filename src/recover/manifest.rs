//! What a repair says of itself, beside what it wrote: sources by digest, edits, checks, expected exactness.

use std::io::Write;
use std::path::Path;

use serde::Serialize;

use super::audit::Exactness;
use super::edit::Edit;
use super::health::Check;
use super::plan::Plan;
use super::write::Source;
use crate::context::Context;
use crate::error::{Error, Result};
use crate::files::{InputFile, digest};
use crate::json::to_lines;

/// Its name in the new directory.
pub const MANIFEST: &str = "repair.json";

/// What was done to a checkpoint.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Manifest {
    /// `flashpoint` and its version.
    pub tool: String,
    /// Name of the checkpoint that was repaired.
    pub source: String,
    /// Its step, where known.
    pub step: Option<u64>,
    /// Every file, by name.
    pub files: Vec<SourceFile>,
    /// The edits, in the order in which they were made.
    pub edits: Vec<Edit>,
    /// What was looked at afterwards.
    pub checks: Vec<Check>,
    /// No check failed.
    pub healthy: bool,
    /// How exactly training goes on from it.
    pub expected: Exactness,
    /// Why.
    pub expected_because: String,
}

/// A file before and after.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct SourceFile {
    /// Its name in the checkpoint.
    pub name: String,
    /// Its length after the repair.
    pub bytes: u64,
    /// BLAKE3 of the source; none of an empty file.
    pub source: Option<String>,
    /// BLAKE3 of what was written.
    pub written: Option<String>,
}

/// Digests every file before and after. `None` when the user asked to stop.
pub(super) fn files(sources: &[Source], folder: &Path, context: &Context) -> Result<Option<Vec<SourceFile>>> {
    let mut files = Vec::with_capacity(sources.len());
    for source in sources {
        let target = folder.join(&source.name);
        let (Some(before), Some(after)) = (of(&source.path, context)?, of(&target, context)?) else {
            return Ok(None);
        };
        let (source_digest, written) = (before.1, after.1);
        files.push(SourceFile { name: source.name.clone(), bytes: after.0, source: source_digest, written });
    }
    Ok(Some(files))
}

/// Length and digest of a file; of an empty one, none.
fn of(path: &Path, context: &Context) -> Result<Option<(u64, Option<String>)>> {
    let metadata = std::fs::metadata(path).map_err(|error| Error::io(path, "look at it", &error))?;
    if metadata.len() == 0 {
        return Ok(Some((0, None)));
    }
    let input = InputFile::open(path, context)?;
    Ok(digest(&input, context)?.map(|digest| (metadata.len(), Some(digest))))
}

impl Manifest {
    /// Writes it into `folder`, where none may be.
    pub(super) fn write(&self, folder: &Path) -> Result<()> {
        let path = folder.join(MANIFEST);
        let refused = |error: &std::io::Error| Error::io(&path, "write it", error);
        let mut file = std::fs::File::create_new(&path).map_err(|error| refused(&error))?;
        file.write_all(to_lines(self, 2).as_ref()).map_err(|error| refused(&error))
    }

    pub(super) fn new(plan: &Plan, files: Vec<SourceFile>, checks: Vec<Check>) -> Self {
        Self {
            tool: format!("flashpoint {}", env!("CARGO_PKG_VERSION")),
            source: plan.checkpoint.clone(),
            step: plan.step,
            files,
            edits: plan.edits.clone(),
            healthy: checks.iter().all(Check::is_no_failure),
            checks,
            expected: plan.expected,
            expected_because: plan.expected_because.clone(),
        }
    }
}
