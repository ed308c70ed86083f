//! The mean square distance from the targets: `L = 1/n·Σ (x - t)²` over n numbers, `∂L/∂x = 2·(x - t)/n`.

use super::{Described, only};
use crate::compute::{Backend, Binary, Real, Spread};
use crate::error::Result;
use crate::network::operation::{Kept, Operate, Place, Run, Shaped};
use crate::network::{Array, Targets};

/// From any shape to one number.
#[derive(Debug, Clone, Copy)]
pub struct MeanSquaredError;

impl Shaped for MeanSquaredError {
    fn shape(&self, _: &[usize], inputs: &[&[usize]]) -> Described {
        only(inputs).map(|_| vec![1])
    }
}

impl<B: Backend, T: Real> Operate<B, T> for MeanSquaredError {
    fn forward(&self, run: &Run<'_, B, T>, inputs: &[&Array<B, T>]) -> Result<(Array<B, T>, Kept<B, T>)> {
        let (backend, x) = (run.backend, inputs[0]);
        let Some(Targets::Values(values)) = &run.input.targets else {
            panic!("a network that ends in a square distance is given values");
        };
        let targets = Array::<B, T>::upload(backend, &x.shape, values)?;
        let count = x.length();
        let mut difference = Array::room(backend, &x.shape)?;
        backend.zip(Binary::Subtract, &x.buffer, &targets.buffer, &mut difference.buffer)?;
        let mut square = backend.room(count)?;
        backend.zip(Binary::Multiply, &difference.buffer, &difference.buffer, &mut square)?;
        let mut loss = Array::zeros(backend, &[1])?;
        backend.reduce(Spread::rows(1, count), &square, &mut loss.buffer)?;
        backend.scale(T::from_f64(1.0 / count as f64), &mut loss.buffer)?;
        backend.scale(T::from_f64(2.0 / count as f64), &mut difference.buffer)?;
        Ok((loss, Kept::arrays(vec![difference])))
    }

    fn jvp(
        &self,
        run: &Run<'_, B, T>,
        place: &Place<'_, B, T>,
        tangents: &[Option<&Array<B, T>>],
    ) -> Result<Array<B, T>> {
        super::along_gradient(run, place, tangents)
    }

    fn vjp(
        &self,
        run: &Run<'_, B, T>,
        place: &Place<'_, B, T>,
        cotangent: &Array<B, T>,
        _: &[bool],
    ) -> Result<Vec<Option<Array<B, T>>>> {
        super::times_gradient(run, place, cotangent)
    }
}
