//! One checkpoint measured: every tensor once, ties copied, damage kept as entries.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use super::architecture;
use super::device::or_processor;
use super::jacobian;
use super::masters;
use super::model::{
    CheckpointAnalysis, Degenerate, DeviceUse, FileAnalysis, GlobalAnalysis, JacobianAnalysis, MeasureLevel,
    Measured, Problem, Reason, RedonePiece, Statistics, TensorAnalysis,
};
use super::optimizer;
use super::population::fill_role_spread;
use super::series::pass::Accompanying;
use super::spectrum;
use super::statistics::{self, Beside, Pivot};
use crate::checkpoint::{Checkpoint, CheckpointTensor, Role};
use crate::compute::cuda;
use crate::context::{Context, DeviceChoice, Pieces};
use crate::error::{Error, ErrorKind};
use crate::format::torch;
use crate::parallel;
use crate::tensor::{Kind, Tensor, element_count};

/// Measures every tensor of `checkpoint` as deep as `level`. Tensors and their blocks are spread over all threads;
/// the result is the same for any number of them.
pub fn measure_checkpoint(
    checkpoint: &Checkpoint,
    level: MeasureLevel,
    context: &Context,
) -> CheckpointAnalysis {
    measure_checkpoint_beside(checkpoint, level, &HashMap::<usize, Accompanying<'_>>::new(), context).0
}

/// [`measure_checkpoint`], and from the same reading what `pairs` gather, by the index of the tensor they belong to. Those that
/// could not be given its elements are left out.
pub(super) fn measure_checkpoint_beside<B: Beside>(
    checkpoint: &Checkpoint,
    level: MeasureLevel,
    pairs: &HashMap<usize, B>,
    context: &Context,
) -> (CheckpointAnalysis, HashMap<usize, B::Sums>) {
    announce_work(checkpoint, level, context);
    let mut gathered = HashMap::new();
    let mut problems = checkpoint.problems.iter().map(|error| problem(checkpoint, error)).collect::<Vec<_>>();
    let mut tensors = Vec::with_capacity(checkpoint.tensors.len());
    let measure = |(index, tensor)| measure_tensor(checkpoint, tensor, level, pairs.get(&index), context);
    let mut keep = |(tensor, sums, error): (TensorAnalysis, Option<B::Sums>, Option<Error>)| {
        problems.extend(error.map(|error| problem(checkpoint, &error)));
        gathered.extend(sums.map(|sums| (tensors.len(), sums)));
        tensors.push(tensor);
    };
    if level == MeasureLevel::List {
        // A name alone is no work for another thread.
        checkpoint.tensors.iter().enumerate().map(measure).for_each(keep);
    } else {
        let mut first = 0;
        for batch in side_by_side(&checkpoint.tensors) {
            let measured = parallel::map_indices(batch.len(), |at| measure((first + at, &batch[at])));
            measured.into_iter().for_each(&mut keep);
            first += batch.len();
        }
    }
    if level >= MeasureLevel::Stats {
        for found in failed_checksums(checkpoint, context) {
            if !problems.contains(&found) {
                problems.push(found);
            }
        }
    }
    problems.extend(changed_files(checkpoint));
    copy_ties(&mut tensors);
    name_state(checkpoint, &mut tensors);
    fill_role_spread(&mut tensors);
    let layers = spectrum::measure_all(checkpoint, &mut tensors, level, context);
    for found in layers.errors.iter().map(|error| problem(checkpoint, error)) {
        if !problems.contains(&found) {
            problems.push(found);
        }
    }
    let (jacobian, error) = jacobian(checkpoint, level, context);
    for found in error.iter().map(|error| problem(checkpoint, error)) {
        // A tensor that cannot be read stands there already, with its name.
        if !problems.iter().any(|known| (&known.file, &known.message) == (&found.file, &found.message)) {
            problems.push(found);
        }
    }
    let analysis = CheckpointAnalysis {
        name: checkpoint.name.clone(),
        layout: checkpoint.layout,
        step: checkpoint.step.map_or_else(|| Measured::not("the checkpoint does not say"), Measured::Value),
        step_source: checkpoint.step_source.clone(),
        files: files(checkpoint),
        problems,
        globals: globals(checkpoint),
        config: checkpoint
            .config
            .clone()
            .map_or_else(|| Measured::not("no config.json beside the weights"), Measured::Value),
        architecture: architecture::compare(checkpoint),
        tensors,
        optimizer: optimizer::measure(checkpoint, level, context),
        coverage: optimizer::coverage(checkpoint),
        impossible: checkpoint.impossible.clone().map_or_else(
            || Measured::not("the checkpoint holds no optimizer, scheduler or loss scaler that is read"),
            Measured::Value,
        ),
        masters: masters::measure(checkpoint, level, context),
        attention: layers.attention,
        adapters: layers.adapters,
        jacobian,
        device: context.device.ledger.take().map(device_use),
    };
    (analysis, gathered)
}

/// The Jacobians at a synthetic probe, where they were asked for and the network is one that is built here; and what went wrong
/// beside that.
fn jacobian(
    checkpoint: &Checkpoint,
    level: MeasureLevel,
    context: &Context,
) -> (Measured<JacobianAnalysis>, Option<Error>) {
    if level < MeasureLevel::Jacobian {
        return (Measured::not("needs flashpoint jacobian, or --measure jacobian"), None);
    }
    let prepared = jacobian::prepare(checkpoint, &jacobian::Question::default(), context);
    let found = prepared.and_then(|prepared| prepared.measure(checkpoint, context));
    match found {
        Ok(Some(found)) => (Measured::Value(found), None),
        Ok(None) => (Measured::not(statistics::STOPPED), None),
        Err(error) => {
            let reason = Measured::not(error.kind.to_string());
            (reason, (!is_of_no_network(&error.kind)).then_some(error))
        }
    }
}

/// Whether the checkpoint is sound and is only of no network that is built here, or none that a synthetic probe is for.
fn is_of_no_network(kind: &ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::UnknownArchitecture { .. }
            | ErrorKind::UnknownHeads { .. }
            | ErrorKind::MissingParameters { .. }
            | ErrorKind::ParameterShape { .. }
            | ErrorKind::NetworkInput { .. }
            | ErrorKind::Probe { .. }
    )
}

