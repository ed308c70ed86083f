//! What happened to tensors between two checkpoints of a run, and to their gradients.
//!
//! One quantity a file, each with its formula, its caveat and its error. `docs/forensics.md` is the reader's version.
//! Reads no more than the tensors it is given; judges nothing.

pub mod decay;
pub mod dump;
pub mod energy;
pub mod interval;
pub mod movement;
pub mod pass;
pub mod trailing;

use super::model::{Degenerate, Measured};

/// A finite number, or overflow: JSON has no infinity.
pub(in crate::analysis) fn number(value: f64) -> Measured<f64> {
    if value.is_finite() { Measured::Value(value) } else { Measured::Degenerate(Degenerate::Overflow) }
}
