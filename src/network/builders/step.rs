//! One step of each recurrence of a checkpoint as a network of its own: from what comes in and the state before it to the state
//! after it. Equations and gate order are PyTorch's (`torch.nn.RNN`, `GRU`, `LSTM`).
//!
//! The input is `[batch, inputs + state]`, x first; the state is h, or h and c behind each other.

use super::{Built, Places};
use crate::checkpoint::{Checkpoint, Role, Section};
use crate::compute::Unary;
use crate::error::Result;
use crate::network::{
    Activation, Add, Assembly, Concat, InputKind, Linear, Multiply, Network, Scale, Slice, ValueId,
};

/// A recurrence, and one step of it.
#[derive(Debug)]
pub struct Step {
    /// Its name: `lstm.weight_hh_l0` without what names the weight.
    pub name: String,
    /// Which cell it is.
    pub cell: Cell,
    /// The layer within its module, from 0.
    pub layer: usize,
    /// The module it belongs to: layers of one follow each other.
    pub module: String,
    /// It runs from the end to the start.
    pub is_reversed: bool,
    /// Numbers that come in.
    pub inputs: usize,
    /// Numbers of h.
    pub hidden: usize,
    /// The step, and where its parameters lie.
    pub built: Built,
    /// The value that is the state before the step.
    pub state: ValueId,
}

/// A kind of recurrence, by how many matrices are stored as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cell {
    /// `h ← tanh(W·x + U·h + b)`. Nothing in a checkpoint says whether it is ReLU instead.
    Tanh,
    /// Gated recurrent unit.
    Gru,
    /// Long short-term memory.
    Lstm,
}

impl Step {
    /// Numbers of its state.
    pub fn state_length(&self) -> usize {
        if self.cell == Cell::Lstm { 2 * self.hidden } else { self.hidden }
    }
}

/// The recurrences of a checkpoint that are stored as PyTorch stores them, in file order; those with projections are left out.
///
/// # Errors
/// When a parameter cannot be read.
pub fn steps(checkpoint: &Checkpoint) -> Result<Vec<Step>> {
    let places = Places::of(checkpoint);
    let mut steps = Vec::new();
    for tensor in &checkpoint.tensors {
        if tensor.section != Section::Model || tensor.role != Role::RecurrentHidden {
            continue;
        }
        let Ok(stored) = &tensor.tensor else { continue };
        let Some((module, suffix)) = tensor.name.rsplit_once("weight_hh") else { continue };
        let [rows, hidden] = stored.shape[..] else { continue };
        let cell = match rows.checked_div(hidden) {
            _ if hidden == 0 || rows % hidden != 0 => continue,
            Some(1) => Cell::Tanh,
            Some(3) => Cell::Gru,
            Some(4) => Cell::Lstm,
            _ => continue,
        };
        let named = |kind: &str| format!("{module}{kind}{suffix}");
        let shape = |name: &str| -> Option<&[u64]> {
            let tensor = &checkpoint.tensors[places.find(name)?];
            Some(&tensor.tensor.as_ref().ok()?.shape)
        };
        let Some(&[_, inputs]) = shape(&named("weight_ih")) else { continue };
        if shape(&named("weight_hr")).is_some() {
            continue;
        }
        let biased = shape(&named("bias_ih")).is_some() && shape(&named("bias_hh")).is_some();
        let (inputs, hidden) = (inputs as usize, hidden as usize);
        let (network, state) = network(cell, &named, inputs, hidden, biased);
        let number = suffix.trim_start_matches("_l").trim_end_matches("_reverse");
        steps.push(Step {
            name: format!("{module}{}", suffix.trim_start_matches('_')).trim_end_matches('.').to_owned(),
            cell,
            layer: number.parse().unwrap_or(0),
            module: module.to_owned(),
            is_reversed: suffix.ends_with("_reverse"),
            inputs,
            hidden,
            built: Built::join(network, checkpoint)?,
            state,
        });
    }
    Ok(steps)
}

