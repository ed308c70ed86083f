//! Activations of a forward pass, and products with the Jacobians between them.

use super::operation::{Fed, Kept, Place, Run};
use super::{Array, Feed, Gradients, Input, InputKind, Network, Segment, ValueId, Weights};
use crate::compute::{Backend, Real};
use crate::error::Result;

/// What a forward pass has computed so far.
///
/// Weights are handed to every call, so that those of a block can come and go; they must be the same numbers for the same
/// tape.
pub struct Tape<'n, B: Backend, T: Real> {
    network: &'n Network,
    backend: &'n B,
    input: Fed<B, T>,
    shapes: Vec<Vec<usize>>,
    values: Vec<Option<Array<B, T>>>,
    kept: Vec<Option<Kept<B, T>>>,
    /// Nodes that have been computed.
    done: usize,
    /// For each node the last one that takes its value, or the end.
    last_use: Vec<usize>,
}

impl<'n, B: Backend, T: Real> Tape<'n, B, T> {
    /// The tape of a pass over this input, nothing computed yet.
    ///
    /// # Errors
    /// When memory cannot be had.
    ///
    /// # Panics
    /// When the input is none that the network takes: [`Network::shapes`] and [`InputKind::check`] say so before.
    pub fn new(network: &'n Network, backend: &'n B, feed: &Feed) -> Result<Self> {
        let shape = feed.input.shape();
        let shapes = network.shapes(&shape).expect("the shape of the input was checked");
        let (mut tokens, mut features) = (None, None);
        match (&feed.input, &network.input) {
            (Input::Tokens { ids, .. }, InputKind::Tokens { vocabulary, .. }) => {
                assert!(ids.iter().all(|&id| (id as usize) < *vocabulary), "ids lie in the vocabulary");
                tokens = Some(backend.index(ids)?);
            }
            (Input::Features { values, .. }, InputKind::Features { .. }) => {
                features = Some(Array::upload(backend, &shape, values)?);
            }
            _ => panic!("the input is of the kind that the network takes"),
        }
        let mut last_use = vec![0; network.nodes.len()];
        for (index, node) in network.nodes.iter().enumerate() {
            for input in &node.inputs {
                last_use[input.0] = index;
            }
        }
        last_use[network.output.0] = network.nodes.len();
        Ok(Self {
            network,
            backend,
            input: Fed { shape, tokens, features, targets: feed.targets.clone() },
            shapes,
            values: network.nodes.iter().map(|_| None).collect(),
            kept: network.nodes.iter().map(|_| None).collect(),
            done: 0,
            last_use,
        })
    }

    /// Computes every node up to that of `to`, and keeps what derivatives need.
    pub fn advance(&mut self, weights: &Weights<B, T>, to: ValueId) -> Result<()> {
        while self.done <= to.0 {
            let node = &self.network.nodes[self.done];
            let inputs: Vec<&Array<B, T>> = node.inputs.iter().map(|&input| self.array(input)).collect();
            let (output, kept) = node.operation.operate().forward(&self.run(weights), &inputs)?;
            debug_assert_eq!(output.shape, self.shapes[self.done], "{}", node.name);
            self.values[self.done] = Some(output);
            self.kept[self.done] = Some(kept);
            self.done += 1;
        }
        Ok(())
    }

    /// Drops the values before `before` that no node behind it takes, and whatever derivatives of those nodes need.
    pub fn forget(&mut self, before: ValueId) {
        for index in 0..=before.0 {
            self.kept[index] = None;
            if index < before.0 && self.last_use[index] <= before.0 {
                self.values[index] = None;
            }
        }
    }

    /// The shape of a value, computed or not.
    pub fn shape(&self, value: ValueId) -> &[usize] {
        &self.shapes[value.0]
    }

    /// Numbers of a value, computed or not.
    pub fn length(&self, value: ValueId) -> usize {
        self.shapes[value.0].iter().product()
    }

    /// A value that has been computed and not forgotten.
    pub fn array(&self, value: ValueId) -> &Array<B, T> {
        self.values[value.0].as_ref().expect("the tape holds the value")
    }

    /// A value in main memory.
    pub fn download(&self, value: ValueId) -> Result<Vec<T>> {
        self.backend.download(&self.array(value).buffer)
    }

