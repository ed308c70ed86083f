//! `flashpoint resume RUN` of a run that `flashpoint train` wrote: it goes on here, in a new directory.

use flashpoint::analysis::model::MeasureLevel;
use flashpoint::checkpoint::Checkpoint;
use flashpoint::clip::{FixedNorm, Method};
use flashpoint::context::{Context, DeviceChoice};
use flashpoint::error::{ErrorKind, Result};
use flashpoint::gate::Policy;
use flashpoint::number::{counted, short};
use flashpoint::recover::{self, Chosen, audit, new_run};
use flashpoint::report::{Continuation, ResumeReport, clipping, resume_page, train_page};
use flashpoint::train::{self, Clipping, Resumption, RunsOn, Settings};

use super::Outcome;
use super::repair::Known;
use super::resume::{Arguments, Clip, Looked};
use super::training::Watch;

/// By what `--what-if` multiplies the learning rate where nothing else is asked for.
const LOWER: f64 = 0.1;

/// The norm that people clip to without looking.
const USUAL: f64 = 1.0;

/// Refuses a state that holds NaN or infinity, which no `--repair` takes out here.
pub(super) fn refuse_own_not_finite(chosen: &Chosen, policy: &Policy, context: &Context) -> Result<()> {
    let checkpoint = Checkpoint::read(&chosen.path, &policy.names, context)?;
    let known = Known::of(checkpoint, MeasureLevel::Norms, policy, context);
    let Some(message) = recover::not_finite(&known.assessment) else { return Ok(()) };
    let advice = "take an earlier checkpoint: flashpoint postmortem RUN names it";
    Err(ErrorKind::NotDone { message, advice }.in_file(&chosen.path))
}

impl Arguments {
    /// Refuses what only another's program could be told or watched by.
    pub(super) fn refuse_what_is_for_commands(&self) -> Result<()> {
        if !self.repair && self.watch.is_none() {
            return Ok(());
        }
        let message =
            "it is a run of flashpoint train, which goes on here and not in another program".to_owned();
        Err(ErrorKind::NotDone { message, advice: "leave --repair and --watch out" }.in_file(&self.run))
    }

    /// Refuses a directory of several arms, each of which is a run.
    pub(super) fn refuse_several_arms(&self) -> Result<()> {
        let entries = std::fs::read_dir(&self.run).into_iter().flatten().flatten();
        let arms = entries.filter(|entry| train::is_run(&entry.path()));
        let mut names: Vec<String> =
            arms.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        if names.is_empty() {
            return Ok(());
        }
        let message =
            format!("it is no run, and holds {}: {}", counted(names.len() as u64, "run"), names.join(", "));
        Err(ErrorKind::NotDone { message, advice: "name one of them" }.in_file(&self.run))
    }

    /// Refuses beside `--what-if` what only one way to go on could use.
    pub(super) fn refuse_what_is_for_one(&self, goes_on_here: bool) -> Result<()> {
        let refuse = |message: &str, advice| {
            Err(ErrorKind::NotDone { message: message.to_owned(), advice }.in_file(&self.run))
        };
        if !flashpoint::train::is_run(&self.run) {
            return refuse(
                "several settings are tried only on a run of flashpoint train",
                "leave --what-if out",
            );
        }
        if !goes_on_here {
            return refuse(
                "several settings are tried here, each to its end, and neither in another program nor as a dry run",
                "leave --what-if out, or the command and --dry-run",
            );
        }
        if matches!(self.clip, Some(Clip::Norm(_))) {
            return refuse(
                "--what-if tries its own thresholds, and --clip with a number would be without effect",
                "leave one of them out; --clip recommended may stand beside --what-if",
            );
        }
        Ok(())
    }

    /// Says how it would go on.
    pub(super) fn tell(
        &self,
        looked: &Looked,
        chosen: &Chosen,
        policy: &Policy,
        context: &Context,
    ) -> Result<Outcome> {
        let checkpoint = Checkpoint::read(&chosen.path, &policy.names, context)?;
        let resumption = self.resumption(looked, chosen)?;
        let config = train::check_resumption(&resumption, context)?.swap_remove(0);
        let continuation = Continuation {
            to: resumption.to.display().to_string(),
            learning_rate: config.arm.lr,
            clipping: clipping(config.arm.clip),
            skip_batches: config.skip_batches,
        };
        let report = ResumeReport {
            clipping: looked.clipping.clone(),
            continuation: Some(continuation),
            ..ResumeReport::of(chosen, audit(&checkpoint, context))
        };
        self.outputs.write_text(&report, &|style| resume_page(&report, style))?;
        Ok(Outcome::Answered)
    }

    /// From the chosen state, with the settings that are asked for or with several of them.
    fn resumption(&self, looked: &Looked, chosen: &Chosen) -> Result<Resumption> {
        Ok(Resumption {
            run: self.run.clone(),
            step: chosen.step,
            to: self.to.clone().map_or_else(|| new_run(&self.run), Ok)?,
            settings: if self.what_if { self.several(looked.clip) } else { vec![self.one(looked.clip)] },
            max_steps: None,
        })
    }

    /// Goes on.
    pub(super) fn go_on(&self, looked: &Looked, chosen: &Chosen, context: &Context) -> Result<Outcome> {
        let resumption = self.resumption(looked, chosen)?;
        let mut watch = Watch::start(self.outputs.quiet);
        let trained = train::resume(&resumption, context, &mut |event| watch.see(event))?;
        watch.finish();
        println!("from {}: {}", chosen.checkpoint, chosen.because);
        if let Some(sentence) = &looked.clipping {
            println!("clipping: {sentence}");
        }
        print!("\n{}", train_page(&trained));
        Ok(if context.cancelled() { Outcome::Interrupted } else { Outcome::Answered })
    }

    /// What the flags say.
    fn one(&self, threshold: Option<f64>) -> Settings {
        Settings {
            name: "resumed".to_owned(),
            clip: match (self.clip, threshold) {
                (Some(Clip::Norm(norm)), _) | (Some(Clip::Recommended), Some(norm)) => {
                    Clipping::By(norm_of(norm))
                }
                _ => Clipping::AsBefore,
            },
            lr_scale: self.lr_scale,
            skip_batches: self.skip_batches.map(|(first, last)| [first, last]).into_iter().collect(),
            runs_on: match self.reading.device.device {
                DeviceChoice::Auto => RunsOn::AsBefore,
                DeviceChoice::Cpu => RunsOn::Processor,
                DeviceChoice::Cuda(ordinal) => RunsOn::Gpu(ordinal),
            },
        }
    }

    /// What else could have been done.
    fn several(&self, recommended: Option<f64>) -> Vec<Settings> {
        let with = |name: &str, clip| Settings { name: name.to_owned(), clip, ..self.one(None) };
        let mut settings = vec![
            with("no-clip", Clipping::Off),
            with(&format!("clip-{}", short(USUAL)), Clipping::By(norm_of(USUAL))),
        ];
        settings.extend(recommended.map(|norm| with("recommended", Clipping::By(norm_of(norm)))));
        let lr_scale = self.lr_scale.unwrap_or(1.0) * LOWER;
        settings.push(Settings { lr_scale: Some(lr_scale), ..with("lower-lr", Clipping::AsBefore) });
        settings
    }
}

fn norm_of(threshold: f64) -> train::Clip {
    train::Clip::Method(Method::FixedNorm(FixedNorm { threshold }))
}
