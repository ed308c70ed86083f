//! Checkpoints of the trainer on disk: `checkpoint-N/{model,optimizer}.safetensors` and `state.json`, whole or not there.

use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

use half::bf16;
use safetensors::tensor::{Dtype, TensorView};

use super::arm::{Arm, Numbers};
use super::config::Precision;
use super::optimizer::{Optimizer, Slots};
use super::state::State;
use crate::context::Context;
use crate::error::{Error, ErrorKind, Result};
use crate::files::NewDirectory;
use crate::format::safetensors::{Written, written_header};
use crate::format::{Container, detect};
use crate::network::Network;
use crate::tensor::{DType, Tensor};

pub(super) const MODEL: &str = "model.safetensors";
pub(super) const OPTIMIZER: &str = "optimizer.safetensors";
pub(super) const STATE: &str = "state.json";

/// Longest `state.json` that is read: methods that remember every norm grow with the run.
const MOST_STATE_BYTES: u64 = 256 << 20;

/// The name of a tensor of f32 weights beside rounded ones.
const MASTER: &str = "master_param";

/// The name of the counter of all parameters.
const STEP: &str = "step";

/// A tensor that is about to be written.
struct Stored {
    name: String,
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl Stored {
    fn f32(name: String, shape: &[usize], values: &[f32]) -> Self {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        Self { name, dtype: Dtype::F32, shape: shape.to_vec(), bytes }
    }

    fn bf16(name: String, shape: &[usize], values: &[f32]) -> Self {
        let bytes = values.iter().flat_map(|&value| bf16::from_f32(value).to_le_bytes()).collect();
        Self { name, dtype: Dtype::BF16, shape: shape.to_vec(), bytes }
    }

    /// As the header of a file lists it.
    fn written(&self) -> Written {
        let dtype = if self.dtype == Dtype::BF16 { DType::Bf16 } else { DType::F32 };
        let shape = self.shape.iter().map(|&size| size as u64).collect();
        Written { name: self.name.clone(), dtype, shape }
    }
}

fn serialised(tensors: &[Stored]) -> Vec<u8> {
    let views = tensors.iter().map(|tensor| {
        let view = TensorView::new(tensor.dtype, tensor.shape.clone(), &tensor.bytes);
        (&tensor.name, view.expect("as many bytes as shape and dtype need"))
    });
    safetensors::serialize(views, None).expect("the tensors were made for it")
}

/// Where the checkpoint of a step is.
pub fn checkpoint_path(run: &Path, step: u64) -> PathBuf {
    run.join(format!("checkpoint-{step}"))
}

/// Writes the checkpoint of an arm; `state` gets the digests of the files beside it.
pub(super) fn save(run: &Path, arm: &Arm, precision: Precision, state: &mut State) -> Result<()> {
    let parameters = &arm.model().network.parameters;
    let model: Vec<Stored> = parameters
        .iter()
        .enumerate()
        .map(|(index, parameter)| {
            let make = if precision == Precision::Bf16 { Stored::bf16 } else { Stored::f32 };
            make(parameter.name.clone(), &parameter.shape, arm.weights(index))
        })
        .collect();
    let mut optimizer = vec![Stored::f32(STEP.to_owned(), &[], &[arm.updates() as f32])];
    for (index, parameter) in parameters.iter().enumerate() {
        let named = |leaf: &str| format!("{}.{leaf}", parameter.name);
        for (leaf, slot) in arm.rule().leaves().iter().zip(arm.slots(index)) {
            optimizer.push(Stored::f32(named(leaf), &parameter.shape, slot));
        }
        if let Some(master) = arm.masters(index) {
            optimizer.push(Stored::f32(named(MASTER), &parameter.shape, master));
        }
    }
    let (model, optimizer) = (serialised(&model), serialised(&optimizer));
    let digest = |bytes: &[u8]| blake3::Hasher::new().update_rayon(bytes).finalize().to_hex().to_string();
    state.digests =
        BTreeMap::from([(MODEL.to_owned(), digest(&model)), (OPTIMIZER.to_owned(), digest(&optimizer))]);
    let mut text = serde_json::to_string_pretty(state).expect("a state is plain data");
    text.push('\n');
    let files = [(MODEL, model.as_slice()), (OPTIMIZER, optimizer.as_slice()), (STATE, text.as_bytes())];
    let directory = NewDirectory::beside(&checkpoint_path(run, state.step))?;
    for (name, bytes) in files {
        let path = directory.path().join(name);
        std::fs::write(&path, bytes).map_err(|error| Error::io(&path, "write it", &error))?;
    }
    directory.publish()
}

/// Removes what processes that were killed left half written: hidden directories that no reader takes for checkpoints.
pub(super) fn remove_unfinished(run: &Path) -> Result<()> {
    let entries = std::fs::read_dir(run).map_err(|error| Error::io(run, "list it", &error))?;
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_unfinished =
            name.strip_prefix(".checkpoint-").is_some_and(|rest| rest.strip_suffix(".tmp").is_some());
        if is_unfinished {
            // What cannot be removed is in nobody's way.
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
    Ok(())
}

/// Writes the gradient that `step` is about to apply, before clipping.
pub(super) fn dump(run: &Path, step: u64, arm: &Arm) -> Result<()> {
    let folder = run.join("gradients");
    std::fs::create_dir_all(&folder).map_err(|error| Error::io(&folder, "make it", &error))?;
    let parameters = arm.model().network.parameters.iter().enumerate();
    let tensors: Vec<Stored> = parameters
        .filter_map(|(index, parameter)| {
            Some(Stored::f32(parameter.name.clone(), &parameter.shape, arm.gradient(index)?))
        })
        .collect();
    let step_text = step.to_string();
    let told =
        [("step", step_text.as_str()), ("unscaled", "true"), ("clipped", "false"), ("accumulation", "1")];
    let metadata = told.map(|(key, value)| (key.to_owned(), value.to_owned()));
    let path = folder.join(format!("step-{step}.safetensors"));
    // The crate's writer takes metadata in the order of a hash map, which is another in every process.
    let list: Vec<Written> = tensors.iter().map(Stored::written).collect();
    let header = written_header(&list, &BTreeMap::from(metadata)).map_err(|kind| kind.in_file(&path))?;
    let elements = tensors.iter().flat_map(|tensor| &tensor.bytes).copied();
    let bytes: Vec<u8> = header.into_iter().chain(elements).collect();
    crate::files::write_atomically(&path, &bytes)
}

/// The steps of the checkpoints of a run, ascending. What a process that was killed left half written is none.
pub fn checkpoints(run: &Path) -> Result<Vec<u64>> {
    let entries = std::fs::read_dir(run).map_err(|error| Error::io(run, "list it", &error))?;
    let mut steps = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|error| Error::io(run, "list it", &error))?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let step: Option<u64> = name.strip_prefix("checkpoint-").and_then(|step| step.parse().ok());
        steps.extend(step.filter(|_| entry.path().join(STATE).is_file()));
    }
    steps.sort_unstable();
    Ok(steps)
}

