//! The whole report as JSON: stable bytes, one tensor a line.

use serde::Serialize;

use crate::json::to_lines;

/// Nesting of one tensor in a report: object, checkpoints, checkpoint, tensors.
const LINE_DEPTH: usize = 4;

/// A report as JSON.
pub fn to_json(report: &impl Serialize) -> Vec<u8> {
    to_lines(report, LINE_DEPTH)
}
