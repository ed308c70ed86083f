//! `torch.optim.RMSprop`: `v ← α·v + (1-α)·g²` with α = 0.99, `w ← w - η·g/(√v + ε)` with ε = 1e-8 beside the root; with momentum
//! `b ← μ·b + g/(√v + ε)`, `w ← w - η·b`. A weight decay is added to g as `λ·w`.

use super::{Group, Settings, Step, each_with_one, each_with_two};

/// RMSprop as torch has it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TorchRmsProp {
    /// α.
    pub alpha: f64,
    /// ε.
    pub epsilon: f64,
    /// μ.
    pub momentum: f64,
    /// λ.
    pub weight_decay: f64,
}

impl TorchRmsProp {
    pub(super) fn new(settings: &Settings) -> Self {
        Self {
            alpha: 0.99,
            epsilon: settings.epsilon.unwrap_or(1e-8),
            momentum: settings.momentum.unwrap_or(0.0),
            weight_decay: settings.weight_decay.unwrap_or(0.0),
        }
    }

    pub(super) const fn leaves(&self) -> &'static [&'static str] {
        if self.momentum == 0.0 { &["square_avg"] } else { &["square_avg", "momentum_buffer"] }
    }

    pub(super) fn written(&self) -> Group {
        Group {
            alpha: Some(self.alpha),
            eps: Some(self.epsilon),
            momentum: Some(self.momentum),
            weight_decay: self.weight_decay,
            ..Group::default()
        }
    }

    pub(super) fn step(&self, step: Step<'_>) {
        let Step { learning_rate, weights, gradient, slots, .. } = step;
        let (rate, decay, epsilon) = (learning_rate as f32, self.weight_decay as f32, self.epsilon as f32);
        let (alpha, share, momentum) = (self.alpha as f32, (1.0 - self.alpha) as f32, self.momentum as f32);
        let decayed =
            |gradient: f32, weight: f32| if decay == 0.0 { gradient } else { gradient + decay * weight };
        let follow = move |square: &mut f32, gradient: f32| {
            *square = *square * alpha + share * gradient * gradient;
            square.sqrt() + epsilon
        };
        match slots {
            [square] => each_with_one(weights, gradient, square, |weight, gradient, square| {
                let gradient = decayed(gradient, *weight);
                *weight -= rate * gradient / follow(square, gradient);
            }),
            slots => each_with_two(weights, gradient, slots, |weight, gradient, square, buffer| {
                let gradient = decayed(gradient, *weight);
                *buffer = *buffer * momentum + gradient / follow(square, gradient);
                *weight -= rate * *buffer;
            }),
        }
    }
}
