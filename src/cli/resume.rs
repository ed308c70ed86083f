//! `flashpoint resume RUN -- CMD…`: pick, audit, repair, substitute, start, watch.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use flashpoint::analysis::model::{Analysis, MeasureLevel};
use flashpoint::checkpoint::{Checkpoint, Layout};
use flashpoint::clip::{Recommendation, advise};
use flashpoint::context::Context;
use flashpoint::diagnosis::{Diagnosis, diagnose};
use flashpoint::error::{Error, ErrorKind, Result};
use flashpoint::gate::Policy;
use flashpoint::history::{History, Options};
use flashpoint::recover::{
    self, Chosen, Ended, From, Settings, Wanted, Watch, audit, batches, choose, learning_rate, new_run,
};
use flashpoint::report::{ResumeReport, resume_page};
use flashpoint::rules;

use super::Outcome;
use super::options::{Reading, positive};
use super::output::Outputs;
use super::repair::Known;
use super::resume_own::refuse_own_not_finite;
use super::run::{RunFlags, measure_run};
use super::watching::Watching;

#[derive(Debug, Args)]
#[command(after_help = "\
In the command {checkpoint}, {step}, {lr}, {clip_norm}, {skip_from} and {skip_to} are replaced.

Nothing is started from a state that holds NaN or infinity, unless --repair takes it out.

Exit codes: that of the command; 2 it was not started, 3 --watch stopped it.

Examples:
  flashpoint resume outputs --dry-run -- python train.py --resume-from {checkpoint}
  flashpoint resume outputs --repair --clip recommended -- torchrun train.py --resume-from {checkpoint} --max-grad-norm {clip_norm}
  flashpoint resume runs/nn --from last-healthy --clip recommended
  flashpoint resume out --from 4000 --lr-scale 0.5 --watch out/metrics.jsonl -- python train.py --resume {checkpoint} --lr {lr}")]
