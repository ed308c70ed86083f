//! C3 and C7: how large the next step is, by itself and against the weights.
//!
//! The RMS of u is 0.229 = √f for noise, 1 for a constant gradient or the first step, and larger only where gradients
//! have grown faster than v forgets: the stale second moment of Wortsman et al., arXiv:2304.13013. η‖u‖/‖w‖ is the
//! share by which one step changes a weight, about 1e-3 in healthy training (Karpathy's rule of thumb). Both exact for
//! the state at hand; what they mean is heuristic.
//!
//! Weight decay is left out: it shrinks w by ηλ, and its share is that number. SGD steps by its buffer; Nesterov's
//! look-ahead, which adds one gradient, is left out.

use super::history::History;
use super::pass::Sums;
use super::{UNCOUNTED, number};
use crate::analysis::model::{Degenerate, Measured};

/// RMS of u over `elements`.
pub(super) fn rms(history: &History, sums: &Sums, elements: u64) -> Measured<f64> {
    if !history.is_counted() {
        return Measured::not(UNCOUNTED);
    }
    number((sums.update / elements as f64).sqrt())
}

/// η‖step‖/‖w‖.
pub(super) fn ratio(learning_rate: Option<f64>, step_norm: f64, sums: &Sums) -> Measured<f64> {
    let Some(rate) = learning_rate else { return Measured::not("the group does not say its learning rate") };
    if sums.weight == 0.0 {
        return Measured::Degenerate(Degenerate::AllZero);
    }
    number(rate * step_norm / sums.weight.sqrt())
}
