//! What logs held before a new attempt began: the place at which each ended, so that what comes behind it can be told from what
//! stood there. By place and not by value: an attempt that fails as the one before did logs the same numbers.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::merge::counts_from_zero;
use super::table::Table;
use super::{LogFiles, detect};
use crate::context::Context;
use crate::files::InputFile;
use crate::history::{History, Options, discovery};

/// Bytes at the beginning and at the end of a log by which it is known again.
const KNOWN_BY: u64 = 4096;

/// Logs as they stood before an attempt that begins behind a step.
#[derive(Debug, Clone, Default)]
pub struct Earlier {
    step: u64,
    logs: BTreeMap<PathBuf, Written>,
}

/// One log as it stood.
#[derive(Debug, Clone)]
struct Written {
    length: u64,
    modified: Option<SystemTime>,
    first: Vec<u8>,
    last: Vec<u8>,
    /// Values by column.
    values: BTreeMap<String, usize>,
    /// Rows that say what their batch was made of.
    data: usize,
}

impl Earlier {
    /// Notes where the logs of `run` end, which need not be there, before an attempt that goes on from `step`.
    pub fn note(run: &Path, step: u64, options: &Options, context: &Context) -> Self {
        let mut earlier = Self { step, logs: BTreeMap::new() };
        let options = &Options { earlier: Some(earlier.clone()), ..options.clone() };
        let mut history = History::of(run, options);
        let Ok((files, _)) = discovery::discover(run, options, context, &mut history) else { return earlier };
        let LogFiles { logs, states } = &files;
        for file in logs.iter().chain(states) {
            let noted = Written::note(&file.path, context);
            let read = detect::read(file, &options.columns, context);
            if let (Some(mut written), Ok(Some(read))) = (noted, read) {
                let values =
                    read.table.series.iter().map(|series| (series.name.clone(), series.points.len()));
                written.values = values.collect();
                written.data = read.table.data.len();
                earlier.logs.insert(file.path.clone(), written);
            }
        }
        earlier
    }

    /// Forgets the logs that do not begin any more with what they held: they were written anew, and all of them counts.
    pub fn forget_rewritten(&mut self, context: &Context) {
        self.logs.retain(|path, written| written.is_kept(path, context));
    }

    /// Leaves out what the log at `path` held of steps behind the one that the attempt goes on from. Whether there was such a log.
    pub(super) fn leave_out(&self, path: &Path, table: &mut Table) -> bool {
        let Some(written) = self.logs.get(path) else { return false };
        let shift = u64::from(counts_from_zero(table));
        let is_before = |step: u64| step + shift <= self.step;
        for series in &mut table.series {
            let old = written.values.get(&series.name).copied().unwrap_or(0);
            let mut at = 0;
            series.points.retain(|&(step, _)| {
                at += 1;
                at > old || is_before(step)
            });
        }
        let mut at = 0;
        table.data.retain(|&(step, _)| {
            at += 1;
            at > written.data || is_before(step)
        });
        true
    }

    /// The step that the attempt goes on from.
    pub(super) const fn step(&self) -> u64 {
        self.step
    }
}

impl Written {
    fn note(path: &Path, context: &Context) -> Option<Self> {
        let metadata = std::fs::metadata(path).ok()?;
        let (first, last) = ends(path, metadata.len(), context)?;
        let modified = metadata.modified().ok();
        Some(Self { length: metadata.len(), modified, first, last, values: BTreeMap::new(), data: 0 })
    }

    /// Whether it is the same log, which may have grown. One of the same length that was written to was written anew.
    fn is_kept(&self, path: &Path, context: &Context) -> bool {
        let Ok(metadata) = std::fs::metadata(path) else { return false };
        if metadata.len() < self.length
            || metadata.len() == self.length && metadata.modified().ok() != self.modified
        {
            return false;
        }
        let same = |(first, last)| first == self.first && last == self.last;
        ends(path, self.length, context).is_some_and(same)
    }
}

/// The first bytes, and the last before `length`.
fn ends(path: &Path, length: u64, context: &Context) -> Option<(Vec<u8>, Vec<u8>)> {
    if length == 0 {
        return Some((Vec::new(), Vec::new()));
    }
    let file = InputFile::open(path, context).ok()?;
    let (mut first, mut last) = (Vec::new(), Vec::new());
    let first = file.bytes(0..length.min(KNOWN_BY), &mut first).ok()?.to_vec();
    let last = file.bytes(length.saturating_sub(KNOWN_BY)..length, &mut last).ok()?.to_vec();
    Some((first, last))
}