/// Adds to `own` what was given to a GPU since it was measured.
pub fn add_device_use(own: &mut CheckpointAnalysis, context: &Context) {
    let Some(later) = context.device.ledger.take().map(device_use) else { return };
    match &mut own.device {
        None => own.device = Some(later),
        Some(device) => {
            device.name = if later.name.is_empty() { std::mem::take(&mut device.name) } else { later.name };
            device.pieces += later.pieces;
            device.unused = device.unused.take().or(later.unused);
            device.redone.extend(later.redone);
        }
    }
}

fn device_use(pieces: Pieces) -> DeviceUse {
    let redone = pieces.redone.into_iter().map(|(tensor, reason)| RedonePiece { tensor, reason });
    DeviceUse { name: pieces.device, pieces: pieces.done, unused: pieces.unused, redone: redone.collect() }
}

/// What the tensors that are measured side by side may hold together. A single one holds at most as much.
const MOST_HELD_BYTES: u64 = 32 << 20;

/// The tensors in batches whose searches fit into memory together, however many threads there are.
fn side_by_side(tensors: &[CheckpointTensor]) -> impl Iterator<Item = &[CheckpointTensor]> {
    let held = |named: &CheckpointTensor| named.tensor.as_ref().map_or(0, statistics::held_bytes);
    let mut rest = tensors;
    std::iter::from_fn(move || {
        let mut sum = 0;
        let fits = |named: &&CheckpointTensor| {
            sum += held(named);
            sum <= MOST_HELD_BYTES
        };
        let length = rest.iter().take_while(fits).count().max(1).min(rest.len());
        let (batch, later) = rest.split_at(length);
        rest = later;
        (!batch.is_empty()).then_some(batch)
    })
}

fn announce_work(checkpoint: &Checkpoint, level: MeasureLevel, context: &Context) {
    if level > MeasureLevel::List {
        let sizes = checkpoint.tensors.iter().filter(|tensor| tensor.tied_to.is_none());
        let sizes = sizes.filter_map(|tensor| Some(tensor.tensor.as_ref().ok()?.byte_count()));
        context.progress.expect_tensors(sizes.clone().count());
        // Expanded views may state more bytes than any disk holds.
        context.progress.expect(sizes.fold(0, u64::saturating_add));
    }
}

