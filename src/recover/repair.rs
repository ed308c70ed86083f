//! A plan carried out: written beside the target, read again, checked, and only then given its name.

use std::path::Path;

use super::health::{self, Judged};
use super::manifest::{self, MANIFEST, Manifest};
use super::plan::{Plan, Wanted};
use super::unfit;
use super::write::{self, Source, replicas, sources};
use crate::analysis::model::{Analysis, MeasureLevel};
use crate::analysis::{measure_checkpoint, of_checkpoints};
use crate::checkpoint::{Checkpoint, NameRules};
use crate::context::Context;
use crate::error::{ErrorKind, Result};
use crate::files::NewDirectory;
use crate::rules::{self, Assessment, Overrides};

/// What is known of the checkpoint before its repair, and how it was measured.
#[derive(Debug, Clone, Copy)]
pub struct Repaired<'a> {
    /// The checkpoint.
    pub checkpoint: &'a Checkpoint,
    /// Its analysis, alone.
    pub analysis: &'a Analysis,
    /// What the rules said.
    pub assessment: &'a Assessment,
    /// What names mean.
    pub names: &'a NameRules,
    /// Limits in place of the rules' own.
    pub thresholds: &'a Overrides,
}

/// Carries `plan` out into the new directory `target`. `None` when the user asked to stop: then nothing is left.
///
/// # Errors
/// When the checkpoint is damaged or dangerous to load, when something is at `target`, when an edit cannot be made in its
/// container, or when what was written is not what was planned.
pub fn repair(
    before: Repaired<'_>,
    plan: &Plan,
    wanted: &Wanted,
    level: MeasureLevel,
    target: &Path,
    context: &Context,
) -> Result<Option<Manifest>> {
    let checkpoint = before.checkpoint;
    refuse(before, plan, wanted)?;
    let all = renamed(sources(checkpoint)?);
    refuse_inside(checkpoint, target)?;
    let new = NewDirectory::beside(target)?;
    let ranks = replicas::open(&wanted.replicas, before.names, context)?;
    if !write::write(checkpoint, &all, &plan.edits, &ranks, new.path(), context)? {
        return Ok(None);
    }
    let written = match checkpoint.path.file_name() {
        Some(name) if !checkpoint.path.is_dir() => new.path().join(name),
        _ => new.path().to_owned(),
    };
    let after = Checkpoint::read(&written, before.names, context)?;
    let analysis = of_checkpoints(vec![measure_checkpoint(&after, level, context)], level);
    let assessment = rules::evaluate(&analysis, before.thresholds);
    let (Some(first), Some(second)) = (before.analysis.checkpoints.first(), analysis.checkpoints.first())
    else {
        return Ok(None);
    };
    let Some(files) = manifest::files(&all, new.path(), context)? else { return Ok(None) };
    let checks = health::checks(
        Judged { checkpoint, analysis: first, assessment: before.assessment },
        Judged { checkpoint: &after, analysis: second, assessment: &assessment },
        &plan.edits,
        &files,
        wanted.qk_clip,
        context,
    )?;
    let Some(checks) = checks else { return Ok(None) };
    // What was meant is what is on the disk, or nothing is.
    if let Some(check) = checks.iter().find(|check| check.is_broken_promise()) {
        let message = format!("what was written is not what was planned: {}", check.detail);
        let advice = "report it: the source is as it was, and nothing was written";
        return Err(ErrorKind::NotDone { message, advice }.in_file(target));
    }
    let manifest = Manifest::new(plan, files, checks);
    manifest.write(new.path())?;
    if context.cancelled() {
        return Ok(None);
    }
    new.publish()?;
    Ok(Some(manifest))
}

/// The files of the source by the names that they get: what an earlier repair said of itself stays, under the next free number.
fn renamed(mut all: Vec<Source>) -> Vec<Source> {
    let is_taken = |name: &str| all.iter().any(|source| source.name == name);
    if is_taken(MANIFEST) {
        let named = |number: u64| format!("repair-{number}.json");
        let free = (1..=all.len() as u64).map(named).find(|name| !is_taken(name));
        let free = free.expect("one of as many names as there are files is none of the others'");
        all.iter_mut()
            .filter(|source| source.name == MANIFEST)
            .for_each(|source| source.name.clone_from(&free));
    }
    all
}

/// Refuses what must not be copied on as if it were whole.
fn refuse(before: Repaired<'_>, plan: &Plan, wanted: &Wanted) -> Result<()> {
    let checkpoint = before.checkpoint;
    let refuse =
        |message: String, advice| Err(ErrorKind::NotDone { message, advice }.in_file(&checkpoint.path));
    unfit::refuse_dangerous(checkpoint)?;
    unfit::refuse_damaged(checkpoint)?;
    let measured = before.analysis.checkpoints.iter().flat_map(|checkpoint| &checkpoint.problems);
    if let Some(problem) = measured.into_iter().find(|problem| problem.damage) {
        return refuse(
            format!("{}: {}", problem.file, problem.message),
            "copy it again, or take an earlier checkpoint",
        );
    }
    if wanted.from_findings {
        unfit::refuse_irreparable(&checkpoint.path, plan)?;
    }
    if plan.edits.is_empty() {
        return refuse(
            "there is nothing to repair that was asked for or found".to_owned(),
            "flashpoint repair CHECKPOINT --plan says what could be done and how to ask for it",
        );
    }
    Ok(())
}

/// The new directory must not lie in the old one.
fn refuse_inside(checkpoint: &Checkpoint, target: &Path) -> Result<()> {
    let nearest = target.ancestors().skip(1).find_map(|path| {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        path.canonicalize().ok()
    });
    let root = checkpoint.path.canonicalize().ok().filter(|root| root.is_dir());
    match (nearest, root) {
        (Some(nearest), Some(root)) if nearest.starts_with(&root) => {
            Err(ErrorKind::NotAnOutput { what: "part of the input" }.in_file(target))
        }
        _ => Ok(()),
    }
}
