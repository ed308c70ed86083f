//! A multiple of the median of the last few norms: a threshold that goes where the norms of a healthy run go.
//!
//! Our own, after the remark of Pascanu, Mikolov, Bengio 2013 (arXiv:1211.5063, section 3.2) that a threshold is to be a multiple of the
//! usual norm. Norms are remembered as they are after clipping: for a spike of up to four steps a median of ten stays among the norms around
//! it, and for a longer one it grows by about the multiple in five steps. Norms that rise for good it follows as slowly. It cannot
//! shrink by its own doing, as what is clipped is above the median. A slow explosion it would follow too, hence the most that it may be.

use serde::{Deserialize, Serialize};

pub use super::window::Window as State;

/// Norms whose median it goes by.
pub const RECENT_NORMS: usize = 10;

/// The method and its constants.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct RollingMedian {
    /// The threshold over the median.
    pub multiple: f64,
    /// Norms that are looked back at.
    pub window: usize,
    /// The threshold is not above this.
    pub max_norm: Option<f64>,
}

impl Default for RollingMedian {
    /// A little above what a fit gives most runs, for one that was not fitted; nothing bounds it then.
    fn default() -> Self {
        Self { multiple: 1.5, window: RECENT_NORMS, max_norm: None }
    }
}

impl RollingMedian {
    /// The multiple of the median of the norms before this one, before half a window of them nothing but the most it may be.
    pub fn threshold(&self, state: &mut State, norm: f64) -> f64 {
        let most = self.max_norm.unwrap_or(f64::INFINITY);
        let enough = state.len() >= (self.window / 2).max(1);
        let usual = state.median().filter(|_| enough);
        let limit = usual.map_or(most, |usual| (self.multiple * usual).min(most));
        state.push(norm.min(limit), self.window);
        limit
    }
}
