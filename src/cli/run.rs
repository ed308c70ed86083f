//! The run of a command that looks at one as a whole: what is looked for, and how it is measured.

use std::path::{Path, PathBuf};

use clap::Args;
use flashpoint::analysis::run::{MeasuredRun, Request, measure};
use flashpoint::checkpoint::NameRules;
use flashpoint::context::Context;
use flashpoint::error::Result;
use flashpoint::history::{Column, Columns, History, Options};

use super::options::Reading;
use super::progress::Progress;

#[derive(Debug, Args)]
pub struct RunFlags {
    /// Look at no later step, as if the run had ended there
    #[arg(long, value_name = "STEP", help_heading = "Reading")]
    until: Option<u64>,
    /// Gradient dumps beside those that are found; repeatable
    #[arg(long, value_name = "DIR", help_heading = "Reading")]
    grads: Vec<PathBuf>,
    /// A log that is not found, or not the one that is meant: read in place of those that are; repeatable, in the order
    /// in which they were written
    #[arg(long, value_name = "FILE", help_heading = "Reading")]
    log: Vec<PathBuf>,
    /// Which column of the logs is which quantity, where it is not recognised: `step=iter,loss=train_nll`. Quantities: step,
    /// loss, grad_norm, grad_norm_by_layer, learning_rate (or lr), loss_scale, non_finite, skipped, batch_size,
    /// accumulation, world_size, data; repeatable
    #[arg(long, value_name = "QUANTITY=NAME,…", help_heading = "Reading")]
    columns: Vec<Columns>,
}

impl RunFlags {
    /// Everything that is read of `run`: no output may go there.
    pub fn inputs(&self, run: &Path) -> Vec<PathBuf> {
        [&[run.to_owned()][..], &self.grads, &self.log].concat()
    }

    /// Columns of logs for quantities, in place of those that are recognised.
    pub fn columns(&self) -> Vec<Column> {
        self.columns.iter().flat_map(|Columns(columns)| columns.clone()).collect()
    }

    /// What `run` left on disk.
    pub fn history(&self, run: &Path, context: &Context) -> Result<History> {
        let options = Options {
            grads: self.grads.clone(),
            logs: self.log.clone(),
            until: self.until,
            columns: self.columns(),
        };
        History::read(run, &options, context)
    }
}

/// Measures a run, with progress; what could not be read is told on stderr.
pub fn measure_run(
    history: &History,
    reading: &Reading,
    names: &NameRules,
    quiet: bool,
    context: &Context,
) -> MeasuredRun {
    let request = Request { level: reading.level(), names };
    let progress = Progress::start(context, quiet);
    let measured = measure(history, &request, context);
    progress.finish();
    for error in &measured.errors {
        eprintln!("flashpoint: {error}");
    }
    measured
}
