//! What a log says, column by column: the one shape that every format is read into.

use std::collections::HashMap;

use super::columns::{self, Column, Quantity, Recognised};
use super::json::number;
use crate::error::ErrorKind;
use crate::history::EVALUATION;

/// More numbers than this in one log are refused.
const MAX_POINTS: usize = 40_000_000;

/// Logs with more columns than this are refused: no trainer writes one a batch.
const MAX_COLUMNS: usize = 100_000;

/// What rows say of an evaluation beside the words that names of files have.
pub(super) const ALSO_EVALUATION: &[&str] = &["validate", "testing", "dev", "heldout"];

/// A log as it is written.
#[derive(Debug)]
pub(super) struct Table {
    /// Its name in the run.
    pub file: String,
    /// The format's name.
    pub format: &'static str,
    /// Rows that held something that was recognised.
    pub rows: u64,
    /// The columns that were recognised, in the order in which they were met.
    pub series: Vec<Series>,
    /// What batches were made of.
    pub data: Vec<(u64, String)>,
    /// The epoch of steps, where a column beside the step's says it.
    pub epochs: Vec<(u64, f64)>,
    /// No column names the step: rows were counted.
    pub counted: bool,
    /// Values that are not what their column holds: how many, and the first one.
    pub odd: (u64, String),
    /// Rows that name no step though others do.
    pub without_step: u64,
    /// Rows that say that they are of an evaluation.
    pub of_evaluation: u64,
    /// The clipping threshold, where the log prints it.
    pub clip_threshold: Option<f64>,
    choices: Vec<Column>,
    known: HashMap<String, Option<usize>>,
    row: Vec<(usize, f64)>,
    row_data: Option<String>,
    row_is_of_evaluation: bool,
    points: usize,
    stepped: bool,
}

/// One column.
#[derive(Debug, Clone)]
pub(super) struct Series {
    /// Its own name.
    pub name: String,
    /// What it is.
    pub column: Recognised,
    /// Step and value, as they were written.
    pub points: Vec<(u64, f64)>,
}

/// What stands in a cell.
#[derive(Debug, Clone, Copy)]
pub(super) enum Value<'a> {
    Number(f64),
    Text(&'a str),
    /// The numbers of a list, by the first of them.
    List(Option<f64>),
    /// Nothing, or nothing that a quantity could be.
    Nothing,
}

impl Table {
    pub(super) fn new(file: &str, format: &'static str, choices: &[Column]) -> Self {
        Self {
            file: file.to_owned(),
            format,
            rows: 0,
            series: Vec::new(),
            data: Vec::new(),
            epochs: Vec::new(),
            counted: false,
            odd: (0, String::new()),
            without_step: 0,
            of_evaluation: 0,
            clip_threshold: None,
            choices: choices.to_vec(),
            known: HashMap::new(),
            row: Vec::new(),
            row_data: None,
            row_is_of_evaluation: false,
            points: 0,
            stepped: false,
        }
    }

    /// The value of one column in the row at hand.
    ///
    /// # Errors
    /// When there are more columns than any log has.
    pub(super) fn cell(&mut self, name: &str, value: Value<'_>) -> Result<(), ErrorKind> {
        let Some(index) = self.column(name)? else { return Ok(()) };
        let quantity = self.series[index].column.quantity;
        if quantity == Quantity::Data {
            self.row_data = match value {
                Value::Number(number) => Some(number.to_string()),
                Value::Text(text) => Some(text.chars().take(200).collect()),
                _ => None,
            };
            return Ok(());
        }
        if quantity == Quantity::Split {
            self.row_is_of_evaluation |= matches!(value, Value::Text(text) if is_evaluation(text));
            return Ok(());
        }
        let found = match value {
            Value::Number(number) => Some(number),
            Value::Text(text) if text.trim().is_empty() => return Ok(()),
            Value::Text(text) => number(text.trim()),
            Value::List(first) if quantity == Quantity::LearningRate => first,
            Value::List(_) => None,
            Value::Nothing => return Ok(()),
        };
        match found {
            Some(found) => self.row.push((index, found)),
            None => self.note_odd(name, value),
        }
        Ok(())
    }

    fn note_odd(&mut self, name: &str, value: Value<'_>) {
        if self.odd.0 == 0 {
            let what = match value {
                Value::Text(text) => format!("{:?}", text.chars().take(40).collect::<String>()),
                _ => "a list".to_owned(),
            };
            self.odd.1 = format!("{what} in column {name}");
        }
        self.odd.0 += 1;
    }

    fn column(&mut self, name: &str) -> Result<Option<usize>, ErrorKind> {
        if let Some(known) = self.known.get(name) {
            return Ok(*known);
        }
        if self.known.len() >= MAX_COLUMNS {
            return Err(ErrorKind::TooMany { what: "columns", limit: MAX_COLUMNS as u64 });
        }
        let recognised = columns::recognise(name, &self.choices);
        let index = recognised.map(|column| {
            self.series.push(Series { name: name.to_owned(), column, points: Vec::new() });
            self.series.len() - 1
        });
        self.known.insert(name.to_owned(), index);
        Ok(index)
    }

