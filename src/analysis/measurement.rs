//! Measurement files: an analysis without the weights, accepted wherever a checkpoint is.
//!
//! One tensor a line, so that two of them can be compared with `diff`.

use std::path::Path;

use super::model::{Analysis, SCHEMA_VERSION};
use crate::context::Context;
use crate::error::{At, ErrorKind, Result};
use crate::files::InputFile;
use crate::json::to_lines;

/// A measurement file larger than this is none of ours.
const LARGEST: u64 = 1 << 30;

/// The ending that marks a measurement file.
pub const SUFFIX: &str = ".measured.json";

/// True where `path` names a measurement file.
pub fn is_measurement(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().ends_with(SUFFIX))
}

/// Reads a measurement file.
///
/// # Errors
/// Not JSON, not of our schema, or of a later major version.
pub fn read(path: &Path, context: &Context) -> Result<Analysis> {
    let file = InputFile::open(path, context)?;
    if file.len() > LARGEST {
        let kind = ErrorKind::TooLarge { what: "the measurement file", actual: file.len(), limit: LARGEST };
        return Err(kind.in_file(path));
    }
    let mut buffer = Vec::new();
    let bytes = file.bytes(0..file.len(), &mut buffer)?;
    let unusable =
        |message: String| ErrorKind::SideFile { what: "the measurement file", message }.in_file(path);
    let place = |error: &serde_json::Error| At::Line(error.line(), error.column());
    let value: Version =
        serde_json::from_slice(bytes).map_err(|error| unusable(plain(&error)).at(place(&error)))?;
    if value.schema_version.split('.').next() != SCHEMA_VERSION.split('.').next() {
        return Err(unusable(format!(
            "it has schema version {}, this flashpoint reads {SCHEMA_VERSION}",
            value.schema_version
        )));
    }
    let analysis: Analysis =
        serde_json::from_slice(bytes).map_err(|error| unusable(plain(&error)).at(place(&error)))?;
    // The file may have been edited or made up: what rules rely on is checked here, once.
    for tensor in analysis.checkpoints.iter().flat_map(|checkpoint| &checkpoint.tensors) {
        if let Some(contradiction) = tensor.contradiction() {
            return Err(unusable(contradiction.to_owned()).for_tensor(&tensor.name));
        }
    }
    Ok(analysis)
}

/// The message alone: the place is given separately.
fn plain(error: &serde_json::Error) -> String {
    let text = error.to_string();
    text.rsplit_once(" at line ").map_or(text.clone(), |(message, _)| message.to_owned())
}

#[derive(serde::Deserialize)]
struct Version {
    schema_version: String,
}

/// The bytes of a measurement file.
pub fn to_json(analysis: &Analysis) -> Vec<u8> {
    to_lines(analysis, LINE_DEPTH)
}

/// Nesting of one tensor in an analysis: object, checkpoints, checkpoint, tensors.
const LINE_DEPTH: usize = 4;
