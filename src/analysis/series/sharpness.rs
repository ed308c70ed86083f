//! C1 and C2 for Adam: curvature as its preconditioner sees it, the edge of stability, and the step at which free decay
//! of the second moments reaches that edge.
//!
//! Adam moves by η·P⁻¹m with P = √v̂ + ε. What must stay below (2+2β₁)/((1−β₁)η), 38/η for β₁ = 0.9, is the largest
//! eigenvalue of P⁻¹H (Cohen et al., arXiv:2207.14484). (Δgᵀ Δw)/(Δwᵀ P Δw) is a Rayleigh quotient of it, so a lower bound,
//! where both gradients are of one batch.
//!
//! While v does nothing but decay, P shrinks as √v̂ does:
//!
//! ```text
//! λ(t+k) = λ(t)·√(β₂^−k (1−β₂^(t+k))/(1−β₂^t))
//! ```
//!
//! which is solved for the k at which λ reaches the edge (Bai et al., arXiv:2506.04805). As λ is at least what the secant
//! says, the edge is reached no later; ε, which does not decay, delays it once √v̂ comes near it.

use std::collections::HashMap;

use crate::analysis::model::{Degenerate, Measured, Sharpness};
use crate::analysis::optimizer::place::readable;
use crate::checkpoint::Checkpoint;
use crate::checkpoint::optimizer::{Algorithm, OptimizerState, ParameterGroup, ParameterState};
use crate::tensor::Tensor;

/// Adam's preconditioner at one checkpoint.
pub(super) struct Preconditioner<'a> {
    seconds: HashMap<&'a str, Second<'a>>,
    settings: Settings,
    /// Steps taken, by the counter that is farthest.
    steps: f64,
}

/// The second moments of one parameter, and what makes its denominator of them.
#[derive(Clone, Copy)]
pub(super) struct Second<'a> {
    pub tensor: &'a Tensor,
    correction: f64,
    epsilon: f64,
}

/// What all groups must share for there to be one edge.
#[derive(Clone, Copy, PartialEq)]
struct Settings {
    rate: f64,
    beta1: f64,
    beta2: f64,
}

impl Second<'_> {
    /// √v̂ + ε.
    pub fn denominator(&self, second: f64) -> f64 {
        (second / self.correction).sqrt() + self.epsilon
    }
}

impl<'a> Preconditioner<'a> {
    /// That of `checkpoint`, whose optimizers are Adam with one learning rate and one pair of betas.
    ///
    /// # Errors
    /// With a reason, where there is no such preconditioner.
    pub fn of(checkpoint: &'a Checkpoint) -> Result<Self, String> {
        let mut found = Self {
            seconds: HashMap::new(),
            settings: Settings { rate: 0.0, beta1: 0.0, beta2: 0.0 },
            steps: 0.0,
        };
        let mut settings = None;
        for optimizer in &checkpoint.optimizers {
            for state in optimizer.parameters.iter().filter(|state| state.stored) {
                let own = own_settings(optimizer, &optimizer.groups[state.group])?;
                if *settings.get_or_insert(own) != own {
                    return Err(
                        "its groups differ in learning rate or betas: there is no one edge".to_owned()
                    );
                }
                found.add(checkpoint, &optimizer.groups[state.group], state)?;
            }
        }
        found.settings = settings.ok_or("the checkpoint before it holds no state of Adam")?;
        Ok(found)
    }

    fn add(
        &mut self,
        checkpoint: &'a Checkpoint,
        group: &ParameterGroup,
        state: &ParameterState,
    ) -> Result<(), String> {
        let index = state.parameter.ok_or("its state is not joined to the model's tensors")?;
        let named = &checkpoint.tensors[index];
        let moment = state.exp_avg_sq.map(|index| &checkpoint.tensors[index].tensor);
        let Some(Ok(tensor)) = moment else {
            return Err(format!("{} has no second moments that can be read", named.name));
        };
        readable(tensor).map_err(|reason| format!("{}: {reason}", named.name))?;
        let steps = state.step.filter(|steps| *steps > 0.0).ok_or("its state has no step counter")?;
        let beta2 = group.beta2.unwrap_or(0.0);
        let correction = -(steps * beta2.ln()).exp_m1();
        let epsilon = group.epsilon.unwrap_or(0.0);
        self.steps = self.steps.max(steps);
        self.seconds.insert(&named.canonical_name, Second { tensor, correction, epsilon });
        Ok(())
    }

    /// The second moments of the parameter of that canonical name.
    pub fn second(&self, name: &str) -> Option<Second<'a>> {
        self.seconds.get(name).copied()
    }

    /// What a quotient `value`, a finite one, of weights before step `step` amounts to.
    pub fn judge(&self, value: f64, step: u64) -> Measured<Sharpness> {
        let Settings { rate, beta1, beta2 } = self.settings;
        let edge = edge(rate, beta1);
        if !edge.is_finite() {
            return Measured::Degenerate(Degenerate::Overflow);
        }
        let edge_step = match steps_to_edge(value, edge, beta2, self.steps) {
            Measured::Value(steps) => whole_step(step.saturating_sub(1), steps),
            other => other.map(|_| 0),
        };
        Measured::Value(Sharpness { value, edge, edge_step })
    }
}

