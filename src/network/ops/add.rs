//! The sum of its inputs, which have one shape: residual connections. `J = I` for each of them.

use super::Described;
use crate::compute::{Backend, Real};
use crate::error::Result;
use crate::network::Array;
use crate::network::operation::{Kept, Operate, Place, Run, Shaped};

/// From several of one shape to that shape.
#[derive(Debug, Clone, Copy)]
pub struct Add;

impl Shaped for Add {
    fn shape(&self, _: &[usize], inputs: &[&[usize]]) -> Described {
        super::alike(inputs)
    }
}

impl<B: Backend, T: Real> Operate<B, T> for Add {
    fn forward(&self, run: &Run<'_, B, T>, inputs: &[&Array<B, T>]) -> Result<(Array<B, T>, Kept<B, T>)> {
        let mut sum = inputs[0].copy(run.backend)?;
        for input in &inputs[1..] {
            sum.add(run.backend, input)?;
        }
        Ok((sum, Kept::nothing()))
    }

    fn jvp(
        &self,
        run: &Run<'_, B, T>,
        _: &Place<'_, B, T>,
        tangents: &[Option<&Array<B, T>>],
    ) -> Result<Array<B, T>> {
        let mut tangents = tangents.iter().flatten();
        let mut sum = tangents.next().expect("an input has a tangent").copy(run.backend)?;
        for tangent in tangents {
            sum.add(run.backend, tangent)?;
        }
        Ok(sum)
    }

    fn vjp(
        &self,
        run: &Run<'_, B, T>,
        _: &Place<'_, B, T>,
        cotangent: &Array<B, T>,
        wanted: &[bool],
    ) -> Result<Vec<Option<Array<B, T>>>> {
        wanted.iter().map(|wanted| wanted.then(|| cotangent.copy(run.backend)).transpose()).collect()
    }
}
