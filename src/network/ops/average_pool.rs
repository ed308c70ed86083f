//! Means over windows, channel by channel: of fixed size, or as many as are asked for (adaptive).
//!
//! A mean over a rectangle is one over its rows and one over its columns: `y = A·x·Bᵀ` for each channel, with a row of
//! weights for each place. `J` is the same map, `Jᵀ·u = Aᵀ·u·B`.

use super::conv2d::places;
use super::{Described, only};
use crate::compute::{Backend, Gemm, Real};
use crate::error::Result;
use crate::network::Array;
use crate::network::operation::{Kept, Operate, Place, Run, Shaped};

/// From `[batch, channels, length]` or `[batch, channels, height, width]` to fewer places. One window an axis.
#[derive(Debug, Clone)]
pub struct AveragePool {
    /// The window on each axis behind the channels: one or two of them.
    pub axes: Vec<AverageWindow>,
}

/// A window on one axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AverageWindow {
    /// One that moves.
    Fixed {
        /// Pixels of it.
        size: usize,
        /// Pixels from one place to the next.
        stride: usize,
        /// Zeros on each side of the image.
        padding: usize,
        /// Whether those zeros count as pixels.
        counts_padding: bool,
    },
    /// So many, place i from ⌊i·n/places⌋ to ⌈(i+1)·n/places⌉ of n pixels.
    Adaptive {
        /// How many.
        places: usize,
    },
}

impl AverageWindow {
    fn places(&self, size: usize) -> std::result::Result<usize, String> {
        match *self {
            Self::Fixed { size: taps, stride, padding, .. } => places(size, taps, stride, [padding; 2], 1),
            Self::Adaptive { places } => Ok(places),
        }
    }

    /// A row of weights for each place on an axis of this size.
    fn weights(&self, size: usize) -> Vec<f64> {
        let count = self.places(size).expect("shapes were checked");
        let mut weights = vec![0.0; count * size];
        for (place, row) in weights.chunks_exact_mut(size).enumerate() {
            let (range, divisor) = match *self {
                Self::Fixed { size: taps, stride, padding, counts_padding } => {
                    let end = (place * stride + taps).saturating_sub(padding).min(size);
                    let range = (place * stride).saturating_sub(padding).min(end)..end;
                    let divisor = if counts_padding { taps } else { range.len() };
                    (range, divisor)
                }
                Self::Adaptive { places } => {
                    let range = place * size / places..((place + 1) * size).div_ceil(places);
                    (range.clone(), range.len())
                }
            };
            row[range].fill(1.0 / divisor as f64);
        }
        weights
    }
}

impl AveragePool {
    /// Applies the weights of each axis, or their transposes, to x of this shape; the last axis first.
    fn apply<B: Backend, T: Real>(
        &self,
        run: &Run<'_, B, T>,
        x: Array<B, T>,
        image: &[usize],
        transposed: bool,
    ) -> Result<Array<B, T>> {
        let mut y = x;
        for (axis, window) in self.axes.iter().enumerate().rev() {
            let size = image[2 + axis];
            let weights = window.weights(size);
            let count = weights.len() / size;
            let weights = Array::upload(run.backend, &[count, size], &weights)?;
            // The axis comes last, for one product over all the others.
            let order: Vec<usize> = (0..y.shape.len()).filter(|&other| other != axis + 2).collect();
            let is_last = axis + 3 == y.shape.len();
            let rows = if is_last { y } else { y.permuted(run.backend, &[order, vec![axis + 2]].concat())? };
            y = multiply(run, &rows, &weights, transposed)?;
            if !is_last {
                // Only ever the axis before the last.
                y = y.permuted(run.backend, &[0, 1, 3, 2])?;
            }
        }
        Ok(y)
    }
}

/// `x·Aᵀ` for each row x, or `x·A`.
fn multiply<B: Backend, T: Real>(
    run: &Run<'_, B, T>,
    x: &Array<B, T>,
    weights: &Array<B, T>,
    transposed: bool,
) -> Result<Array<B, T>> {
    let (n, k) =
        if transposed { (weights.shape[1], weights.shape[0]) } else { (weights.shape[0], weights.shape[1]) };
    let mut y = Array::room(run.backend, &[&x.shape[..x.shape.len() - 1], &[n]].concat())?;
    let gemm = Gemm {
        batch: 1,
        m: x.rows(),
        n,
        k,
        transpose_a: false,
        transpose_b: !transposed,
        alpha: T::one(),
        beta: T::zero(),
    };
    run.backend.gemm(&gemm, &x.buffer, &weights.buffer, &mut y.buffer)?;
    Ok(y)
}

impl Shaped for AveragePool {
    fn shape(&self, _: &[usize], inputs: &[&[usize]]) -> Described {
        let shape = only(inputs)?;
        if !matches!(self.axes.len(), 1 | 2) || shape.len() != self.axes.len() + 2 {
            return Err(format!("takes batch × channels × {} axes, not shape {shape:?}", self.axes.len()));
        }
        let mut output = shape[..2].to_vec();
        for (axis, &size) in self.axes.iter().zip(&shape[2..]) {
            if matches!(axis, AverageWindow::Fixed { size, padding, .. } if 2 * padding > *size) {
                return Err("its padding is more than half of its window".to_owned());
            }
            output.push(axis.places(size)?);
        }
        Ok(output)
    }

    fn operations(&self, inputs: &[&[usize]], output: &[usize]) -> u64 {
        let size = inputs[0].last().copied().unwrap_or(1) as u64;
        2 * size * output.iter().product::<usize>() as u64
    }
}

impl<B: Backend, T: Real> Operate<B, T> for AveragePool {
    fn forward(&self, run: &Run<'_, B, T>, inputs: &[&Array<B, T>]) -> Result<(Array<B, T>, Kept<B, T>)> {
        let y = self.apply(run, inputs[0].copy(run.backend)?, &inputs[0].shape, false)?;
        Ok((y, Kept::nothing()))
    }

    fn jvp(
        &self,
        run: &Run<'_, B, T>,
        place: &Place<'_, B, T>,
        tangents: &[Option<&Array<B, T>>],
    ) -> Result<Array<B, T>> {
        let x = tangents[0].expect("the one input has a tangent").copy(run.backend)?;
        self.apply(run, x, &place.inputs[0].shape, false)
    }

    fn vjp(
        &self,
        run: &Run<'_, B, T>,
        place: &Place<'_, B, T>,
        cotangent: &Array<B, T>,
        _: &[bool],
    ) -> Result<Vec<Option<Array<B, T>>>> {
        let u = cotangent.copy(run.backend)?;
        Ok(vec![Some(self.apply(run, u, &place.inputs[0].shape, true)?)])
    }
}
