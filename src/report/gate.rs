//! What the gate decided, for people at a terminal.

use std::fmt::{self, Write};

use super::Report;
use super::terminal::{Page, Style, evidence, painted};
use super::text::{safe, safe_sentence};
use crate::gate::{Decision, Effect, Judgement, Outcome, title};
use crate::number::{grouped, short};

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
        let all = checkpoint.tensors.len();
        writeln!(out, "  elements of {} of {} tensors read", grouped(read as u64), grouped(all as u64))?;
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
    let outcome = outcome(gate.outcome, style);
    writeln!(out, "gate: {outcome}: {}", safe_sentence(&gate.sentence))
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
    writeln!(out, "  {} {}: {}", painted(*severity, style), title(check, name), safe_sentence(message))?;
    let numbers = decision.evidence.iter().map(evidence).collect::<Vec<_>>();
    if !numbers.is_empty() {
        writeln!(out, "    evidence: {}", safe_sentence(&numbers.join("; ")))?;
    }
    writeln!(out, "    why: {}", safe_sentence(&decision.reason))?;
    if decision.effect < Effect::Tolerated {
        writeln!(out, "    what to do: {}", safe_sentence(&decision.advice))?;
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
