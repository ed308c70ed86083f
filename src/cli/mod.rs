//! Arguments to checked options to the rooms in their order to a report to an exit code. One subcommand a file.

mod clip;
mod completions;
mod convert;
mod devices;
mod diff;
mod explain;
mod gate;
mod help;
mod inspect;
mod jacobian;
mod man;
mod measure;
mod options;
mod output;
mod postmortem;
mod progress;
mod read;
mod repair;
mod resume;
mod resume_own;
mod rules;
mod run;
mod train;
mod training;
mod watching;

use std::process::ExitCode;

use clap::{FromArgMatches, Parser, Subcommand};
use flashpoint::error::Result;

/// flashpoint reads checkpoints of deep-learning training and says what is about to explode, or already did, which
/// tensor started it, and what to do. It needs no training process, no model code and no Python, and executes
/// nothing that a file contains.
#[derive(Debug, Parser)]
#[command(name = "flashpoint", version, propagate_version = true, max_term_width = 100)]
#[command(after_help = "\
Examples:
  flashpoint inspect checkpoint-4000
  flashpoint postmortem outputs --output report.html
  flashpoint gate checkpoint-900 --baseline accepted.measured.json
  flashpoint resume outputs --dry-run -- python train.py --resume-from {checkpoint}
  flashpoint explain FP203

Exit codes: 0 answered, 1 findings at or above --fail-on, 2 could not, 130 interrupted.
Of gate: 0 pass, 1 fail, 2 could not decide. Of repair: 1 repaired, and a check failed.
Of resume: that of the command; 2 it was not started, 3 --watch stopped it.")]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Say what a checkpoint is, what its layers look like, and what is wrong with it
    Inspect(inspect::Arguments),
    /// Judge a checkpoint against a policy and an accepted checkpoint: pass, fail, or could not decide
    Gate(gate::Arguments),
    /// Say when, where and why a run blew up, and what to do
    Postmortem(postmortem::Arguments),
    /// Say what to clip the gradient norm at, by what the run itself recorded
    Clip(clip::Arguments),
    /// Say how far a checkpoint's network multiplies small changes and gradients: block by block, end to end, through time
    Jacobian(jacobian::Arguments),
    /// Say what differs between two checkpoints, tensor by tensor
    Diff(diff::Arguments),
    /// Write everything measured about a checkpoint to a file, without the weights
    Measure(measure::Arguments),
    /// Write a checkpoint anew with exactly the edits that repair it
    Repair(repair::Arguments),
    /// Go on from the last healthy state of a run: pick it, repair it, start the program that resumes it
    Resume(resume::Arguments),
    /// Write the tensors of a checkpoint as one safetensors file
    Convert(convert::Arguments),
    /// Train a small network with everything recorded: what the other commands are tried on
    Train(Box<train::Arguments>),
    /// Say which GPU there is, and what is missing to use it
    Devices(devices::Arguments),
    /// List the rules
    Rules(rules::Arguments),
    /// Print the page of one rule
    Explain(explain::Arguments),
    /// Print the script that completes commands and flags in a shell
    Completions(completions::Arguments),
    /// Print the manual page
    Man(man::Arguments),
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The question was answered.
    Answered,
    /// Answered, with findings at or above `--fail-on`.
    Findings,
    /// It was not, or not for all of the input.
    CouldNot,
    /// Ctrl-C: what is known so far was printed.
    Interrupted,
    /// A command that was started ended with this code.
    Passed(u8),
    /// A command that was started was stopped, because what it trains blew up.
    Stopped,
}

impl From<Outcome> for ExitCode {
    fn from(outcome: Outcome) -> Self {
        ExitCode::from(match outcome {
            Outcome::Answered => 0,
            Outcome::Findings => 1,
            Outcome::CouldNot => 2,
            Outcome::Interrupted => 130,
            Outcome::Passed(code) => code,
            Outcome::Stopped => 3,
        })
    }
}

/// What was asked on the command line; on a mistake, or for help, the process ends here.
pub fn parse() -> Arguments {
    let found = Arguments::from_arg_matches(&help::grouped().get_matches());
    found.unwrap_or_else(|error| error.exit())
}

/// Runs the chosen command.
pub fn run(arguments: Arguments) -> Result<Outcome> {
    match arguments.command {
        Command::Inspect(arguments) => inspect::run(&arguments),
        Command::Gate(arguments) => gate::run(&arguments),
        Command::Postmortem(arguments) => postmortem::run(&arguments),
        Command::Clip(arguments) => clip::run(&arguments),
        Command::Jacobian(arguments) => jacobian::run(&arguments),
        Command::Diff(arguments) => diff::run(&arguments),
        Command::Measure(arguments) => measure::run(&arguments),
        Command::Repair(arguments) => repair::run(&arguments),
        Command::Resume(arguments) => resume::run(&arguments),
        Command::Convert(arguments) => convert::run(&arguments),
        Command::Train(arguments) => train::run(&arguments),
        Command::Devices(arguments) => devices::run(&arguments),
        Command::Rules(arguments) => rules::run(&arguments),
        Command::Explain(arguments) => explain::run(&arguments),
        Command::Completions(arguments) => completions::run(&arguments),
        Command::Man(arguments) => man::run(&arguments),
    }
}
