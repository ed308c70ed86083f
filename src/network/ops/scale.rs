//! A multiple of its input: `y = a·x`, `J = a·I`.

use super::{Described, only};
use crate::compute::{Backend, Real};
use crate::error::Result;
use crate::network::Array;
use crate::network::operation::{Kept, Operate, Place, Run, Shaped};

/// From and to any shape.
#[derive(Debug, Clone, Copy)]
pub struct Scale {
    /// What every element is multiplied by.
    pub factor: f64,
}

impl Scale {
    fn times<B: Backend, T: Real>(self, run: &Run<'_, B, T>, x: &Array<B, T>) -> Result<Array<B, T>> {
        let mut y = x.copy(run.backend)?;
        run.backend.scale(T::from_f64(self.factor), &mut y.buffer)?;
        Ok(y)
    }
}

impl Shaped for Scale {
    fn shape(&self, _: &[usize], inputs: &[&[usize]]) -> Described {
        Ok(only(inputs)?.to_vec())
    }
}

impl<B: Backend, T: Real> Operate<B, T> for Scale {
    fn forward(&self, run: &Run<'_, B, T>, inputs: &[&Array<B, T>]) -> Result<(Array<B, T>, Kept<B, T>)> {
        Ok((self.times(run, inputs[0])?, Kept::nothing()))
    }

    fn jvp(
        &self,
        run: &Run<'_, B, T>,
        _: &Place<'_, B, T>,
        tangents: &[Option<&Array<B, T>>],
    ) -> Result<Array<B, T>> {
        self.times(run, tangents[0].expect("the one input has a tangent"))
    }

    fn vjp(
        &self,
        run: &Run<'_, B, T>,
        _: &Place<'_, B, T>,
        cotangent: &Array<B, T>,
        _: &[bool],
    ) -> Result<Vec<Option<Array<B, T>>>> {
        Ok(vec![Some(self.times(run, cotangent)?)])
    }
}
