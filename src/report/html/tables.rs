//! Tables of everything: tensors, optimizer state, files. A page of ten thousand tensors stays below two megabytes.

use std::collections::{BTreeMap, HashMap};

use crate::analysis::model::{
    CheckpointAnalysis, IntervalAnalysis, Measured, OptimizerAnalysis, TensorInterval,
};
use crate::number::{bytes, grouped, short};
use crate::report::items::Item;
use crate::report::moments;
use crate::report::terminal::{name_of, tensor_cells};
use crate::report::text::safe;
use crate::rules::{Severity, Subject};

/// Rows of a table that is not folded away.
const FEW_ROWS: usize = 60;

/// Bytes of one table of tensors; beyond them, columns that say the least are left out.
const BUDGET: usize = 1_200_000;

/// Bytes that stand around one cell.
const CELL: usize = 4;

/// A column.
pub(super) struct Column {
    pub name: &'static str,
    pub help: &'static str,
}

/// A row; its tone is that of the worst finding about it.
pub(super) struct Row {
    pub tone: &'static str,
    pub cells: Vec<String>,
}

/// A table.
pub(super) struct TableView {
    pub title: String,
    pub columns: Vec<Column>,
    /// Columns of words; numbers behind them stand to the right.
    pub words: usize,
    pub rows: Vec<Row>,
    pub note: String,
}

impl TableView {
    /// Whether it is short enough not to be folded away.
    pub fn is_open(&self) -> bool {
        self.rows.len() <= FEW_ROWS
    }

    /// A table without notes and without columns in which no row says anything, but for the first, which names its rows; nothing where it has no row.
    pub fn new(
        title: &str,
        words: usize,
        columns: &[(&'static str, &'static str)],
        rows: Vec<Row>,
    ) -> Option<Self> {
        let columns = columns.iter().map(|&(name, help)| Column { name, help }).collect();
        let mut table = Self { title: title.to_owned(), columns, words, rows, note: String::new() };
        for index in (1..table.columns.len()).rev() {
            if table.rows.iter().all(|row| row.cells[index].is_empty()) {
                table.remove(index);
            }
        }
        (!table.rows.is_empty()).then_some(table)
    }

    fn remove(&mut self, index: usize) {
        self.columns.remove(index);
        if index < self.words {
            self.words -= 1;
        }
        for row in &mut self.rows {
            row.cells.remove(index);
        }
    }

