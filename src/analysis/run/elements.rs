//! The tensors of two open checkpoints side by side: each parameter both have is read once at either end, its later weights by
//! whoever measures them, so that a checkpoint's weights are read twice in all: as the later ones, and as the earlier ones.

use std::collections::HashMap;

use crate::analysis::model::{DType, MeasureLevel};
use crate::analysis::optimizer::place::readable;
use crate::analysis::series::decay::Floor;
use crate::analysis::series::interval::{Elements, Read};
use crate::analysis::series::pass::{Accompanying, Pair, Sums};
use crate::analysis::statistics::STOPPED;
use crate::checkpoint::optimizer::{Algorithm, OptimizerState, ParameterState};
use crate::checkpoint::{Checkpoint, CheckpointTensor, Role, Section};
use crate::context::Context;
use crate::parallel;
use crate::tensor::{Kind, Tensor};

/// What one pass has to read, or why there is nothing to read.
type Readable<'a> = Result<(Pair<'a>, Read), String>;

/// A parameter that both checkpoints have.
pub(super) struct Shared<'a> {
    /// Its canonical name.
    name: &'a str,
    /// Index of its later weights among the later checkpoint's tensors.
    index: usize,
    readable: Readable<'a>,
}

/// Every parameter that both checkpoints have.
pub(super) fn shared<'a>(before: &'a Checkpoint, after: &'a Checkpoint) -> Vec<Shared<'a>> {
    let earlier = parameters(before);
    let earlier: HashMap<&str, Parameter<'_>> =
        earlier.into_iter().map(|parameter| (parameter.name, parameter)).collect();
    let later = parameters(after).into_iter();
    let shared = later.filter_map(|later| {
        let earlier = earlier.get(later.name)?;
        // Masters only where both have them: a rounded weight is no earlier state of an exact one.
        let masters = earlier.master.is_some() && later.master.is_some();
        let index = later.master.filter(|_| masters).unwrap_or(later.index);
        Some(Shared { name: later.name, index, readable: pair(earlier, &later, masters) })
    });
    shared.collect()
}

/// What is to be read along with the later weights while these are measured, by their index.
pub(super) fn accompanying<'a>(
    shared: &[Shared<'a>],
    level: MeasureLevel,
    context: &'a Context,
) -> HashMap<usize, Accompanying<'a>> {
    if level == MeasureLevel::List {
        return HashMap::new();
    }
    let pairs = shared.iter().filter_map(|one| Some((one.index, one.readable.as_ref().ok()?.0)));
    let pairs: HashMap<usize, Accompanying<'_>> =
        pairs.map(|(index, pair)| (index, Accompanying { pair, context })).collect();
    let others = pairs.values().map(|one| one.pair.bytes().saturating_sub(one.pair.later_bytes()));
    context.progress.expect(others.fold(0, u64::saturating_add));
    pairs
}

/// The elements of every parameter in one shape, by canonical name: what was `gathered` already, and the rest now.
pub(super) fn read(
    shared: Vec<Shared<'_>>,
    mut gathered: HashMap<usize, Sums>,
    context: &Context,
) -> HashMap<String, Elements> {
    let left = |one: &&Shared<'_>| !gathered.contains_key(&one.index);
    let bytes = shared.iter().filter(left).filter_map(|one| Some(one.readable.as_ref().ok()?.0.bytes()));
    context.progress.expect_tensors(bytes.clone().count());
    context.progress.expect(bytes.fold(0, u64::saturating_add));
    let mut known = Vec::with_capacity(shared.len());
    for one in shared {
        let sums = gathered.remove(&one.index);
        known.push((one, sums));
    }
    let done = parallel::map(&known, |(Shared { name, readable, .. }, sums)| {
        let elements = readable.clone().and_then(|(pair, read)| {
            if let Some(sums) = sums {
                return Ok((*sums, read));
            }
            context.progress.begin(name);
            run(&pair, read, context)
        });
        ((*name).to_owned(), elements)
    });
    done.into_iter().collect()
}

fn run(pair: &Pair<'_>, read: Read, context: &Context) -> Elements {
    match pair.run(context) {
        Ok(Some(sums)) => Ok((sums, read)),
        Ok(None) => Err(STOPPED.to_owned()),
        Err(error) => Err(error.kind.to_string()),
    }
}

