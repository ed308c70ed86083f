//! The tensors of two open checkpoints side by side: each parameter both have is read once at either end.

use std::collections::HashMap;

use rayon::iter::{IntoParallelRefIterator, ParallelIterator};

use crate::analysis::model::DType;
use crate::analysis::optimizer::place::readable;
use crate::analysis::series::decay::Floor;
use crate::analysis::series::interval::{Elements, Read};
use crate::analysis::series::pass::Pair;
use crate::analysis::statistics::STOPPED;
use crate::checkpoint::optimizer::{Algorithm, OptimizerState, ParameterState};
use crate::checkpoint::{Checkpoint, CheckpointTensor, Role, Section};
use crate::context::Context;
use crate::tensor::{Kind, Tensor};

/// What one pass has to read, or why there is nothing to read.
type Readable<'a> = Result<(Pair<'a>, Read), String>;

/// Reads every parameter that both checkpoints have in one shape; by canonical name.
pub(super) fn read(before: &Checkpoint, after: &Checkpoint, context: &Context) -> HashMap<String, Elements> {
    let earlier = parameters(before);
    let earlier: HashMap<&str, Parameter<'_>> =
        earlier.into_iter().map(|parameter| (parameter.name, parameter)).collect();
    let pairs: Vec<(&str, Readable<'_>)> = parameters(after)
        .into_iter()
        .filter_map(|later| Some((later.name, pair(earlier.get(later.name)?, &later))))
        .collect();
    let bytes = pairs.iter().filter_map(|(_, pair)| Some(pair.as_ref().ok()?.0.bytes()));
    context.progress.expect(bytes.fold(0, u64::saturating_add));
    let done: Vec<(String, Elements)> = pairs
        .par_iter()
        .map(|(name, pair)| {
            ((*name).to_owned(), pair.clone().and_then(|(pair, read)| run(&pair, read, context)))
        })
        .collect();
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
    name: &'a str,
    weight: &'a Tensor,
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
            name: &tensor.canonical_name,
            weight,
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
fn pair<'a>(before: &Parameter<'a>, after: &Parameter<'a>) -> Readable<'a> {
    if before.weight.shape != after.weight.shape {
        return Err("its shape changed".to_owned());
    }
    for weight in [before.weight, after.weight] {
        readable(weight)?;
    }
    let seconds = floor(before, after).and_then(|floor| Some(([before.second()?, after.second()?], floor)));
    let first = after.first().filter(|_| seconds.is_some());
    let read = Read {
        masters: false,
        rounded: after.is_rounded(),
        floor: seconds.map(|(_, floor)| floor),
        first: first.is_some(),
    };
    Ok((Pair { weights: Some([before.weight, after.weight]), seconds, first }, read))
}

/// Free decay between two states, where one history may lie between them.
fn floor(before: &Parameter<'_>, after: &Parameter<'_>) -> Option<Floor> {
    let steps = after.state?.1.step? - before.state?.1.step?;
    let beta2 = after.beta2().filter(|beta2| before.beta2() == Some(*beta2))?;
    (steps > 0.0).then(|| Floor::new(beta2, steps, after.second().map_or(DType::F32, |second| second.dtype)))
}
