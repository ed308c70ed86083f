//! The same elements in another shape. `J = I`.

use super::{Described, only};
use crate::compute::{Backend, Real};
use crate::error::Result;
use crate::network::Array;
use crate::network::operation::{Kept, Operate, Place, Run, Shaped};

/// From any shape to another of as many elements; the batch stays the first axis.
#[derive(Debug, Clone)]
pub struct Reshape {
    /// The sizes behind the batch; one of them may be `None`, and follows from the others.
    pub shape: Vec<Option<usize>>,
}

impl Shaped for Reshape {
    fn shape(&self, _: &[usize], inputs: &[&[usize]]) -> Described {
        let from = only(inputs)?;
        let refuse =
            || Err(format!("cannot give shape {from:?} the sizes {:?} behind the batch", self.shape));
        let Some((&batch, rest)) = from.split_first() else { return refuse() };
        let (count, known) = (rest.iter().product::<usize>(), self.shape.iter().flatten().product::<usize>());
        let free = self.shape.iter().filter(|size| size.is_none()).count();
        let fits = known > 0 && count.is_multiple_of(known) && (free == 1 || (free == 0 && count == known));
        if !fits {
            return refuse();
        }
        let sizes = self.shape.iter().map(|size| size.unwrap_or(count / known));
        Ok(std::iter::once(batch).chain(sizes).collect())
    }
}

impl<B: Backend, T: Real> Operate<B, T> for Reshape {
    fn forward(&self, run: &Run<'_, B, T>, inputs: &[&Array<B, T>]) -> Result<(Array<B, T>, Kept<B, T>)> {
        let shape = self.shape(&[], &[&inputs[0].shape]).expect("shapes were checked");
        Ok((inputs[0].copy(run.backend)?.reshaped(&shape), Kept::nothing()))
    }

    fn jvp(
        &self,
        run: &Run<'_, B, T>,
        place: &Place<'_, B, T>,
        tangents: &[Option<&Array<B, T>>],
    ) -> Result<Array<B, T>> {
        let tangent = tangents[0].expect("the one input has a tangent");
        Ok(tangent.copy(run.backend)?.reshaped(&place.output.shape))
    }

    fn vjp(
        &self,
        run: &Run<'_, B, T>,
        place: &Place<'_, B, T>,
        cotangent: &Array<B, T>,
        _: &[bool],
    ) -> Result<Vec<Option<Array<B, T>>>> {
        Ok(vec![Some(cotangent.copy(run.backend)?.reshaped(&place.inputs[0].shape))])
    }
}
