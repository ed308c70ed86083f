//! The features that the network is given: the first value of a network that does not begin with token ids.

use super::Described;
use crate::compute::{Backend, Real};
use crate::error::Result;
use crate::network::Array;
use crate::network::operation::{Kept, Operate, Place, Run, Shaped};

/// Gives the input.
#[derive(Debug, Clone, Copy)]
pub struct Source;

impl Shaped for Source {
    fn shape(&self, input: &[usize], _inputs: &[&[usize]]) -> Described {
        Ok(input.to_vec())
    }
}

impl<B: Backend, T: Real> Operate<B, T> for Source {
    fn forward(&self, run: &Run<'_, B, T>, _: &[&Array<B, T>]) -> Result<(Array<B, T>, Kept<B, T>)> {
        let features = run.input.features.as_ref().expect("the network is given features");
        Ok((features.copy(run.backend)?, Kept::nothing()))
    }

    fn jvp(
        &self,
        run: &Run<'_, B, T>,
        place: &Place<'_, B, T>,
        _: &[Option<&Array<B, T>>],
    ) -> Result<Array<B, T>> {
        Array::zeros(run.backend, &place.output.shape)
    }

    fn vjp(
        &self,
        _: &Run<'_, B, T>,
        _: &Place<'_, B, T>,
        _: &Array<B, T>,
        _: &[bool],
    ) -> Result<Vec<Option<Array<B, T>>>> {
        Ok(Vec::new())
    }
}
