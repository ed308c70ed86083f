//! `keras.optimizers.Adam`: `w ← w - η·√(1-β₂ᵗ)/(1-β₁ᵗ)·m/(√v + ε)`. ε = 1e-7 stands beside the root that is *not* corrected (the "ε
//! hat" of the paper), so that early steps feel it more than torch's; powers of β are taken in f32. A weight decay is decoupled.

use super::tensorflow_sgd::decay;
use super::{Group, Settings, Step, each_with_two};

/// Adam as Keras has it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TensorFlowAdam {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second.
    pub beta2: f64,
    /// ε.
    pub epsilon: f64,
    /// λ.
    pub weight_decay: f64,
}

impl TensorFlowAdam {
    pub(super) fn new(settings: &Settings) -> Self {
        Self {
            beta1: 0.9,
            beta2: settings.beta2.unwrap_or(0.999),
            epsilon: settings.epsilon.unwrap_or(1e-7),
            weight_decay: settings.weight_decay.unwrap_or(0.0),
        }
    }

    pub(super) fn written(&self) -> Group {
        Group {
            betas: Some([self.beta1, self.beta2]),
            eps: Some(self.epsilon),
            weight_decay: self.weight_decay,
            ..Group::default()
        }
    }

    pub(super) fn step(&self, step: Step<'_>) {
        let Step { number, learning_rate, weights, gradient, slots } = step;
        let (number, rate) = (number as f32, learning_rate as f32);
        let power1 = (self.beta1 as f32).powf(number);
        let power2 = (self.beta2 as f32).powf(number);
        let alpha = rate * (1.0 - power2).sqrt() / (1.0 - power1);
        let (first_share, second_share) = ((1.0 - self.beta1) as f32, (1.0 - self.beta2) as f32);
        let (epsilon, loss) = (self.epsilon as f32, decay(self.weight_decay, rate));
        each_with_two(weights, gradient, slots, |weight, gradient, first, second| {
            *weight -= *weight * loss;
            *first += (gradient - *first) * first_share;
            *second += (gradient * gradient - *second) * second_share;
            *weight -= *first * alpha / (second.sqrt() + epsilon);
        });
    }
}
