//! `flashpoint postmortem RUN`: find, measure, judge, diagnose, report.

use std::path::PathBuf;

use clap::Args;
use flashpoint::analysis::model::CheckpointAnalysis;
use flashpoint::analysis::run::{Request, measure};
use flashpoint::diagnosis::diagnose;
use flashpoint::error::Result;
use flashpoint::history::{Columns, History, Options};
use flashpoint::report::{PostMortem, postmortem_page};
use flashpoint::rules;

use super::Outcome;
use super::options::{FailOn, Reading};
use super::output::Outputs;
use super::progress::Progress;
use super::read::{is_nothing, nothing_of_a_run};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  flashpoint postmortem outputs
  flashpoint postmortem outputs --until 4000
  flashpoint postmortem run --log train.csv --columns step=iter,loss=train_nll,grad_norm=gnorm,lr=rate
  flashpoint postmortem run --log first.jsonl --log resumed.jsonl --format json > report.json")]
pub struct Arguments {
    /// The run's directory: its checkpoints, gradient dumps and logs
    #[arg(value_name = "RUN")]
    run: PathBuf,
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
    #[command(flatten)]
    reading: Reading,
    #[command(flatten)]
    outputs: Outputs,
    /// Which findings make the exit code 1
    #[arg(long, value_enum, default_value_t = FailOn::Never)]
    fail_on: FailOn,
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
        columns: arguments.columns.iter().flat_map(|Columns(columns)| columns.clone()).collect(),
    };
    let history = History::read(&arguments.run, &options, &context)?;
    let request = Request { level: arguments.reading.level(), names: &policy.names };
    let progress = Progress::start(&context, arguments.outputs.quiet);
    let measured = measure(&history, &request, &context);
    progress.finish();
    for error in &measured.errors {
        eprintln!("flashpoint: {error}");
    }
    let analysis = measured.analysis;
    if is_nothing(&analysis) {
        return match (context.cancelled(), measured.errors.is_empty()) {
            (true, _) => Ok(Outcome::Interrupted),
            (false, true) => Err(nothing_of_a_run(&arguments.run, &history, &context)),
            (false, false) => Ok(Outcome::CouldNot),
        };
    }
    let damaged = analysis.checkpoints.iter().any(CheckpointAnalysis::is_damaged);
    let assessment = rules::evaluate(&analysis, &policy.thresholds);
    let failed = arguments.fail_on.fails(assessment.worst());
    let diagnosis = diagnose(&analysis, &assessment);
    let report = PostMortem::new(analysis, assessment, diagnosis, &policy.thresholds);
    let interrupted = context.cancelled();
    let report = if interrupted { report.interrupted() } else { report };
    arguments.outputs.write(&report, |style| postmortem_page(&report, style))?;
    Ok(if interrupted {
        Outcome::Interrupted
    } else if damaged || !measured.errors.is_empty() {
        Outcome::CouldNot
    } else if failed {
        Outcome::Findings
    } else {
        Outcome::Answered
    })
}
