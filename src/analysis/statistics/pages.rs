//! The pages of the file under a tensor: writes that were lost, and pages that were written twice.
//!
//! File systems, network stores and copies lose or repeat data in pages of 4 KiB of the *file*; tensors begin and end
//! anywhere. Damage of that kind has the page's boundaries, which what training does to a tensor has not.
//!
//! - A **lost** page is in a run of zero bytes, between bytes that are not, of at least a page, that begins at a page
//!   boundary (or the tensor's start) and ends at one (or the tensor's end), one of them inside. The byte next to a
//!   boundary may be 0 by chance, as the low byte of a number: a run may reach over a boundary by less than an
//!   element. A run that begins and ends at row boundaries is rows of zeros (padding of a vocabulary, unused
//!   embeddings), not damage.
//! - A **repeated** page has the bytes of an earlier page of the tensor, and is not one element over and over. A
//!   distance of whole rows is explained by equal rows, which [`super::measure_rows`] reports. So with rows that
//!   divide a page, nothing can be told, and nothing is said.
//!
//! A "row" here is the smallest trailing part of the shape (a row, a matrix of a stack) of at least a page, or
//! dimension 0's where there is none: in a stack of experts, equal rows inside one expert are rows too.

use std::ops::Range;

use rayon::iter::{IntoParallelIterator, ParallelIterator};
use rayon::slice::ParallelSliceMut;

use super::block::{element_size, parts};
use super::{STOPPED, unsupported};
use crate::analysis::model::{Degenerate, Measured, Pages};
use crate::context::Context;
use crate::error::Result;
use crate::files::InputFile;
use crate::tensor::{Kind, Tensor};

/// The unit in which files are damaged.
const PAGE: u64 = 4096;
/// Pages that are compared, 4 GiB of them: 16 bytes each, three times over while they are sorted.
const MAX_PAGES: u64 = 1 << 20;
/// Pages that one task reads.
const PAGES_PER_TASK: u64 = 256;
/// Pages read at once.
const PAGES_PER_READ: u64 = 16;

/// Measures the pages under `tensor`, of whose elements `zeros` are 0.
///
/// # Errors
/// A file that cannot be read, or a dtype without plain elements.
pub fn measure_pages(tensor: &Tensor, zeros: u64, context: &Context) -> Result<Measured<Pages>> {
    match tensor.dtype.kind() {
        Kind::Opaque => return Err(unsupported(tensor)),
        Kind::Integer => return Ok(Measured::not("counts, indices and masks repeat by nature")),
        Kind::Float => {}
    }
    if tensor.count() == 0 {
        return Ok(Measured::Degenerate(Degenerate::Empty));
    }
    let Some((file, bytes)) = tensor.contiguous_bytes() else {
        return Ok(Measured::not("its elements do not lie in one piece of the file"));
    };
    let size = element_size(tensor.dtype);
    let pages = bytes.start.div_ceil(PAGE)..bytes.end / PAGE;
    let count = pages.end.saturating_sub(pages.start);
    if count > MAX_PAGES {
        return Ok(Measured::not(format!("{count} pages, more than the {MAX_PAGES} that are compared")));
    }
    let under =
        Under { file, bytes, pages: pages.start..pages.start + count, size, row: row_bytes(tensor, size) };
    let could_be_lost = zeros < tensor.count() && zeros.saturating_mul(size) >= PAGE;
    let lost = if could_be_lost { under.lost(context)? } else { Some((0, None)) };
    let (Some((lost, first_lost)), Some((repeated, first_repeated))) = (lost, under.repeated(context)?)
    else {
        return Ok(Measured::not(STOPPED));
    };
    Ok(Measured::Value(Pages { count, lost, first_lost, repeated, first_repeated }))
}

