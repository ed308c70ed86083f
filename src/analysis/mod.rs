//! Everything measured: the model of an analysis, and the algorithms that fill it. Judges nothing, prints nothing.

mod checkpoint;
pub mod measurement;
pub mod model;
pub mod optimizer;
mod population;
pub mod statistics;

pub use checkpoint::measure_checkpoint;

use model::{Analysis, CheckpointAnalysis, MeasureLevel, SCHEMA_VERSION};

/// An analysis of `checkpoints`, measured by this version as deep as `measured`.
pub fn of_checkpoints(checkpoints: Vec<CheckpointAnalysis>, measured: MeasureLevel) -> Analysis {
    Analysis {
        schema_version: SCHEMA_VERSION.to_owned(),
        tool_version: env!("CARGO_PKG_VERSION").to_owned(),
        measured,
        checkpoints,
    }
}
