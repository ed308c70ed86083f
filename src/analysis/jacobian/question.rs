//! From a checkpoint and what is asked about it to a network, a probe, and their Jacobians.

use std::path::{Path, PathBuf};

use super::measure::Options;
use super::probe::{self, Probe, Wanted};
use super::spectrum::Request;
use super::{Precision, cost, measure, measure::planned, recurrences};
use crate::analysis::model::{DType, JacobianAnalysis, JacobianCost, JacobianSetting, Measured, ProbeKind};
use crate::checkpoint::Checkpoint;
use crate::compute::{Cpu, Real};
use crate::context::Context;
use crate::error::{Error, ErrorKind, Result};
use crate::network::builders::step::steps;
use crate::network::builders::{self, Built};

/// What is asked about the Jacobians of a checkpoint.
#[derive(Debug, Clone, PartialEq)]
pub struct Question {
    /// A file that says what the network is.
    pub model: Option<PathBuf>,
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
    /// None where only recurrences are known.
    whole: Option<(Built, Probe)>,
    /// Why the rest is not known.
    reason: String,
    /// A sequence that drives the recurrences.
    data: Option<Vec<Vec<f64>>>,
    precision: Precision,
    options: Options,
    path: PathBuf,
    input: Option<PathBuf>,
}

/// Builds the network of `checkpoint` and makes its probe. Where the network is not known but has recurrences, these are measured
/// alone.
///
/// # Errors
/// When the network is none that is known, parameters are missing, or the probe cannot be used.
pub fn prepare(checkpoint: &Checkpoint, question: &Question, context: &Context) -> Result<Prepared> {
    let recurrences = steps(checkpoint)?;
    let (whole, reason) = match whole(checkpoint, question, context) {
        Ok(whole) => (Some(whole), String::new()),
        Err(error) => match error.kind {
            ErrorKind::UnknownArchitecture { .. } if !recurrences.is_empty() && question.model.is_none() => {
                (None, error.kind.to_string())
            }
            _ => return Err(error),
        },
    };
    let data = match &question.input {
        Some(path) if !recurrences.is_empty() => probe::sequence(path, context)?,
        _ => None,
    };
    let spectrum = Request {
        pairs: question.pairs,
        probes: PROBES,
        density: question.density,
        exact: question.exact,
        seed: question.seed,
    };
    let options = Options {
        spectrum,
        per_operation: question.per_operation,
        depth_spectra: question.depth_spectra,
        initial: question.initial,
    };
    Ok(Prepared {
        whole,
        reason,
        data,
        precision: question.precision,
        options,
        path: checkpoint.path.clone(),
        input: question.input.clone(),
    })
}

fn whole(checkpoint: &Checkpoint, question: &Question, context: &Context) -> Result<(Built, Probe)> {
    let built = build(checkpoint, question.model.as_deref(), context)?;
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
    Ok((built, probe))
}

fn refused(path: &Path, message: String) -> Error {
    ErrorKind::Probe { message }.in_file(path)
}

fn build(checkpoint: &Checkpoint, _model: Option<&Path>, _context: &Context) -> Result<Built> {
    builders::from_config(checkpoint)
}

impl Prepared {
    /// Where it will be measured, and what that takes on so many threads.
    ///
    /// # Errors
    /// When the probe is not of a shape that the network takes, or only recurrences are known.
    pub fn plan(&self, threads: usize) -> Result<(JacobianSetting, JacobianCost)> {
        let Some((built, probe)) = &self.whole else {
            return Err(ErrorKind::UnknownArchitecture { message: self.reason.clone() }.in_file(&self.path));
        };
        let shape = probe.feeds.first().map(|feed| feed.input.shape()).unwrap_or_default();
        let (network, draws) = (&built.network, probe.feeds.len());
        let cost = match self.precision {
            Precision::F32 => cost::of::<f32>(network, &shape, draws, &self.options, threads),
            Precision::F64 => cost::of::<f64>(network, &shape, draws, &self.options, threads),
        };
        let cost = cost.map_err(|message| refused(&self.path, message))?;
        Ok((self.setting(), cost))
    }

    /// Measures; `None` when the user asked to stop.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn measure(&self, checkpoint: &Checkpoint, context: &Context) -> Result<Option<JacobianAnalysis>> {
        match self.precision {
            Precision::F32 => self.measure_in::<f32>(checkpoint, context),
            Precision::F64 => self.measure_in::<f64>(checkpoint, context),
        }
    }

    fn measure_in<T: Real>(
        &self,
        checkpoint: &Checkpoint,
        context: &Context,
    ) -> Result<Option<JacobianAnalysis>> {
        let (seed, data) = (self.options.spectrum.seed, self.data.as_deref());
        let mut found = match &self.whole {
            Some((built, probe)) => {
                planned(&built.network, probe.feeds.len(), &self.options, context);
                match self.measure_whole::<T>(checkpoint, built, probe, context)? {
                    Some(found) => found,
                    None => return Ok(None),
                }
            }
            None => self.unknown(),
        };
        context.progress.say("recurrences");
        let Some(recurrences) = recurrences::measure::<_, T>(&Cpu, checkpoint, data, seed, context)? else {
            return Ok(None);
        };
        found.recurrences = recurrences;
        Ok(Some(found))
    }

    fn measure_whole<T: Real>(
        &self,
        checkpoint: &Checkpoint,
        built: &Built,
        probe: &Probe,
        context: &Context,
    ) -> Result<Option<JacobianAnalysis>> {
        let (tensors, config) = (built.tensors(checkpoint), checkpoint.config.as_ref());
        let (network, feeds) = (&built.network, &probe.feeds);
        let found =
            measure::of_network::<_, T>(&Cpu, network, &tensors, config, feeds, &self.options, context)?;
        Ok(found.map(|(found, initial)| JacobianAnalysis {
            architecture: network.architecture.clone(),
            unused: built.unused.clone(),
            parts: found.parts,
            end_to_end: found.end_to_end,
            initial,
            depths: found.depths,
            ..self.unknown()
        }))
    }

    /// What there is to say of a network that is not known.
    fn unknown(&self) -> JacobianAnalysis {
        JacobianAnalysis {
            architecture: "recurrence".to_owned(),
            setting: self.setting(),
            unused: Vec::new(),
            parts: Vec::new(),
            end_to_end: Measured::not(self.reason.clone()),
            initial: Measured::not(self.reason.clone()),
            depths: Measured::not(self.reason.clone()),
            recurrences: Vec::new(),
        }
    }

    fn setting(&self) -> JacobianSetting {
        let request = &self.options.spectrum;
        let probe = self.whole.as_ref().map(|(_, probe)| probe);
        let of_data = if self.data.is_some() { ProbeKind::Data } else { ProbeKind::SyntheticFeatures };
        let file = self.input.as_ref().and_then(|path| path.file_name());
        JacobianSetting {
            probe: probe.map_or(of_data, |probe| probe.kind),
            file: file.map(|name| name.to_string_lossy().into_owned()),
            shape: probe.map_or_else(Vec::new, |probe| probe.shape.clone()),
            tokens: probe.map_or_else(|| Measured::not(self.reason.clone()), |probe| probe.tokens.clone()),
            draws: probe.map_or(1, |probe| probe.feeds.len() as u64),
            seed: request.seed,
            dtype: match self.precision {
                Precision::F32 => DType::F32,
                Precision::F64 => DType::F64,
            },
            pairs: request.pairs as u64,
            probes: request.probes as u64,
        }
    }
}
