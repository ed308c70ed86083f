//! One run on disk: an arm, where it stands in the data, its record, its checkpoints.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::arm::{Arm, Measured, Stepped};
use super::config::{Clip, Config, Interval};
use super::data::{Batch, Data, batch_range};
use super::log::{self, Lines};
use super::model::{MEASURED_TOGETHER, Model};
use super::numerics::Fingerprint;
use super::passes;
use super::schedule::Shape;
use super::state::{Position, Random, ScheduleState, State};
use super::storage;
use crate::clip::Method;
use crate::compute::cuda::Device;
use crate::context::Context;
use crate::error::{Error, ErrorKind, Result};
use crate::files::write_atomically;

const RUN: &str = "run.json";
const MODEL: &str = "model.toml";
const METRICS: &str = "metrics.jsonl";
const VALIDATION: &str = "validation.jsonl";

/// `run.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RunFile {
    /// Name and version of what wrote the run.
    pub tool: String,
    /// Everything it was started with.
    pub config: Config,
    /// Of all its random numbers.
    pub seed: u64,
    /// The constant that gradient norms are clipped to, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_grad_norm: Option<f64>,
    /// The run that it goes on from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<Parent>,
}

/// Where a run goes on from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parent {
    /// The directory of the run, as it was named.
    pub run: PathBuf,
    /// The checkpoint.
    pub step: u64,
    /// BLAKE3 of its files.
    pub digests: std::collections::BTreeMap<String, String>,
}

/// A run under way.
pub(super) struct Run {
    /// Its name beside others.
    pub name: String,
    /// Where it is.
    pub directory: PathBuf,
    pub config: Config,
    arm: Arm,
    step: u64,
    /// The next batch, counted over all epochs.
    next: u64,
    epoch_steps: u64,
    epoch_loss: f64,
    saved: Option<u64>,
    metrics: Lines,
    validation: Lines,
    pub record: Record,
    /// Held to the end, so that no other process writes there.
    _lock: Option<File>,
}

/// What is told of a run.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Record {
    /// Mean loss of the last whole epoch.
    pub training_loss: Option<f64>,
    /// The last look at the validation examples.
    pub validation: Option<(f64, f64)>,
    /// Loss and accuracy on the test examples, at the end.
    pub test: Option<(f64, f64)>,
    /// Largest norm of a gradient since the process was started; infinite where one was not finite.
    pub largest_grad_norm: f64,
    /// Steps since then whose gradient clipping made shorter.
    pub clipped: u64,
    /// Steps since then that clipping did not take.
    pub skipped: u64,
    /// Steps since then whose gradient or loss was not finite.
    pub non_finite: u64,
}

impl RunFile {
    fn new(config: &Config, parent: Option<Parent>) -> Self {
        let threshold = match config.arm.clip {
            Some(Clip::Method(Method::FixedNorm(method))) => Some(method.threshold),
            _ => None,
        };
        Self {
            tool: format!("flashpoint {}", env!("CARGO_PKG_VERSION")),
            config: config.clone(),
            seed: config.seed,
            max_grad_norm: threshold,
            parent,
        }
    }

    /// Reads that of a run of the trainer.
    ///
    /// # Errors
    /// When there is none, or something else wrote it.
    pub fn read(run: &Path) -> Result<Self> {
        let path = run.join(RUN);
        let text = std::fs::read(&path).map_err(|error| Error::io(&path, "read it", &error))?;
        serde_json::from_slice(&text)
            .map_err(|error| ErrorKind::SideFile { what: RUN, message: error.to_string() }.in_file(&path))
    }

    /// Writes it, and beside it what network it is, for `flashpoint jacobian`. It comes first: a directory that has it is a run, which goes
    /// on wherever its process was killed.
    fn write(&self, run: &Path, model: &Model) -> Result<()> {
        let mut text = serde_json::to_string_pretty(self).expect("a run file is plain data");
        text.push('\n');
        write_atomically(&run.join(RUN), text.as_bytes())?;
        write_atomically(&run.join(MODEL), model.file.as_bytes())
    }
}

/// Whether a run of the trainer is there, which it can go on with.
pub fn is_run(directory: &Path) -> bool {
    RunFile::read(directory).is_ok()
}

