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
        let sum = |of: &dyn Fn(f64) -> f64| first.iter().chain(second).map(|norm| of(*norm)).sum::<f64>();
        let mean = sum(&|norm| norm) / self.0.len() as f64;
        let squares = sum(&|norm| (norm - mean).powi(2));
        (mean, (squares / self.0.len().saturating_sub(lost).max(1) as f64).sqrt())
    }
}
