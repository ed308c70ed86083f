//! AutoClip: the p-th percentile of all norms so far, the step's own among them.
//!
//! Seetharaman, Wichern, Pardo, Le Roux 2020 (arXiv:2007.14469), p = 10: it clips about nine steps of ten. Reference:
//! `pseeth/autoclip`, `numpy.percentile` over a list (linear between ranks). Two heaps hold the lower part and the rest, so
//! that a step costs O(log n) and not a sort.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use serde::{Deserialize, Serialize};

/// A finite number that heaps can order.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Ordered(f64);

impl Eq for Ordered {}

impl PartialOrd for Ordered {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Ordered {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0)
    }
}

/// The method and its constant.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct AutoClip {
    /// p, of 100.
    pub percentile: f64,
}

/// All norms so far: those up to the percentile's lower rank, and the others.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct State {
    lower: BinaryHeap<Ordered>,
    upper: BinaryHeap<Reverse<Ordered>>,
}

impl AutoClip {
    /// The percentile, `norm` counted.
    pub fn threshold(&self, state: &mut State, norm: f64) -> f64 {
        let goes_below = state.lower.peek().is_some_and(|largest| norm < largest.0);
        if goes_below {
            state.lower.push(Ordered(norm));
        } else {
            state.upper.push(Reverse(Ordered(norm)));
        }
        let count = state.lower.len() + state.upper.len();
        let position = (self.percentile / 100.0).clamp(0.0, 1.0) * (count - 1) as f64;
        #[expect(clippy::cast_sign_loss, reason = "a share of a count is not negative")]
        let below = position.floor() as usize + 1;
        while state.lower.len() < below {
            let Some(Reverse(smallest)) = state.upper.pop() else { break };
            state.lower.push(smallest);
        }
        while state.lower.len() > below {
            let Some(largest) = state.lower.pop() else { break };
            state.upper.push(Reverse(largest));
        }
        let at = state.lower.peek().map_or(norm, |largest| largest.0);
        let next = state.upper.peek().map_or(at, |smallest| smallest.0.0);
        at + (next - at) * position.fract()
    }
}
