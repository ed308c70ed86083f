//! A model as a list of operations, each with its forward pass, its Jacobian times a vector from either side, and the
//! gradient of its parameters.
//!
//! Written once over [`Backend`](crate::compute::Backend) and [`Real`](crate::compute::Real): a device needs kernels, not
//! operations. Never opens a file, never indexes an element of a buffer, never computes a spectrum.
//!
//! # How it is put together
//!
//! A [`Network`] is plain data without numbers: [`Node`]s in the order they are computed, each an [`Operation`] on the
//! values of earlier nodes. A [`ValueId`] is both the node and what it gives. Token ids are no value, since nothing can be
//! differentiated by them: the embedding is a node without inputs that reads them. Features are the value of an
//! [`Operation::Source`].
//!
//! ```text
//! builders / Assembly → Network + its tensors (Built)
//!                      ├─ Weights::load(tensors)         the numbers of some or all parameters, widened to T
//!                      └─ Tape::new(input)               activations
//!                          advance(weights, value)      computes up to a value, keeps what derivatives need
//!                          jvp / vjp(weights, segment)  J·x and Jᵀ·u from one value to another
//!                          parameter_gradient(…)        ∂⟨u, value⟩/∂parameter for every node on the tape
//!                          forget(value)                drops what lies before a value
//! ```
//!
//! Memory is bounded by a block when weights and tape roll together: load the nodes of a block, advance to its output, take
//! products, forget, unload.
//!
//! # Shapes
//!
//! Row-major. Sequences are `[batch, tokens, width]`, images `[batch, channels, height, width]`; the first axis is always
//! the batch. Sizes follow from the input alone ([`Network::shapes`] checks them before anything is computed).
//!
//! # Segments
//!
//! `∂to/∂from` with every value that does not depend on `from` held fixed; values in [`Segment::frozen`] are held fixed as
//! well. With the queries and keys of an attention frozen, what remains is its value path.
//!
//! # Adding an operation
//!
//! A file in `ops/` with a struct that holds sizes and [`ParameterId`]s, its mathematics in the module doc; `impl`
//! `Shaped` and `Operate` of `operation.rs`; its name in the list in `operation.rs`. The tests of
//! `ops/check.rs` hold it against its own finite differences and adjoint.

mod array;
mod assembly;
pub mod builders;
mod input;
mod operation;
mod ops;
mod recurrence;
mod tape;
mod weights;

pub use array::Array;
pub use assembly::Assembly;
pub use input::{Feed, Input, InputKind, Targets};
pub use operation::Operation;
pub use ops::*;
pub use recurrence::Recurrence;
pub use tape::Tape;
pub use weights::{Gradients, Weights};

/// Numbers of one value above it are not computed: 8 GiB in f32.
pub(crate) const MOST_NUMBERS: usize = 1 << 31;

/// Numbers of all values together, and of the largest matrix of a convolution's patches: 64 GiB in f32.
const MOST_OF_ALL: usize = 1 << 34;

/// A node, and the value that it gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ValueId(pub usize);

/// A parameter of a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ParameterId(pub usize);

/// A model: what is computed, in which order, from which parameters.
#[derive(Debug, Clone)]
pub struct Network {
    /// What it is, for people: `gpt2`, `llama`, `model.toml`.
    pub architecture: String,
    /// What it takes.
    pub input: InputKind,
    /// What is computed, in order: every input of a node lies before it.
    pub nodes: Vec<Node>,
    /// Its parameters.
    pub parameters: Vec<Parameter>,
    /// The stack of blocks, in forward order; each takes what the one before it gives.
    pub blocks: Vec<Block>,
    /// What it gives: logits, or the last hidden state.
    pub output: ValueId,
}

/// One operation on earlier values.
#[derive(Debug, Clone)]
pub struct Node {
    /// The name of the value that it gives: `h.0.attn.softmax`.
    pub name: String,
    /// What is done.
    pub operation: Operation,
    /// With which values.
    pub inputs: Vec<ValueId>,
}

/// Numbers that training changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parameter {
    /// Its name in the checkpoint.
    pub name: String,
    /// Its shape in the checkpoint.
    pub shape: Vec<usize>,
}

/// One block of a stack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// Its name: `h.0`.
    pub name: String,
    /// What it takes.
    pub input: ValueId,
    /// What it gives.
    pub output: ValueId,
    /// Its sub-layers.
    pub parts: Vec<Part>,
}

/// A sub-layer of a block, without the residual connection around it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Its name: `attention`, `mlp`.
    pub name: String,
    /// What it takes, before the norm in front of it where there is one.
    pub input: ValueId,
    /// What it gives, before it is added to the residual stream.
    pub output: ValueId,
    /// The values that softmax is taken of: queries and keys. Frozen, they leave the value path of an attention.
    pub logits_from: Vec<ValueId>,
}

