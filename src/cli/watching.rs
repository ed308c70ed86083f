//! `--watch`: what is told about the log while the command runs, and once it has ended.

use std::path::Path;

use flashpoint::context::Context;
use flashpoint::recover::{Seen, Watch};

/// Looks in a row at which the log could not be read, before that is told: a writer may be in its midst.
const TOLD_AFTER: u32 = 2;

/// A log that is watched, and what was told about it.
pub struct Watching<'a> {
    watch: Watch,
    log: &'a Path,
    step: u64,
    is_seen: bool,
    unreadable: u32,
}

impl<'a> Watching<'a> {
    /// Nothing told yet of the log at `log`, whose new attempt begins behind `step`.
    pub fn new(watch: Watch, log: &'a Path, step: u64) -> Self {
        Self { watch, log, step, is_seen: false, unreadable: 0 }
    }

    /// Looks at the log; why the command is to be stopped, where it is.
    pub fn look(&mut self, context: &Context) -> Option<String> {
        let seen = self.watch.look(context);
        if !matches!(seen, Seen::Unreadable(_)) {
            self.unreadable = 0;
        }
        match seen {
            Seen::BlownUp(reason) => {
                self.is_seen = true;
                return Some(reason);
            }
            Seen::Fine { .. } if !self.is_seen => {
                self.is_seen = true;
                eprintln!("flashpoint: its log is being watched");
            }
            Seen::Unreadable(reason) => {
                self.unreadable = self.unreadable.saturating_add(1);
                if self.unreadable == TOLD_AFTER {
                    eprintln!(
                        "flashpoint: the log to watch cannot be read, and nothing is watched: {reason}"
                    );
                }
            }
            _ => {}
        }
        None
    }

    /// A last look, once the command has ended: what the log says that nobody was told, or that it never said anything.
    pub fn finish(&mut self, context: &Context) {
        if let Some(reason) = self.look(context) {
            eprintln!("flashpoint: it had blown up again before it ended: {reason}");
        }
        if !self.is_seen {
            let log = self.log.display().to_string();
            eprintln!(
                "flashpoint: --watch {} never saw a step behind {}: nothing was watched",
                log.escape_debug(),
                self.step
            );
        }
    }
}