    /// `∂to/∂from · x`: x has as many numbers as `from`, the product as many as `to`.
    pub fn jvp(&self, weights: &Weights<B, T>, segment: &Segment, x: B::Buffer<T>) -> Result<B::Buffer<T>> {
        let run = self.run(weights);
        let (from, to) = (segment.from.0, segment.to.0);
        let mut tangents: Vec<Option<Array<B, T>>> = (from..=to).map(|_| None).collect();
        tangents[0] = Some(Array { shape: self.shapes[from].clone(), buffer: x });
        let mut ends: Vec<Vec<usize>> = (from..=to).map(|_| Vec::new()).collect();
        for index in from + 1..=to {
            let node = &self.network.nodes[index];
            let incoming: Vec<Option<&Array<B, T>>> = node
                .inputs
                .iter()
                .map(|input| input.0.checked_sub(from).and_then(|at| tangents[at].as_ref()))
                .collect();
            if !segment.frozen.contains(&ValueId(index)) && incoming.iter().any(Option::is_some) {
                let product = node.operation.operate().jvp(&run, &self.place(index), &incoming)?;
                tangents[index - from] = Some(product);
                let last = self.last_use[index];
                if index < to && last < to {
                    ends[last.max(index) - from].push(index - from);
                }
            }
            for &ended in &ends[index - from] {
                tangents[ended] = None;
            }
        }
        match tangents.pop().flatten() {
            Some(product) => Ok(product.buffer),
            None => self.backend.zeros(self.length(segment.to)),
        }
    }

    /// `(∂to/∂from)ᵀ · u`: u has as many numbers as `to`, the product as many as `from`.
    pub fn vjp(&self, weights: &Weights<B, T>, segment: &Segment, u: B::Buffer<T>) -> Result<B::Buffer<T>> {
        let found = self.pull_back(weights, segment, u, None)?;
        match found {
            Some(product) => Ok(product.buffer),
            None => self.backend.zeros(self.length(segment.from)),
        }
    }

    /// Adds `∂⟨u, to⟩/∂p` to the gradients, for every parameter of the nodes on the tape that `to` depends on.
    pub fn parameter_gradient(
        &self,
        weights: &Weights<B, T>,
        to: ValueId,
        u: B::Buffer<T>,
        gradients: &mut Gradients<B, T>,
    ) -> Result<()> {
        let first = self.kept[..=to.0].iter().rposition(Option::is_none).map_or(0, |last| last + 1);
        let segment = Segment::new(ValueId(first), to);
        self.pull_back(weights, &segment, u, Some(gradients)).map(drop)
    }

    /// Takes u back from `to`. Without gradients, along what depends on `from`; with them, along everything from `from` on.
    fn pull_back(
        &self,
        weights: &Weights<B, T>,
        segment: &Segment,
        u: B::Buffer<T>,
        mut gradients: Option<&mut Gradients<B, T>>,
    ) -> Result<Option<Array<B, T>>> {
        let run = self.run(weights);
        let (from, to) = (segment.from.0, segment.to.0);
        let matters = self.matters(segment, gradients.is_some());
        let mut cotangents: Vec<Option<Array<B, T>>> = (from..=to).map(|_| None).collect();
        cotangents[to - from] = Some(Array { shape: self.shapes[to].clone(), buffer: u });
        let last = if gradients.is_some() { from } else { from + 1 };
        for index in (last..=to).rev() {
            if !matters[index - from] {
                continue;
            }
            let Some(cotangent) = cotangents[index - from].take() else { continue };
            let node = &self.network.nodes[index];
            let place = self.place(index);
            if let Some(gradients) = &mut gradients {
                node.operation.operate().parameter_gradient(&run, &place, &cotangent, gradients)?;
            }
            let wanted: Vec<bool> = node
                .inputs
                .iter()
                .map(|input| input.0.checked_sub(from).is_some_and(|at| matters[at]))
                .collect();
            if !wanted.contains(&true) {
                continue;
            }
            let found = node.operation.operate().vjp(&run, &place, &cotangent, &wanted)?;
            for (input, found) in node.inputs.iter().zip(found) {
                let Some(found) = found else { continue };
                match &mut cotangents[input.0 - from] {
                    Some(sum) => sum.add(self.backend, &found)?,
                    empty => *empty = Some(found),
                }
            }
        }
        Ok(cotangents.swap_remove(0))
    }

    /// Which nodes of a segment a cotangent has to reach.
    fn matters(&self, segment: &Segment, everything: bool) -> Vec<bool> {
        let (from, to) = (segment.from.0, segment.to.0);
        let mut matters = vec![everything; to - from + 1];
        matters[0] = true;
        for index in from + 1..=to {
            let depends = self.network.nodes[index]
                .inputs
                .iter()
                .any(|input| input.0.checked_sub(from).is_some_and(|at| matters[at]));
            let frozen = segment.frozen.contains(&ValueId(index));
            matters[index - from] = !frozen && (everything || depends);
        }
        matters
    }

    fn run<'a>(&'a self, weights: &'a Weights<B, T>) -> Run<'a, B, T> {
        Run { backend: self.backend, weights, input: &self.input }
    }

    fn place(&self, index: usize) -> Place<'_, B, T> {
        let inputs = self.network.nodes[index].inputs.iter().map(|&input| self.array(input)).collect();
        let kept = self.kept[index].as_ref().expect("the segment lies on the tape");
        Place { inputs, output: self.array(ValueId(index)), kept }
    }
}