/// Whether something is there that calls itself a run.
pub(super) fn is_one(directory: &Path) -> bool {
    directory.join(RUN).is_file()
}

impl Run {
    /// A run that begins, with its checkpoint of step 0.
    pub(super) fn begin(
        name: &str,
        directory: &Path,
        config: &Config,
        model: &Model,
        data: &Data,
        context: &Context,
    ) -> Result<Self> {
        let weights = config.weight_initialization.weights(&model.network, config.seed);
        let arm = Arm::begin(&config.arm, model.clone(), weights).on(gpu(config, context)?);
        std::fs::create_dir_all(directory).map_err(|error| Error::io(directory, "make it", &error))?;
        let lock = storage::lock(directory)?;
        RunFile::new(config, None).write(directory, model)?;
        let mut run = Self::assemble(name, directory, config, arm, None, lock)?;
        run.pass_over_skipped(data);
        run.save(data)?;
        Ok(run)
    }

    /// A run that goes on in its own directory from its last checkpoint.
    pub(super) fn go_on(
        name: &str,
        directory: &Path,
        config: &Config,
        model: &Model,
        data: &Data,
        context: &Context,
    ) -> Result<Self> {
        let lock = storage::lock(directory)?;
        storage::remove_unfinished(directory)?;
        let Some(step) = storage::checkpoints(directory)?.pop() else {
            drop(lock);
            return Self::begin(name, directory, config, model, data, context);
        };
        let path = storage::checkpoint_path(directory, step);
        let state = storage::read_state(&path)?;
        check_same(&state.config, config, directory)?;
        let arm = arm_of(&path, &state, config, model, data, true, context)?;
        RunFile { parent: RunFile::read(directory)?.parent, ..RunFile::new(config, None) }
            .write(directory, model)?;
        let mut run = Self::assemble(name, directory, config, arm, Some(&state), lock)?;
        run.saved = Some(step);
        run.pass_over_skipped(data);
        Ok(run)
    }

    /// What a run in a new directory takes over from a checkpoint of another. The clipping method is kept, with what it remembers, where
    /// the settings have the same one.
    ///
    /// # Errors
    /// When the checkpoint does not belong to these examples, or the directory is there already.
    pub(super) fn taken_over(
        directory: &Path,
        config: &Config,
        model: &Model,
        data: &Data,
        (parent, step): (&Path, u64),
        context: &Context,
    ) -> Result<(State, Arm)> {
        let path = storage::checkpoint_path(parent, step);
        let state = storage::read_state(&path)?;
        let same_clip = state.config.arm.clip == config.arm.clip;
        let arm = arm_of(&path, &state, config, model, data, same_clip, context)?;
        if directory.exists() {
            return Err(ErrorKind::AlreadyThere.in_file(directory));
        }
        Ok((state, arm))
    }

    /// A run in a new directory that goes on from a checkpoint of another, with other settings.
    pub(super) fn branch(
        name: &str,
        directory: &Path,
        config: &Config,
        model: &Model,
        data: &Data,
        (parent, step): (&Path, u64),
        context: &Context,
    ) -> Result<Self> {
        let (state, arm) = Self::taken_over(directory, config, model, data, (parent, step), context)?;
        std::fs::create_dir_all(directory).map_err(|error| Error::io(directory, "make it", &error))?;
        let lock = storage::lock(directory)?;
        let parent = Parent { run: parent.to_owned(), step, digests: state.digests.clone() };
        RunFile::new(config, Some(parent)).write(directory, model)?;
        let mut run = Self::assemble(name, directory, config, arm, Some(&state), lock)?;
        run.pass_over_skipped(data);
        run.save(data)?;
        Ok(run)
    }

    fn assemble(
        name: &str,
        directory: &Path,
        config: &Config,
        arm: Arm,
        state: Option<&State>,
        lock: Option<File>,
    ) -> Result<Self> {
        let step = state.map_or(0, |state| state.step);
        let position = state.map(|state| state.position);
        Ok(Self {
            name: name.to_owned(),
            directory: directory.to_owned(),
            config: config.clone(),
            arm,
            step,
            next: position.map_or(0, |position| position.next),
            epoch_steps: position.map_or(0, |position| position.epoch_steps),
            epoch_loss: position.map_or(0.0, |position| f64::from_bits(position.epoch_loss_bits)),
            saved: None,
            metrics: Lines::open(&directory.join(METRICS), |line| log::is_up_to(line, step))?,
            validation: Lines::open(&directory.join(VALIDATION), |line| {
                log::is_up_to(line, step) && !log::is_of_test(line)
            })?,
            record: Record::default(),
            _lock: lock,
        })
    }

