//! Markdown for the comment of a pull request: the outcome, what decided it, what was tolerated, what was not evaluated.
//!
//! Whatever comes from a file stands in code spans, where it can mention nobody, link nowhere and close no tag.

mod clip;
mod difference;
mod postmortem;

use std::collections::BTreeMap;
use std::fmt::{self, Write};

use super::Report;
use super::items::{Item, items};
use super::jacobian;
use super::terminal::evidence;
use super::text::safe_sentence;
use crate::analysis::model::Measured;
use crate::clip::Snippet;
use crate::gate::{Effect, Judgement, Outcome, title};
use crate::number::{bytes, counted, grouped};
use crate::rules::NotEvaluated;

pub use clip::clip_markdown;
pub use difference::difference_markdown;
pub use postmortem::postmortem_markdown;

/// Items of one heading that are written out before the rest is counted: a comment has a longest length.
const SHOWN: usize = 20;

/// The report as GitHub's Markdown.
pub fn to_markdown(report: &Report) -> Vec<u8> {
    let mut text = String::new();
    write(report, &mut text).expect("writing to a string does not fail");
    text.into_bytes()
}

fn write(report: &Report, out: &mut String) -> fmt::Result {
    match &report.gate {
        Some(gate) => heading(gate, out)?,
        None => writeln!(out, "### flashpoint\n\n{}\n", code(&report.verdict.sentence))?,
    }
    checkpoints(report, out)?;
    let items = items(report);
    let headings = [
        (Effect::Prevents, "Prevents a decision", false),
        (Effect::Fails, if report.gate.is_some() { "Fails" } else { "Critical" }, false),
        (Effect::Noticed, "Below what fails", false),
        (Effect::Tolerated, "Tolerated", true),
    ];
    for (effect, title, folded) in headings {
        let own = items.iter().filter(|item| item.effect == effect).collect::<Vec<_>>();
        if !own.is_empty() {
            section(title, folded, &own, out)?;
        }
    }
    not_evaluated(&report.not_evaluated, out)
}

fn heading(gate: &Judgement, out: &mut String) -> fmt::Result {
    let sign = match gate.outcome {
        Outcome::Pass => "✅",
        Outcome::Fail => "❌",
        Outcome::CouldNotDecide => "❓",
    };
    writeln!(out, "### {sign} flashpoint gate: {}\n\n{}\n", gate.outcome, code(&gate.sentence))?;
    write!(out, "Policy: {}, fails on {}", code(&gate.policy), gate.fail_on)?;
    if let Some(baseline) = &gate.baseline {
        let step = baseline.step.map(|step| format!(", step {}", grouped(step))).unwrap_or_default();
        let (shared, tensors) = (grouped(baseline.shared), grouped(baseline.tensors));
        write!(out, ". Baseline: {}{step}, {shared} of {tensors} tensors", code(&baseline.checkpoint))?;
    }
    writeln!(out, "\n")
}

fn checkpoints(report: &Report, out: &mut String) -> fmt::Result {
    for checkpoint in &report.analysis.checkpoints {
        let size = checkpoint.files.iter().map(|file| file.bytes).fold(0, u64::saturating_add);
        let tensors = counted(checkpoint.tensors.len() as u64, "tensor");
        let step = checkpoint.step.value().map(|step| format!(", step {}", grouped(*step)));
        let (name, step) = (code(&checkpoint.name), step.unwrap_or_default());
        writeln!(out, "{name}: {tensors}, {}{step}\n", bytes(size))?;
        if let Measured::Value(jacobian) = &checkpoint.jacobian {
            jacobian::write_markdown(jacobian, out)?;
        }
    }
    Ok(())
}

fn section(heading: &str, folded: bool, items: &[&Item<'_>], out: &mut String) -> fmt::Result {
    if folded {
        writeln!(out, "<details><summary>{heading}: {}</summary>\n", items.len())?;
    } else {
        writeln!(out, "#### {heading}\n")?;
    }
    for item in items.iter().take(SHOWN) {
        writeln!(out, "- **{} {}**: {}", item.severity, title(item.check, item.name), code(item.message))?;
        let numbers = item.evidence.iter().map(evidence).collect::<Vec<_>>().join("; ");
        if !numbers.is_empty() {
            writeln!(out, "  - evidence: {}", code(&numbers))?;
        }
        if let Some(reason) = item.reason {
            writeln!(out, "  - why: {}", code(reason))?;
        }
        writeln!(out, "  - what to do: {}", code(item.advice))?;
    }
    if items.len() > SHOWN {
        writeln!(out, "- … and {} more", items.len() - SHOWN)?;
    }
    writeln!(out)?;
    if folded { writeln!(out, "</details>\n") } else { Ok(()) }
}

/// Rules by the reason that they share.
fn not_evaluated(entries: &[NotEvaluated], out: &mut String) -> fmt::Result {
    let mut reasons: BTreeMap<&str, BTreeMap<&str, u64>> = BTreeMap::new();
    for entry in entries {
        let rule = entry.rule.as_deref().unwrap_or("elements");
        *reasons.entry(&entry.reason).or_default().entry(rule).or_default() += 1;
    }
    if reasons.is_empty() {
        return Ok(());
    }
    writeln!(out, "<details><summary>Not evaluated: {}</summary>\n", entries.len())?;
    for (reason, rules) in reasons.iter().take(SHOWN) {
        let rules = rules.iter().map(|(rule, count)| match count {
            1 => (*rule).to_owned(),
            count => format!("{rule} ({count})"),
        });
        writeln!(out, "- {}: {}", rules.collect::<Vec<_>>().join(", "), code(reason))?;
    }
    if reasons.len() > SHOWN {
        writeln!(out, "- … and {} more reasons", reasons.len() - SHOWN)?;
    }
    writeln!(out, "\n</details>")
}

/// Lines to copy, each under the place it is for.
fn snippets(all: &[Snippet], indent: &str, out: &mut String) -> fmt::Result {
    for one in all {
        writeln!(out, "{indent}- {}: {}", code(&one.place), code(&one.text))?;
    }
    Ok(())
}

/// A table: names of columns, and cells that stand in code spans as far as they are names.
fn table(columns: &[&str], rows: &[Vec<String>], out: &mut String) -> fmt::Result {
    writeln!(out, "| {} |", columns.join(" | "))?;
    writeln!(out, "|---{}|", "|---:".repeat(columns.len() - 1))?;
    for row in rows {
        let cells = row.iter().enumerate().map(|(index, cell)| {
            // A pipe ends a cell, in a code span too.
            let cell = if index == 0 { code(cell) } else { cell.clone() };
            cell.replace('|', "\\|")
        });
        writeln!(out, "| {} |", cells.collect::<Vec<_>>().join(" | "))?;
    }
    writeln!(out)
}

/// A sentence as a code span that nothing in it can end.
pub(super) fn code(sentence: &str) -> String {
    let sentence = safe_sentence(sentence);
    let longest = sentence.split(|character| character != '`').map(str::len).max().unwrap_or_default();
    let fence = "`".repeat(longest + 1);
    // A span may not begin or end with a backtick; a space at both ends is taken away again.
    let space = if sentence.starts_with('`') || sentence.ends_with('`') { " " } else { "" };
    format!("{fence}{space}{sentence}{space}{fence}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_leave_its_code_span() {
        assert_eq!(code("plain"), "`plain`");
        assert_eq!(code("a`b"), "``a`b``");
        assert_eq!(code("``@someone``"), "``` ``@someone`` ```");
        assert_eq!(code("a\n\n<script>"), "`a\\n\\n<script>`");
    }
}
