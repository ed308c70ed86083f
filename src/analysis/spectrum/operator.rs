//! Linear maps that are known by their products alone.

use crate::compute::{Backend, Matrix, Side};
use crate::error::Result;

/// A linear map from `columns` to `rows` numbers. Algorithms take it by reference to the trait: a product is thousands of times a call, and each
/// of them is compiled once a backend.
pub trait Operator<B: Backend>: Sync {
    /// Numbers it gives.
    fn rows(&self) -> usize;

    /// Numbers it takes.
    fn columns(&self) -> usize;

    /// `y ← A·x`, or `y ← Aᵀ·x`.
    fn apply(&self, backend: &B, side: Side, x: &B::Buffer<f64>, y: &mut B::Buffer<f64>) -> Result<()>;
}

impl<B: Backend> Operator<B> for Matrix<'_> {
    fn rows(&self) -> usize {
        self.row_count()
    }

    fn columns(&self) -> usize {
        self.column_count()
    }

    fn apply(&self, backend: &B, side: Side, x: &B::Buffer<f64>, y: &mut B::Buffer<f64>) -> Result<()> {
        backend.multiply(self, side, 1, x, y)
    }
}

/// The other side of `side`.
pub(super) fn flip(side: Side) -> Side {
    match side {
        Side::Plain => Side::Transposed,
        Side::Transposed => Side::Plain,
    }
}

/// The side that takes vectors of the shorter side.
pub(super) fn forward<B: Backend>(operator: &dyn Operator<B>) -> Side {
    if operator.rows() >= operator.columns() { Side::Plain } else { Side::Transposed }
}
