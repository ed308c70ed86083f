//! `flashpoint measure PATH… --output X.measured.json`: everything measured, no weights.

use std::path::PathBuf;

use clap::Args;
use flashpoint::analysis::measurement;
use flashpoint::analysis::model::CheckpointAnalysis;
use flashpoint::error::{ErrorKind, Result};
use flashpoint::files::write_atomically;

use super::Outcome;
use super::options::{Digests, Reading};
use super::output::{check_writable, print};
use super::progress::Progress;
use super::read::read;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  flashpoint measure checkpoint-4000 --output checkpoint-4000.measured.json
  flashpoint inspect checkpoint-4000.measured.json")]
pub struct Arguments {
    /// Checkpoint files or directories
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Where to write it, ending in .measured.json [default: stdout]
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    reading: Reading,
    #[command(flatten)]
    digests: Digests,
    /// No progress on stderr
    #[arg(long, short)]
    quiet: bool,
}

pub fn run(arguments: &Arguments) -> Result<Outcome> {
    if let Some(path) = &arguments.output {
        if !measurement::is_measurement(path) {
            let message =
                format!("its name must end in {}, or no command will know it again", measurement::SUFFIX);
            return Err(ErrorKind::SideFile { what: "the measurement file", message }.in_file(path));
        }
        check_writable(path, &arguments.paths)?;
    }
    let context = arguments.reading.context()?;
    let policy = arguments.reading.policy(&context)?;
    let progress = Progress::start(&context, arguments.quiet);
    let read = read(
        &arguments.paths,
        arguments.reading.level(),
        arguments.digests.wanted(),
        &policy.names,
        &context,
    );
    progress.finish();
    for error in &read.errors {
        eprintln!("flashpoint: {error}");
    }
    if context.cancelled() {
        // Half a measurement would pass for a whole one.
        return Ok(Outcome::Interrupted);
    }
    if !read.errors.is_empty() {
        return Ok(Outcome::CouldNot);
    }
    let bytes = measurement::to_json(&read.analysis);
    match &arguments.output {
        Some(path) => write_atomically(path, &bytes)?,
        None => print(&bytes)?,
    }
    let damaged = read.analysis.checkpoints.iter().any(CheckpointAnalysis::is_damaged);
    Ok(if damaged { Outcome::CouldNot } else { Outcome::Answered })
}
