//! The whole report as JSON: stable bytes, one tensor a line.

use super::Report;
use crate::json::to_lines;

/// Nesting of one tensor in a report: object, checkpoints, checkpoint, tensors.
const LINE_DEPTH: usize = 4;

/// The report as JSON.
pub fn to_json(report: &Report) -> Vec<u8> {
    to_lines(report, LINE_DEPTH)
}
