//! bf16 and f16: how often each of 65,536 patterns occurs, block by block.
//!
//! An addition to a table for each element costs half of what the vectors do that compute its powers, its binade and its place
//! among the limits of casts (`docs/benchmarks.md`): weights lie in a dozen binades, whose counts stay in the first cache.

use std::mem::take;
use std::sync::{Mutex, PoisonError};

use super::block::{Beside, Contribution, fold};
use super::kernel::Job;
use super::patterns::Format;
use super::sums::Sums;
use crate::context::Context;
use crate::error::Result;
use crate::tensor::Tensor;

/// Elements from which on counting them is more work than the walk through all patterns behind it.
pub(super) const MANY: u64 = 1 << 18;

/// Patterns with one sign.
const SIGN: usize = 1 << 15;
/// Patterns of a 16-bit element.
const PATTERNS: usize = 2 * SIGN;
/// Patterns that are passed over together when none of them occurred.
const CHUNK: usize = 32;

/// Tally and sums of a 16-bit float tensor, and what `beside` made of it. Nothing when the user asked to stop.
pub(super) fn contribution<B: Beside>(
    tensor: &Tensor,
    job: &Job,
    format: &Format,
    beside: &B,
    context: &Context,
) -> Result<Option<(Contribution, B::Sums)>> {
    let mut whole = format.nothing(job);
    let mut gathered = beside.start();
    let finished = fold(
        tensor,
        context,
        || (Tables::spare(), beside.start()),
        |(tables, sums), part, bytes| {
            tables.count(bytes);
            beside.feed(sums, part, bytes)
        },
        |(tables, sums)| {
            let mut block = format.nothing(job);
            tables.drain(format, job, &mut block);
            (block, sums)
        },
        |(block, next)| {
            beside.join(&mut gathered, next);
            whole.add(&block);
        },
    )?;
    Ok(finished.then_some((whole, gathered)))
}

/// How often each pattern occurs.
type Table = Box<[u32; PATTERNS]>;

/// How often each pattern occurs in a block, the sum of both tables. Neighbours are counted in tables of their own: equal ones, as
/// zeros often are, then do not wait for each other.
struct Tables {
    even: Table,
    odd: Table,
}

/// Tables of zeros that wait for their next block: half a megabyte for each thread that counts.
static SPARE: Mutex<Vec<Tables>> = Mutex::new(Vec::new());

impl Tables {
    fn spare() -> Self {
        let spare = SPARE.lock().unwrap_or_else(PoisonError::into_inner).pop();
        spare.unwrap_or_else(|| Self { even: Self::table(), odd: Self::table() })
    }

    fn table() -> Table {
        vec![0; PATTERNS].into_boxed_slice().try_into().expect("it has as many as there are patterns")
    }

    /// Counts whole elements.
    fn count(&mut self, bytes: &[u8]) {
        let Self { even, odd } = self;
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

    /// Adds what was counted to `block`, and leaves the emptied tables to the next one.
    ///
    /// Magnitudes go upwards, each sign in sums of its own: no sum has more than 2¹⁵ terms, as no lane of
    /// [`super::sums`] has.
    fn drain(mut self, format: &Format, job: &Job, block: &mut Contribution) {
        let mut negative = Sums::default();
        for first in (0..SIGN).step_by(CHUNK) {
            for (sign, sums) in [(0, &mut block.sums), (SIGN, &mut negative)] {
                let patterns = first + sign..first + sign + CHUNK;
                let is_empty = |table: &Table| table[patterns.clone()] == [0; CHUNK];
                if is_empty(&self.even) && is_empty(&self.odd) {
                    continue;
                }
                for pattern in patterns {
                    let [even, odd] = [&mut self.even, &mut self.odd].map(|table| take(&mut table[pattern]));
                    let weight = u64::from(even) + u64::from(odd);
                    format.add(pattern as u16, weight, job, &mut block.tally, sums);
                }
            }
        }
        block.sums.add(&negative);
        SPARE.lock().unwrap_or_else(PoisonError::into_inner).push(self);
    }
}
