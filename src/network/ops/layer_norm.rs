//! LayerNorm (Ba, Kiros, Hinton 2016): `y = g·h + b` with `h = (x - m)·r`, m the mean of a row and `r = 1/√(mean (x - m)² + ε)`.
//! RMSNorm (Zhang and Sennrich 2019) is the same without m.
//!
//! `∂h/∂x = r·(I - 11ᵀ/n - h·hᵀ/n)`, symmetric and exact with ε in it, without `11ᵀ/n` for RMSNorm; so
//! `J·x = g·(∂h/∂x·x)` and `Jᵀ·u = ∂h/∂x·(g·u)`. `∂/∂g = Σ u·h`, `∂/∂b = Σ u`.
//!
//! Rows may be parts of the last axis: norms of queries and keys are taken of each head.

use super::{Described, only};
use crate::compute::{Backend, Binary, Norm, Real, Spread};
use crate::error::Result;
use crate::network::operation::{Kept, Operate, Place, Run, Shaped};
use crate::network::{Array, Gradients, ParameterId};

/// From and to `[…, k·columns]`, each `columns` numbers a row of their own.
#[derive(Debug, Clone)]
pub struct LayerNorm {
    /// Numbers of a row.
    pub columns: usize,
    /// Whether the mean is taken away: not in RMSNorm.
    pub centred: bool,
    /// Added to the mean square before the root.
    pub epsilon: f64,
    /// `columns`.
    pub gain: Option<ParameterId>,
    /// `columns`.
    pub bias: Option<ParameterId>,
}

impl LayerNorm {
    fn norm(&self) -> Norm {
        Norm { columns: self.columns, centred: self.centred, epsilon: self.epsilon }
    }

    fn scale<B: Backend, T: Real>(&self, run: &Run<'_, B, T>, y: &mut Array<B, T>) -> Result<()> {
        let Some(gain) = self.gain else { return Ok(()) };
        let gain = &run.weights.get(gain).buffer;
        run.backend.broadcast(Binary::Multiply, Spread::columns(self.columns), gain, &mut y.buffer)
    }

    /// `∂h/∂x·x`.
    fn project<B: Backend, T: Real>(
        &self,
        run: &Run<'_, B, T>,
        place: &Place<'_, B, T>,
        x: &Array<B, T>,
    ) -> Result<Array<B, T>> {
        let [normal, inverse] = &place.kept.arrays[..] else { unreachable!("forward keeps two arrays") };
        let mut y = Array::room(run.backend, &x.shape)?;
        let (normal, inverse) = (&normal.buffer, &inverse.buffer);
        run.backend.normalize_product(self.norm(), normal, inverse, &x.buffer, &mut y.buffer)?;
        Ok(y)
    }
}

impl Shaped for LayerNorm {
    fn shape(&self, _: &[usize], inputs: &[&[usize]]) -> Described {
        let shape = only(inputs)?;
        match shape.last() {
            Some(last) if last.is_multiple_of(self.columns) => Ok(shape.to_vec()),
            _ => Err(format!("takes rows of {} numbers, not shape {shape:?}", self.columns)),
        }
    }

    fn parameters(&self) -> Vec<ParameterId> {
        self.gain.into_iter().chain(self.bias).collect()
    }

    fn operations(&self, _: &[&[usize]], output: &[usize]) -> u64 {
        8 * output.iter().product::<usize>() as u64
    }
}

impl<B: Backend, T: Real> Operate<B, T> for LayerNorm {
    fn forward(&self, run: &Run<'_, B, T>, inputs: &[&Array<B, T>]) -> Result<(Array<B, T>, Kept<B, T>)> {
        let mut normal = Array::room(run.backend, &inputs[0].shape)?;
        let mut inverse = Array::room(run.backend, &[inputs[0].length() / self.columns])?;
        run.backend.normalize(self.norm(), &inputs[0].buffer, &mut normal.buffer, &mut inverse.buffer)?;
        let mut y = normal.copy(run.backend)?;
        self.scale(run, &mut y)?;
        if let Some(bias) = self.bias {
            let bias = &run.weights.get(bias).buffer;
            run.backend.broadcast(Binary::Add, Spread::columns(self.columns), bias, &mut y.buffer)?;
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
        let columns = Spread::columns(self.columns);
        if let Some(gain) = self.gain {
            let mut product = run.backend.room(cotangent.length())?;
            let normal = &place.kept.arrays[0].buffer;
            run.backend.zip(Binary::Multiply, &cotangent.buffer, normal, &mut product)?;
            let gradient = gradients.of(run.backend, gain, &[self.columns])?;
            run.backend.reduce(columns, &product, &mut gradient.buffer)?;
        }
        if let Some(bias) = self.bias {
            let gradient = gradients.of(run.backend, bias, &[self.columns])?;
            run.backend.reduce(columns, &cotangent.buffer, &mut gradient.buffer)?;
        }
        Ok(())
    }
}
