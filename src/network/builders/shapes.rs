//! Networks by the names and shapes of their parameters alone, where those determine them.

use super::recurrent::{Found, cell_alone, stack_alone};
use super::state::State;
use super::{Built, gpt2, perceptron};
use crate::checkpoint::Checkpoint;
use crate::error::Result;

/// The network of a checkpoint, by its parameters: its one recurrent stack or cell, a multilayer perceptron, or a GPT-2 with so many
/// `heads`.
///
/// What the shapes do not tell and was taken for granted is in [`Built::assumptions`]; what lies beside a recurrence is in
/// [`Built::unused`].
///
/// # Errors
/// When they determine none; says what is missing. A convolution never is: its stride and padding are in no shape, and the
/// spectrum of another network than the one that was trained would be worse than none.
pub fn from_shapes(checkpoint: &Checkpoint, heads: Option<usize>) -> Result<Built> {
    let state = State::of(checkpoint);
    if let Some(shapes) = gpt2::Shapes::of(&state)? {
        return shapes.build(&state, heads);
    }
    if heads.is_some() {
        return Err(state.unknown("--heads is for a GPT-2, and its tensors are not those of one"));
    }
    let names = state.names();
    let found = Found::of(&names);
    let (network, assumptions) = match (&found.stacks[..], &found.cells[..]) {
        ([], []) => perceptron::build(&state)?,
        (&[stack], []) => (stack_alone(&state, stack)?, Vec::new()),
        ([], &[cell]) => (cell_alone(&state, cell)?, Vec::new()),
        (stacks, cells) => {
            let all: Vec<&str> = stacks.iter().chain(cells).copied().collect();
            let message = format!("it has {} recurrences: {}", all.len(), all.join(", "));
            return Err(state.unknown(message));
        }
    };
    let mut built = Built::join(network, checkpoint)?;
    built.assumptions = assumptions;
    built.assumptions.extend(of_recurrence(&built, &found));
    Ok(built)
}

/// Every recurrent stack and cell of a checkpoint, each as a network of its own, whatever the rest of the model is.
///
/// # Errors
/// When one cannot be read, or has no shapes that a recurrence has.
pub fn recurrences(checkpoint: &Checkpoint) -> Result<Vec<Built>> {
    let state = State::of(checkpoint);
    let found = Found::of(&state.names());
    let stacks = found.stacks.iter().map(|stack| stack_alone(&state, stack));
    let cells = found.cells.iter().map(|cell| cell_alone(&state, cell));
    stacks.chain(cells).map(|network| Built::join(network?, checkpoint)).collect()
}

/// What is taken for granted of a recurrence.
fn of_recurrence(built: &Built, found: &Found<'_>) -> Vec<String> {
    let mut assumptions = Vec::new();
    let Some(prefix) = found.stacks.iter().chain(&found.cells).next() else { return assumptions };
    let is_plain = built.network.recurrences().iter().any(|recurrence| {
        matches!(recurrence.cell.kind, crate::network::CellKind::Tanh | crate::network::CellKind::Relu)
    });
    if is_plain {
        let message = "tanh is taken to be the activation of the recurrence: no shape tells it; give --model where it is another";
        assumptions.push(message.to_owned());
    }
    if !built.unused.is_empty() {
        let name = if prefix.is_empty() { "the recurrence" } else { prefix };
        assumptions
            .push(format!("{name} is taken by itself, without the {} other parameters", built.unused.len()));
    }
    assumptions
}