/// Reads `state.json` of a checkpoint of the trainer.
///
/// # Errors
/// When it is not one: a checkpoint that something else wrote cannot be gone on from here.
pub fn read_state(checkpoint: &Path) -> Result<State> {
    let path = checkpoint.join(STATE);
    let length = std::fs::metadata(&path).map_err(|error| Error::io(&path, "read it", &error))?.len();
    if length > MOST_STATE_BYTES {
        return Err(
            ErrorKind::TooLarge { what: STATE, actual: length, limit: MOST_STATE_BYTES }.in_file(&path)
        );
    }
    let text = std::fs::read(&path).map_err(|error| Error::io(&path, "read it", &error))?;
    serde_json::from_slice(&text)
        .map_err(|error| ErrorKind::SideFile { what: STATE, message: error.to_string() }.in_file(&path))
}

/// Reads the tensors of a checkpoint, which must be those that its state is about, bit for bit.
pub(super) fn read_numbers(
    checkpoint: &Path,
    state: &State,
    network: &Network,
    context: &Context,
) -> Result<Numbers> {
    let rule = state.config.arm.rule();
    let model = open(checkpoint, MODEL, state, context)?;
    let optimizer = open(checkpoint, OPTIMIZER, state, context)?;
    let weights: Vec<Vec<f32>> = network
        .parameters
        .iter()
        .map(|parameter| values(&model, &checkpoint.join(MODEL), &parameter.name, &parameter.shape))
        .collect::<Result<_>>()?;
    let path = checkpoint.join(OPTIMIZER);
    let slots = slots(&optimizer, &path, &rule, network)?;
    let has_masters = state.config.arm.dtype == Precision::Bf16 && state.config.arm.master;
    let masters = has_masters.then(|| {
        let of = |name: &str, shape: &[usize]| values(&optimizer, &path, &format!("{name}.{MASTER}"), shape);
        network
            .parameters
            .iter()
            .map(|parameter| of(&parameter.name, &parameter.shape))
            .collect::<Result<_>>()
    });
    Ok(Numbers { weights, masters: masters.transpose()?, slots, updates: state.updates })
}

