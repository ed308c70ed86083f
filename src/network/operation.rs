//! What every operation can do, and the closed list of them.

use super::input::Targets;
use super::ops;
use super::{Array, Gradients, ParameterId, Weights};
use crate::compute::{Backend, Real};
use crate::error::Result;

/// Arrays and row numbers that a forward pass keeps for derivatives, beside the values themselves.
pub struct Kept<B: Backend, T: Real> {
    pub arrays: Vec<Array<B, T>>,
    pub indices: Vec<B::Index>,
}

impl<B: Backend, T: Real> Kept<B, T> {
    /// Nothing but the values.
    pub const fn nothing() -> Self {
        Self { arrays: Vec::new(), indices: Vec::new() }
    }

    pub const fn arrays(arrays: Vec<Array<B, T>>) -> Self {
        Self { arrays, indices: Vec::new() }
    }
}

/// What all nodes of a pass share.
pub struct Run<'a, B: Backend, T: Real> {
    pub backend: &'a B,
    pub weights: &'a Weights<B, T>,
    pub input: &'a Fed<B, T>,
}

/// The input on the device.
pub struct Fed<B: Backend, T: Real> {
    /// `[batch, tokens]`, or the shape of the features.
    pub shape: Vec<usize>,
    pub tokens: Option<B::Index>,
    pub features: Option<Array<B, T>>,
    pub targets: Option<Targets>,
}

/// A node that has been computed.
pub struct Place<'a, B: Backend, T: Real> {
    pub inputs: Vec<&'a Array<B, T>>,
    pub output: &'a Array<B, T>,
    pub kept: &'a Kept<B, T>,
}

/// What an operation says of itself without numbers.
pub trait Shaped {
    /// The shape of what it gives, for these shapes of what it takes; `input` is that of the network's input.
    ///
    /// # Errors
    /// A sentence that says what does not fit.
    fn shape(&self, input: &[usize], inputs: &[&[usize]]) -> std::result::Result<Vec<usize>, String>;

    /// The parameters that it needs.
    fn parameters(&self) -> Vec<ParameterId> {
        Vec::new()
    }

    /// Floating-point operations of one forward pass, roughly: a product with the Jacobian takes about as many for each
    /// input that matters.
    fn operations(&self, _inputs: &[&[usize]], output: &[usize]) -> u64 {
        output.iter().product::<usize>() as u64
    }
}

/// What an operation computes. Shapes were checked: a mismatch is a mistake in this crate, and panics.
pub trait Operate<B: Backend, T: Real>: Shaped {
    /// What it gives, and what derivatives need of it.
    fn forward(&self, run: &Run<'_, B, T>, inputs: &[&Array<B, T>]) -> Result<(Array<B, T>, Kept<B, T>)>;

    /// `Σᵢ Jᵢ·xᵢ` over the inputs that have a tangent; at least one has.
    fn jvp(
        &self,
        run: &Run<'_, B, T>,
        place: &Place<'_, B, T>,
        tangents: &[Option<&Array<B, T>>],
    ) -> Result<Array<B, T>>;

    /// `Jᵢᵀ·u` for the inputs that are wanted.
    fn vjp(
        &self,
        run: &Run<'_, B, T>,
        place: &Place<'_, B, T>,
        cotangent: &Array<B, T>,
        wanted: &[bool],
    ) -> Result<Vec<Option<Array<B, T>>>>;

    /// Adds `∂⟨u, output⟩/∂p` to the gradient of each of its parameters.
    fn parameter_gradient(
        &self,
        _run: &Run<'_, B, T>,
        _place: &Place<'_, B, T>,
        _cotangent: &Array<B, T>,
        _gradients: &mut Gradients<B, T>,
    ) -> Result<()> {
        Ok(())
    }
}

macro_rules! operations {
    ($($(#[$text:meta])* $name:ident),* $(,)?) => {
        /// One operation, with its sizes and parameters.
        #[derive(Debug, Clone)]
        pub enum Operation {
            $($(#[$text])* $name(ops::$name)),*
        }

        impl Operation {
            /// What it computes.
            pub fn operate<B: Backend, T: Real>(&self) -> &dyn Operate<B, T> {
                match self {
                    $(Self::$name(operation) => operation),*
                }
            }

            /// What it says of itself.
            pub fn shaped(&self) -> &dyn Shaped {
                match self {
                    $(Self::$name(operation) => operation),*
                }
            }

            /// Its name.
            pub const fn name(&self) -> &'static str {
                match self {
                    $(Self::$name(_) => stringify!($name)),*
                }
            }
        }

        $(impl From<ops::$name> for Operation {
            fn from(operation: ops::$name) -> Self {
                Self::$name(operation)
            }
        })*
    };
}

operations! {
    /// The features that the network is given.
    Source,
    /// `x·Wᵀ + b`.
    Linear,
    /// A row of a table for each token.
    Embedding,
    /// Rows of a table, by position, added to a sequence.
    PositionEmbedding,
    /// LayerNorm, or RMSNorm.
    LayerNorm,
    /// A function of each element.
    Activation,
    /// Softmax along the last axis.
    Softmax,
    /// Rotary position embedding.
    Rotary,
    /// Scaled dot-product attention.
    Attention,
    /// The sum of its inputs.
    Add,
    /// The product of two inputs, element by element.
    Multiply,
    /// A multiple of its input.
    Scale,
    /// BatchNorm with the statistics of training.
    BatchNorm,
    /// GroupNorm, or InstanceNorm.
    GroupNorm,
    /// The largest under a window.
    MaxPool,
    /// The mean under a window.
    AveragePool,
    /// One step of an RNN, LSTM or GRU.
    RecurrentCell,
    /// An RNN, LSTM or GRU over a sequence.
    RecurrentLayer,
    /// The last step of a sequence.
    LastStep,
    /// Convolution of signals.
    Conv1d,
    /// Convolution of images.
    Conv2d,
    /// Inputs behind each other along an axis.
    Concat,
    /// A part of its input along an axis.
    Slice,
    /// The same elements in another shape.
    Reshape,
    /// Axes in another order.
    Transpose,
    /// The mean negative log-likelihood of the targets' classes.
    CrossEntropy,
    /// The mean square distance from the targets.
    MeanSquaredError,
}
