//! What a training run left on disk, by step: its checkpoints, its gradient dumps, its logs.
//!
//! Discovers and orders; opens no tensor and judges nothing. What was taken for what, and what was left out, is said in
//! [`History::remarks`]. Conventions and their reasons: `docs/run-directory.md` for our own, `docs/formats.md` for others.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::context::Context;
use crate::error::{Error, Result};

mod discovery;
mod epochs;
pub mod log;

pub use log::{Column, Columns, Earlier, Log, LogSemantics, LogSource, Number, Quantity, Record};

/// Words for the parts of the data that are not trained on.
const EVALUATION: &[&str] = &["eval", "evaluation", "valid", "validation", "val", "test"];

/// A run as found on disk.
#[derive(Debug)]
pub struct History {
    /// The path's last component, never absolute.
    pub name: String,
    /// Its checkpoints, by ascending step; those without a step are left out, with a remark.
    pub checkpoints: Vec<Found>,
    /// Checkpoints and dumps that other ranks wrote of steps that are in the lists above and below, by ascending step.
    pub replicas: Vec<Found>,
    /// Its gradient dumps, by ascending step.
    pub dumps: Vec<Found>,
    /// Everything its logs say; `None` where there is none.
    pub log: Option<Log>,
    /// The clipping threshold, where a config, a log or a checkpoint says it.
    pub clip_threshold: Option<f64>,
    /// The last step that was looked at, where the user asked to stop there.
    pub until: Option<u64>,
    /// What was taken for what, what was left out.
    pub remarks: Vec<Remark>,
    /// What could not be read.
    pub errors: Vec<Error>,
}

/// What the user says about a run beyond where it is.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Gradient dumps, or directories of them, beside those that are found.
    pub grads: Vec<PathBuf>,
    /// Logs, in place of those that are found.
    pub logs: Vec<PathBuf>,
    /// Look at no later step, as if the run had ended there.
    pub until: Option<u64>,
    /// Columns of logs for quantities, in place of those that are recognised.
    pub columns: Vec<Column>,
    /// What the logs held before the attempt that is looked at: left out behind the step that it goes on from.
    pub earlier: Option<Earlier>,
}

/// Something to know about what was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Remark {
    /// What kind of thing it is.
    pub kind: RemarkKind,
    /// First and last step it is about.
    pub steps: Option<[u64; 2]>,
    /// The file, in the run.
    pub file: Option<String>,
    /// One sentence, lower case, without a full stop.
    pub message: String,
}

/// Kinds of remarks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum RemarkKind {
    /// What a file, a column or a directory was taken for.
    TakenFor,
    /// Left out, and why.
    LeftOut,
    /// Steps for which nothing was recorded.
    Gap,
    /// The step went back: a resume from an earlier state.
    Rewind,
    /// The join of two logs or of two parts of one.
    Seam,
    /// Recorded twice; the last writer was kept.
    Duplicate,
    /// A known way in which logs mislead, and how the numbers were read instead.
    Semantics,
    /// Two checkpoints of a run that do not match tensor by tensor.
    Mismatch,
}

/// A checkpoint or a dump, not opened yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Where it is: what `Checkpoint::read` takes, or a measurement file.
    pub path: PathBuf,
    /// Its step, by its name or by what is beside it.
    pub step: u64,
    /// Whether it was measured before.
    pub kind: FoundKind,
    /// Its name counts epochs, and nothing beside it says a step: the number is an epoch's until a log says where that ended.
    pub(crate) by_epoch: bool,
}

/// What a [`Found`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FoundKind {
    /// Something to measure.
    Stored,
    /// A measurement file.
    Measured,
}

impl History {
    /// Finds what `run` left: a directory, or a single log, checkpoint or measurement file.
    ///
    /// Only names and sizes of tensors' files are looked at, but where a name has no step; logs are read whole.
    ///
    /// # Errors
    /// When there is nothing at `run`, or it cannot be listed, or when the user names a column that no log has. What is
    /// wrong with one file of it is in [`History::errors`].
    pub fn read(run: &Path, options: &Options, context: &Context) -> Result<Self> {
        let mut history = Self::of(run, options);
        let (logs, clip_threshold) = discovery::discover(run, options, context, &mut history)?;
        let logged = log::read(run, &logs, clip_threshold, options, context, &mut history)?;
        epochs::place(&mut history, logged);
        if let Some(until) = options.until {
            history.checkpoints.retain(|found| found.step <= until);
            history.dumps.retain(|found| found.step <= until);
            history.replicas.retain(|found| found.step <= until);
        }
        Ok(history)
    }

    /// Where the checkpoints that can be loaded lie, by step, each path beginning with that of the run as it was given.
    pub fn stored_checkpoints(&self) -> BTreeMap<u64, String> {
        let stored = self.checkpoints.iter().filter(|found| found.kind == FoundKind::Stored);
        stored.map(|found| (found.step, found.path.display().to_string())).collect()
    }

    /// Nothing found yet.
    fn of(run: &Path, options: &Options) -> Self {
        Self {
            name: name_of(run),
            checkpoints: Vec::new(),
            replicas: Vec::new(),
            dumps: Vec::new(),
            log: None,
            clip_threshold: None,
            until: options.until,
            remarks: Vec::new(),
            errors: Vec::new(),
        }
    }

    /// Notes something about `file`.
    fn remark(&mut self, kind: RemarkKind, file: Option<String>, message: impl Into<String>) {
        self.remarks.push(Remark { kind, steps: None, file, message: message.into() });
    }
}

/// The last component of `run`, also where it was named `.`.
fn name_of(run: &Path) -> String {
    let resolved = run.canonicalize().unwrap_or_else(|_| run.to_owned());
    resolved.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}
