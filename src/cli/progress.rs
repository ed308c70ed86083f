//! A progress bar on stderr, once the work has taken half a second and only where someone watches.

use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::Duration;

use flashpoint::context::{self, Context};
use indicatif::{ProgressBar, ProgressStyle};

/// Shorter work than this shows nothing.
const PATIENCE: Duration = Duration::from_millis(500);

/// Time between two looks at the counter.
const INTERVAL: Duration = Duration::from_millis(100);

/// A running progress display; ends with [`Progress::finish`].
pub struct Progress {
    drawing: Option<(Sender<()>, JoinHandle<()>)>,
}

impl Progress {
    /// Starts to watch the context's counter, unless nobody would see it.
    pub fn start(context: &Context, quiet: bool) -> Self {
        let template = "{bar:30} {decimal_bytes}/{decimal_total_bytes}, {decimal_bytes_per_sec}, {eta} left";
        Self::start_with(context, quiet, template)
    }

    /// As [`Progress::start`], for work that is counted otherwise and says what it does.
    pub fn start_stages(context: &Context, quiet: bool) -> Self {
        Self::start_with(context, quiet, "{bar:30} {percent}%, {msg}, {eta} left")
    }

    fn start_with(context: &Context, quiet: bool, template: &'static str) -> Self {
        if quiet || !std::io::stderr().is_terminal() {
            return Self { drawing: None };
        }
        let counter = context.progress.clone();
        let (finish, finished) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            if finished.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
                draw(&counter, &finished, template);
            }
        });
        Self { drawing: Some((finish, thread)) }
    }

    /// Takes the bar away.
    pub fn finish(self) {
        if let Some((finish, thread)) = self.drawing {
            drop(finish);
            // A display that failed has nothing to say about the result.
            let _ = thread.join();
        }
    }
}

fn draw(counter: &Arc<context::Progress>, finished: &mpsc::Receiver<()>, template: &str) {
    let bar = ProgressBar::new(0);
    bar.set_style(ProgressStyle::with_template(template).expect("the template is a constant"));
    loop {
        let (done, total) = counter.read();
        bar.set_length(total);
        bar.set_position(done);
        bar.set_message(counter.stage());
        if finished.recv_timeout(INTERVAL) != Err(RecvTimeoutError::Timeout) {
            bar.finish_and_clear();
            return;
        }
    }
}
