//! `flashpoint diff A B`: what changed between two checkpoints, two ranks, or a master copy and its model.

use std::path::PathBuf;

use clap::Args;
use flashpoint::analysis::model::MeasureLevel;
use flashpoint::analysis::{diff, measurement};
use flashpoint::checkpoint::{Checkpoint, Section};
use flashpoint::error::{ErrorKind, Result};
use flashpoint::report::{
    DifferenceReport, difference_html, difference_markdown, difference_page, difference_plots,
};

use super::Outcome;
use super::options::{FailOn, Reading};
use super::output::{Outputs, Renderings};
use super::progress::Progress;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  flashpoint diff checkpoint-4000 checkpoint-4500
  flashpoint diff rank0.pt rank1.pt --replicas --fail-on critical
  flashpoint diff master.safetensors model.safetensors --master")]
pub struct Arguments {
    /// A checkpoint, not its measurement file: the earlier one, the lowest rank's, or the one with the f32 master weights
    #[arg(value_name = "A")]
    before: PathBuf,
    /// The checkpoint to hold against it
    #[arg(value_name = "B")]
    after: PathBuf,
    /// A and B are two ranks' copies of one state: any difference is a critical finding (FP601, FP602)
    #[arg(long, conflicts_with = "master")]
    replicas: bool,
    /// B is A rounded to a narrower dtype: any difference beyond the rounding is a critical finding (FP603)
    #[arg(long)]
    master: bool,
    /// Compare the optimizers' tensors as well
    #[arg(long)]
    optimizer: bool,
    #[command(flatten)]
    reading: Reading,
    #[command(flatten)]
    outputs: Outputs,
    /// Which findings make the exit code 1
    #[arg(long, value_enum, default_value_t = FailOn::Never)]
    fail_on: FailOn,
}

pub fn run(arguments: &Arguments) -> Result<Outcome> {
    arguments.outputs.check(&[arguments.before.clone(), arguments.after.clone()])?;
    for path in [&arguments.before, &arguments.after] {
        if measurement::is_measurement(path) {
            return Err(ErrorKind::NoElements.in_file(path));
        }
    }
    let context = arguments.reading.context()?;
    let policy = arguments.reading.policy(&context)?;
    let before = Checkpoint::read(&arguments.before, &policy.names, &context)?;
    let after = Checkpoint::read(&arguments.after, &policy.names, &context)?;
    let sections: &[Section] =
        if arguments.optimizer { &[Section::Model, Section::Optimizer] } else { &[Section::Model] };
    let progress = Progress::start(&context, arguments.outputs.quiet);
    let level = arguments.reading.level_or(MeasureLevel::Spectra);
    let difference = diff::between(&before, &after, sections, level, &context);
    progress.finish();
    let report = DifferenceReport::new(difference, arguments.replicas, arguments.master);
    let renderings = Renderings {
        terminal: &|style| difference_page(&report, style),
        markdown: &|| difference_markdown(&report),
        html: &|| difference_html(&report),
        plots: &|| difference_plots(&report),
        findings: None,
    };
    arguments.outputs.write(&report, &renderings)?;
    let problems = before.problems.iter().chain(&after.problems).filter(|error| error.kind.is_damage());
    let damaged = problems.inspect(|error| eprintln!("flashpoint: {error}")).count() > 0;
    Ok(if context.cancelled() {
        Outcome::Interrupted
    } else if damaged || report.difference.tensors.is_empty() || !report.difference.not_compared.is_empty() {
        Outcome::CouldNot
    } else if arguments.fail_on.fails(report.worst()) {
        Outcome::Findings
    } else {
        Outcome::Answered
    })
}
