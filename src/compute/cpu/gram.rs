//! Gram matrices: panels of the long side are widened to f64, and each adds its product to every block of the upper half.
//! A block adds its panels in order, so that the bits do not depend on the number of threads.

use ndarray::linalg::general_mat_mul;
use ndarray::{ArrayView2, ArrayViewMut2};
use rayon::iter::{IntoParallelIterator, ParallelIterator};

use crate::compute::Matrix;
use crate::error::Result;

/// Rows and columns of the blocks that the Gram matrix is computed in.
const BLOCK: usize = 256;

/// Elements of a panel: 16 MB in f64.
const PANEL: usize = 1 << 21;

pub(super) fn gram(matrix: &Matrix<'_>) -> Result<Vec<f64>> {
    let (rows, columns) = (matrix.row_count(), matrix.column_count());
    let is_tall = rows >= columns;
    let (side, length) = if is_tall { (columns, rows) } else { (rows, columns) };
    let mut blocks: Vec<Block> = (0..side)
        .step_by(BLOCK)
        .flat_map(|row| (row..side).step_by(BLOCK).map(move |column| Block::new(row, column, side)))
        .collect();
    let step = (PANEL / side.max(1)).clamp(1, length.max(1));
    for first in (0..length).step_by(step) {
        let last = (first + step).min(length);
        // Tall: length×side, to be multiplied as PᵀP. Wide: side×length, as PPᵀ.
        let mut panel = vec![0.0; (last - first) * side];
        let (row_range, column_range) = if is_tall { (first..last, 0..side) } else { (0..side, first..last) };
        let width = column_range.len();
        matrix.for_each_block(row_range.clone(), column_range.clone(), |block| {
            for (row, bytes) in block.rows.clone().zip(matrix.rows_of(&block)) {
                let at = (row - row_range.start) * width + (block.columns.start - column_range.start);
                matrix.widen(bytes, &mut panel[at..at + block.columns.len()]);
            }
            Ok(())
        })?;
        let shape = if is_tall { (last - first, side) } else { (side, last - first) };
        let panel = ArrayView2::from_shape(shape, &panel).expect("the panel was made with this shape");
        let left = if is_tall { panel.reversed_axes() } else { panel };
        blocks = blocks.into_par_iter().map(|block| block.add(&left)).collect();
    }
    let mut whole = vec![0.0; side * side];
    for block in &blocks {
        block.place(side, &mut whole);
    }
    Ok(whole)
}

/// A block of the upper half, diagonal blocks whole.
struct Block {
    row: usize,
    column: usize,
    rows: usize,
    columns: usize,
    values: Vec<f64>,
}

impl Block {
    fn new(row: usize, column: usize, side: usize) -> Self {
        let (rows, columns) = (BLOCK.min(side - row), BLOCK.min(side - column));
        Self { row, column, rows, columns, values: vec![0.0; rows * columns] }
    }

    /// Adds its part of `panel·panelᵀ`.
    fn add(mut self, panel: &ArrayView2<'_, f64>) -> Self {
        let rows = panel.slice(ndarray::s![self.row..self.row + self.rows, ..]);
        let columns = panel.slice(ndarray::s![self.column..self.column + self.columns, ..]);
        let shape = (self.rows, self.columns);
        let mut values = ArrayViewMut2::from_shape(shape, &mut self.values).expect("made with this shape");
        general_mat_mul(1.0, &rows, &columns.reversed_axes(), 1.0, &mut values);
        self
    }

    fn place(&self, side: usize, whole: &mut [f64]) {
        for row in 0..self.rows {
            for column in 0..self.columns {
                let value = self.values[row * self.columns + column];
                whole[(self.row + row) * side + self.column + column] = value;
                whole[(self.column + column) * side + self.row + row] = value;
            }
        }
    }
}
