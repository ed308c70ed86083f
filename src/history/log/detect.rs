//! Which format a log has, by its name and its first bytes, and what is to be said about reading it.

use std::sync::Arc;

use super::columns::Column;
use super::jsonl::{self, Broken};
use super::table::Table;
use super::{LogFile, csv, events, megatron, torchtitan, trainer_state};
use crate::context::Context;
use crate::error::{At, Error, ErrorKind, Result};
use crate::files::InputFile;

/// How far into a text lines of a known shape are looked for: what launchers print first is long.
const LOOKED_AT: u64 = 4 << 20;

/// What was read of one log.
pub(super) struct ReadLog {
    pub table: Table,
    /// What is wrong with it, though it was read.
    pub problem: Option<Error>,
    /// What should be known: sentences.
    pub notes: Vec<String>,
    /// The step that the file is of, where it says so.
    pub global_step: Option<f64>,
}

impl From<Table> for ReadLog {
    fn from(table: Table) -> Self {
        Self { table, problem: None, notes: Vec::new(), global_step: None }
    }
}

/// Reads a log; `None` where the file is of no format that is known. What has no column that is recognised is a log too.
pub(super) fn read(log: &LogFile, choices: &[Column], context: &Context) -> Result<Option<ReadLog>> {
    let file = Arc::new(InputFile::open(&log.path, context)?);
    let name = log.name.as_str();
    let base = name.rsplit('/').next().unwrap_or(name);
    if base.contains("tfevents") {
        return events::read(&file, name, choices).map(|events| Some(of_events(events, &file)));
    }
    let read = match text_format(&file, base)? {
        Some(Text::Json) => {
            let state = trainer_state::read(&file, name, choices)?;
            state.has_log.then(|| of_state(state, &file))
        }
        Some(Text::Lines) => Some(of_lines(jsonl::read(&file, name, choices)?, &file)),
        Some(Text::Table) => Some(csv::read(&file, name, choices)?.into()),
        Some(Text::Megatron) => Some(megatron::read(&file, name, choices)?.into()),
        Some(Text::Torchtitan) => Some(torchtitan::read(&file, name, choices)?.into()),
        None => None,
    };
    file.check_unchanged()?;
    Ok(read)
}

enum Text {
    Json,
    Lines,
    Table,
    Megatron,
    Torchtitan,
}

fn text_format(file: &InputFile, name: &str) -> Result<Option<Text>> {
    let extension = name.rsplit_once('.').map_or("", |(_, extension)| extension).to_ascii_lowercase();
    match extension.as_str() {
        "json" => return Ok(Some(Text::Json)),
        "jsonl" | "ndjson" => return Ok(Some(Text::Lines)),
        "csv" | "tsv" => return Ok(Some(Text::Table)),
        _ => {}
    }
    let mut buffer = Vec::new();
    let start = file.bytes(0..file.len().min(LOOKED_AT), &mut buffer)?;
    if start.starts_with(&[0xff, 0xfe]) || start.starts_with(&[0xfe, 0xff]) {
        // Refused by name by every reader of text.
        return Ok(Some(Text::Megatron));
    }
    if start.iter().take(1024).any(|byte| *byte == 0) {
        return Ok(None);
    }
    let first = start.iter().position(|byte| !byte.is_ascii_whitespace());
    if first.is_some_and(|first| start[first] == b'{') {
        let one = start.windows(13).take(1 << 16).any(|window| window == b"\"log_history\"");
        return Ok(Some(if one { Text::Json } else { Text::Lines }));
    }
    let shape = start.split(|byte| *byte == b'\n').find_map(|line| {
        let line = String::from_utf8_lossy(line);
        if megatron::iteration(&line).is_some() {
            return Some(Text::Megatron);
        }
        torchtitan::fields(&torchtitan::without_colours(&line)).map(|_| Text::Torchtitan)
    });
    Ok(shape)
}

fn of_events(events: events::Events, file: &Arc<InputFile>) -> ReadLog {
    let mut read = ReadLog::from(events.table);
    match events.ended {
        // The usual end of a file whose writer was killed.
        Some(reason) if reason.starts_with("it ends") => {
            read.notes.push(format!("{reason}: its writer was killed, or still runs"));
        }
        Some(reason) => {
            let kind = ErrorKind::SideFile {
                what: "the log",
                message: format!("{reason}; what comes before was read"),
            };
            read.problem = Some(kind.at_byte(file.path(), events.at));
        }
        None if events.damaged > 0 => {
            let message = format!("the checksum of {} records is wrong: they were left out", events.damaged);
            let kind = ErrorKind::SideFile { what: "the log", message };
            read.problem = Some(kind.at_byte(file.path(), events.first_damaged));
        }
        None => {}
    }
    read
}

fn of_state(state: trainer_state::State, file: &Arc<InputFile>) -> ReadLog {
    let mut read = ReadLog::from(state.table);
    read.global_step = state.global_step;
    read.problem = state.fault.map(|(at, fault)| jsonl::fault_kind(fault).in_file(file.path()).at(at));
    read
}

fn of_lines((table, broken): (Table, Broken), file: &Arc<InputFile>) -> ReadLog {
    let mut read = ReadLog::from(table);
    if let Some((line, fault)) = broken.first {
        if broken.cut_off && !read.table.series.is_empty() {
            read.notes.push(format!("line {line} is not complete: its writer was killed, or still runs"));
        } else {
            let message =
                format!("{} lines are not JSON objects, the first: {}", broken.lines, fault.message);
            let kind = ErrorKind::SideFile { what: "the log", message };
            read.problem = Some(kind.in_file(file.path()).at(At::Line(line, fault.at + 1)));
        }
    }
    if broken.too_long > 0 {
        read.notes.push(format!("{} lines are longer than any row and were passed over", broken.too_long));
    }
    read
}
