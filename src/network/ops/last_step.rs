//! The last step of a sequence: what a recurrent network hands to its head. `J` cuts it out; `Jᵀ` puts it among zeros.

use super::{Described, backwards, only};
use crate::compute::{Backend, Real, Strip};
use crate::error::Result;
use crate::network::Array;
use crate::network::operation::{Kept, Operate, Place, Run, Shaped};

/// From `[batch, steps, width]` to `[batch, width]`.
#[derive(Debug, Clone, Copy)]
pub struct LastStep;

fn strip(shape: &[usize]) -> Strip {
    let (steps, width) = (shape[1], shape[2]);
    Strip {
        rows: shape[0],
        columns: width,
        from_width: steps * width,
        from: (steps - 1) * width,
        to_width: width,
        to: 0,
    }
}

fn cut<B: Backend, T: Real>(run: &Run<'_, B, T>, x: &Array<B, T>) -> Result<Array<B, T>> {
    let mut y = Array::room(run.backend, &[x.shape[0], x.shape[2]])?;
    run.backend.copy_strip(&strip(&x.shape), &x.buffer, &mut y.buffer)?;
    Ok(y)
}

impl Shaped for LastStep {
    fn shape(&self, _: &[usize], inputs: &[&[usize]]) -> Described {
        match only(inputs)? {
            &[batch, steps, width] if steps > 0 => Ok(vec![batch, width]),
            shape => Err(format!("takes batch × steps × width, not shape {shape:?}")),
        }
    }
}

impl<B: Backend, T: Real> Operate<B, T> for LastStep {
    fn forward(&self, run: &Run<'_, B, T>, inputs: &[&Array<B, T>]) -> Result<(Array<B, T>, Kept<B, T>)> {
        Ok((cut(run, inputs[0])?, Kept::nothing()))
    }

    fn jvp(
        &self,
        run: &Run<'_, B, T>,
        _: &Place<'_, B, T>,
        tangents: &[Option<&Array<B, T>>],
    ) -> Result<Array<B, T>> {
        cut(run, tangents[0].expect("the one input has a tangent"))
    }

    fn vjp(
        &self,
        run: &Run<'_, B, T>,
        place: &Place<'_, B, T>,
        cotangent: &Array<B, T>,
        _: &[bool],
    ) -> Result<Vec<Option<Array<B, T>>>> {
        let mut x = Array::zeros(run.backend, &place.inputs[0].shape)?;
        let strip = backwards(&strip(&x.shape));
        run.backend.copy_strip(&strip, &cotangent.buffer, &mut x.buffer)?;
        Ok(vec![Some(x)])
    }
}
