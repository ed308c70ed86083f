//! Puts a network together, node by node.

use std::collections::HashMap;

use super::{Block, InputKind, Network, Node, Operation, Parameter, ParameterId, Source, ValueId};

/// A network that is being put together.
#[derive(Debug)]
pub struct Assembly {
    network: Network,
    /// The parameters by their names.
    named: HashMap<String, ParameterId>,
}

impl Assembly {
    /// A network without nodes.
    pub fn new(architecture: &str, input: InputKind) -> Self {
        let network = Network {
            architecture: architecture.to_owned(),
            input,
            nodes: Vec::new(),
            parameters: Vec::new(),
            blocks: Vec::new(),
            output: ValueId(0),
        };
        Self { network, named: HashMap::new() }
    }

    /// The features that the network is given.
    pub fn input(&mut self) -> ValueId {
        self.push("input", Source, &[])
    }

    /// A parameter by its name in the checkpoint; one that was named before is shared, as tied weights are.
    ///
    /// # Panics
    /// When it was named before with another shape.
    pub fn parameter(&mut self, name: &str, shape: &[usize]) -> ParameterId {
        if let Some(&known) = self.named.get(name) {
            assert_eq!(self.network.parameters[known.0].shape, shape, "{name} is shared");
            return known;
        }
        let id = ParameterId(self.network.parameters.len());
        self.network.parameters.push(Parameter { name: name.to_owned(), shape: shape.to_vec() });
        self.named.insert(name.to_owned(), id);
        id
    }

    /// The same, or `None` where it was named before with another shape.
    pub fn shared_parameter(&mut self, name: &str, shape: &[usize]) -> Option<ParameterId> {
        let known = self.named.get(name).map(|known| &self.network.parameters[known.0]);
        known.is_none_or(|known| known.shape == shape).then(|| self.parameter(name, shape))
    }

    /// Whether it takes tokens whose ids all lie below `count`.
    pub const fn takes_tokens_below(&self, count: usize) -> bool {
        matches!(self.network.input, InputKind::Tokens { vocabulary, .. } if vocabulary <= count)
    }

    /// An operation on earlier values, and the value that it gives.
    pub fn push(&mut self, name: &str, operation: impl Into<Operation>, inputs: &[ValueId]) -> ValueId {
        assert!(inputs.iter().all(|input| input.0 < self.network.nodes.len()), "{name} takes earlier values");
        self.network.nodes.push(Node {
            name: name.to_owned(),
            operation: operation.into(),
            inputs: inputs.to_vec(),
        });
        ValueId(self.network.nodes.len() - 1)
    }

    /// Nodes so far.
    pub fn count(&self) -> usize {
        self.network.nodes.len()
    }

    /// Names the nodes from the `first` on by `to` where their names begin with `from`.
    pub fn rename(&mut self, first: usize, from: &str, to: &str) {
        for node in &mut self.network.nodes[first..] {
            if let Some(rest) = node.name.strip_prefix(from) {
                node.name = format!("{to}{rest}");
            }
        }
    }

    /// What the network takes, where that is known only now.
    pub fn takes(&mut self, input: InputKind) {
        self.network.input = input;
    }

    /// The parameters of another network, by their ids.
    pub fn share(&mut self, parameters: &[Parameter]) {
        self.network.parameters = parameters.to_vec();
        let named = |(index, parameter): (usize, &Parameter)| (parameter.name.clone(), ParameterId(index));
        self.named = parameters.iter().enumerate().map(named).collect();
    }

    /// The operation that gives a value.
    pub fn operation(&self, value: ValueId) -> &Operation {
        &self.network.nodes[value.0].operation
    }

    /// What it takes.
    pub fn inputs(&self, value: ValueId) -> &[ValueId] {
        &self.network.nodes[value.0].inputs
    }

    /// A block of the stack, whose nodes are there.
    pub fn block(&mut self, block: Block) {
        self.network.blocks.push(block);
    }

    /// The network, which gives `output`.
    pub fn finish(mut self, output: ValueId) -> Network {
        self.network.output = output;
        self.network
    }
}
