//! Dense products in main memory. Matrix products are ndarray's; matrix times vector in lanes of its own, because
//! packing a matrix costs more than reading it once.

use ndarray::linalg::general_mat_mul;
use ndarray::{ArrayView2, ArrayViewMut2, Axis, s};
use rayon::iter::{IndexedParallelIterator, IntoParallelIterator, ParallelIterator};

use crate::compute::{Gemm, Real};

/// Independent sums of a dot product, folded in index order at the end.
const LANES: usize = 8;

/// `Σ x·y` in f64, in eight lanes.
pub(super) fn dot<T: Real>(x: &[T], y: &[T]) -> f64 {
    assert_eq!(x.len(), y.len());
    let mut lanes = [0.0f64; LANES];
    let (x_chunks, x_rest) = x.as_chunks::<LANES>();
    let (y_chunks, y_rest) = y.as_chunks::<LANES>();
    for (x, y) in x_chunks.iter().zip(y_chunks) {
        for lane in 0..LANES {
            lanes[lane] += x[lane].into() * y[lane].into();
        }
    }
    let rest: f64 = x_rest.iter().zip(y_rest).map(|(&x, &y)| x.into() * y.into()).sum();
    lanes.iter().sum::<f64>() + rest
}

/// `y ← y + α·x`.
pub(super) fn axpy<T: Real>(alpha: T, x: &[T], y: &mut [T]) {
    assert_eq!(x.len(), y.len());
    for (y, &x) in y.iter_mut().zip(x) {
        *y = *y + alpha * x;
    }
}

pub(super) fn gemm<T: Real>(gemm: &Gemm<T>, a: &[T], b: &[T], c: &mut [T]) {
    let Gemm { batch, m, n, k, .. } = *gemm;
    assert!(a.len() >= batch * m * k && b.len() >= batch * k * n && c.len() >= batch * m * n);
    for index in 0..batch {
        let a = &a[index * m * k..][..m * k];
        let b = &b[index * k * n..][..k * n];
        let c = &mut c[index * m * n..][..m * n];
        if n == 1 { one_column(gemm, a, b, c) } else { one(gemm, a, b, c) }
    }
}

/// Multiplications that are worth a task of their own.
const TASK: usize = 1 << 21;

/// Parts of the longer side of C are apart: how it is cut changes no element, and depends on sizes alone.
fn one<T: Real>(gemm: &Gemm<T>, a: &[T], b: &[T], c: &mut [T]) {
    let Gemm { m, n, k, transpose_a, transpose_b, alpha, beta, .. } = *gemm;
    let a = view(a, m, k, transpose_a);
    let b = view(b, k, n, transpose_b);
    let mut c = ArrayViewMut2::from_shape((m, n), c).expect("the slice has m·n elements");
    let (side, other) = (m.max(n), m.min(n));
    let width = (TASK / (other * k).max(1)).max(side.div_ceil(MOST_TASKS)).next_multiple_of(EDGE);
    if width >= side {
        return general_mat_mul(alpha, &a, &b, beta, &mut c);
    }
    let by_columns = n >= m;
    let parts: Vec<_> = c.axis_chunks_iter_mut(Axis(usize::from(by_columns)), width).collect();
    parts.into_par_iter().enumerate().for_each(|(index, mut c)| {
        let part = index * width..(index * width + width).min(side);
        if by_columns {
            general_mat_mul(alpha, &a, &b.slice(s![.., part]), beta, &mut c);
        } else {
            general_mat_mul(alpha, &a.slice(s![part, ..]), &b, beta, &mut c);
        }
    });
}

/// The most parts that a product is cut into: each packs the other factor anew.
const MOST_TASKS: usize = 8;

/// Parts are multiples of what a product computes at once.
const EDGE: usize = 16;

fn view<T: Real>(values: &[T], rows: usize, columns: usize, transposed: bool) -> ArrayView2<'_, T> {
    const WHY: &str = "the slice has as many elements as the shape";
    if transposed {
        ArrayView2::from_shape((columns, rows), values).expect(WHY).reversed_axes()
    } else {
        ArrayView2::from_shape((rows, columns), values).expect(WHY)
    }
}

fn one_column<T: Real>(gemm: &Gemm<T>, a: &[T], x: &[T], y: &mut [T]) {
    let Gemm { m, k, alpha, beta, .. } = *gemm;
    if gemm.transpose_a {
        for y in y.iter_mut() {
            *y = if beta == T::zero() { T::zero() } else { *y * beta };
        }
        for (row, &x) in a.chunks_exact(m.max(1)).zip(x) {
            axpy(alpha * x, row, y);
        }
    } else {
        for (row, y) in (0..m).zip(y) {
            let product = alpha * T::from_f64(dot(&a[row * k..][..k], x));
            *y = if beta == T::zero() { product } else { beta * *y + product };
        }
    }
}
