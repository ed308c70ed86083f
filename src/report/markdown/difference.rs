//! Two checkpoints as Markdown: the tensors that changed, most first, and what only one of them has.

use std::fmt::{self, Write};

use super::{SHOWN, code, table};
use crate::report::DifferenceReport;
use crate::report::difference::{by_change, cells};

/// The report on two checkpoints as GitHub's Markdown.
pub fn difference_markdown(report: &DifferenceReport) -> Vec<u8> {
    let mut text = String::new();
    write(report, &mut text).expect("writing to a string does not fail");
    text.into_bytes()
}

fn write(report: &DifferenceReport, out: &mut String) -> fmt::Result {
    let found = &report.difference;
    writeln!(out, "### flashpoint diff: {} → {}\n", code(&found.before), code(&found.after))?;
    writeln!(out, "{}\n", code(&report.verdict))?;
    let changed: Vec<Vec<String>> = by_change(&found.tensors)
        .into_iter()
        .filter(|tensor| tensor.changed > 0)
        .map(|tensor| cells(tensor).to_vec())
        .collect();
    if !changed.is_empty() {
        let columns = ["tensor", "norm of Δ", "over weight", "cosine", "largest Δ", "changed", "dtype"];
        table(&columns, &changed[..changed.len().min(SHOWN)], out)?;
    }
    if changed.len() > SHOWN {
        writeln!(out, "… and {} more\n", changed.len() - SHOWN)?;
    }
    let reshaped: Vec<String> = found
        .reshaped
        .iter()
        .map(|one| format!("{} from {:?} to {:?}", one.name, one.shapes[0], one.shapes[1]))
        .collect();
    let not_compared: Vec<String> =
        found.not_compared.iter().map(|(name, reason)| format!("{name}: {reason}")).collect();
    for (title, names) in [
        ("must not differ", &report.forbidden),
        ("missing", &found.missing),
        ("new", &found.new),
        ("reshaped", &reshaped),
        ("not compared", &not_compared),
    ] {
        for name in names.iter().take(SHOWN) {
            writeln!(out, "- {title}: {}", code(name))?;
        }
        if names.len() > SHOWN {
            writeln!(out, "- {title}: … and {} more", names.len() - SHOWN)?;
        }
    }
    Ok(())
}