fn measure_tensor<B: Beside>(
    checkpoint: &Checkpoint,
    named: &CheckpointTensor,
    level: MeasureLevel,
    beside: Option<&B>,
    context: &Context,
) -> (TensorAnalysis, Option<B::Sums>, Option<Error>) {
    let mut analysis = listed(checkpoint, named);
    let tensor = match &named.tensor {
        Ok(tensor) => tensor,
        Err(error) => {
            let damage = error.kind.is_damage().then(|| error.clone().for_tensor(&named.name));
            return (analysis, None, damage);
        }
    };
    if level == MeasureLevel::List || named.tied_to.is_some() {
        return (analysis, None, None);
    }
    context.progress.begin(&named.name);
    match measure_elements(tensor, named.role, level, beside, context, &mut analysis) {
        Ok(sums) => (analysis, sums, None),
        Err(error) => {
            analysis.damaged = tensor.dtype.kind() != Kind::Opaque;
            analysis.statistics = Measured::not(error.kind.to_string());
            let error = analysis.damaged.then(|| error.for_tensor(&named.name));
            (analysis, None, error)
        }
    }
}

/// Members of archives whose bytes are not those that were written: PyTorch itself does not compare them.
fn failed_checksums(checkpoint: &Checkpoint, context: &Context) -> Vec<Problem> {
    // Of a model beside the one that was read, only the pickle was looked at.
    let read: BTreeSet<usize> = checkpoint.tensors.iter().filter_map(|tensor| tensor.file).collect();
    let files = checkpoint.files.iter().enumerate();
    let archives = files.filter(|(index, file)| file.format.is_archive() && read.contains(index));
    let failed = archives.flat_map(|(_, file)| {
        torch::verify_checksums(&file.input, context).unwrap_or_else(|error| vec![error])
    });
    failed.map(|error| problem(checkpoint, &error)).collect()
}

/// Files that are not the same as when they were opened: what was measured may be a mixture of two.
pub(super) fn changed_files(checkpoint: &Checkpoint) -> impl Iterator<Item = Problem> + '_ {
    let changed = checkpoint.files.iter().filter_map(|file| file.input.check_unchanged().err());
    changed.map(|error| problem(checkpoint, &error))
}

/// What is known of a tensor before an element is read.
fn listed(checkpoint: &Checkpoint, named: &CheckpointTensor) -> TensorAnalysis {
    let reason = match &named.tensor {
        Ok(_) => Reason::Borrowed("needs --measure norms"),
        Err(error) => error.kind.to_string().into(),
    };
    let tensor = named.tensor.as_ref().ok();
    let shape = match &named.tensor {
        Ok(tensor) => tensor.shape.clone(),
        Err(error) => error.kind.shape().unwrap_or_default().to_vec(),
    };
    TensorAnalysis {
        name: named.name.clone(),
        canonical_name: named.canonical_name.clone(),
        file: named.file.map(|index| checkpoint.files[index].name.clone()),
        section: named.section,
        layer: named.layer.clone(),
        role: named.role,
        dtype: tensor.map(|tensor| tensor.dtype),
        elements: element_count(&shape).unwrap_or(0),
        shape,
        damaged: named.tensor.as_ref().is_err_and(|error| error.kind.is_damage()),
        tied_to: named.tied_to.clone(),
        state_of: None,
        statistics: Measured::not(reason.clone()),
        median_abs: Measured::not(reason.clone()),
        rows: Measured::not(reason.clone()),
        pages: Measured::not(reason.clone()),
        role_spread: Measured::not(reason.clone()),
        spectrum: Measured::not(reason),
    }
}

fn measure_elements<B: Beside>(
    tensor: &Tensor,
    role: Role,
    level: MeasureLevel,
    beside: Option<&B>,
    context: &Context,
    analysis: &mut TensorAnalysis,
) -> Result<Option<B::Sums>, Error> {
    // LayerNorm and RMSNorm gains sit near 1: power sums around 0 would cancel.
    let pivot = if role == Role::NormGain { Pivot::One } else { Pivot::Zero };
    let mut gathered = None;
    let statistics = match beside {
        // What else is read for it may be what fails: the tensor itself is then measured alone.
        Some(beside) => match statistics::measure_beside(tensor, level, pivot, beside, context) {
            Ok((statistics, sums)) => {
                gathered = sums;
                statistics
            }
            Err(_) => statistics::measure(tensor, level, pivot, context)?,
        },
        None => match on_device(tensor, level, pivot, &analysis.name, context)? {
            Some(statistics) => statistics,
            None => statistics::measure(tensor, level, pivot, context)?,
        },
    };
    analysis.statistics = statistics.map(Box::new);
    if level >= MeasureLevel::Stats
        && let Measured::Value(statistics) = &analysis.statistics
    {
        analysis.median_abs = statistics::measure_median_abs(tensor, context)?;
        analysis.rows = statistics::measure_rows(tensor, context)?.map(Box::new);
        analysis.pages = statistics::measure_pages(tensor, statistics.zero, context)?.map(Box::new);
    }
    Ok(gathered)
}

