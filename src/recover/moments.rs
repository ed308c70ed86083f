//! The parameters of a checkpoint's optimizers, and what resetting one of them takes.

use std::collections::BTreeSet;

use super::edit::{AddedTensor, NumberAt, NumberEdit, Operation, TensorEdit};
use crate::analysis::model::CheckpointAnalysis;
use crate::checkpoint::optimizer::{OptimizerState, ParameterState, Place, Quantity};
use crate::checkpoint::{Checkpoint, Section};
use crate::error::{ErrorKind, Result};
use crate::format::Format;

/// One parameter with state.
pub(super) struct Stateful<'a> {
    /// Its name in findings: the model's tensor, or what leads to the state.
    pub name: &'a str,
    /// Index of its optimizer.
    pub optimizer_index: usize,
    /// Its optimizer.
    pub optimizer: &'a OptimizerState,
    /// Its state.
    pub state: &'a ParameterState,
}

/// What resetting parameters changes.
#[derive(Default)]
pub(super) struct Reset {
    pub tensors: Vec<TensorEdit>,
    pub numbers: Vec<NumberEdit>,
    pub added: Vec<AddedTensor>,
}

/// Every parameter with state, in the order in which they were measured.
pub(super) fn all<'a>(checkpoint: &'a Checkpoint, analysis: &'a CheckpointAnalysis) -> Vec<Stateful<'a>> {
    let Some(measured) = analysis.optimizer.value() else { return Vec::new() };
    let states = checkpoint.optimizers.iter().enumerate().flat_map(|(optimizer_index, optimizer)| {
        let stored = optimizer.parameters.iter().filter(|state| state.stored);
        stored.map(move |state| (optimizer_index, optimizer, state))
    });
    let named = measured.parameters.iter().zip(states);
    named
        .map(|(parameter, (optimizer_index, optimizer, state))| Stateful {
            name: &parameter.name,
            optimizer_index,
            optimizer,
            state,
        })
        .collect()
}

