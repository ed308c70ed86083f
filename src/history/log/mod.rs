//! Logs of a run: one format a file, the columns that are recognised, and the ten known ways in which the numbers mislead.
//!
//! A log is read into series of (step, value), one a column. The columns that are one quantity in several files are
//! joined by `merge`, and what the numbers mean is settled by `semantics`, before anyone holds them against a limit.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{History, Options, Remark, RemarkKind};
use crate::context::Context;
use crate::error::{ErrorKind, Result};

mod columns;
pub(super) mod config;
mod csv;
mod detect;
mod earlier;
mod events;
mod json;
mod jsonl;
mod lines;
mod losses;
mod megatron;
mod merge;
mod number;
mod semantics;
mod table;
#[cfg(test)]
mod tests;
mod torchtitan;
mod trainer_state;

pub use columns::{Column, Columns, Quantity};
use detect::ReadLog;
pub use earlier::Earlier;
pub use number::Number;
use table::Table;
pub use trainer_state::outermost_number;

/// Everything the logs of a run say.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Log {
    /// Where it was read.
    pub sources: Vec<LogSource>,
    /// One record a logged step, by ascending step.
    pub records: Vec<Record>,
    /// What the numbers mean.
    pub semantics: LogSemantics,
}

/// What was logged at one step, its meaning settled.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Record {
    /// The step.
    pub step: u64,
    /// Training loss.
    pub loss: Option<f64>,
    /// L2 norm of the whole gradient, before clipping where that can be had, without loss scale.
    pub grad_norm: Option<f64>,
    /// Learning rate: of the first group where there are several.
    pub learning_rate: Option<f64>,
    /// Loss scale of mixed precision.
    pub loss_scale: Option<f64>,
    /// Elements of the gradient that are NaN or infinite.
    pub non_finite: Option<u64>,
    /// The optimizer skipped this step.
    pub skipped: bool,
    /// Gradient norm by layer or parameter.
    pub grad_norm_by_layer: BTreeMap<String, f64>,
    /// Samples of one optimizer step, over all ranks.
    pub batch_size: Option<u64>,
    /// Micro-batches of one optimizer step.
    pub accumulation: Option<u64>,
    /// Number of ranks.
    pub world_size: Option<u64>,
    /// What the batch was made of, where it is logged: a shard, a file, a batch's number.
    pub data: Option<String>,
}

/// One log file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct LogSource {
    /// Its name in the run.
    pub file: String,
    /// Its format, `trainer-state`.
    pub format: String,
    /// Rows read.
    pub rows: u64,
    /// Columns that were used: its own name for each quantity.
    pub columns: BTreeMap<String, String>,
}

/// What the numbers of a log mean, as far as it can be told.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct LogSemantics {
    /// Steps from one point to the next: the most common distance.
    pub stride: Option<u64>,
    /// Clipping threshold, where a config beside the log gives it.
    pub clip_threshold: Option<f64>,
    /// Logged norms are those before clipping; `None` where it cannot be told.
    pub before_clipping: Option<bool>,
    /// Logged norms were multiplied by the loss scale, and were divided by it here (A5).
    pub loss_scaled: bool,
    /// They were divided because of their size alone, since the scale does not change enough to see whether they follow it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub scaled_by_size: bool,
    /// Correlation of ln(norm as logged) with ln(loss scale), where both vary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale_correlation: Option<f64>,
    /// The framework replaces a NaN loss by a mean, so that NaN shows as a frozen loss or as 0 (A2).
    pub nan_filtered: bool,
    /// First and last step of each stretch in which a NaN was hidden so; the loss is NaN there (A2).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hidden_nan: Vec<[u64; 2]>,
    /// Points whose norm of exactly 0 means that it was not measured.
    pub unmeasured_zeros: u64,
    /// Points whose norm repeats the one before because the step was skipped; they have no norm.
    #[serde(default)]
    pub repeated_norms: u64,
    /// Losses are means over the steps since the point before, so that a single bad step is thinned; `None` where it
    /// cannot be told.
    #[serde(default)]
    pub loss_is_window_mean: Option<bool>,
    /// Steps at which another log, or another attempt, begins.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub seams: Vec<u64>,
}

/// What the logs of a run say of its epochs.
#[derive(Debug, Default)]
pub(super) struct Epochs {
    /// Steps with the epoch that a log says for each.
    pub of_steps: Vec<(u64, f64)>,
    /// The last step of all.
    pub last_step: Option<u64>,
}

/// The logs of a run as found.
#[derive(Debug, Default)]
pub(super) struct LogFiles {
    /// In the order in which they were written, as far as their names tell it.
    pub logs: Vec<LogFile>,
    /// `trainer_state.json` of the newest checkpoint, and of the run.
    pub states: Vec<LogFile>,
}

/// A log as found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LogFile {
    /// Where it is.
    pub path: PathBuf,
    /// Its name in the run.
    pub name: String,
}

