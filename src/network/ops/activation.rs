//! A function of each element: `y = f(x)`, `J = diag f′(x)`.

use super::{Described, only};
use crate::compute::{Backend, Binary, Real, Unary};
use crate::error::Result;
use crate::network::Array;
use crate::network::operation::{Kept, Operate, Place, Run, Shaped};

/// From and to any shape.
#[derive(Debug, Clone, Copy)]
pub struct Activation {
    /// ReLU, GELU, SiLU, tanh, …
    pub function: Unary,
}

impl Shaped for Activation {
    fn shape(&self, _: &[usize], inputs: &[&[usize]]) -> Described {
        Ok(only(inputs)?.to_vec())
    }

    fn operations(&self, _: &[&[usize]], output: &[usize]) -> u64 {
        8 * output.iter().product::<usize>() as u64
    }
}

impl<B: Backend, T: Real> Operate<B, T> for Activation {
    fn forward(&self, run: &Run<'_, B, T>, inputs: &[&Array<B, T>]) -> Result<(Array<B, T>, Kept<B, T>)> {
        let mut y = Array::room(run.backend, &inputs[0].shape)?;
        let mut slope = Array::room(run.backend, &inputs[0].shape)?;
        run.backend.map(self.function, &inputs[0].buffer, &mut y.buffer, Some(&mut slope.buffer))?;
        Ok((y, Kept::arrays(vec![slope])))
    }

    fn jvp(
        &self,
        run: &Run<'_, B, T>,
        place: &Place<'_, B, T>,
        tangents: &[Option<&Array<B, T>>],
    ) -> Result<Array<B, T>> {
        times_slope(run, place, tangents[0].expect("the one input has a tangent"))
    }

    fn vjp(
        &self,
        run: &Run<'_, B, T>,
        place: &Place<'_, B, T>,
        cotangent: &Array<B, T>,
        _: &[bool],
    ) -> Result<Vec<Option<Array<B, T>>>> {
        Ok(vec![Some(times_slope(run, place, cotangent)?)])
    }
}

fn times_slope<B: Backend, T: Real>(
    run: &Run<'_, B, T>,
    place: &Place<'_, B, T>,
    x: &Array<B, T>,
) -> Result<Array<B, T>> {
    let mut y = Array::room(run.backend, &x.shape)?;
    run.backend.zip(Binary::Multiply, &place.kept.arrays[0].buffer, &x.buffer, &mut y.buffer)?;
    Ok(y)
}
