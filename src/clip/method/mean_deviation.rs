//! The mean of the last norms plus k standard deviations.
//!
//! As Levanter clips its updates (`ClipUpdateNorm`: 128 steps, k = 3, σ not below 1e-6, from 64 norms on; Marin's 32B run took
//! k = 2), here on the gradient norm. The history is of norms before clipping, so that the threshold cannot shrink to nothing.

use serde::{Deserialize, Serialize};

pub use super::window::Window as State;

/// σ is not below this.
const LEAST_DEVIATION: f64 = 1e-6;

/// The method and its constants.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct MeanDeviation {
    /// Norms that are looked back at.
    pub window: usize,
    /// k.
    pub deviations: f64,
}

impl Default for MeanDeviation {
    fn default() -> Self {
        Self { window: 128, deviations: 3.0 }
    }
}

impl MeanDeviation {
    /// Mean + kσ of the norms before this one; infinity before half a window of them.
    pub fn threshold(&self, state: &mut State, norm: f64) -> f64 {
        let limit = if state.len() >= (self.window / 2).max(2) {
            let (mean, deviation) = state.moments(0);
            mean + self.deviations * deviation.max(LEAST_DEVIATION)
        } else {
            f64::INFINITY
        };
        state.push(norm, self.window);
        limit
    }
}
