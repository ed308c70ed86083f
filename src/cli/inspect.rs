//! `flashpoint inspect PATH…`: read, measure, judge, report.

use std::path::PathBuf;

use clap::Args;
use flashpoint::analysis;
use flashpoint::analysis::model::{CheckpointAnalysis, MeasureLevel};
use flashpoint::error::Result;
use flashpoint::report::{Report, checkpoint_reports, checkpoints_html};
use flashpoint::rules;

use super::Outcome;
use super::options::{FailOn, Reading};
use super::output::Outputs;
use super::progress::Progress;
use super::read::read;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  flashpoint inspect checkpoint-4000
  flashpoint inspect model.safetensors --all
  flashpoint inspect run/*.pt --format json --fail-on critical > report.json")]
pub struct Arguments {
    /// Checkpoint files or directories, or measurement files (*.measured.json)
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    #[command(flatten)]
    reading: Reading,
    #[command(flatten)]
    outputs: Outputs,
    /// Which findings make the exit code 1
    #[arg(long, value_enum, default_value_t = FailOn::Never)]
    fail_on: FailOn,
}

pub fn run(arguments: &Arguments) -> Result<Outcome> {
    arguments.outputs.check_for_report(&arguments.paths)?;
    let context = arguments.reading.context()?;
    let policy = arguments.reading.policy(&context)?;
    let level = arguments.reading.level_or(MeasureLevel::Spectra);
    // Where only names are asked for, there is nothing to wait for.
    let progress = Progress::start(&context, arguments.outputs.quiet || level == MeasureLevel::List);
    let read = read(&arguments.paths, level, false, &policy.names, &context);
    progress.finish();
    for error in &read.errors {
        eprintln!("flashpoint: {error}");
    }
    // People have read the reasons on stderr; programs read the report.
    if read.analysis.checkpoints.is_empty() && !arguments.outputs.are_for_programs() {
        return Ok(Outcome::CouldNot);
    }
    let damaged = read.analysis.checkpoints.iter().any(CheckpointAnalysis::is_damaged);
    let judged = read.analysis.is_judged();
    let assessment = rules::evaluate(&read.analysis, &policy.thresholds);
    let failed = arguments.fail_on.fails(assessment.worst());
    let report = Report::new(
        read.analysis,
        assessment,
        &policy.thresholds,
        read.errors.iter().map(analysis::unread).collect(),
    );
    let report = report.at(read.places);
    let interrupted = context.cancelled();
    let report = if interrupted { report.interrupted() } else { report };
    arguments.outputs.write_report(&report, &|style| checkpoint_reports(&report, style), checkpoints_html)?;
    // The process ends: the system takes all memory back at once, and not a name at a time.
    std::mem::forget(report);
    // Where only names were asked for, having judged nothing is an answer; as a check it is none.
    let unanswered = !judged && (arguments.fail_on != FailOn::Never || !arguments.reading.is_list());
    Ok(if interrupted {
        Outcome::Interrupted
    } else if damaged || unanswered || !read.errors.is_empty() {
        Outcome::CouldNot
    } else if failed {
        Outcome::Findings
    } else {
        Outcome::Answered
    })
}
