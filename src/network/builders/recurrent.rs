//! Recurrent layers and cells by PyTorch's names: `weight_ih_l0`, `weight_hh_l0`, `bias_ih_l0`, `bias_hh_l0`, the same with
//! `_reverse`, `l1` and so on; a cell without `_l0`.
//!
//! Rows of W_hh over its columns are the gates: 4 in an LSTM, 3 in a GRU, 1 in a plain cell.

use super::state::{Sizes, State, below};
use crate::error::{Error, Result};
use crate::network::recurrence::step_network;
use crate::network::{
    Assembly, Block, CellKind, Concat, InputKind, Network, RecurrentCell, RecurrentLayer, ValueId,
};

/// Where the recurrent layers of a model are.
pub(super) struct Found<'c> {
    /// Names before `.weight_hh_l0`.
    pub stacks: Vec<&'c str>,
    /// Names before `.weight_hh`.
    pub cells: Vec<&'c str>,
}

impl<'c> Found<'c> {
    pub fn of(names: &[&'c str]) -> Self {
        let before = |leaf: &str| {
            let prefix = |name: &&'c str| {
                let prefix = name.strip_suffix(leaf)?;
                if prefix.is_empty() { Some(prefix) } else { prefix.strip_suffix('.') }
            };
            names.iter().filter_map(prefix).collect()
        };
        Self { stacks: before("weight_hh_l0"), cells: before("weight_hh") }
    }
}

/// The kind of cell that W_hh is of; a plain one is taken to be `plain`.
///
/// # Errors
/// A sentence, where it is of none.
pub(super) fn kind_of(shape: &[usize], plain: CellKind) -> std::result::Result<CellKind, String> {
    match shape {
        [rows, columns] if *rows == 4 * columns => Ok(CellKind::Lstm),
        [rows, columns] if *rows == 3 * columns => Ok(CellKind::Gru),
        [rows, columns] if rows == columns => Ok(plain),
        _ => Err(format!("a W_hh of shape {shape:?} is of no LSTM (4·n × n), GRU (3·n × n) or RNN (n × n)")),
    }
}

/// Recurrent layers under one name.
pub(super) struct Stack<'a> {
    pub sizes: Sizes<'a>,
    /// What their parameters' names begin with.
    pub prefix: &'a str,
    /// What a cell with one gate is.
    pub plain: CellKind,
    /// Its biases are used, where there are some.
    pub has_bias: bool,
    /// That they cannot be built.
    pub refuse: &'a dyn Fn(String) -> Error,
}

impl Stack<'_> {
    /// A cell whose parameters end in `suffix`.
    ///
    /// # Errors
    /// When parameters are missing or of no cell.
    pub fn cell(&self, assembly: &mut Assembly, suffix: &str) -> Result<RecurrentCell> {
        let name = |leaf: &str| below(self.prefix, &format!("{leaf}{suffix}"));
        let shapes = [self.sizes.shape(&name("weight_ih"))?, self.sizes.shape(&name("weight_hh"))?];
        let [Some(input), Some(own)] = shapes else {
            return self.fail(format!("{} and {} are needed", name("weight_ih"), name("weight_hh")));
        };
        if self.sizes.has(&name("weight_hr")) {
            return self.fail(format!("{}: LSTMs that project their state are not built", name("weight_hr")));
        }
        let kind = kind_of(&own, self.plain)
            .map_err(|message| (self.refuse)(format!("{}: {message}", name("weight_hh"))))?;
        let (rows, inputs) = match input[..] {
            [rows, inputs] if rows == own[0] => (rows, inputs),
            _ => {
                let message =
                    format!("{} has shape {input:?}, {} rows are needed", name("weight_ih"), own[0]);
                return self.fail(message);
            }
        };
        let mut parameter = |leaf: &str, shape: &[usize]| {
            let message = || format!("{} was taken in another shape by an earlier layer", name(leaf));
            assembly.shared_parameter(&name(leaf), shape).ok_or_else(|| (self.refuse)(message()))
        };
        let [input_weight, state_weight] = [parameter("weight_ih", &input)?, parameter("weight_hh", &own)?];
        let mut bias = |leaf: &str| {
            let is_there = self.has_bias && self.sizes.has(&name(leaf));
            is_there.then(|| parameter(leaf, &[rows])).transpose()
        };
        Ok(RecurrentCell {
            kind,
            inputs,
            hidden: own[1],
            input_weight,
            state_weight,
            input_bias: bias("bias_ih")?,
            state_bias: bias("bias_hh")?,
        })
    }

    fn fail<T>(&self, message: String) -> Result<T> {
        Err((self.refuse)(message))
    }

    /// All layers on top of x, both directions where there are both; each is a block.
    pub fn layers(&self, assembly: &mut Assembly, mut x: ValueId) -> Result<ValueId> {
        for layer in 0.. {
            let suffix = format!("_l{layer}");
            if layer > 0 && !self.sizes.has(&below(self.prefix, &format!("weight_hh{suffix}"))) {
                break;
            }
            let (name, input) = (below(self.prefix, &format!("l{layer}")), x);
            let cell = self.cell(assembly, &suffix)?;
            let reverse = format!("{suffix}_reverse");
            x = if self.sizes.has(&below(self.prefix, &format!("weight_hh{reverse}"))) {
                let back = self.cell(assembly, &reverse)?;
                let mut push = |name: &str, cell, reversed| {
                    assembly.push(name, RecurrentLayer { cell, reversed }, &[input])
                };
                let both = [
                    push(&format!("{name}_forward"), cell, false),
                    push(&format!("{name}_reverse"), back, true),
                ];
                assembly.push(&name, Concat { axis: 2 }, &both)
            } else {
                assembly.push(&name, RecurrentLayer { cell, reversed: false }, &[input])
            };
            assembly.block(Block { name, input, output: x, parts: Vec::new() });
        }
        Ok(x)
    }
}

/// A recurrence of a checkpoint whose kind of plain cell nobody tells.
fn alone<'a>(state: &'a State<'a>, prefix: &'a str, refuse: &'a dyn Fn(String) -> Error) -> Stack<'a> {
    Stack { sizes: Sizes::Stored(state), prefix, plain: CellKind::Tanh, has_bias: true, refuse }
}

/// The network that is a stack and nothing else: from `[batch, steps, inputs]` to the h of its last layer.
pub(super) fn stack_alone(state: &State<'_>, prefix: &str) -> Result<Network> {
    let name = below(prefix, "weight_ih_l0");
    let shape = state.shape(&name)?.unwrap_or_default();
    let &[_, inputs] = &shape[..] else {
        return Err(state.unknown(format!("{name} has shape {shape:?}, two sizes are needed")));
    };
    let input = InputKind::Features { shape: vec![None, Some(inputs)] };
    let mut assembly = Assembly::new("recurrent", input);
    let x = assembly.input();
    let output = alone(state, prefix, &|message| state.unknown(message)).layers(&mut assembly, x)?;
    Ok(assembly.finish(output))
}

/// The network that is one step of a cell: from an input, then a state, in one row to the next state.
pub(super) fn cell_alone(state: &State<'_>, prefix: &str) -> Result<Network> {
    // The sizes of the input are those of the cell, which is known only when it is built.
    let mut assembly = Assembly::new("recurrent cell", InputKind::Features { shape: Vec::new() });
    let cell = alone(state, prefix, &|message| state.unknown(message)).cell(&mut assembly, "")?;
    Ok(step_network(assembly, cell, prefix))
}
