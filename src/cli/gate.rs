//! `flashpoint gate PATH…`: read, measure, judge against a policy and an accepted checkpoint, report.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args;
use flashpoint::analysis::{measurement, unread};
use flashpoint::context::Context;
use flashpoint::error::{Error, ErrorKind, Result};
use flashpoint::gate::{self, Baseline, Case, Policy, TEMPLATE, Unreadable};
use flashpoint::report::{Report, checkpoints_html, gate_report};
use flashpoint::rules;
use rawzip::time::UtcDateTime;
use toml::value::Date;

use super::Outcome;
use super::options::{DEFAULT_POLICY, Digests, Reading};
use super::output::{Outputs, print};
use super::progress::Progress;
use super::read::read;

#[derive(Debug, Args)]
#[command(after_help = "\
Exit codes: 0 pass, 1 fail, 2 could not decide (damaged, unreadable, not judged as the policy requires).

Examples:
  flashpoint gate checkpoint-900
  flashpoint gate checkpoint-900 --baseline accepted.measured.json --output sarif=gate.sarif --output junit=gate.xml
  flashpoint measure checkpoint-800 --output accepted.measured.json
  flashpoint gate --init")]
pub struct Arguments {
    /// Checkpoint files or directories, or measurement files (*.measured.json)
    #[arg(required_unless_present = "init", value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// The measurement file of an accepted checkpoint [default: baseline.file of the policy]
    #[arg(long, value_name = "FILE", help_heading = "Reading")]
    baseline: Option<PathBuf>,
    /// Write a commented flashpoint.toml to the current directory, and do nothing else
    #[arg(long, conflicts_with_all = ["paths", "baseline"])]
    init: bool,
    #[command(flatten)]
    reading: Reading,
    #[command(flatten)]
    digests: Digests,
    #[command(flatten)]
    outputs: Outputs,
}

pub fn run(arguments: &Arguments) -> Result<Outcome> {
    if arguments.init {
        return init(Path::new(DEFAULT_POLICY));
    }
    let context = arguments.reading.context()?;
    let policy = arguments.reading.policy(&context)?;
    let file = arguments.baseline.as_ref().or(policy.baseline.file.as_ref());
    let inputs = arguments.paths.iter().chain(file).chain(&arguments.reading.config).cloned();
    arguments.outputs.check_for_report(&inputs.collect::<Vec<_>>())?;
    let baseline = file.map(|file| accepted(file, arguments, &policy, &context)).transpose();
    // A wrong path must not cost an hour: what would be held against it is not measured, and the report says why.
    let (baseline, mut refused) = match baseline {
        Ok(baseline) => (baseline, None),
        Err(error) => (None, Some(error)),
    };
    let paths = if refused.is_some() { &[][..] } else { &arguments.paths };
    let progress = Progress::start(&context, arguments.outputs.quiet);
    let digests = arguments.digests.wanted();
    let read = read(paths, arguments.reading.level(), digests, &policy.names, &context);
    progress.finish();
    for error in &read.errors {
        eprintln!("flashpoint: {error}");
    }
    if let (Some(baseline), Some(file)) = (&baseline, file) {
        let mut checkpoints = read.analysis.checkpoints.iter();
        refused = checkpoints.find_map(|checkpoint| baseline.check_same_model(checkpoint, file).err());
    }
    let baseline = baseline.filter(|_| refused.is_none());
    if let Some(error) = &refused {
        eprintln!("flashpoint: {error}");
    }
    let refused = refused.as_ref().map(unreadable);
    let assessment = rules::evaluate(&read.analysis, &policy.thresholds);
    let interrupted = context.cancelled();
    let judgement = gate::judge(Case {
        analysis: &read.analysis,
        assessment: &assessment,
        unreadable: &read.errors.iter().map(unreadable).collect::<Vec<_>>(),
        refused_baseline: refused.as_ref(),
        policy: &policy,
        baseline: baseline.as_ref(),
        today: today(),
        interrupted,
    });
    let outcome = judgement.outcome;
    let unread = read.errors.iter().map(unread).collect();
    let report = Report::new(read.analysis, assessment, &policy.thresholds, unread);
    let report = report.at(read.places).judged(judgement);
    let report = if interrupted { report.interrupted() } else { report };
    arguments.outputs.write_report(&report, &|style| gate_report(&report, style), checkpoints_html)?;
    Ok(match outcome {
        _ if interrupted => Outcome::Interrupted,
        gate::Outcome::Pass => Outcome::Answered,
        gate::Outcome::Fail => Outcome::Findings,
        gate::Outcome::CouldNotDecide => Outcome::CouldNot,
    })
}

/// The accepted checkpoint, before the long work.
fn accepted(file: &Path, arguments: &Arguments, policy: &Policy, context: &Context) -> Result<Baseline> {
    if arguments.paths.len() > 1 {
        let message = "it is of one checkpoint, and several are to be judged".to_owned();
        return Err(ErrorKind::Baseline { message }.in_file(file));
    }
    // What is not there has no wrong name.
    std::fs::metadata(file).map_err(|error| Error::io(file, "read it", &error))?;
    if !measurement::is_measurement(file) {
        let message =
            format!("a baseline is a measurement file, and its name ends in {}", measurement::SUFFIX);
        return Err(ErrorKind::Baseline { message }.in_file(file));
    }
    Baseline::new(measurement::read(file, context)?, file, &policy.thresholds)
}

fn unreadable(error: &Error) -> Unreadable {
    let name = error.path.file_name().unwrap_or(error.path.as_os_str());
    let at = error.at.as_ref().map(|at| format!("{at}: ")).unwrap_or_default();
    Unreadable {
        name: name.to_string_lossy().into_owned(),
        message: format!("{at}{}", error.kind),
        advice: error.kind.advice().to_owned(),
    }
}

/// Writes the commented policy, never over a file that is there.
fn init(path: &Path) -> Result<Outcome> {
    let created = OpenOptions::new().write(true).create_new(true).open(path);
    let mut file = created.map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => ErrorKind::AlreadyThere.in_file(path),
        _ => Error::io(path, "write it", &error),
    })?;
    file.write_all(TEMPLATE.as_bytes()).map_err(|error| Error::io(path, "write it", &error))?;
    print(
        format!("wrote {}: every line in it is a comment that says what can be set\n", path.display())
            .as_bytes(),
    )?;
    Ok(Outcome::Answered)
}

/// The day it is in UTC: exceptions expire by it.
fn today() -> Date {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let now = UtcDateTime::from_unix(i64::try_from(seconds).unwrap_or(i64::MAX));
    Date { year: now.year(), month: now.month(), day: now.day() }
}
