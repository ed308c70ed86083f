//! A run measured: its checkpoints one after the other, what happened between neighbours, its dumps, its log.
//!
//! A stream: at most two checkpoints are open at a time, the one at hand and the one before it. What is kept of each is its
//! analysis, without what only matters for a single file (`compact`).

mod clipping;
mod compact;
mod elements;
mod replica;

use std::collections::HashMap;

use super::checkpoint::measure_checkpoint_beside;
use super::model::{
    Analysis, CheckpointAnalysis, ClippingAnalysis, DumpAnalysis, IntervalAnalysis, LogAnalysis,
    MeasureLevel, Measured, ReplicaAnalysis, Run,
};
use super::series::{self, interval, trailing};
use super::{measure_checkpoint, measurement, of_checkpoints};
use crate::checkpoint::{Checkpoint, NameRules};
use crate::context::Context;
use crate::error::Error;
use crate::history::{Found, FoundKind, History};

/// How to measure a run.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// How deep to measure each checkpoint.
    pub level: MeasureLevel,
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
    let mut run = Stream::new(history, request, context);
    for found in &history.checkpoints {
        if context.cancelled() {
            break;
        }
        run.checkpoint(found);
    }
    run.previous = None;
    for index in 0..history.dumps.len() {
        if context.cancelled() {
            break;
        }
        run.dump(index);
    }
    run.finish()
}

/// A run on the way.
struct Stream<'a> {
    history: &'a History,
    request: &'a Request<'a>,
    context: &'a Context,
    measured: MeasureLevel,
    checkpoints: Vec<CheckpointAnalysis>,
    intervals: Vec<IntervalAnalysis>,
    replicas: Vec<ReplicaAnalysis>,
    dumps: Vec<DumpAnalysis>,
    /// What a measurement file of a whole run held of clipping.
    clipping: Option<ClippingAnalysis>,
    /// What a measurement file of a whole run held of its log and of itself.
    held: (Option<LogAnalysis>, Option<Run>),
    previous: Option<Opened>,
    errors: Vec<Error>,
}

/// What the pass over each parameter of two checkpoints gave, by canonical name.
type ReadElements = HashMap<String, interval::Elements>;

/// A checkpoint of the run, still open where it can be.
struct Opened {
    step: u64,
    checkpoint: Option<Checkpoint>,
}

impl<'a> Stream<'a> {
    fn new(history: &'a History, request: &'a Request<'a>, context: &'a Context) -> Self {
        Self {
            history,
            request,
            context,
            measured: request.level,
            checkpoints: Vec::new(),
            intervals: Vec::new(),
            replicas: Vec::new(),
            dumps: Vec::new(),
            clipping: None,
            held: (None, None),
            previous: None,
            errors: history.errors.clone(),
        }
    }

    fn finish(mut self) -> MeasuredRun {
        trailing::fill(&mut self.intervals);
        let names: Vec<String> = self.checkpoints.iter().map(|checkpoint| checkpoint.name.clone()).collect();
        let mut analysis = of_checkpoints(self.checkpoints, self.measured);
        // Checkpoints of one name were told apart: intervals name them as they are called now.
        let mut ends = analysis.checkpoints.iter().zip(&names).zip(analysis.checkpoints.iter().skip(1));
        for interval in &mut self.intervals {
            let its_own = ends.find(|((from, name), _)| {
                **name == interval.from && from.step.value() == Some(&interval.from_step)
            });
            if let Some(((from, _), to)) = its_own {
                interval.from.clone_from(&from.name);
                interval.to.clone_from(&to.name);
            }
        }
        let (log, run) = self.held;
        let log = super::log::measure(self.history).or(log);
        let of_log = log.as_ref().and_then(|log| log.semantics.clip_threshold);
        let Run { clip_threshold, mut remarks, .. } = run.unwrap_or_default();
        remarks.extend(self.history.remarks.iter().cloned());
        analysis.run = Some(Run {
            name: self.history.name.clone(),
            until: self.history.until,
            clip_threshold: self.history.clip_threshold.or(clip_threshold).filter(|_| of_log.is_none()),
            remarks,
        });
        analysis.intervals = self.intervals;
        analysis.replicas = self.replicas;
        analysis.clipping =
            clipping::of(self.history, &self.dumps, self.request.names, self.context).or(self.clipping);
        analysis.dumps = self.dumps;
        analysis.log = log;
        MeasuredRun { analysis, errors: self.errors }
    }

    fn checkpoint(&mut self, found: &Found) {
        if found.kind == FoundKind::Measured {
            return self.measurement(found);
        }
        let checkpoint = match Checkpoint::read(&found.path, self.request.names, self.context) {
            Ok(checkpoint) => checkpoint,
            Err(error) => return self.errors.push(error),
        };
        let before = self.previous.as_ref().and_then(|previous| previous.checkpoint.as_ref());
        let shared = before.map(|before| elements::shared(before, &checkpoint));
        let (level, context) = (self.request.level, self.context);
        let pairs = elements::accompanying(shared.as_deref().unwrap_or_default(), level, context);
        let (analysis, gathered) = measure_checkpoint_beside(&checkpoint, level, &pairs, context);
        let elements = shared.map(|shared| elements::read(shared, gathered, context));
        self.replicas_of(found.step, &checkpoint);
        self.add(found.step, analysis, Some((checkpoint, elements)));
    }

