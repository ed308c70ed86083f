//! Which format a file is in, by its first bytes. Its name only decides when they say nothing.

use std::path::Path;
use std::sync::Arc;

use super::zip::Archive;
use super::{Container, npy, npz, safetensors, shared, torch};
use crate::context::Context;
use crate::error::{ErrorKind, Result};
use crate::files::InputFile;

/// Bytes looked at. A tar names itself at byte 257.
const PROBE_BYTES: u64 = 512;

/// Opens the file at `path` and lists its tensors.
///
/// # Errors
/// When it cannot be opened, is of no format that is read (the error names the format where it is a known one), or is
/// too damaged to list anything.
pub fn read(path: &Path, context: &Context) -> Result<Container> {
    read_file(&Arc::new(InputFile::open(path, context)?), context)
}

/// Lists the tensors of an open file.
///
/// # Errors
/// As [`read`].
pub fn read_file(file: &Arc<InputFile>, context: &Context) -> Result<Container> {
    let mut buffer = Vec::new();
    let start = file.bytes(0..file.len().min(PROBE_BYTES), &mut buffer)?;
    let container = match Content::of(start, file.path()) {
        Content::Safetensors => safetensors::read(file),
        Content::Pickles => torch::legacy::read(file.clone(), context),
        Content::Npy => npy::read(file.clone(), context),
        Content::Zip if npz::matches(&Archive::open(file)?) => npz::read(file.clone(), context),
        Content::Zip => torch::read(file.clone(), context),
        Content::Refused(kind) => Err(kind.in_file(file.path())),
    }?;
    Ok(shared::bound(container, file))
}

/// What the first bytes of a file say.
#[derive(Debug, PartialEq)]
enum Content {
    Safetensors,
    Zip,
    Pickles,
    Npy,
    Refused(ErrorKind),
}

/// Formats that are named but not read, by the bytes they begin with.
const OTHERS: &[(&[u8], &str)] = &[
    (b"GGUF", "GGUF"),
    (b"lmgg", "ggml, the format before GGUF,"),
    (b"tjgg", "ggjt, the format before GGUF,"),
    (b"\x89HDF\r\n\x1a\n", "HDF5 (Keras .h5)"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive"),
    (b"\xfd7zXZ\x00", "an xz archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive"),
    (b"Rar!\x1a\x07", "a RAR archive"),
    (b"PAR1", "Parquet"),
    (b"ARROW1", "Arrow"),
];

/// What archives of plain tar hold at byte 257.
const TAR_MAGIC: &[u8] = b"ustar";

/// What TensorFlow Lite files hold at byte 4.
const TFLITE_MAGIC: &[u8] = b"TFL3";

impl Content {
    fn of(start: &[u8], path: &Path) -> Self {
        if start.starts_with(b"PK\x03\x04") {
            return Self::Zip;
        }
        // The length of a safetensors header can look like the start of a pickle.
        if torch::legacy::matches(start) && !looks_like_safetensors(start) {
            return Self::Pickles;
        }
        if npy::matches(start) {
            return Self::Npy;
        }
        if let Some(format) = other_format(start) {
            return Self::Refused(ErrorKind::UnsupportedFormat { format });
        }
        if let Some(kind) = text(start) {
            return Self::Refused(kind);
        }
        let named_so = path.extension().is_some_and(|extension| extension == "safetensors");
        if looks_like_safetensors(start) || named_so {
            return Self::Safetensors;
        }
        Self::Refused(match guess(start) {
            Some(format) => ErrorKind::UnsupportedFormat { format },
            None => ErrorKind::UnknownFormat,
        })
    }
}

fn other_format(start: &[u8]) -> Option<&'static str> {
    let at = |offset: usize, magic: &[u8]| start.get(offset..).is_some_and(|rest| rest.starts_with(magic));
    if at(257, TAR_MAGIC) {
        return Some("a tar archive");
    }
    if at(4, TFLITE_MAGIC) {
        return Some("TensorFlow Lite");
    }
    OTHERS.iter().find(|(magic, _)| at(0, magic)).map(|&(_, format)| format)
}