    /// Steps taken.
    pub(super) fn step(&self) -> u64 {
        self.step
    }

    /// The batch that it takes next; none once it is through.
    pub(super) fn next(&self, data: &Data) -> Option<u64> {
        (self.next < self.batches(data)).then_some(self.next)
    }

    fn batches(&self, data: &Data) -> u64 {
        self.config.batches(data.train.len())
    }

    fn epoch(&self, data: &Data) -> u64 {
        self.next / self.config.batches_of_an_epoch(data.train.len())
    }

    /// Takes a step on the batch that is next, and what is due after it.
    pub(super) fn take(&mut self, batch: &Batch, data: &Data) -> Result<Option<Measured>> {
        let loss = self.arm.differentiate(batch)?;
        let step = self.step + 1;
        if self.config.gradient_interval.is_some_and(|interval| step.is_multiple_of(interval)) {
            storage::dump(&self.directory, step, &self.arm)?;
        }
        let stepped = self.arm.update(loss, self.learning_rate(step, data));
        self.note(&stepped);
        let epoch = self.epoch(data);
        self.step = step;
        self.next += 1;
        self.epoch_steps += 1;
        self.epoch_loss += loss;
        self.metrics.add(&log::metrics(step, epoch, &stepped, self.arm.clipper().is_some()))?;
        self.pass_over_skipped(data);
        let ended = self.epoch(data) > epoch;
        let measured = if ended { Some(self.end_epoch(data)?) } else { None };
        let is_due = match self.config.save_interval {
            Interval::Steps(interval) => step.is_multiple_of(interval),
            Interval::Epochs(interval) => ended && self.epoch(data).is_multiple_of(interval),
        };
        if is_due {
            self.save(data)?;
        }
        Ok(measured)
    }

    fn end_epoch(&mut self, data: &Data) -> Result<Measured> {
        self.record.training_loss = Some(self.epoch_loss / self.epoch_steps as f64);
        (self.epoch_steps, self.epoch_loss) = (0, 0.0);
        let measured = self.measure(&data.validation, data)?;
        self.record.validation = Some((measured.loss, measured.accuracy));
        self.validation.add(&log::measured(self.step, self.epoch(data), "validation", &measured))?;
        Ok(measured)
    }

    /// Tests what came out.
    pub(super) fn test(&mut self, data: &Data) -> Result<Measured> {
        let measured = self.measure(&data.test, data)?;
        self.record.test = Some((measured.loss, measured.accuracy));
        self.validation.add(&log::measured(self.step, self.epoch(data), "test", &measured))?;
        Ok(measured)
    }

    fn measure(&self, positions: &[u32], data: &Data) -> Result<Measured> {
        self.arm.measure(positions.chunks(MEASURED_TOGETHER).map(|positions| data.batch(positions)))
    }

    fn note(&mut self, stepped: &Stepped) {
        let record = &mut self.record;
        let is_finite = stepped.grad_norm.is_finite() && stepped.loss.is_finite();
        let norm = if stepped.grad_norm.is_finite() { stepped.grad_norm } else { f64::INFINITY };
        record.largest_grad_norm = record.largest_grad_norm.max(norm);
        record.non_finite += u64::from(!is_finite);
        record.skipped += u64::from(stepped.skipped);
        record.clipped += u64::from(!stepped.skipped && stepped.clipped_norm < stepped.grad_norm);
    }

    fn learning_rate(&self, step: u64, data: &Data) -> f64 {
        self.config.arm.lr * self.config.arm.schedule.factor(step, self.config.steps(data.train.len()))
    }

    fn pass_over_skipped(&mut self, data: &Data) {
        while self.next < self.batches(data) && self.config.skips(self.next) {
            self.next += 1;
        }
    }

