//! A stored matrix times vectors.
//!
//! One vector: tiles of four rows by 1024 columns are multiplied in f64 as they are stored; what is no f64, f32 or bf16 is
//! widened to f32 in the first-level cache before. Several vectors: blocks are widened to f64 and handed to the matrix product.
//!
//! Rows are cut into parts by their number alone. For `A·x` parts do not meet; for `Aᵀ·x` each gives a sum of its own,
//! and these are added in index order: the same bits on any number of threads.

use std::ops::Range;

use rayon::iter::{IndexedParallelIterator, IntoParallelIterator, ParallelIterator};
use rayon::slice::ParallelSliceMut;

use super::dense;
use super::lanes::{ROWS, combine, dots};
use super::widen::to_f32;
use crate::compute::matrix::Block;
use crate::compute::{Gemm, Matrix, Side};
use crate::error::Result;
use crate::tensor::DType;

/// Columns that are multiplied at once: what is multiplied with them stays in the first-level cache.
const TILE_COLUMNS: usize = 1024;

/// Elements that are worth a thread of their own.
const PART: usize = 1 << 21;

/// More parts than this only cost memory: each holds a sum of as many numbers as the matrix has columns.
const MOST_PARTS: usize = 16;

pub(super) fn multiply(
    matrix: &Matrix<'_>,
    side: Side,
    vectors: usize,
    x: &[f64],
    y: &mut [f64],
) -> Result<()> {
    let (rows, columns) = (matrix.row_count(), matrix.column_count());
    let (inputs, outputs) = match side {
        Side::Plain => (columns, rows),
        Side::Transposed => (rows, columns),
    };
    assert!(x.len() == inputs * vectors && y.len() == outputs * vectors);
    y.fill(0.0);
    if rows == 0 || columns == 0 {
        return Ok(());
    }
    let parts = (rows * columns).div_ceil(PART).clamp(1, MOST_PARTS.min(rows));
    let step = rows.div_ceil(parts).next_multiple_of(ROWS);
    match side {
        Side::Plain => {
            let outputs = y.par_chunks_mut(step * vectors).enumerate();
            outputs.try_for_each(|(part, y)| {
                let rows = part * step..((part + 1) * step).min(rows);
                plain(matrix, rows, vectors, x, y)
            })
        }
        Side::Transposed if rows <= step => transposed(matrix, 0..rows, vectors, x, y),
        Side::Transposed => {
            let sums: Vec<Vec<f64>> = (0..rows.div_ceil(step))
                .into_par_iter()
                .map(|part| {
                    let mut sum = vec![0.0; y.len()];
                    let rows = part * step..((part + 1) * step).min(rows);
                    let x = &x[rows.start * vectors..rows.end * vectors];
                    transposed(matrix, rows, vectors, x, &mut sum).map(|()| sum)
                })
                .collect::<Result<_>>()?;
            for sum in sums {
                dense::axpy(1.0, &sum, y);
            }
            Ok(())
        }
    }
}

/// `y ← y + A·x` for these rows; y has only theirs.
fn plain(matrix: &Matrix<'_>, rows: Range<usize>, vectors: usize, x: &[f64], y: &mut [f64]) -> Result<()> {
    let first = rows.start;
    let columns = 0..matrix.column_count();
    let mut scratch = Scratch::default();
    matrix.for_each_block(rows, columns, |block| {
        let y = &mut y[(block.rows.start - first) * vectors..(block.rows.end - first) * vectors];
        let x = &x[block.columns.start * vectors..block.columns.end * vectors];
        if vectors == 1 {
            scratch.tiles(matrix, &block, |tile| tile.add_rows(matrix.scale(), x, y));
        } else {
            let dense = scratch.dense(matrix, &block);
            let (m, k) = (block.rows.len(), block.columns.len());
            dense::gemm(&adding(m, vectors, k, false), dense, x, y);
        }
        Ok(())
    })
}

/// `y ← y + Aᵀ·x` for these rows; x has only theirs.
fn transposed(
    matrix: &Matrix<'_>,
    rows: Range<usize>,
    vectors: usize,
    x: &[f64],
    y: &mut [f64],
) -> Result<()> {
    let first = rows.start;
    let columns = 0..matrix.column_count();
    let mut scratch = Scratch::default();
    matrix.for_each_block(rows, columns, |block| {
        let x = &x[(block.rows.start - first) * vectors..(block.rows.end - first) * vectors];
        let y = &mut y[block.columns.start * vectors..block.columns.end * vectors];
        if vectors == 1 {
            scratch.tiles(matrix, &block, |tile| tile.add_columns(matrix.scale(), x, y));
        } else {
            let dense = scratch.dense(matrix, &block);
            let (m, k) = (block.columns.len(), block.rows.len());
            dense::gemm(&adding(m, vectors, k, true), dense, x, y);
        }
        Ok(())
    })
}

