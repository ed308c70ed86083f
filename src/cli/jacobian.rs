//! `flashpoint jacobian CKPT`: build the network, run it on a probe, measure its Jacobians, judge, report.

use std::path::PathBuf;

use clap::{Args, ValueEnum, value_parser};
use flashpoint::analysis::jacobian::{self, Precision, Question};
use flashpoint::analysis::model::{CheckpointAnalysis, JacobianAnalysis, MeasureLevel, Measured};
use flashpoint::analysis::{add_device_use, measure_checkpoint, measurement, of_checkpoints};
use flashpoint::checkpoint::Checkpoint;
use flashpoint::error::{ErrorKind, Result};
use flashpoint::report::{JacobianPlan, Report, jacobian_html, jacobian_page, plan_page};
use flashpoint::rules::{self, Needs};

use super::Outcome;
use super::options::{FailOn, Reading};
use super::output::Outputs;
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
    /// Heads of the attention of a GPT-2 that no config.json lies beside: no shape tells them
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(1..=MOST_HEADS), conflicts_with = "model", help_heading = "Network")]
    heads: Option<u32>,
    /// What is measured by itself beside the whole [default: block]
    #[arg(long, value_enum, help_heading = "Network")]
    per: Option<Per>,
    /// Inputs to run the network on, with labels if there are any: .npy, .npz or safetensors, the batch first
    #[arg(long, value_name = "FILE", help_heading = "Probe")]
    input: Option<PathBuf>,
    /// Length of a sequence [default: 32]
    #[arg(long, value_name = "T", value_parser = value_parser!(u32).range(1..=MOST_TOKENS), help_heading = "Probe")]
    tokens: Option<u32>,
    /// Inputs that are drawn, or read [default: 3]
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(1..=MOST_DRAWS), help_heading = "Probe")]
    draws: Option<u32>,
    /// Seed of inputs, starts and random vectors [default: 0]
    #[arg(long, value_name = "N", help_heading = "Probe")]
    seed: Option<u64>,
    /// Pairs of products that the largest singular values are sought with [default: 20]
    #[arg(long, value_name = "K", value_parser = value_parser!(u32).range(1..=MOST_PAIRS), help_heading = "Measuring")]
    top: Option<u32>,
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
    /// Precision of products [default: f32]
    #[arg(long, value_enum, help_heading = "Measuring")]
    dtype: Option<Dtype>,
    /// Say what it would take, and stop: as text or as JSON
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
const MOST_HEADS: i64 = 1 << 16;
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
        let own = Question::default();
        let or = |given: Option<u32>, default: usize| given.map_or(default, |given| given as usize);
        Question {
            model: self.model.clone(),
            heads: self.heads.map(|heads| heads as usize),
            input: self.input.clone(),
            tokens: or(self.tokens, own.tokens),
            draws: or(self.draws, own.draws),
            seed: self.seed.unwrap_or(own.seed),
            pairs: or(self.top, own.pairs),
            exact: self.exact,
            density: self.density,
            depth_spectra: self.depth_spectra,
            initial: !self.no_initial,
            per_operation: self.per == Some(Per::Op),
            precision: match self.dtype {
                None => own.precision,
                Some(Dtype::F32) => Precision::F32,
                Some(Dtype::F64) => Precision::F64,
            },
        }
    }

    /// The first option that was given and only says how to measure.
    fn first_of_measuring(&self) -> Option<&'static str> {
        let given = [
            (self.model.is_some(), "--model"),
            (self.heads.is_some(), "--heads"),
            (self.per.is_some(), "--per"),
            (self.input.is_some(), "--input"),
            (self.tokens.is_some(), "--tokens"),
            (self.draws.is_some(), "--draws"),
            (self.seed.is_some(), "--seed"),
            (self.top.is_some(), "--top"),
            (self.exact, "--exact"),
            (self.density, "--density"),
            (self.depth_spectra, "--depth-spectra"),
            (self.no_initial, "--no-initial"),
            (self.dtype.is_some(), "--dtype"),
            (self.plan, "--plan"),
        ];
        given.into_iter().find_map(|(is_given, option)| is_given.then_some(option))
    }
}

pub fn run(arguments: &Arguments) -> Result<Outcome> {
    let inputs = [Some(&arguments.path), arguments.model.as_ref(), arguments.input.as_ref()];
    let inputs = inputs.into_iter().flatten().cloned().collect::<Vec<_>>();
    if arguments.plan {
        arguments.outputs.check_for_text(&inputs)?;
    } else {
        arguments.outputs.check_for_report(&inputs)?;
    }
    let context = arguments.reading.context()?;
    let policy = arguments.reading.policy(&context)?;
    let level = arguments.reading.level_or(MeasureLevel::Norms);
    let (analysis, measured) = if measurement::is_measurement(&arguments.path) {
        if let Some(option) = arguments.first_of_measuring() {
            let message = format!(
                "it is a measurement file, of which {option} changes nothing: nothing is measured anew"
            );
            let kind = ErrorKind::NotDone { message, advice: "leave the option out, or name the checkpoint" };
            return Err(kind.in_file(&arguments.path));
        }
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
            let plan = JacobianPlan { name: checkpoint.name.clone(), setting, cost };
            arguments.outputs.write_text(&plan, &|_| plan_page(&plan))?;
            return Ok(Outcome::Answered);
        }
        let progress = Progress::start_stages(&context, arguments.outputs.quiet);
        let mut own = measure_checkpoint(&checkpoint, level, &context);
        let found: Option<JacobianAnalysis> = prepared.measure(&checkpoint, &context)?;
        progress.finish();
        add_device_use(&mut own, &context);
        let is_measured = found.is_some();
        own.jacobian = found.map_or_else(|| Measured::not("interrupted"), Measured::Value);
        (of_checkpoints(vec![own], level), is_measured)
    };
    let damaged = analysis.checkpoints.iter().any(CheckpointAnalysis::is_damaged);
    let assessment = rules::evaluate(&analysis, &policy.thresholds).about(Needs::JACOBIAN);
    let failed = arguments.fail_on.fails(assessment.worst());
    let report = Report::new(analysis, assessment, &policy.thresholds, Vec::new());
    let report = if context.cancelled() { report.interrupted() } else { report };
    arguments.outputs.write_report(&report, &|style| jacobian_page(&report, style), jacobian_html)?;
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
