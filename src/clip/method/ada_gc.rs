//! AdaGC: each tensor against an exponential mean of its own clipped norms.
//!
//! Wang et al. 2025 (arXiv:2502.11034). For the first T steps every tensor is scaled by min(λ_abs/‖g‖, 1) of the whole gradient
//! and γ is the smallest norm that a tensor has had; from then on by min(λ_rel·γ/‖gₗ‖, 1), and γ follows the clipped norm with
//! weight 1−β. Reference: `AdaGC` of pytorch-optimizer 4.1.0, λ_rel 1.05, λ_abs 1, β 0.98, T 100, ε 1e-8. Norms of every tensor are
//! enough to say what it does.

use serde::{Deserialize, Serialize};

use crate::clip::gradient::{Parameter, norm_of, scale};

/// Added to, or the least of, what divides.
const EPSILON: f64 = 1e-8;

/// The method and its constants.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct AdaGc {
    /// λ_rel: how far above its mean a tensor's norm may be.
    pub relative: f64,
    /// λ_abs: the global norm of the first steps.
    pub absolute: f64,
    /// β: weight of what was in the mean.
    pub decay: f64,
    /// T: steps by the global norm, less one.
    pub warm_up: u64,
}

impl Default for AdaGc {
    fn default() -> Self {
        Self { relative: 1.05, absolute: 1.0, decay: 0.98, warm_up: 100 }
    }
}

/// Steps taken, and γ of every tensor.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct State {
    step: u64,
    means: Vec<f64>,
}

impl AdaGc {
    /// By what each tensor is multiplied at this step, from the norms of all of them.
    pub fn factors(&self, state: &mut State, norms: &[f64]) -> Vec<f64> {
        state.step += 1;
        let is_new = state.means.len() != norms.len();
        if is_new || state.step < self.warm_up {
            let whole = norms.iter().map(|norm| norm * norm).sum::<f64>().sqrt() + EPSILON;
            let factor = (self.absolute / whole).min(1.0);
            if is_new {
                state.means = norms.iter().map(|norm| norm * factor).collect();
            } else {
                let smaller = |(mean, norm): (&mut f64, &f64)| *mean = mean.min(norm * factor);
                state.means.iter_mut().zip(norms).for_each(smaller);
            }
            return vec![factor; norms.len()];
        }
        let one = |(mean, norm): (&mut f64, &f64)| {
            let factor = (self.relative * mean.max(EPSILON) / norm.max(EPSILON)).min(1.0);
            *mean += (1.0 - self.decay) * (norm * factor - *mean);
            factor
        };
        state.means.iter_mut().zip(norms).map(one).collect()
    }

    /// Clips every tensor.
    pub fn apply(&self, state: &mut State, parameters: &mut [Parameter<'_>]) {
        let norms: Vec<f64> = parameters.iter().map(|parameter| norm_of(parameter.gradient)).collect();
        for (parameter, factor) in parameters.iter_mut().zip(self.factors(state, &norms)) {
            if factor < 1.0 {
                scale(parameter.gradient, factor);
            }
        }
    }
}
