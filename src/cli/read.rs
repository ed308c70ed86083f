//! Paths to one analysis: checkpoints are measured, measurement files are read.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use flashpoint::analysis::model::{Analysis, CheckpointAnalysis, MeasureLevel};
use flashpoint::analysis::{measure_checkpoint, measure_with_digests, measurement, of_checkpoints};
use flashpoint::checkpoint::{Checkpoint, NameRules};
use flashpoint::context::Context;
use flashpoint::error::{Error, ErrorKind, Result};
use flashpoint::history::History;

/// What could be read of the paths, and what could not.
pub struct Read {
    /// Every path that could be read.
    pub analysis: Analysis,
    /// One error for each that could not.
    pub errors: Vec<Error>,
    /// Where checkpoints lie below the directory of the command, by their names.
    pub places: BTreeMap<String, String>,
}

/// Reads and measures every path, going on after one that cannot be read; with `digests`, files have theirs.
pub fn read(
    paths: &[PathBuf],
    level: MeasureLevel,
    digests: bool,
    names: &NameRules,
    context: &Context,
) -> Read {
    let mut checkpoints = Vec::new();
    let mut errors = Vec::new();
    let mut measured = level;
    let mut places = BTreeMap::new();
    for path in paths {
        match read_one(path, level, digests, names, context) {
            Ok((found, depth)) => {
                measured = measured.min(depth);
                if let ([only], Some(place), false) =
                    (&found[..], below(path), measurement::is_measurement(path))
                {
                    places.insert(only.name.clone(), place);
                }
                checkpoints.extend(found);
            }
            Err(error) => errors.push(error),
        }
    }
    Read { analysis: of_checkpoints(checkpoints, measured), errors, places }
}

/// A path that leads down from the directory of the command, by its components; none of others, which would tell where they lie.
fn below(path: &Path) -> Option<String> {
    let components = path.components().filter(|component| *component != Component::CurDir);
    let names: Option<Vec<_>> = components
        .map(|component| match component {
            Component::Normal(name) => Some(name.to_string_lossy().into_owned()),
            _ => None,
        })
        .collect();
    names.filter(|names| !names.is_empty()).map(|names| names.join("/"))
}

fn read_one(
    path: &Path,
    level: MeasureLevel,
    digests: bool,
    names: &NameRules,
    context: &Context,
) -> Result<(Vec<CheckpointAnalysis>, MeasureLevel)> {
    if measurement::is_measurement(path) {
        let mut analysis = measurement::read(path, context)?;
        if analysis.checkpoints.is_empty() {
            let message = "it holds no checkpoint".to_owned();
            return Err(ErrorKind::SideFile { what: "the measurement file", message }.in_file(path));
        }
        if !digests {
            // A measurement file gives the same report as its checkpoint.
            let files = analysis.checkpoints.iter_mut().flat_map(|checkpoint| &mut checkpoint.files);
            files.for_each(|file| file.digest = None);
        }
        return Ok((analysis.checkpoints, analysis.measured));
    }
    let checkpoint = Checkpoint::read(path, names, context)?;
    let measure = if digests { measure_with_digests } else { measure_checkpoint };
    Ok((vec![measure(&checkpoint, level, context)], level))
}

/// The error of a run without anything in it: what was left out is told on the way, and what keeps a checkpoint from being read
/// comes before the absence of a run.
pub fn nothing_of_a_run(run: &Path, history: &History, context: &Context) -> Error {
    for remark in &history.remarks {
        let file =
            remark.file.as_deref().map_or_else(String::new, |file| format!("{}: ", file.escape_debug()));
        eprintln!("flashpoint: {file}{}", remark.message);
    }
    match Checkpoint::read(run, &NameRules::default(), context) {
        Err(error) if history.until.is_none() && error.kind != ErrorKind::NoCheckpoint => error,
        _ => ErrorKind::NothingOfARun { until: history.until }.in_file(run),
    }
}

/// Whether nothing of a run was measured.
pub fn is_nothing(analysis: &Analysis) -> bool {
    analysis.checkpoints.is_empty() && analysis.dumps.is_empty() && analysis.log.is_none()
}

/// Whether `path` is the directory of a run, and no checkpoint by itself.
pub fn is_run(path: &Path, context: &Context) -> bool {
    path.is_dir() && Checkpoint::read(path, &NameRules::default(), context).is_err()
}
