//! A text file line by line, in bounded memory.

use std::io::{self, BufRead, BufReader, Read};
use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result};
use crate::files::InputFile;

/// Longer lines are passed over: no row of a log is as long.
pub(super) const MAX_LINE: u64 = 4 << 20;

/// The bytes of a file, from the front.
#[derive(Debug)]
pub(super) struct Stream {
    file: Arc<InputFile>,
    at: u64,
}

impl Stream {
    pub(super) fn new(file: &Arc<InputFile>) -> Self {
        Self { file: file.clone(), at: 0 }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = (self.file.len() - self.at).min(buffer.len() as u64) as usize;
        self.file.read_exact_at(&mut buffer[..length], self.at).map_err(io::Error::other)?;
        self.at += length as u64;
        Ok(length)
    }
}

/// The lines of a file, with their numbers from 1.
#[derive(Debug)]
pub(super) struct Lines {
    reader: BufReader<Stream>,
    line: Vec<u8>,
    number: usize,
    /// Lines that were passed over.
    pub too_long: u64,
}

impl Lines {
    /// # Errors
    /// When the text is UTF-16.
    pub(super) fn of(file: &Arc<InputFile>) -> Result<Self> {
        refuse_utf16(file)?;
        let reader = BufReader::with_capacity(1 << 16, Stream::new(file));
        Ok(Self { reader, line: Vec::new(), number: 0, too_long: 0 })
    }

    /// The next line without its end, and its number; a byte order mark is not part of the first one.
    pub(super) fn next(&mut self) -> Result<Option<(usize, &[u8])>> {
        loop {
            self.line.clear();
            let limited = &mut (&mut self.reader).take(MAX_LINE + 1);
            limited.read_until(b'\n', &mut self.line).map_err(refused)?;
            if self.line.is_empty() {
                return Ok(None);
            }
            self.number += 1;
            if self.line.last() != Some(&b'\n') && self.line.len() as u64 > MAX_LINE {
                self.too_long += 1;
                self.pass_over()?;
                continue;
            }
            break;
        }
        let line = self.line.strip_suffix(b"\n").unwrap_or(&self.line);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        Ok(Some((self.number, line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line))))
    }

    /// Reads on to the end of a line that is too long.
    fn pass_over(&mut self) -> Result<()> {
        loop {
            self.line.clear();
            let read =
                (&mut self.reader).take(MAX_LINE).read_until(b'\n', &mut self.line).map_err(refused)?;
            if read == 0 || self.line.last() == Some(&b'\n') {
                return Ok(());
            }
        }
    }
}

/// Errors of a [`Stream`] are ours, wrapped for the standard library.
fn refused(error: io::Error) -> Error {
    error.downcast::<Error>().unwrap_or_else(|error| Error::io("".as_ref(), "read it", &error))
}

/// What PowerShell writes behind `>` is named, rather than read as text with holes.
pub(super) fn refuse_utf16(file: &Arc<InputFile>) -> Result<()> {
    let mut start = [0; 2];
    if file.len() < 2 || file.read_exact_at(&mut start, 0).is_err() {
        return Ok(());
    }
    if start == [0xff, 0xfe] || start == [0xfe, 0xff] {
        let message = "it is UTF-16: convert it with iconv -f UTF-16 -t UTF-8".to_owned();
        return Err(ErrorKind::SideFile { what: "the log", message }.in_file(file.path()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::Context;

    fn read(bytes: &[u8]) -> (Vec<(usize, String)>, u64) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        std::fs::write(&path, bytes).unwrap();
        let file = Arc::new(InputFile::open(&path, &Context::default()).unwrap());
        let mut lines = Lines::of(&file).unwrap();
        let mut found = Vec::new();
        while let Some((number, line)) = lines.next().unwrap() {
            found.push((number, String::from_utf8_lossy(line).into_owned()));
        }
        (found, lines.too_long)
    }

    #[test]
    fn ends_of_lines_and_the_byte_order_mark_are_no_text() {
        let (found, _) = read(b"\xef\xbb\xbfa\r\nb\n\nc");
        assert_eq!(found, [(1, "a".into()), (2, "b".into()), (3, String::new()), (4, "c".into())]);
    }

    #[test]
    fn a_line_that_never_ends_is_passed_over() {
        let mut bytes = b"a\n".to_vec();
        bytes.resize(bytes.len() + 3 * MAX_LINE as usize, b'x');
        bytes.extend(b"\nb\n");
        assert_eq!(read(&bytes), (vec![(1, "a".into()), (3, "b".into())], 1));
    }
}
