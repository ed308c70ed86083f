//! How far long work is, on stderr: a bar where someone watches, a line every so often where none does, nothing where the
//! work is short.

use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use flashpoint::context::{self, Context, Reached};
use flashpoint::number::{bytes, grouped};
use flashpoint::report::safe;
use indicatif::{ProgressBar, ProgressStyle};

/// Shorter work than this shows nothing.
const PATIENCE: Duration = Duration::from_millis(500);

/// Time between two looks at the counter.
const INTERVAL: Duration = Duration::from_millis(100);

/// Time to the first line in a log, and from one to the next: a job of an hour writes about a hundred.
const LINES: Duration = Duration::from_secs(30);

/// Columns of a tensor's name.
const NAME: usize = 40;

/// A running progress display; ends with [`Progress::finish`].
pub struct Progress {
    showing: Option<(Sender<()>, JoinHandle<()>)>,
}

impl Progress {
    /// Starts to watch the context's counter, unless nobody wants to see it.
    pub fn start(context: &Context, quiet: bool) -> Self {
        Self::start_as(context, quiet, Kind::Tensors)
    }

    /// As [`Progress::start`], for work that says itself what it is at.
    pub fn start_stages(context: &Context, quiet: bool) -> Self {
        Self::start_as(context, quiet, Kind::Stages)
    }

    fn start_as(context: &Context, quiet: bool, kind: Kind) -> Self {
        if quiet {
            return Self { showing: None };
        }
        let counter = context.progress.clone();
        let (finish, finished) = mpsc::channel();
        let is_watched = std::io::stderr().is_terminal();
        let patience = if is_watched { PATIENCE } else { LINES };
        let thread = std::thread::spawn(move || {
            let start = Instant::now();
            if finished.recv_timeout(patience) != Err(RecvTimeoutError::Timeout) {
                return;
            }
            if is_watched { draw(&counter, &finished, kind) } else { tell(&counter, &finished, start, kind) }
        });
        Self { showing: Some((finish, thread)) }
    }

    /// Takes the display away.
    pub fn finish(self) {
        if let Some((finish, thread)) = self.showing {
            drop(finish);
            // A display that failed has nothing to say about the result.
            let _ = thread.join();
        }
    }
}

/// What the work is counted in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Bytes of tensors.
    Tensors,
    /// Shares of the whole.
    Stages,
}

/// `30 %, 2 of 12 blocks`.
fn stage(reached: &Reached) -> String {
    let share = 100.0 * reached.done as f64 / (reached.total as f64).max(1.0);
    format!("{share:.0} %, {}", shown(reached, Kind::Stages))
}

/// A bar, and under it the tensor at hand.
fn draw(counter: &Arc<context::Progress>, finished: &mpsc::Receiver<()>, kind: Kind) {
    let bar = ProgressBar::new(0);
    let template = match kind {
        Kind::Tensors => {
            "{bar:30} {decimal_bytes}/{decimal_total_bytes}, {decimal_bytes_per_sec}, {eta} left\n  {wide_msg}"
        }
        Kind::Stages => "{bar:30} {percent} %, {eta} left\n  {wide_msg}",
    };
    bar.set_style(ProgressStyle::with_template(template).expect("the template is a constant"));
    loop {
        let reached = counter.reached();
        bar.set_length(reached.total);
        bar.set_position(reached.done);
        bar.set_message(shown(&reached, kind));
        if finished.recv_timeout(INTERVAL) != Err(RecvTimeoutError::Timeout) {
            bar.finish_and_clear();
            return;
        }
    }
}

/// A line every so often.
fn tell(counter: &Arc<context::Progress>, finished: &mpsc::Receiver<()>, start: Instant, kind: Kind) {
    loop {
        let reached = counter.reached();
        let line = match kind {
            Kind::Tensors => line(&reached, start.elapsed()),
            Kind::Stages => stage(&reached),
        };
        eprintln!("flashpoint: {line}");
        if finished.recv_timeout(LINES) != Err(RecvTimeoutError::Timeout) {
            return;
        }
    }
}

