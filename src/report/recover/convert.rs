//! What came of a conversion.

use std::fmt::{self, Write};

use crate::number::{bytes, counted};
use crate::recover::{Conversion, Fate, Lost};
use crate::report::Style;
use crate::report::text::{safe, wrapped};

/// Entries of a list that a folded page shows.
const FOLDED: usize = 12;

/// What came of a conversion, as text.
pub fn conversion_page(conversion: &Conversion, target: &str, style: Style) -> String {
    let mut text = String::new();
    write(&mut text, conversion, target, style).expect("writing to a string does not fail");
    text
}

fn write(out: &mut String, conversion: &Conversion, target: &str, style: Style) -> fmt::Result {
    let tensors = counted(conversion.written, "tensor");
    writeln!(
        out,
        "{} converted to {}: {tensors}, {}",
        safe(&conversion.checkpoint),
        safe(target),
        bytes(conversion.bytes)
    )?;
    let fates: Vec<String> = conversion.fates.iter().map(fate).collect();
    list(out, "not plainly themselves", &fates, style)?;
    let told = |lost: &Lost| format!("{}: {}", lost.what, lost.why);
    list(out, "does not go over", &conversion.lost.iter().map(told).collect::<Vec<_>>(), style)?;
    list(
        out,
        "tensors that could not be written",
        &conversion.refused.iter().map(told).collect::<Vec<_>>(),
        style,
    )
}

fn list(out: &mut String, title: &str, lines: &[String], style: Style) -> fmt::Result {
    if lines.is_empty() {
        return Ok(());
    }
    writeln!(out, "\n{title}")?;
    let shown = if style.all { lines.len() } else { lines.len().min(FOLDED) };
    lines[..shown].iter().try_for_each(|line| wrapped(out, "  ", line))?;
    if lines.len() > shown {
        writeln!(out, "  … {} more (--all)", lines.len() - shown)?;
    }
    Ok(())
}

fn fate(fate: &Fate) -> String {
    match fate {
        Fate::Tied { tensor, to } => format!("{tensor} is {to}, which is written; the metadata says so"),
        Fate::View { tensor } => {
            format!("{tensor} is a strided view, written in the order in which it is seen")
        }
        Fate::Expanded { tensor, times } => {
            format!("{tensor} is one element for {times}, written {times} times")
        }
        Fate::Shared { tensor, with } => format!("{tensor} shares bytes with {with}; both are written whole"),
    }
}
