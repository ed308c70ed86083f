//! Paths to one analysis: checkpoints are measured, measurement files are read.

use std::path::{Path, PathBuf};

use flashpoint::analysis::model::{Analysis, CheckpointAnalysis, MeasureLevel};
use flashpoint::analysis::{measure_checkpoint, measurement, of_checkpoints};
use flashpoint::checkpoint::{Checkpoint, NameRules};
use flashpoint::context::Context;
use flashpoint::error::{Error, Result};

/// What could be read of the paths, and what could not.
pub struct Read {
    /// Every path that could be read.
    pub analysis: Analysis,
    /// One error for each that could not.
    pub errors: Vec<Error>,
}

/// Reads and measures every path, going on after one that cannot be read.
pub fn read(paths: &[PathBuf], level: MeasureLevel, names: &NameRules, context: &Context) -> Read {
    let mut checkpoints = Vec::new();
    let mut errors = Vec::new();
    let mut measured = level;
    for path in paths {
        match read_one(path, level, names, context) {
            Ok((found, depth)) => {
                measured = measured.min(depth);
                checkpoints.extend(found);
            }
            Err(error) => errors.push(error),
        }
    }
    Read { analysis: of_checkpoints(checkpoints, measured), errors }
}

fn read_one(
    path: &Path,
    level: MeasureLevel,
    names: &NameRules,
    context: &Context,
) -> Result<(Vec<CheckpointAnalysis>, MeasureLevel)> {
    if measurement::is_measurement(path) {
        let analysis = measurement::read(path, context)?;
        return Ok((analysis.checkpoints, analysis.measured));
    }
    let checkpoint = Checkpoint::read(path, names, context)?;
    Ok((vec![measure_checkpoint(&checkpoint, level, context)], level))
}

/// Whether `path` is the directory of a run, and no checkpoint by itself.
pub fn is_run(path: &Path, context: &Context) -> bool {
    path.is_dir() && Checkpoint::read(path, &NameRules::default(), context).is_err()
}