/// The norms by a GPU that was asked for; nothing where none was, it has no kernel for them, or it failed, which the ledger tells.
/// Where a GPU is only allowed, the processor measures: it reads faster than the bus carries.
fn on_device(
    tensor: &Tensor,
    level: MeasureLevel,
    pivot: Pivot,
    name: &str,
    context: &Context,
) -> Result<Option<Measured<Statistics>>, Error> {
    if level != MeasureLevel::Norms || !matches!(context.device.choice, DeviceChoice::Cuda(_)) {
        return Ok(None);
    }
    let Ok(Some(device)) = cuda::chosen(&context.device) else { return Ok(None) };
    // Nothing where it has no kernel: then nothing was given to it.
    let found = statistics::measure_on_device(&device, tensor, pivot, context).transpose();
    let done = |found: Result<_, Error>| or_processor(&device, name, found.map(Some), || Ok(None), context);
    found.map_or(Ok(None), done)
}

/// Says of which parameter a moment is, where the optimizer was joined to the model.
fn name_state(checkpoint: &Checkpoint, tensors: &mut [TensorAnalysis]) {
    for state in checkpoint.optimizers.iter().flat_map(|optimizer| &optimizer.parameters) {
        let Some(parameter) = state.parameter.map(|index| tensors[index].name.clone()) else { continue };
        let moments =
            [state.exp_avg, state.exp_avg_sq, state.max_exp_avg_sq, state.momentum_buffer, state.square_avg];
        for index in moments.into_iter().flatten() {
            tensors[index].state_of = Some(parameter.clone());
        }
    }
    for (&parameter, &master) in &checkpoint.masters {
        tensors[master].state_of = Some(tensors[parameter].name.clone());
    }
}

/// Gives tied tensors the measurements of the tensor they are tied to.
fn copy_ties(tensors: &mut [TensorAnalysis]) {
    if tensors.iter().all(|tensor| tensor.tied_to.is_none()) {
        return;
    }
    let sources: HashMap<String, usize> =
        tensors.iter().enumerate().map(|(index, tensor)| (tensor.name.clone(), index)).collect();
    for index in 0..tensors.len() {
        let Some(source) = tensors[index].tied_to.as_ref().and_then(|name| sources.get(name)).copied() else {
            continue;
        };
        let TensorAnalysis { statistics, median_abs, rows, pages, damaged, .. } = tensors[source].clone();
        let tied = &mut tensors[index];
        (tied.statistics, tied.median_abs, tied.rows, tied.pages, tied.damaged) =
            (statistics, median_abs, rows, pages, damaged);
    }
}

fn files(checkpoint: &Checkpoint) -> Vec<FileAnalysis> {
    let analysis = checkpoint.files.iter().map(|file| FileAnalysis {
        name: file.name.clone(),
        format: file.format,
        bytes: file.bytes,
        uncovered_bytes: file
            .uncovered
            .iter()
            .map(|range| range.end - range.start)
            .fold(0, u64::saturating_add),
        digest: None,
    });
    analysis.collect()
}

fn globals(checkpoint: &Checkpoint) -> Vec<GlobalAnalysis> {
    let analysis = checkpoint.globals.iter().map(|(file, found)| GlobalAnalysis {
        file: checkpoint.files[*file].name.clone(),
        global: format!("{}.{}", found.global.module, found.global.name),
        danger: found.danger,
        called: found.called,
        offset: found.offset,
    });
    analysis.collect()
}

