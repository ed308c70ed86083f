//! Axes in another order. `J` is a permutation, `Jᵀ` the one that undoes it.

use super::{Described, only};
use crate::compute::{Backend, Real};
use crate::error::Result;
use crate::network::Array;
use crate::network::operation::{Kept, Operate, Place, Run, Shaped};

/// Axis k of what it gives is axis `axes[k]` of what it takes, the batch counted.
#[derive(Debug, Clone)]
pub struct Transpose {
    /// Every axis once.
    pub axes: Vec<usize>,
}

impl Shaped for Transpose {
    fn shape(&self, _: &[usize], inputs: &[&[usize]]) -> Described {
        let shape = only(inputs)?;
        let mut sorted = self.axes.clone();
        sorted.sort_unstable();
        if sorted.iter().copied().eq(0..shape.len()) {
            Ok(self.axes.iter().map(|&axis| shape[axis]).collect())
        } else {
            Err(format!("cannot put the axes of shape {shape:?} in the order {:?}", self.axes))
        }
    }
}

impl<B: Backend, T: Real> Operate<B, T> for Transpose {
    fn forward(&self, run: &Run<'_, B, T>, inputs: &[&Array<B, T>]) -> Result<(Array<B, T>, Kept<B, T>)> {
        Ok((inputs[0].permuted(run.backend, &self.axes)?, Kept::nothing()))
    }

    fn jvp(
        &self,
        run: &Run<'_, B, T>,
        _: &Place<'_, B, T>,
        tangents: &[Option<&Array<B, T>>],
    ) -> Result<Array<B, T>> {
        tangents[0].expect("the one input has a tangent").permuted(run.backend, &self.axes)
    }

    fn vjp(
        &self,
        run: &Run<'_, B, T>,
        _: &Place<'_, B, T>,
        cotangent: &Array<B, T>,
        _: &[bool],
    ) -> Result<Vec<Option<Array<B, T>>>> {
        let mut back = vec![0; self.axes.len()];
        for (to, &from) in self.axes.iter().enumerate() {
            back[from] = to;
        }
        Ok(vec![Some(cotangent.permuted(run.backend, &back)?)])
    }
}