pub struct Arguments {
    /// The run's directory
    #[arg(value_name = "RUN")]
    pub(super) run: PathBuf,
    /// The state to go on from: last-healthy, or a step
    #[arg(long, value_name = "STATE", default_value = "last-healthy")]
    pub(super) from: From,
    /// Repair what findings say is not whole in the optimizer state, in a copy
    #[arg(long)]
    pub(super) repair: bool,
    /// The clipping threshold: recommended, or a number
    #[arg(long, value_name = "NORM", value_parser = clip)]
    pub(super) clip: Option<Clip>,
    /// Multiply every learning rate, in a copy of the state and in {lr}
    #[arg(long, value_name = "FACTOR", value_parser = positive)]
    pub(super) lr_scale: Option<f64>,
    /// Batches that the program is to leave out, first and last
    #[arg(long, value_name = "FIRST..LAST", value_parser = batches)]
    pub(super) skip_batches: Option<(u64, u64)>,
    /// Try several settings from the one state, side by side: no clipping, norm 1, the recommended one, a lower learning rate;
    /// of a run of flashpoint train
    #[arg(long)]
    pub(super) what_if: bool,
    /// Where a repaired state is written, or the new run of flashpoint train [default: RUN-resumed beside the run]
    #[arg(long, value_name = "DIR")]
    pub(super) to: Option<PathBuf>,
    /// Look at this log, or directory of logs, while the command runs, and stop the command when it blows up again
    #[arg(long, value_name = "LOG")]
    pub(super) watch: Option<PathBuf>,
    /// Seconds between two looks at the log
    #[arg(long, value_name = "SECONDS", default_value_t = 5.0, value_parser = positive)]
    watch_every: f64,
    /// Seconds from SIGTERM to SIGKILL
    #[arg(long, value_name = "SECONDS", default_value_t = 30.0, value_parser = positive)]
    grace: f64,
    /// Print everything, write nothing, start nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    pub(super) flags: RunFlags,
    #[command(flatten)]
    pub(super) reading: Reading,
    #[command(flatten)]
    pub(super) outputs: Outputs,
    /// The program that resumes, behind --
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// `--clip`.
#[derive(Debug, Clone, Copy)]
pub(super) enum Clip {
    Recommended,
    Norm(f64),
}

fn clip(text: &str) -> std::result::Result<Clip, String> {
    if text == "recommended" {
        return Ok(Clip::Recommended);
    }
    positive(text).map(Clip::Norm).map_err(|_| "recommended, or a number above 0".to_owned())
}

pub fn run(arguments: &Arguments) -> Result<Outcome> {
    arguments.outputs.check_for_text(&arguments.flags.inputs(&arguments.run))?;
    std::fs::metadata(&arguments.run).map_err(|error| Error::io(&arguments.run, "look at it", &error))?;
    let is_own = arguments.command.is_empty() && flashpoint::train::is_run(&arguments.run);
    let goes_on_here = is_own && !arguments.dry_run;
    if is_own {
        arguments.refuse_what_is_for_commands()?;
    }
    if arguments.what_if {
        arguments.refuse_what_is_for_one(goes_on_here)?;
    }
    if arguments.command.is_empty() && !is_own {
        arguments.refuse_several_arms()?;
    }
    if arguments.command.is_empty() && !arguments.dry_run && !goes_on_here {
        let message =
            "only the program that trained it can go on with this run, and no command was given".to_owned();
        let advice = "give it behind --: flashpoint resume RUN -- python train.py --resume-from {checkpoint}";
        return Err(ErrorKind::NotDone { message, advice }.in_file(&arguments.run));
    }
    let context = arguments.reading.context()?;
    let policy = arguments.reading.policy(&context)?;
    let history = arguments.flags.history(&arguments.run, &context)?;
    let looked = arguments.look(&history, &policy, &context)?;
    if context.cancelled() {
        return Ok(Outcome::Interrupted);
    }
    let chosen = choose(&arguments.run, &history, arguments.from, looked.diagnosis.as_ref())?;
    if is_own {
        refuse_own_not_finite(&chosen, &policy, &context)?;
    }
    if goes_on_here {
        return arguments.go_on(&looked, &chosen, &context);
    }
    if is_own {
        return arguments.tell(&looked, &chosen, &policy, &context);
    }
    let mut prepared = arguments.prepare(&chosen, &policy, &context)?;
    let settings = Settings {
        checkpoint: prepared.checkpoint.clone(),
        step: chosen.step,
        clip_norm: match arguments.clip {
            Some(Clip::Norm(norm)) => Some(norm),
            _ => looked.clip.map(recover::as_shown),
        },
        lr: prepared.rate,
        program_sets_lr: arguments.lr_scale.is_some() && prepared.report.audit.layout == Layout::NanoGpt,
        skip: arguments.skip_batches,
    };
    let (command, substitutions) = if arguments.command.is_empty() {
        (Vec::new(), Vec::new())
    } else {
        recover::command(&arguments.command, &settings)?
    };
    if !arguments.dry_run
        && let Some(manifest) = prepared.write(&policy, &context)?
    {
        let healthy = manifest.healthy;
        prepared.report.manifest = Some(manifest);
        if !healthy {
            arguments.outputs.write_text(&prepared.report, &|style| resume_page(&prepared.report, style))?;
            let message = "a check of the repaired state failed: it is not started".to_owned();
            let advice = "look at repair.json in it, or go on from an earlier state: --from STEP";
            return Err(ErrorKind::NotDone { message, advice }.in_file(&prepared.checkpoint));
        }
    }
    if context.cancelled() {
        return Ok(Outcome::Interrupted);
    }
    let report = ResumeReport { clipping: looked.clipping, substitutions, command, ..prepared.report };
    if arguments.dry_run {
        arguments.outputs.write_text(&report, &|style| resume_page(&report, style))?;
        return Ok(Outcome::Answered);
    }
    // stdout belongs to the command.
    let style = flashpoint::report::Style { color: false, all: false, width: None };
    eprint!("{}", resume_page(&report, style));
    arguments.start(&report.command, chosen.step, &policy, &context)
}

/// What the run itself says.
#[derive(Default)]
pub(super) struct Looked {
    pub(super) diagnosis: Option<Diagnosis>,
    pub(super) clip: Option<f64>,
    pub(super) clipping: Option<String>,
}

/// What the norms from before a failure recommend; those of the whole run where they are too few, and it came back by itself.
fn recommend(mut analysis: Analysis, diagnosis: &Diagnosis) -> Recommendation {
    let whole = diagnosis.go_on_step.map(|_| advise(&analysis).recommendation);
    if let Some(onset) = diagnosis.onset_step {
        keep_before(&mut analysis, onset);
    }
    let before = advise(&analysis).recommendation;
    whole.filter(|_| before.threshold.is_none()).unwrap_or(before)
}

/// Leaves of gradients only those from before a failure began: a threshold is to hold the norms of the run while it was healthy.
fn keep_before(analysis: &mut Analysis, onset: u64) {
    if let Some(log) = &mut analysis.log {
        log.points.retain(|point| point.step < onset);
    }
    analysis.dumps.retain(|dump| dump.step < onset);
}

/// Refuses a state that holds NaN or infinity, and says whether `--repair` would take it out.
fn refuse_not_finite(chosen: &Chosen, known: &Known, policy: &Policy, context: &Context) -> Result<()> {
    let Some(message) = recover::not_finite(&known.assessment) else { return Ok(()) };
    let wanted = Wanted { from_findings: true, ..Wanted::default() };
    let is_reparable = known.plan(&wanted, policy, context).is_ok_and(|plan| plan.irreparable.is_empty());
    let advice = if is_reparable {
        "let --repair reset that state in a copy, or take an earlier checkpoint: flashpoint postmortem RUN names it"
    } else {
        "take an earlier checkpoint: flashpoint postmortem RUN names it; --repair cannot bring weights back"
    };
    Err(ErrorKind::NotDone { message, advice }.in_file(&chosen.path))
}

/// A state that is ready, or how it is made ready.
struct Prepared {
    checkpoint: PathBuf,
    rate: Option<f64>,
    report: ResumeReport,
    repair: Option<(Known, Wanted, PathBuf)>,
}

impl Arguments {
    /// Measures the run, where the state or the threshold has to come from it.
    pub(super) fn look(&self, history: &History, policy: &Policy, context: &Context) -> Result<Looked> {
        let mut looked = Looked::default();
        if let Some(Clip::Norm(norm)) = self.clip {
            looked.clip = Some(norm);
        }
        let recommended = self.what_if || matches!(self.clip, Some(Clip::Recommended));
        if self.from != From::LastHealthy && !recommended {
            return Ok(looked);
        }
        let measured = measure_run(history, &self.reading, &policy.names, self.outputs.quiet, context);
        let assessment = rules::evaluate(&measured.analysis, &policy.thresholds);
        let diagnosis = diagnose(&measured.analysis, &assessment);
        if recommended {
            let advice = recommend(measured.analysis, &diagnosis);
            looked.clip = advice.threshold;
            if looked.clip.is_none() && !self.what_if {
                let message = format!("no clipping threshold can be recommended: {}", advice.sentence);
                let advice = "give one: --clip NORM";
                return Err(ErrorKind::NotDone { message, advice }.in_file(&self.run));
            }
            looked.clipping = Some(advice.sentence);
        }
        looked.diagnosis = Some(diagnosis);
        Ok(looked)
    }

