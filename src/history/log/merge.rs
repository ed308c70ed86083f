//! From the columns of several logs to one record a step.
//!
//! A quantity is taken from one format, the one that has most of it: two loggers of one run smooth and round differently, and
//! a series that changes between them would show steps that the run did not take. Logs of one format go on where the one
//! before ended. Where the step goes back, an attempt was abandoned: what it had logged from there on is left out.

use std::collections::{BTreeMap, BTreeSet};

use super::columns::Quantity;
use super::table::{Series, Table};
use super::{LogSource, Record, Remark, RemarkKind};

/// Formats in the order in which they are believed where several have equally many points.
const PREFERENCE: &[&str] = &["jsonl", "csv", "megatron", "torchtitan", "trainer-state", "tensorboard"];

/// A larger share of points that go back is no resume but a log that was not written in order.
const UNORDERED: f64 = 0.02;

/// Remarks of one kind about one log; the rest are counted.
const MOST_REMARKS: usize = 8;

/// The joined logs.
pub(super) struct Merged {
    pub sources: Vec<LogSource>,
    pub records: Vec<Record>,
    /// Steps at which another log or attempt begins.
    pub seams: Vec<u64>,
    /// The format that each quantity was taken from.
    pub formats: BTreeMap<Quantity, &'static str>,
}

/// Joins `tables`, which stand in the order in which they were written.
pub(super) fn merge(tables: &[Table], until: Option<u64>, remarks: &mut Vec<Remark>) -> Merged {
    let mut used: Vec<BTreeMap<String, String>> = tables.iter().map(|_| BTreeMap::new()).collect();
    let mut joined: Vec<(Quantity, Option<String>, Joined)> = Vec::new();
    let mut formats = BTreeMap::new();
    for quantity in quantities(tables) {
        let Some(format) = best_format(tables, quantity) else { continue };
        formats.insert(quantity, format);
        let mut parts = Vec::new();
        for (index, table) in tables.iter().enumerate() {
            let Some(series) = best_series(table, quantity) else { continue };
            if table.format == format {
                used[index].insert(quantity.name().to_owned(), series.name.clone());
                parts.push((table, series));
            } else {
                remarks.push(not_used(table, series, quantity, format));
            }
        }
        joined.push((quantity, None, Joined::of(&parts, until)));
    }
    for (layer, parts) in layers(tables) {
        for (index, _, _) in &parts {
            used[*index].insert(Quantity::LayerGradNorm.name().to_owned(), "one a layer".to_owned());
        }
        let parts: Vec<_> = parts.into_iter().map(|(_, table, series)| (table, series)).collect();
        joined.push((Quantity::LayerGradNorm, Some(layer), Joined::of(&parts, until)));
    }
    let seams = report_order(&joined, remarks);
    let mut records = records_of(&joined);
    add_data(&mut records, tables, until);
    let sources = tables.iter().zip(used).map(|(table, columns)| source(table, columns, remarks)).collect();
    Merged { sources, records, seams, formats }
}

/// Every quantity that has a series, but norms by layer.
fn quantities(tables: &[Table]) -> BTreeSet<Quantity> {
    let all = tables.iter().flat_map(|table| &table.series).map(|series| series.column.quantity);
    all.filter(|quantity| *quantity != Quantity::LayerGradNorm).collect()
}

/// The column of `table` that is most to be believed.
fn best_series(table: &Table, quantity: Quantity) -> Option<&Series> {
    let candidates = table.series.iter().filter(|series| series.column.quantity == quantity);
    candidates.min_by_key(|series| (series.column.rank, usize::MAX - series.points.len()))
}

fn best_format(tables: &[Table], quantity: Quantity) -> Option<&'static str> {
    let mut points: BTreeMap<&'static str, usize> = BTreeMap::new();
    for table in tables {
        if let Some(series) = best_series(table, quantity) {
            *points.entry(table.format).or_default() += series.points.len();
        }
    }
    let place =
        |format: &str| PREFERENCE.iter().position(|known| *known == format).unwrap_or(PREFERENCE.len());
    points
        .into_iter()
        .max_by_key(|(format, count)| (*count, usize::MAX - place(format)))
        .map(|(format, _)| format)
}

/// A column, its log, and which one that is.
type Part<'a> = (usize, &'a Table, &'a Series);

/// The norms by layer, of the format that has most of them.
fn layers(tables: &[Table]) -> BTreeMap<String, Vec<Part<'_>>> {
    let of_layers = |table: &&Table| {
        table
            .series
            .iter()
            .filter(|series| series.column.layer.is_some())
            .map(|series| series.points.len())
            .sum::<usize>()
    };
    let Some(format) = tables.iter().max_by_key(of_layers).map(|table| table.format) else {
        return BTreeMap::new();
    };
    let mut found: BTreeMap<String, Vec<Part<'_>>> = BTreeMap::new();
    for (index, table) in tables.iter().enumerate().filter(|(_, table)| table.format == format) {
        for series in &table.series {
            if let Some(layer) = &series.column.layer {
                found.entry(layer.clone()).or_default().push((index, table, series));
            }
        }
    }
    found
}

