//! `y = x·Wᵀ + b` for each row x.
//!
//! `J·x = x·Wᵀ`, `Jᵀ·u = u·W`, `∂/∂W = uᵀ·x` and `∂/∂b = Σ u`, summed over rows. All rows are one matrix product. GPT-2's
//! `Conv1D` stores Wᵀ: [`Linear::transposed`].

use super::{Described, only};
use crate::compute::{Backend, Binary, Gemm, Real, Spread};
use crate::error::Result;
use crate::network::operation::{Kept, Operate, Place, Run, Shaped};
use crate::network::{Array, Gradients, ParameterId};

/// From `[…, inputs]` to `[…, outputs]`.
#[derive(Debug, Clone)]
pub struct Linear {
    /// Numbers of a row that it takes.
    pub inputs: usize,
    /// Numbers of a row that it gives.
    pub outputs: usize,
    /// `outputs × inputs`, or `inputs × outputs` where it is transposed.
    pub weight: ParameterId,
    /// `outputs`.
    pub bias: Option<ParameterId>,
    /// The weight is stored `inputs × outputs`.
    pub transposed: bool,
}

impl Shaped for Linear {
    fn shape(&self, _: &[usize], inputs: &[&[usize]]) -> Described {
        match only(inputs)?.split_last() {
            Some((&last, rest)) if last == self.inputs => Ok([rest, &[self.outputs]].concat()),
            _ => Err(format!("takes rows of {} numbers, not shape {:?}", self.inputs, inputs[0])),
        }
    }

    fn parameters(&self) -> Vec<ParameterId> {
        std::iter::once(self.weight).chain(self.bias).collect()
    }

    fn operations(&self, _: &[&[usize]], output: &[usize]) -> u64 {
        2 * self.inputs as u64 * output.iter().product::<usize>() as u64
    }
}

impl Linear {
    fn product<B: Backend, T: Real>(&self, run: &Run<'_, B, T>, x: &Array<B, T>) -> Result<Array<B, T>> {
        let shape = [&x.shape[..x.shape.len() - 1], &[self.outputs]].concat();
        let mut y = Array::room(run.backend, &shape)?;
        let gemm = Gemm {
            batch: 1,
            m: x.rows(),
            n: self.outputs,
            k: self.inputs,
            transpose_a: false,
            transpose_b: !self.transposed,
            alpha: T::one(),
            beta: T::zero(),
        };
        run.backend.gemm(&gemm, &x.buffer, &run.weights.get(self.weight).buffer, &mut y.buffer)?;
        Ok(y)
    }
}

impl<B: Backend, T: Real> Operate<B, T> for Linear {
    fn forward(&self, run: &Run<'_, B, T>, inputs: &[&Array<B, T>]) -> Result<(Array<B, T>, Kept<B, T>)> {
        let mut y = self.product(run, inputs[0])?;
        if let Some(bias) = self.bias {
            let bias = &run.weights.get(bias).buffer;
            run.backend.broadcast(Binary::Add, Spread::columns(self.outputs), bias, &mut y.buffer)?;
        }
        Ok((y, Kept::nothing()))
    }

    fn jvp(
        &self,
        run: &Run<'_, B, T>,
        _: &Place<'_, B, T>,
        tangents: &[Option<&Array<B, T>>],
    ) -> Result<Array<B, T>> {
        self.product(run, tangents[0].expect("the one input has a tangent"))
    }

    fn vjp(
        &self,
        run: &Run<'_, B, T>,
        place: &Place<'_, B, T>,
        cotangent: &Array<B, T>,
        _: &[bool],
    ) -> Result<Vec<Option<Array<B, T>>>> {
        let mut x = Array::room(run.backend, &place.inputs[0].shape)?;
        let gemm = Gemm {
            batch: 1,
            m: cotangent.rows(),
            n: self.inputs,
            k: self.outputs,
            transpose_a: false,
            transpose_b: self.transposed,
            alpha: T::one(),
            beta: T::zero(),
        };
        run.backend.gemm(&gemm, &cotangent.buffer, &run.weights.get(self.weight).buffer, &mut x.buffer)?;
        Ok(vec![Some(x)])
    }

    fn parameter_gradient(
        &self,
        run: &Run<'_, B, T>,
        place: &Place<'_, B, T>,
        cotangent: &Array<B, T>,
        gradients: &mut Gradients<B, T>,
    ) -> Result<()> {
        let x = place.inputs[0];
        let (m, n) = if self.transposed { (self.inputs, self.outputs) } else { (self.outputs, self.inputs) };
        let (left, right) = if self.transposed { (x, cotangent) } else { (cotangent, x) };
        let gemm = Gemm {
            batch: 1,
            m,
            n,
            k: x.rows(),
            transpose_a: true,
            transpose_b: false,
            alpha: T::one(),
            beta: T::one(),
        };
        let weight = gradients.of(run.backend, self.weight, &run.weights.get(self.weight).shape)?;
        run.backend.gemm(&gemm, &left.buffer, &right.buffer, &mut weight.buffer)?;
        if let Some(bias) = self.bias {
            let gradient = gradients.of(run.backend, bias, &[self.outputs])?;
            run.backend.reduce(Spread::columns(self.outputs), &cotangent.buffer, &mut gradient.buffer)?;
        }
        Ok(())
    }
}
