//! Everything measured: the model of an analysis, and the algorithms that fill it. Judges nothing, prints nothing.

mod architecture;
mod checkpoint;
mod device;
pub mod diff;
mod digests;
pub mod jacobian;
pub mod log;
mod masters;
pub mod measurement;
pub mod model;
pub mod optimizer;
mod own_class;
mod population;
pub mod run;
pub mod self_test;
pub mod series;
pub mod spectrum;
pub mod statistics;

pub use checkpoint::{add_device_use, measure_checkpoint, unread};
pub use digests::measure_with_digests;

use std::collections::HashMap;

use model::{Analysis, CheckpointAnalysis, MeasureLevel, SCHEMA_VERSION};

/// An analysis of `checkpoints`, measured by this version as deep as `measured`.
///
/// Findings name their checkpoint, so that names must differ: the second of a name gets ` (2)`.
pub fn of_checkpoints(mut checkpoints: Vec<CheckpointAnalysis>, measured: MeasureLevel) -> Analysis {
    let mut seen: HashMap<String, u64> = HashMap::new();
    for checkpoint in &mut checkpoints {
        let occurrence = seen.entry(checkpoint.name.clone()).and_modify(|count| *count += 1).or_insert(1);
        if *occurrence > 1 {
            checkpoint.name = format!("{} ({occurrence})", checkpoint.name);
        }
    }
    Analysis {
        schema_version: SCHEMA_VERSION.to_owned(),
        tool_version: env!("CARGO_PKG_VERSION").to_owned(),
        measured,
        checkpoints,
        run: None,
        intervals: Vec::new(),
        replicas: Vec::new(),
        dumps: Vec::new(),
        clipping: None,
        log: None,
    }
}
