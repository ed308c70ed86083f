//! `state.json` of our own checkpoints: the optimizer's numbers in it, read and written by JSON pointer.
//!
//! The file is written anew, its keys in their order; numbers that are not edited keep their value.

use std::path::Path;

use serde_json::Value;

use super::super::edit::{NumberAt, NumberEdit};
use crate::checkpoint::optimizer::Quantity;
use crate::checkpoint::{Checkpoint, Layout};
use crate::error::{At, Error, ErrorKind, Result};

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
    let metadata = std::fs::metadata(path).map_err(|error| Error::io(path, "look at it", &error))?;
    if metadata.len() > MAX_BYTES {
        let kind = ErrorKind::TooLarge { what: STATE, actual: metadata.len(), limit: MAX_BYTES };
        return Err(kind.in_file(path));
    }
    let text = std::fs::read_to_string(path).map_err(|error| Error::io(path, "read it", &error))?;
    serde_json::from_str(&text).map_err(|error| {
        let at = At::Line(error.line(), error.column());
        ErrorKind::SideFile { what: STATE, message: error.to_string() }.in_file(path).at(at)
    })
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
    let mut state = parse(source)?;
    for number in numbers {
        let NumberAt::Json(pointer) = &number.at else { continue };
        let message = format!("{} is not there any more", number.name);
        let place =
            state.pointer_mut(pointer).ok_or_else(|| ErrorKind::NotEditable { message }.in_file(source))?;
        *place = Value::from(number.to);
    }
    let mut text = serde_json::to_vec_pretty(&state).expect("plain data with text keys");
    text.push(b'\n');
    std::fs::write(target, text).map_err(|error| Error::io(target, "write it", &error))
}
