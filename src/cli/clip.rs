//! `flashpoint clip RUN|LOG|DUMPS`: find, measure, recommend, report.

use std::path::PathBuf;

use clap::Args;
use flashpoint::clip::advise;
use flashpoint::error::Result;
use flashpoint::report::{ClipReport, clip_page};

use super::Outcome;
use super::options::Reading;
use super::output::Outputs;
use super::run::{RunFlags, measure_run};

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
    #[command(flatten)]
    flags: RunFlags,
    #[command(flatten)]
    reading: Reading,
    #[command(flatten)]
    outputs: Outputs,
}

pub fn run(arguments: &Arguments) -> Result<Outcome> {
    arguments.outputs.check(&arguments.flags.inputs(&arguments.run))?;
    let context = arguments.reading.context()?;
    let policy = arguments.reading.policy(&context)?;
    let history = arguments.flags.history(&arguments.run, &context)?;
    let measured =
        measure_run(&history, &arguments.reading, &policy.names, arguments.outputs.quiet, &context);
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
