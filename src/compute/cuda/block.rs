//! Products with a block of a few vectors that lie side by side: the matrix is read once for all of them, as it is stored.
//!
//! Dense products call it too where one side has so few columns: a library's kernels for products of matrices leave most of the device
//! idle there.

use std::sync::Arc;

use super::Device;
use super::backend::{Buffer, blocks};
use super::driver::{Argument, Driver, Memory};
use super::fault::Fault;
use super::kernels::{self, Module};
use crate::compute::Side;

/// Vectors that a product has room for.
pub(super) const MOST_VECTORS: usize = kernels::BLOCK_VECTORS;

/// Blocks of threads that parts are cut for: four for each multiprocessor of a large device. Blocks; by counting registers and shared
/// memory. On an H200 a product of a 4096² bf16 matrix with eight vectors runs at 0.6 to 0.8 TB/s, with one at 2.0 to 2.4: other numbers were not tried.
const WANTED_BLOCKS: usize = 512;

/// Parts are at least this long, so that adding them up stays small beside making them. Rows or columns.
const LEAST_PART: usize = 2 * kernels::BLOCK_STRIP;

/// The hardware counts blocks of the second axis with 16 bits.
const MOST_PARTS: usize = 1 << 10;

/// A row-major matrix in a device's memory: from its first byte on, whole rows.
#[derive(Clone, Copy)]
pub(super) struct Stored<'m> {
    pub module: Module,
    pub memory: &'m Memory,
    pub rows: usize,
    pub columns: usize,
}

/// Where a product goes: `y ← factor·product`, from element `at` on, or what is there and that.
pub(super) struct Target<'y> {
    pub y: &'y Memory,
    pub at: usize,
    pub factor: f64,
    pub adds: bool,
}

/// Lines that are summed, of `count`, in parts of so many: by sizes alone.
fn part(count: usize, blocks: usize) -> usize {
    let parts = WANTED_BLOCKS.div_ceil(blocks).min(MOST_PARTS);
    count.div_ceil(parts).max(LEAST_PART).next_multiple_of(kernels::BLOCK_STRIP)
}

impl Device {
    /// `y ← op(A)·X` for `vectors` vectors, at most [`MOST_VECTORS`], X from element `from` on.
    pub(super) fn block_product(
        &self,
        matrix: Stored<'_>,
        side: Side,
        vectors: usize,
        (x, from): (&Memory, usize),
        target: &Target<'_>,
    ) -> Result<(), Fault> {
        let Stored { module, memory, rows, columns } = matrix;
        let (kernel, outputs, inputs, across) = match side {
            Side::Plain => (kernels::ROWS_BLOCK, rows, columns, rows.div_ceil(kernels::BLOCK_ROWS)),
            Side::Transposed => {
                (kernels::COLUMNS_BLOCK, columns, rows, columns.div_ceil(kernels::BLOCK_COLUMNS))
            }
        };
        let count = outputs * vectors;
        assert!((1..=MOST_VECTORS).contains(&vectors) && inputs > 0);
        let number = size_of::<f64>();
        assert!(x.bytes() >= (from + inputs * vectors) * number);
        assert!(target.y.bytes() >= (target.at + count) * number);
        let step = part(inputs, across);
        let parts = inputs.div_ceil(step);
        let is_whole = parts == 1 && target.factor == 1.0 && !target.adds;
        let partials = if is_whole { None } else { Some(Buffer::<f64>::new(&self.driver, parts * count)?) };
        let own = target.y.at(target.at * number);
        let arguments = [
            memory.at(0),
            Argument::Count(rows),
            Argument::Count(columns),
            Argument::Count(step),
            Argument::Count(vectors),
            x.at(from * number),
            partials.as_ref().map_or(own, Buffer::all),
        ];
        self.driver.launch(module, kernel, [across, parts, 1], 128, &arguments)?;
        match &partials {
            Some(partials) => fold(&self.driver, partials, parts, count, target),
            None => Ok(()),
        }
    }
}

/// `y ← factor·Σ partials`, or what y holds and that: `parts` vectors of `count` numbers.
pub(super) fn fold(
    driver: &Arc<Driver>,
    partials: &Buffer<f64>,
    parts: usize,
    count: usize,
    target: &Target<'_>,
) -> Result<(), Fault> {
    let arguments = [
        Argument::U64(count as u64),
        Argument::Count(parts),
        Argument::F64(target.factor),
        Argument::U32(u32::from(target.adds)),
        partials.all(),
        target.y.at(target.at * size_of::<f64>()),
    ];
    driver.launch(Module::DenseF64, kernels::FOLD, blocks(count), 256, &arguments)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_whole_strips_and_few_enough_for_the_hardware() {
        for count in [1, 31, 64, 65, 4096, 11008, 152_064, u32::MAX as usize] {
            for blocks in [1, 3, 16, 700] {
                let part = part(count, blocks);
                assert!(part.is_multiple_of(kernels::BLOCK_STRIP) && part >= LEAST_PART);
                assert!(count.div_ceil(part) <= MOST_PARTS.max(1), "{count}, {blocks}");
            }
        }
        // 4096×4096: sixteen blocks of rows times 32 parts of 128 columns.
        assert_eq!(part(4096, 16), 128);
    }
}
