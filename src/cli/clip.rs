//! `flashpoint clip RUN|LOG|DUMPS`: find, measure, recommend, report.

use std::path::PathBuf;

use clap::Args;
use flashpoint::analysis::run::{Request, measure};
use flashpoint::clip::advise;
use flashpoint::error::Result;
use flashpoint::history::{Column, History, Options};
use flashpoint::report::{ClipReport, clip_page};

use super::Outcome;
use super::options::Reading;
use super::output::Outputs;
use super::progress::Progress;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  flashpoint clip outputs
  flashpoint clip outputs/checkpoint-4000/trainer_state.json --format json
  flashpoint clip run/gradients --per-layer
  flashpoint clip train.csv --columns grad_norm=gnorm")]
pub struct Arguments {
    /// The run's directory, a log of it, or a directory of gradient dumps
    #[arg(value_name = "RUN")]
    run: PathBuf,
    /// Show the tensors that spikes are in, and whether to clip them on their own
    #[arg(long, help_heading = "Output")]
    per_layer: bool,
    /// Look at no later step, as if the run had ended there
    #[arg(long, value_name = "STEP", help_heading = "Reading")]
    until: Option<u64>,
    /// Gradient dumps beside those that are found; repeatable
    #[arg(long, value_name = "DIR", help_heading = "Reading")]
    grads: Vec<PathBuf>,
    /// Logs, in place of those that are found; repeatable
    #[arg(long, value_name = "FILE", help_heading = "Reading")]
    log: Vec<PathBuf>,
    /// Columns of the log, where they are not recognised, such as `grad_norm=train/gnorm`; repeatable
    #[arg(long, value_name = "QUANTITY=NAME", help_heading = "Reading")]
    columns: Vec<Column>,
    #[command(flatten)]
    reading: Reading,
    #[command(flatten)]
    outputs: Outputs,
}

pub fn run(arguments: &Arguments) -> Result<Outcome> {
    let inputs = [&[arguments.run.clone()][..], &arguments.grads, &arguments.log].concat();
    arguments.outputs.check(&inputs)?;
    let context = arguments.reading.context()?;
    let policy = arguments.reading.policy(&context)?;
    let options = Options {
        grads: arguments.grads.clone(),
        logs: arguments.log.clone(),
        until: arguments.until,
        columns: arguments.columns.clone(),
    };
    let history = History::read(&arguments.run, &options, &context)?;
    let request = Request { level: arguments.reading.level(), names: &policy.names };
    let progress = Progress::start(&context, arguments.outputs.quiet);
    let measured = measure(&history, &request, &context);
    progress.finish();
    for error in &measured.errors {
        eprintln!("flashpoint: {error}");
    }
    let report = ClipReport::new(&measured.analysis, advise(&measured.analysis));
    arguments.outputs.write(&report, |style| clip_page(&report, arguments.per_layer, style))?;
    Ok(if context.cancelled() {
        Outcome::Interrupted
    } else if !report.is_answered() || !measured.errors.is_empty() {
        Outcome::CouldNot
    } else {
        Outcome::Answered
    })
}
