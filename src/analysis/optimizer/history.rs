//! The history that Adam's moments stand for: β₁, β₂ and the number of steps t.
//!
//! With gradients g₁ … g_t, and aⱼ the age t−j of gradient j,
//!
//! ```text
//! m = (1−β₁) Σ β₁^aⱼ gⱼ      m̂ = m / (1−β₁^t)
//! v = (1−β₂) Σ β₂^aⱼ gⱼ²     v̂ = v / (1−β₂^t)      u = m̂ / (√v̂ + ε)
//! ```
//!
//! Kingma and Ba, *Adam*, arXiv:1412.6980, algorithm 1. Everything in this room follows from these lines.

use crate::checkpoint::optimizer::ParameterGroup;

/// Checked hyperparameters, and how long they were in force.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct History {
    /// Decay of the first moment, in [0, 1).
    pub beta1: f64,
    /// Decay of the second moment, in (0, 1).
    pub beta2: f64,
    /// Steps taken, at least 1; infinite where there is no counter.
    pub steps: f64,
}

impl History {
    /// The history of a parameter of `group` after `step` steps, or why there is none. Without a counter it is long.
    ///
    /// # Errors
    /// With a reason, when betas are missing or out of range.
    pub fn of(group: &ParameterGroup, step: Option<f64>) -> Result<Self, String> {
        let (Some(beta1), Some(beta2)) = (group.beta1, group.beta2) else {
            return Err("the group does not say its betas".to_owned());
        };
        if !(0.0..1.0).contains(&beta1) || !(0.0..1.0).contains(&beta2) || beta2 == 0.0 {
            return Err(format!("betas {beta1} and {beta2} are not between 0 and 1"));
        }
        Ok(Self { beta1, beta2, steps: step.filter(|&step| step >= 1.0).unwrap_or(f64::INFINITY) })
    }

    /// Whether the number of steps is known.
    pub fn is_counted(&self) -> bool {
        self.steps.is_finite()
    }

    /// 1 − β₁^t.
    pub fn first_correction(&self) -> f64 {
        correction(self.beta1, self.steps)
    }

    /// 1 − β₂^t.
    pub fn second_correction(&self) -> f64 {
        correction(self.beta2, self.steps)
    }

    /// Steps over which the second moment averages: 1/(1−β₂).
    pub fn window(&self) -> f64 {
        1.0 / (1.0 - self.beta2)
    }
}

/// 1 − β^t without cancellation.
pub(super) fn correction(beta: f64, steps: f64) -> f64 {
    if beta == 0.0 { 1.0 } else { -(steps * beta.ln()).exp_m1() }
}

#[cfg(test)]
pub(super) fn history(beta1: f64, beta2: f64, steps: f64) -> History {
    History { beta1, beta2, steps }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn corrections_do_not_cancel_and_end_at_one() {
        assert_eq!(history(0.9, 0.999, 1.0).second_correction(), 1.0 - 0.999);
        let close = history(0.9, 1.0 - 1e-12, 3.0).second_correction();
        assert!((close / 3e-12 - 1.0).abs() < 1e-3, "{close}");
        assert_eq!(history(0.9, 0.999, f64::INFINITY).first_correction(), 1.0);
        assert_eq!(history(0.0, 0.999, 1.0).first_correction(), 1.0);
    }

    #[test]
    fn hyperparameters_out_of_range_are_refused() {
        let group = |beta1, beta2| ParameterGroup {
            beta1: Some(beta1),
            beta2: Some(beta2),
            ..ParameterGroup::default()
        };
        assert!(History::of(&group(0.9, 0.999), Some(7.0)).is_ok_and(|history| history.steps == 7.0));
        assert!(History::of(&group(0.9, 0.999), None).is_ok_and(|history| !history.is_counted()));
        for (beta1, beta2) in [(1.0, 0.9), (-0.1, 0.9), (0.9, 1.0), (0.9, 0.0), (0.9, 2.0)] {
            assert!(History::of(&group(beta1, beta2), Some(7.0)).is_err());
        }
        assert!(History::of(&ParameterGroup::default(), Some(7.0)).is_err());
    }
}