/// One quantity over the whole run, by ascending step.
#[derive(Debug, Default)]
struct Joined {
    points: Vec<(u64, f64)>,
    /// Where the step went back: file, from, to, points left out.
    rewinds: Vec<(String, u64, u64, usize)>,
    /// Where another file goes on: file, step.
    joins: Vec<(String, u64)>,
    /// Steps recorded again: how many, the first, the last.
    repeats: Option<(u64, u64, u64)>,
    unordered: Option<String>,
}

impl Joined {
    fn of(parts: &[(&Table, &Series)], until: Option<u64>) -> Self {
        let mut joined = Self::default();
        for (index, (table, series)) in parts.iter().enumerate() {
            let kept = series.points.iter().filter(|(step, _)| until.is_none_or(|until| *step <= until));
            let shift = u64::from(counts_from_zero(table));
            let points: Vec<(u64, f64)> = kept.map(|(step, value)| (step + shift, *value)).collect();
            if index > 0
                && let Some((first, _)) = points.first()
            {
                joined.joins.push((table.file.clone(), *first));
            }
            joined.extend(&table.file, points);
        }
        joined
    }

    fn extend(&mut self, file: &str, mut points: Vec<(u64, f64)>) {
        let back = points.windows(2).filter(|pair| pair[1].0 < pair[0].0).count();
        if back > 3 && back as f64 > UNORDERED * points.len() as f64 {
            self.unordered = Some(file.to_owned());
            points.sort_by_key(|(step, _)| *step);
        }
        for (step, value) in points {
            match self.points.last() {
                Some((last, _)) if step < *last => {
                    let last = *last;
                    let keep = self.points.partition_point(|(kept, _)| *kept < step);
                    self.rewinds.push((file.to_owned(), last, step, self.points.len() - keep));
                    self.points.truncate(keep);
                }
                Some((last, _)) if step == *last => {
                    let (count, first, _) = self.repeats.unwrap_or((0, step, step));
                    self.repeats = Some((count + 1, first, step));
                    self.points.pop();
                }
                _ => {}
            }
            self.points.push((step, value));
        }
    }
}

/// Lightning numbers the rows of its log from 0: row 49 is the step that takes the count to 50.
fn counts_from_zero(table: &Table) -> bool {
    let base = table.file.rsplit('/').next().unwrap_or_default();
    let is_lightnings = (table.format == "csv" && base == "metrics.csv") || table.format == "tensorboard";
    is_lightnings && table.has_column("epoch") && table.step_column().as_deref() == Some("step")
}

/// Says where steps went back, were joined, or repeat, by the first quantity that shows it. The steps of seams.
fn report_order(joined: &[(Quantity, Option<String>, Joined)], remarks: &mut Vec<Remark>) -> Vec<u64> {
    let mut seams = BTreeSet::new();
    let remark = |kind, file: &str, steps, message: String| Remark {
        kind,
        steps: Some(steps),
        file: Some(file.to_owned()),
        message,
    };
    if let Some((_, _, first)) = joined.iter().find(|(_, _, joined)| !joined.rewinds.is_empty()) {
        for (index, (file, from, to, lost)) in first.rewinds.iter().enumerate() {
            seams.insert(*to);
            if index < MOST_REMARKS {
                let message = format!(
                    "the log goes back from step {from} to {to}: an attempt was abandoned, {lost} of its points are left out"
                );
                remarks.push(remark(RemarkKind::Rewind, file, [*to, *from], message));
            }
        }
        if first.rewinds.len() > MOST_REMARKS {
            let more = first.rewinds.len() - MOST_REMARKS;
            remarks.push(remark(
                RemarkKind::Rewind,
                &first.rewinds[0].0,
                [0, 0],
                format!("it goes back {more} more times"),
            ));
        }
    }
    if let Some((_, _, first)) = joined.iter().find(|(_, _, joined)| !joined.joins.is_empty()) {
        for (file, step) in &first.joins {
            if seams.insert(*step) {
                remarks.push(remark(
                    RemarkKind::Seam,
                    file,
                    [*step, *step],
                    format!("this log goes on at step {step}"),
                ));
            }
        }
    }
    if let Some((quantity, (count, first, last))) =
        joined.iter().find_map(|(quantity, _, joined)| Some((*quantity, joined.repeats?)))
    {
        remarks.push(Remark {
            kind: RemarkKind::Duplicate,
            steps: Some([first, last]),
            file: None,
            message: format!(
                "{} is recorded {count} times more for a step that has it; the last one was kept",
                quantity.name()
            ),
        });
    }
    if let Some(file) = joined.iter().find_map(|(_, _, joined)| joined.unordered.as_ref()) {
        remarks.push(Remark {
            kind: RemarkKind::Seam,
            steps: None,
            file: Some(file.clone()),
            message: "its rows are not in the order of the steps and were sorted".to_owned(),
        });
    }
    seams.into_iter().collect()
}