    /// Looks at the state, and plans its repair.
    fn prepare(&self, chosen: &Chosen, policy: &Policy, context: &Context) -> Result<Prepared> {
        let checkpoint = Checkpoint::read(&chosen.path, &policy.names, context)?;
        recover::refuse_unfit(&checkpoint, context)?;
        let rate = learning_rate(&checkpoint, context)?.map(|rate| rate * self.lr_scale.unwrap_or(1.0));
        let mut prepared = Prepared {
            checkpoint: chosen.path.clone(),
            rate,
            report: ResumeReport::of(chosen, audit(&checkpoint, context)),
            repair: None,
        };
        let is_edited = self.repair || self.lr_scale.is_some();
        let level = if is_edited { MeasureLevel::Stats } else { MeasureLevel::Norms };
        let known = Known::of(checkpoint, level, policy, context);
        if !self.repair {
            refuse_not_finite(chosen, &known, policy, context)?;
        }
        if !is_edited {
            return Ok(prepared);
        }
        let wanted = Wanted { from_findings: self.repair, lr_scale: self.lr_scale, ..Wanted::default() };
        let plan = known.plan(&wanted, policy, context)?;
        if self.repair {
            recover::refuse_irreparable(&chosen.path, &plan)?;
        }
        if !plan.edits.is_empty() {
            let home = self.to.clone().map_or_else(|| new_run(&self.run), Ok)?;
            let name = chosen.path.file_name().unwrap_or_default();
            let is_directory = chosen.path.is_dir();
            let target =
                if is_directory { home.join(name) } else { home.join(format!("checkpoint-{}", chosen.step)) };
            prepared.checkpoint = if is_directory { target.clone() } else { target.join(name) };
            prepared.report.repaired = Some(target.display().to_string());
            prepared.repair = Some((known, wanted, target));
        }
        prepared.report.plan = Some(plan);
        Ok(prepared)
    }

    fn start(&self, command: &[String], step: u64, policy: &Policy, context: &Context) -> Result<Outcome> {
        let mut watching = self.watch.as_ref().map(|log| {
            let watch = Watch::new(log, step, self.watched(), policy.thresholds.clone(), context);
            Watching::new(watch, log, step)
        });
        let every = Duration::from_secs_f64(self.watch_every);
        let grace = Duration::from_secs_f64(self.grace);
        let ended = recover::run_command(command, every, grace, &context.cancel, || {
            watching.as_mut()?.look(context)
        })?;
        Ok(match ended {
            Ended::ByItself(code) => {
                if let Some(watching) = &mut watching {
                    watching.finish(context);
                }
                Outcome::Passed(code)
            }
            Ended::Stopped(reason) => {
                eprintln!("flashpoint: stopped, it blew up again: {reason}");
                Outcome::Stopped
            }
        })
    }

    fn watched(&self) -> Options {
        Options { columns: self.flags.columns(), ..Options::default() }
    }
}

impl Prepared {
    /// Writes the repaired state, where there is something to repair.
    fn write(&mut self, policy: &Policy, context: &Context) -> Result<Option<recover::Manifest>> {
        let (Some((known, wanted, target)), Some(plan)) = (&self.repair, &self.report.plan) else {
            return Ok(None);
        };
        known.repair(plan, wanted, policy, Path::new(target), context)
    }
}