/// An error without the path it was opened by: an analysis holds no absolute paths.
pub(super) fn problem(checkpoint: &Checkpoint, error: &Error) -> Problem {
    let home =
        if checkpoint.path.is_dir() { Some(checkpoint.path.as_path()) } else { checkpoint.path.parent() };
    let inside =
        home.and_then(|home| error.path.strip_prefix(home).ok()).filter(|rest| !rest.as_os_str().is_empty());
    let file = inside.map(Path::as_os_str).or(error.path.file_name()).unwrap_or_default();
    described(&file.to_string_lossy(), error)
}

/// Why a path could not be read at all. An absolute one is told by its last component.
pub fn unread(error: &Error) -> Problem {
    let own = error.path.file_name().filter(|_| error.path.is_absolute());
    described(&own.unwrap_or(error.path.as_os_str()).to_string_lossy(), error)
}

fn described(file: &str, error: &Error) -> Problem {
    Problem {
        file: file.to_owned(),
        at: error.at.as_ref().map(ToString::to_string),
        tensor: error.tensor.clone(),
        kind: error.kind.name(),
        message: error.kind.to_string(),
        advice: error.kind.advice().to_owned(),
        damage: error.kind.is_damage(),
    }
}

impl CheckpointAnalysis {
    /// True where files or tensors could not be read as a whole: what is reported is not all there should be.
    pub fn is_damaged(&self) -> bool {
        self.problems.iter().any(|problem| problem.damage)
    }

    /// √Σx² over the model's parameters, tied tensors once.
    ///
    /// Not measured when a part of the model was not, or is not finite: a norm of the rest would look like the whole.
    pub fn global_norm(&self) -> Measured<f64> {
        let mut sum = 0.0;
        for tensor in self.tensors.iter().filter(|tensor| tensor.is_parameter() || tensor.is_unread_weight())
        {
            let norm = match &tensor.statistics {
                Measured::Value(statistics) if statistics.non_finite() == 0 => &statistics.l2,
                Measured::Value(_) => return Measured::not(format!("{} is not finite", tensor.name)),
                Measured::NotMeasured(reason) => return Measured::not(format!("{}: {reason}", tensor.name)),
                Measured::Degenerate(_) => continue,
            };
            match norm {
                Measured::Value(norm) => sum += norm * norm,
                Measured::Degenerate(Degenerate::Empty) => {}
                other => return other.clone(),
            }
        }
        Measured::Value(sum.sqrt())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::checkpoint::{Layer, Section};
    use crate::files::InputFile;
    use crate::tensor::DType;

    fn named(name: &str, tensor: Tensor) -> CheckpointTensor {
        CheckpointTensor {
            name: name.to_owned(),
            canonical_name: name.to_owned(),
            file: Some(0),
            section: Section::Model,
            layer: Layer { path: String::new(), index: None, order: 0 },
            role: Role::Other,
            tensor: Ok(tensor),
            tied_to: None,
        }
    }

    #[test]
    fn tensors_side_by_side_hold_no_more_than_the_bound_and_each_is_measured_once() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("holes");
        std::fs::File::create(&path).unwrap().set_len(8 << 30).unwrap();
        let file = Arc::new(InputFile::open(&path, &Context::default()).unwrap());
        let tensor = |rows: u64, columns: u64| {
            let bytes = 0..rows * columns * 4;
            Tensor::contiguous(DType::F32, vec![rows, columns], file.clone(), bytes).unwrap()
        };
        let shapes =
            [(8, 8), (4096, 1 << 18), (1 << 20, 2), (4096, 1 << 19), (1 << 20, 1), (3, 3), (4096, 1 << 18)];
        let tensors: Vec<CheckpointTensor> = (0..)
            .zip(shapes)
            .map(|(index, (rows, columns))| named(&format!("{index}"), tensor(rows, columns)))
            .collect();
        let batches: Vec<&[CheckpointTensor]> = side_by_side(&tensors).collect();
        for batch in &batches {
            let held: u64 =
                batch.iter().map(|named| statistics::held_bytes(named.tensor.as_ref().unwrap())).sum();
            assert!(held <= MOST_HELD_BYTES, "{held}");
        }
        let names: Vec<&str> = batches.iter().copied().flatten().map(|named| named.name.as_str()).collect();
        assert_eq!(names, ["0", "1", "2", "3", "4", "5", "6"]);
        assert!(batches.len() > 1 && batches.len() < tensors.len());
    }
}