    /// Writes a checkpoint, unless that of this step is there.
    pub(super) fn save(&mut self, data: &Data) -> Result<()> {
        if self.saved == Some(self.step) {
            return Ok(());
        }
        let per_epoch = self.config.batches_of_an_epoch(data.train.len());
        let mut state = State {
            step: self.step,
            optimizer: self.arm.rule().written(self.learning_rate(self.step + 1, data)),
            updates: self.arm.updates(),
            position: Position {
                next: self.next,
                epoch: self.next / per_epoch,
                batch: self.next % per_epoch,
                epoch_steps: self.epoch_steps,
                epoch_loss_bits: self.epoch_loss.to_bits(),
            },
            schedule: ScheduleState { step: self.step, total: self.config.steps(data.train.len()) },
            clipper: self.arm.clipper().cloned(),
            random: Random::new(self.config.seed),
            config: self.config.clone(),
            data: data.digest.clone(),
            digests: std::collections::BTreeMap::new(),
            numerics: Fingerprint::here(self.arm.gpu()),
        };
        storage::save(&self.directory, &self.arm, self.config.arm.dtype, &mut state)?;
        self.saved = Some(self.step);
        Ok(())
    }
}

/// The examples of a batch, for whoever trains on it.
pub(super) fn batch_of(order: &[u32], batch: u64, size: usize, data: &Data) -> Batch {
    data.batch(&order[batch_range(batch, size, order.len())])
}

fn arm_of(
    path: &Path,
    state: &State,
    config: &Config,
    model: &Model,
    data: &Data,
    keep_clipper: bool,
    context: &Context,
) -> Result<Arm> {
    if state.data != data.digest {
        let message =
            "the examples are not those that the checkpoint was trained on: their digests differ".to_owned();
        return Err(ErrorKind::CannotGoOn { message }.in_file(path));
    }
    let numbers = storage::read_numbers(path, state, &model.network, context)?;
    let clipper = state.clipper.clone().filter(|_| keep_clipper);
    Ok(Arm::resume(&config.arm, model.clone(), numbers, clipper).on(gpu(config, context)?))
}

/// What passes are to run on.
fn gpu(config: &Config, context: &Context) -> Result<Option<Arc<Device>>> {
    config.cuda.map(|ordinal| passes::open(ordinal, &context.device.libraries)).transpose()
}

/// Refuses to go on with other settings than those of the checkpoint; only the number of epochs may grow, where the learning rate stays.
fn check_same(saved: &Config, asked: &Config, directory: &Path) -> Result<()> {
    let may_grow = saved.arm.schedule.shape == Shape::Constant;
    let most = if may_grow { asked.num_epochs.max(saved.num_epochs) } else { saved.num_epochs };
    if (Config { num_epochs: most, ..saved.clone() }) == *asked {
        return Ok(());
    }
    if asked.num_epochs > saved.num_epochs && !may_grow {
        let message = format!(
            "num_epochs was {} and is now {}: the course of the learning rate, which ends with the epochs, would be another from the first step on",
            saved.num_epochs, asked.num_epochs
        );
        return Err(ErrorKind::CannotGoOn { message }.in_file(directory));
    }
    let as_json = |config: &Config| serde_json::to_value(config).expect("a config is plain data");
    let (before, now) = (as_json(saved), as_json(asked));
    let keys = before.as_object().into_iter().chain(now.as_object()).flat_map(serde_json::Map::keys);
    let mut keys = keys;
    let may_differ = |key: &String| key == "num_epochs" && asked.num_epochs > saved.num_epochs;
    let changed = keys.find(|key| !may_differ(key) && before.get(key.as_str()) != now.get(key.as_str()));
    let key = changed.map_or("config", String::as_str);
    if key == "model" {
        let message = format!("{} is not what it was when the run began", asked.model_name);
        return Err(ErrorKind::CannotGoOn { message }.in_file(directory));
    }
    let of = |config: &serde_json::Value| match config.get(key) {
        None => "none".to_owned(),
        Some(serde_json::Value::String(text)) => text.clone(),
        Some(value) => value.to_string(),
    };
    let message = format!("{key} was {} and is now {}", of(&before), of(&now));
    Err(ErrorKind::CannotGoOn { message }.in_file(directory))
}