    /// What a measurement file holds: one checkpoint, or a whole run.
    fn measurement(&mut self, found: &Found) {
        let held = match measurement::read(&found.path, self.context) {
            Ok(held) => held,
            Err(error) => return self.errors.push(error),
        };
        self.measured = self.measured.min(held.measured);
        let in_time = |step: u64| self.history.until.is_none_or(|until| step <= until);
        let only = held.checkpoints.len() == 1;
        let mut intervals =
            held.intervals.into_iter().filter(|interval| in_time(interval.to_step)).peekable();
        for checkpoint in held.checkpoints {
            let step = checkpoint.step.value().copied().or(only.then_some(found.step));
            let Some(step) = step.filter(|&step| in_time(step)) else { continue };
            let is_measured = intervals.peek().is_some_and(|interval| interval.to_step == step);
            match intervals.next_if(|_| is_measured) {
                Some(interval) => {
                    self.intervals.push(interval);
                    self.keep(step, checkpoint, None);
                }
                None => self.add(step, checkpoint, None),
            }
        }
        self.replicas.extend(held.replicas.into_iter().filter(|replica| in_time(replica.step)));
        self.dumps.extend(held.dumps.into_iter().filter(|dump| in_time(dump.step)));
        self.clipping = held.clipping.or(self.clipping.take());
        if let Some(mut log) = held.log {
            log.points.retain(|point| in_time(point.step));
            self.held.0 = Some(log);
        }
        self.held.1 = held.run.or(self.held.1.take());
    }

    /// Compares a checkpoint with the one before it, and keeps it.
    fn add(
        &mut self,
        step: u64,
        analysis: CheckpointAnalysis,
        read: Option<(Checkpoint, Option<ReadElements>)>,
    ) {
        let (checkpoint, elements) = read.map_or((None, None), |(one, elements)| (Some(one), elements));
        if let (Some(before), Some(earlier)) = (&self.previous, self.checkpoints.last()) {
            let (elements, unread) = match elements {
                Some(elements) => (elements, "it was not read at both checkpoints"),
                None => (HashMap::new(), ONLY_MEASURED),
            };
            let steps = [before.step, step];
            self.intervals.push(interval::between(earlier, &analysis, steps, &elements, unread));
        }
        self.keep(step, analysis, checkpoint);
    }

    fn keep(&mut self, step: u64, mut analysis: CheckpointAnalysis, checkpoint: Option<Checkpoint>) {
        compact::compact(&mut analysis);
        if analysis.step.value().is_none() {
            analysis.step = Measured::Value(step);
        }
        self.checkpoints.push(analysis);
        self.previous = Some(Opened { step, checkpoint });
    }

    /// Compares the other ranks' checkpoints of `step` with the lowest rank's.
    fn replicas_of(&mut self, step: u64, lowest: &Checkpoint) {
        for found in self.history.replicas.iter().filter(|found| found.step == step) {
            match Checkpoint::read(&found.path, self.request.names, self.context) {
                Ok(other) => self.replicas.push(replica::compare(step, lowest, &other, self.context)),
                Err(error) => self.errors.push(error),
            }
        }
    }

    fn dump(&mut self, index: usize) {
        let found = &self.history.dumps[index];
        let read = |found: &Found| Checkpoint::read(&found.path, self.request.names, self.context);
        let dump = match read(found) {
            Ok(dump) => dump,
            Err(error) => return self.errors.push(error),
        };
        let measured = measure_checkpoint(&dump, MeasureLevel::Norms, self.context);
        let threshold = clipping::threshold(self.history);
        let mut analysis = series::dump::of(&measured, &dump.metadata, found.step, threshold);
        if let Some(before) = index.checked_sub(1).map(|index| &self.history.dumps[index]) {
            let weights = |step: u64| {
                self.history
                    .checkpoints
                    .iter()
                    .find(|found| Some(found.step) == step.checked_sub(1) && found.kind == FoundKind::Stored)
            };
            if let (Some(one), Some(other)) = (weights(before.step), weights(found.step))
                && let (Ok(one), Ok(other), Ok(earlier)) = (read(one), read(other), read(before))
            {
                let (weights, gradients) = ([&one, &other], [&earlier, &dump]);
                let curvature = series::dump::curvature(weights, gradients, found.step, self.context);
                (analysis.secant, analysis.preconditioned) = (curvature.secant, curvature.preconditioned);
            }
        }
        self.dumps.push(analysis);
    }
}