/// One record for each step that any series has.
fn records_of(joined: &[(Quantity, Option<String>, Joined)]) -> Vec<Record> {
    let mut steps: Vec<u64> =
        joined.iter().flat_map(|(_, _, joined)| &joined.points).map(|(step, _)| *step).collect();
    steps.sort_unstable();
    steps.dedup();
    let mut records: Vec<Record> =
        steps.into_iter().map(|step| Record { step, ..Record::default() }).collect();
    for (quantity, layer, series) in joined {
        let mut at = 0;
        let cumulative = *quantity == Quantity::Skipped && is_cumulative(&series.points);
        let mut before = 0.0;
        for &(step, value) in &series.points {
            at += records[at..].partition_point(|record| record.step < step);
            let value = if cumulative { value - std::mem::replace(&mut before, value) } else { value };
            set(&mut records[at], *quantity, layer.as_deref(), value);
        }
    }
    records
}

/// DeepSpeed counts skipped steps from the start, Megatron since the last line.
fn is_cumulative(points: &[(u64, f64)]) -> bool {
    points.last().is_some_and(|(_, last)| *last > 1.0) && points.windows(2).all(|pair| pair[0].1 <= pair[1].1)
}

fn set(record: &mut Record, quantity: Quantity, layer: Option<&str>, value: f64) {
    let count = || super::table::whole(value.trunc());
    match quantity {
        Quantity::Loss => record.loss = Some(value),
        Quantity::GradNorm => record.grad_norm = Some(value),
        Quantity::LearningRate => record.learning_rate = Some(value),
        Quantity::LossScale => record.loss_scale = Some(value),
        Quantity::NonFinite => record.non_finite = count(),
        Quantity::Skipped => record.skipped = value > 0.0,
        Quantity::BatchSize => record.batch_size = count(),
        Quantity::Accumulation => record.accumulation = count(),
        Quantity::WorldSize => record.world_size = count(),
        Quantity::LayerGradNorm => {
            record.grad_norm_by_layer.insert(layer.unwrap_or_default().to_owned(), value);
        }
        Quantity::Step | Quantity::Data | Quantity::Split => {}
    }
}

/// What batches were made of, from the first log that says it.
fn add_data(records: &mut [Record], tables: &[Table], until: Option<u64>) {
    let Some(table) = tables.iter().find(|table| !table.data.is_empty()) else { return };
    let by_step: BTreeMap<u64, &String> = table.data.iter().map(|(step, data)| (*step, data)).collect();
    for record in records.iter_mut().filter(|record| until.is_none_or(|until| record.step <= until)) {
        record.data = by_step.get(&record.step).map(|data| (*data).clone());
    }
}

fn not_used(table: &Table, series: &Series, quantity: Quantity, format: &str) -> Remark {
    Remark {
        kind: RemarkKind::LeftOut,
        steps: None,
        file: Some(table.file.clone()),
        message: format!(
            "column {}: {} is taken from the {format} log, which has more of it",
            series.name,
            quantity.name()
        ),
    }
}

/// The source as the analysis shows it, and what its columns were taken for.
fn source(table: &Table, mut columns: BTreeMap<String, String>, remarks: &mut Vec<Remark>) -> LogSource {
    let mut say = |kind, message: String| {
        remarks.push(Remark { kind, steps: None, file: Some(table.file.clone()), message });
    };
    if !columns.is_empty() {
        let pairs: Vec<String> =
            columns.iter().map(|(quantity, column)| format!("{column} as {quantity}")).collect();
        say(RemarkKind::TakenFor, format!("read as {}: {}", table.format, pairs.join(", ")));
    }
    if table.counted {
        say(RemarkKind::Semantics, "no column names the step: its rows were counted from 1".to_owned());
    } else if let Some(step) = table.step_column() {
        if step == "epoch" {
            say(
                RemarkKind::Semantics,
                "its rows are epochs: they do not match the steps of checkpoints".to_owned(),
            );
        }
        if counts_from_zero(table) {
            say(RemarkKind::Semantics, "Lightning numbers steps from 0: one was added to each".to_owned());
        }
        columns.insert(Quantity::Step.name().to_owned(), step);
    }
    if table.without_step > 0 {
        say(RemarkKind::LeftOut, format!("{} rows have no step", table.without_step));
    }
    if table.of_evaluation > 0 {
        say(RemarkKind::LeftOut, format!("{} rows say that they are of an evaluation", table.of_evaluation));
    }
    let (odd, first) = &table.odd;
    if *odd > 0 {
        say(RemarkKind::LeftOut, format!("{odd} values are not numbers, the first is {first}"));
    }
    LogSource { file: table.file.clone(), format: table.format.to_owned(), rows: table.rows, columns }
}