/// A parameter of the model and its state.
struct Parameter<'a> {
    checkpoint: &'a Checkpoint,
    index: usize,
    name: &'a str,
    weight: &'a Tensor,
    /// Index of its f32 master weights.
    master: Option<usize>,
    state: Option<(&'a OptimizerState, &'a ParameterState)>,
}

fn parameters(checkpoint: &Checkpoint) -> Vec<Parameter<'_>> {
    let mut states = HashMap::new();
    for optimizer in &checkpoint.optimizers {
        for state in &optimizer.parameters {
            if let Some(index) = state.parameter.filter(|_| state.stored) {
                states.insert(index, (optimizer, state));
            }
        }
    }
    let parameters = checkpoint.tensors.iter().enumerate().filter(|(_, tensor)| is_parameter(tensor));
    let parameters = parameters.filter_map(|(index, tensor)| {
        let weight = tensor.tensor.as_ref().ok()?;
        Some(Parameter {
            checkpoint,
            index,
            name: &tensor.canonical_name,
            weight,
            master: checkpoint.masters.get(&index).copied(),
            state: states.get(&index).copied(),
        })
    });
    parameters.collect()
}

fn is_parameter(tensor: &CheckpointTensor) -> bool {
    tensor.section == Section::Model
        && tensor.role != Role::Buffer
        && tensor.tied_to.is_none()
        && tensor.tensor.as_ref().is_ok_and(|tensor| tensor.dtype.kind() == Kind::Float)
}

impl<'a> Parameter<'a> {
    fn tensor(&self, index: Option<usize>) -> Option<&'a Tensor> {
        let tensor = self.checkpoint.tensors[index?].tensor.as_ref().ok()?;
        (tensor.shape == self.weight.shape && readable(tensor).is_ok()).then_some(tensor)
    }

    fn second(&self) -> Option<&'a Tensor> {
        let (optimizer, state) = self.state?;
        match optimizer.algorithm {
            Algorithm::RmsProp => self.tensor(state.square_avg),
            _ if optimizer.algorithm.is_adam() => self.tensor(state.exp_avg_sq),
            _ => None,
        }
    }

    fn first(&self) -> Option<&'a Tensor> {
        let (optimizer, state) = self.state?;
        if optimizer.algorithm.is_adam() { self.tensor(state.exp_avg) } else { None }
    }

    fn beta2(&self) -> Option<f64> {
        let (optimizer, state) = self.state?;
        let group = &optimizer.groups[state.group];
        let beta2 = if optimizer.algorithm == Algorithm::RmsProp { group.alpha } else { group.beta2 };
        beta2.filter(|beta2| *beta2 > 0.0 && *beta2 < 1.0)
    }

    /// Moments are kept in the weights' own dtype where the optimizer updates the stored weights themselves.
    fn is_rounded(&self) -> bool {
        let narrow = matches!(self.weight.dtype, DType::Bf16 | DType::F16);
        let own = self.second().or(self.first()).is_some_and(|moment| moment.dtype == self.weight.dtype);
        narrow && !own
    }
}

/// What of two states of a parameter can be read side by side.
fn pair<'a>(before: &Parameter<'a>, after: &Parameter<'a>, masters: bool) -> Readable<'a> {
    if before.weight.shape != after.weight.shape {
        return Err("its shape changed".to_owned());
    }
    let weights = [before, after].map(|one| {
        let master = one.master.filter(|_| masters);
        master.and_then(|master| one.checkpoint.tensors[master].tensor.as_ref().ok()).unwrap_or(one.weight)
    });
    for weight in weights {
        readable(weight)?;
    }
    let seconds = floor(before, after).and_then(|floor| Some(([before.second()?, after.second()?], floor)));
    let first = after.first().filter(|_| seconds.is_some());
    let read = Read {
        masters,
        rounded: !masters && after.is_rounded(),
        floor: seconds.map(|(_, floor)| floor),
        first: first.is_some(),
    };
    Ok((Pair { weights: Some(weights), seconds, first }, read))
}

/// Free decay between two states, where one history may lie between them.
fn floor(before: &Parameter<'_>, after: &Parameter<'_>) -> Option<Floor> {
    let steps = after.state?.1.step? - before.state?.1.step?;
    let beta2 = after.beta2().filter(|beta2| before.beta2() == Some(*beta2))?;
    (steps > 0.0).then(|| Floor::new(beta2, steps, after.second().map_or(DType::F32, |second| second.dtype)))
}
