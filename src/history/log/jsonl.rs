//! One JSON object a line: our own `metrics.jsonl`, and what most hand-written loops append to.

use std::sync::Arc;

use super::columns::Column;
use super::json::{Fault, Reader, Scalar};
use super::lines::Lines;
use super::table::{Table, Value};
use crate::error::{At, ErrorKind, Result};
use crate::files::InputFile;

/// Reads every line that is an object. A last line without an end is one that its writer did not finish.
pub(super) fn read(file: &Arc<InputFile>, name: &str, choices: &[Column]) -> Result<(Table, Broken)> {
    let mut table = Table::new(name, "jsonl", choices);
    let mut broken = Broken::default();
    let mut lines = Lines::of(file)?;
    let mut last = 0;
    while let Some((number, line)) = lines.next()? {
        last = number;
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let mut failed = None;
        let mut reader = Reader::new(line);
        let outcome = object(&mut reader, &mut String::new(), &mut |name, value| {
            if let Err(kind) = table.cell(name, value) {
                failed = Some(kind);
            }
        });
        if let Err(fault) = outcome {
            broken.add(number, fault);
        }
        let ended = table.end_row();
        if let Some(kind) = failed.or(ended.err()) {
            return Err(kind.in_file(file.path()).at(At::Line(number, 1)));
        }
    }
    broken.too_long = lines.too_long;
    broken.cut_off = broken.lines == 1 && broken.first.is_some_and(|(number, _)| number == last);
    table.finish();
    Ok((table, broken))
}

/// Lines that are not what they should be.
#[derive(Debug, Default)]
pub(super) struct Broken {
    pub lines: u64,
    pub first: Option<(usize, Fault)>,
    /// The only one is the last line: its writer did not finish it.
    pub cut_off: bool,
    pub too_long: u64,
}

impl Broken {
    fn add(&mut self, number: usize, fault: Fault) {
        self.first.get_or_insert((number, fault));
        self.lines += 1;
    }
}

/// Every value of an object, those of objects in it under `outer/inner`.
pub(super) fn object<'a>(
    reader: &mut Reader<'a>,
    prefix: &mut String,
    each: &mut dyn FnMut(&str, Value<'_>),
) -> std::result::Result<(), Fault> {
    reader.object(&mut |key, reader| {
        let length = prefix.len();
        if !prefix.is_empty() {
            prefix.push('/');
        }
        prefix.push_str(key);
        let outcome = value(reader, prefix, each);
        prefix.truncate(length);
        outcome
    })
}

fn value<'a>(
    reader: &mut Reader<'a>,
    name: &mut String,
    each: &mut dyn FnMut(&str, Value<'_>),
) -> std::result::Result<(), Fault> {
    match reader.peek() {
        Some(b'{') => object(reader, name, each),
        Some(b'[') => {
            let mut first = None;
            reader.array(&mut |reader| match reader.peek() {
                Some(b'{' | b'[') => reader.skip(),
                _ => reader.scalar().map(|scalar| {
                    if let Scalar::Number(number) = scalar {
                        first.get_or_insert(number);
                    }
                }),
            })?;
            each(name, Value::List(first));
            Ok(())
        }
        _ => {
            match reader.scalar()? {
                Scalar::Number(number) => each(name, Value::Number(number)),
                Scalar::Bool(flag) => each(name, Value::Number(f64::from(u8::from(flag)))),
                Scalar::Text(text) => each(name, Value::Text(&text)),
                Scalar::Null => each(name, Value::Nothing),
            }
            Ok(())
        }
    }
}

/// What is wrong with a text that is not JSON, as an error at line and column.
pub(super) fn fault_kind(fault: Fault) -> ErrorKind {
    ErrorKind::SideFile { what: "the log", message: fault.message.to_owned() }
}
