//! JSON side files, as Python writes them: bare `NaN` and `Infinity` are read as null, a byte order mark is skipped.

use std::io::{BufReader, Read};
use std::path::Path;

use serde::de::DeserializeOwned;

use crate::context::Context;
use crate::error::{At, Error, ErrorKind, Result};
use crate::files::open_sibling;

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
    let file = open_sibling(directory, name, context)?;
    let path = file.path();
    if file.len() > limit {
        return Err(ErrorKind::TooLarge { what, actual: file.len(), limit }.in_file(path));
    }
    let mut buffer = Vec::new();
    let bytes = file.bytes(0..file.len(), &mut buffer)?;
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let text = std::str::from_utf8(bytes).map_err(|_| not_utf8(path, what))?;
    let parsed = if NOT_FINITE.iter().any(|word| text.contains(word)) {
        serde_json::from_reader(BufReader::new(Finite::of(text)))
    } else {
        serde_json::from_str(text)
    };
    parsed.map_err(|error| {
        let message = error.to_string().chars().take(160).collect();
        let at = At::Line(error.line(), error.column());
        ErrorKind::SideFile { what, message }.in_file(path).at(at)
    })
}

fn not_utf8(path: &Path, what: &'static str) -> Error {
    ErrorKind::SideFile { what, message: "it is not UTF-8".to_owned() }.in_file(path)
}

/// Words that Python's `json` writes for floats that JSON cannot express. The longer one of a pair stands first.
const NOT_FINITE: &[&str] = &["-Infinity", "Infinity", "NaN"];

/// JSON with null in place of numbers that are not finite, at the same columns, as it is read: no copy of it is made.
struct Finite<'a> {
    rest: &'a [u8],
    in_string: bool,
    escaped: bool,
    /// What is still to come of a null.
    null: &'static [u8],
}

impl<'a> Finite<'a> {
    fn of(text: &'a str) -> Self {
        Self { rest: text.as_bytes(), in_string: false, escaped: false, null: b"" }
    }

    fn next(&mut self) -> Option<u8> {
        if let Some((&byte, null)) = self.null.split_first() {
            self.null = null;
            return Some(byte);
        }
        let (&byte, rest) = self.rest.split_first()?;
        if !self.in_string
            && let Some(word) = NOT_FINITE.iter().find(|word| self.rest.starts_with(word.as_bytes()))
        {
            self.rest = &self.rest[word.len()..];
            // As long as the word; blanks may follow a number wherever one may stand.
            self.null = &b"ull     "[..word.len().max(4) - 1];
            return Some(b'n');
        }
        self.in_string ^= byte == b'"' && !self.escaped;
        self.escaped = self.in_string && byte == b'\\' && !self.escaped;
        self.rest = rest;
        Some(byte)
    }
}

impl Read for Finite<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let mut read = 0;
        while read < buffer.len()
            && let Some(byte) = self.next()
        {
            buffer[read] = byte;
            read += 1;
        }
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_are_not_finite_become_null_and_text_stays() {
        let text = r#"{"loss": NaN, "a": [Infinity,-Infinity], "NaN \" NaN": "Infinity\\", "b": NaN}"#;
        let expected =
            serde_json::json!({"loss": null, "a": [null, null], "NaN \" NaN": "Infinity\\", "b": null});
        assert_eq!(serde_json::from_reader::<_, serde_json::Value>(Finite::of(text)).unwrap(), expected);
    }
}
