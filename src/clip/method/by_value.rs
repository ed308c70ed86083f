//! Clipping by value: each element to [−c, c].
//!
//! Reference: `torch.nn.utils.clip_grad_value_`. It turns the step: (3, 0.1) clipped to 1 is 3.8° off. What it does to a norm
//! depends on the elements, so that a log of norms cannot say it.

use serde::{Deserialize, Serialize};

use crate::clip::gradient::Parameter;

/// The method and its constant.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ByValue {
    /// c, in units of a gradient's element.
    pub limit: f64,
}

impl ByValue {
    /// Clips every element.
    pub fn apply(&self, parameters: &mut [Parameter<'_>]) {
        let limit = self.limit as f32;
        for parameter in parameters {
            // Unlike `f32::clamp`, NaN stays NaN here, and a limit of NaN does not panic.
            parameter.gradient.iter_mut().for_each(|element| *element = element.max(-limit).min(limit));
        }
    }
}
