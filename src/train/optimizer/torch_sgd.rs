//! `torch.optim.SGD`: `b ← μ·b + g` (the first time `b ← g`), `w ← w - η·b`; a weight decay is added to g as `λ·w`.

use super::{Group, Settings, Step, each, each_with_one};

/// SGD as torch has it; no momentum by default.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TorchSgd {
    /// μ.
    pub momentum: f64,
    /// λ.
    pub weight_decay: f64,
}

impl TorchSgd {
    pub(super) fn new(settings: &Settings) -> Self {
        Self {
            momentum: settings.momentum.unwrap_or(0.0),
            weight_decay: settings.weight_decay.unwrap_or(0.0),
        }
    }

    pub(super) const fn leaves(&self) -> &'static [&'static str] {
        if self.momentum == 0.0 { &[] } else { &["momentum_buffer"] }
    }

    pub(super) fn written(&self) -> Group {
        Group { momentum: Some(self.momentum), weight_decay: self.weight_decay, ..Group::default() }
    }

    pub(super) fn step(&self, step: Step<'_>) {
        let Step { number, learning_rate, weights, gradient, slots } = step;
        let (rate, decay) = (learning_rate as f32, self.weight_decay as f32);
        let decayed =
            |gradient: f32, weight: f32| if decay == 0.0 { gradient } else { gradient + decay * weight };
        match slots {
            [] => each(weights, gradient, |weight, gradient| {
                *weight -= rate * decayed(gradient, *weight);
            }),
            [buffer, ..] => {
                let momentum = self.momentum as f32;
                each_with_one(weights, gradient, buffer, |weight, gradient, buffer| {
                    let gradient = decayed(gradient, *weight);
                    *buffer = if number == 1 { gradient } else { *buffer * momentum + gradient };
                    *weight -= rate * *buffer;
                });
            }
        }
    }
}
