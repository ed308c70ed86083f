//! BatchNorm as it is evaluated, with the mean m and variance v of training: `y = g·(x - m)/√(v + ε) + β` for each channel
//! (Ioffe and Szegedy 2015). `J = diag g/√(v + ε)`: the network is affine here, whatever the batch.

use super::{Described, only};
use crate::compute::{Backend, Binary, Real, Spread};
use crate::error::Result;
use crate::network::operation::{Kept, Operate, Place, Run, Shaped};
use crate::network::{Array, Gradients, ParameterId};

/// From and to `[batch, channels, …]`.
#[derive(Debug, Clone)]
pub struct BatchNorm {
    /// Channels.
    pub channels: usize,
    /// Added to the variance.
    pub epsilon: f64,
    /// m, one a channel.
    pub mean: ParameterId,
    /// v, one a channel.
    pub variance: ParameterId,
    /// g.
    pub gain: Option<ParameterId>,
    /// β.
    pub bias: Option<ParameterId>,
}

impl BatchNorm {
    fn spread(&self, shape: &[usize]) -> Spread {
        Spread { count: self.channels, inner: shape[2..].iter().product() }
    }

    /// 1/√(v + ε).
    fn inverse<B: Backend, T: Real>(&self, run: &Run<'_, B, T>) -> Result<Array<B, T>> {
        let variance = run.backend.download(&run.weights.get(self.variance).buffer)?;
        let inverse: Vec<f64> =
            variance.into_iter().map(|v| 1.0 / (v.into() + self.epsilon).sqrt()).collect();
        Array::upload(run.backend, &[self.channels], &inverse)
    }

    /// `(x - m)/√(v + ε)`.
    fn normal<B: Backend, T: Real>(
        &self,
        run: &Run<'_, B, T>,
        x: &Array<B, T>,
        inverse: &Array<B, T>,
    ) -> Result<Array<B, T>> {
        let (mut y, spread) = (x.copy(run.backend)?, self.spread(&x.shape));
        let mean = &run.weights.get(self.mean).buffer;
        run.backend.broadcast(Binary::Subtract, spread, mean, &mut y.buffer)?;
        run.backend.broadcast(Binary::Multiply, spread, &inverse.buffer, &mut y.buffer)?;
        Ok(y)
    }

    /// `x·g`, in place.
    fn scale<B: Backend, T: Real>(&self, run: &Run<'_, B, T>, x: &mut Array<B, T>) -> Result<()> {
        match self.gain {
            None => Ok(()),
            Some(gain) => {
                let gain = &run.weights.get(gain).buffer;
                run.backend.broadcast(Binary::Multiply, self.spread(&x.shape), gain, &mut x.buffer)
            }
        }
    }

    /// `J·x`, which is `Jᵀ·x`.
    fn product<B: Backend, T: Real>(
        &self,
        run: &Run<'_, B, T>,
        place: &Place<'_, B, T>,
        x: &Array<B, T>,
    ) -> Result<Array<B, T>> {
        let mut y = x.copy(run.backend)?;
        let inverse = &place.kept.arrays[0].buffer;
        run.backend.broadcast(Binary::Multiply, self.spread(&x.shape), inverse, &mut y.buffer)?;
        self.scale(run, &mut y)?;
        Ok(y)
    }
}

impl Shaped for BatchNorm {
    fn shape(&self, _: &[usize], inputs: &[&[usize]]) -> Described {
        let shape = only(inputs)?;
        match shape {
            [_, channels, ..] if *channels == self.channels => Ok(shape.to_vec()),
            _ => Err(format!("takes batch × {} channels, not shape {shape:?}", self.channels)),
        }
    }

    fn parameters(&self) -> Vec<ParameterId> {
        [self.mean, self.variance].into_iter().chain(self.gain).chain(self.bias).collect()
    }

    fn operations(&self, _: &[&[usize]], output: &[usize]) -> u64 {
        4 * output.iter().product::<usize>() as u64
    }
}

impl<B: Backend, T: Real> Operate<B, T> for BatchNorm {
    fn forward(&self, run: &Run<'_, B, T>, inputs: &[&Array<B, T>]) -> Result<(Array<B, T>, Kept<B, T>)> {
        let inverse = self.inverse(run)?;
        let mut y = self.normal(run, inputs[0], &inverse)?;
        self.scale(run, &mut y)?;
        if let Some(bias) = self.bias {
            let bias = &run.weights.get(bias).buffer;
            run.backend.broadcast(Binary::Add, self.spread(&y.shape), bias, &mut y.buffer)?;
        }
        Ok((y, Kept::arrays(vec![inverse])))
    }

    fn jvp(
        &self,
        run: &Run<'_, B, T>,
        place: &Place<'_, B, T>,
        tangents: &[Option<&Array<B, T>>],
    ) -> Result<Array<B, T>> {
        self.product(run, place, tangents[0].expect("the one input has a tangent"))
    }

    fn vjp(
        &self,
        run: &Run<'_, B, T>,
        place: &Place<'_, B, T>,
        cotangent: &Array<B, T>,
        _: &[bool],
    ) -> Result<Vec<Option<Array<B, T>>>> {
        Ok(vec![Some(self.product(run, place, cotangent)?)])
    }

    /// Mean and variance are counted, not trained: they get none.
    fn parameter_gradient(
        &self,
        run: &Run<'_, B, T>,
        place: &Place<'_, B, T>,
        cotangent: &Array<B, T>,
        gradients: &mut Gradients<B, T>,
    ) -> Result<()> {
        let spread = self.spread(&cotangent.shape);
        if let Some(gain) = self.gain {
            let normal = self.normal(run, place.inputs[0], &place.kept.arrays[0])?;
            let mut product = run.backend.room(cotangent.length())?;
            run.backend.zip(Binary::Multiply, &cotangent.buffer, &normal.buffer, &mut product)?;
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
