//! The largest singular values by block Krylov iteration (Musco and Musco 2015, NeurIPS): its error does not depend on how far
//! they lie apart.
//!
//! The space is that of the shorter side, spanned by `AᵀA` on a random block; the values are those of `AᵀA` in it.

use super::jacobi;
use super::lanczos::Basis;
use super::operator::{flip, forward};
use crate::compute::{Backend, Gemm, Matrix, Side};
use crate::context::Context;
use crate::error::Result;
use crate::random::Stream;

/// Blocks beside the first.
const PASSES: usize = 10;

/// What is left of a vector after taking out the basis is rounding below this share of it.
const DEPENDENT: f64 = 1e-10;

/// The largest singular values and their vectors.
pub struct Top<Vectors> {
    /// Singular values, largest first.
    pub values: Vec<f64>,
    /// For each, the distance within which there is a singular value.
    pub residuals: Vec<f64>,
    /// Their vectors on the shorter side.
    pub vectors: Basis<Vectors>,
    /// Which side of the matrix takes vectors of the shorter side.
    pub forward: Side,
}

/// The `wanted` largest singular values of `matrix`; `None` when the user asked to stop.
pub fn run<B: Backend>(
    backend: &B,
    matrix: &Matrix<'_>,
    wanted: usize,
    start: Stream,
    context: &Context,
) -> Result<Option<Top<B::Buffer<f64>>>> {
    let (rows, columns) = (matrix.row_count(), matrix.column_count());
    let (forward, short, long) = (forward::<B>(matrix), rows.min(columns), rows.max(columns));
    let block = (wanted + 4).min(short);
    let most = (block * (PASSES + 1)).min(short);
    // The basis, and AᵀA times each of its vectors.
    let mut basis = Basis::new(backend, most, short)?;
    let mut images = Basis::new(backend, most, short)?;
    let random = start.normals(block * short);
    let mut candidates: Vec<B::Buffer<f64>> =
        random.chunks_exact(short).map(|vector| backend.upload(vector)).collect::<Result<_>>()?;
    let identity = backend.upload(&identity(block))?;
    while basis.count() < most && !candidates.is_empty() {
        if context.cancelled() {
            return Ok(None);
        }
        let first = basis.count();
        for mut vector in std::mem::take(&mut candidates) {
            let before = backend.dot(&vector, &vector)?.sqrt();
            basis.remove_from(backend, &mut vector)?;
            let after = backend.dot(&vector, &vector)?.sqrt();
            if after > DEPENDENT * before && basis.count() < most {
                backend.scale(1.0 / after, &mut vector)?;
                basis.push(backend, &vector)?;
            }
        }
        let width = basis.count() - first;
        if width == 0 {
            break;
        }
        let rows_of_block = basis.slice(backend, first, width)?;
        let turn = |m, n, k| Gemm {
            batch: 1,
            m,
            n,
            k,
            transpose_a: true,
            transpose_b: false,
            alpha: 1.0,
            beta: 0.0,
        };
        let eye = if width == block { &identity } else { &backend.upload(&self::identity(width))? };
        let mut x = backend.zeros::<f64>(short * width)?;
        backend.gemm::<f64>(&turn(short, width, width), &rows_of_block, eye, &mut x)?;
        let mut y = backend.zeros::<f64>(long * width)?;
        backend.multiply(matrix, forward, width, &x, &mut y)?;
        backend.multiply(matrix, flip(forward), width, &y, &mut x)?;
        // Back to one vector a row: I·Xᵀ.
        let back = Gemm {
            batch: 1,
            m: width,
            n: short,
            k: width,
            transpose_a: false,
            transpose_b: true,
            alpha: 1.0,
            beta: 0.0,
        };
        let mut image = backend.zeros::<f64>(width * short)?;
        backend.gemm::<f64>(&back, eye, &x, &mut image)?;
        for vector in backend.download::<f64>(&image)?.chunks_exact(short) {
            let vector = backend.upload(vector)?;
            images.push(backend, &vector)?;
            candidates.push(vector);
        }
    }
    let count = basis.count();
    let projected = backend.download(&basis.against(backend, &images)?)?;
    // AᵀA is symmetric, and so is what it does in the space but for rounding.
    let entry = |row: usize, column: usize| {
        f64::midpoint(projected[row * count + column], projected[column * count + row])
    };
    let columns = (0..count).map(|column| (0..count).map(|row| entry(row, column)).collect()).collect();
    let eigen = jacobi::triplets(columns);
    let wanted = wanted.min(count);
    let (mut values, mut residuals) = (Vec::with_capacity(wanted), Vec::with_capacity(wanted));
    let mut vectors = Basis::new(backend, wanted, short)?;
    for index in 0..wanted {
        let value = eigen.values[index].sqrt();
        let factors = backend.upload(&eigen.right[index])?;
        let vector = basis.combine(backend, &factors)?;
        let mut left = images.combine(backend, &factors)?;
        backend.axpy(-eigen.values[index], &vector, &mut left)?;
        let residual = backend.dot(&left, &left)?.sqrt();
        residuals.push(if value > 0.0 { residual / value } else { 0.0 });
        values.push(value);
        vectors.push(backend, &vector)?;
    }
    Ok(Some(Top { values, residuals, vectors, forward }))
}

fn identity(n: usize) -> Vec<f64> {
    (0..n * n).map(|at| f64::from(u8::from(at / n == at % n))).collect()
}
