//! The audit of a state, the plan of a repair, and what a repair did.

use std::fmt::{self, Write};

use comfy_table::Table;
use comfy_table::presets::NOTHING;

use crate::number::{counted, grouped, short};
use crate::recover::{Action, Audit, Edit, Manifest, Operation, Outcome, Plan};
use crate::report::Style;
use crate::report::text::{safe, wrapped};

/// Tensors and numbers of one edit that a folded page shows.
const FOLDED: usize = 8;

/// What a resume has and lacks, as text.
pub fn audit_page(audit: &Audit) -> String {
    let mut text = String::new();
    write_audit(&mut text, audit).expect("writing to a string does not fail");
    text
}

pub(super) fn write_audit(out: &mut String, audit: &Audit) -> fmt::Result {
    let mut table = Table::new();
    table.load_style(NOTHING);
    for component in &audit.components {
        table.add_row([component.part.name(), component.presence.name(), &safe(&component.detail)]);
    }
    writeln!(out, "what a resume has")?;
    for line in table.to_string().lines() {
        writeln!(out, " {}", line.trim_end())?;
    }
    wrapped(out, "", &format!("exactness: {}: {}", audit.exactness, audit.sentence))
}

/// What a repair would do, as text.
pub fn repair_plan_page(plan: &Plan, style: Style) -> String {
    let mut text = String::new();
    write_plan(&mut text, plan, style).expect("writing to a string does not fail");
    text
}

fn write_plan(out: &mut String, plan: &Plan, style: Style) -> fmt::Result {
    let step = plan.step.map_or_else(String::new, |step| format!(" (step {})", grouped(step)));
    writeln!(out, "{}{step}\n", safe(&plan.checkpoint))?;
    write_audit(out, &plan.audit)?;
    writeln!(out)?;
    write_edits(out, &plan.edits, style)?;
    if !plan.irreparable.is_empty() {
        writeln!(out, "\nwhat no edit repairs")?;
        plan.irreparable.iter().try_for_each(|line| wrapped(out, "  ", line))?;
    }
    if !plan.proposals.is_empty() {
        writeln!(out, "\nwhat could be done as well")?;
        for proposal in &plan.proposals {
            let ask = proposal.ask.as_ref().map_or_else(String::new, |ask| format!(": {ask}"));
            wrapped(out, "  ", &format!("{}{ask}", proposal.what))?;
            let shown = if style.all { proposal.why.len() } else { proposal.why.len().min(2) };
            proposal.why[..shown]
                .iter()
                .try_for_each(|why| wrapped(out, "    ", &format!("because {why}")))?;
            if proposal.why.len() > shown {
                writeln!(out, "    … {} more reasons (--all)", proposal.why.len() - shown)?;
            }
        }
    }
    writeln!(out)?;
    wrapped(out, "", &format!("expected of a resume: {}: {}", plan.expected, plan.expected_because))
}

pub(super) fn write_edits(out: &mut String, edits: &[Edit], style: Style) -> fmt::Result {
    if edits.is_empty() {
        return writeln!(out, "nothing to edit");
    }
    writeln!(out, "edits")?;
    for (number, edit) in edits.iter().enumerate() {
        let function =
            if edit.changes_function { " (the network computes something else afterwards)" } else { "" };
        wrapped(out, "  ", &format!("{}. {}: {}{function}", number + 1, name(edit.action), edit.what))?;
        let shown = |count: usize| if style.all { count } else { count.min(FOLDED) };
        let reasons = shown(edit.why.len());
        edit.why[..reasons].iter().try_for_each(|why| wrapped(out, "     ", &format!("because {why}")))?;
        more(out, edit.why.len() - reasons, "reason")?;
        for change in &edit.tensors[..shown(edit.tensors.len())] {
            let text = format!("{} in {}: {}", change.tensor, change.file, operation(&change.operation));
            wrapped(out, "     ", &text)?;
        }
        more(out, edit.tensors.len() - shown(edit.tensors.len()), "tensor")?;
        for change in &edit.numbers[..shown(edit.numbers.len())] {
            let (from, to) = (short(change.from), short(change.to));
            wrapped(out, "     ", &format!("{} in {}: {from} to {to}", change.name, change.file))?;
        }
        more(out, edit.numbers.len() - shown(edit.numbers.len()), "number")?;
        for added in &edit.added[..shown(edit.added.len())] {
            wrapped(out, "     ", &format!("{} in {}: added, 0", added.tensor, added.file))?;
        }
        more(out, edit.added.len() - shown(edit.added.len()), "added tensor")?;
    }
    Ok(())
}

fn more(out: &mut String, count: usize, what: &str) -> fmt::Result {
    if count > 0 { writeln!(out, "     … and {} (--all)", counted(count as u64, what)) } else { Ok(()) }
}

fn name(action: Action) -> &'static str {
    match action {
        Action::DropNonFinite => "drop-non-finite",
        Action::ResetMoments => "reset-moments",
        Action::LearningRate => "learning-rate",
        Action::Epsilon => "epsilon",
        Action::Beta2 => "beta2",
        Action::QkClip => "qk-clip",
        Action::SpectralClip => "spectral-clip",
        Action::SyncReplicas => "sync-replicas",
        Action::Cast => "cast",
    }
}

fn operation(operation: &Operation) -> String {
    match operation {
        Operation::Zero => "to 0".to_owned(),
        Operation::Scale { factor } => format!("times {}", short(*factor)),
        Operation::ScaleRanges { axis, ranges } => {
            let part = if *axis == 0 { "rows" } else { "columns" };
            let told: Vec<String> = ranges
                .iter()
                .take(4)
                .map(|range| format!("{} to {} times {}", range.from, range.to - 1, short(range.factor)))
                .collect();
            let more = if ranges.len() > 4 { ", …" } else { "" };
            format!("{part} {}{more}", told.join(", "))
        }
        Operation::Average { copies } => format!("to the mean of {copies} copies"),
        Operation::Cast { to } => format!("to {to}"),
    }
}

/// What a repair did, as text.
pub fn manifest_page(manifest: &Manifest, target: &str, style: Style) -> String {
    let mut text = String::new();
    write_manifest(&mut text, manifest, target, style).expect("writing to a string does not fail");
    text
}

pub(super) fn write_manifest(
    out: &mut String,
    manifest: &Manifest,
    target: &str,
    style: Style,
) -> fmt::Result {
    let files = counted(manifest.files.len() as u64, "file");
    writeln!(out, "{} repaired into {} ({files})\n", safe(&manifest.source), safe(target))?;
    write_edits(out, &manifest.edits, style)?;
    writeln!(out, "\nlooked at afterwards")?;
    for check in &manifest.checks {
        let outcome = match check.outcome {
            Outcome::Pass => "pass",
            Outcome::Fail => "FAIL",
            Outcome::NotEvaluated => "not evaluated",
        };
        wrapped(out, "  ", &format!("{outcome}: {}: {}", check.name, check.detail))?;
    }
    writeln!(out)?;
    wrapped(out, "", &format!("expected of a resume: {}: {}", manifest.expected, manifest.expected_because))?;
    let verdict = if manifest.healthy {
        "no check failed"
    } else {
        "a check failed: the state is written, and not one to trust"
    };
    writeln!(out, "verdict: {verdict}")
}
