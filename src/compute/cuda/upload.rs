//! Stored elements to the device: through a ring of a few page-locked buffers, so that copying out of the page cache and the bus work
//! at the same time.
//!
//! Small buffers: page-locking runs at 1–2 GB/s, and a copy straight from a mapped file is cut into pages.

#![expect(unsafe_code, reason = "page-locked memory from the CUDA driver")]

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError};

use cudarc::driver::{CudaEvent, PinnedHostSlice};

use super::driver::{Driver, Memory};
use super::fault::{Fault, checked};
use crate::compute::Matrix;
use crate::error::Result;

/// Bytes of a buffer.
const BUFFER: usize = 1 << 20;

/// Threads that copy into buffers: one gives some 9 GB/s, and the bus takes 50. They are none of the pool's, which are at work on other
/// tensors.
const THREADS: usize = 8;

/// Buffers of a thread: it fills one while the other is on its way.
const BUFFERS: usize = 2;

/// Parts from which on an upload waits for the ring: 16 MB, which take half a millisecond with it and some three without.
const WORTH_WAITING: usize = 16;

/// Page-locked buffers, some for each thread.
pub(super) struct Ring(Vec<Lane>);

/// The buffers of one thread, and for each the end of its last copy.
struct Lane {
    buffers: Vec<(PinnedHostSlice<u8>, CudaEvent)>,
    next: usize,
}

impl Ring {
    fn new(driver: &Driver) -> std::result::Result<Self, Fault> {
        driver.enter()?;
        let buffer = || {
            // SAFETY: not read before it is written. Default flags: write-combined memory is slow on some machines.
            let memory = unsafe { driver.context.alloc_pinned_with_flags::<u8>(BUFFER, 0) };
            let memory = checked("cuMemHostAlloc", BUFFER, memory)?;
            Ok((memory, checked("cuEventCreate", 0, driver.context.new_event(None))?))
        };
        let lane = || {
            let buffers = (0..BUFFERS).map(|_| buffer()).collect::<std::result::Result<_, Fault>>()?;
            Ok(Lane { buffers, next: 0 })
        };
        Ok(Self((0..THREADS).map(|_| lane()).collect::<std::result::Result<_, Fault>>()?))
    }
}

/// Copies these rows and columns of a stored matrix to new memory, row-major in their stored dtype.
pub(super) fn upload(
    driver: &Arc<Driver>,
    matrix: &Matrix<'_>,
    rows: Range<usize>,
    columns: Range<usize>,
) -> Result<Memory> {
    let on = |fault: Fault| fault.on(driver.ordinal);
    let size = matrix.dtype().size().expect("only dtypes of whole bytes are matrices") as usize;
    let total = rows.len() * columns.len() * size;
    let memory = driver.allocate(total).map_err(on)?;
    let parts = parts(rows, columns, size);
    let mut ring = match parts.len() {
        0 | 1 => None,
        // Another upload has the ring: this one does without, unless it is so large that it is quicker to wait.
        2..WORTH_WAITING => driver.ring.try_lock().ok(),
        _ => Some(driver.ring.lock().unwrap_or_else(PoisonError::into_inner)),
    };
    if let Some(ring) = ring.as_mut()
        && ring.is_none()
    {
        // Without page-locked memory copies are slower, and as good.
        **ring = Ring::new(driver).ok();
    }
    if let Some(Ring(lanes)) = ring.as_mut().and_then(|ring| ring.as_mut()) {
        through(lanes, driver, matrix, &parts, &memory)?;
        return Ok(memory);
    }
    let mut staged = Vec::new();
    for part in &parts {
        staged.resize(part.bytes(size), 0);
        fill(matrix, part, size, &mut staged)?;
        driver.write(&memory, part.at, &staged).map_err(on)?;
    }
    Ok(memory)
}

/// Copies the parts, each by the thread that comes to it first: they do not overlap, so that their order is nobody's business.
fn through(
    lanes: &mut [Lane],
    driver: &Driver,
    matrix: &Matrix<'_>,
    parts: &[Part],
    memory: &Memory,
) -> Result<()> {
    let next = AtomicUsize::new(0);
    let copy = |lane: &mut Lane| {
        while let Some(part) = parts.get(next.fetch_add(1, Ordering::Relaxed)) {
            lane.send(driver, matrix, part, memory)?;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let Some((own, others)) = lanes.split_first_mut() else { return Ok(()) };
        let others = others.iter_mut().take(parts.len() - 1);
        // Where the system gives no thread, this one does the work of it.
        let threads: Vec<_> = others
            .filter_map(|lane| std::thread::Builder::new().spawn_scoped(scope, || copy(lane)).ok())
            .collect();
        let copied = copy(own);
        threads
            .into_iter()
            .fold(copied, |copied, thread| copied.and(thread.join().expect("copying rows does not panic")))
    })
}

impl Lane {
    fn send(&mut self, driver: &Driver, matrix: &Matrix<'_>, part: &Part, memory: &Memory) -> Result<()> {
        let on = |fault: Fault| fault.on(driver.ordinal);
        let size = matrix.dtype().size().expect("only dtypes of whole bytes are matrices") as usize;
        let (buffer, end) = &mut self.buffers[self.next];
        self.next = (self.next + 1) % BUFFERS;
        driver.enter().map_err(on)?;
        driver.note(checked("cuEventSynchronize", 0, end.synchronize())).map_err(on)?;
        let buffer = checked("cuEventSynchronize", 0, buffer.as_mut_slice()).map_err(on)?;
        let bytes = part.bytes(size);
        fill(matrix, part, size, &mut buffer[..bytes])?;
        driver.start_write(memory, part.at, &buffer[..bytes]).map_err(on)?;
        driver.note(checked("cuEventRecord", 0, end.record(driver.cuda_stream()))).map_err(on)
    }
}

/// What goes through one buffer.
struct Part {
    rows: Range<usize>,
    columns: Range<usize>,
    /// Where it goes: bytes.
    at: usize,
}

impl Part {
    fn bytes(&self, size: usize) -> usize {
        self.rows.len() * self.columns.len() * size
    }
}

/// Whole rows as far as they fit, or parts of one row.
fn parts(rows: Range<usize>, columns: Range<usize>, size: usize) -> Vec<Part> {
    if rows.is_empty() || columns.is_empty() {
        return Vec::new();
    }
    let (most, line) = (BUFFER / size, columns.len() * size);
    if columns.len() <= most {
        let step = most / columns.len();
        let part = |first: usize| Part {
            rows: first..(first + step).min(rows.end),
            columns: columns.clone(),
            at: (first - rows.start) * line,
        };
        return rows.clone().step_by(step).map(part).collect();
    }
    let row_parts = |row: usize| {
        let (columns, at) = (columns.clone(), (row - rows.start) * line);
        columns.clone().step_by(most).map(move |first| Part {
            rows: row..row + 1,
            columns: first..(first + most).min(columns.end),
            at: at + (first - columns.start) * size,
        })
    };
    rows.clone().flat_map(row_parts).collect()
}

/// Copies a part into `staged`.
fn fill(matrix: &Matrix<'_>, part: &Part, size: usize, staged: &mut [u8]) -> Result<()> {
    let line = part.columns.len() * size;
    matrix.for_each_block(part.rows.clone(), part.columns.clone(), |block| {
        for (row, bytes) in block.rows.clone().zip(matrix.rows_of(&block)) {
            let at = (row - part.rows.start) * line + (block.columns.start - part.columns.start) * size;
            staged[at..at + bytes.len()].copy_from_slice(bytes);
        }
        Ok(())
    })
}
