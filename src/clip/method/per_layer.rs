//! Clipping tensor by tensor: each by its own norm, to τ/√K for K tensors, or to τ·√(Dₗ/D) by their sizes.
//!
//! Reference: `per_example_layer_norm_clip` of optax, which has both. The norm of the whole stays at or below τ; the step is
//! turned towards the tensors that are not clipped. Norms of every tensor are enough to say what it does.

use serde::{Deserialize, Serialize};

use crate::clip::gradient::{Parameter, norm_of, scale};

/// How τ is shared out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Shares {
    /// Equal parts.
    Uniform,
    /// By the number of elements.
    BySize,
}

/// The method and its constants.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct PerLayer {
    /// τ of the whole gradient.
    pub threshold: f64,
    /// How it is shared out.
    pub shares: Shares,
}

impl PerLayer {
    /// The threshold of a tensor of `elements` of all `total`, one of `tensors`.
    pub fn of_one(&self, elements: u64, total: u64, tensors: usize) -> f64 {
        match self.shares {
            Shares::Uniform => self.threshold / (tensors as f64).sqrt(),
            Shares::BySize => self.threshold * (elements as f64 / total as f64).sqrt(),
        }
    }

    /// Clips every tensor.
    pub fn apply(&self, parameters: &mut [Parameter<'_>]) {
        let tensors = parameters.len();
        let total = parameters.iter().map(|parameter| parameter.gradient.len() as u64).sum();
        for parameter in parameters {
            let limit = self.of_one(parameter.gradient.len() as u64, total, tensors);
            let norm = norm_of(parameter.gradient);
            if norm > limit {
                scale(parameter.gradient, limit / norm);
            }
        }
    }
}
