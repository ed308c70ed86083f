//! The report on clipping as Markdown: the threshold, the lines that set it, and what every other method would have done.

use std::fmt::{self, Write};

use super::{code, snippets, table};
use crate::clip::Status;
use crate::number::{counted, short};
use crate::report::ClipReport;
use crate::report::clip::{backtest_cells, source_name};

/// The report on clipping as GitHub's Markdown.
pub fn clip_markdown(report: &ClipReport) -> Vec<u8> {
    let mut text = String::new();
    write(report, &mut text).expect("writing to a string does not fail");
    text.into_bytes()
}

fn write(report: &ClipReport, out: &mut String) -> fmt::Result {
    let advice = &report.advice;
    let own = &advice.recommendation;
    let status = match own.status {
        Status::Recommended => "recommended",
        Status::CollectMore => "collect more",
        Status::NotEvaluated => "not evaluated",
    };
    writeln!(out, "### flashpoint clip: {}\n\n**{status}**: {}\n", code(&report.run), code(&own.sentence))?;
    let interval = match (own.low, own.high) {
        (Some(low), Some(high)) => format!("; interval {} to {}", short(low), short(high)),
        _ => String::new(),
    };
    writeln!(out, "{} from {}{interval}\n", counted(own.norms, "gradient norm"), source_name(own.source))?;
    if !advice.snippets.is_empty() {
        writeln!(out, "#### What to do\n")?;
        snippets(&advice.snippets, "", out)?;
        if !advice.rule_snippets.is_empty() {
            writeln!(out, "\nOr, instead of a constant, as a rule that follows the norms:\n")?;
            snippets(&advice.rule_snippets, "", out)?;
        }
        writeln!(out)?;
    }
    let judged = advice.candidates.iter().filter_map(|one| Some((one, one.backtest.value()?)));
    let rows: Vec<Vec<String>> =
        judged.map(|(one, found)| backtest_cells(&one.label, found).to_vec()).collect();
    if !rows.is_empty() {
        writeln!(out, "#### Every method on the record\n")?;
        table(&["method", "clips to", "x median", "clipped", "step lost", "spike at", "regret"], &rows, out)?;
    }
    for note in &own.notes {
        writeln!(out, "- {}", code(note))?;
    }
    if !advice.layer_snippets.is_empty() {
        writeln!(out, "\n#### Per layer\n")?;
        snippets(&advice.layer_snippets, "", out)?;
    }
    for one in advice.candidates.iter().filter(|one| one.backtest.value().is_none()) {
        writeln!(out, "- {}: {}", code(&one.label), code(&one.why))?;
    }
    for remark in &report.remarks {
        writeln!(out, "- note: {}", code(&remark.message))?;
    }
    Ok(())
}
