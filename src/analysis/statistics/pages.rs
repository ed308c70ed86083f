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

use rayon::iter::ParallelIterator;
use rayon::slice::ParallelSliceMut;

use super::block::{element_size, parts};
use super::{STOPPED, unsupported};
use crate::analysis::model::{Degenerate, Measured, Pages};
use crate::context::Context;
use crate::error::Result;
use crate::files::InputFile;
use crate::parallel;
use crate::tensor::{Kind, Tensor, saturating_count};

/// The unit in which files are damaged.
const PAGE: u64 = 4096;
/// Pages that are compared, 4 GiB of them.
const MAX_PAGES: u64 = 1 << 20;
/// Pages that one task reads.
const PAGES_PER_TASK: u64 = 256;
/// Tasks in flight before what they found is put together.
const TASKS_PER_WAVE: usize = 64;
/// Pages read at once.
const PAGES_PER_READ: u64 = 16;

/// Bytes that [`measure_pages`] holds while it looks at `tensor`: a number for each page.
pub(super) fn held_bytes(tensor: &Tensor) -> u64 {
    (tensor.byte_count() / PAGE).min(MAX_PAGES) * size_of::<Marked>() as u64
}

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
    let (Some((lost, first_lost)), Some(repeated)) = (lost, under.repeated(context)?) else {
        return Ok(Measured::not(STOPPED));
    };
    let Repeated::Found((repeated, first_repeated)) = repeated else {
        return Ok(Measured::not("pages that differ are made to look alike: which repeat was not settled"));
    };
    Ok(Measured::Value(Pages { count, lost, first_lost, repeated, first_repeated }))
}

/// Bytes of a "row" of the module's text.
fn row_bytes(tensor: &Tensor, size: u64) -> u64 {
    let trailing = |axis: usize| saturating_count(&tensor.shape[axis..]).saturating_mul(size);
    match tensor.shape.len() {
        0 | 1 => tensor.byte_count(),
        axes => (1..axes).rev().map(trailing).find(|&bytes| bytes >= PAGE).unwrap_or_else(|| trailing(1)),
    }
}

/// How many pages, and the file offset of the first.
type Found = (u64, Option<u64>);

/// What the search for repeated pages comes to.
enum Repeated {
    Found(Found),
    /// More pages that differ have the same mark than chance allows.
    LookAlike,
}

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
        context: &Context,
        look: impl Fn(u64, &[u8]) -> Option<T> + Sync,
    ) -> Result<Option<Vec<T>>> {
        let task = |pages: Range<u64>| -> Result<Option<Vec<T>>> {
            if context.cancelled() {
                return Ok(None);
            }
            let mut found = Vec::new();
            self.read_pages(pages, |page, bytes| found.extend(look(page, bytes)))?;
            Ok(Some(found))
        };
        let tasks: Vec<Range<u64>> = parts(self.pages.clone(), PAGES_PER_TASK).collect();
        let mut all = Vec::new();
        for wave in tasks.chunks(TASKS_PER_WAVE) {
            let found = parallel::map(wave, |pages| task(pages.clone()));
            let Some(found) = found.into_iter().collect::<Result<Option<Vec<Vec<T>>>>>()? else {
                return Ok(None);
            };
            // Room for what is there and no more: doubling would be half empty.
            all.reserve_exact(found.iter().map(Vec::len).sum());
            all.extend(found.into_iter().flatten());
        }
        Ok(Some(all))
    }

    /// Applies `look` to each page of `pages`, with its index.
    fn read_pages(&self, pages: Range<u64>, mut look: impl FnMut(u64, &[u8])) -> Result<()> {
        let mut buffer = Vec::new();
        for read in parts(pages, PAGES_PER_READ) {
            let bytes = self.file.bytes(read.start * PAGE..read.end * PAGE, &mut buffer)?;
            for (page, bytes) in (read.start..).zip(bytes.as_chunks::<{ PAGE as usize }>().0) {
                look(page, bytes);
            }
        }
        Ok(())
    }

    fn lost(&self, context: &Context) -> Result<Option<Found>> {
        let zero_pages =
            self.for_pages(context, |page, bytes| bytes.iter().all(|&byte| byte == 0).then_some(page))?;
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

    /// Pages that share the mark of a sample are candidates; of these, those that share the mark of all their bytes
    /// are compared. Nothing when the user asked to stop.
    fn repeated(&self, context: &Context) -> Result<Option<Repeated>> {
        let first = self.pages.start;
        let sampled = self.for_pages(context, |page, bytes| {
            let words = sample(bytes);
            let could_be_constant = words.iter().all(|&word| word == words[0]);
            let skipped = could_be_constant && is_constant(bytes, self.size as usize);
            (!skipped).then(|| Marked::new(mix(words), page - first))
        })?;
        let Some(mut marked) = sampled else { return Ok(None) };
        keep_groups(&mut marked);
        marked.par_sort_unstable_by_key(|marked| marked.place());
        let finished = marked.par_chunks_mut(PAGES_PER_TASK as usize).map(|candidates| {
            candidates
                .chunk_by_mut(|one, next| one.place() + 1 == next.place())
                .try_for_each(|run| self.mark_anew(run))
                .map(|()| !context.cancelled())
        });
        if !finished.collect::<Result<Vec<bool>>>()?.into_iter().all(|finished| finished) {
            return Ok(None);
        }
        keep_groups(&mut marked);
        let mut found: Found = (0, None);
        for group in marked.chunk_by(|one, next| one.mark() == next.mark()) {
            let Some(repeats) = self.repeats_in(group)? else { return Ok(Some(Repeated::LookAlike)) };
            for page in repeats {
                found.0 += 1;
                found.1 = Some(found.1.map_or(page * PAGE, |first: u64| first.min(page * PAGE)));
            }
        }
        Ok(Some(Repeated::Found(found)))
    }

    /// Marks the neighbouring pages of `run` by all their bytes.
    fn mark_anew(&self, run: &mut [Marked]) -> Result<()> {
        let start = self.pages.start + run[0].place();
        let pages = start..start + run.len() as u64;
        self.read_pages(pages, |page, bytes| {
            run[(page - start) as usize] = Marked::new(digest(bytes), page - self.pages.start);
        })
    }

    /// The pages of a group that equal an earlier one and are not whole rows away from it. Nothing where too many of a
    /// group differ to compare each with each.
    fn repeats_in(&self, group: &[Marked]) -> Result<Option<Vec<u64>>> {
        let mut originals: Vec<(u64, Vec<u8>)> = Vec::new();
        let mut repeats = Vec::new();
        let mut buffer = Vec::new();
        for page in group.iter().map(|marked| self.pages.start + marked.place()) {
            let bytes = self.file.bytes(page * PAGE..(page + 1) * PAGE, &mut buffer)?;
            match originals.iter().find(|(_, original)| original == bytes) {
                Some((original, _)) if ((page - original) * PAGE).is_multiple_of(self.row) => {}
                Some(_) => repeats.push(page),
                None if originals.len() == MOST_ORIGINALS => return Ok(None),
                None => originals.push((page, bytes.to_vec())),
            }
        }
        Ok(Some(repeats))
    }
}

