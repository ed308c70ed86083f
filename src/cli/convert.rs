//! `flashpoint convert CKPT --to FILE.safetensors`: read, write block by block, say what does not go over.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use flashpoint::checkpoint::{Checkpoint, Section};
use flashpoint::error::{ErrorKind, Result};
use flashpoint::files::refuse_existing;
use flashpoint::recover::convert;
use flashpoint::report::conversion_page;

use super::Outcome;
use super::options::Reading;
use super::output::Outputs;
use super::progress::Progress;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  flashpoint convert last.ckpt --to last.safetensors
  flashpoint convert ckpt.pt --to model.safetensors --only model")]
pub struct Arguments {
    /// A checkpoint of any format that is read
    #[arg(value_name = "CHECKPOINT")]
    checkpoint: PathBuf,
    /// Where to write; nothing may be there
    #[arg(long, value_name = "FILE.safetensors")]
    to: PathBuf,
    /// Only these parts of the training state; repeatable
    #[arg(long, value_enum, value_name = "PART")]
    only: Vec<Only>,
    #[command(flatten)]
    reading: Reading,
    #[command(flatten)]
    outputs: Outputs,
}

/// A part of the training state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Only {
    /// The model
    Model,
    /// Averaged copies of it
    Average,
    /// Optimizer state
    Optimizer,
    /// Everything else
    Other,
}

pub fn run(arguments: &Arguments) -> Result<Outcome> {
    if arguments.to.extension().is_none_or(|ending| ending != "safetensors") {
        return Err(ErrorKind::OutputName { ending: ".safetensors" }.in_file(&arguments.to));
    }
    refuse_existing(&arguments.to)?;
    arguments.outputs.check_for_text(std::slice::from_ref(&arguments.checkpoint))?;
    let context = arguments.reading.context()?;
    let policy = arguments.reading.policy(&context)?;
    let checkpoint = Checkpoint::read(&arguments.checkpoint, &policy.names, &context)?;
    let sections: Vec<Section> = arguments
        .only
        .iter()
        .map(|only| match only {
            Only::Model => Section::Model,
            Only::Average => Section::Average,
            Only::Optimizer => Section::Optimizer,
            Only::Other => Section::Other,
        })
        .collect();
    let progress = Progress::start(&context, arguments.outputs.quiet);
    let converted = convert(&checkpoint, &sections, &arguments.to, &context);
    progress.finish();
    let Some(conversion) = converted? else { return Ok(Outcome::Interrupted) };
    let target = arguments.to.display().to_string();
    arguments.outputs.write_text(&conversion, &|style| conversion_page(&conversion, &target, style))?;
    Ok(if conversion.refused.is_empty() { Outcome::Answered } else { Outcome::CouldNot })
}
