//! `trainer_state.json` of the Hugging Face Trainer: its `log_history`, one object a logged step.

use std::sync::Arc;

use super::columns::Column;
use super::json::{Fault, Reader, Scalar};
use super::jsonl;
use super::lines::refuse_utf16;
use super::table::{Table, Value};
use crate::error::{At, ErrorKind, Result};
use crate::files::InputFile;

/// Longest file that is read: some three million entries.
const MAX_BYTES: u64 = 512 << 20;

/// The log, what ended its reading early, and the step that the file as a whole is of.
pub(super) struct State {
    pub table: Table,
    pub fault: Option<(At, Fault)>,
    pub global_step: Option<f64>,
    pub has_log: bool,
}

/// Reads the entries of `log_history`, up to where the file stops being JSON.
///
/// # Errors
/// A file that is too large, or UTF-16, or has a `log_history` that is no list.
pub(super) fn read(file: &Arc<InputFile>, name: &str, choices: &[Column]) -> Result<State> {
    refuse_utf16(file)?;
    if file.len() > MAX_BYTES {
        let kind = ErrorKind::TooLarge { what: "trainer_state.json", actual: file.len(), limit: MAX_BYTES };
        return Err(kind.in_file(file.path()));
    }
    let mut buffer = Vec::new();
    let bytes = file.bytes(0..file.len(), &mut buffer)?;
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let mut table = Table::new(name, "trainer-state", choices);
    let (mut global_step, mut has_log, mut failed) = (None, false, None);
    let outcome = Reader::new(bytes).object(&mut |key, reader| match key {
        "log_history" if reader.peek() == Some(b'[') => {
            has_log = true;
            reader.array(&mut |reader| entry(reader, &mut table, &mut failed))
        }
        "log_history" => {
            failed.get_or_insert(ErrorKind::SideFile {
                what: "trainer_state.json",
                message: "log_history is not a list".to_owned(),
            });
            reader.skip()
        }
        "global_step" if !matches!(reader.peek(), Some(b'{' | b'[')) => {
            if let Scalar::Number(step) = reader.scalar()? {
                global_step = Some(step);
            }
            Ok(())
        }
        _ => reader.skip(),
    });
    if let Some(kind) = failed {
        return Err(kind.in_file(file.path()));
    }
    let fault = outcome.err().map(|fault| (place(bytes, fault.at), fault));
    table.finish();
    Ok(State { table, fault, global_step, has_log })
}

fn entry(
    reader: &mut Reader<'_>,
    table: &mut Table,
    failed: &mut Option<ErrorKind>,
) -> std::result::Result<(), Fault> {
    if reader.peek() != Some(b'{') {
        return reader.skip();
    }
    // The last entry of a finished run has the mean loss of all of it under `train_loss`.
    let mut cells: Vec<(String, f64)> = Vec::new();
    let (mut summary, mut texts) = (false, Vec::new());
    let outcome = jsonl::object(reader, &mut String::new(), &mut |name, value| match value {
        _ if name == "train_runtime" => summary = true,
        Value::Number(number) => cells.push((name.to_owned(), number)),
        Value::Text(text) => texts.push((name.to_owned(), Some(text.to_owned()))),
        Value::List(_) => texts.push((name.to_owned(), None)),
        Value::Nothing => {}
    });
    if !summary {
        let numbers = cells.iter().map(|(name, number)| (name, Value::Number(*number)));
        let texts =
            texts.iter().map(|(name, text)| (name, text.as_deref().map_or(Value::List(None), Value::Text)));
        for (name, value) in numbers.chain(texts) {
            if let Err(kind) = table.cell(name, value) {
                failed.get_or_insert(kind);
            }
        }
        if let Err(kind) = table.end_row() {
            failed.get_or_insert(kind);
        }
    }
    outcome
}

fn place(bytes: &[u8], at: usize) -> At {
    let before = &bytes[..at.min(bytes.len())];
    let line = before.split(|byte| *byte == b'\n').count();
    let column = before.len() - before.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1) + 1;
    At::Line(line, column)
}

/// The number under `key` in the outermost object of a text that is JSON but for NaN, as the Trainer writes it; `None` where
/// there is none.
pub fn outermost_number(bytes: &[u8], key: &str) -> Option<f64> {
    let mut found = None;
    // What stands before the text stops being JSON counts.
    let _ = Reader::new(bytes).object(&mut |own, reader| {
        if own != key || matches!(reader.peek(), Some(b'{' | b'[')) {
            return reader.skip();
        }
        if let Scalar::Number(number) = reader.scalar()? {
            found = Some(number);
        }
        Ok(())
    });
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_epoch_is_that_of_the_outermost_object_however_it_is_written() {
        let log = r#""log_history": [{"epoch": 0.1, "loss": NaN, "note": "a \" } b"}]"#;
        for text in [
            format!("{{{log}, \"epoch\": 0.6667, \"step\": 3}}"),
            format!("{{\"epoch\":0.6667,{log}}}"),
            "{\n  \"best\": null,\n  \"epoch\" : 0.6667\n}".to_owned(),
        ] {
            assert_eq!(outermost_number(text.as_bytes(), "epoch"), Some(0.6667), "{text}");
        }
        for text in
            [format!("{{{log}}}"), "{\"epoch".to_owned(), "[1, \"epoch\", 2]".to_owned(), String::new()]
        {
            assert_eq!(outermost_number(text.as_bytes(), "epoch"), None, "{text}");
        }
    }
}
