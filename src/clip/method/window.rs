//! The last norms, and their mean and deviation: what mean + kσ and skipped steps go by.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

/// The last norms, oldest first.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Window(VecDeque<f64>);

impl Window {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Adds a norm, and drops the oldest where there are more than `most`.
    pub(super) fn push(&mut self, norm: f64, most: usize) {
        self.0.push_back(norm);
        if self.0.len() > most {
            self.0.pop_front();
        }
    }

    /// Mean, and standard deviation with `lost` degrees of freedom lost. Two passes, as nothing cancels then.
    pub(super) fn moments(&self, lost: usize) -> (f64, f64) {
        let (first, second) = self.0.as_slices();
        let mean = (sum(first, |norm| norm) + sum(second, |norm| norm)) / self.0.len() as f64;
        let square = |norm: f64| (norm - mean) * (norm - mean);
        let squares = sum(first, square) + sum(second, square);
        (mean, (squares / self.0.len().saturating_sub(lost).max(1) as f64).sqrt())
    }
}

/// Independent sums, which a processor adds up side by side.
const LANES: usize = 8;

fn sum(values: &[f64], of: impl Fn(f64) -> f64) -> f64 {
    let mut lanes = [0.0; LANES];
    let chunks = values.chunks_exact(LANES);
    let rest: f64 = chunks.remainder().iter().map(|value| of(*value)).sum();
    for chunk in chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane += of(*value);
        }
    }
    lanes.iter().sum::<f64>() + rest
}
