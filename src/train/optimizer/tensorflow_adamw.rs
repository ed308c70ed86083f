//! `keras.optimizers.AdamW`: Keras's Adam with a decoupled weight decay of 0.004 by default, less than half of torch's.

use super::{Group, Settings, Step, TensorFlowAdam};

/// AdamW as Keras has it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TensorFlowAdamW {
    /// Moments, ε and λ.
    pub adam: TensorFlowAdam,
}

impl TensorFlowAdamW {
    pub(super) fn new(settings: &Settings) -> Self {
        let weight_decay = settings.weight_decay.unwrap_or(0.004);
        Self { adam: TensorFlowAdam { weight_decay, ..TensorFlowAdam::new(settings) } }
    }

    pub(super) fn written(&self) -> Group {
        self.adam.written()
    }

    pub(super) fn step(&self, step: Step<'_>) {
        self.adam.step(step);
    }
}
