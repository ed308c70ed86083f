//! Inputs behind each other along an axis. `J` places each; `Jᵀ` cuts it out again.

use super::Described;
use crate::compute::{Backend, Real, Strip};
use crate::error::Result;
use crate::network::Array;
use crate::network::operation::{Kept, Operate, Place, Run, Shaped};

/// From several shapes that differ on one axis to their sum there.
#[derive(Debug, Clone, Copy)]
pub struct Concat {
    /// The axis, counted from the batch.
    pub axis: usize,
}

impl Concat {
    /// Where each of `shapes` lies in the whole.
    fn strips(self, shapes: &[&[usize]], whole: &[usize]) -> Vec<Strip> {
        let rows = whole[..self.axis].iter().product();
        let to_width = whole[self.axis..].iter().product();
        let mut to = 0;
        let strip = |shape: &&[usize]| {
            let columns: usize = shape[self.axis..].iter().product();
            to += columns;
            Strip { rows, columns, from_width: columns, from: 0, to_width, to: to - columns }
        };
        shapes.iter().map(strip).collect()
    }
}

impl Shaped for Concat {
    fn shape(&self, _: &[usize], inputs: &[&[usize]]) -> Described {
        let Some(first) = inputs.first().filter(|first| self.axis < first.len()) else {
            return Err(format!("has no axis {} to put inputs together on", self.axis));
        };
        let mut whole = first.to_vec();
        whole[self.axis] = 0;
        for shape in inputs {
            let others =
                |shape: &[usize]| (shape.len(), shape[..self.axis].to_vec(), shape[self.axis + 1..].to_vec());
            if shape.len() != first.len() || others(shape) != others(first) {
                return Err(format!("cannot put shapes {first:?} and {shape:?} together"));
            }
            whole[self.axis] += shape[self.axis];
        }
        Ok(whole)
    }
}

impl<B: Backend, T: Real> Operate<B, T> for Concat {
    fn forward(&self, run: &Run<'_, B, T>, inputs: &[&Array<B, T>]) -> Result<(Array<B, T>, Kept<B, T>)> {
        let shapes: Vec<&[usize]> = inputs.iter().map(|input| input.shape.as_slice()).collect();
        let whole = self.shape(&[], &shapes).expect("shapes were checked");
        let mut y = Array::room(run.backend, &whole)?;
        for (strip, input) in self.strips(&shapes, &whole).iter().zip(inputs) {
            run.backend.copy_strip(strip, &input.buffer, &mut y.buffer)?;
        }
        Ok((y, Kept::nothing()))
    }

    fn jvp(
        &self,
        run: &Run<'_, B, T>,
        place: &Place<'_, B, T>,
        tangents: &[Option<&Array<B, T>>],
    ) -> Result<Array<B, T>> {
        let shapes: Vec<&[usize]> = place.inputs.iter().map(|input| input.shape.as_slice()).collect();
        let mut y = Array::zeros(run.backend, &place.output.shape)?;
        for (strip, tangent) in self.strips(&shapes, &place.output.shape).iter().zip(tangents) {
            if let Some(tangent) = tangent {
                run.backend.copy_strip(strip, &tangent.buffer, &mut y.buffer)?;
            }
        }
        Ok(y)
    }

    fn vjp(
        &self,
        run: &Run<'_, B, T>,
        place: &Place<'_, B, T>,
        cotangent: &Array<B, T>,
        wanted: &[bool],
    ) -> Result<Vec<Option<Array<B, T>>>> {
        let shapes: Vec<&[usize]> = place.inputs.iter().map(|input| input.shape.as_slice()).collect();
        let strips = self.strips(&shapes, &place.output.shape);
        let cut = |strip: &Strip, shape: &[usize]| {
            let mut x = Array::room(run.backend, shape)?;
            run.backend.copy_strip(&super::backwards(strip), &cotangent.buffer, &mut x.buffer)?;
            Ok(x)
        };
        let parts = strips.iter().zip(shapes).zip(wanted);
        parts.map(|((strip, shape), wanted)| wanted.then(|| cut(strip, shape)).transpose()).collect()
    }
}
