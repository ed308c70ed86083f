//! Softmax along the last axis: `p = exp(x - max x) / Σ exp(x - max x)`, `J = diag p - p·pᵀ`, symmetric.

use super::{Described, only};
use crate::compute::{Backend, Real};
use crate::error::Result;
use crate::network::Array;
use crate::network::operation::{Kept, Operate, Place, Run, Shaped};

/// From and to `[…, columns]`.
#[derive(Debug, Clone, Copy)]
pub struct Softmax;

impl Shaped for Softmax {
    fn shape(&self, _: &[usize], inputs: &[&[usize]]) -> Described {
        Ok(only(inputs)?.to_vec())
    }

    fn operations(&self, _: &[&[usize]], output: &[usize]) -> u64 {
        8 * output.iter().product::<usize>() as u64
    }
}

impl<B: Backend, T: Real> Operate<B, T> for Softmax {
    fn forward(&self, run: &Run<'_, B, T>, inputs: &[&Array<B, T>]) -> Result<(Array<B, T>, Kept<B, T>)> {
        let mut y = Array::room(run.backend, &inputs[0].shape)?;
        run.backend.softmax(y.columns(), false, &inputs[0].buffer, &mut y.buffer)?;
        Ok((y, Kept::nothing()))
    }

    fn jvp(
        &self,
        run: &Run<'_, B, T>,
        place: &Place<'_, B, T>,
        tangents: &[Option<&Array<B, T>>],
    ) -> Result<Array<B, T>> {
        product(run, place, tangents[0].expect("the one input has a tangent"))
    }

    fn vjp(
        &self,
        run: &Run<'_, B, T>,
        place: &Place<'_, B, T>,
        cotangent: &Array<B, T>,
        _: &[bool],
    ) -> Result<Vec<Option<Array<B, T>>>> {
        Ok(vec![Some(product(run, place, cotangent)?)])
    }
}

fn product<B: Backend, T: Real>(
    run: &Run<'_, B, T>,
    place: &Place<'_, B, T>,
    x: &Array<B, T>,
) -> Result<Array<B, T>> {
    let mut y = Array::room(run.backend, &x.shape)?;
    run.backend.softmax_product(x.columns(), &place.output.buffer, &x.buffer, &mut y.buffer)?;
    Ok(y)
}
