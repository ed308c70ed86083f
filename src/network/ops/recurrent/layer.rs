//! A recurrence over a whole sequence, from a state of zeros: the steps of a [`RecurrentCell`] one after the other.
//!
//! `J·x` goes along the steps, `Jᵀ·u` and the gradients of the parameters back through them (Werbos 1990).

use super::RecurrentCell;
use crate::compute::{Backend, Real, Strip};
use crate::error::Result;
use crate::network::operation::{Kept, Operate, Place, Run, Shaped};
use crate::network::{Array, Gradients, ParameterId};

/// From `[batch, steps, inputs]` to the h of every step, `[batch, steps, hidden]`.
#[derive(Debug, Clone)]
pub struct RecurrentLayer {
    /// One step.
    pub cell: RecurrentCell,
    /// The last step is taken first: the other direction of a bidirectional layer.
    pub reversed: bool,
}

impl RecurrentLayer {
    /// Steps in the order in which they are taken.
    fn order(&self, steps: usize) -> Box<dyn DoubleEndedIterator<Item = usize>> {
        if self.reversed { Box::new((0..steps).rev()) } else { Box::new(0..steps) }
    }

    /// What is kept of the n-th step that was taken: the state before it, and what its derivatives need.
    fn kept<'k, B: Backend, T: Real>(
        &self,
        kept: &'k Kept<B, T>,
        taken: usize,
    ) -> (&'k Array<B, T>, &'k [Array<B, T>]) {
        let count = 1 + self.cell.kind.kept();
        let (state, rest) = kept.arrays[taken * count..][..count].split_first().expect("a state comes first");
        (state, rest)
    }

    /// Goes back through all steps with the cotangents of their h, and hands each step what came through it.
    fn back<B: Backend, T: Real>(
        &self,
        run: &Run<'_, B, T>,
        place: &Place<'_, B, T>,
        cotangent: &Array<B, T>,
        mut use_step: impl FnMut(usize, &Array<B, T>, &super::Pulled<B, T>) -> Result<()>,
    ) -> Result<()> {
        let [batch, steps, _] = sizes(cotangent);
        let mut u = Array::zeros(run.backend, &[batch, self.cell.state()])?;
        for (taken, step) in self.order(steps).enumerate().collect::<Vec<_>>().into_iter().rev() {
            let own = cut(run, cotangent, step)?;
            let mut whole = Array::zeros(run.backend, &u.shape)?;
            run.backend.copy_strip(&self.cell.strip(batch, 0), &own.buffer, &mut whole.buffer)?;
            u.add(run.backend, &whole)?;
            let (state, kept) = self.kept(place.kept, taken);
            let pulled = self.cell.pull(run, kept, &u)?;
            use_step(step, state, &pulled)?;
            u = self.cell.state_cotangent(run, pulled)?;
        }
        Ok(())
    }
}

fn sizes<B: Backend, T: Real>(x: &Array<B, T>) -> [usize; 3] {
    [x.shape[0], x.shape[1], x.shape[2]]
}

/// Where a step lies in sequences.
const fn strip([batch, steps, width]: [usize; 3], step: usize) -> Strip {
    Strip {
        rows: batch,
        columns: width,
        from_width: steps * width,
        from: step * width,
        to_width: width,
        to: 0,
    }
}

/// One step of sequences, `[batch, width]`.
fn cut<B: Backend, T: Real>(run: &Run<'_, B, T>, x: &Array<B, T>, step: usize) -> Result<Array<B, T>> {
    let [batch, steps, width] = sizes(x);
    let mut y = Array::zeros(run.backend, &[batch, width])?;
    run.backend.copy_strip(&strip([batch, steps, width], step), &x.buffer, &mut y.buffer)?;
    Ok(y)
}

/// Puts one step into sequences.
fn put<B: Backend, T: Real>(
    run: &Run<'_, B, T>,
    y: &Array<B, T>,
    step: usize,
    x: &mut Array<B, T>,
) -> Result<()> {
    let strip = super::super::backwards(&strip(sizes(x), step));
    run.backend.copy_strip(&strip, &y.buffer, &mut x.buffer)
}

impl Shaped for RecurrentLayer {
    fn shape(&self, _: &[usize], inputs: &[&[usize]]) -> super::super::Described {
        match *super::super::only(inputs)? {
            [batch, steps, width] if width == self.cell.inputs && steps > 0 => {
                Ok(vec![batch, steps, self.cell.hidden])
            }
            ref shape => Err(format!("takes batch × steps × {}, not shape {shape:?}", self.cell.inputs)),
        }
    }

    fn parameters(&self) -> Vec<ParameterId> {
        self.cell.parameters()
    }

    fn operations(&self, _: &[&[usize]], output: &[usize]) -> u64 {
        self.cell.products() * (output[0] * output[1]) as u64
    }
}

impl<B: Backend, T: Real> Operate<B, T> for RecurrentLayer {
    fn forward(&self, run: &Run<'_, B, T>, inputs: &[&Array<B, T>]) -> Result<(Array<B, T>, Kept<B, T>)> {
        let [batch, steps, _] = sizes(inputs[0]);
        let mut y = Array::zeros(run.backend, &[batch, steps, self.cell.hidden])?;
        let mut state = Array::zeros(run.backend, &[batch, self.cell.state()])?;
        let mut arrays = Vec::with_capacity(steps * (1 + self.cell.kind.kept()));
        for step in self.order(steps) {
            let (next, kept) = self.cell.advance(run, &cut(run, inputs[0], step)?, &state)?;
            put(run, &self.cell.part(run, &next, 0)?, step, &mut y)?;
            arrays.push(std::mem::replace(&mut state, next));
            arrays.extend(kept);
        }
        Ok((y, Kept::arrays(arrays)))
    }

    fn jvp(
        &self,
        run: &Run<'_, B, T>,
        place: &Place<'_, B, T>,
        tangents: &[Option<&Array<B, T>>],
    ) -> Result<Array<B, T>> {
        let x = tangents[0].expect("the one input has a tangent");
        let mut y = Array::zeros(run.backend, &place.output.shape)?;
        let mut state = None;
        for (taken, step) in self.order(x.shape[1]).enumerate() {
            let (_, kept) = self.kept(place.kept, taken);
            let next = self.cell.push(run, kept, Some(&cut(run, x, step)?), state.as_ref())?;
            put(run, &self.cell.part(run, &next, 0)?, step, &mut y)?;
            state = Some(next);
        }
        Ok(y)
    }

    fn vjp(
        &self,
        run: &Run<'_, B, T>,
        place: &Place<'_, B, T>,
        cotangent: &Array<B, T>,
        _: &[bool],
    ) -> Result<Vec<Option<Array<B, T>>>> {
        let mut x = Array::zeros(run.backend, &place.inputs[0].shape)?;
        self.back(run, place, cotangent, |step, _, pulled| {
            put(run, &self.cell.input_cotangent(run, pulled)?, step, &mut x)
        })?;
        Ok(vec![Some(x)])
    }

    fn parameter_gradient(
        &self,
        run: &Run<'_, B, T>,
        place: &Place<'_, B, T>,
        cotangent: &Array<B, T>,
        gradients: &mut Gradients<B, T>,
    ) -> Result<()> {
        self.back(run, place, cotangent, |step, state, pulled| {
            self.cell.gradient(run, pulled, (&cut(run, place.inputs[0], step)?, state), gradients)
        })
    }
}
