//! What is shown on stderr while a network is trained: a bar where someone watches, and a line for each epoch.

use std::io::IsTerminal;

use flashpoint::number::short;
use flashpoint::train::Event;
use indicatif::{ProgressBar, ProgressStyle};

/// A training being watched.
pub struct Watch {
    quiet: bool,
    bar: Option<ProgressBar>,
}

impl Watch {
    /// Begins to watch.
    pub fn start(quiet: bool) -> Self {
        let bar = (!quiet && std::io::stderr().is_terminal()).then(|| {
            let bar = ProgressBar::new(0);
            let template = "{bar:30} batch {pos}/{len}, {per_sec}, {eta} left";
            bar.set_style(ProgressStyle::with_template(template).expect("the template is a constant"));
            bar
        });
        Self { quiet, bar }
    }

    /// Shows what happens.
    pub fn see(&mut self, event: &Event<'_>) {
        match event {
            Event::Batches(done, total) => {
                if let Some(bar) = &self.bar {
                    bar.set_length(*total);
                    bar.set_position(*done);
                }
            }
            Event::Epoch { run, epoch, training_loss, validation } if !self.quiet => {
                let line = format!(
                    "epoch {epoch}: {run}: training loss {}, validation loss {}, accuracy {:.2} %",
                    short(*training_loss),
                    short(validation.loss),
                    100.0 * validation.accuracy
                );
                match &self.bar {
                    Some(bar) => bar.suspend(|| eprintln!("{line}")),
                    None => eprintln!("{line}"),
                }
            }
            Event::Epoch { .. } => {}
        }
    }

    /// Takes the bar away.
    pub fn finish(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }
}
