//! A quantile followed by a geometric step, as in private federated learning: C ← C·exp(−η·(b − γ)), b = 1 where n ≤ C, else 0.
//!
//! Andrew, Thakkar, McMahan, Ramaswamy 2019 (arXiv:1905.03871), algorithm 1 without noise and with one norm a round: η = 0.2,
//! γ = 0.5, C₀ = 0.1. Reference: `QuantileEstimatorQuery` of TensorFlow Privacy, geometric update. γ = 0.5 clips half of the steps.

use serde::{Deserialize, Serialize};

/// The method and its constants.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct DpQuantile {
    /// C₀.
    pub initial: f64,
    /// η.
    pub rate: f64,
    /// γ: the share of norms at or below C that is aimed at.
    pub quantile: f64,
}

impl Default for DpQuantile {
    fn default() -> Self {
        Self { initial: 0.1, rate: 0.2, quantile: 0.5 }
    }
}

/// C, once there was a step.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct State {
    limit: Option<f64>,
}

impl DpQuantile {
    /// C as it stood before this step.
    pub fn threshold(&self, state: &mut State, norm: f64) -> f64 {
        let limit = state.limit.unwrap_or(self.initial);
        let below = if norm <= limit { 1.0 } else { 0.0 };
        state.limit = Some(limit * (-self.rate * (below - self.quantile)).exp());
        limit
    }
}
