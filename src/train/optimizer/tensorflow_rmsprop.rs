//! `keras.optimizers.RMSprop`: `v ← ρ·v + (1-ρ)·g²` with ρ = 0.9, `w ← w - η·g/√(v + ε)` with ε = 1e-7 *under* the root; with momentum
//! `m ← μ·m + η·g/√(v + ε)`, `w ← w - m`. A weight decay is decoupled.

use super::tensorflow_sgd::decay;
use super::{Group, Settings, Step, each_with_one, each_with_two};

/// RMSprop as Keras has it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TensorFlowRmsProp {
    /// ρ.
    pub rho: f64,
    /// ε.
    pub epsilon: f64,
    /// μ.
    pub momentum: f64,
    /// λ.
    pub weight_decay: f64,
}

impl TensorFlowRmsProp {
    pub(super) fn new(settings: &Settings) -> Self {
        Self {
            rho: 0.9,
            epsilon: settings.epsilon.unwrap_or(1e-7),
            momentum: settings.momentum.unwrap_or(0.0),
            weight_decay: settings.weight_decay.unwrap_or(0.0),
        }
    }

    pub(super) const fn leaves(&self) -> &'static [&'static str] {
        if self.momentum == 0.0 { &["square_avg"] } else { &["square_avg", "velocity"] }
    }

    pub(super) fn written(&self) -> Group {
        Group {
            alpha: Some(self.rho),
            eps: Some(self.epsilon),
            momentum: Some(self.momentum),
            weight_decay: self.weight_decay,
            ..Group::default()
        }
    }

    pub(super) fn step(&self, step: Step<'_>) {
        let Step { learning_rate, weights, gradient, slots, .. } = step;
        let (rate, epsilon, momentum) = (learning_rate as f32, self.epsilon as f32, self.momentum as f32);
        let (rho, share) = (self.rho as f32, (1.0 - self.rho) as f32);
        let loss = decay(self.weight_decay, rate);
        let follow = move |square: &mut f32, gradient: f32| {
            *square = rho * *square + share * gradient * gradient;
            rate * gradient / (*square + epsilon).sqrt()
        };
        match slots {
            [square] => each_with_one(weights, gradient, square, |weight, gradient, square| {
                *weight -= *weight * loss;
                *weight -= follow(square, gradient);
            }),
            slots => each_with_two(weights, gradient, slots, |weight, gradient, square, velocity| {
                *weight -= *weight * loss;
                *velocity = momentum * *velocity + follow(square, gradient);
                *weight -= *velocity;
            }),
        }
    }
}
