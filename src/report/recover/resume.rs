//! What a resume would do, or does.

use std::fmt::{self, Write};

use serde::Serialize;

use super::plan::{write_audit, write_edits, write_manifest};
use crate::number::grouped;
use crate::recover::{Audit, Chosen, Manifest, Plan, Substitution};
use crate::report::Style;
use crate::report::text::{safe, wrapped};

/// Everything there is to say about a resume before its command is started.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ResumeReport {
    /// The state to go on from.
    pub chosen: Chosen,
    /// What a resume from it has and lacks.
    pub audit: Audit,
    /// The repair that was planned, where one was asked for.
    pub plan: Option<Plan>,
    /// Where the repaired state is, or would be written.
    pub repaired: Option<String>,
    /// What the repair did, once it is done.
    pub manifest: Option<Manifest>,
    /// Why the clipping threshold is what it is, where one was asked for.
    pub clipping: Option<String>,
    /// What stands for the placeholders.
    pub substitutions: Vec<Substitution>,
    /// The command, word by word.
    pub command: Vec<String>,
}

/// The report as text.
pub fn resume_page(report: &ResumeReport, style: Style) -> String {
    let mut text = String::new();
    write(&mut text, report, style).expect("writing to a string does not fail");
    text
}

fn write(out: &mut String, report: &ResumeReport, style: Style) -> fmt::Result {
    let Chosen { checkpoint, step, because, .. } = &report.chosen;
    wrapped(out, "", &format!("go on from {checkpoint} (step {}): {because}", grouped(*step)))?;
    writeln!(out)?;
    write_audit(out, &report.audit)?;
    match (&report.manifest, &report.plan, &report.repaired) {
        (Some(manifest), _, Some(target)) => {
            writeln!(out)?;
            write_manifest(out, manifest, target, style)?;
        }
        (None, Some(plan), Some(target)) => {
            writeln!(out, "\nto be repaired into {}", safe(target))?;
            write_edits(out, &plan.edits, style)?;
            wrapped(
                out,
                "",
                &format!("expected of the resume: {}: {}", plan.expected, plan.expected_because),
            )?;
        }
        (None, Some(_), None) => writeln!(out, "\nnothing to repair: the checkpoint is used as it is")?,
        _ => {}
    }
    let irreparable = report.plan.as_ref().map(|plan| plan.irreparable.as_slice()).unwrap_or_default();
    if !irreparable.is_empty() {
        writeln!(out, "\nwhat no edit repairs")?;
        irreparable.iter().try_for_each(|line| wrapped(out, "  ", line))?;
    }
    writeln!(out)?;
    if let Some(clipping) = &report.clipping {
        wrapped(out, "", &format!("clipping: {clipping}"))?;
    }
    for substitution in &report.substitutions {
        wrapped(out, "", &substitution.to_string())?;
    }
    if report.command.is_empty() {
        return Ok(());
    }
    writeln!(out, "command: {}", report.command.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" "))
}

/// A word as a shell takes it.
fn quoted(word: &str) -> String {
    let plain = |character: char| character.is_ascii_alphanumeric() || "-_./=:,+@%".contains(character);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", safe(word).replace('\'', "'\\''"))
}