    /// Leaves columns out, from the front of `least`, until the rest fits.
    pub fn fitted(mut self, least: &[&'static str]) -> Self {
        let mut left_out = Vec::new();
        for name in least {
            let size: usize = self.rows.iter().flat_map(|row| &row.cells).map(|cell| cell.len() + CELL).sum();
            if size <= BUDGET {
                break;
            }
            let Some(index) = self.columns.iter().position(|column| column.name == *name) else { continue };
            self.remove(index);
            left_out.push(*name);
        }
        if !left_out.is_empty() {
            self.note = format!(
                "so that the page stays small, {} {} left out here; --format json has everything",
                left_out.join(", "),
                if left_out.len() == 1 { "is" } else { "are" }
            );
        }
        self
    }
}

/// A row without a finding.
pub(super) fn row(cells: Vec<String>) -> Row {
    Row { tone: "", cells }
}

/// The codes of what was found about each tensor of a checkpoint, and the worst severity.
fn found<'a>(checkpoint: &str, items: &'a [Item<'_>]) -> HashMap<&'a str, (Vec<&'a str>, Severity)> {
    let mut found: HashMap<&str, (Vec<&str>, Severity)> = HashMap::new();
    for item in items.iter().filter(|item| item.checkpoint == checkpoint) {
        if let Subject::Tensor(name) = item.subject {
            let entry = found.entry(name).or_insert((Vec::new(), item.severity));
            if !entry.0.contains(&item.check) {
                entry.0.push(item.check);
            }
            entry.1 = entry.1.max(item.severity);
        }
    }
    found
}

/// Every tensor of a checkpoint: the numbers of the terminal's table.
pub(super) fn tensors(checkpoint: &CheckpointAnalysis, items: &[Item<'_>]) -> Option<TableView> {
    let found = found(&checkpoint.name, items);
    let rows = checkpoint.tensors.iter().map(|tensor| {
        let own = found.get(tensor.name.as_str());
        let codes = own.map_or_else(String::new, |(codes, _)| codes.join(" "));
        let mut cells = tensor_cells(tensor);
        cells.insert(1, codes);
        let tone = own.map_or("", |(_, severity)| super::parts::tone(*severity));
        Row { tone, cells }
    });
    let columns = [
        ("tensor", "as stored"),
        ("found", "rules that found something in it"),
        ("role", "what it does in its layer"),
        ("shape", ""),
        ("dtype", ""),
        ("L2", "√Σx²"),
        ("RMS", "√(Σx²/n)"),
        ("max |x|", ""),
        (
            "σ₁",
            "largest singular value; ○: of the convolution of a large input; ≤: a bound that holds for certain",
        ),
        ("stable rank", "Σσ²/σ₁²"),
        ("non-finite", "elements that are NaN or infinite"),
        ("zero", "share of elements that are 0"),
        ("spread", "RMS over the median RMS of its role"),
    ];
    let table = TableView::new("Every tensor", 5, &columns, rows.collect())?;
    Some(table.fitted(&["zero", "L2", "stable rank", "spread", "max |x|", "shape", "role"]))
}

/// The optimizer's state of every parameter.
pub(super) fn optimizer(state: &OptimizerAnalysis) -> Option<TableView> {
    let rows = state.parameters.iter().map(|parameter| row(moments::row(parameter)));
    let columns = [
        ("parameter", ""),
        ("steps", "optimizer steps taken"),
        ("RMS gradient", "√(Σv̂/n)"),
        ("signal", "share of the gradient's energy that is its mean"),
        ("update RMS", "RMS of m̂/(√v̂+ε)"),
        ("update/weight", "by how much of itself the next step changes it"),
    ];
    let table = TableView::new("Optimizer state", 1, &columns, rows.collect())?;
    Some(table.fitted(&["signal", "steps", "update RMS"]))
}

/// The files of a checkpoint.
pub(super) fn files(checkpoint: &CheckpointAnalysis) -> Option<TableView> {
    let rows = checkpoint.files.iter().map(|file| {
        let digest = file.digest.clone().unwrap_or_else(|| "–".to_owned());
        row(vec![
            safe(&file.name),
            name_of(&file.format),
            digest,
            bytes(file.bytes),
            grouped(file.uncovered_bytes),
        ])
    });
    let columns = [
        ("file", ""),
        ("format", ""),
        ("BLAKE3", ""),
        ("size", ""),
        ("bytes of no tensor", "data that no tensor refers to"),
    ];
    TableView::new("Files", 3, &columns, rows.collect())
}

/// What became of every tensor of a run, over all of its intervals.
pub(super) fn course(intervals: &[IntervalAnalysis]) -> Option<TableView> {
    let mut order: Vec<&str> = Vec::new();
    let mut by_name: BTreeMap<&str, Vec<(&IntervalAnalysis, &TensorInterval)>> = BTreeMap::new();
    for interval in intervals {
        for tensor in &interval.tensors {
            let entry = by_name.entry(tensor.canonical_name.as_str()).or_default();
            if entry.is_empty() {
                order.push(&tensor.canonical_name);
            }
            entry.push((interval, tensor));
        }
    }
    let rows = order.into_iter().map(|name| {
        let own = &by_name[name];
        let (first, last) = (own[0].1, own[own.len() - 1].1);
        let [gradient, gradient_at] = largest(own, |one| &one.gradient_ratio);
        let [change, change_at] = largest(own, |one| &one.change_ratio);
        row(vec![
            safe(name),
            name_of(&last.role),
            number(&first.weight_rms),
            number(&last.weight_rms),
            number(&last.gradient_norm),
            gradient,
            gradient_at,
            change,
            change_at,
        ])
    });
    let columns = [
        ("tensor", "its canonical name"),
        ("role", ""),
        ("RMS, first", "at the end of the first interval"),
        ("RMS, last", "at the last checkpoint"),
        ("gradient, last", "RMS gradient norm of the last interval"),
        ("gradient ×", "largest gradient of an interval over what was usual"),
        ("at steps", "the interval of it"),
        ("change ×", "largest change of an interval over what was usual"),
        ("at steps", "the interval of it"),
    ];
    let table = TableView::new("Every tensor over the run", 2, &columns, rows.collect())?;
    Some(table.fitted(&["RMS, first", "role", "gradient, last"]))
}

fn largest(
    own: &[(&IntervalAnalysis, &TensorInterval)],
    pick: fn(&TensorInterval) -> &Measured<f64>,
) -> [String; 2] {
    let known = own.iter().filter_map(|(interval, one)| Some((*interval, *pick(one).value()?)));
    let Some((interval, ratio)) = known.max_by(|one, other| one.1.total_cmp(&other.1)) else {
        return ["–".to_owned(), "–".to_owned()];
    };
    [short(ratio), format!("{}–{}", interval.from_step, interval.to_step)]
}

/// A number, or a dash.
pub(super) fn number(quantity: &Measured<f64>) -> String {
    quantity.value().map_or_else(|| "–".to_owned(), |value| short(*value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_column_in_which_nothing_stands_is_left_out_unless_it_names_the_rows() {
        let columns = [("tensor", ""), ("found", ""), ("L2", "")];
        let with = |name: &str| {
            let cells = [name, "", "1.5"].map(str::to_owned).to_vec();
            TableView::new("Tensors", 2, &columns, vec![row(cells)]).expect("it has a row")
        };
        for name in ["a.weight", ""] {
            let table = with(name);
            let left: Vec<&str> = table.columns.iter().map(|column| column.name).collect();
            assert_eq!((left, table.words), (vec!["tensor", "L2"], 1), "{name:?}");
            assert_eq!(table.rows[0].cells, [name, "1.5"]);
        }
        assert!(TableView::new("Tensors", 2, &columns, Vec::new()).is_none());
    }
}