fn own_settings(optimizer: &OptimizerState, group: &ParameterGroup) -> Result<Settings, String> {
    if !matches!(optimizer.algorithm, Algorithm::Adam | Algorithm::AdamW | Algorithm::AdamLike) {
        return Err("the optimizer is not Adam with moments of plain numbers".to_owned());
    }
    if group.amsgrad {
        return Err("AMSGrad divides by the largest second moments, which do not decay".to_owned());
    }
    match (group.learning_rate, group.beta1, group.beta2) {
        (Some(rate), Some(beta1), Some(beta2))
            if rate > 0.0 && (0.0..1.0).contains(&beta1) && beta2 > 0.0 && beta2 < 1.0 =>
        {
            Ok(Settings { rate, beta1, beta2 })
        }
        _ => Err("a group does not say its learning rate and betas, or takes no step".to_owned()),
    }
}

/// The preconditioned curvature at which Adam's steps stop being stable.
pub fn edge(rate: f64, beta1: f64) -> f64 {
    (2.0 + 2.0 * beta1) / ((1.0 - beta1) * rate)
}

/// Factor by which `steps` of free decay after step `taken` sharpen what the preconditioner sees.
pub fn growth(beta2: f64, taken: f64, steps: f64) -> f64 {
    let remaining = |steps: f64| -(steps * beta2.ln()).exp_m1();
    (beta2.powf(-steps) * remaining(taken + steps) / remaining(taken)).sqrt()
}

/// Steps of free decay after step `taken` until `sharpness` reaches `edge`: where [`growth`] is their ratio.
pub fn steps_to_edge(sharpness: f64, edge: f64, beta2: f64, taken: f64) -> Measured<f64> {
    if sharpness <= 0.0 {
        return Measured::not("the curvature along the step is not positive");
    }
    if sharpness >= edge {
        return Measured::Value(0.0);
    }
    // With x = β₂^−k the ratio squared is (x − β₂^t)/(1 − β₂^t).
    let taken = beta2.powf(taken);
    let ratio = edge / sharpness;
    super::number((ratio * ratio * (1.0 - taken) + taken).ln() / -beta2.ln())
}

/// The step `steps` after `step`; a prediction beyond any run is none.
fn whole_step(step: u64, steps: f64) -> Measured<u64> {
    const FARTHEST: f64 = 1e12;
    let whole = (steps < FARTHEST).then_some(steps.ceil() as i64).and_then(|steps| u64::try_from(steps).ok());
    whole.map_or_else(
        || Measured::not("the edge is farther than any run"),
        |steps| Measured::Value(step.saturating_add(steps)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Adam with β₁ = 0.9 has its edge at 38/η; the experiment of Bai et al. repeated in f64: 0.79 of the edge at step 1000
    /// became 1.05 at step 1400 with β₂ = 0.999.
    #[test]
    fn the_edge_of_adam_is_38_over_the_rate_and_free_decay_reaches_it_when_the_formula_says() {
        assert!((edge(1e-3, 0.9) - 38_000.0).abs() < 1e-6);
        assert!((0.79 * growth(0.999, 1000.0, 400.0) - 1.053).abs() < 2e-3);
        let steps = *steps_to_edge(0.79, 1.0, 0.999, 1000.0).value().unwrap();
        assert!((0.79 * growth(0.999, 1000.0, steps) - 1.0).abs() < 1e-12, "{steps}");
        // Where bias correction is over, β₂^−k alone: twice the sharpness after ln 4/−ln β₂.
        let doubled = *steps_to_edge(0.5, 1.0, 0.99, 1e6).value().unwrap();
        assert!((doubled - 4f64.ln() / -0.99f64.ln()).abs() < 1e-9);
    }

    #[test]
    fn what_is_at_the_edge_is_there_now_and_what_is_not_curved_never_arrives() {
        assert_eq!(steps_to_edge(2.0, 1.0, 0.999, 10.0), Measured::Value(0.0));
        for sharpness in [0.0, -1.0] {
            assert!(matches!(steps_to_edge(sharpness, 1.0, 0.999, 10.0), Measured::NotMeasured(_)));
        }
        assert!(matches!(whole_step(10, 1e15), Measured::NotMeasured(_)));
        assert_eq!(whole_step(10, 2.5), Measured::Value(13));
    }

    /// The recurrence itself, step by step: v decays, bias correction grows.
    #[test]
    fn growth_is_that_of_the_recurrence() {
        let (beta2, mut v, mut taken) = (0.95f64, 2.0f64, 7);
        let denominator = |v: f64, taken: i32| (v / (1.0 - beta2.powi(taken))).sqrt();
        let before = denominator(v, taken);
        for _ in 0..30 {
            v *= beta2;
            taken += 1;
        }
        let by_hand = before / denominator(v, taken);
        assert!((growth(beta2, 7.0, 30.0) / by_hand - 1.0).abs() < 1e-12);
    }
}
