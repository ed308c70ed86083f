//! `flashpoint clip RUN|LOG|DUMPS`: find, measure, recommend, report.

use std::path::PathBuf;

use clap::Args;
use flashpoint::clip::{advise, collect};
use flashpoint::error::Result;
use flashpoint::report::{ClipReport, clip_html, clip_markdown, clip_page, clip_plots};

use super::Outcome;
use super::options::Reading;
use super::output::{Outputs, Renderings};
use super::run::{RunFlags, measure_run};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  flashpoint clip outputs
  flashpoint clip outputs/checkpoint-4000/trainer_state.json --format json
  flashpoint clip run/gradients --per-layer
  flashpoint clip train.csv --columns grad_norm=gnorm
  flashpoint clip outputs --output clip.html")]
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
    let series = collect(&measured.analysis);
    let renderings = Renderings {
        terminal: &|style| clip_page(&report, arguments.per_layer, style),
        markdown: &|| clip_markdown(&report),
        html: &|| clip_html(&report, &series),
        plots: &|| clip_plots(&series, &report.advice.recommendation),
        findings: None,
    };
    arguments.outputs.write(&report, &renderings)?;
    Ok(if context.cancelled() {
        Outcome::Interrupted
    } else if !report.is_answered() || !measured.errors.is_empty() {
        Outcome::CouldNot
    } else {
        Outcome::Answered
    })
}
