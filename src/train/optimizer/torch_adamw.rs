//! `torch.optim.AdamW` (Loshchilov and Hutter 2019, arXiv:1711.05101): `w ← w·(1 - η·λ)`, then a step of Adam without a penalty.
//! λ = 0.01 by default.

use super::{Group, Settings, Step, TorchAdam};

/// AdamW as torch has it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TorchAdamW {
    /// Moments, ε and λ.
    pub adam: TorchAdam,
}

impl TorchAdamW {
    pub(super) fn new(settings: &Settings) -> Self {
        let weight_decay = settings.weight_decay.unwrap_or(0.01);
        Self { adam: TorchAdam { weight_decay, ..TorchAdam::new(settings) } }
    }

    pub(super) fn written(&self) -> Group {
        self.adam.written()
    }

    pub(super) fn step(&self, step: Step<'_>) {
        let shrink = (1.0 - step.learning_rate * self.adam.weight_decay) as f32;
        self.adam.take(step, shrink, |_| 0.0);
    }
}
