//! A tensor as blocks of 2²⁰ elements: read in small parts, on all cores, joined in index order.

use std::ops::Range;

use super::kernel::{self, Isa, Job};
use super::sums::{BLOCK, Lanes, Sums};
use super::tally::Tally;
use crate::context::Context;
use crate::error::Result;
use crate::parallel;
use crate::tensor::{DType, Tensor};

/// Bytes read at once: what `--no-mmap` and strided tensors need as a buffer, for each thread.
pub(super) const READ_BYTES: u64 = 1 << 16;
/// Blocks in flight before they are joined. Bounds the memory of their histograms (17 KB each for f64).
const WAVE: u64 = 256;

/// What one block contributes.
pub(super) struct Block {
    /// Counts, extrema, histograms.
    pub tally: Tally,
    /// Lanes of the sums.
    pub lanes: Lanes,
}

/// What a whole tensor amounts to.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Contribution {
    /// Counts, extrema, histograms.
    pub tally: Tally,
    /// Sums.
    pub sums: Sums,
}

impl Contribution {
    /// Of nothing, with room for `binades` counts.
    pub(super) fn new(binades: usize) -> Self {
        Self { tally: Tally::new(binades), sums: Sums::default() }
    }

    /// Adds the next block.
    pub(super) fn add(&mut self, next: &Self) {
        self.tally.add(&next.tally);
        self.sums.add(&next.sums);
    }
}

/// Something else that has to be computed from the same elements: it is handed every part as it is read, so that nothing is
/// read twice for it. Blocks of 2²⁰ elements come to accumulators of their own, which are joined in index order.
pub trait Beside: Sync {
    /// What it gathers.
    type Sums: Send;

    /// An empty accumulator.
    fn start(&self) -> Self::Sums;

    /// Takes the stored bytes of the elements `part`, which follow those before.
    ///
    /// # Errors
    /// What else it reads cannot be read.
    fn feed(&self, sums: &mut Self::Sums, part: Range<u64>, bytes: &[u8]) -> Result<()>;

    /// Joins the next block to `whole`.
    fn join(&self, whole: &mut Self::Sums, next: Self::Sums);
}

/// Nothing beside.
pub(super) struct Alone;

impl Beside for Alone {
    type Sums = ();

    fn start(&self) {}

    fn feed(&self, (): &mut (), _: Range<u64>, _: &[u8]) -> Result<()> {
        Ok(())
    }

    fn join(&self, (): &mut (), (): ()) {}
}

/// Tally and sums of a tensor of a float dtype wider than a byte, and what `beside` made of it. Nothing when the user asked to
/// stop.
pub(super) fn contribution<B: Beside>(
    tensor: &Tensor,
    job: &Job,
    binades: usize,
    isa: Isa,
    beside: &B,
    context: &Context,
) -> Result<Option<(Contribution, B::Sums)>> {
    let mut whole = Contribution::new(binades);
    let mut gathered = beside.start();
    let finished = fold(
        tensor,
        context,
        || (Block { tally: Tally::new(binades), lanes: Lanes::new() }, beside.start()),
        |(block, sums), part, bytes| {
            kernel::add(isa, tensor.dtype, job, bytes, block);
            beside.feed(sums, part, bytes)
        },
        |(block, gathered)| {
            let mut sums = block.lanes.join();
            if job.pivot == 0.0 {
                sums.powers[1] = sums.square;
            }
            (Contribution { tally: block.tally, sums }, gathered)
        },
        |(block, next)| {
            beside.join(&mut gathered, next);
            whole.add(&block);
        },
    )?;
    Ok(finished.then_some((whole, gathered)))
}

/// Feeds the places and bytes of every block to an accumulator of its own, of which `end` makes what is joined in index order.
/// False when the user asked to stop before the end.
pub(super) fn fold<A, R: Send>(
    tensor: &Tensor,
    context: &Context,
    start: impl Fn() -> A + Sync,
    feed: impl Fn(&mut A, Range<u64>, &[u8]) -> Result<()> + Sync,
    end: impl Fn(A) -> R + Sync,
    mut join: impl FnMut(R),
) -> Result<bool> {
    let count = tensor.count();
    let size = element_size(tensor.dtype);
    let measure = |block: u64| -> Result<Option<R>> {
        if context.cancelled() {
            return Ok(None);
        }
        let range = block * BLOCK..count.min((block + 1) * BLOCK);
        let bytes = (range.end - range.start) * size;
        let mut accumulator = start();
        let mut buffer = Vec::new();
        for part in parts(range, READ_BYTES / size) {
            feed(&mut accumulator, part.clone(), tensor.bytes(part, &mut buffer)?)?;
        }
        context.progress.advance(bytes);
        Ok(Some(end(accumulator)))
    };
    let blocks = count.div_ceil(BLOCK);
    for wave in parts(0..blocks, WAVE) {
        let done = parallel::map_range(wave, measure);
        let Some(done) = done.into_iter().collect::<Result<Option<Vec<R>>>>()? else {
            return Ok(false);
        };
        done.into_iter().for_each(&mut join);
    }
    Ok(true)
}

/// Bytes of an element.
pub(super) fn element_size(dtype: DType) -> u64 {
    dtype.size().expect("dtypes that are measured have whole bytes")
}

/// `range` in parts of `length`, the last one shorter.
pub(super) fn parts(range: Range<u64>, length: u64) -> impl Iterator<Item = Range<u64>> {
    let end = range.end;
    (range.start..end).step_by(length as usize).map(move |start| start..end.min(start + length))
}
