//! `torch.optim.Adam` (Kingma and Ba 2015, arXiv:1412.6980): `w ← w - η/(1-β₁ᵗ)·m/(√v/√(1-β₂ᵗ) + ε)`. ε = 1e-8 stands beside
//! the corrected root; a weight decay is added to g as `λ·w` and goes through both moments.

use super::{Group, Settings, Step, each_with_two, lerp};

/// Adam as torch has it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TorchAdam {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second.
    pub beta2: f64,
    /// ε.
    pub epsilon: f64,
    /// λ.
    pub weight_decay: f64,
}

impl TorchAdam {
    pub(super) fn new(settings: &Settings) -> Self {
        Self {
            beta1: 0.9,
            beta2: settings.beta2.unwrap_or(0.999),
            epsilon: settings.epsilon.unwrap_or(1e-8),
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
        let decay = self.weight_decay as f32;
        let penalty = |weight: f32| if decay == 0.0 { 0.0 } else { decay * weight };
        self.take(step, 1.0, penalty);
    }

    /// One step in which weights are first multiplied by `shrink`, and `penalty(w)` is added to the gradient.
    pub(super) fn take(&self, step: Step<'_>, shrink: f32, penalty: impl Fn(f32) -> f32 + Sync) {
        let Step { number, learning_rate, weights, gradient, slots } = step;
        let number = number as f64;
        let rate = (learning_rate / (1.0 - self.beta1.powf(number))) as f32;
        let root = (1.0 - self.beta2.powf(number)).sqrt() as f32;
        let (first_share, second_share) = ((1.0 - self.beta1) as f32, (1.0 - self.beta2) as f32);
        let (beta2, epsilon) = (self.beta2 as f32, self.epsilon as f32);
        each_with_two(weights, gradient, slots, |weight, gradient, first, second| {
            let gradient = gradient + penalty(*weight);
            *weight *= shrink;
            *first = lerp(*first, gradient, first_share);
            *second = *second * beta2 + second_share * gradient * gradient;
            *weight -= rate * *first / (second.sqrt() / root + epsilon);
        });
    }
}
