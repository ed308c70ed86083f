//! The whole report as JSON: stable bytes, one tensor a line.

use super::{ClipReport, DifferenceReport, JacobianPlan, PostMortem, Report, ResumeReport};
use crate::json::to_lines;
use crate::recover::{Conversion, Manifest, Plan};

/// Nesting of one tensor in a report: object, checkpoints, checkpoint, tensors.
const LINE_DEPTH: usize = 4;

/// What programs can read.
///
/// Implemented type by type, here: were it for whatever can be serialised, how each report and all that it holds is written
/// would be compiled once more wherever one is printed.
pub trait Json {
    /// The whole of it as JSON.
    fn to_json(&self) -> Vec<u8>;
}

macro_rules! json {
    ($($report:ty),+) => {
        $(impl Json for $report {
            fn to_json(&self) -> Vec<u8> {
                to_lines(self, LINE_DEPTH)
            }
        })+
    };
}

json!(
    ClipReport,
    Conversion,
    DifferenceReport,
    JacobianPlan,
    Manifest,
    Plan,
    PostMortem,
    Report,
    ResumeReport
);
