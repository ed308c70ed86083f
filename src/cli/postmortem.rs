//! `flashpoint postmortem RUN`: find, measure, judge, diagnose, report.

use std::path::PathBuf;

use clap::Args;
use flashpoint::analysis::model::CheckpointAnalysis;
use flashpoint::analysis::unread;
use flashpoint::diagnosis::{Places, diagnose_at};
use flashpoint::error::Result;
use flashpoint::report::{
    PostMortem, postmortem_html, postmortem_markdown, postmortem_page, postmortem_plots,
};
use flashpoint::rules;

use super::Outcome;
use super::options::{FailOn, Reading};
use super::output::{Outputs, Renderings};
use super::read::{is_nothing, nothing_of_a_run};
use super::run::{RunFlags, measure_run};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  flashpoint postmortem outputs
  flashpoint postmortem outputs --until 4000
  flashpoint postmortem run --log train.csv --columns step=iter,loss=train_nll,grad_norm=gnorm,lr=rate
  flashpoint postmortem run --log first.jsonl --log resumed.jsonl --format json > report.json
  flashpoint postmortem outputs --output report.html --plots plots")]
pub struct Arguments {
    /// The run's directory: its checkpoints, gradient dumps and logs
    #[arg(value_name = "RUN")]
    run: PathBuf,
    #[command(flatten)]
    flags: RunFlags,
    #[command(flatten)]
    reading: Reading,
    #[command(flatten)]
    outputs: Outputs,
    /// Which findings make the exit code 1; a verdict other than none counts as a warning
    #[arg(long, value_enum, default_value_t = FailOn::Never)]
    fail_on: FailOn,
}

pub fn run(arguments: &Arguments) -> Result<Outcome> {
    arguments.outputs.check_for_report(&arguments.flags.inputs(&arguments.run))?;
    let context = arguments.reading.context()?;
    let policy = arguments.reading.policy(&context)?;
    let history = arguments.flags.history(&arguments.run, &context)?;
    let measured =
        measure_run(&history, &arguments.reading, &policy.names, arguments.outputs.quiet, &context);
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
    let found = assessment.worst();
    let places =
        Places { run: Some(arguments.run.display().to_string()), checkpoints: history.stored_checkpoints() };
    let diagnosis = diagnose_at(&analysis, &assessment, &places);
    let failed = arguments.fail_on.fails(found.max(diagnosis.severity()));
    // Who reads the findings alone sees no reason for the exit code.
    if failed && !arguments.fail_on.fails(found) {
        eprintln!("flashpoint: no finding fails --fail-on, but the verdict does: {}", diagnosis.verdict);
    }
    let unread = measured.errors.iter().map(unread).collect();
    let report = PostMortem::new(analysis, assessment, diagnosis, &policy.thresholds).without(unread);
    let interrupted = context.cancelled();
    let report = if interrupted { report.interrupted() } else { report };
    let renderings = Renderings {
        terminal: &|style| postmortem_page(&report, style),
        markdown: &|| postmortem_markdown(&report),
        html: &|| postmortem_html(&report),
        plots: &|| postmortem_plots(&report),
        findings: Some(&|| report.as_report()),
    };
    arguments.outputs.write(&report, &renderings)?;
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
