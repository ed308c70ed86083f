//! The operations, one a file: forward, Jacobian times vector from both sides, gradient of the parameters.

mod activation;
mod add;
mod attention;
mod average_pool;
mod batch_norm;
#[cfg(test)]
mod check;
mod concat;
mod conv1d;
mod conv2d;
mod cross_entropy;
mod embedding;
mod group_norm;
mod last_step;
mod layer_norm;
mod linear;
mod max_pool;
mod mean_squared_error;
mod multiply;
mod position_embedding;
mod recurrent;
mod reshape;
mod rotary;
mod scale;
mod slice;
mod softmax;
mod source;
mod transpose;

pub use activation::Activation;
pub use add::Add;
pub use attention::{Attention, Mask};
pub use average_pool::{AveragePool, AverageWindow};
pub use batch_norm::BatchNorm;
pub use concat::Concat;
pub use conv1d::Conv1d;
pub use conv2d::{Conv2d, same_padding};
pub use cross_entropy::CrossEntropy;
pub use embedding::Embedding;
pub use group_norm::GroupNorm;
pub use last_step::LastStep;
pub use layer_norm::LayerNorm;
pub use linear::Linear;
pub use max_pool::{MaxPool, MaxWindow};
pub use mean_squared_error::MeanSquaredError;
pub use multiply::Multiply;
pub use position_embedding::{PositionEmbedding, Rows};
pub use recurrent::{CellKind, RecurrentCell, RecurrentLayer};
pub use reshape::Reshape;
pub use rotary::Rotary;
pub use scale::Scale;
pub use slice::Slice;
pub use softmax::Softmax;
pub use source::Source;
pub use transpose::Transpose;

use super::Array;
use super::operation::{Place, Run};
use crate::compute::{Backend, Binary, Real, Spread, Strip};
use crate::error::Error;

/// A shape, or a sentence that says what does not fit.
type Described = Result<Vec<usize>, String>;

/// The one input of an operation that takes one.
fn only<'a>(inputs: &[&'a [usize]]) -> Result<&'a [usize], String> {
    match inputs {
        [input] => Ok(input),
        _ => Err(format!("takes one input, not {}", inputs.len())),
    }
}

/// The one shape of several inputs.
fn alike(inputs: &[&[usize]]) -> Described {
    match inputs {
        [first, rest @ ..] if rest.iter().all(|shape| shape == first) => Ok(first.to_vec()),
        _ => Err(format!("takes inputs of one shape, not {inputs:?}")),
    }
}

/// The strip that undoes a copy.
fn backwards(strip: &Strip) -> Strip {
    let Strip { rows, columns, from_width, from, to_width, to } = *strip;
    Strip { rows, columns, from_width: to_width, from: to, to_width: from_width, to: from }
}

/// `⟨∂L/∂x, x⟩` for a loss that keeps its gradient.
fn along_gradient<B: Backend, T: Real>(
    run: &Run<'_, B, T>,
    place: &Place<'_, B, T>,
    tangents: &[Option<&Array<B, T>>],
) -> Result<Array<B, T>, Error> {
    let tangent = tangents[0].expect("the one input has a tangent");
    let mut product = run.backend.room(tangent.length())?;
    run.backend.zip(Binary::Multiply, &place.kept.arrays[0].buffer, &tangent.buffer, &mut product)?;
    let mut sum = Array::zeros(run.backend, &[1])?;
    run.backend.reduce(Spread::rows(1, tangent.length()), &product, &mut sum.buffer)?;
    Ok(sum)
}

/// `∂L/∂x·u` for a loss that keeps its gradient.
fn times_gradient<B: Backend, T: Real>(
    run: &Run<'_, B, T>,
    place: &Place<'_, B, T>,
    cotangent: &Array<B, T>,
) -> Result<Vec<Option<Array<B, T>>>, Error> {
    let mut x = place.kept.arrays[0].copy(run.backend)?;
    let all = Spread::rows(1, x.length());
    run.backend.broadcast(Binary::Multiply, all, &cotangent.buffer, &mut x.buffer)?;
    Ok(vec![Some(x)])
}
