//! What must not be repaired, converted or handed to a training as if it were whole.

use std::path::Path;

use super::plan::Plan;
use crate::checkpoint::Checkpoint;
use crate::context::Context;
use crate::error::{ErrorKind, Result};
use crate::format::{Danger, torch};
use crate::number::counted;
use crate::rules::{Assessment, Finding, Severity};

/// Refuses a checkpoint that would run code when it is loaded, and one that is damaged, checksums included.
///
/// # Errors
/// When it is such a checkpoint, or one of its files cannot be read.
pub fn refuse_unfit(checkpoint: &Checkpoint, context: &Context) -> Result<()> {
    refuse_dangerous(checkpoint)?;
    refuse_damaged(checkpoint)?;
    refuse_wrong_checksums(checkpoint, context)
}

/// Refuses, of the checkpoint at `path`, what `plan` says no edit repairs.
///
/// # Errors
/// When there is such a thing.
pub fn refuse_irreparable(path: &Path, plan: &Plan) -> Result<()> {
    let Some(message) = plan.irreparable.first().cloned() else { return Ok(()) };
    let advice = "take an earlier checkpoint: flashpoint postmortem RUN names it";
    Err(ErrorKind::NotDone { message, advice }.in_file(path))
}

/// Why nothing is started from a checkpoint whose weights or optimizer state hold NaN or infinity, in one sentence; `None` of one
/// that holds none.
pub fn not_finite(assessment: &Assessment) -> Option<String> {
    let is_one = |own: &&Finding| own.rule == "FP101" && own.severity == Severity::Critical;
    let mut findings = assessment.findings.iter().filter(is_one);
    let first = findings.next()?;
    let more = match findings.count() as u64 {
        0 => String::new(),
        others => format!("; so are some of {}", counted(others, "more tensor")),
    };
    Some(format!("training from it would spread what is no number: {}{more}", first.message))
}

/// Refuses a pickle that would run code.
pub(super) fn refuse_dangerous(checkpoint: &Checkpoint) -> Result<()> {
    let mut globals = checkpoint.globals.iter().map(|(_, found)| found);
    let Some(found) = globals.find(|found| found.danger == Danger::Dangerous) else { return Ok(()) };
    let name = format!("{}.{}", found.global.module, found.global.name);
    let message = format!("a pickle of it names {}, which would run when it is loaded", name.escape_debug());
    let advice = "do not load it; flashpoint convert writes its tensors without the pickle";
    Err(ErrorKind::NotDone { message, advice }.in_file(&checkpoint.path))
}

/// Refuses what reading alone showed to be damaged.
pub(super) fn refuse_damaged(checkpoint: &Checkpoint) -> Result<()> {
    let own = checkpoint.problems.iter().find(|problem| problem.kind.is_damage());
    let of_tensors =
        checkpoint.tensors.iter().filter_map(|tensor| tensor.tensor.as_ref().err().map(AsRef::as_ref));
    let damage = own.or_else(|| of_tensors.into_iter().find(|error| error.kind.is_damage()));
    damage.map_or(Ok(()), |damage| Err(damage.clone()))
}

/// Refuses archives whose bytes are not those that their checksums are of.
pub(super) fn refuse_wrong_checksums(checkpoint: &Checkpoint, context: &Context) -> Result<()> {
    for file in &checkpoint.files {
        if file.format.is_archive()
            && let Some(damage) = torch::verify_checksums(&file.input, context)?.pop()
        {
            return Err(damage);
        }
    }
    Ok(())
}
