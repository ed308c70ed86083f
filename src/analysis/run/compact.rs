//! What is not kept of each checkpoint of a run, so that hundreds of them fit in memory.
//!
//! Histograms of exponents and the headroom of casts describe one file and no course of events. `inspect` has them.

use crate::analysis::model::{CheckpointAnalysis, Measured};

/// What is said of them.
const LEFT_OUT: &str = "not kept for a run: inspect the checkpoint";

/// Drops what only matters for a single file.
pub(super) fn compact(checkpoint: &mut CheckpointAnalysis) {
    for tensor in &mut checkpoint.tensors {
        if let Measured::Value(statistics) = &mut tensor.statistics {
            if statistics.exponents.value().is_some() {
                statistics.exponents = Measured::not(LEFT_OUT);
            }
            if statistics.headroom.value().is_some() {
                statistics.headroom = Measured::not(LEFT_OUT);
            }
        }
    }
}
