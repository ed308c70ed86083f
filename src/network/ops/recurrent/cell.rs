//! One step of a recurrence, from an input and a state to the next state. Its Jacobian by the state is what Lyapunov exponents
//! are made of.

use super::CellKind;
use crate::compute::{Backend, Real};
use crate::error::Result;
use crate::network::operation::{Kept, Operate, Place, Run, Shaped};
use crate::network::{Array, Gradients, ParameterId};

/// From `[batch, inputs]` and `[batch, state]` to `[batch, state]`; the state of an LSTM is h, then c.
#[derive(Debug, Clone)]
pub struct RecurrentCell {
    /// What it computes.
    pub kind: CellKind,
    /// Numbers of an input.
    pub inputs: usize,
    /// Numbers of h.
    pub hidden: usize,
    /// W_ih, `gates·hidden × inputs`.
    pub input_weight: ParameterId,
    /// W_hh, `gates·hidden × hidden`.
    pub state_weight: ParameterId,
    /// b_ih.
    pub input_bias: Option<ParameterId>,
    /// b_hh.
    pub state_bias: Option<ParameterId>,
}

impl Shaped for RecurrentCell {
    fn shape(&self, _: &[usize], inputs: &[&[usize]]) -> super::super::Described {
        match inputs {
            &[&[batch, width], &[other, state]]
                if batch == other && width == self.inputs && state == self.state() =>
            {
                Ok(vec![batch, state])
            }
            _ => Err(format!(
                "takes batch × {} and a state of batch × {}, not shapes {inputs:?}",
                self.inputs,
                self.state()
            )),
        }
    }

    fn parameters(&self) -> Vec<ParameterId> {
        let weights = [self.input_weight, self.state_weight];
        weights.into_iter().chain(self.input_bias).chain(self.state_bias).collect()
    }

    fn operations(&self, _: &[&[usize]], output: &[usize]) -> u64 {
        self.products() * output[0] as u64
    }
}

impl RecurrentCell {
    /// Floating-point operations of one step.
    pub(super) const fn products(&self) -> u64 {
        2 * (self.kind.gates() * self.hidden * (self.inputs + self.hidden)) as u64
    }
}

impl<B: Backend, T: Real> Operate<B, T> for RecurrentCell {
    fn forward(&self, run: &Run<'_, B, T>, inputs: &[&Array<B, T>]) -> Result<(Array<B, T>, Kept<B, T>)> {
        let (state, kept) = self.advance(run, inputs[0], inputs[1])?;
        Ok((state, Kept::arrays(kept)))
    }

    fn jvp(
        &self,
        run: &Run<'_, B, T>,
        place: &Place<'_, B, T>,
        tangents: &[Option<&Array<B, T>>],
    ) -> Result<Array<B, T>> {
        self.push(run, &place.kept.arrays, tangents[0], tangents[1])
    }

    fn vjp(
        &self,
        run: &Run<'_, B, T>,
        place: &Place<'_, B, T>,
        cotangent: &Array<B, T>,
        wanted: &[bool],
    ) -> Result<Vec<Option<Array<B, T>>>> {
        let pulled = self.pull(run, &place.kept.arrays, cotangent)?;
        let input = wanted[0].then(|| self.input_cotangent(run, &pulled)).transpose()?;
        let state = wanted[1].then(|| self.state_cotangent(run, pulled)).transpose()?;
        Ok(vec![input, state])
    }

    fn parameter_gradient(
        &self,
        run: &Run<'_, B, T>,
        place: &Place<'_, B, T>,
        cotangent: &Array<B, T>,
        gradients: &mut Gradients<B, T>,
    ) -> Result<()> {
        let pulled = self.pull(run, &place.kept.arrays, cotangent)?;
        self.gradient(run, &pulled, (place.inputs[0], place.inputs[1]), gradients)
    }
}
