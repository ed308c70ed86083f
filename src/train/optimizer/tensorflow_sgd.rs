//! `keras.optimizers.SGD`: `m ← μ·m - η·g`, `w ← w + m`. The learning rate is in the buffer: a change of it takes effect with the
//! momentum's delay, where torch's takes effect at once. A weight decay is decoupled.

use super::{Group, Settings, Step, each, each_with_one};

/// SGD as Keras has it; no momentum by default.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TensorFlowSgd {
    /// μ.
    pub momentum: f64,
    /// λ.
    pub weight_decay: f64,
}

impl TensorFlowSgd {
    pub(super) fn new(settings: &Settings) -> Self {
        Self {
            momentum: settings.momentum.unwrap_or(0.0),
            weight_decay: settings.weight_decay.unwrap_or(0.0),
        }
    }

    pub(super) const fn leaves(&self) -> &'static [&'static str] {
        // Not `momentum_buffer`: what that holds is not multiplied by a learning rate.
        if self.momentum == 0.0 { &[] } else { &["velocity"] }
    }

    pub(super) fn written(&self) -> Group {
        Group { momentum: Some(self.momentum), weight_decay: self.weight_decay, ..Group::default() }
    }

    pub(super) fn step(&self, step: Step<'_>) {
        let Step { learning_rate, weights, gradient, slots, .. } = step;
        let rate = learning_rate as f32;
        let loss = decay(self.weight_decay, rate);
        match slots {
            [] => each(weights, gradient, |weight, gradient| {
                *weight -= *weight * loss;
                *weight -= gradient * rate;
            }),
            [velocity, ..] => {
                let momentum = self.momentum as f32;
                each_with_one(weights, gradient, velocity, |weight, gradient, velocity| {
                    *weight -= *weight * loss;
                    *velocity = *velocity * momentum - gradient * rate;
                    *weight += *velocity;
                });
            }
        }
    }
}

/// The share of each weight that Keras takes away before a step.
pub(super) fn decay(weight_decay: f64, rate: f32) -> f32 {
    weight_decay as f32 * rate
}
