//! The recurrences of a network, each with one step of it as a network of its own: what Lyapunov exponents are computed from.

use super::{Assembly, Feed, Input, InputKind, Network, Operation, RecurrentCell, Segment, Slice, ValueId};

/// A recurrence of a network.
#[derive(Debug, Clone)]
pub struct Recurrence {
    /// The name of its node: `lstm.l0`.
    pub name: String,
    /// What drives it: `[batch, steps, inputs]` of a layer, `[batch, inputs]` of a cell by itself.
    pub input: ValueId,
    /// Its last step is taken first.
    pub reversed: bool,
    /// One step of it.
    pub cell: RecurrentCell,
    /// One step as a network: from rows of an input and a state to the next state. It has the parameters of the network that
    /// the recurrence is of, so that the same [`Weights`](super::Weights) are its own.
    pub step: Network,
    /// From the state to the next one, on a tape of the step: `∂s_t/∂s_{t-1}`. An LSTM's state is h, then c.
    pub segment: Segment,
}

impl Recurrence {
    /// Numbers of an input.
    pub const fn inputs(&self) -> usize {
        self.cell.inputs
    }

    /// Numbers of the state.
    pub const fn state(&self) -> usize {
        self.cell.state()
    }

    /// What one step is fed: an input and the state before it.
    ///
    /// # Panics
    /// When they are not as long as the cell's.
    pub fn feed(&self, x: &[f64], state: &[f64]) -> Feed {
        assert!(x.len() == self.inputs() && state.len() == self.state(), "an input and a state of the cell");
        let values = [x, state].concat();
        Feed::from(Input::Features { shape: vec![1, values.len()], values })
    }
}

/// The step of a cell, whose parameters are in the assembly.
pub(super) fn step_network(mut assembly: Assembly, cell: RecurrentCell, name: &str) -> Network {
    let end = cell.inputs + cell.state();
    assembly.takes(InputKind::Features { shape: vec![Some(end)] });
    let whole = assembly.input();
    let x = assembly.push("x", Slice { axis: 1, places: 0..cell.inputs }, &[whole]);
    let state = assembly.push("state", Slice { axis: 1, places: cell.inputs..end }, &[whole]);
    let next = assembly.push(if name.is_empty() { "cell" } else { name }, cell, &[x, state]);
    assembly.finish(next)
}

impl Network {
    /// Its recurrences, in order.
    pub fn recurrences(&self) -> Vec<Recurrence> {
        let of_node = |node: &super::Node| {
            let (cell, reversed) = match &node.operation {
                Operation::RecurrentCell(cell) => (cell.clone(), false),
                Operation::RecurrentLayer(layer) => (layer.cell.clone(), layer.reversed),
                _ => return None,
            };
            let mut assembly = Assembly::new("recurrent cell", InputKind::Features { shape: Vec::new() });
            assembly.share(&self.parameters);
            let step = step_network(assembly, cell.clone(), &node.name);
            let state = step.node(step.output).inputs[1];
            let segment = Segment::new(state, step.output);
            Some(Recurrence { name: node.name.clone(), input: node.inputs[0], reversed, cell, step, segment })
        };
        self.nodes.iter().filter_map(of_node).collect()
    }
}
