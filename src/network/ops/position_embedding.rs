//! Rows of a table added to a sequence, by position: `y[b, t] = x[b, t] + P[r(t)]`, with `r(t) = first + t` for learned
//! positions and one fixed row for the token type of a single sequence.
//!
//! The Jacobian is the identity. `∂/∂P[r] = Σ u` over the tokens of that row.

use super::{Described, only};
use crate::compute::{Backend, Binary, Real, Spread};
use crate::error::Result;
use crate::network::operation::{Kept, Operate, Place, Run, Shaped};
use crate::network::{Array, Gradients, ParameterId};

/// From and to `[batch, tokens, width]`.
#[derive(Debug, Clone)]
pub struct PositionEmbedding {
    /// Rows of the table.
    pub count: usize,
    /// Numbers of a row.
    pub width: usize,
    /// `count × width`.
    pub table: ParameterId,
    /// Which rows.
    pub rows: Rows,
}

/// Which rows of a table the tokens of a sequence get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rows {
    /// One after the other from this one on: 0, or 2 in RoBERTa.
    From(usize),
    /// This one, all of them.
    Always(usize),
}

impl PositionEmbedding {
    fn index(&self, tokens: usize) -> Vec<u32> {
        match self.rows {
            Rows::From(first) => (first..first + tokens).map(|row| row as u32).collect(),
            Rows::Always(row) => vec![row as u32; tokens],
        }
    }
}

impl Shaped for PositionEmbedding {
    fn shape(&self, _: &[usize], inputs: &[&[usize]]) -> Described {
        let shape = only(inputs)?;
        let &[_, tokens, width] = shape else {
            return Err(format!("takes batch × tokens × width, not shape {shape:?}"));
        };
        let last = match self.rows {
            Rows::From(first) => first + tokens,
            Rows::Always(row) => row + 1,
        };
        if width == self.width && last <= self.count {
            Ok(shape.to_vec())
        } else {
            Err(format!("{last} rows of {width} are needed, the table has {} of {}", self.count, self.width))
        }
    }

    fn parameters(&self) -> Vec<ParameterId> {
        vec![self.table]
    }
}

impl<B: Backend, T: Real> Operate<B, T> for PositionEmbedding {
    fn forward(&self, run: &Run<'_, B, T>, inputs: &[&Array<B, T>]) -> Result<(Array<B, T>, Kept<B, T>)> {
        let tokens = inputs[0].shape[1];
        let index = run.backend.index(&self.index(tokens))?;
        let mut rows = run.backend.room(tokens * self.width)?;
        run.backend.gather(self.width, &index, &run.weights.get(self.table).buffer, &mut rows)?;
        let mut y = inputs[0].copy(run.backend)?;
        run.backend.broadcast(Binary::Add, Spread::columns(tokens * self.width), &rows, &mut y.buffer)?;
        Ok((y, Kept { arrays: Vec::new(), indices: vec![index] }))
    }

    fn jvp(
        &self,
        run: &Run<'_, B, T>,
        _: &Place<'_, B, T>,
        tangents: &[Option<&Array<B, T>>],
    ) -> Result<Array<B, T>> {
        tangents[0].expect("the one input has a tangent").copy(run.backend)
    }

    fn vjp(
        &self,
        run: &Run<'_, B, T>,
        _: &Place<'_, B, T>,
        cotangent: &Array<B, T>,
        _: &[bool],
    ) -> Result<Vec<Option<Array<B, T>>>> {
        Ok(vec![Some(cotangent.copy(run.backend)?)])
    }

    fn parameter_gradient(
        &self,
        run: &Run<'_, B, T>,
        place: &Place<'_, B, T>,
        cotangent: &Array<B, T>,
        gradients: &mut Gradients<B, T>,
    ) -> Result<()> {
        let mut sum = run.backend.zeros(cotangent.shape[1] * self.width)?;
        run.backend.reduce(Spread::columns(cotangent.shape[1] * self.width), &cotangent.buffer, &mut sum)?;
        let table = gradients.of(run.backend, self.table, &[self.count, self.width])?;
        run.backend.scatter_add(self.width, &place.kept.indices[0], &sum, &mut table.buffer)
    }
}
