//! Update clipping (StableAdamW): the learning rate of a tensor is divided by max(1, RMS), RMS = √mean(g²/max(v, ε²)).
//!
//! Wortsman et al. 2023 (arXiv:2304.13013), after Adafactor; v already contains this step's gradient. Reference: `StableAdamW`
//! of pytorch-optimizer 4.1.0. It does not touch the gradient. Elements and second moments are needed.

use serde::{Deserialize, Serialize};

use crate::clip::gradient::Parameter;

/// The method and its constants.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct UpdateClipping {
    /// d: the RMS above which the step is shortened.
    pub limit: f64,
    /// ε of the optimizer.
    pub epsilon: f64,
}

impl Default for UpdateClipping {
    fn default() -> Self {
        Self { limit: 1.0, epsilon: 1e-8 }
    }
}

impl UpdateClipping {
    /// The factor of each tensor's learning rate; 1 for one without a second moment.
    pub fn factors(&self, parameters: &[Parameter<'_>]) -> Vec<f64> {
        parameters.iter().map(|parameter| self.factor(parameter)).collect()
    }

    fn factor(&self, parameter: &Parameter<'_>) -> f64 {
        let Some(second) = parameter.second_moment.filter(|second| !second.is_empty()) else { return 1.0 };
        let least = self.epsilon * self.epsilon;
        let ratio =
            |(gradient, second): (&f32, &f32)| f64::from(*gradient).powi(2) / f64::from(*second).max(least);
        let sum: f64 = parameter.gradient.iter().zip(second).map(ratio).sum();
        let rms = (sum / second.len() as f64).sqrt();
        1.0 / (rms / self.limit).max(1.0)
    }
}