fn adding(m: usize, n: usize, k: usize, transpose_a: bool) -> Gemm<f64> {
    Gemm { batch: 1, m, n, k, transpose_a, transpose_b: false, alpha: 1.0, beta: 1.0 }
}

/// Room for what is widened.
#[derive(Default)]
struct Scratch {
    narrow: Vec<f32>,
    wide: Vec<f64>,
}

/// Up to four rows of a block, by some of its columns.
struct Tile<'s> {
    /// The first row in the block.
    row: usize,
    /// The first column in the block.
    column: usize,
    columns: usize,
    elements: Elements<'s>,
}

/// Rows of a tile: as they are stored where one element's bytes say its value, else widened.
enum Elements<'s> {
    F64(Lines<'s, [u8; 8]>),
    F32(Lines<'s, [u8; 4]>),
    Bf16(Lines<'s, [u8; 2]>),
    Widened(Lines<'s, f32>),
}

/// Up to [`ROWS`] rows.
struct Lines<'s, T> {
    lines: [&'s [T]; ROWS],
    count: usize,
}

impl<'s, T> Lines<'s, T> {
    /// Row by row, as far as there are any.
    fn of(count: usize, mut line: impl FnMut(usize) -> &'s [T]) -> Self {
        let mut lines: [&[T]; ROWS] = [&[]; ROWS];
        for (at, own) in lines.iter_mut().enumerate().take(count) {
            *own = line(at);
        }
        Self { lines, count }
    }

    fn get(&self) -> &[&'s [T]] {
        &self.lines[..self.count]
    }
}

impl Scratch {
    /// Calls `use_tile` with the tiles of a block, rows outermost.
    fn tiles(&mut self, matrix: &Matrix<'_>, block: &Block<'_>, mut use_tile: impl FnMut(&Tile<'_>)) {
        let size = matrix.dtype().size().expect("only dtypes of whole bytes are matrices") as usize;
        let (rows, columns) = (block.rows.len(), block.columns.len());
        for row in (0..rows).step_by(ROWS) {
            let count = ROWS.min(rows - row);
            for column in (0..columns).step_by(TILE_COLUMNS) {
                let tile_columns = TILE_COLUMNS.min(columns - column);
                let bytes = |line: usize| {
                    &block.bytes[((row + line) * columns + column) * size..][..tile_columns * size]
                };
                let elements = match matrix.dtype() {
                    DType::F64 => Elements::F64(Lines::of(count, |line| bytes(line).as_chunks().0)),
                    DType::F32 => Elements::F32(Lines::of(count, |line| bytes(line).as_chunks().0)),
                    DType::Bf16 => Elements::Bf16(Lines::of(count, |line| bytes(line).as_chunks().0)),
                    dtype => {
                        self.narrow.resize(ROWS * TILE_COLUMNS, 0.0);
                        for (line, narrow) in self.narrow.chunks_mut(TILE_COLUMNS).enumerate().take(count) {
                            to_f32(dtype, bytes(line), &mut narrow[..tile_columns]);
                        }
                        let narrow = &self.narrow;
                        Elements::Widened(Lines::of(count, |line| {
                            &narrow[line * TILE_COLUMNS..][..tile_columns]
                        }))
                    }
                };
                use_tile(&Tile { row, column, columns: tile_columns, elements });
            }
        }
    }

    /// The block in f64.
    fn dense(&mut self, matrix: &Matrix<'_>, block: &Block<'_>) -> &[f64] {
        self.wide.resize(block.rows.len() * block.columns.len(), 0.0);
        matrix.widen(block.bytes, &mut self.wide);
        &self.wide
    }
}

impl Tile<'_> {
    fn rows(&self) -> Range<usize> {
        let count = match &self.elements {
            Elements::F64(lines) => lines.count,
            Elements::F32(lines) => lines.count,
            Elements::Bf16(lines) => lines.count,
            Elements::Widened(lines) => lines.count,
        };
        self.row..self.row + count
    }

    fn add_rows(&self, scale: f64, x: &[f64], y: &mut [f64]) {
        let x = &x[self.column..self.column + self.columns];
        let y = &mut y[self.rows()];
        match &self.elements {
            Elements::F64(lines) => dots(lines.get(), scale, x, y),
            Elements::F32(lines) => dots(lines.get(), scale, x, y),
            Elements::Bf16(lines) => dots(lines.get(), scale, x, y),
            Elements::Widened(lines) => dots(lines.get(), scale, x, y),
        }
    }

    fn add_columns(&self, scale: f64, x: &[f64], y: &mut [f64]) {
        let x = &x[self.rows()];
        let y = &mut y[self.column..self.column + self.columns];
        match &self.elements {
            Elements::F64(lines) => combine(lines.get(), scale, x, y),
            Elements::F32(lines) => combine(lines.get(), scale, x, y),
            Elements::Bf16(lines) => combine(lines.get(), scale, x, y),
            Elements::Widened(lines) => combine(lines.get(), scale, x, y),
        }
    }
}
