//! Clipping tensor by tensor, by its root mean square: u/max(1, RMS(u)/d).
//!
//! Shazeer, Stern 2018 (Adafactor, arXiv:1804.04235), section 6, on updates, with d = 1. Reference: `clip_by_block_rms` of
//! optax, on whatever it is given.

use serde::{Deserialize, Serialize};

use crate::clip::gradient::{Parameter, norm_of, scale};

/// The method and its constant.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct BlockRms {
    /// d, in units of an element.
    pub threshold: f64,
}

impl BlockRms {
    /// The norm that a tensor of `elements` is limited to.
    pub fn of_one(&self, elements: u64) -> f64 {
        self.threshold * (elements as f64).sqrt()
    }

    /// Clips every tensor.
    pub fn apply(&self, parameters: &mut [Parameter<'_>]) {
        for parameter in parameters.iter_mut().filter(|parameter| !parameter.gradient.is_empty()) {
            let ratio = norm_of(parameter.gradient) / self.of_one(parameter.gradient.len() as u64);
            if ratio > 1.0 {
                scale(parameter.gradient, 1.0 / ratio);
            }
        }
    }
}
