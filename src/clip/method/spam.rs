//! SPAM: elements that stand far out of their second moment are clipped to it, and moments are reset every ΔT steps.
//!
//! Huang et al. 2025 (arXiv:2501.06842): where g² > θ·v, g becomes sign(g)·√(θ·v), θ = 5000, v as it was before the step; every
//! 500 steps both moments become 0 and the learning rate rises again by a cosine over 150 steps. Reference: `SPAM` of
//! pytorch-optimizer 4.1.0, which leaves the first 20 steps, and 20 after each reset, alone. Elements and moments are needed.

use std::f64::consts::PI;

use serde::{Deserialize, Serialize};

use crate::clip::gradient::Parameter;

/// The share of the learning rate that the first step after a reset lacks, as in the reference.
const DEATH_RATE: f64 = 0.99;

/// The method and its constants.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Spam {
    /// θ: g² over v from which an element is clipped.
    pub ratio: f64,
    /// ΔT: steps from one reset to the next.
    pub interval: u64,
    /// Steps after a reset in which nothing is clipped.
    pub quiet: u64,
    /// N: steps in which the learning rate rises again.
    pub warm_up: u64,
}

impl Default for Spam {
    fn default() -> Self {
        Self { ratio: 5000.0, interval: 500, quiet: 20, warm_up: 150 }
    }
}

/// Steps taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct State {
    step: u64,
    since_reset: Option<u64>,
}

/// What the optimizer has to do beside its step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rest {
    /// Both moments become 0 before this step.
    pub reset_moments: bool,
    /// Factor of the learning rate.
    pub rate: f64,
}

impl Spam {
    /// Clips every element against the second moment before this step; a parameter without one is left alone.
    pub fn apply(&self, state: &mut State, parameters: &mut [Parameter<'_>]) -> Rest {
        state.step += 1;
        let in_interval = state.step.checked_rem(self.interval).unwrap_or(state.step);
        let reset_moments = self.interval > 0 && in_interval == 0;
        if state.step >= self.quiet && in_interval >= self.quiet {
            for parameter in parameters {
                let Some(second) = parameter.second_moment else { continue };
                for (gradient, &second) in parameter.gradient.iter_mut().zip(second) {
                    let limit = self.ratio * f64::from(second);
                    if f64::from(*gradient).powi(2) > limit {
                        *gradient = (f64::from(gradient.signum()) * limit.sqrt()) as f32;
                    }
                }
            }
        }
        let rate = state.since_reset.map_or(1.0, |since| self.rate(since));
        // The reference begins to count anew after the step before a reset.
        state.since_reset = if self.interval > 0 && (state.step + 1).is_multiple_of(self.interval) {
            Some(0)
        } else {
            state.since_reset.map(|since| since + 1)
        };
        Rest { reset_moments, rate }
    }

    /// Factor of the learning rate `since` steps after a reset.
    fn rate(&self, since: u64) -> f64 {
        if since >= self.warm_up {
            return 1.0;
        }
        let angle = PI * (since + 1) as f64 / (self.warm_up + 1) as f64;
        1.0 - DEATH_RATE * f64::midpoint(1.0, angle.cos())
    }
}
