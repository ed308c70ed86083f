//! `flashpoint measure PATH… --output X.measured.json`: everything measured, no weights.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;
use flashpoint::analysis::measurement;
use flashpoint::analysis::model::{Analysis, CheckpointAnalysis, MeasureLevel};
use flashpoint::analysis::run::{MeasuredRun, Request, measure};
use flashpoint::error::{ErrorKind, Result};
use flashpoint::files::write_atomically;
use flashpoint::gate::Policy;
use flashpoint::history::{History, Options};
use flashpoint::report::safe;
use flashpoint::rules::{self, Severity};

use super::Outcome;
use super::options::{Digests, Reading};
use super::output::{check_writable, print};
use super::progress::Progress;
use super::read::{Read, is_nothing, is_run, nothing_of_a_run, read};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  flashpoint measure checkpoint-4000 --output checkpoint-4000.measured.json
  flashpoint measure outputs --output outputs.measured.json.gz
  flashpoint inspect checkpoint-4000.measured.json")]
pub struct Arguments {
    /// Checkpoint files or directories, or the directory of one run
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Where to write it, ending in .measured.json or .measured.json.gz [default: stdout]
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
            return Err(ErrorKind::OutputName { ending: measurement::SUFFIX }.in_file(path));
        }
        check_writable(path, &arguments.paths)?;
    }
    let context = arguments.reading.context()?;
    let policy = arguments.reading.policy(&context)?;
    let progress = Progress::start(&context, arguments.quiet);
    let read = match &arguments.paths[..] {
        [run] if is_run(run, &context) => {
            let history = History::read(run, &Options::default(), &context)?;
            let request =
                Request { level: arguments.reading.level_or(MeasureLevel::Stats), names: &policy.names };
            let MeasuredRun { analysis, errors } = measure(&history, &request, &context);
            if errors.is_empty() && is_nothing(&analysis) && !context.cancelled() {
                progress.finish();
                return Err(nothing_of_a_run(run, &history, &context));
            }
            Read { analysis, errors, places: BTreeMap::new() }
        }
        paths => {
            let (level, digests) =
                (arguments.reading.level_or(MeasureLevel::Spectra), arguments.digests.wanted());
            read(paths, level, digests, &policy.names, &context)
        }
    };
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
    match &arguments.output {
        Some(path) => {
            write_atomically(path, &measurement::to_bytes(&read.analysis, path))?;
            if !arguments.quiet {
                tell_critical(&read.analysis, &policy);
            }
        }
        None => print(&measurement::to_json(&read.analysis))?,
    }
    let damaged = read.analysis.checkpoints.iter().any(CheckpointAnalysis::is_damaged);
    Ok(if damaged { Outcome::CouldNot } else { Outcome::Answered })
}

/// Says that what was written down is not sound: as a baseline of the gate it makes known what it shows.
fn tell_critical(analysis: &Analysis, policy: &Policy) {
    let assessment = rules::evaluate(analysis, &policy.thresholds);
    let mut critical = assessment.findings.iter().filter(|found| found.severity == Severity::Critical);
    if let Some(first) = critical.next() {
        let more = critical.count();
        let more = if more == 0 { String::new() } else { format!(", and {more} more") };
        eprintln!(
            "flashpoint: warning: it has a critical finding{more}: {} {}: {}; as the baseline of a gate it would make it known",
            first.rule,
            first.name,
            safe(&first.message)
        );
    }
}