/// A header's length that could be one, and then a header, perhaps behind a byte order mark.
fn looks_like_safetensors(start: &[u8]) -> bool {
    let header = start.get(8..).unwrap_or_default();
    let header = header.strip_prefix(BYTE_ORDER_MARK).unwrap_or(header);
    header.trim_ascii_start().starts_with(b"{")
}

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// What kind of text this is, where it is text.
fn text(start: &[u8]) -> Option<ErrorKind> {
    let control = |byte: &u8| byte.is_ascii_control() && !byte.is_ascii_whitespace();
    let valid = match std::str::from_utf8(start) {
        Ok(_) => true,
        // The probe may end inside a character.
        Err(error) => error.error_len().is_none(),
    };
    if !valid || start.iter().any(control) {
        return None;
    }
    let text = start.strip_prefix(BYTE_ORDER_MARK).unwrap_or(start).trim_ascii_start().to_ascii_lowercase();
    let begins = |prefix: &str| text.starts_with(prefix.as_bytes());
    Some(if begins("version https://git-lfs") {
        ErrorKind::GitLfsPointer
    } else if begins("<!doctype html") || begins("<html") {
        ErrorKind::WebPage
    } else if begins("<?xml") {
        ErrorKind::TextFile { what: "XML" }
    } else if begins("{") || begins("[") {
        ErrorKind::TextFile { what: "JSON" }
    } else {
        ErrorKind::TextFile { what: "text" }
    })
}

/// Formats without a magic number, by what their first fields usually are.
fn guess(start: &[u8]) -> Option<&'static str> {
    match start {
        // ModelProto: field 1 (ir_version), a small number, then the producer's name, the opset or the graph.
        [0x08, 1..=32, 0x12 | 0x1a | 0x22 | 0x28 | 0x3a | 0x42, ..] => Some("ONNX, or another protobuf,"),
        // A map of few entries whose first key is a string.
        [0x81..=0x8f, 0xa1..=0xbf | 0xd9 | 0xda, ..] | [0xde | 0xdf, _, _, ..] => Some("MessagePack (flax)"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(start: &[u8]) -> Content {
        Content::of(start, Path::new("file.bin"))
    }

    #[test]
    fn content_decides_and_not_the_name() {
        assert_eq!(content(b"\x02\0\0\0\0\0\0\0{}"), Content::Safetensors);
        assert_eq!(content(b"\x05\0\0\0\0\0\0\0\xef\xbb\xbf{}"), Content::Safetensors);
        assert_eq!(content(b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."), Content::Pickles);
        assert_eq!(content(b"\x80\x02\0\0\0\0\0\0{}"), Content::Safetensors);
        assert_eq!(content(b"\x93NUMPY\x01\0"), Content::Npy);
        assert_eq!(Content::of(b"PK\x03\x04rest", Path::new("a.safetensors")), Content::Zip);
    }

    #[test]
    fn the_name_decides_where_the_content_says_nothing() {
        assert_eq!(Content::of(b"\x02\0\0\0\0\0\0\0[]", Path::new("a.safetensors")), Content::Safetensors);
        assert_eq!(content(b"\x02\0\0\0\0\0\0\0[]"), Content::Refused(ErrorKind::UnknownFormat));
    }

    #[test]
    fn formats_of_others_are_named() {
        let tar = [&[0u8; 257][..], b"ustar\x0000"].concat();
        let files: [(&[u8], &str); 5] = [
            (b"GGUF\x03\0\0\0", "GGUF"),
            (b"\x89HDF\r\n\x1a\n\0", "HDF5 (Keras .h5)"),
            (b"\x08\x08\x12\x07pytorch", "ONNX, or another protobuf,"),
            (b"\x81\xa6params", "MessagePack (flax)"),
            (&tar, "a tar archive"),
        ];
        for (start, format) in files {
            assert_eq!(content(start), Content::Refused(ErrorKind::UnsupportedFormat { format }), "{format}");
        }
    }

    #[test]
    fn downloads_that_went_wrong_are_named() {
        let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n";
        assert_eq!(content(pointer), Content::Refused(ErrorKind::GitLfsPointer));
        assert_eq!(content(b"\n<!DOCTYPE html><html>"), Content::Refused(ErrorKind::WebPage));
        assert_eq!(content(b"{\"a\": 1}"), Content::Refused(ErrorKind::TextFile { what: "JSON" }));
        assert_eq!(
            content("Zugriff verweigert für".as_bytes()),
            Content::Refused(ErrorKind::TextFile { what: "text" })
        );
    }
}
