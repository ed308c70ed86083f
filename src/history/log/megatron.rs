//! What Megatron-LM prints: ` iteration N/ M | … | lm loss: 2.199E+00 | grad norm: 0.242 | …`.

use std::sync::Arc;

use super::columns::Column;
use super::lines::Lines;
use super::table::{Table, Value};
use crate::error::{At, Result};
use crate::files::InputFile;

/// Reads every line of an iteration, whatever stands before it.
pub(super) fn read(file: &Arc<InputFile>, name: &str, choices: &[Column]) -> Result<Table> {
    let mut table = Table::new(name, "megatron", choices);
    let mut lines = Lines::of(file)?;
    while let Some((number, line)) = lines.next()? {
        let line = String::from_utf8_lossy(line);
        let Some((step, fields)) = iteration(&line) else {
            table.clip_threshold = table.clip_threshold.or_else(|| clip_threshold(&line));
            continue;
        };
        let mut outcome = table.cell("iteration", Value::Text(step));
        for (name, value) in fields.split('|').filter_map(|field| field.split_once(':')) {
            outcome = outcome.and(table.cell(name.trim(), Value::Text(value.trim())));
        }
        let outcome = outcome.and(table.end_row());
        outcome.map_err(|kind| kind.in_file(file.path()).at(At::Line(number, 1)))?;
    }
    table.finish();
    Ok(table)
}

/// The threshold in the list of arguments that Megatron prints first: `  clip_grad ....... 1.0`.
fn clip_threshold(line: &str) -> Option<f64> {
    let (_, rest) = line.split_once("clip_grad ..")?;
    rest.trim_start_matches(['.', ' ']).trim_end().parse().ok()
}

/// The number of the iteration that `line` reports, and the fields behind it.
pub(super) fn iteration(line: &str) -> Option<(&str, &str)> {
    let (_, rest) = line.split_once("iteration ")?;
    let (step, rest) = rest.split_once('/')?;
    let (total, fields) = rest.split_once('|')?;
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    (is_number(step.trim()) && is_number(total.trim())).then_some((step.trim(), fields))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_threshold_is_read_from_the_arguments() {
        let line = "  clip_grad ....................................... 1.0";
        assert_eq!(clip_threshold(line), Some(1.0));
        assert_eq!(clip_threshold(" clip_grad_other ... 3"), None);
    }

    #[test]
    fn only_lines_of_iterations_are_read() {
        let line =
            "[2022-04-12 10:00:00] iteration    31214/  115311 | consumed samples: 1 | lm loss: 2.199E+00 |";
        let (step, fields) = iteration(line).unwrap();
        assert_eq!((step, fields), ("31214", " consumed samples: 1 | lm loss: 2.199E+00 |"));
        for other in
            [" validation loss at iteration 7000 | lm loss value: 7.1 |", "saving at iteration 12/x | a: 1"]
        {
            assert_eq!(iteration(other), None, "{other}");
        }
    }
}
