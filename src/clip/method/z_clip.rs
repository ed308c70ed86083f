//! ZClip: norms that stand out from an exponential mean and variance are clipped, the more the further out.
//!
//! Kumar, Owen, Chowdhury, Güra 2025 (arXiv:2504.02507). With z = (n − μ)/(σ + 1e-6) above z*, the norm is limited to
//! μ + z*·σ/(z/z*); μ and σ² then follow the limited norm, σ² by the new μ. The first 25 norms give μ and σ² as they are.
//! Reference: `zclip` 1.0.0, mode `zscore`, `adaptive_scaling`, whose own `max_grad_norm` of 1 is a fixed norm on top, with
//! what a fixed norm does to runs of another scale.

use serde::{Deserialize, Serialize};

/// Added to σ before it divides.
const EPSILON: f64 = 1e-6;

/// The method and its constants.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ZClip {
    /// Weight of what was in the exponential mean and variance.
    pub decay: f64,
    /// z*: from how many deviations on a norm is limited.
    pub z: f64,
    /// Norms that are looked at before any is limited.
    pub warm_up: usize,
    /// A fixed norm that no step may be above.
    pub max_norm: Option<f64>,
}

impl Default for ZClip {
    fn default() -> Self {
        Self { decay: 0.97, z: 2.5, warm_up: 25, max_norm: None }
    }
}

/// Norms of the warm-up, then mean and variance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum State {
    /// The norms so far.
    Collecting(Vec<f64>),
    /// Exponential moments.
    Following {
        /// μ.
        mean: f64,
        /// σ².
        variance: f64,
    },
}

impl Default for State {
    fn default() -> Self {
        State::Collecting(Vec::new())
    }
}

impl ZClip {
    /// What this step is limited to; infinity where it is not.
    pub fn threshold(&self, state: &mut State, norm: f64) -> f64 {
        let most = self.max_norm.unwrap_or(f64::INFINITY);
        match state {
            State::Collecting(norms) => {
                norms.push(norm);
                if norms.len() >= self.warm_up {
                    let count = norms.len() as f64;
                    let mean = norms.iter().sum::<f64>() / count;
                    let variance = norms.iter().map(|norm| (norm - mean).powi(2)).sum::<f64>() / count;
                    *state = State::Following { mean, variance };
                }
                most
            }
            State::Following { mean, variance } => {
                let deviation = variance.sqrt();
                let z = (norm - *mean) / (deviation + EPSILON);
                let limit =
                    if z > self.z { *mean + self.z * deviation / (z / self.z) } else { f64::INFINITY };
                let taken = norm.min(limit);
                *mean = self.decay * *mean + (1.0 - self.decay) * taken;
                *variance = self.decay * *variance + (1.0 - self.decay) * (taken - *mean).powi(2);
                limit.min(most)
            }
        }
    }
}
