//! From a checkpoint and what is asked about it to a network, a probe, and their Jacobians.

use std::path::{Path, PathBuf};

use super::measure::Options;
use super::parameters::Parameters;
use super::probe::{self, Probe, Wanted};
use super::spectrum::Request;
use super::{Precision, cost, device, measure, measure::planned, recurrences};
use crate::analysis::device::or_processor;
use crate::analysis::model::{
    DType, GradientSource, JacobianAnalysis, JacobianCost, JacobianSetting, ProbeKind, RecurrenceAnalysis,
};
use crate::checkpoint::Checkpoint;
use crate::compute::{Backend, Cpu, Real};
use crate::context::Context;
use crate::error::{Error, ErrorKind, Result};
use crate::files::read_text;
use crate::network::builders::{self, Built};
use crate::tensor::Tensor;

/// What is asked about the Jacobians of a checkpoint.
#[derive(Debug, Clone, PartialEq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command, independent of the others")]
pub struct Question {
    /// A file that says what the network is.
    pub model: Option<PathBuf>,
    /// Heads of an attention, where neither config nor shapes tell.
    pub heads: Option<usize>,
    /// A file of inputs.
    pub input: Option<PathBuf>,
    /// Length of a sequence.
    pub tokens: usize,
    /// Inputs.
    pub draws: usize,
    /// Seed of everything random.
    pub seed: u64,
    /// Pairs of products that the largest singular values are sought with.
    pub pairs: usize,
    /// All singular values, where a map is small enough.
    pub exact: bool,
    /// Where the singular values lie.
    pub density: bool,
    /// The largest singular value from the first state to each depth.
    pub depth_spectra: bool,
    /// The architecture as it is initialised.
    pub initial: bool,
    /// Operations beside branches and blocks.
    pub per_operation: bool,
    /// Precision of products.
    pub precision: Precision,
}

/// Random vectors that the rest of a Frobenius norm is estimated with.
pub const PROBES: usize = 16;

impl Default for Question {
    fn default() -> Self {
        Self {
            model: None,
            heads: None,
            input: None,
            tokens: 32,
            draws: 3,
            seed: 0,
            pairs: 20,
            exact: false,
            density: false,
            depth_spectra: false,
            initial: true,
            per_operation: false,
            precision: Precision::F32,
        }
    }
}

/// A network with its probe, ready to be measured.
pub struct Prepared {
    built: Built,
    probe: Probe,
    precision: Precision,
    options: Options,
    path: PathBuf,
}

/// Builds the network of `checkpoint` and makes its probe.
///
/// # Errors
/// When the network is none that is known, parameters are missing, or the probe cannot be used.
pub fn prepare(checkpoint: &Checkpoint, question: &Question, context: &Context) -> Result<Prepared> {
    let built = build(checkpoint, question, context)?;
    // Measured is what a loss judges: labels, where there are some, are held against it.
    let built = Built { network: built.network.without_loss(), ..built };
    let wanted = Wanted {
        tokens: question.tokens,
        draws: question.draws,
        seed: question.seed,
        image: context.input_size.clone(),
    };
    let probe = match &question.input {
        Some(path) => probe::read(path, &built.network, &wanted, context)?,
        None => probe::draw(&built.network, &wanted).map_err(|message| refused(&checkpoint.path, message))?,
    };
    let spectrum = Request {
        pairs: question.pairs,
        probes: PROBES,
        density: question.density,
        exact: question.exact,
        seed: question.seed,
        unit: question.precision.unit(),
    };
    let options = Options {
        spectrum,
        per_operation: question.per_operation,
        depth_spectra: question.depth_spectra,
        initial: question.initial,
    };
    Ok(Prepared { built, probe, precision: question.precision, options, path: checkpoint.path.clone() })
}

fn refused(path: &Path, message: String) -> Error {
    ErrorKind::Probe { message }.in_file(path)
}

/// The network that the file says; without one that of a file beside the checkpoint or its run, of the config beside it, or of the
/// parameters' shapes.
fn build(checkpoint: &Checkpoint, question: &Question, context: &Context) -> Result<Built> {
    if let Some(path) = question.model.clone().or_else(|| model_file_of(&checkpoint.path)) {
        let text = read_text(&path, builders::MODEL_FILE, builders::LARGEST_MODEL_FILE, context)?;
        return builders::from_model_toml(&text, &path, checkpoint);
    }
    let by_config = builders::from_config(checkpoint);
    let is_known =
        !matches!(&by_config, Err(error) if matches!(error.kind, ErrorKind::UnknownArchitecture { .. }));
    if is_known {
        // A config that says how many is not overruled, and not in silence either.
        return if question.heads.is_some() {
            by_config.and(Err(heads_are_known(&checkpoint.path)))
        } else {
            by_config
        };
    }
    match builders::from_shapes(checkpoint, question.heads) {
        // What the config says matters more than what shapes do not.
        Err(error) if says_the_model(checkpoint) && !matches!(error.kind, ErrorKind::UnknownHeads { .. }) => {
            by_config
        }
        by_shapes => by_shapes,
    }
}

fn says_the_model(checkpoint: &Checkpoint) -> bool {
    checkpoint.config.as_ref().is_some_and(|config| config.contains_key("model_type"))
}

