//! A part of its input along an axis: one of the pieces of a split. `J` cuts it out; `Jᵀ` puts it back among zeros.

use std::ops::Range;

use super::{Described, only};
use crate::compute::{Backend, Real, Strip};
use crate::error::Result;
use crate::network::Array;
use crate::network::operation::{Kept, Operate, Place, Run, Shaped};

/// From a shape to the same with fewer places on one axis.
#[derive(Debug, Clone)]
pub struct Slice {
    /// The axis, counted from the batch.
    pub axis: usize,
    /// The places on it.
    pub places: Range<usize>,
}

impl Slice {
    fn strip(&self, whole: &[usize]) -> Strip {
        let inner: usize = whole[self.axis + 1..].iter().product();
        let columns = self.places.len() * inner;
        Strip {
            rows: whole[..self.axis].iter().product(),
            columns,
            from_width: whole[self.axis] * inner,
            from: self.places.start * inner,
            to_width: columns,
            to: 0,
        }
    }

    fn cut<B: Backend, T: Real>(&self, run: &Run<'_, B, T>, x: &Array<B, T>) -> Result<Array<B, T>> {
        let mut shape = x.shape.clone();
        shape[self.axis] = self.places.len();
        let mut y = Array::room(run.backend, &shape)?;
        run.backend.copy_strip(&self.strip(&x.shape), &x.buffer, &mut y.buffer)?;
        Ok(y)
    }
}

impl Shaped for Slice {
    fn shape(&self, _: &[usize], inputs: &[&[usize]]) -> Described {
        let mut shape = only(inputs)?.to_vec();
        match shape.get_mut(self.axis) {
            Some(size) if self.places.end <= *size && !self.places.is_empty() => *size = self.places.len(),
            _ => {
                return Err(format!(
                    "has no places {:?} on axis {} of shape {shape:?}",
                    self.places, self.axis
                ));
            }
        }
        Ok(shape)
    }
}

impl<B: Backend, T: Real> Operate<B, T> for Slice {
    fn forward(&self, run: &Run<'_, B, T>, inputs: &[&Array<B, T>]) -> Result<(Array<B, T>, Kept<B, T>)> {
        Ok((self.cut(run, inputs[0])?, Kept::nothing()))
    }

    fn jvp(
        &self,
        run: &Run<'_, B, T>,
        _: &Place<'_, B, T>,
        tangents: &[Option<&Array<B, T>>],
    ) -> Result<Array<B, T>> {
        self.cut(run, tangents[0].expect("the one input has a tangent"))
    }

    fn vjp(
        &self,
        run: &Run<'_, B, T>,
        place: &Place<'_, B, T>,
        cotangent: &Array<B, T>,
        _: &[bool],
    ) -> Result<Vec<Option<Array<B, T>>>> {
        let whole = &place.inputs[0].shape;
        let mut x = Array::zeros(run.backend, whole)?;
        run.backend.copy_strip(&super::backwards(&self.strip(whole)), &cotangent.buffer, &mut x.buffer)?;
        Ok(vec![Some(x)])
    }
}
