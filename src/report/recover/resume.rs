//! What a resume would do, or does.

use std::fmt::{self, Write};

use serde::Serialize;

use super::plan::{write_audit, write_edits, write_manifest};
use crate::number::{grouped, short};
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
    /// How a run of `flashpoint train` would go on, which needs no command.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub continuation: Option<Continuation>,
}

impl ResumeReport {
    /// Of a state that is used as it is.
    pub fn of(chosen: &Chosen, audit: Audit) -> Self {
        Self {
            chosen: chosen.clone(),
            audit,
            plan: None,
            repaired: None,
            manifest: None,
            clipping: None,
            substitutions: Vec::new(),
            command: Vec::new(),
            continuation: None,
        }
    }
}

/// How a run of `flashpoint train` would go on.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Continuation {
    /// Where the new run would be written.
    pub to: String,
    /// The learning rate, before its schedule.
    pub learning_rate: f64,
    /// What gradients would be clipped by; `none` where nothing clips.
    pub clipping: String,
    /// Batches that would be left out, first and last, counted from 0 over all epochs.
    pub skip_batches: Vec<[u64; 2]>,
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
    if let Some(continuation) = &report.continuation {
        write_continuation(out, continuation)?;
    }
    if report.command.is_empty() {
        return Ok(());
    }
    writeln!(out, "command: {}", report.command.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" "))
}

fn write_continuation(out: &mut String, continuation: &Continuation) -> fmt::Result {
    let Continuation { to, learning_rate, clipping, skip_batches } = continuation;
    let rate = short(*learning_rate);
    let mut line = format!("it would go on here, in {}: learning rate {rate}, clipping {clipping}", safe(to));
    for [first, last] in skip_batches {
        write!(line, ", without the batches {first} to {last}")?;
    }
    wrapped(out, "", &line)
}

/// A word as a shell takes it.
fn quoted(word: &str) -> String {
    let plain = |character: char| character.is_ascii_alphanumeric() || "-_./=:,+@%".contains(character);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", safe(word).replace('\'', "'\\''"))
}
