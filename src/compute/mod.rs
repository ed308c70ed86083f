//! Arithmetic on devices: one trait, one implementation for each kind of device.
//!
//! Knows numbers, shapes and stored matrices; never layers, names or rules. What stands above is written once over
//! [`Backend`] and never indexes elements of a buffer. A kernel gives the same bits at any number of threads: parts of a
//! sum are bounded by sizes, never by threads, and folded in index order.

mod cpu;
pub mod cuda;
mod kernel;
mod matrix;

pub use cpu::Cpu;
pub use kernel::{Binary, Norm, Spread, Strip, Unary, Window};
pub use matrix::Matrix;

use crate::error::Result;
use crate::tensor::Tensor;

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

    /// Row numbers in the device's memory, with whatever the device needs to add to those rows in a fixed order.
    type Index: Send + Sync;

    /// `length` zeros.
    fn zeros<T: Real>(&self, length: usize) -> Result<Self::Buffer<T>>;

    /// Room for `length` numbers, of any value: all are written before any is read.
    fn room<T: Real>(&self, length: usize) -> Result<Self::Buffer<T>>;

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

    /// All eigenvalues of each of `count` symmetric n×n matrices, which lie one after the other, ascending, by a solver of the device's
    /// own; `None` where it has none. Where the values of one do not converge there are those of none.
    fn eigenvalues(
        &self,
        _matrices: &Self::Buffer<f64>,
        _n: usize,
        _count: usize,
    ) -> Result<Option<Vec<f64>>> {
        Ok(None)
    }

    // What networks are made of. Buffers are row-major; sums are taken in f64 and in a fixed order, also for f32, and
    // functions are evaluated in f64 where the device can. Whole buffers are read and written.

    /// All elements of a stored tensor, widened or rounded to T. What is not a float gives zeros.
    fn load<T: Real>(&self, tensor: &Tensor) -> Result<Self::Buffer<T>>;

    /// `y ← x`, rounded to T where x is wider.
    fn convert<S: Real, T: Real>(&self, x: &Self::Buffer<S>, y: &mut Self::Buffer<T>) -> Result<()>;

    /// `yᵢ ← f(xᵢ)` and, where asked for, `derivativeᵢ ← f′(xᵢ)`.
    fn map<T: Real>(
        &self,
        function: Unary,
        x: &Self::Buffer<T>,
        y: &mut Self::Buffer<T>,
        derivative: Option<&mut Self::Buffer<T>>,
    ) -> Result<()>;

    /// `zᵢ ← xᵢ ∘ yᵢ`.
    fn zip<T: Real>(
        &self,
        operation: Binary,
        x: &Self::Buffer<T>,
        y: &Self::Buffer<T>,
        z: &mut Self::Buffer<T>,
    ) -> Result<()>;

    /// `yᵢ ← yᵢ ∘ vⱼ` with j the place of i on the spread's axis; v has as many elements as that axis. What is added may be
    /// -∞: so masks are laid on.
    fn broadcast<T: Real>(
        &self,
        operation: Binary,
        spread: Spread,
        v: &Self::Buffer<T>,
        y: &mut Self::Buffer<T>,
    ) -> Result<()>;

    /// `vⱼ ← vⱼ + Σ xᵢ` over the i whose place on the spread's axis is j, each sum in f64 and in index order: the adjoint
    /// of adding by [`Backend::broadcast`].
    fn reduce<T: Real>(&self, spread: Spread, x: &Self::Buffer<T>, v: &mut Self::Buffer<T>) -> Result<()>;

    /// For each row of `columns` elements `y ← exp(x - max x) / Σ exp(x - max x)`, or its logarithm. Elements of -∞ get 0,
    /// or -∞; a row of nothing else gets NaN.
    fn softmax<T: Real>(
        &self,
        columns: usize,
        logarithm: bool,
        x: &Self::Buffer<T>,
        y: &mut Self::Buffer<T>,
    ) -> Result<()>;

    /// For each row `y ← p·(x - Σ p·x)` with p the row of a softmax: its Jacobian times x, which is symmetric.
    fn softmax_product<T: Real>(
        &self,
        columns: usize,
        p: &Self::Buffer<T>,
        x: &Self::Buffer<T>,
        y: &mut Self::Buffer<T>,
    ) -> Result<()>;

    /// For each row `y ← (x - m)·r` with m the mean of the row, or 0 where the norm is not centred, and
    /// `r = 1/√(mean (x - m)² + ε)`; r is written to `inverse`, one a row.
    fn normalize<T: Real>(
        &self,
        norm: Norm,
        x: &Self::Buffer<T>,
        y: &mut Self::Buffer<T>,
        inverse: &mut Self::Buffer<T>,
    ) -> Result<()>;

    /// For each row `y ← r·(x - mean x - h·mean(h·x))`, without `mean x` where the norm is not centred, with h and r what
    /// [`Backend::normalize`] wrote to `y` and `inverse`: its Jacobian times x, which is symmetric.
    fn normalize_product<T: Real>(
        &self,
        norm: Norm,
        normal: &Self::Buffer<T>,
        inverse: &Self::Buffer<T>,
        x: &Self::Buffer<T>,
        y: &mut Self::Buffer<T>,
    ) -> Result<()>;

    /// Row numbers on the device.
    fn index(&self, rows: &[u32]) -> Result<Self::Index>;

    /// Row i of y ← row `index[i]` of x, rows of `width` elements.
    fn gather<T: Real>(
        &self,
        width: usize,
        index: &Self::Index,
        x: &Self::Buffer<T>,
        y: &mut Self::Buffer<T>,
    ) -> Result<()>;

    /// Row `index[i]` of y ← itself + row i of x, rows of `width` elements, in the order of i for each row of y: the adjoint
    /// of [`Backend::gather`].
    fn scatter_add<T: Real>(
        &self,
        width: usize,
        index: &Self::Index,
        x: &Self::Buffer<T>,
        y: &mut Self::Buffer<T>,
    ) -> Result<()>;

    /// For each row of `columns` elements the index in x of its largest, the first of equals; a NaN is larger than all.
    fn argmax<T: Real>(&self, columns: usize, x: &Self::Buffer<T>) -> Result<Self::Index>;

    /// The patches of images: `x[b, g·C/G + c, i, j]` is laid out as `y[g, b, p, q, c, u, v]`, with
    /// `i = p·stride + u·dilation - padding` and likewise j from q and v; `outside` where that lies outside of the image.
    fn im2col<T: Real>(
        &self,
        window: &Window,
        outside: T,
        x: &Self::Buffer<T>,
        y: &mut Self::Buffer<T>,
    ) -> Result<()>;

    /// Each pixel of y ← itself + the elements of x that [`Backend::im2col`] copies it to, in index order: its adjoint.
    fn col2im<T: Real>(&self, window: &Window, x: &Self::Buffer<T>, y: &mut Self::Buffer<T>) -> Result<()>;

    /// `y ← x` with its axes in another order: axis k of y is axis `axes[k]` of x, whose sizes are `shape`. At most eight axes.
    fn permute<T: Real>(
        &self,
        shape: &[usize],
        axes: &[usize],
        x: &Self::Buffer<T>,
        y: &mut Self::Buffer<T>,
    ) -> Result<()>;

    /// Copies a strip of columns of x to a strip of columns of y, and leaves the rest of y as it is.
    fn copy_strip<T: Real>(&self, strip: &Strip, x: &Self::Buffer<T>, y: &mut Self::Buffer<T>) -> Result<()>;
}
