//! Runs side by side: the same batches to all of them, each in its own directory.
//!
//! Runs are apart: one more or less beside a run, or another number of threads, changes none of its bits.

use std::path::{Path, PathBuf};

use rayon::iter::{IntoParallelRefMutIterator, ParallelIterator};

use super::arm::Measured;
use super::config::{Clip, Config};
use super::data::Data;
use super::model::Model;
use super::run::{self, Record, Run, RunFile, batch_of};
use super::storage;
use crate::context::Context;
use crate::error::{Error, ErrorKind, Result};

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Request {
    /// Where the run goes; with several arms, a directory for each in it.
    pub save_path: PathBuf,
    /// One for each arm. They differ in nothing but what is of an arm.
    pub arms: Vec<Config>,
    /// Start over, also where there is a run already: that is set aside.
    pub weight_reset: bool,
    /// Stop and save after so many steps in all.
    pub max_steps: Option<u64>,
}

/// What `resume` does with a state of a run.
#[derive(Debug, Clone)]
pub struct Resumption {
    /// The run.
    pub run: PathBuf,
    /// The step of its checkpoint.
    pub step: u64,
    /// Where the new run goes; with several settings, a directory for each in it.
    pub to: PathBuf,
    /// One for each run that comes of it.
    pub settings: Vec<Settings>,
    /// Stop and save after so many steps in all.
    pub max_steps: Option<u64>,
}

/// What is done otherwise from a checkpoint on.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Settings {
    /// For people, and the name of the directory where there are several.
    pub name: String,
    /// Clip by this, or not at all, in place of what the run did.
    pub clip: Clipping,
    /// Learning rates are multiplied by it.
    pub lr_scale: Option<f64>,
    /// Batches to leave out, first and last.
    pub skip_batches: Vec<[u64; 2]>,
    /// What passes run on.
    pub runs_on: RunsOn,
}

/// What passes run on where a run goes on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum RunsOn {
    /// What they ran on.
    #[default]
    AsBefore,
    /// The processor.
    Processor,
    /// This GPU.
    Gpu(usize),
}

/// What becomes of clipping where a run goes on.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub enum Clipping {
    /// It stays.
    #[default]
    AsBefore,
    /// Nothing is clipped any more.
    Off,
    /// Gradients are clipped by this.
    By(Clip),
}

/// What happens meanwhile.
#[derive(Debug)]
pub enum Event<'a> {
    /// So many of so many batches are through.
    Batches(u64, u64),
    /// A run has ended an epoch.
    Epoch {
        /// Its name.
        run: &'a str,
        /// Which, counted from 1.
        epoch: u64,
        /// Mean loss over it.
        training_loss: f64,
        /// On the validation examples.
        validation: Measured,
    },
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Trained {
    /// Its name beside the others.
    pub name: String,
    /// Where it is.
    pub directory: PathBuf,
    /// How it was trained.
    pub config: Config,
    /// Steps taken.
    pub steps: u64,
    /// It went through all epochs.
    pub finished: bool,
    /// What was seen.
    pub record: Record,
}

