//! JSON side files, as Python writes them: bare `NaN` and `Infinity` are read as null, a byte order mark is skipped.

use std::borrow::Cow;
use std::path::Path;

use serde::de::DeserializeOwned;

use crate::context::Context;
use crate::error::{At, Error, ErrorKind, Result};
use crate::files::{InputFile, sibling};

/// Reads `name` of `directory`, which may have up to `limit` bytes, as a `T`.
///
/// # Errors
/// With line and column, when it is not JSON or not a `T`.
pub(super) fn read<T: DeserializeOwned>(
    directory: &Path,
    name: &str,
    what: &'static str,
    limit: u64,
    context: &Context,
) -> Result<T> {
    let path = sibling(directory, name)?;
    let file = InputFile::open(&path, context)?;
    if file.len() > limit {
        return Err(ErrorKind::TooLarge { what, actual: file.len(), limit }.in_file(&path));
    }
    let mut buffer = Vec::new();
    let bytes = file.bytes(0..file.len(), &mut buffer)?;
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let text = finite(std::str::from_utf8(bytes).map_err(|_| not_utf8(&path, what))?);
    serde_json::from_str(&text).map_err(|error| {
        let message = error.to_string().chars().take(160).collect();
        let at = At::Line(error.line(), error.column());
        ErrorKind::SideFile { what, message }.in_file(&path).at(at)
    })
}

fn not_utf8(path: &Path, what: &'static str) -> Error {
    ErrorKind::SideFile { what, message: "it is not UTF-8".to_owned() }.in_file(path)
}

/// Words that Python's `json` writes for floats that JSON cannot express. The longer one of a pair stands first.
const NOT_FINITE: &[&str] = &["-Infinity", "Infinity", "NaN"];

/// `text` with null in place of numbers that are not finite, at the same columns.
fn finite(text: &str) -> Cow<'_, str> {
    if !NOT_FINITE.iter().any(|word| text.contains(word)) {
        return Cow::Borrowed(text);
    }
    let mut written = String::with_capacity(text.len() + 1);
    let mut rest = text;
    let (mut in_string, mut escaped) = (false, false);
    while let Some(character) = rest.chars().next() {
        let word = NOT_FINITE.iter().find(|word| !in_string && rest.starts_with(**word));
        if let Some(word) = word {
            written.push_str("null");
            written.extend(std::iter::repeat_n(' ', word.len().saturating_sub("null".len())));
            rest = &rest[word.len()..];
            continue;
        }
        in_string ^= character == '"' && !escaped;
        escaped = in_string && character == '\\' && !escaped;
        written.push(character);
        rest = &rest[character.len_utf8()..];
    }
    Cow::Owned(written)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_are_not_finite_become_null_and_text_stays() {
        let text = r#"{"loss": NaN, "a": [Infinity,-Infinity], "NaN \" NaN": "Infinity\\", "b": NaN}"#;
        let expected =
            serde_json::json!({"loss": null, "a": [null, null], "NaN \" NaN": "Infinity\\", "b": null});
        assert_eq!(serde_json::from_str::<serde_json::Value>(&finite(text)).unwrap(), expected);
    }
}
