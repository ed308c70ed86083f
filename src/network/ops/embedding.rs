//! A row of a table for each token: `y[b, t] = E[id[b, t]]`.
//!
//! Ids are no numbers to differentiate by: the Jacobian begins at what this gives. `∂/∂E[id] = Σ u` over the tokens of that
//! id, in the order of tokens.

use super::Described;
use crate::compute::{Backend, Real};
use crate::error::Result;
use crate::network::operation::{Kept, Operate, Place, Run, Shaped};
use crate::network::{Array, Gradients, ParameterId};

/// From `[batch, tokens]` ids to `[batch, tokens, width]`.
#[derive(Debug, Clone)]
pub struct Embedding {
    /// Rows of the table.
    pub count: usize,
    /// Numbers of a row.
    pub width: usize,
    /// `count × width`.
    pub table: ParameterId,
}

impl Shaped for Embedding {
    fn shape(&self, input: &[usize], _: &[&[usize]]) -> Described {
        Ok([input, &[self.width]].concat())
    }

    fn parameters(&self) -> Vec<ParameterId> {
        vec![self.table]
    }
}

impl<B: Backend, T: Real> Operate<B, T> for Embedding {
    fn forward(&self, run: &Run<'_, B, T>, _: &[&Array<B, T>]) -> Result<(Array<B, T>, Kept<B, T>)> {
        let tokens = run.input.tokens.as_ref().expect("the network is given tokens");
        let mut y = Array::room(run.backend, &[&run.input.shape[..], &[self.width]].concat())?;
        let table = &run.weights.get(self.table).buffer;
        run.backend.gather(self.width, tokens, table, &mut y.buffer)?;
        Ok((y, Kept::nothing()))
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

    fn parameter_gradient(
        &self,
        run: &Run<'_, B, T>,
        _: &Place<'_, B, T>,
        cotangent: &Array<B, T>,
        gradients: &mut Gradients<B, T>,
    ) -> Result<()> {
        let tokens = run.input.tokens.as_ref().expect("the network is given tokens");
        let table = gradients.of(run.backend, self.table, &[self.count, self.width])?;
        run.backend.scatter_add(self.width, tokens, &cotangent.buffer, &mut table.buffer)
    }
}