/// Trains the arms of a request, each from its last checkpoint where there is one.
///
/// # Errors
/// When the model or the examples cannot be used, when there is a run of other settings at the place, or when something
/// cannot be written.
pub fn train(
    request: &Request,
    context: &Context,
    observe: &mut dyn FnMut(&Event<'_>),
) -> Result<Vec<Trained>> {
    let first = request.arms.first().expect("there is at least one arm");
    let data = Data::prepare(&first.source, first.seed, context)?;
    let names = names(&request.arms);
    let directory = |name: &str| match request.arms.len() {
        1 => request.save_path.clone(),
        _ => request.save_path.join(name),
    };
    let models: Vec<Model> =
        request.arms.iter().map(|config| Model::load(config, &data)).collect::<Result<_>>()?;
    // Only now: what cannot be trained leaves the earlier run where it is.
    if request.weight_reset {
        set_aside(&request.save_path)?;
    } else {
        check_number_of_arms(&request.save_path, &names)?;
    }
    let mut runs = Vec::new();
    for ((config, name), model) in request.arms.iter().zip(&names).zip(&models) {
        let directory = directory(name);
        let run = if run::is_one(&directory) {
            Run::go_on(name, &directory, config, model, &data, context)?
        } else {
            check_empty(&directory)?;
            Run::begin(name, &directory, config, model, &data, context)?
        };
        runs.push(run);
    }
    go(runs, &data, request.max_steps, context, observe)
}

/// Goes on from a checkpoint of a run of the trainer, in new directories.
///
/// # Errors
/// As [`train`], and when the run is not one of the trainer's.
pub fn resume(
    resumption: &Resumption,
    context: &Context,
    observe: &mut dyn FnMut(&Event<'_>),
) -> Result<Vec<Trained>> {
    let file = RunFile::read(&resumption.run)?;
    let data = Data::prepare(&file.config.source, file.config.seed, context)?;
    let mut runs = Vec::new();
    for settings in &resumption.settings {
        let Ahead { config, model, directory } = resumption.ahead(settings, &file, &data)?;
        let from = (resumption.run.as_path(), resumption.step);
        runs.push(Run::branch(&settings.name, &directory, &config, &model, &data, from, context)?);
    }
    go(runs, &data, resumption.max_steps, context, observe)
}

/// The configurations with which [`resume`] would go on; nothing is written.
///
/// # Errors
/// Those of [`resume`] before its first step.
pub fn check_resumption(resumption: &Resumption, context: &Context) -> Result<Vec<Config>> {
    let file = RunFile::read(&resumption.run)?;
    let data = Data::prepare(&file.config.source, file.config.seed, context)?;
    let check = |settings: &Settings| {
        let Ahead { config, model, directory } = resumption.ahead(settings, &file, &data)?;
        let from = (resumption.run.as_path(), resumption.step);
        Run::taken_over(&directory, &config, &model, &data, from, context)?;
        Ok(config)
    };
    resumption.settings.iter().map(check).collect()
}

/// How a run goes on.
struct Ahead {
    config: Config,
    model: Model,
    directory: PathBuf,
}

impl Resumption {
    /// With these of its settings.
    fn ahead(&self, settings: &Settings, file: &RunFile, data: &Data) -> Result<Ahead> {
        let config = settings.applied(&file.config);
        let from = storage::checkpoint_path(&self.run, self.step);
        let (state, batches) = (storage::read_state(&from)?, file.config.batches(data.train.len()));
        if state.position.next >= batches {
            let message = "the run is through there: no batch is still to come".to_owned();
            let advice = "go on from an earlier step: --from STEP; or train it for more epochs: flashpoint train --num-epochs";
            return Err(ErrorKind::NotDone { message, advice }.in_file(&from));
        }
        settings.check_skipped(state.position.next, batches, &self.run)?;
        let directory = match self.settings.len() {
            1 => self.to.clone(),
            _ => self.to.join(&settings.name),
        };
        Ok(Ahead { model: Model::load(&config, data)?, config, directory })
    }
}

impl Settings {
    /// Refuses to leave out batches none of which is still to come.
    fn check_skipped(&self, next: u64, batches: u64, run: &Path) -> Result<()> {
        let in_vain = |[first, last]: &&[u64; 2]| *last < next || *first >= batches;
        let Some([first, last]) = self.skip_batches.iter().find(in_vain) else { return Ok(()) };
        let to_come = format!("those to come are {next} to {}", batches - 1);
        let message = format!(
            "none of the batches {first} to {last} is still to come: {to_come}, counted from 0 over all epochs"
        );
        Err(ErrorKind::NotDone {
            message,
            advice: "mend --skip-batches, or go on from another step: --from STEP",
        }
        .in_file(run))
    }

    /// The configuration with what is done otherwise.
    fn applied(&self, config: &Config) -> Config {
        let mut config = config.clone();
        match self.clip {
            Clipping::AsBefore => {}
            Clipping::Off => config.arm.clip = None,
            Clipping::By(clip) => config.arm.clip = Some(clip),
        }
        config.arm.lr *= self.lr_scale.unwrap_or(1.0);
        config.skip_batches.extend(&self.skip_batches);
        match self.runs_on {
            RunsOn::AsBefore => {}
            RunsOn::Processor => config.cuda = None,
            RunsOn::Gpu(ordinal) => config.cuda = Some(ordinal),
        }
        config
    }
}

/// Takes batch after batch: the runs that are farthest behind go first, so that all see the same batch together.
fn go(
    mut runs: Vec<Run>,
    data: &Data,
    max_steps: Option<u64>,
    context: &Context,
    observe: &mut dyn FnMut(&Event<'_>),
) -> Result<Vec<Trained>> {
    let config = runs[0].config.clone();
    let per_epoch = config.batches_of_an_epoch(data.train.len());
    let total = config.num_epochs * per_epoch;
    let mut order = (u64::MAX, Vec::new());
    let may_step = |run: &Run| max_steps.is_none_or(|most| run.step() < most);
    while !context.cancelled() {
        let open = runs.iter().filter(|run| may_step(run));
        let Some(next) = open.filter_map(|run| run.next(data)).min() else { break };
        observe(&Event::Batches(next, total));
        let epoch = next / per_epoch;
        if order.0 != epoch {
            order = (epoch, data.order(config.seed, epoch));
        }
        let batch = batch_of(&order.1, next % per_epoch, config.batch_size, data);
        let measured: Vec<Result<Option<Measured>>> = runs
            .par_iter_mut()
            .map(|run| {
                let is_due = may_step(run) && run.next(data) == Some(next);
                if is_due { run.take(&batch, data) } else { Ok(None) }
            })
            .collect();
        for (run, measured) in runs.iter().zip(measured) {
            if let Some(validation) = measured? {
                let training_loss = run.record.training_loss.expect("an epoch has ended");
                observe(&Event::Epoch { run: &run.name, epoch: epoch + 1, training_loss, validation });
            }
        }
    }
    runs.into_iter().map(|run| end(run, data)).collect()
}

fn end(mut run: Run, data: &Data) -> Result<Trained> {
    run.save(data)?;
    let finished = run.next(data).is_none();
    if finished {
        run.test(data)?;
    }
    Ok(Trained {
        steps: run.step(),
        finished,
        name: run.name,
        directory: run.directory,
        config: run.config,
        record: run.record,
    })
}

/// The optimizer's name; numbered from the second of a name on.
fn names(arms: &[Config]) -> Vec<String> {
    let name = |index: usize| {
        let own = arms[index].arm.optimizer;
        let before = arms[..index].iter().filter(|other| other.arm.optimizer == own).count();
        if before == 0 { own.to_string() } else { format!("{own}-{}", before + 1) }
    };
    (0..arms.len()).map(name).collect()
}

/// A directory that something else is in is not written to.
fn check_empty(directory: &Path) -> Result<()> {
    let Ok(mut entries) = std::fs::read_dir(directory) else { return Ok(()) };
    if entries.next().is_none() {
        return Ok(());
    }
    let message = "the directory is not empty, and holds no run of flashpoint train".to_owned();
    Err(ErrorKind::CannotGoOn { message }.in_file(directory))
}

/// Several arms are not written into the directory of one run: what reads it would take them for a part of it.
fn check_number_of_arms(directory: &Path, names: &[String]) -> Result<()> {
    if names.len() == 1 || !run::is_one(directory) {
        return Ok(());
    }
    let message = format!("one run is there, and {} arms are asked for", names.len());
    Err(ErrorKind::CannotGoOn { message }.in_file(directory))
}

/// Moves what is at the place of a run to the first free of `PATH.1`, `PATH.2`, …
fn set_aside(path: &Path) -> Result<()> {
    if !path.exists() {
        return Ok(());
    }
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path());
    let directories = entries.filter(|entry| entry.is_dir()).chain([path.to_owned()]);
    // Held until it is moved.
    let _locks: Vec<_> = directories.map(|directory| storage::lock(&directory)).collect::<Result<_>>()?;
    let numbered = |number: u64| {
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{number}"));
        path.with_file_name(name)
    };
    let free =
        (1..=u64::MAX).map(numbered).find(|path| !path.exists()).expect("there is a number for every run");
    std::fs::rename(path, &free).map_err(|error| Error::io(path, "set the earlier run aside", &error))
}
