//! What a whole command shares: how to read, how many threads, whom to tell about progress, whether to stop.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// Settings and signals that every room takes by reference.
#[derive(Debug, Clone)]
pub struct Context {
    /// Map files into memory; otherwise they are read into bounded buffers (`--no-mmap`).
    pub mmap: bool,
    /// How far the work is, for whoever shows it.
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

/// How far the work is, written by workers and read by whoever shows it.
#[derive(Debug, Default)]
pub struct Progress {
    done: AtomicU64,
    total: AtomicU64,
    begun: AtomicU64,
    tensors: AtomicU64,
    current: Mutex<String>,
}

/// How far the work is. Every look at a tensor counts, so that one may be counted more than once.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Reached {
    /// Bytes measured.
    pub done: u64,
    /// Bytes to measure, as far as announced.
    pub total: u64,
    /// Looks at tensors that have begun.
    pub begun: u64,
    /// Looks at tensors, as far as announced.
    pub tensors: u64,
    /// The tensor that was begun last; empty where none was.
    pub current: String,
}

impl Progress {
    /// Announces `bytes` more to come.
    pub fn expect(&self, bytes: u64) {
        self.total.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Announces `tensors` more to come.
    pub fn expect_tensors(&self, tensors: usize) {
        self.tensors.fetch_add(tensors as u64, Ordering::Relaxed);
    }

    /// Says that the tensor `name` is looked at from here on.
    pub fn begin(&self, name: &str) {
        self.begun.fetch_add(1, Ordering::Relaxed);
        // A worker that finds another one writing leaves the name to it.
        if let Ok(mut current) = self.current.try_lock() {
            name.clone_into(&mut current);
        }
    }

    /// Counts `bytes` as measured.
    pub fn advance(&self, bytes: u64) {
        self.done.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Says what is being done now, where that is no look at a tensor.
    pub fn say(&self, stage: &str) {
        if let Ok(mut current) = self.current.lock() {
            stage.clone_into(&mut current);
        }
    }

    /// (done, total) in bytes.
    pub fn read(&self) -> (u64, u64) {
        (self.done.load(Ordering::Relaxed), self.total.load(Ordering::Relaxed))
    }

    /// How far it is.
    pub fn reached(&self) -> Reached {
        Reached {
            done: self.done.load(Ordering::Relaxed),
            total: self.total.load(Ordering::Relaxed),
            begun: self.begun.load(Ordering::Relaxed),
            tensors: self.tensors.load(Ordering::Relaxed),
            current: self.current.lock().map(|name| name.clone()).unwrap_or_default(),
        }
    }
}
