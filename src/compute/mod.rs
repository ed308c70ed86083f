//! Arithmetic on devices: one trait, one implementation for each kind of device.
//!
//! Knows numbers, shapes and stored matrices; never layers, names or rules. What stands above is written once over
//! [`Backend`] and never indexes elements of a buffer. A kernel gives the same bits at any number of threads: parts of a
//! sum are bounded by sizes, never by threads, and folded in index order.

mod cpu;
pub mod cuda;
mod matrix;

pub use cpu::Cpu;
pub use matrix::Matrix;

use crate::error::Result;

/// A number that is computed with: `f32` or `f64`.
pub trait Real: ndarray::LinalgScalar + PartialOrd + Send + Sync + Into<f64> + 'static {
    /// The nearest number of this type.
    fn from_f64(value: f64) -> Self;
}

impl Real for f32 {
    fn from_f64(value: f64) -> Self {
        value as f32
    }
}

impl Real for f64 {
    fn from_f64(value: f64) -> Self {
        value
    }
}

/// `C ← α·op(A)·op(B) + β·C` for each of `batch` triples, row-major and one after the other in their buffers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Gemm<T> {
    /// How many products.
    pub batch: usize,
    /// Rows of op(A) and C.
    pub m: usize,
    /// Columns of op(B) and C.
    pub n: usize,
    /// Columns of op(A), rows of op(B).
    pub k: usize,
    /// op(A) = Aᵀ: A is stored k×m.
    pub transpose_a: bool,
    /// op(B) = Bᵀ: B is stored n×k.
    pub transpose_b: bool,
    /// Factor of the product.
    pub alpha: T,
    /// Factor of what C held.
    pub beta: T,
}

/// Which of a matrix and its transpose is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// `A·x`: x has the columns, y the rows.
    Plain,
    /// `Aᵀ·x`: x has the rows, y the columns.
    Transposed,
}

/// A device that computes. Lengths are the caller's duty: a mismatch is a mistake in this crate, and panics.
///
/// # Errors
/// Where memory cannot be had, the device fails, or a file under a stored matrix cannot be read.
pub trait Backend: Sync {
    /// Numbers in the device's memory.
    type Buffer<T: Real>: Send + Sync;

    /// `length` zeros.
    fn zeros<T: Real>(&self, length: usize) -> Result<Self::Buffer<T>>;

    /// A copy of `values` on the device.
    fn upload<T: Real>(&self, values: &[T]) -> Result<Self::Buffer<T>>;

    /// A copy of `buffer` in main memory.
    fn download<T: Real>(&self, buffer: &Self::Buffer<T>) -> Result<Vec<T>>;

    /// Copies all of `from` into `to`, from element `at` on.
    fn place<T: Real>(&self, from: &Self::Buffer<T>, to: &mut Self::Buffer<T>, at: usize) -> Result<()>;

    /// Products of dense matrices.
    fn gemm<T: Real>(
        &self,
        gemm: &Gemm<T>,
        a: &Self::Buffer<T>,
        b: &Self::Buffer<T>,
        c: &mut Self::Buffer<T>,
    ) -> Result<()>;

    /// `Σ x·y`, in f64.
    fn dot<T: Real>(&self, x: &Self::Buffer<T>, y: &Self::Buffer<T>) -> Result<f64>;

    /// `y ← y + α·x`.
    fn axpy<T: Real>(&self, alpha: T, x: &Self::Buffer<T>, y: &mut Self::Buffer<T>) -> Result<()>;

    /// `x ← α·x`.
    fn scale<T: Real>(&self, alpha: T, x: &mut Self::Buffer<T>) -> Result<()>;

    /// `Y ← op(A)·X` in f64 for a stored matrix A and `columns` vectors, X and Y row-major. A is read in its stored dtype and
    /// widened on the way: no copy of it is made.
    fn multiply(
        &self,
        matrix: &Matrix<'_>,
        side: Side,
        columns: usize,
        x: &Self::Buffer<f64>,
        y: &mut Self::Buffer<f64>,
    ) -> Result<()>;

    /// `Σx²` over a stored matrix.
    fn sum_of_squares(&self, matrix: &Matrix<'_>) -> Result<f64>;

    /// The Gram matrix of the shorter side of a stored matrix in f64, whole and row-major: `AᵀA` where A has at least as many
    /// rows as columns, otherwise `AAᵀ`.
    fn gram(&self, matrix: &Matrix<'_>) -> Result<Self::Buffer<f64>>;

    /// All eigenvalues of a symmetric n×n matrix, ascending, by a solver of the device's own; `None` where it has none.
    fn eigenvalues(&self, _matrix: &Self::Buffer<f64>, _n: usize) -> Result<Option<Vec<f64>>> {
        Ok(None)
    }
}
