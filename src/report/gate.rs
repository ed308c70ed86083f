//! What the gate decided, for people at a terminal.

use std::fmt::{self, Write};

use super::Report;
use super::terminal::{Page, Style, evidence, painted};
use super::text::{flowing, safe};
use crate::gate::{Decision, Effect, Judgement, Outcome, title};
use crate::number::{counted, grouped, short};

/// Decisions of one rule and effect that are shown before the rest is counted.
const FOLDED: usize = 3;

/// The outcome of the gate as text; the report of an inspection where no gate judged.
pub fn gate_report(report: &Report, style: Style) -> String {
    let Some(gate) = &report.gate else { return super::checkpoint_reports(report, style) };
    let mut text = String::new();
    write(report, gate, style, &mut text).expect("writing to a string does not fail");
    text
}

fn write(report: &Report, gate: &Judgement, style: Style, out: &mut String) -> fmt::Result {
    for checkpoint in &report.analysis.checkpoints {
        let page = Page { report, checkpoint, style };
        page.heading(out)?;
        let read = checkpoint.tensors.iter().filter(|tensor| tensor.statistics.value().is_some()).count();
        let all = counted(checkpoint.tensors.len() as u64, "tensor");
        writeln!(out, "  elements of {} of {all} read", grouped(read as u64))?;
        for file in &checkpoint.files {
            if let Some(digest) = &file.digest {
                writeln!(out, "  blake3 {digest}  {}", safe(&file.name))?;
            }
        }
        writeln!(out)?;
    }
    writeln!(out, "policy: {}, fails on {}", safe(&gate.policy), gate.fail_on)?;
    for (limit, value) in &report.replaced_limits {
        writeln!(out, "limit replaced: {limit} = {}", short(*value))?;
    }
    if let Some(baseline) = &gate.baseline {
        let step =
            baseline.step.map_or_else(|| "step unknown".to_owned(), |step| format!("step {}", grouped(step)));
        let (shared, tensors) = (grouped(baseline.shared), grouped(baseline.tensors));
        writeln!(
            out,
            "baseline: {}, {step}; {shared} of its {tensors} tensors are here",
            safe(&baseline.checkpoint)
        )?;
    }
    writeln!(out)?;
    for (effect, title) in [
        (Effect::Prevents, "prevents a decision"),
        (Effect::Fails, "fails"),
        (Effect::Noticed, "below what fails"),
        (Effect::Tolerated, "tolerated"),
    ] {
        let decisions = gate.of(effect).collect::<Vec<_>>();
        if !decisions.is_empty() {
            writeln!(out, "{title}")?;
            list(&decisions, style, out)?;
            writeln!(out)?;
        }
    }
    for checkpoint in &report.analysis.checkpoints {
        Page { report, checkpoint, style }.not_evaluated(out)?;
    }
    let mut text = String::new();
    flowing(&mut text, "", &format!("gate: {}: {}", gate.outcome, gate.sentence), style.width)?;
    out.push_str(&text.replacen(&gate.outcome.to_string(), &outcome(gate.outcome, style), 1));
    Ok(())
}

/// Decisions, those of one rule together.
fn list(decisions: &[&Decision], style: Style, out: &mut String) -> fmt::Result {
    let alike = |a: &&Decision, b: &&Decision| {
        (&a.check, &a.checkpoint, a.severity) == (&b.check, &b.checkpoint, b.severity)
    };
    for group in decisions.chunk_by(alike) {
        let shown = if style.all { group.len() } else { group.len().min(FOLDED) };
        for decision in &group[..shown] {
            one(decision, style, out)?;
        }
        if group.len() > shown {
            let more = group.len() - shown;
            writeln!(out, "  … and {more} more of {} (--all shows every one)", group[0].check)?;
        }
    }
    Ok(())
}

fn one(decision: &Decision, style: Style, out: &mut String) -> fmt::Result {
    let Decision { severity, check, name, message, .. } = decision;
    let mut text = String::new();
    flowing(&mut text, "  ", &format!("{severity} {}: {message}", title(check, name)), style.width)?;
    out.push_str(&text.replacen(&severity.to_string(), &painted(*severity, style), 1));
    let numbers = decision.evidence.iter().map(evidence).collect::<Vec<_>>();
    if !numbers.is_empty() {
        flowing(out, "    ", &format!("evidence: {}", numbers.join("; ")), style.width)?;
    }
    flowing(out, "    ", &format!("why: {}", decision.reason), style.width)?;
    if decision.effect < Effect::Tolerated {
        flowing(out, "    ", &format!("what to do: {}", decision.advice), style.width)?;
    }
    Ok(())
}

fn outcome(outcome: Outcome, style: Style) -> String {
    if !style.color {
        return outcome.to_string();
    }
    let color = match outcome {
        Outcome::Pass => anstyle::AnsiColor::Green,
        Outcome::Fail => anstyle::AnsiColor::Red,
        Outcome::CouldNotDecide => anstyle::AnsiColor::Yellow,
    };
    let style = color.on_default().bold();
    format!("{style}{outcome}{style:#}")
}