/// Reads `files`, joins them, settles what their numbers mean, and notes all of it in `history`. What it says of epochs, of
/// steps behind the last that is looked at as well.
///
/// # Errors
/// When the user names a column that no log has.
pub(super) fn read(
    run: &Path,
    files: &LogFiles,
    clip_threshold: Option<f64>,
    options: &Options,
    context: &Context,
    history: &mut History,
) -> Result<Epochs> {
    let mut reading = Reading { options, context, columns: BTreeSet::new() };
    let mut tables: Vec<Table> = read_states(&files.states, &mut reading, history).into_iter().collect();
    for file in &files.logs {
        tables.extend(read_one(file, &mut reading, history).map(|read| read.table));
    }
    reading.missing_column().map_or(Ok(()), |kind| Err(kind.in_file(run)))?;
    losses::settle(&mut tables, &mut history.remarks);
    let clip_threshold = clip_threshold.or_else(|| tables.iter().find_map(|table| table.clip_threshold));
    // Known without a log as well: it is what second moments and dumps are held against.
    history.clip_threshold = clip_threshold;
    if tables.is_empty() {
        return Ok(Epochs::default());
    }
    let last = tables.iter().flat_map(|table| &table.series).filter_map(|series| series.points.last());
    let last_step = last.map(|(step, _)| *step).max();
    let epochs = tables.iter().flat_map(|table| {
        let shift = u64::from(merge::counts_from_zero(table));
        table.epochs.iter().map(move |(step, epoch)| (step + shift, *epoch))
    });
    let epochs = Epochs { of_steps: epochs.collect(), last_step };
    let merged = merge::merge(&tables, options.until, &mut history.remarks);
    drop(tables);
    let log = semantics::settle(merged, clip_threshold, &mut history.remarks);
    if !log.records.is_empty() {
        history.log = Some(log);
    }
    Ok(epochs)
}

/// What the logs are read by, and the columns that they were seen to have.
struct Reading<'a> {
    options: &'a Options,
    context: &'a Context,
    columns: BTreeSet<String>,
}

/// Columns that are listed where one is missing.
const MOST_LISTED: usize = 40;

impl Reading<'_> {
    /// The first column of the user's that no log has.
    fn missing_column(&self) -> Option<ErrorKind> {
        let missing = self.options.columns.iter().find(|choice| !self.columns.contains(&choice.name))?;
        Some(ErrorKind::NoSuchColumn { name: missing.name.clone(), columns: listed(&self.columns) })
    }
}

/// Names of columns, as far as a person reads on.
fn listed(columns: &BTreeSet<String>) -> String {
    let mut names: Vec<&str> = columns.iter().take(MOST_LISTED).map(String::as_str).collect();
    let more = format!("{} more", columns.len().saturating_sub(MOST_LISTED));
    if columns.len() > MOST_LISTED {
        names.push(&more);
    }
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

/// Reads one log, and notes what is to be known about it.
fn read_one(file: &LogFile, reading: &mut Reading<'_>, history: &mut History) -> Option<ReadLog> {
    let given = reading.options.logs.contains(&file.path);
    match detect::read(file, &reading.options.columns, reading.context) {
        Ok(Some(mut read)) => {
            if let Some(earlier) = &reading.options.earlier
                && earlier.leave_out(&file.path, &mut read.table)
            {
                // Nothing of it that is behind the step counts: no later state goes before one of the new attempt.
                read.global_step = read.global_step.map(|step| step.min(earlier.step() as f64));
            }
            let columns: BTreeSet<String> = read.table.columns().map(str::to_owned).collect();
            let is_recognised = read.problem.is_some() || !read.table.series.is_empty();
            if given && !is_recognised {
                let message = format!(
                    "none of its columns is recognised: say with --columns QUANTITY=NAME what they hold; it has {}",
                    listed(&columns)
                );
                history.remark(RemarkKind::LeftOut, Some(file.name.clone()), message);
            }
            reading.columns.extend(columns);
            history.errors.extend(read.problem.take());
            for note in std::mem::take(&mut read.notes) {
                history.remark(RemarkKind::LeftOut, Some(file.name.clone()), note);
            }
            is_recognised.then_some(read)
        }
        Ok(None) => {
            if given {
                let message = "it is no log of a format that is read: export it as CSV or JSON lines";
                history.remark(RemarkKind::LeftOut, Some(file.name.clone()), message);
            }
            None
        }
        Err(mut error) => {
            if error.kind == ErrorKind::EmptyFile {
                // Another checkpoint is no remedy for a log.
                error.kind = ErrorKind::SideFile {
                    what: "the log",
                    message: "it is empty: nothing was logged, or not yet".to_owned(),
                };
            }
            history.errors.push(error);
            None
        }
    }
}

/// The longest of the Trainer's states: each checkpoint holds the whole log up to it.
fn read_states(states: &[LogFile], reading: &mut Reading<'_>, history: &mut History) -> Option<Table> {
    let mut best: Option<ReadLog> = None;
    for file in states {
        let Some(read) = read_one(file, reading, history) else { continue };
        let later = |best: &ReadLog| read.global_step.unwrap_or(0.0) > best.global_step.unwrap_or(0.0);
        if best.as_ref().is_none_or(later) {
            best = Some(read);
        }
    }
    best.map(|best| best.table)
}
