//! GroupNorm (Wu and He 2018): channels in groups, each group of each image normalised to mean 0 and variance 1, then a gain
//! and a shift for each channel. One channel a group is InstanceNorm, one group LayerNorm over the whole image.
//!
//! `J = diag g · (1/s)(I - 11ᵀ/n - ĥĥᵀ/n)` for each group of n numbers, with ĥ the normalised ones and s² their variance + ε:
//! the projection is symmetric, and so computed once for both sides.

use super::{Described, only};
use crate::compute::{Backend, Binary, Norm, Real, Spread};
use crate::error::Result;
use crate::network::operation::{Kept, Operate, Place, Run, Shaped};
use crate::network::{Array, Gradients, ParameterId};

/// From and to `[batch, channels, …]`.
#[derive(Debug, Clone)]
pub struct GroupNorm {
    /// Channels.
    pub channels: usize,
    /// Groups of them; their number divides that of the channels.
    pub groups: usize,
    /// Added to the variance.
    pub epsilon: f64,
    /// g, one a channel.
    pub gain: Option<ParameterId>,
    /// β, one a channel.
    pub bias: Option<ParameterId>,
}

impl GroupNorm {
    fn spread(&self, shape: &[usize]) -> Spread {
        Spread { count: self.channels, inner: shape[2..].iter().product() }
    }

    fn norm(&self, shape: &[usize]) -> Norm {
        let inner: usize = shape[2..].iter().product();
        Norm { columns: self.channels / self.groups * inner, centred: true, epsilon: self.epsilon }
    }

    fn scale<B: Backend, T: Real>(&self, run: &Run<'_, B, T>, x: &mut Array<B, T>) -> Result<()> {
        match self.gain {
            None => Ok(()),
            Some(gain) => {
                let gain = &run.weights.get(gain).buffer;
                run.backend.broadcast(Binary::Multiply, self.spread(&x.shape), gain, &mut x.buffer)
            }
        }
    }

    fn project<B: Backend, T: Real>(
        &self,
        run: &Run<'_, B, T>,
        place: &Place<'_, B, T>,
        x: &Array<B, T>,
    ) -> Result<Array<B, T>> {
        let [normal, inverse] = &place.kept.arrays[..] else { unreachable!("forward keeps two arrays") };
        let (normal, inverse) = (&normal.buffer, &inverse.buffer);
        let mut y = Array::room(run.backend, &x.shape)?;
        run.backend.normalize_product(self.norm(&x.shape), normal, inverse, &x.buffer, &mut y.buffer)?;
        Ok(y)
    }
}

impl Shaped for GroupNorm {
    fn shape(&self, _: &[usize], inputs: &[&[usize]]) -> Described {
        let shape = only(inputs)?;
        match shape {
            [_, channels, ..] if *channels == self.channels && channels.is_multiple_of(self.groups) => {
                Ok(shape.to_vec())
            }
            _ => Err(format!(
                "takes batch × {} channels in {} groups, not shape {shape:?}",
                self.channels, self.groups
            )),
        }
    }

    fn parameters(&self) -> Vec<ParameterId> {
        self.gain.into_iter().chain(self.bias).collect()
    }

    fn operations(&self, _: &[&[usize]], output: &[usize]) -> u64 {
        8 * output.iter().product::<usize>() as u64
    }
}

impl<B: Backend, T: Real> Operate<B, T> for GroupNorm {
    fn forward(&self, run: &Run<'_, B, T>, inputs: &[&Array<B, T>]) -> Result<(Array<B, T>, Kept<B, T>)> {
        let shape = &inputs[0].shape;
        let mut normal = Array::room(run.backend, shape)?;
        let mut inverse = Array::room(run.backend, &[shape[0] * self.groups])?;
        let x = &inputs[0].buffer;
        run.backend.normalize(self.norm(shape), x, &mut normal.buffer, &mut inverse.buffer)?;
        let mut y = normal.copy(run.backend)?;
        self.scale(run, &mut y)?;
        if let Some(bias) = self.bias {
            let bias = &run.weights.get(bias).buffer;
            run.backend.broadcast(Binary::Add, self.spread(shape), bias, &mut y.buffer)?;
        }
        Ok((y, Kept::arrays(vec![normal, inverse])))
    }

    fn jvp(
        &self,
        run: &Run<'_, B, T>,
        place: &Place<'_, B, T>,
        tangents: &[Option<&Array<B, T>>],
    ) -> Result<Array<B, T>> {
        let mut y = self.project(run, place, tangents[0].expect("the one input has a tangent"))?;
        self.scale(run, &mut y)?;
        Ok(y)
    }

    fn vjp(
        &self,
        run: &Run<'_, B, T>,
        place: &Place<'_, B, T>,
        cotangent: &Array<B, T>,
        _: &[bool],
    ) -> Result<Vec<Option<Array<B, T>>>> {
        let mut u = cotangent.copy(run.backend)?;
        self.scale(run, &mut u)?;
        Ok(vec![Some(self.project(run, place, &u)?)])
    }

    fn parameter_gradient(
        &self,
        run: &Run<'_, B, T>,
        place: &Place<'_, B, T>,
        cotangent: &Array<B, T>,
        gradients: &mut Gradients<B, T>,
    ) -> Result<()> {
        let spread = self.spread(&cotangent.shape);
        if let Some(gain) = self.gain {
            let mut product = run.backend.room(cotangent.length())?;
            let normal = &place.kept.arrays[0].buffer;
            run.backend.zip(Binary::Multiply, &cotangent.buffer, normal, &mut product)?;
            let gradient = gradients.of(run.backend, gain, &[self.channels])?;
            run.backend.reduce(spread, &product, &mut gradient.buffer)?;
        }
        if let Some(bias) = self.bias {
            let gradient = gradients.of(run.backend, bias, &[self.channels])?;
            run.backend.reduce(spread, &cotangent.buffer, &mut gradient.buffer)?;
        }
        Ok(())
    }
}
