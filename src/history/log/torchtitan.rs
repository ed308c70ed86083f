//! What torchtitan prints: `step: 10  loss: 8.0123  grad_norm: 1.2345 …`, each part in its own colour.

use std::sync::Arc;

use super::columns::Column;
use super::lines::Lines;
use super::table::{Table, Value};
use crate::error::{At, Result};
use crate::files::InputFile;

/// Reads every line that names a step and a loss.
pub(super) fn read(file: &Arc<InputFile>, name: &str, choices: &[Column]) -> Result<Table> {
    let mut table = Table::new(name, "torchtitan", choices);
    let mut lines = Lines::of(file)?;
    while let Some((number, line)) = lines.next()? {
        let line = without_colours(&String::from_utf8_lossy(line));
        let Some(fields) = fields(&line) else { continue };
        let mut outcome = Ok(());
        for (name, value) in fields {
            outcome = outcome.and(table.cell(name, Value::Text(value)));
        }
        let outcome = outcome.and(table.end_row());
        outcome.map_err(|kind| kind.in_file(file.path()).at(At::Line(number, 1)))?;
    }
    table.finish();
    Ok(table)
}

/// The pairs of `name: value` from `step:` on, where there is a loss among them.
pub(super) fn fields(line: &str) -> Option<Vec<(&str, &str)>> {
    let start = line.find("step: ")?;
    let mut words = line[start..].split_whitespace().peekable();
    let mut pairs = Vec::new();
    while let Some(word) = words.next() {
        let Some(name) = word.strip_suffix(':') else { continue };
        if let Some(value) = words.next_if(|value| !value.ends_with(':')) {
            pairs.push((name, value.trim_end_matches(',')));
        }
    }
    let has = |wanted: &str| pairs.iter().any(|(name, _)| *name == wanted);
    (has("step") && has("loss")).then_some(pairs)
}

/// The text without escape sequences of terminals.
pub(super) fn without_colours(line: &str) -> String {
    let mut plain = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(start) = rest.find('\x1b') {
        plain.push_str(&rest[..start]);
        rest = &rest[start + 1..];
        // CSI: parameters, then one letter. Whatever else begins with ESC loses only that.
        if let Some(sequence) = rest.strip_prefix('[') {
            let end = sequence.find(|character: char| ('@'..='~').contains(&character));
            rest = end.map_or("", |end| &sequence[end + 1..]);
        }
    }
    plain.push_str(rest);
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_go_and_numbers_stay() {
        let line = "[rank0]:2025-01-01 - root - INFO - \x1b[31mstep: 10  \x1b[32mloss:  8.0123  \x1b[38;2;180;60;0mgrad_norm:  1.2345  \x1b[33mmemory: 28.3GiB(29.8%)  \x1b[39m";
        let plain = without_colours(line);
        let found = fields(&plain).unwrap();
        assert_eq!(found[..3], [("step", "10"), ("loss", "8.0123"), ("grad_norm", "1.2345")]);
        assert_eq!(fields("validate step: 10 perplexity: 3"), None);
        assert_eq!(without_colours("a\x1b"), "a");
        assert_eq!(without_colours("a\x1b[31"), "a");
    }
}
