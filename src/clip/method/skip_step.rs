//! Skipped steps: an update whose norm is more than six standard deviations from the mean of the last 128 is not applied.
//!
//! `SkipStepOptimizer` of OLMo-core, by its norms (it looks at the loss in the same way). σ is the sample's; from 64 norms on.

use serde::{Deserialize, Serialize};

pub use super::window::Window as State;

/// Norms, this one counted, before which no step is skipped, however short the window.
const FEWEST: usize = 20;

/// The method and its constants.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct SkipStep {
    /// Norms that are looked back at.
    pub window: usize,
    /// Deviations beyond which a step is skipped.
    pub deviations: f64,
}

impl Default for SkipStep {
    fn default() -> Self {
        Self { window: 128, deviations: 6.0 }
    }
}

impl SkipStep {
    /// 0 where the step is skipped, infinity where it is not.
    pub fn threshold(&self, state: &mut State, norm: f64) -> f64 {
        let enough = state.len() + 1 >= (self.window / 2).max(FEWEST);
        let (mean, deviation) = if enough { state.moments(1) } else { (0.0, f64::INFINITY) };
        state.push(norm, self.window);
        if (norm - mean).abs() > self.deviations * deviation { 0.0 } else { f64::INFINITY }
    }
}
