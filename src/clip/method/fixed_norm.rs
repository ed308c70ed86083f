//! Clipping by the global norm to one constant: g·min(1, τ/(‖g‖ + 1e-6)).
//!
//! Pascanu, Mikolov, Bengio 2013 (arXiv:1211.5063), algorithm 1. Reference: `torch.nn.utils.clip_grad_norm_`, from which the
//! 1e-6 is. The direction of the step stays.

use serde::{Deserialize, Serialize};

/// τ of HF Trainer, nanoGPT and Megatron-LM, unless it is set.
pub const USUAL: f64 = 1.0;

/// The method and its constant.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct FixedNorm {
    /// τ, in units of the gradient norm.
    pub threshold: f64,
}

impl FixedNorm {
    /// τ, whatever the norm.
    pub fn threshold(&self, (): &mut (), _norm: f64) -> f64 {
        self.threshold
    }
}
