//! What a whole command shares: how to read, how many threads, whom to tell about progress, whether to stop.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Settings and signals that every room takes by reference.
#[derive(Debug, Clone)]
pub struct Context {
    /// Map files into memory; otherwise they are read into bounded buffers (`--no-mmap`).
    pub mmap: bool,
    /// How far the work is, for whoever shows it.
    pub progress: Arc<Progress>,
    /// Sizes of the input that convolutions are measured at; empty where it is not known (`--input-size`).
    pub input_size: Vec<u64>,
    /// What the user says of convolutions (`--convolution`); of several that match one, the last holds.
    pub convolutions: Vec<StatedConvolution>,
    /// Set by Ctrl-C: finish the block at hand and return what is known.
    pub cancel: Arc<AtomicBool>,
    /// Where to compute what can be computed on a GPU.
    pub device: DeviceSettings,
}

impl Default for Context {
    fn default() -> Self {
        Self {
            mmap: true,
            progress: Arc::default(),
            input_size: Vec::new(),
            convolutions: Vec::new(),
            cancel: Arc::default(),
            device: DeviceSettings::default(),
        }
    }
}

impl Context {
    /// True once the user asked to stop.
    pub fn cancelled(&self) -> bool {
        self.cancel.load(Ordering::Relaxed)
    }
}

/// What the user says of the convolutions whose names match; what is empty is not said. A single number is that of every axis.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StatedConvolution {
    /// A glob over names.
    pub names: String,
    /// Distance between neighbouring outputs.
    pub stride: Vec<u64>,
    /// Zeros before and after the input.
    pub padding: Vec<u64>,
    /// Distance between neighbouring taps.
    pub dilation: Vec<u64>,
    /// Groups of channels that do not meet.
    pub groups: Option<u64>,
    /// Sizes of the input.
    pub input: Vec<u64>,
}

/// Which device computes (`--device`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The processor.
    #[default]
    Cpu,
    /// The first GPU, where there is one, for what is worth it.
    Auto,
    /// This GPU, for everything that it can do.
    Cuda(usize),
}

/// Which device computes, where its libraries are, and what became of what was given to it.
#[derive(Debug, Clone, Default)]
pub struct DeviceSettings {
    /// The device.
    pub choice: DeviceChoice,
    /// Directories of CUDA's libraries that the user named, to be looked into first.
    pub libraries: Vec<PathBuf>,
    /// What was computed where.
    pub ledger: Arc<Ledger>,
}

/// What became of the pieces of work that were given to a GPU, since it was last asked.
#[derive(Debug, Default)]
pub struct Ledger(Mutex<Pieces>);

/// Pieces of work that were given to a GPU.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pieces {
    /// The device.
    pub device: String,
    /// How many it did.
    pub done: u64,
    /// Those that were done again on the processor: which, and why.
    pub redone: Vec<(String, String)>,
    /// Why a GPU that is there is not used.
    pub unused: Option<String>,
}

impl Ledger {
    /// The device did a piece.
    pub fn done(&self, device: &str) {
        let mut pieces = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        device.clone_into(&mut pieces.device);
        pieces.done += 1;
    }

    /// The device did not do `piece`, because `reason`.
    pub fn redone(&self, device: &str, piece: &str, reason: String) {
        let mut pieces = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        device.clone_into(&mut pieces.device);
        pieces.redone.push((piece.to_owned(), reason));
    }

    /// There is a GPU, and it cannot be used, because `reason`.
    pub fn unused(&self, reason: String) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).unused = Some(reason);
    }

    /// Everything since it was last asked; nothing where nothing was given to a device.
    pub fn take(&self) -> Option<Pieces> {
        let mut pieces = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut taken = std::mem::take(&mut *pieces);
        taken.redone.sort();
        (taken != Pieces::default()).then_some(taken)
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
