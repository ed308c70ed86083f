//! Small files of text, whole.

use std::path::Path;

use super::InputFile;
use crate::context::Context;
use crate::error::{Error, ErrorKind, Result};

/// The text of a file of at most `limit` bytes; `what` it is, for errors.
///
/// # Errors
/// When it cannot be read, is longer, or is not UTF-8: with the place of the first byte that is not.
pub fn read_text(path: &Path, what: &'static str, limit: u64, context: &Context) -> Result<String> {
    let unusable = |message: String| ErrorKind::SideFile { what, message };
    let file = match InputFile::open(path, context) {
        // Of a checkpoint it is half a write; an empty text is whole.
        Err(error) if error.kind == ErrorKind::EmptyFile => return Ok(String::new()),
        Err(Error { kind: ErrorKind::NotARegularFile { what: found }, .. }) => {
            return Err(unusable(format!("it is a {found}")).in_file(path));
        }
        other => other?,
    };
    if file.len() > limit {
        return Err(ErrorKind::TooLarge { what, actual: file.len(), limit }.in_file(path));
    }
    let mut buffer = Vec::new();
    let bytes = file.bytes(0..file.len(), &mut buffer)?;
    let text = std::str::from_utf8(bytes)
        .map_err(|error| unusable("it is not UTF-8".to_owned()).at_byte(path, error.valid_up_to() as u64))?;
    Ok(text.to_owned())
}