/// The network of one step, and the value that is the state before it.
fn network(
    cell: Cell,
    named: &impl Fn(&str) -> String,
    inputs: usize,
    hidden: usize,
    biased: bool,
) -> (Network, ValueId) {
    let (gates, state) = match cell {
        Cell::Tanh => (1, hidden),
        Cell::Gru => (3, hidden),
        Cell::Lstm => (4, 2 * hidden),
    };
    let kind = match cell {
        Cell::Tanh => "rnn step",
        Cell::Gru => "gru step",
        Cell::Lstm => "lstm step",
    };
    let mut own = Assembly::new(kind, InputKind::Features { shape: vec![Some(inputs + state)] });
    let all = own.input();
    let x = slice(&mut own, "x", all, 0..inputs);
    let before = slice(&mut own, "state", all, inputs..inputs + state);
    let h = if cell == Cell::Lstm { slice(&mut own, "h", before, 0..hidden) } else { before };
    let map = |own: &mut Assembly, from: ValueId, way: &str, width: usize| {
        let weight = own.parameter(&named(&format!("weight_{way}")), &[gates * hidden, width]);
        let bias = biased.then(|| own.parameter(&named(&format!("bias_{way}")), &[gates * hidden]));
        own.push(
            way,
            Linear { inputs: width, outputs: gates * hidden, weight, bias, transposed: false },
            &[from],
        )
    };
    let from_input = map(&mut own, x, "ih", inputs);
    let from_state = map(&mut own, h, "hh", hidden);
    let gate = |index: usize| index * hidden..(index + 1) * hidden;
    let output = match cell {
        Cell::Tanh => {
            let sum = own.push("sum", Add, &[from_input, from_state]);
            activate(&mut own, "h'", Unary::Tanh, sum)
        }
        Cell::Lstm => {
            let c = slice(&mut own, "c", before, hidden..2 * hidden);
            let sum = own.push("gates", Add, &[from_input, from_state]);
            let functions = [Unary::Sigmoid, Unary::Sigmoid, Unary::Tanh, Unary::Sigmoid];
            let [i, f, g, o] = std::array::from_fn(|index| {
                let own_gate = slice(&mut own, &format!("gate {index}"), sum, gate(index));
                activate(&mut own, &format!("gate {index} active"), functions[index], own_gate)
            });
            let kept = own.push("f·c", Multiply, &[f, c]);
            let new = own.push("i·g", Multiply, &[i, g]);
            let after = own.push("c'", Add, &[kept, new]);
            let bounded = activate(&mut own, "tanh c'", Unary::Tanh, after);
            let shown = own.push("h'", Multiply, &[o, bounded]);
            own.push("state'", Concat { axis: 1 }, &[shown, after])
        }
        Cell::Gru => {
            let [r, z] = std::array::from_fn(|index| {
                let from_x = slice(&mut own, &format!("x gate {index}"), from_input, gate(index));
                let from_h = slice(&mut own, &format!("h gate {index}"), from_state, gate(index));
                let sum = own.push(&format!("gate {index}"), Add, &[from_x, from_h]);
                activate(&mut own, &format!("gate {index} active"), Unary::Sigmoid, sum)
            });
            let from_x = slice(&mut own, "x new", from_input, gate(2));
            let from_h = slice(&mut own, "h new", from_state, gate(2));
            let reset = own.push("r·h", Multiply, &[r, from_h]);
            let sum = own.push("new", Add, &[from_x, reset]);
            let new = activate(&mut own, "new active", Unary::Tanh, sum);
            // h' = n + z·(h − n).
            let negative = own.push("−n", Scale { factor: -1.0 }, &[new]);
            let away = own.push("h−n", Add, &[h, negative]);
            let kept = own.push("z·(h−n)", Multiply, &[z, away]);
            own.push("h'", Add, &[new, kept])
        }
    };
    (own.finish(output), before)
}

fn slice(own: &mut Assembly, name: &str, from: ValueId, places: std::ops::Range<usize>) -> ValueId {
    own.push(name, Slice { axis: 1, places }, &[from])
}

fn activate(own: &mut Assembly, name: &str, function: Unary, from: ValueId) -> ValueId {
    own.push(name, Activation { function }, &[from])
}
