//! bf16 and f16: how often each of 65,536 patterns occurs in the whole tensor.
//!
//! An addition to a table for each element costs less than the vectors do that compute its powers, its binade and its place
//! among the limits of casts (`docs/benchmarks.md`): weights lie in a dozen binades, whose counts stay in the first cache. Counts
//! merge exactly in any order, so a thread goes on in the table of whatever block came before, and all are walked once.

use std::mem::take;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use super::block::{Beside, Contribution, fold};
use super::kernel::Job;
use super::patterns::Format;
use super::sums::{BLOCK, Sums};
use crate::context::Context;
use crate::error::Result;
use crate::tensor::{DType, Tensor};

/// Elements from which on counting them is more work than the walk through all patterns behind it.
const MANY: u64 = 1 << 18;

/// Patterns with one sign.
const SIGN: usize = 1 << 15;
/// Patterns of a 16-bit element.
const PATTERNS: usize = 2 * SIGN;
/// Patterns that are passed over together when none of them occurred.
const CHUNK: usize = 32;

/// Whether the elements of `tensor` are such, and enough.
pub(super) fn are_many(tensor: &Tensor) -> bool {
    matches!(tensor.dtype, DType::F16 | DType::Bf16) && tensor.count() >= MANY
}

/// Bytes that [`contribution`] holds while it counts: tables for each thread, and those that are full.
pub(super) fn held_bytes(tensor: &Tensor) -> u64 {
    if !are_many(tensor) {
        return 0;
    }
    let blocks = tensor.count().div_ceil(BLOCK);
    let tables = blocks.min(rayon::current_num_threads() as u64) + blocks / FULL;
    tables * 2 * size_of::<[u32; PATTERNS]>() as u64
}

/// Tally and sums of a 16-bit float tensor, and what `beside` made of it. Nothing when the user asked to stop.
pub(super) fn contribution<B: Beside>(
    tensor: &Tensor,
    job: &Job,
    format: &Format,
    beside: &B,
    context: &Context,
) -> Result<Option<(Contribution, B::Sums)>> {
    let counted = Counted::default();
    let mut gathered = beside.start();
    let finished = fold(
        tensor,
        context,
        || (counted.tables(), beside.start()),
        |(tables, sums), part, bytes| {
            tables.count(bytes);
            beside.feed(sums, part, bytes)
        },
        |(tables, sums)| {
            counted.give_back(tables);
            sums
        },
        |next| beside.join(&mut gathered, next),
    )?;
    Ok(finished.then(|| (counted.walk(format, job), gathered)))
}

/// How often each pattern occurs.
type Table = Box<[u32; PATTERNS]>;

/// How often each pattern occurs in some blocks, the sum of both tables. Neighbours are counted in tables of their own: equal ones,
/// as zeros often are, then do not wait for each other.
struct Tables {
    even: Table,
    odd: Table,
    /// Blocks that were counted.
    blocks: u64,
}

/// Tables of zeros that wait for the next tensor: half a megabyte for each thread that counts.
static SPARE: Mutex<Vec<Tables>> = Mutex::new(Vec::new());

/// Blocks after which a count could leave 32 bits.
const FULL: u64 = u32::MAX as u64 / BLOCK;

impl Tables {
    fn spare() -> Self {
        let spare = SPARE.lock().unwrap_or_else(PoisonError::into_inner).pop();
        spare.unwrap_or_else(|| Self { even: Self::table(), odd: Self::table(), blocks: 0 })
    }

    fn table() -> Table {
        vec![0; PATTERNS].into_boxed_slice().try_into().expect("it has as many as there are patterns")
    }

    /// Counts whole elements.
    fn count(&mut self, bytes: &[u8]) {
        let Self { even, odd, .. } = self;
        let (rows, rest) = bytes.as_chunks::<8>();
        for row in rows {
            // One load for four elements.
            let row = u64::from_le_bytes(*row);
            even[usize::from(row as u16)] += 1;
            odd[usize::from((row >> 16) as u16)] += 1;
            even[usize::from((row >> 32) as u16)] += 1;
            odd[usize::from((row >> 48) as u16)] += 1;
        }
        for &word in rest.as_chunks().0 {
            even[usize::from(u16::from_le_bytes(word))] += 1;
        }
    }

    /// Whether none of `patterns`, of which there are [`CHUNK`], occurred.
    fn lack(&self, patterns: Range<usize>) -> bool {
        self.even[patterns.clone()] == [0; CHUNK] && self.odd[patterns] == [0; CHUNK]
    }

    /// How often `pattern` occurred, and forgets it.
    fn take(&mut self, pattern: usize) -> u64 {
        u64::from(take(&mut self.even[pattern])) + u64::from(take(&mut self.odd[pattern]))
    }
}

/// What has been counted of a tensor so far.
#[derive(Default)]
struct Counted {
    /// Tables that no thread counts in at the moment, of which the last ones have room.
    tables: Mutex<Vec<Tables>>,
}

impl Counted {
    /// Tables with room for one more block.
    fn tables(&self) -> Tables {
        let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        tables.pop_if(|tables| tables.blocks < FULL).unwrap_or_else(Tables::spare)
    }

    /// Keeps `tables`, in which a block more has been counted.
    fn give_back(&self, mut counted: Tables) {
        let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        counted.blocks += 1;
        if counted.blocks < FULL {
            tables.push(counted);
        } else {
            tables.insert(0, counted);
        }
    }

    /// All elements as terms, a pattern at a time, and leaves the emptied tables to the next tensor.
    ///
    /// Magnitudes go upwards, each sign in sums of its own: no sum has more than 2¹⁵ terms, as no lane of
    /// [`super::sums`] has.
    fn walk(self, format: &Format, job: &Job) -> Contribution {
        let mut tables = self.tables.into_inner().unwrap_or_else(PoisonError::into_inner);
        let mut whole = format.nothing(job);
        let mut negative = Sums::default();
        for first in (0..SIGN).step_by(CHUNK) {
            for (sign, sums) in [(0, &mut whole.sums), (SIGN, &mut negative)] {
                let patterns = first + sign..first + sign + CHUNK;
                if tables.iter().all(|tables| tables.lack(patterns.clone())) {
                    continue;
                }
                for pattern in patterns {
                    let weight = tables.iter_mut().map(|tables| tables.take(pattern)).sum();
                    format.add(pattern as u16, weight, job, &mut whole.tally, sums);
                }
            }
        }
        whole.sums.add(&negative);
        for tables in &mut tables {
            tables.blocks = 0;
        }
        SPARE.lock().unwrap_or_else(PoisonError::into_inner).extend(tables);
        whole
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::statistics::patterns;

    #[test]
    fn full_tables_are_counted_in_no_more_and_walked_with_the_others() {
        let one = half::bf16::ONE.to_le_bytes();
        let counted = Counted::default();
        let mut full = counted.tables();
        full.count(&one);
        full.blocks = FULL - 1;
        counted.give_back(full);
        for blocks in [0, 1] {
            let mut tables = counted.tables();
            assert_eq!(tables.blocks, blocks, "those with room are taken again");
            tables.count(&one);
            counted.give_back(tables);
        }
        let job = Job { moments: true, limits: None, binades: false, pivot: 0.0, scale: 1.0 };
        let whole = counted.walk(&patterns::format(DType::Bf16).unwrap(), &job);
        assert_eq!((whole.tally.count, whole.sums.square), (3, 3.0));
    }
}
