//! A matrix that lies in a tensor: all of it, or some of its rows and columns.

use std::ops::Range;

use crate::error::Result;
use crate::tensor::{DType, Tensor};

/// A tensor seen as a matrix, axis 0 against the rest, or a part of it.
#[derive(Debug, Clone)]
pub struct Matrix<'a> {
    tensor: &'a Tensor,
    /// Columns of the whole tensor.
    width: u64,
    /// The rows that belong to the matrix, in order.
    rows: Vec<Range<u64>>,
    /// The columns that belong to the matrix.
    columns: Range<u64>,
    /// Every element is multiplied by it when it is read. A power of two, so that nothing is rounded.
    scale: f64,
}

/// Elements that are read at once: working blocks bound the memory, not matrices.
const READ: u64 = 1 << 18;

/// Elements of a block of a matrix as they are stored.
pub(super) struct Block<'b> {
    /// Its rows, counted in the matrix.
    pub rows: Range<usize>,
    /// Its columns, counted in the matrix.
    pub columns: Range<usize>,
    /// Its elements, row-major, in the matrix's dtype.
    pub bytes: &'b [u8],
}

impl<'a> Matrix<'a> {
    /// The whole tensor; a vector is one row.
    pub fn new(tensor: &'a Tensor) -> Self {
        let rows = if tensor.shape.len() < 2 { 1 } else { tensor.shape[0] };
        let width = tensor.count().checked_div(rows).unwrap_or(0);
        Self { tensor, width, rows: std::iter::once(0..rows).collect(), columns: 0..width, scale: 1.0 }
    }

    /// These rows of the tensor, in this order.
    #[must_use]
    pub fn with_rows(mut self, rows: Vec<Range<u64>>) -> Self {
        self.rows = rows;
        self
    }

    /// These columns of the tensor.
    #[must_use]
    pub fn with_columns(mut self, columns: Range<u64>) -> Self {
        self.columns = columns;
        self
    }

    /// The matrix times a power of two.
    #[must_use]
    pub fn scaled(mut self, scale: f64) -> Self {
        self.scale = scale;
        self
    }

    /// Number of rows.
    pub fn row_count(&self) -> usize {
        self.rows.iter().map(|rows| (rows.end - rows.start) as usize).sum()
    }

    /// Number of columns.
    pub fn column_count(&self) -> usize {
        (self.columns.end - self.columns.start) as usize
    }

    /// The power of two that elements are multiplied by.
    pub fn scale(&self) -> f64 {
        self.scale
    }

    /// The element type as stored.
    pub fn dtype(&self) -> DType {
        self.tensor.dtype
    }

    /// All elements in f64, row-major: for matrices that are known to be small.
    pub fn to_dense(&self) -> Result<Vec<f64>> {
        let (rows, columns) = (self.row_count(), self.column_count());
        let mut dense = vec![0.0; rows * columns];
        self.for_each_block(0..rows, 0..columns, |block| {
            let width = block.columns.len();
            let mut values = vec![0.0; width];
            for (row, bytes) in block.rows.clone().zip(self.rows_of(&block)) {
                self.widen(bytes, &mut values);
                dense[row * columns + block.columns.start..][..width].copy_from_slice(&values);
            }
            Ok(())
        })?;
        Ok(dense)
    }

    /// Calls `use_block` with the blocks of these rows and columns, columns outermost, each of at most 2^18 elements.
    pub(super) fn for_each_block(
        &self,
        rows: Range<usize>,
        columns: Range<usize>,
        mut use_block: impl FnMut(Block<'_>) -> Result<()>,
    ) -> Result<()> {
        if rows.is_empty() || columns.is_empty() {
            return Ok(());
        }
        let step = columns.len().min(READ as usize);
        let (mut mapped, mut block) = (Vec::new(), Vec::new());
        for first in columns.clone().step_by(step) {
            let columns = first..(first + step).min(columns.end);
            let stored_columns =
                self.columns.start + columns.start as u64..self.columns.start + columns.end as u64;
            let whole_rows = stored_columns == (0..self.width);
            for (rows, stored) in self.runs(rows.clone(), (READ as usize / columns.len()).max(1)) {
                let bytes = if whole_rows {
                    self.tensor.bytes(stored.start * self.width..stored.end * self.width, &mut mapped)?
                } else {
                    block.clear();
                    for row in stored {
                        let start = row * self.width;
                        let range = start + stored_columns.start..start + stored_columns.end;
                        block.extend_from_slice(self.tensor.bytes(range, &mut mapped)?);
                    }
                    block.as_slice()
                };
                use_block(Block { rows, columns: columns.clone(), bytes })?;
            }
        }
        Ok(())
    }

    /// The bytes of each row of a block.
    pub(super) fn rows_of<'b>(&self, block: &Block<'b>) -> std::slice::ChunksExact<'b, u8> {
        let size = self.dtype().size().expect("only dtypes of whole bytes are matrices") as usize;
        block.bytes.chunks_exact(block.columns.len() * size)
    }

    /// The elements `bytes` in f64, scaled.
    pub(super) fn widen(&self, bytes: &[u8], values: &mut [f64]) {
        super::cpu::widen(self.dtype(), bytes, values);
        if self.scale != 1.0 {
            for value in values {
                *value *= self.scale;
            }
        }
    }

    /// `rows` of the matrix as runs of at most `most` rows that are neighbours in the tensor.
    fn runs(&self, rows: Range<usize>, most: usize) -> Vec<(Range<usize>, Range<u64>)> {
        let mut runs = Vec::new();
        let mut before = 0;
        for segment in &self.rows {
            let length = (segment.end - segment.start) as usize;
            let (start, end) = (rows.start.max(before), rows.end.min(before + length));
            for first in (start..end).step_by(most) {
                let last = (first + most).min(end);
                let stored = |row: usize| segment.start + (row - before) as u64;
                runs.push((first..last, stored(first)..stored(last - 1) + 1));
            }
            before += length;
        }
        runs
    }
}