fn slots(container: &Container, path: &Path, rule: &Optimizer, network: &Network) -> Result<Vec<Slots>> {
    let of = |name: &str, shape: &[usize]| -> Result<Slots> {
        rule.leaves().iter().map(|leaf| values(container, path, &format!("{name}.{leaf}"), shape)).collect()
    };
    network.parameters.iter().map(|parameter| of(&parameter.name, &parameter.shape)).collect()
}

fn open(checkpoint: &Path, name: &str, state: &State, context: &Context) -> Result<Container> {
    let path = checkpoint.join(name);
    let input = std::sync::Arc::new(crate::files::InputFile::open(&path, context)?);
    let digest = crate::files::digest(&input, context)?;
    if digest.is_some() && digest.as_ref() != state.digests.get(name) {
        let message =
            format!("{name} is not the file that state.json was written with: their digests differ");
        return Err(ErrorKind::CannotGoOn { message }.in_file(&path));
    }
    detect::read_file(&input, context)
}

fn values(container: &Container, path: &Path, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
    let entry = container.entries.iter().find(|entry| entry.name == name);
    let Some(entry) = entry else {
        return Err(ErrorKind::MissingParameters { count: 1, first: vec![name.to_owned()] }.in_file(path));
    };
    let tensor: &Tensor = entry.readable()?;
    let expected: Vec<u64> = shape.iter().map(|&size| size as u64).collect();
    if tensor.shape != expected {
        let kind = ErrorKind::ParameterShape { expected, actual: tensor.shape.clone() };
        return Err(kind.in_file(path).for_tensor(name));
    }
    let mut buffer = Vec::new();
    let bytes = tensor.bytes(0..tensor.count(), &mut buffer)?;
    Ok(match tensor.dtype {
        DType::F32 => bytes.as_chunks().0.iter().map(|&word| f32::from_le_bytes(word)).collect(),
        DType::Bf16 => bytes.as_chunks().0.iter().map(|&word| bf16::from_le_bytes(word).to_f32()).collect(),
        dtype => {
            let message = format!("{name} is of dtype {dtype}, which the trainer does not write");
            return Err(ErrorKind::CannotGoOn { message }.in_file(path));
        }
    })
}

/// Locks a run's directory; none where directories cannot be locked.
///
/// # Errors
/// When another process trains there.
pub(super) fn lock(directory: &Path) -> Result<Option<File>> {
    let Ok(file) = File::open(directory) else { return Ok(None) };
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => {
            let message = "another process is training in this directory".to_owned();
            let advice = "wait for it, or give another --save-path";
            Err(ErrorKind::NotDone { message, advice }.in_file(directory))
        }
        Err(TryLockError::Error(_)) => Ok(None),
    }
}
