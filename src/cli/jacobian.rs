//! `flashpoint jacobian CKPT`: build the network, run it on a probe, measure its Jacobians, judge, report.

use std::path::PathBuf;

use clap::{Args, ValueEnum, value_parser};
use flashpoint::analysis::jacobian::{self, Precision, Question};
use flashpoint::analysis::model::{CheckpointAnalysis, JacobianAnalysis, MeasureLevel, Measured};
use flashpoint::analysis::{measure_checkpoint, measurement, of_checkpoints};
use flashpoint::checkpoint::Checkpoint;
use flashpoint::error::{ErrorKind, Result};
use flashpoint::report::{Report, jacobian_html, jacobian_page, plan_page};
use flashpoint::rules::{self, Needs};

use super::Outcome;
use super::options::{FailOn, Reading};
use super::output::{Outputs, print};
use super::progress::Progress;

#[derive(Debug, Args)]
#[command(after_help = "\
Without --input the network is run on a synthetic probe: random token ids through the model's own embedding, or standard
normal features. Values at different lengths (--tokens) are not comparable.

Examples:
  flashpoint jacobian checkpoint-4000
  flashpoint jacobian checkpoint-4000 --plan
  flashpoint jacobian checkpoint-4000 --input batch.npz --draws 8 --output json=jacobian.json
  flashpoint jacobian model.safetensors --model model.toml --per op --exact --dtype f64")]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
pub struct Arguments {
    /// A checkpoint, or a measurement file that holds Jacobians
    #[arg(value_name = "CKPT")]
    path: PathBuf,
    /// What the network is, where neither config.json nor the names and shapes of its tensors say [see docs/jacobian.md]
    #[arg(long, value_name = "FILE", help_heading = "Network")]
    model: Option<PathBuf>,
    /// What is measured by itself beside the whole
    #[arg(long, value_enum, default_value_t = Per::Block, help_heading = "Network")]
    per: Per,
    /// Inputs to run the network on, with labels if there are any: .npy, .npz or safetensors, the batch first
    #[arg(long, value_name = "FILE", help_heading = "Probe")]
    input: Option<PathBuf>,
    /// Length of a sequence
    #[arg(long, value_name = "T", default_value_t = 32, value_parser = value_parser!(u32).range(1..=MOST_TOKENS), help_heading = "Probe")]
    tokens: u32,
    /// Inputs that are drawn, or read
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = value_parser!(u32).range(1..=MOST_DRAWS), help_heading = "Probe")]
    draws: u32,
    /// Seed of inputs, starts and random vectors
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = "Probe")]
    seed: u64,
    /// Pairs of products that the largest singular values are sought with
    #[arg(long, value_name = "K", default_value_t = 20, value_parser = value_parser!(u32).range(1..=MOST_PAIRS), help_heading = "Measuring")]
    top: u32,
    /// All singular values, by forming every Jacobian whose shorter side is at most 4096
    #[arg(long, help_heading = "Measuring")]
    exact: bool,
    /// Where the singular values lie, by quadrature: 320 more products each
    #[arg(long, conflicts_with = "exact", help_heading = "Measuring")]
    density: bool,
    /// The largest singular value from the first state to every depth: half as many products as blocks, each of the whole
    #[arg(long, help_heading = "Measuring")]
    depth_spectra: bool,
    /// Leave out the same architecture as it is initialised
    #[arg(long, help_heading = "Measuring")]
    no_initial: bool,
    /// Precision of products
    #[arg(long, value_enum, default_value_t = Dtype::F32, help_heading = "Measuring")]
    dtype: Dtype,
    /// Say what it would take, and stop
    #[arg(long, help_heading = "Measuring")]
    plan: bool,
    #[command(flatten)]
    reading: Reading,
    #[command(flatten)]
    outputs: Outputs,
    /// Which findings make the exit code 1
    #[arg(long, value_enum, default_value_t = FailOn::Never)]
    fail_on: FailOn,
}

/// Longer sequences make vectors that no singular value is worth.
const MOST_TOKENS: i64 = 1 << 16;
const MOST_DRAWS: i64 = 1 << 10;
const MOST_PAIRS: i64 = 1 << 10;

/// `--per`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Per {
    /// Blocks, and their attention and feed-forward branches
    Block,
    /// Every operation as well
    Op,
}

/// `--dtype`.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Dtype {
    /// As networks are trained
    F32,
    /// For what is held against a reference
    F64,
}

impl Arguments {
    fn question(&self) -> Question {
        Question {
            model: self.model.clone(),
            input: self.input.clone(),
            tokens: self.tokens as usize,
            draws: self.draws as usize,
            seed: self.seed,
            pairs: self.top as usize,
            exact: self.exact,
            density: self.density,
            depth_spectra: self.depth_spectra,
            initial: !self.no_initial,
            per_operation: self.per == Per::Op,
            precision: match self.dtype {
                Dtype::F32 => Precision::F32,
                Dtype::F64 => Precision::F64,
            },
        }
    }
}

pub fn run(arguments: &Arguments) -> Result<Outcome> {
    let inputs = [Some(&arguments.path), arguments.model.as_ref(), arguments.input.as_ref()];
    arguments.outputs.check_for_report(&inputs.into_iter().flatten().cloned().collect::<Vec<_>>())?;
    let context = arguments.reading.context()?;
    let policy = arguments.reading.policy(&context)?;
    let level = arguments.reading.level_or(MeasureLevel::Norms);
    let (analysis, measured) = if measurement::is_measurement(&arguments.path) {
        let analysis = measurement::read(&arguments.path, &context)?;
        let is_there = analysis.checkpoints.iter().any(|checkpoint| checkpoint.jacobian.value().is_some());
        if !is_there {
            return Err(ErrorKind::NoJacobian.in_file(&arguments.path));
        }
        (analysis, true)
    } else {
        let checkpoint = Checkpoint::read(&arguments.path, &policy.names, &context)?;
        let question = arguments.question();
        let prepared = jacobian::prepare(&checkpoint, &question, &context)?;
        if arguments.plan {
            let (setting, cost) = prepared.plan(rayon::current_num_threads())?;
            print(plan_page(&checkpoint.name, &setting, &cost).as_bytes())?;
            return Ok(Outcome::Answered);
        }
        let progress = Progress::start_stages(&context, arguments.outputs.quiet);
        let mut own = measure_checkpoint(&checkpoint, level, &context);
        let found: Option<JacobianAnalysis> = prepared.measure(&checkpoint, &context)?;
        progress.finish();
        let is_measured = found.is_some();
        own.jacobian = found.map_or_else(|| Measured::not("interrupted"), Measured::Value);
        (of_checkpoints(vec![own], level), is_measured)
    };
    let damaged = analysis.checkpoints.iter().any(CheckpointAnalysis::is_damaged);
    let assessment = rules::evaluate(&analysis, &policy.thresholds).about(Needs::JACOBIAN);
    let failed = arguments.fail_on.fails(assessment.worst());
    let report = Report::new(analysis, assessment, &policy.thresholds, Vec::new());
    let report = if context.cancelled() { report.interrupted() } else { report };
    arguments.outputs.write_report(&report, |style| jacobian_page(&report, style), jacobian_html)?;
    Ok(if context.cancelled() {
        Outcome::Interrupted
    } else if damaged || !measured {
        Outcome::CouldNot
    } else if failed {
        Outcome::Findings
    } else {
        Outcome::Answered
    })
}
