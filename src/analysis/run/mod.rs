//! A run measured: its checkpoints one after the other, what happened between neighbours, its dumps, its log.
//!
//! A stream: at most two checkpoints are open at a time, the one at hand and the one before it. What is kept of each is its
//! analysis, without what only matters for a single file ([`compact`]).

mod compact;
mod elements;

use std::collections::HashMap;

use super::model::{Analysis, CheckpointAnalysis, IntervalAnalysis, MeasureLevel, Measured, Run};
use super::series::{interval, trailing};
use super::{measure_checkpoint, measurement, of_checkpoints};
use crate::checkpoint::{Checkpoint, NameRules};
use crate::context::Context;
use crate::error::{Error, Result};
use crate::history::{Found, History};

/// How to measure a run.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// How deep to measure each checkpoint.
    pub level: MeasureLevel,
    /// Look at no later step, as if the run had ended there.
    pub until: Option<u64>,
    /// What names mean.
    pub names: &'a NameRules,
}

/// What a run amounts to, and what of it could not be read.
#[derive(Debug)]
pub struct MeasuredRun {
    /// What was measured.
    pub analysis: Analysis,
    /// One error for each checkpoint, dump or log that could not be read.
    pub errors: Vec<Error>,
}

/// What is said of elements where one of two checkpoints is known by its measurement file alone.
const ONLY_MEASURED: &str = "needs the elements of both checkpoints, and a measurement file holds none";

/// Measures what `history` found.
pub fn measure(history: &History, request: &Request<'_>, context: &Context) -> MeasuredRun {
    let mut errors = history.errors.clone();
    let mut checkpoints: Vec<CheckpointAnalysis> = Vec::new();
    let mut intervals = Vec::new();
    let mut measured = request.level;
    let mut previous: Option<Opened> = None;
    for found in history.checkpoints.iter().filter(|found| in_time(found.step, request.until)) {
        if context.cancelled() {
            break;
        }
        let (opened, analysis) = match open(found, request, context) {
            Ok(read) => read,
            Err(error) => {
                errors.push(error);
                continue;
            }
        };
        measured = measured.min(opened.level);
        if let (Some(before), Some(earlier)) = (&previous, checkpoints.last()) {
            intervals.push(between((before, earlier), (&opened, &analysis), context));
        }
        checkpoints.push(analysis);
        previous = Some(opened);
    }
    trailing::fill(&mut intervals);
    let mut analysis = of_checkpoints(checkpoints, measured);
    analysis.run =
        Some(Run { name: history.name.clone(), until: request.until, remarks: history.remarks.clone() });
    analysis.intervals = intervals;
    analysis.log = super::log::measure(history);
    MeasuredRun { analysis, errors }
}

fn in_time(step: u64, until: Option<u64>) -> bool {
    until.is_none_or(|until| step <= until)
}

/// A checkpoint of the run, still open where it can be.
struct Opened {
    step: u64,
    level: MeasureLevel,
    checkpoint: Option<Checkpoint>,
}

fn open(found: &Found, request: &Request<'_>, context: &Context) -> Result<(Opened, CheckpointAnalysis)> {
    let step = found.step;
    let (opened, mut analysis) = if measurement::is_measurement(&found.path) {
        let mut held = measurement::read(&found.path, context)?;
        let analysis = held.checkpoints.pop().ok_or_else(|| measurement::without_checkpoint(&found.path))?;
        (Opened { step, level: held.measured, checkpoint: None }, analysis)
    } else {
        let checkpoint = Checkpoint::read(&found.path, request.names, context)?;
        let analysis = measure_checkpoint(&checkpoint, request.level, context);
        (Opened { step, level: request.level, checkpoint: Some(checkpoint) }, analysis)
    };
    compact::compact(&mut analysis);
    if analysis.step.value().is_none() {
        analysis.step = Measured::Value(step);
    }
    Ok((opened, analysis))
}

fn between(
    (before, earlier): (&Opened, &CheckpointAnalysis),
    (after, later): (&Opened, &CheckpointAnalysis),
    context: &Context,
) -> IntervalAnalysis {
    let (elements, unread) = match (&before.checkpoint, &after.checkpoint) {
        (Some(one), Some(other)) => {
            (elements::read(one, other, context), "it was not read at both checkpoints")
        }
        _ => (HashMap::new(), ONLY_MEASURED),
    };
    interval::between(earlier, later, [before.step, after.step], &elements, unread)
}
