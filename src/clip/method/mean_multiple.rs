//! A multiple of the mean of all norms so far.
//!
//! Pascanu, Mikolov, Bengio 2013 (arXiv:1211.5063), section 3.2: half to ten times the average norm "over a sufficiently large number
//! of updates" still converges. The mean is of the norms before this one, before clipping.

use serde::{Deserialize, Serialize};

/// The method and its constant.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct MeanMultiple {
    /// The multiple.
    pub multiple: f64,
}

/// Count and mean.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct State {
    count: u64,
    mean: f64,
}

impl MeanMultiple {
    /// The multiple of the mean of the norms before this one; infinity at the first.
    pub fn threshold(&self, state: &mut State, norm: f64) -> f64 {
        let limit = if state.count == 0 { f64::INFINITY } else { self.multiple * state.mean };
        state.count += 1;
        state.mean += (norm - state.mean) / state.count as f64;
        limit
    }
}
