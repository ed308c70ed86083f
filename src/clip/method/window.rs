//! The last norms, with their mean, deviation and median: what mean + kσ, skipped steps and the rolling median go by.

use serde::{Deserialize, Serialize};

use crate::robust::median;

/// Independent sums, which a processor adds up side by side.
const LANES: usize = 8;

/// The last norms, in a ring: sums go by places, so that a window that was written down and read again adds up to the same bits.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Window {
    norms: Vec<f64>,
    oldest: usize,
}

impl Window {
    pub(super) fn len(&self) -> usize {
        self.norms.len()
    }

    /// Adds a norm, in place of the oldest where there are `most`.
    pub(super) fn push(&mut self, norm: f64, most: usize) {
        if self.norms.len() < most {
            self.norms.push(norm);
        } else if let Some(oldest) = self.norms.get_mut(self.oldest) {
            *oldest = norm;
            self.oldest = (self.oldest + 1) % most;
        }
    }

    /// The median; `None` of nothing.
    pub(super) fn median(&self) -> Option<f64> {
        median(self.norms.iter().copied())
    }

    /// Mean, and standard deviation with `lost` degrees of freedom lost. Two passes, as nothing cancels then.
    pub(super) fn moments(&self, lost: usize) -> (f64, f64) {
        let mean = sum(&self.norms, |norm| norm) / self.norms.len() as f64;
        let squares = sum(&self.norms, |norm| (norm - mean) * (norm - mean));
        (mean, (squares / self.norms.len().saturating_sub(lost).max(1) as f64).sqrt())
    }
}

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
