//! What a whole command shares: how to read, how many threads, whom to tell about progress, whether to stop.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// Settings and signals that every room takes by reference.
#[derive(Debug, Clone)]
pub struct Context {
    /// Map files into memory; otherwise they are read into bounded buffers (`--no-mmap`).
    pub mmap: bool,
    /// Bytes done so far, for whoever draws it.
    pub progress: Arc<Progress>,
    /// Sizes of the input that convolutions are measured at; empty where it is not known (`--input-size`).
    pub input_size: Vec<u64>,
    /// Set by Ctrl-C: finish the block at hand and return what is known.
    pub cancel: Arc<AtomicBool>,
}

impl Default for Context {
    fn default() -> Self {
        Self { mmap: true, progress: Arc::default(), input_size: Vec::new(), cancel: Arc::default() }
    }
}

impl Context {
    /// True once the user asked to stop.
    pub fn cancelled(&self) -> bool {
        self.cancel.load(Ordering::Relaxed)
    }
}

/// A counter of bytes measured, written by workers and read by the progress bar.
#[derive(Debug, Default)]
pub struct Progress {
    done: AtomicU64,
    total: AtomicU64,
    /// What is being done, where bytes do not say how far it is.
    stage: Mutex<String>,
}

impl Progress {
    /// Announces `bytes` more to come.
    pub fn expect(&self, bytes: u64) {
        self.total.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Counts `bytes` as measured.
    pub fn advance(&self, bytes: u64) {
        self.done.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Says what is being done now.
    pub fn say(&self, stage: &str) {
        if let Ok(mut own) = self.stage.lock() {
            stage.clone_into(&mut own);
        }
    }

    /// What is being done now; nothing where bytes say enough.
    pub fn stage(&self) -> String {
        self.stage.lock().map(|stage| stage.clone()).unwrap_or_default()
    }

    /// (done, total) in bytes.
    pub fn read(&self) -> (u64, u64) {
        (self.done.load(Ordering::Relaxed), self.total.load(Ordering::Relaxed))
    }
}
