//! `flashpoint repair CKPT --to DIR`: read, measure, judge, plan, write, check, report.

use std::path::{Path, PathBuf};

use clap::Args;
use flashpoint::analysis::model::{Analysis, DType, MeasureLevel};
use flashpoint::analysis::{measure_checkpoint, of_checkpoints};
use flashpoint::checkpoint::Checkpoint;
use flashpoint::context::Context;
use flashpoint::error::{ErrorKind, Result};
use flashpoint::files::refuse_existing;
use flashpoint::gate::Policy;
use flashpoint::recover::{self, Manifest, Plan, QkLimit, Repaired, Wanted};
use flashpoint::report::{manifest_page, repair_plan_page};
use flashpoint::rules::{self, Assessment};

use super::Outcome;
use super::options::{Reading, positive};
use super::output::Outputs;
use super::progress::Progress;

#[derive(Debug, Args)]
#[command(after_help = "\
Exit codes: 0 repaired and no check failed, 1 repaired and a check failed, 2 could not; with --plan 0.

Examples:
  flashpoint repair checkpoint-4000 --plan
  flashpoint repair checkpoint-4000 --to repaired/checkpoint-4000 --from-findings
  flashpoint repair ckpt.pt --to repaired --reset-moments 'transformer.h.3.*' --lr-scale 0.5")]