/// From one value to another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// Where tangents enter.
    pub from: ValueId,
    /// Where they leave.
    pub to: ValueId,
    /// Values that are taken as constants on the way.
    pub frozen: Vec<ValueId>,
}

impl Segment {
    /// From one value to another, nothing frozen.
    pub const fn new(from: ValueId, to: ValueId) -> Self {
        Self { from, to, frozen: Vec::new() }
    }
}

impl Block {
    /// From its input to its output.
    pub const fn segment(&self) -> Segment {
        Segment::new(self.input, self.output)
    }
}

impl Network {
    /// What the stack of blocks takes; the first value where there are no blocks.
    pub fn entry(&self) -> ValueId {
        self.blocks.first().map_or(ValueId(0), |block| block.input)
    }

    /// What the stack of blocks gives; the output where there are no blocks.
    pub fn exit(&self) -> ValueId {
        self.blocks.last().map_or(self.output, |block| block.output)
    }

    /// The same network, which gives a loss of what it gave.
    #[must_use]
    pub fn with_loss(mut self, loss: impl Into<Operation>) -> Self {
        let (operation, inputs) = (loss.into(), vec![self.output]);
        self.nodes.push(Node { name: "loss".to_owned(), operation, inputs });
        self.output = ValueId(self.nodes.len() - 1);
        self
    }

    /// The same network without the loss that it ends in; itself where it ends in none.
    #[must_use]
    pub fn without_loss(mut self) -> Self {
        let is_last = self.output.0 + 1 == self.nodes.len();
        let loss = self.nodes.pop_if(|node| {
            is_last && matches!(node.operation, Operation::CrossEntropy(_) | Operation::MeanSquaredError(_))
        });
        if let Some(loss) = loss {
            self.output = loss.inputs[0];
        }
        self
    }

    /// The node that gives a value.
    pub fn node(&self, value: ValueId) -> &Node {
        &self.nodes[value.0]
    }

    /// The value of this name.
    pub fn value(&self, name: &str) -> Option<ValueId> {
        self.nodes.iter().position(|node| node.name == name).map(ValueId)
    }

    /// The parameters that the nodes behind `from`, up to `to`, need; each once, in order.
    pub fn parameters_between(&self, from: Option<ValueId>, to: ValueId) -> Vec<ParameterId> {
        let first = from.map_or(0, |from| from.0 + 1);
        let mut ids: Vec<ParameterId> =
            self.nodes[first..=to.0].iter().flat_map(|node| node.operation.shaped().parameters()).collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    /// The shape of every value for an input of this shape: `[batch, tokens]`, or that of the features.
    ///
    /// # Errors
    /// A sentence that names the first node that cannot take what it is given, or gives more numbers than are computed.
    pub fn shapes(&self, input: &[usize]) -> Result<Vec<Vec<usize>>, String> {
        self.input.check(input)?;
        let mut shapes: Vec<Vec<usize>> = Vec::with_capacity(self.nodes.len());
        let mut all = 0usize;
        for node in &self.nodes {
            let inputs: Vec<&[usize]> = node.inputs.iter().map(|value| shapes[value.0].as_slice()).collect();
            let shape = node.operation.shaped().shape(input, &inputs);
            let shape = shape.map_err(|message| format!("{}: {message}", node.name))?;
            let count = numbers(&shape).filter(|count| *count <= MOST_NUMBERS);
            let needed = count.and_then(|count| count.checked_add(patches(node, &shape)?));
            let within =
                needed.filter(|needed| all.checked_add(*needed).is_some_and(|all| all <= MOST_OF_ALL));
            let (Some(count), Some(_)) = (count, within) else {
                return Err(format!("{}: gives {shape:?}, which takes more memory than is used", node.name));
            };
            // Patches are laid out for one convolution at a time.
            all += count;
            shapes.push(shape);
        }
        Ok(shapes)
    }
}

/// The product of sizes, where it can be counted.
fn numbers(shape: &[usize]) -> Option<usize> {
    shape.iter().try_fold(1usize, |count, &size| count.checked_mul(size))
}

/// Numbers of the patches that a convolution lays out to give a value of this shape; 0 of other operations.
fn patches(node: &Node, shape: &[usize]) -> Option<usize> {
    let (inputs, taps) = match &node.operation {
        Operation::Conv1d(own) => (own.inputs, own.kernel),
        Operation::Conv2d(own) => (own.inputs, own.kernel[0].checked_mul(own.kernel[1])?),
        _ => return Some(0),
    };
    let places = numbers(shape.get(2..)?)?;
    numbers(&[inputs, taps, *shape.first()?, places])
}
