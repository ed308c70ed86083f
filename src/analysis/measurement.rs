//! Measurement files: an analysis without the weights, accepted wherever a checkpoint is.
//!
//! One tensor a line, so that two of them can be compared with `diff`.

use std::io::{Read, Write};
use std::path::Path;

use flate2::Compression;
use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;

use super::model::{Analysis, SCHEMA_VERSION};
use crate::context::Context;
use crate::error::{At, ErrorKind, Result};
use crate::files::InputFile;
use crate::json::to_lines;

/// A measurement file larger than this is none of ours.
const LARGEST: u64 = 1 << 30;

/// The ending that marks a measurement file.
pub const SUFFIX: &str = ".measured.json";

/// The ending of one that is compressed with gzip.
pub const COMPRESSED_SUFFIX: &str = ".measured.json.gz";

/// True where `path` names a measurement file.
pub fn is_measurement(path: &Path) -> bool {
    let ends = |suffix| path.file_name().is_some_and(|name| name.to_string_lossy().ends_with(suffix));
    ends(SUFFIX) || ends(COMPRESSED_SUFFIX)
}

/// True where `path` names a measurement file that is compressed.
fn is_compressed(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().ends_with(COMPRESSED_SUFFIX))
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
    let mut inflated = Vec::new();
    let bytes = if is_compressed(path) {
        inflate(path, bytes, &mut inflated)?;
        inflated.as_slice()
    } else {
        bytes
    };
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

/// Inflates a compressed measurement file, up to the length that an uncompressed one may have.
fn inflate(path: &Path, bytes: &[u8], inflated: &mut Vec<u8>) -> Result<()> {
    let mut reader = MultiGzDecoder::new(bytes).take(LARGEST + 1);
    let read = reader.read_to_end(inflated);
    let what = "the measurement file";
    if let Err(error) = read {
        return Err(ErrorKind::SideFile { what, message: error.to_string() }.in_file(path));
    }
    if inflated.len() as u64 > LARGEST {
        let kind = ErrorKind::TooLarge { what, actual: inflated.len() as u64, limit: LARGEST };
        return Err(kind.in_file(path));
    }
    Ok(())
}

/// The bytes of the measurement file `path`: compressed where its name says so, with neither name nor time in them.
pub fn to_bytes(analysis: &Analysis, path: &Path) -> Vec<u8> {
    let json = to_json(analysis);
    if !is_compressed(path) {
        return json;
    }
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(&json).and_then(|()| encoder.finish()).expect("writing to memory does not fail")
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::model::MeasureLevel;
    use crate::analysis::of_checkpoints;

    #[test]
    fn a_compressed_measurement_file_comes_back_and_a_damaged_one_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.measured.json.gz");
        let analysis = of_checkpoints(Vec::new(), MeasureLevel::Stats);
        let bytes = to_bytes(&analysis, &path);
        assert_eq!(bytes[..2], [0x1f, 0x8b]);
        assert_eq!(bytes[4..8], [0; 4], "no time");
        std::fs::write(&path, &bytes).unwrap();
        assert_eq!(read(&path, &Context::default()).unwrap(), analysis);
        std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
        let error = read(&path, &Context::default()).unwrap_err();
        assert!(matches!(error.kind, ErrorKind::SideFile { .. }), "{error}");
        assert_eq!(to_bytes(&analysis, Path::new("x.measured.json")), to_json(&analysis));
    }
}