pub struct Arguments {
    /// A checkpoint; it is never written to
    #[arg(value_name = "CHECKPOINT")]
    checkpoint: PathBuf,
    /// The new directory; nothing may be there
    #[arg(long, value_name = "DIR", required_unless_present = "plan")]
    to: Option<PathBuf>,
    /// Say what would be changed and why, and write nothing
    #[arg(long)]
    plan: bool,
    #[command(flatten)]
    edits: Edits,
    #[command(flatten)]
    reading: Reading,
    #[command(flatten)]
    outputs: Outputs,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Edits")]
struct Edits {
    /// Reset the optimizer state that findings say is not whole; the default where no edit is named
    #[arg(long)]
    from_findings: bool,
    /// Reset the optimizer state of parameters whose moments are not finite or impossible
    #[arg(long)]
    drop_non_finite: bool,
    /// Zero moments and step counter of the parameters that the glob names (all without one); repeatable
    #[arg(long, value_name = "GLOB", num_args = 0..=1, default_missing_value = "*")]
    reset_moments: Vec<String>,
    /// Multiply every learning rate: of the groups, of the schedule
    #[arg(long, value_name = "FACTOR", value_parser = positive)]
    lr_scale: Option<f64>,
    /// Set epsilon of every group
    #[arg(long, value_name = "EPSILON", value_parser = positive)]
    epsilon: Option<f64>,
    /// Set beta2 of every group
    #[arg(long, value_name = "BETA2", value_parser = below_one)]
    beta2: Option<f64>,
    /// Scale queries and keys until no head's largest expected logit is above LOGIT [default: where a softmax over the context
    /// condenses, 2 ln T]
    #[arg(long, value_name = "LOGIT", num_args = 0..=1, default_missing_value = "condensation", value_parser = qk_limit)]
    qk_clip: Option<Limit>,
    /// Scale maps down to a largest singular value; repeatable
    #[arg(long, value_name = "GLOB=LIMIT", value_parser = spectral)]
    spectral_clip: Vec<(String, f64)>,
    /// Other ranks' checkpoints of the same step: what differs becomes the mean of all
    #[arg(long, value_name = "CHECKPOINT", num_args = 1..)]
    sync_replicas: Vec<PathBuf>,
    /// Cast tensors to F64, F32, F16 or BF16; repeatable
    #[arg(long, value_name = "GLOB=DTYPE", value_parser = cast)]
    cast: Vec<(String, DType)>,
    /// The network may compute something else afterwards (qk-clip, spectral-clip)
    #[arg(long)]
    accept_function_change: bool,
}

/// `--qk-clip`.
#[derive(Debug, Clone, Copy)]
struct Limit(QkLimit);

fn below_one(text: &str) -> std::result::Result<f64, String> {
    positive(text).ok().filter(|number| *number < 1.0).ok_or_else(|| "a number between 0 and 1".to_owned())
}

fn qk_limit(text: &str) -> std::result::Result<Limit, String> {
    if text == "condensation" {
        return Ok(Limit(QkLimit::Condensation));
    }
    positive(text).map(|limit| Limit(QkLimit::Logit(limit)))
}

fn spectral(text: &str) -> std::result::Result<(String, f64), String> {
    let (glob, limit) = text.rsplit_once('=').ok_or("a glob and a limit with = between them")?;
    Ok((glob.to_owned(), positive(limit)?))
}

fn cast(text: &str) -> std::result::Result<(String, DType), String> {
    let (glob, dtype) = text.rsplit_once('=').ok_or("a glob and a dtype with = between them")?;
    let dtype = DType::from_name(&dtype.to_ascii_uppercase()).ok_or("dtypes are F64, F32, F16, BF16")?;
    Ok((glob.to_owned(), dtype))
}

impl Edits {
    fn wanted(&self) -> Wanted {
        let asked = self.drop_non_finite
            || !self.reset_moments.is_empty()
            || [self.lr_scale, self.epsilon, self.beta2].iter().any(Option::is_some)
            || self.qk_clip.is_some()
            || !self.spectral_clip.is_empty()
            || !self.sync_replicas.is_empty()
            || !self.cast.is_empty();
        Wanted {
            from_findings: self.from_findings || !asked,
            drop_non_finite: self.drop_non_finite,
            reset_moments: self.reset_moments.clone(),
            lr_scale: self.lr_scale,
            epsilon: self.epsilon,
            beta2: self.beta2,
            qk_clip: self.qk_clip.map(|limit| limit.0),
            spectral_clip: self.spectral_clip.clone(),
            replicas: self.sync_replicas.clone(),
            cast: self.cast.clone(),
            accept_function_change: self.accept_function_change,
        }
    }
}

pub fn run(arguments: &Arguments) -> Result<Outcome> {
    if let Some(target) = arguments.to.as_ref().filter(|_| !arguments.plan) {
        refuse_existing(target)?;
    }
    let inputs = [&[arguments.checkpoint.clone()][..], &arguments.edits.sync_replicas].concat();
    arguments.outputs.check_for_text(&inputs)?;
    let context = arguments.reading.context()?;
    let policy = arguments.reading.policy(&context)?;
    let wanted = arguments.edits.wanted();
    let checkpoint = Checkpoint::read(&arguments.checkpoint, &policy.names, &context)?;
    let level = level(&wanted, &arguments.reading, arguments.plan);
    let progress = Progress::start(&context, arguments.outputs.quiet);
    let known = Known::of(checkpoint, level, &policy, &context);
    progress.finish();
    let plan = known.plan(&wanted, &policy, &context)?;
    if context.cancelled() {
        return Ok(Outcome::Interrupted);
    }
    let Some(target) = arguments.to.as_ref().filter(|_| !arguments.plan) else {
        arguments.outputs.write_text(&plan, &|style| repair_plan_page(&plan, style))?;
        return Ok(Outcome::Answered);
    };
    let Some(manifest) = known.repair(&plan, &wanted, &policy, target, &context)? else {
        return Ok(Outcome::Interrupted);
    };
    let shown = target.display().to_string();
    arguments.outputs.write_text(&manifest, &|style| manifest_page(&manifest, &shown, style))?;
    Ok(if manifest.healthy { Outcome::Answered } else { Outcome::Findings })
}

/// Singular values where an edit needs them, and where a plan looks for everything.
fn level(wanted: &Wanted, reading: &Reading, plan: bool) -> MeasureLevel {
    let needs = wanted.qk_clip.is_some() || !wanted.spectral_clip.is_empty() || plan;
    let default = if needs { MeasureLevel::Spectra } else { MeasureLevel::Stats };
    // Checksums and moments are looked at from here on: a repair does without neither.
    reading.level_or(default).max(if needs && !plan { MeasureLevel::Spectra } else { MeasureLevel::Stats })
}

/// A checkpoint, measured and judged.
pub struct Known {
    checkpoint: Checkpoint,
    analysis: Analysis,
    pub(super) assessment: Assessment,
    level: MeasureLevel,
}

impl Known {
    /// Measures and judges it.
    pub fn of(checkpoint: Checkpoint, level: MeasureLevel, policy: &Policy, context: &Context) -> Self {
        let analysis = of_checkpoints(vec![measure_checkpoint(&checkpoint, level, context)], level);
        let assessment = rules::evaluate(&analysis, &policy.thresholds);
        Self { checkpoint, analysis, assessment, level }
    }

    /// What is to be done to it.
    pub fn plan(&self, wanted: &Wanted, policy: &Policy, context: &Context) -> Result<Plan> {
        if self.analysis.checkpoints.iter().all(|checkpoint| checkpoint.tensors.is_empty()) {
            return Err(ErrorKind::NoTensors.in_file(&self.checkpoint.path));
        }
        recover::plan(self.before(policy), wanted, context)
    }

    fn before<'a>(&'a self, policy: &'a Policy) -> Repaired<'a> {
        Repaired {
            checkpoint: &self.checkpoint,
            analysis: &self.analysis,
            assessment: &self.assessment,
            names: &policy.names,
            thresholds: &policy.thresholds,
        }
    }

    /// Does it.
    pub fn repair(
        &self,
        plan: &Plan,
        wanted: &Wanted,
        policy: &Policy,
        target: &Path,
        context: &Context,
    ) -> Result<Option<Manifest>> {
        recover::repair(self.before(policy), plan, wanted, self.level, target, context)
    }
}