/// Bytes, rate, time left, tensor: `1.2 GB of 4.0 GB (30 %), 40.0 MB/s, 70 s left, tensor 45 of 148: h.3.mlp.weight`.
fn line(reached: &Reached, elapsed: Duration) -> String {
    let Reached { done, total, .. } = *reached;
    let mut parts = Vec::new();
    if total > 0 {
        let share = 100.0 * done as f64 / total as f64;
        parts.push(format!("{} of {} ({share:.0} %)", bytes(done), bytes(total)));
    }
    let rate = done as f64 / elapsed.as_secs_f64().max(0.001);
    if rate >= 1.0 {
        #[expect(clippy::cast_sign_loss, reason = "a rate is not negative")]
        let whole = rate as u64;
        parts.push(format!("{}/s", bytes(whole)));
        // What is measured beyond what was announced takes no time that could be told.
        parts.push(format!("{:.0} s left", (total.saturating_sub(done)) as f64 / rate));
    }
    parts.push(tensor(reached));
    parts.retain(|part| !part.is_empty());
    if parts.is_empty() { "nothing measured yet".to_owned() } else { parts.join(", ") }
}

/// What is at hand. A stage may be a tensor as well, whose name comes from a file.
fn shown(reached: &Reached, kind: Kind) -> String {
    match kind {
        Kind::Tensors => tensor(reached),
        Kind::Stages => safe(&reached.current),
    }
}

/// The tensor at hand, by its number and the end of its name.
fn tensor(reached: &Reached) -> String {
    if reached.current.is_empty() {
        return String::new();
    }
    let name = safe(&reached.current);
    let length = name.chars().count();
    let name = if length <= NAME {
        name
    } else {
        format!("…{}", name.chars().skip(length - NAME + 1).collect::<String>())
    };
    let of = if reached.tensors >= reached.begun {
        format!(" of {}", grouped(reached.tensors))
    } else {
        String::new()
    };
    format!("tensor {}{of}: {name}", grouped(reached.begun))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reached(done: u64, total: u64, current: &str) -> Reached {
        Reached { done, total, begun: 45, tensors: 148, current: current.to_owned() }
    }

    #[test]
    fn a_line_says_how_much_how_fast_how_long_still_and_what() {
        let text = line(&reached(1_200_000_000, 4_000_000_000, "h.3.mlp.weight"), Duration::from_secs(30));
        assert_eq!(text, "1.2 GB of 4.0 GB (30 %), 40.0 MB/s, 70 s left, tensor 45 of 148: h.3.mlp.weight");
    }

    #[test]
    fn nothing_done_nothing_announced_and_more_done_than_announced_are_lines() {
        assert_eq!(line(&Reached::default(), Duration::ZERO), "nothing measured yet");
        let text = line(&reached(0, 10, ""), Duration::from_secs(30));
        assert_eq!(text, "0 B of 10 B (0 %)");
        assert!(line(&reached(20, 10, "w"), Duration::from_secs(1)).contains("0 s left"));
    }

    #[test]
    fn a_hostile_name_is_harmless_and_short() {
        let text = line(&reached(0, 10, &"\u{1b}[2J\u{202e}".repeat(100_000)), Duration::from_secs(1));
        assert!(
            !text.contains('\u{1b}') && !text.contains('\u{202e}') && text.chars().count() < 120,
            "{text}"
        );
    }

    #[test]
    fn a_hostile_name_is_harmless_where_stages_are_counted() {
        let reached = reached(0, 10, &"\u{1b}[2J\u{202e}".repeat(100_000));
        for text in [stage(&reached), shown(&reached, Kind::Stages), shown(&reached, Kind::Tensors)] {
            assert!(!text.contains('\u{1b}') && !text.contains('\u{202e}'), "{text}");
            assert!(text.chars().count() < 2000, "{text}");
        }
        assert_eq!(shown(&self::reached(1, 2, "3 of 12 blocks"), Kind::Stages), "3 of 12 blocks");
    }
}
