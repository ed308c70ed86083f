//! The post-mortem as Markdown, for the issue or the wiki page that a team writes about a run: the story of the terminal.

use std::fmt::{self, Write};

use super::{SHOWN, code, not_evaluated, snippets, table};
use crate::diagnosis::Mechanism;
use crate::number::{grouped, short};
use crate::report::PostMortem;
use crate::report::postmortem::{counted, draw_timeline, grouped as grouped_findings};
use crate::report::terminal::evidence;

/// The report on a run as GitHub's Markdown.
pub fn postmortem_markdown(report: &PostMortem) -> Vec<u8> {
    let mut text = String::new();
    write(report, &mut text).expect("writing to a string does not fail");
    text.into_bytes()
}

fn write(report: &PostMortem, out: &mut String) -> fmt::Result {
    let (analysis, diagnosis) = (&report.analysis, &report.diagnosis);
    let run = analysis.run.as_ref();
    writeln!(out, "### flashpoint postmortem: {}\n", code(run.map_or("run", |run| &run.name)))?;
    writeln!(out, "**{}**\n", code(&report.verdict.sentence))?;
    let counts = [
        counted(analysis.checkpoints.len(), "checkpoint"),
        counted(analysis.log.as_ref().map_or(0, |log| log.points.len()), "logged step"),
        counted(analysis.dumps.len(), "gradient dump"),
    ];
    writeln!(out, "{}\n", counts.join(", "))?;
    writeln!(out, "#### What happened\n")?;
    for sentence in &diagnosis.story {
        writeln!(out, "- {}", code(sentence))?;
    }
    writeln!(out)?;
    why(report, out)?;
    actions(report, out)?;
    let lines = draw_timeline(analysis, diagnosis.onset_step);
    if !lines.is_empty() {
        writeln!(out, "#### Timeline\n\n```text\n{}\n```\n", lines.join("\n").replace("```", "'''"))?;
    }
    findings(report, out)?;
    not_evaluated(&report.not_evaluated, out)
}

fn why(report: &PostMortem, out: &mut String) -> fmt::Result {
    let diagnosis = &report.diagnosis;
    writeln!(out, "#### Where and why\n")?;
    if !matches!(diagnosis.mechanism, Mechanism::None | Mechanism::Unknown) {
        let numbers: Vec<String> = diagnosis.evidence.iter().map(evidence).collect();
        let numbers =
            if numbers.is_empty() { String::new() } else { format!(": {}", code(&numbers.join("; "))) };
        writeln!(out, "- {} ({}){numbers}", diagnosis.mechanism, diagnosis.confidence)?;
    }
    if let Some(tensor) = &diagnosis.tensor {
        writeln!(out, "- began in {}", code(tensor))?;
    }
    if let Some(step) = diagnosis.onset_step {
        writeln!(out, "- began at step {}", grouped(step))?;
    }
    if let Some(healthy) = &diagnosis.last_healthy {
        writeln!(out, "- newest clean checkpoint before it: {}", code(healthy))?;
    }
    for sentence in &diagnosis.against {
        writeln!(out, "- against it: {}", code(sentence))?;
    }
    if let Some(other) = &diagnosis.runner_up {
        let sentence = format!("{}, as {}; but {}", other.mechanism, other.reason, other.against);
        writeln!(out, "- next likely: {}", code(&sentence))?;
    }
    writeln!(out)?;
    if diagnosis.suspects.is_empty() {
        return Ok(());
    }
    let times =
        |ratio: Option<f64>| ratio.map_or_else(|| "–".to_owned(), |ratio| format!("×{}", short(ratio)));
    let rows: Vec<Vec<String>> = diagnosis
        .suspects
        .iter()
        .map(|one| {
            let ratios = [one.gradient_ratio, one.change_ratio, one.geometry_ratio].map(times);
            [one.tensor.clone()].into_iter().chain(ratios).collect()
        })
        .collect();
    table(&["suspect", "gradient", "change", "width"], &rows, out)
}

fn actions(report: &PostMortem, out: &mut String) -> fmt::Result {
    if report.diagnosis.actions.is_empty() {
        return Ok(());
    }
    writeln!(out, "#### What to do\n")?;
    for (index, action) in report.diagnosis.actions.iter().enumerate() {
        writeln!(out, "{}. {}", index + 1, code(&action.what))?;
        snippets(&action.snippets, "   ", out)?;
    }
    writeln!(out)
}

fn findings(report: &PostMortem, out: &mut String) -> fmt::Result {
    let groups = grouped_findings(&report.findings);
    writeln!(out, "#### Findings\n")?;
    if groups.is_empty() {
        writeln!(out, "No findings")?;
    }
    for group in groups.iter().take(SHOWN) {
        let one = group.first;
        let step = one.step.map(|step| format!(" at step {}", grouped(step))).unwrap_or_default();
        let places = if group.checkpoints > 1 {
            format!(", in {} checkpoints", group.checkpoints)
        } else {
            String::new()
        };
        writeln!(
            out,
            "- **{} {} {}** ({}){step}{places}: {}",
            one.severity,
            one.rule,
            one.name,
            one.confidence,
            code(&one.message)
        )?;
        let numbers: Vec<String> = one.evidence.iter().map(evidence).collect();
        if !numbers.is_empty() {
            writeln!(out, "  - evidence: {}", code(&numbers.join("; ")))?;
        }
        writeln!(out, "  - what to do: {}", code(&one.advice))?;
    }
    if groups.len() > SHOWN {
        writeln!(out, "- … and {} more", groups.len() - SHOWN)?;
    }
    writeln!(out)
}
