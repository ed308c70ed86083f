//! Adaptive gradient clipping (AGC), unit by unit: where ‖gᵢ‖ ≥ λ·max(‖wᵢ‖, ε), gᵢ becomes gᵢ·λ·max(‖wᵢ‖, ε)/‖gᵢ‖.
//!
//! Brock, De, Smith, Simonyan 2021 (NFNet, arXiv:2102.06171), section 4.1, λ = 0.01, ε = 1e-3, without the head. Reference:
//! `timm.utils.agc.adaptive_clip_grad`: a unit is a slice along the first axis, and a tensor of one axis is one unit.

use serde::{Deserialize, Serialize};

use crate::clip::gradient::{Parameter, norm_of, scale};

/// The smallest norm that is divided by, as in the reference.
const SMALLEST: f64 = 1e-6;

/// The method and its constants.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct UnitWise {
    /// λ: norm of a unit's gradient over that of its weights.
    pub ratio: f64,
    /// ε: the smallest norm of weights that counts.
    pub floor: f64,
}

impl Default for UnitWise {
    fn default() -> Self {
        Self { ratio: 0.01, floor: 1e-3 }
    }
}

impl UnitWise {
    /// Clips every unit of every tensor but the head's.
    pub fn apply(&self, parameters: &mut [Parameter<'_>]) {
        for parameter in parameters.iter_mut().filter(|parameter| !parameter.is_head) {
            let width = parameter.gradient.len() / parameter.units.max(1);
            if width == 0 {
                continue;
            }
            for (gradient, weights) in
                parameter.gradient.chunks_mut(width).zip(parameter.weights.chunks(width))
            {
                let limit = self.ratio * norm_of(weights).max(self.floor);
                let norm = norm_of(gradient);
                if norm >= limit {
                    scale(gradient, limit / norm.max(SMALLEST));
                }
            }
        }
    }
}
