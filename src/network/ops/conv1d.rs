//! Cross-correlation of signals with a kernel: [`Conv2d`] on images one pixel high.

use super::{Conv2d, Described, only};
use crate::compute::{Backend, Real, Window};
use crate::error::Result;
use crate::network::operation::{Kept, Operate, Place, Run, Shaped};
use crate::network::{Array, Gradients, ParameterId};

/// From `[batch, inputs, length]` to `[batch, outputs, …]`.
#[derive(Debug, Clone)]
pub struct Conv1d {
    /// Channels that it takes.
    pub inputs: usize,
    /// Channels that it gives.
    pub outputs: usize,
    /// Groups of channels that do not see each other; their number divides both.
    pub groups: usize,
    /// Samples of the kernel.
    pub kernel: usize,
    /// Samples from one place of the kernel to the next.
    pub stride: usize,
    /// Zeros before and behind the signal.
    pub padding: [usize; 2],
    /// Samples from one sample of the kernel to the next.
    pub dilation: usize,
    /// `outputs × inputs/groups × kernel`.
    pub weight: ParameterId,
    /// `outputs`.
    pub bias: Option<ParameterId>,
}

impl Conv1d {
    fn flat(&self) -> Conv2d {
        Conv2d {
            inputs: self.inputs,
            outputs: self.outputs,
            groups: self.groups,
            kernel: [1, self.kernel],
            stride: [1, self.stride],
            padding: [[0, 0], self.padding],
            dilation: [1, self.dilation],
            weight: self.weight,
            bias: self.bias,
        }
    }

    /// The window on signals of this shape, which was checked.
    fn checked(&self, shape: &[usize]) -> (Conv2d, Window) {
        let flat = self.flat();
        let window = flat.window(shape[0], [1, shape[2]]).expect("shapes were checked");
        (flat, window)
    }
}

impl Shaped for Conv1d {
    fn shape(&self, _: &[usize], inputs: &[&[usize]]) -> Described {
        match *only(inputs)? {
            [batch, channels, length] if channels == self.inputs => {
                let [_, places] = self.flat().window(batch, [1, length])?.places;
                Ok(vec![batch, self.outputs, places])
            }
            ref shape => Err(format!("takes batch × {} channels × length, not shape {shape:?}", self.inputs)),
        }
    }

    fn parameters(&self) -> Vec<ParameterId> {
        std::iter::once(self.weight).chain(self.bias).collect()
    }

    fn operations(&self, _: &[&[usize]], output: &[usize]) -> u64 {
        self.flat().products(output)
    }
}

impl<B: Backend, T: Real> Operate<B, T> for Conv1d {
    fn forward(&self, run: &Run<'_, B, T>, inputs: &[&Array<B, T>]) -> Result<(Array<B, T>, Kept<B, T>)> {
        let (flat, window) = self.checked(&inputs[0].shape);
        let mut buffer = flat.product(run, &window, &inputs[0].buffer)?;
        flat.shift(run, &window, &mut buffer)?;
        let shape = vec![window.batch, self.outputs, window.places[1]];
        Ok((Array { shape, buffer }, Kept::nothing()))
    }

    fn jvp(
        &self,
        run: &Run<'_, B, T>,
        place: &Place<'_, B, T>,
        tangents: &[Option<&Array<B, T>>],
    ) -> Result<Array<B, T>> {
        let x = tangents[0].expect("the one input has a tangent");
        let (flat, window) = self.checked(&x.shape);
        let buffer = flat.product(run, &window, &x.buffer)?;
        Ok(Array { shape: place.output.shape.clone(), buffer })
    }

    fn vjp(
        &self,
        run: &Run<'_, B, T>,
        place: &Place<'_, B, T>,
        cotangent: &Array<B, T>,
        _: &[bool],
    ) -> Result<Vec<Option<Array<B, T>>>> {
        let shape = place.inputs[0].shape.clone();
        let (flat, window) = self.checked(&shape);
        let buffer = flat.pull_back(run, &window, &cotangent.buffer)?;
        Ok(vec![Some(Array { shape, buffer })])
    }

    fn parameter_gradient(
        &self,
        run: &Run<'_, B, T>,
        place: &Place<'_, B, T>,
        cotangent: &Array<B, T>,
        gradients: &mut Gradients<B, T>,
    ) -> Result<()> {
        let x = place.inputs[0];
        let (flat, window) = self.checked(&x.shape);
        flat.gradient(run, &window, (&x.buffer, &cotangent.buffer), gradients)
    }
}