/// Parameters of the model that `named` names, and whose state could not be told from that of others of their shape: that they are
/// left as they are. `None` where there is none.
pub(super) fn untold(
    checkpoint: &Checkpoint,
    parameters: &[Stateful<'_>],
    named: impl Fn(&str) -> bool,
) -> Option<String> {
    let shape = |index: usize| checkpoint.tensors[index].tensor.as_ref().ok().map(|tensor| &tensor.shape);
    let ownerless: BTreeSet<_> = parameters
        .iter()
        .filter(|parameter| parameter.state.parameter.is_none() && !named(parameter.name))
        .filter_map(|parameter| shape(parameter.moments().next()?))
        .collect();
    let owners: BTreeSet<usize> =
        parameters.iter().filter_map(|parameter| parameter.state.parameter).collect();
    let left: Vec<&str> = (0..checkpoint.tensors.len())
        .filter(|index| {
            !owners.contains(index) && shape(*index).is_some_and(|shape| ownerless.contains(shape))
        })
        .map(|index| &checkpoint.tensors[index])
        .filter(|tensor| tensor.section == Section::Model)
        .filter(|tensor| named(&tensor.name) || named(&tensor.canonical_name))
        .map(|tensor| tensor.name.as_str())
        .collect();
    let first = left.first()?;
    let others = match left.len() {
        1 => String::new(),
        count => format!(" and {} more", count - 1),
    };
    Some(format!(
        "left as it is: the state of {first}{others}, which nothing tells from that of others of its shape; name it by its place, as \
         flashpoint inspect --all lists it, or reset all"
    ))
}

impl Stateful<'_> {
    /// Its moments, by index among the checkpoint's tensors. The mean gradient of a centered `RMSprop` is one: its square is taken from the
    /// mean square, and the root of what is left is of a negative number where only the latter is 0.
    pub fn moments(&self) -> impl Iterator<Item = usize> {
        let state = self.state;
        let own = [
            state.exp_avg,
            state.exp_avg_sq,
            state.max_exp_avg_sq,
            state.momentum_buffer,
            state.square_avg,
            state.grad_avg,
        ];
        own.into_iter().flatten()
    }

    /// The tensor of that index as an edit.
    fn zero(checkpoint: &Checkpoint, index: usize) -> TensorEdit {
        let tensor = &checkpoint.tensors[index];
        let file = tensor.file.map_or_else(String::new, |file| checkpoint.files[file].name.clone());
        TensorEdit { tensor: tensor.name.clone(), file, operation: Operation::Zero, index }
    }

    /// Adds what brings this parameter back to where it was before its first step. `whole` says that all parameters of its
    /// optimizer are reset, so that a counter that they share may be.
    ///
    /// # Errors
    /// Where its step counter cannot be brought to zero with its moments: the first update would be too large.
    pub fn reset(&self, checkpoint: &Checkpoint, whole: bool, reset: &mut Reset) -> Result<()> {
        let refuse = |message: String| Err(ErrorKind::NotEditable { message }.in_file(&checkpoint.path));
        if self.state.codebooks.iter().any(|codebook| codebook.values.is_some() || codebook.scales.is_some())
        {
            return refuse(format!(
                "the moments of {} are 8-bit codes, whose zero is a code of its own",
                self.name
            ));
        }
        reset.tensors.extend(self.moments().map(|index| Self::zero(checkpoint, index)));
        if self.state.step.is_none() {
            return Ok(());
        }
        match self.state.step_place {
            Some(Place::Tensor(index)) => reset.tensors.push(Self::zero(checkpoint, index)),
            Some(Place::Pickled { start, end }) => {
                let file = self.optimizer.file;
                reset.numbers.push(NumberEdit {
                    name: format!("state[{}].step", self.state.key),
                    file: checkpoint.files[file].name.clone(),
                    from: self.state.step.unwrap_or_default(),
                    to: 0.0,
                    at: NumberAt::Pickled { file, start, end },
                });
            }
            None => return self.reset_shared_step(checkpoint, whole, reset),
        }
        Ok(())
    }

    fn reset_shared_step(&self, checkpoint: &Checkpoint, whole: bool, reset: &mut Reset) -> Result<()> {
        let refuse = |message: String| Err(ErrorKind::NotEditable { message }.in_file(&checkpoint.path));
        let (name, file) = (self.name, self.optimizer.file);
        if checkpoint.files[file].format == Format::Safetensors {
            reset.added.push(AddedTensor {
                tensor: format!("{}.step", self.state.key),
                file: checkpoint.files[file].name.clone(),
                file_index: file,
            });
            return Ok(());
        }
        let of_group = |number: &&crate::checkpoint::optimizer::Hyperparameter| {
            number.quantity == Quantity::Step && number.group == self.state.group
        };
        let Some(counter) = self.optimizer.hyperparameters.iter().find(of_group) else {
            return refuse(format!("the step counter of {name} stands in no place that is known"));
        };
        if !whole {
            return refuse(format!(
                "{name} shares its step counter with its group: reset all moments, or none of it"
            ));
        }
        let edit = number_edit(checkpoint, file, counter, 0.0)?;
        if !reset.numbers.contains(&edit) {
            reset.numbers.push(edit);
        }
        Ok(())
    }
}

/// A number of a group or a schedule, changed to `to`.
///
/// # Errors
/// Where it is written in no single place.
pub(super) fn number_edit(
    checkpoint: &Checkpoint,
    file: usize,
    number: &crate::checkpoint::optimizer::Hyperparameter,
    to: f64,
) -> Result<NumberEdit> {
    let at = match number.place {
        Some(Place::Tensor(index)) => NumberAt::Tensor(index),
        Some(Place::Pickled { start, end }) => NumberAt::Pickled { file, start, end },
        None => {
            let message = format!("{} is written by several opcodes of the pickle", number.name);
            return Err(ErrorKind::NotEditable { message }.in_file(checkpoint.files[file].input.path()));
        }
    };
    let file = checkpoint.files[file].name.clone();
    Ok(NumberEdit { name: number.name.clone(), file, from: number.value, to, at })
}