/// Different pages with one mark that are told apart. Among 2²⁰ pages, chance gives a pair to one tensor in thirty-two.
const MOST_ORIGINALS: usize = 8;

/// Which of the tensor's pages, in the lower 20 bits, under the upper 44 bits of a hash of it: 8 bytes for each page.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Marked(u64);

impl Marked {
    const PLACE: u64 = MAX_PAGES - 1;

    fn new(hash: u64, place: u64) -> Self {
        Self(hash & !Self::PLACE | place)
    }

    fn place(self) -> u64 {
        self.0 & Self::PLACE
    }

    fn mark(self) -> u64 {
        self.0 & !Self::PLACE
    }
}

/// Keeps the pages whose mark occurs at least twice, sorted by mark and then by place.
fn keep_groups(marked: &mut Vec<Marked>) {
    marked.par_sort_unstable();
    let (mut kept, mut start) = (0, 0);
    while start < marked.len() {
        let mark = marked[start].mark();
        let length = marked[start..].iter().take_while(|other| other.mark() == mark).count();
        if length > 1 {
            marked.copy_within(start..start + length, kept);
            kept += length;
        }
        start += length;
    }
    marked.truncate(kept);
}

/// Four words of a page: four cache lines touched, of 64.
fn sample(page: &[u8]) -> [u64; 4] {
    let words = page.as_chunks::<8>().0;
    [words[64], words[191], words[318], words[445]].map(u64::from_le_bytes)
}

/// A hash of all of a page. Equal marks are compared byte by byte: it need not resist an attacker.
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::tensor::DType;

    /// Pages that each hold their number of `numbers`, over and over, after one page of something else.
    fn tensor(directory: &std::path::Path, numbers: &[u32]) -> Tensor {
        let page = |number: u32| (0..1024).flat_map(move |place| (number * 4096 + place).to_le_bytes());
        let bytes: Vec<u8> =
            std::iter::once(&u32::MAX).chain(numbers).flat_map(|&number| page(number % 1000)).collect();
        let path = directory.join("pages");
        std::fs::write(&path, bytes).unwrap();
        let file = Arc::new(InputFile::open(&path, &Context::default()).unwrap());
        let range = PAGE..file.len();
        // One row: nothing is explained by equal rows.
        Tensor::contiguous(DType::F32, vec![1, numbers.len() as u64 * 1024], file, range).unwrap()
    }

    fn repeats(numbers: &[u32]) -> Option<Vec<u64>> {
        let directory = tempfile::tempdir().unwrap();
        let tensor = tensor(directory.path(), numbers);
        let (file, bytes) = tensor.contiguous_bytes().unwrap();
        let pages = 1..1 + numbers.len() as u64;
        let under = Under { file, pages, size: 4, row: row_bytes(&tensor, 4), bytes };
        // As if all had one mark.
        let group: Vec<Marked> = (0..numbers.len() as u64).map(|place| Marked::new(0, place)).collect();
        under.repeats_in(&group).unwrap()
    }

    #[test]
    fn pages_of_one_mark_are_compared_with_every_earlier_one_that_differs() {
        assert_eq!(repeats(&[1, 2, 1, 3, 2, 2]), Some(vec![3, 5, 6]));
        assert_eq!(repeats(&[1, 2, 3, 4, 5, 6, 7, 8, 8]), Some(vec![9]));
        assert_eq!(repeats(&[1, 2, 3, 4, 5, 6, 7, 8, 9]), None);
    }

    #[test]
    fn only_marks_that_occur_twice_are_kept_and_places_stay_with_them() {
        let hashes = [7u64, 5, 9, 5, 7, 1, 5];
        let mut marked: Vec<Marked> =
            (0..).zip(hashes).map(|(place, hash)| Marked::new(hash << 32, place)).collect();
        keep_groups(&mut marked);
        let kept: Vec<(u64, u64)> =
            marked.iter().map(|marked| (marked.mark() >> 32, marked.place())).collect();
        assert_eq!(kept, [(5, 1), (5, 3), (5, 6), (7, 0), (7, 4)]);
    }
}