fn heads_are_known(path: &Path) -> Error {
    let message = "its config says how many heads it has, and --heads changes nothing".to_owned();
    ErrorKind::NotDone { message, advice: "leave the option out" }.in_file(path)
}

/// The `model.toml` in a checkpoint's directory, or in that of its run, where `flashpoint train` puts it.
fn model_file_of(checkpoint: &Path) -> Option<PathBuf> {
    // A path such as `.` does not say what is above it.
    let whole = std::path::absolute(checkpoint).ok()?;
    let directories = whole.ancestors().skip(usize::from(whole.is_file())).take(2);
    directories.map(|directory| directory.join("model.toml")).find(|path| path.is_file())
}

impl Prepared {
    /// Where it will be measured, and what that takes on so many threads.
    ///
    /// # Errors
    /// When the probe is not of a shape that the network takes.
    pub fn plan(&self, threads: usize) -> Result<(JacobianSetting, JacobianCost)> {
        Ok((self.setting(), self.cost(threads)?))
    }

    fn cost(&self, threads: usize) -> Result<JacobianCost> {
        let shape = self.probe.feeds.first().map(|feed| feed.input.shape()).unwrap_or_default();
        let (network, draws) = (&self.built.network, self.probe.feeds.len());
        let cost = match self.precision {
            Precision::F32 => cost::of::<f32>(network, &shape, draws, &self.options, threads),
            Precision::F64 => cost::of::<f64>(network, &shape, draws, &self.options, threads),
        };
        cost.map_err(|message| refused(&self.path, message))
    }

    /// Measures; `None` when the user asked to stop. In f32 on a GPU, where there is one to be used; f64, which is for what is held
    /// against a reference, on the processor.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn measure(&self, checkpoint: &Checkpoint, context: &Context) -> Result<Option<JacobianAnalysis>> {
        if self.precision == Precision::F64 {
            return self.measure_on::<_, f64>(&Cpu, checkpoint, context);
        }
        let on_processor = || self.measure_on::<_, f32>(&Cpu, checkpoint, context);
        // What a cost cannot be said of cannot be measured either, and measuring says why.
        let operations = || self.cost(rayon::current_num_threads()).map_or(0, |cost| cost.operations);
        let Some(device) = device::chosen(operations, context) else { return on_processor() };
        let found = self.measure_on::<_, f32>(&device.backend(), checkpoint, context);
        let named = |found: JacobianAnalysis| JacobianAnalysis { device: Some(device.name()), ..found };
        or_processor(&device, "the Jacobians", found.map(|found| found.map(named)), on_processor, context)
    }

    fn measure_on<B: Backend, T: Real>(
        &self,
        backend: &B,
        checkpoint: &Checkpoint,
        context: &Context,
    ) -> Result<Option<JacobianAnalysis>> {
        let (network, feeds) = (&self.built.network, &self.probe.feeds);
        // Anew where a GPU has failed on the way.
        planned(network, feeds.len(), &self.options, context);
        let (tensors, config) = (self.built.tensors(checkpoint), checkpoint.config.as_ref());
        let parameters = Parameters::<B, T>::read(backend, network, &tensors)?;
        let Some((found, initial)) =
            measure::of_network(backend, network, &parameters, config, feeds, &self.options, context)?
        else {
            return Ok(None);
        };
        drop(parameters);
        let Some(recurrences) = self.recurrences::<T>(&tensors, context)? else { return Ok(None) };
        Ok(Some(JacobianAnalysis {
            architecture: network.architecture.clone(),
            setting: self.setting(),
            device: None,
            unused: self.built.unused.clone(),
            assumptions: self.built.assumptions.clone(),
            parts: found.parts,
            end_to_end: found.end_to_end,
            initial,
            depths: found.depths,
            recurrences,
        }))
    }

    /// Recurrences step by step, on the processor: each step waits for the one before it, and is small.
    fn recurrences<T: Real>(
        &self,
        tensors: &[&Tensor],
        context: &Context,
    ) -> Result<Option<Vec<RecurrenceAnalysis>>> {
        let network = &self.built.network;
        if network.recurrences().is_empty() {
            return Ok(Some(Vec::new()));
        }
        let parameters = Parameters::<Cpu, T>::read(&Cpu, network, tensors)?;
        if !parameters.is_resident() {
            return Ok(Some(Vec::new()));
        }
        context.progress.say("recurrences");
        let data = self.probe.feeds.first().filter(|_| self.probe.kind == ProbeKind::Data);
        recurrences::measure(&Cpu, network, &parameters, data, self.options.spectrum.seed, context)
    }

    fn setting(&self) -> JacobianSetting {
        let request = &self.options.spectrum;
        JacobianSetting {
            probe: self.probe.kind,
            file: self.probe.file.clone(),
            shape: self.probe.shape.clone(),
            tokens: self.probe.tokens.clone(),
            draws: self.probe.feeds.len() as u64,
            seed: request.seed,
            dtype: match self.precision {
                Precision::F32 => DType::F32,
                Precision::F64 => DType::F64,
            },
            pairs: request.pairs as u64,
            probes: request.probes as u64,
            gradient: if self.probe.feeds.iter().any(|feed| feed.targets.is_some()) {
                GradientSource::Labels
            } else {
                GradientSource::Random
            },
        }
    }
}
