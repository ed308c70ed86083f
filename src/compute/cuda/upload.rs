//! Stored elements to the device: through a ring of a few page-locked buffers, so that copying out of the page cache and the bus work
//! at the same time.
//!
//! Small buffers: page-locking runs at 1–2 GB/s, and a copy straight from a mapped file is cut into pages.

#![expect(unsafe_code, reason = "page-locked memory from the CUDA driver")]

use std::ops::Range;
use std::sync::Arc;

use cudarc::driver::{CudaEvent, PinnedHostSlice};

use super::driver::{Driver, Memory};
use super::fault::{Fault, checked};
use crate::compute::Matrix;
use crate::error::Result;

/// Bytes of a buffer.
const BUFFER: usize = 8 << 20;

/// Buffers of the ring.
const BUFFERS: usize = 3;

/// What is smaller goes without the ring, and without threads.
const SMALL: usize = 1 << 20;

/// Threads that copy into a buffer: one gives some 9 GB/s, less than the bus takes.
const THREADS: usize = 4;

/// Page-locked buffers, and for each the end of its last copy.
pub(super) struct Ring {
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
        let buffers = (0..BUFFERS).map(|_| buffer()).collect::<std::result::Result<_, Fault>>()?;
        Ok(Self { buffers, next: 0 })
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
    let mut memory = driver.allocate(total).map_err(on)?;
    // Another upload has the ring: this one does without.
    let mut ring = driver.ring.try_lock().ok().filter(|_| total > SMALL);
    if let Some(ring) = ring.as_mut()
        && ring.is_none()
    {
        // Without page-locked memory copies are slower, and as good.
        **ring = Ring::new(driver).ok();
    }
    let mut ring = ring.as_mut().and_then(|ring| ring.as_mut());
    let mut staged = Vec::new();
    let mut at = 0;
    for Part { rows, columns } in parts(rows, columns, size) {
        let bytes = rows.len() * columns.len() * size;
        if let Some(ring) = ring.as_mut() {
            let (buffer, end) = &mut ring.buffers[ring.next];
            ring.next = (ring.next + 1) % BUFFERS;
            driver.note(checked("cuEventSynchronize", 0, end.synchronize())).map_err(on)?;
            let buffer = checked("cuEventSynchronize", 0, buffer.as_mut_slice()).map_err(on)?;
            fill(matrix, &rows, &columns, size, &mut buffer[..bytes])?;
            driver.start_write(&mut memory, at, &buffer[..bytes]).map_err(on)?;
            driver.note(checked("cuEventRecord", 0, end.record(driver.cuda_stream()))).map_err(on)?;
        } else {
            staged.resize(bytes, 0);
            fill(matrix, &rows, &columns, size, &mut staged)?;
            driver.write(&mut memory, at, &staged).map_err(on)?;
        }
        at += bytes;
    }
    Ok(memory)
}

/// What goes through one buffer.
struct Part {
    rows: Range<usize>,
    columns: Range<usize>,
}

/// Whole rows as far as they fit, or parts of one row.
fn parts(rows: Range<usize>, columns: Range<usize>, size: usize) -> Vec<Part> {
    if rows.is_empty() || columns.is_empty() {
        return Vec::new();
    }
    let most = BUFFER / size;
    if columns.len() <= most {
        let step = most / columns.len();
        let starts = rows.clone().step_by(step);
        let part =
            |first: usize| Part { rows: first..(first + step).min(rows.end), columns: columns.clone() };
        return starts.map(part).collect();
    }
    let row_parts = |row: usize| {
        let columns = columns.clone();
        let starts = columns.clone().step_by(most);
        starts.map(move |first| Part { rows: row..row + 1, columns: first..(first + most).min(columns.end) })
    };
    rows.flat_map(row_parts).collect()
}

/// Copies a part into `staged`, in a few threads of its own: those of the pool are at work on other tensors.
fn fill(
    matrix: &Matrix<'_>,
    rows: &Range<usize>,
    columns: &Range<usize>,
    size: usize,
    staged: &mut [u8],
) -> Result<()> {
    let copy = |rows: Range<usize>, columns: Range<usize>, staged: &mut [u8]| {
        let line = columns.len() * size;
        matrix.for_each_block(rows.clone(), columns.clone(), |block| {
            for (row, bytes) in block.rows.clone().zip(matrix.rows_of(&block)) {
                let at = (row - rows.start) * line + (block.columns.start - columns.start) * size;
                staged[at..at + bytes.len()].copy_from_slice(bytes);
            }
            Ok(())
        })
    };
    if staged.len() < SMALL {
        return copy(rows.clone(), columns.clone(), staged);
    }
    // One row is cut along its columns.
    let (length, line) =
        if rows.len() == 1 { (columns.len(), size) } else { (rows.len(), columns.len() * size) };
    let step = length.div_ceil(THREADS);
    std::thread::scope(|scope| {
        let copies: Vec<_> = staged
            .chunks_mut(step * line)
            .enumerate()
            .map(|(part, staged)| {
                let cut = |range: &Range<usize>| {
                    range.start + part * step..(range.start + (part + 1) * step).min(range.end)
                };
                let (rows, columns) =
                    if rows.len() == 1 { (rows.clone(), cut(columns)) } else { (cut(rows), columns.clone()) };
                scope.spawn(move || copy(rows, columns, staged))
            })
            .collect();
        copies.into_iter().try_for_each(|copy| copy.join().expect("copying rows does not panic"))
    })
}
