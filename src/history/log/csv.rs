//! Comma, semicolon or tab separated columns under a header: Lightning's `metrics.csv`, timm's `summary.csv`, exports of wandb.

use std::io::{self, Read};
use std::sync::Arc;

use super::columns::Column;
use super::lines::{MAX_LINE, Stream, refuse_utf16};
use super::table::{Table, Value};
use crate::error::{At, Error, ErrorKind, Result};
use crate::files::InputFile;

/// Reads the rows under the header.
///
/// A row with more or fewer cells than the header is read as far as it goes: loggers that add a column later leave such.
pub(super) fn read(file: &Arc<InputFile>, name: &str, choices: &[Column]) -> Result<Table> {
    refuse_utf16(file)?;
    let unusable = |error: ::csv::Error| unusable(file, error);
    let mut reader = ::csv::ReaderBuilder::new()
        .flexible(true)
        .delimiter(delimiter(file))
        .trim(::csv::Trim::All)
        .from_reader(Bounded { stream: Stream::new(file), line: 0 });
    let header = reader.byte_headers().map_err(unusable)?.clone();
    let names: Vec<String> = header
        .iter()
        .map(|name| String::from_utf8_lossy(name.strip_prefix(b"\xef\xbb\xbf").unwrap_or(name)).into_owned())
        .collect();
    let mut table = Table::new(name, "csv", choices);
    let mut record = ::csv::ByteRecord::new();
    while reader.read_byte_record(&mut record).map_err(unusable)? {
        let line = record.position().map_or(0, |position| position.line() as usize);
        let repeated_header = record == header;
        let mut outcome = Ok(());
        for (name, cell) in names.iter().zip(&record).filter(|_| !repeated_header) {
            outcome = outcome.and(table.cell(name, Value::Text(&String::from_utf8_lossy(cell))));
        }
        let outcome = outcome.and(table.end_row());
        outcome.map_err(|kind| kind.in_file(file.path()).at(At::Line(line, 1)))?;
    }
    table.finish();
    Ok(table)
}

/// The separator that the first line has most of.
fn delimiter(file: &Arc<InputFile>) -> u8 {
    let mut start = vec![0; file.len().min(1 << 16) as usize];
    if file.read_exact_at(&mut start, 0).is_err() {
        return b',';
    }
    let line = start.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let count = |wanted: u8| line.split(|byte| *byte == wanted).count();
    [b',', b'\t', b';'].into_iter().rev().max_by_key(|wanted| count(*wanted)).unwrap_or(b',')
}

fn unusable(file: &Arc<InputFile>, error: ::csv::Error) -> Error {
    let at = error.position().map(|position| At::Line(position.line() as usize, 1));
    let message = error.to_string();
    let error = match error.into_kind() {
        ::csv::ErrorKind::Io(error) => error.downcast::<Error>().ok(),
        _ => None,
    };
    let error =
        error.unwrap_or_else(|| ErrorKind::SideFile { what: "the log", message }.in_file(file.path()));
    at.map_or(error.clone(), |at| error.at(at))
}

/// A stream that ends in an error where a line is longer than any row is, so that no row outgrows memory.
struct Bounded {
    stream: Stream,
    line: u64,
}

impl Read for Bounded {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.stream.read(buffer)?;
        match buffer[..read].iter().rposition(|byte| *byte == b'\n') {
            Some(end) => self.line = (read - end - 1) as u64,
            None => self.line += read as u64,
        }
        if self.line > MAX_LINE {
            return Err(io::Error::other(format!("a row is longer than {MAX_LINE} bytes")));
        }
        Ok(read)
    }
}
