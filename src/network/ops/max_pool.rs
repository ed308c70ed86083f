//! The largest of the pixels under a window, channel by channel. `J` copies from where the largest stood, the first of
//! equals; `Jᵀ` adds back to there. Pixels outside of the image are -∞.

use super::conv2d::places;
use super::{Described, only};
use crate::compute::{Backend, Real, Window};
use crate::error::Result;
use crate::network::Array;
use crate::network::operation::{Kept, Operate, Place, Run, Shaped};

/// From `[batch, channels, length]` or `[batch, channels, height, width]` to fewer places. One window an axis.
#[derive(Debug, Clone)]
pub struct MaxPool {
    /// The window on each axis behind the channels: one or two of them.
    pub axes: Vec<MaxWindow>,
}

/// A window on one axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MaxWindow {
    /// Pixels of it.
    pub size: usize,
    /// Pixels from one place to the next.
    pub stride: usize,
    /// Pixels outside of the image on each side.
    pub padding: usize,
    /// Pixels from one pixel of the window to the next.
    pub dilation: usize,
}

impl MaxWindow {
    /// The window that an axis of one pixel has.
    const NONE: Self = Self { size: 1, stride: 1, padding: 0, dilation: 1 };

    fn places(&self, size: usize) -> std::result::Result<usize, String> {
        places(size, self.size, self.stride, [self.padding; 2], self.dilation)
    }
}

impl MaxPool {
    fn window(&self, shape: &[usize]) -> Window {
        let axes = match self.axes[..] {
            [width] => [MaxWindow::NONE, width],
            _ => [self.axes[0], self.axes[1]],
        };
        let size = if self.axes.len() == 1 { [1, shape[2]] } else { [shape[2], shape[3]] };
        let along = |axis: usize| axes[axis].places(size[axis]).expect("shapes were checked");
        Window {
            batch: shape[0],
            channels: shape[1],
            groups: shape[1],
            size,
            kernel: axes.map(|axis| axis.size),
            stride: axes.map(|axis| axis.stride),
            padding: axes.map(|axis| axis.padding),
            dilation: axes.map(|axis| axis.dilation),
            places: [along(0), along(1)],
        }
    }

    /// The chosen elements of x in the shape of the output.
    fn choose<B: Backend, T: Real>(
        run: &Run<'_, B, T>,
        window: &Window,
        chosen: &B::Index,
        patches: &B::Buffer<T>,
        output: &[usize],
    ) -> Result<Array<B, T>> {
        let by_channel = [window.channels, window.batch, window.places[0] * window.places[1]];
        let mut y = Array::room(run.backend, &by_channel)?;
        run.backend.gather(1, chosen, patches, &mut y.buffer)?;
        Ok(y.permuted(run.backend, &[1, 0, 2])?.reshaped(output))
    }
}

impl Shaped for MaxPool {
    fn shape(&self, _: &[usize], inputs: &[&[usize]]) -> Described {
        let shape = only(inputs)?;
        if !matches!(self.axes.len(), 1 | 2) || shape.len() != self.axes.len() + 2 {
            return Err(format!("takes batch × channels × {} axes, not shape {shape:?}", self.axes.len()));
        }
        let mut output = shape[..2].to_vec();
        for (axis, &size) in self.axes.iter().zip(&shape[2..]) {
            if 2 * axis.padding > axis.size {
                return Err("its padding is more than half of its window".to_owned());
            }
            output.push(axis.places(size)?);
        }
        Ok(output)
    }

    fn operations(&self, _: &[&[usize]], output: &[usize]) -> u64 {
        let window: usize = self.axes.iter().map(|axis| axis.size).product();
        (window * output.iter().product::<usize>()) as u64
    }
}

impl<B: Backend, T: Real> Operate<B, T> for MaxPool {
    fn forward(&self, run: &Run<'_, B, T>, inputs: &[&Array<B, T>]) -> Result<(Array<B, T>, Kept<B, T>)> {
        let window = self.window(&inputs[0].shape);
        let output = self.shape(&[], &[&inputs[0].shape]).expect("shapes were checked");
        let mut patches = run.backend.room(window.patch_length())?;
        run.backend.im2col(&window, T::from_f64(f64::NEG_INFINITY), &inputs[0].buffer, &mut patches)?;
        let chosen = run.backend.argmax(window.kernel[0] * window.kernel[1], &patches)?;
        let y = Self::choose(run, &window, &chosen, &patches, &output)?;
        Ok((y, Kept { arrays: Vec::new(), indices: vec![chosen] }))
    }

    fn jvp(
        &self,
        run: &Run<'_, B, T>,
        place: &Place<'_, B, T>,
        tangents: &[Option<&Array<B, T>>],
    ) -> Result<Array<B, T>> {
        let x = tangents[0].expect("the one input has a tangent");
        let window = self.window(&x.shape);
        let mut patches = run.backend.room(window.patch_length())?;
        run.backend.im2col(&window, T::zero(), &x.buffer, &mut patches)?;
        Self::choose(run, &window, &place.kept.indices[0], &patches, &place.output.shape)
    }

    fn vjp(
        &self,
        run: &Run<'_, B, T>,
        place: &Place<'_, B, T>,
        cotangent: &Array<B, T>,
        _: &[bool],
    ) -> Result<Vec<Option<Array<B, T>>>> {
        let shape = &place.inputs[0].shape;
        let window = self.window(shape);
        let sizes = [window.batch, window.channels, window.places[0] * window.places[1]];
        let mut u = run.backend.room(cotangent.length())?;
        run.backend.permute(&sizes, &[1, 0, 2], &cotangent.buffer, &mut u)?;
        let mut patches = run.backend.zeros(window.patch_length())?;
        run.backend.scatter_add(1, &place.kept.indices[0], &u, &mut patches)?;
        let mut x = Array::zeros(run.backend, shape)?;
        run.backend.col2im(&window, &patches, &mut x.buffer)?;
        Ok(vec![Some(x)])
    }
}
