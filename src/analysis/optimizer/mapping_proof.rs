//! I9: whether a state belongs to a tensor, proved by how the tensor moved.
//!
//! Between two checkpoints k steps apart, Δw is −η times the sum of k updates, the last of which is m/√v of the later
//! state, and the ones before are much like it: cos(Δw, −m/√v) is about 0.7·√(10/k) for the right pair and 0 ± 1/√n for
//! a wrong one. Measured over ten steps of six layers of one shape: at least 0.70 and at most 0.03.

use super::pass_over;
use crate::analysis::model::{Degenerate, Measured};
use crate::context::Context;
use crate::error::Result;
use crate::tensor::Tensor;

/// What a movement and a state amount to.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Alignment {
    /// Σ Δw·(−u).
    pub product: f64,
    /// ΣΔw².
    pub movement: f64,
    /// Σu².
    pub update: f64,
}

impl Alignment {
    /// Adds one element: its weight before and after, and the moments of the later state.
    pub fn add(&mut self, before: f64, after: f64, first: f64, second: f64) {
        if second <= 0.0
            || !second.is_finite()
            || !first.is_finite()
            || !before.is_finite()
            || !after.is_finite()
        {
            return;
        }
        let (movement, update) = (after - before, -first / second.sqrt());
        self.product += movement * update;
        self.movement += movement * movement;
        self.update += update * update;
    }

    /// cos(Δw, −m/√v).
    pub fn cosine(&self) -> Measured<f64> {
        if self.movement == 0.0 || self.update == 0.0 {
            return Measured::Degenerate(Degenerate::AllZero);
        }
        super::number(self.product / (self.movement.sqrt() * self.update.sqrt()))
    }
}

/// cos(Δw, −m/√v) of a tensor at two checkpoints and a state of the later one, all of one shape.
///
/// # Errors
/// A file that cannot be read.
pub fn cosine(
    before: &Tensor,
    after: &Tensor,
    first: &Tensor,
    second: &Tensor,
    context: &Context,
) -> Result<Measured<f64>> {
    if [after, first, second].iter().any(|tensor| tensor.shape != before.shape) {
        return Ok(Measured::not("shapes differ"));
    }
    let mut alignment = Alignment::default();
    let finished = pass_over([before, after, first, second], context, |[before, after, first, second]| {
        alignment.add(before, after, first, second);
    })?;
    Ok(if finished { alignment.cosine() } else { Measured::not(crate::analysis::statistics::STOPPED) })
}

#[cfg(test)]
mod tests {
    use super::super::simulation::{Adam, Noise};
    use super::*;

    #[test]
    fn the_right_state_is_told_from_others_of_its_shape() {
        const ELEMENTS: usize = 4096;
        const LAYERS: usize = 6;
        let mut noise = Noise::new(5);
        let mut states = vec![Adam::new(ELEMENTS, 0.9, 0.999); LAYERS];
        let mut weights = vec![vec![0.0; ELEMENTS]; LAYERS];
        let mut before = weights.clone();
        for step in 0..400 {
            if step == 390 {
                before.clone_from(&weights);
            }
            for (state, weights) in states.iter_mut().zip(&mut weights) {
                state.step(|_| noise.normal());
                for (weight, (m, v)) in weights.iter_mut().zip(state.first.iter().zip(&state.second)) {
                    *weight -= 1e-3 * f64::from(*m) / f64::from(*v).sqrt();
                }
            }
        }
        for (layer, (before, after)) in before.iter().zip(&weights).enumerate() {
            for (other, state) in states.iter().enumerate() {
                let mut alignment = Alignment::default();
                for i in 0..ELEMENTS {
                    alignment.add(before[i], after[i], state.first[i].into(), state.second[i].into());
                }
                let cosine = *alignment.cosine().value().unwrap();
                let expected = if layer == other { cosine >= 0.6 } else { cosine.abs() <= 0.1 };
                assert!(expected, "{layer} {other}: {cosine}");
            }
        }
    }

    #[test]
    fn what_did_not_move_has_no_direction() {
        assert_eq!(Alignment::default().cosine(), Measured::Degenerate(Degenerate::AllZero));
    }
}
