//! `state.json` of our own checkpoints: the optimizer's numbers in it, read and written by JSON pointer.
//!
//! Only the numbers that are edited are written anew, where they stand.

use std::path::Path;

use serde_json::Value;

use super::super::edit::{NumberAt, NumberEdit};
use super::splice;
use crate::checkpoint::optimizer::Quantity;
use crate::checkpoint::{Checkpoint, Layout};
use crate::context::Context;
use crate::error::{At, Error, ErrorKind, Result};
use crate::files::open_sibling;

/// Its name.
pub(in crate::recover) const STATE: &str = "state.json";

/// Longest one that is read, as where the checkpoint is read.
const MAX_BYTES: u64 = 16 << 20;

/// Keys under which the groups stand, in our words and in torch's.
const GROUPS: [&str; 2] = ["groups", "param_groups"];

/// The value of our own state, where the checkpoint is one of ours.
///
/// # Errors
/// When it is not JSON.
pub(in crate::recover) fn read(checkpoint: &Checkpoint) -> Result<Option<Value>> {
    if checkpoint.layout != Layout::RunDirectory {
        return Ok(None);
    }
    parse(&checkpoint.path.join(STATE)).map(Some)
}

fn parse(path: &Path) -> Result<Value> {
    let text = text(path)?;
    serde_json::from_str(&text).map_err(|error| {
        let at = At::Line(error.line(), error.column());
        ErrorKind::SideFile { what: STATE, message: error.to_string() }.in_file(path).at(at)
    })
}

fn text(path: &Path) -> Result<String> {
    let directory = path.parent().unwrap_or(Path::new("."));
    let file = open_sibling(directory, STATE, &Context { mmap: false, ..Context::default() })?;
    if file.len() > MAX_BYTES {
        let kind = ErrorKind::TooLarge { what: STATE, actual: file.len(), limit: MAX_BYTES };
        return Err(kind.in_file(path));
    }
    let mut buffer = Vec::new();
    let bytes = file.bytes(0..file.len(), &mut buffer)?;
    let text = std::str::from_utf8(bytes).map_err(|_| {
        ErrorKind::SideFile { what: STATE, message: "it is not UTF-8".to_owned() }.in_file(path)
    })?;
    Ok(text.to_owned())
}

/// Every number of the optimizer's groups: its JSON pointer, what it sets, its value.
///
/// # Errors
/// When the file is not JSON.
pub(in crate::recover) fn numbers(checkpoint: &Checkpoint) -> Result<Vec<(String, Quantity, f64)>> {
    let Some(state) = read(checkpoint)? else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    for key in GROUPS {
        let list = format!("/optimizer/{key}");
        let count = state.pointer(&list).and_then(Value::as_array).map_or(0, Vec::len);
        for group in 0..count {
            for (leaf, quantity) in [
                ("lr", Quantity::LearningRate),
                ("initial_lr", Quantity::BaseRate),
                ("betas/1", Quantity::Beta2),
                ("eps", Quantity::Epsilon),
            ] {
                let pointer = format!("{list}/{group}/{leaf}");
                if let Some(value) = state.pointer(&pointer).and_then(Value::as_f64) {
                    found.push((pointer, quantity, value));
                }
            }
        }
    }
    Ok(found)
}

/// Writes `source` with its edits to `target`.
pub(super) fn write(source: &Path, target: &Path, numbers: &[&NumberEdit]) -> Result<()> {
    let mut edits = Vec::new();
    for number in numbers {
        if let NumberAt::Json(pointer) = &number.at {
            edits.push((pointer.as_str(), Value::from(number.to).to_string()));
        }
    }
    let text = splice::replaced(&text(source)?, &edits).ok_or_else(|| {
        let message = "a number that is to be edited is not there any more".to_owned();
        ErrorKind::NotEditable { message }.in_file(source)
    })?;
    std::fs::write(target, text).map_err(|error| Error::io(target, "write it", &error))
}