/// Bytes of a "row" of the module's text.
fn row_bytes(tensor: &Tensor, size: u64) -> u64 {
    let trailing = |axis: usize| tensor.shape[axis..].iter().product::<u64>() * size;
    match tensor.shape.len() {
        0 | 1 => tensor.byte_count(),
        axes => (1..axes).rev().map(trailing).find(|&bytes| bytes >= PAGE).unwrap_or_else(|| trailing(1)),
    }
}

/// How many pages, and the file offset of the first.
type Found = (u64, Option<u64>);

/// The bytes of a file under a tensor.
struct Under<'a> {
    file: &'a InputFile,
    bytes: Range<u64>,
    /// Indices of the whole pages in the file.
    pages: Range<u64>,
    size: u64,
    row: u64,
}

impl Under<'_> {
    /// Applies `look` to every whole page, with its index, on all cores. Nothing when the user asked to stop.
    fn for_pages<T: Send>(
        &self,
        pages: impl IntoParallelIterator<Item = Range<u64>>,
        context: &Context,
        look: impl Fn(u64, &[u8]) -> Option<T> + Sync,
    ) -> Result<Option<Vec<T>>> {
        let tasks = pages.into_par_iter().map(|task| -> Result<Option<Vec<T>>> {
            if context.cancelled() {
                return Ok(None);
            }
            let mut found = Vec::new();
            let mut buffer = Vec::new();
            for read in parts(task, PAGES_PER_READ) {
                let bytes = self.file.bytes(read.start * PAGE..read.end * PAGE, &mut buffer)?;
                let pages = (read.start..).zip(bytes.as_chunks::<{ PAGE as usize }>().0);
                found.extend(pages.filter_map(|(page, bytes)| look(page, bytes)));
            }
            Ok(Some(found))
        });
        let found: Option<Vec<Vec<T>>> = tasks.collect::<Result<_>>()?;
        Ok(found.map(|found| found.into_iter().flatten().collect()))
    }

    fn tasks(&self) -> Vec<Range<u64>> {
        parts(self.pages.clone(), PAGES_PER_TASK).collect()
    }

    fn lost(&self, context: &Context) -> Result<Option<Found>> {
        let zero_pages = self.for_pages(self.tasks(), context, |page, bytes| {
            bytes.iter().all(|&byte| byte == 0).then_some(page)
        })?;
        let Some(zero_pages) = zero_pages else { return Ok(None) };
        let mut found = (0, None);
        for run in zero_pages.chunk_by(|one, next| one + 1 == *next) {
            let run = run[0] * PAGE..(run[run.len() - 1] + 1) * PAGE;
            if let Some(run) = self.as_lost(run)? {
                found.0 += (run.end - run.start).div_ceil(PAGE);
                found.1 = found.1.or(Some(run.start));
            }
        }
        Ok(Some(found))
    }

    /// A run of whole zero pages as what was lost, unless it reaches beyond its boundaries or is whole rows.
    fn as_lost(&self, run: Range<u64>) -> Result<Option<Range<u64>>> {
        let Some(start) =
            self.boundary(run.start, run.start.saturating_sub(PAGE)..run.start, self.bytes.start)?
        else {
            return Ok(None);
        };
        let Some(end) = self.boundary(run.end, run.end..run.end + PAGE, self.bytes.end)? else {
            return Ok(None);
        };
        let inside = start != self.bytes.start || end != self.bytes.end;
        let at_row =
            |offset: u64| offset == self.bytes.end || (offset - self.bytes.start).is_multiple_of(self.row);
        Ok((inside && !(at_row(start) && at_row(end))).then_some(start..end))
    }

    /// Where the run ends that fills the page at `edge`: there, or at the tensor's `limit` when all of `beside`
    /// that belongs to the tensor is zero too. Nothing when it ends in between.
    fn boundary(&self, edge: u64, beside: Range<u64>, limit: u64) -> Result<Option<u64>> {
        let beside = beside.start.max(self.bytes.start)..beside.end.min(self.bytes.end);
        let mut buffer = Vec::new();
        let bytes = self.file.bytes(beside.clone(), &mut buffer)?;
        let is_zero = |byte: &&u8| **byte == 0;
        let reach = if beside.end == edge {
            bytes.iter().rev().take_while(is_zero).count() as u64
        } else {
            bytes.iter().take_while(is_zero).count() as u64
        };
        let to_limit = beside.start == limit || beside.end == limit;
        Ok(match reach {
            reach if to_limit && reach == beside.end - beside.start => Some(limit),
            reach if reach < self.size => Some(edge),
            _ => None,
        })
    }

    fn repeated(&self, context: &Context) -> Result<Option<Found>> {
        let Some(sampled) =
            self.for_pages(self.tasks(), context, |page, bytes| Some((sample(bytes), page)))?
        else {
            return Ok(None);
        };
        let mut candidates: Vec<Range<u64>> =
            in_groups(sampled).into_iter().map(|(_, page)| page..page + 1).collect();
        candidates.par_sort_unstable_by_key(|page| page.start);
        let hashed = self.for_pages(candidates, context, |page, bytes| {
            (!is_constant(bytes, self.size as usize)).then(|| (digest(bytes), page))
        })?;
        let Some(hashed) = hashed else { return Ok(None) };
        let mut found: Found = (0, None);
        for group in in_groups(hashed).chunk_by(|one, next| one.0 == next.0) {
            for page in self.repeats_in(group)? {
                found.0 += 1;
                found.1 = Some(found.1.map_or(page, |first: u64| first.min(page)));
            }
        }
        Ok(Some(found))
    }

    /// File offsets of the pages of a group that equal its first, and are not whole rows away from it.
    fn repeats_in(&self, group: &[(u64, u64)]) -> Result<Vec<u64>> {
        let offset = |page: u64| page * PAGE..(page + 1) * PAGE;
        let (mut buffer_first, mut buffer) = (Vec::new(), Vec::new());
        let first = group[0].1;
        let original = self.file.bytes(offset(first), &mut buffer_first)?;
        let mut repeats = Vec::new();
        for &(_, page) in &group[1..] {
            let explained = ((page - first) * PAGE).is_multiple_of(self.row);
            if !explained && self.file.bytes(offset(page), &mut buffer)? == original {
                repeats.push(page * PAGE);
            }
        }
        Ok(repeats)
    }
}