    /// The row is complete.
    ///
    /// # Errors
    /// When there are more numbers than any log has.
    pub(super) fn end_row(&mut self) -> Result<(), ErrorKind> {
        let mut row = std::mem::take(&mut self.row);
        let mut data = self.row_data.take();
        if std::mem::take(&mut self.row_is_of_evaluation) {
            self.of_evaluation += 1;
            row.clear();
            data = None;
        }
        let quantity = |index: usize| self.series[index].column.quantity;
        let steps = row.iter().filter(|(index, _)| quantity(*index) == Quantity::Step);
        let step = steps.min_by_key(|(index, _)| self.series[*index].column.rank).map(|(_, step)| *step);
        let has_values = data.is_some() || row.iter().any(|(index, _)| quantity(*index) != Quantity::Step);
        if has_values {
            self.rows += 1;
            match step.map(whole) {
                Some(Some(step)) => {
                    self.begin_stepped();
                    self.note_epoch(step, &row);
                    self.add(step, &row, data);
                }
                Some(None) => self.without_step += 1,
                // Until a step is met, rows are counted.
                None if self.stepped => self.without_step += 1,
                None => self.add(self.rows, &row, data),
            }
        }
        self.row = row;
        self.row.clear();
        if self.points > MAX_POINTS {
            return Err(ErrorKind::TooMany { what: "logged numbers", limit: MAX_POINTS as u64 });
        }
        Ok(())
    }

    /// Some row names its step: those that were counted are none.
    fn begin_stepped(&mut self) {
        if !self.stepped {
            self.stepped = true;
            self.without_step += self.rows - 1;
            self.series.iter_mut().for_each(|series| series.points.clear());
            self.data.clear();
        }
    }

    /// `epoch` counts rows only where nothing else does.
    fn note_epoch(&mut self, step: u64, row: &[(usize, f64)]) {
        let steps = row.iter().filter(|(index, _)| self.series[*index].column.quantity == Quantity::Step);
        let (epochs, others): (Vec<_>, Vec<_>) =
            steps.partition(|(index, _)| self.series[*index].name.eq_ignore_ascii_case("epoch"));
        if let (Some((_, epoch)), false) = (epochs.first(), others.is_empty()) {
            self.epochs.push((step, *epoch));
        }
    }

    fn add(&mut self, step: u64, row: &[(usize, f64)], data: Option<String>) {
        self.points += row.len();
        for &(index, value) in row {
            self.series[index].points.push((step, value));
        }
        self.data.extend(data.map(|data| (step, data)));
    }

    /// Settles how rows were numbered, once all are read.
    pub(super) fn finish(&mut self) {
        self.counted = !self.stepped && self.rows > 0;
        self.series.retain(|series| !series.points.is_empty() && series.column.quantity != Quantity::Step);
    }

    /// The names of its columns, recognised or not.
    pub(super) fn columns(&self) -> impl Iterator<Item = &str> {
        self.known.keys().map(String::as_str)
    }

    /// Whether a recognised column has exactly this name.
    pub(super) fn has_column(&self, name: &str) -> bool {
        self.known.get(name).is_some_and(Option::is_some)
    }

    /// The column that the steps were read from.
    pub(super) fn step_column(&self) -> Option<String> {
        let steps = self.known.iter().filter_map(|(name, index)| Some((name, (*index)?)));
        let recognised = steps.filter_map(|(name, _)| Some((name, columns::recognise(name, &self.choices)?)));
        let steps = recognised.filter(|(_, column)| column.quantity == Quantity::Step);
        steps.min_by_key(|(name, column)| (column.rank, (*name).clone())).map(|(name, _)| name.clone())
    }
}

/// Whether the part of the data that a row is of is not trained on.
fn is_evaluation(part: &str) -> bool {
    let part = part.trim().to_lowercase();
    EVALUATION.contains(&part.as_str()) || ALSO_EVALUATION.contains(&part.as_str())
}

/// A step count: a whole number, as loggers often write it with a point.
pub(super) fn whole(step: f64) -> Option<u64> {
    let is_whole = step.fract() == 0.0 && step.abs() < 9e15;
    u64::try_from(is_whole.then_some(step as i64)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_without_a_step_are_counted_only_where_no_row_has_one() {
        let mut table = Table::new("log", "test", &[]);
        for loss in ["3.5", "2.5"] {
            table.cell("loss", Value::Text(loss)).unwrap();
            table.end_row().unwrap();
        }
        let counted = table.series[0].points.clone();
        assert_eq!(counted, [(1, 3.5), (2, 2.5)]);
        table.cell("step", Value::Number(10.0)).unwrap();
        table.cell("loss", Value::Number(1.5)).unwrap();
        table.end_row().unwrap();
        table.finish();
        assert_eq!(table.series[0].points, [(10, 1.5)]);
        assert_eq!((table.without_step, table.counted), (2, false));
    }

    #[test]
    fn what_is_no_number_is_counted_and_quoted() {
        let mut table = Table::new("log", "test", &[]);
        table.cell("step", Value::Number(1.0)).unwrap();
        table.cell("loss", Value::Text("diverged")).unwrap();
        table.cell("grad_norm", Value::List(Some(1.0))).unwrap();
        table.cell("lr", Value::List(Some(1e-3))).unwrap();
        table.end_row().unwrap();
        assert_eq!(table.odd, (2, "\"diverged\" in column loss".to_owned()));
        assert_eq!(table.series.iter().map(|series| series.points.len()).collect::<Vec<_>>(), [1, 0, 0, 1]);
    }
}