/// What stands at least twice, sorted by hash and then by page.
fn in_groups(mut hashed: Vec<(u64, u64)>) -> Vec<(u64, u64)> {
    hashed.par_sort_unstable();
    let groups = hashed.chunk_by(|one, next| one.0 == next.0);
    groups.filter(|group| group.len() > 1).flatten().copied().collect()
}

/// A hash of four words of a page: four cache lines touched, of 64.
fn sample(page: &[u8]) -> u64 {
    let words = page.as_chunks::<8>().0;
    mix([words[64], words[191], words[318], words[445]].map(u64::from_le_bytes))
}

/// A hash of all of a page. Equal hashes are compared byte by byte: it need not resist an attacker.
fn digest(page: &[u8]) -> u64 {
    let quads = page.as_chunks::<8>().0.as_chunks::<4>().0;
    let lanes = quads.iter().fold([0u64; 4], |lanes, quad| {
        std::array::from_fn(|lane| {
            (lanes[lane] ^ u64::from_le_bytes(quad[lane])).wrapping_mul(ODD).rotate_left(29)
        })
    });
    mix(lanes)
}

fn mix(words: [u64; 4]) -> u64 {
    words.into_iter().fold(ODD, |hash, word| (hash ^ word).wrapping_mul(ODD).rotate_left(29))
}

/// 2⁶⁴ over the golden ratio, made odd: its product spreads every bit upwards.
const ODD: u64 = 0x9e37_79b9_7f4a_7c15;

/// Whether a page is one element over and over: it then equals itself moved by one element.
fn is_constant(page: &[u8], size: usize) -> bool {
    page[size..] == page[..page.len() - size]
}
