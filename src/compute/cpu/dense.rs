//! Dense products in main memory. Matrix products are ndarray's; matrix times vector in lanes of its own, because
//! packing a matrix costs more than reading it once.

use ndarray::linalg::general_mat_mul;
use ndarray::{ArrayView2, ArrayViewMut2, Axis};
use rayon::iter::{IndexedParallelIterator, IntoParallelIterator, ParallelIterator};
use rayon::slice::ParallelSliceMut;

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

/// Multiplications that are worth a task of their own.
const TASK: usize = 1 << 20;

/// Rows or columns of a product that are computed at once, at least: what is multiplied by them is packed for each.
const STRIP: usize = 64;

/// More strips than this only cost packing.
const MOST_STRIPS: usize = 16;

pub(super) fn gemm<T: Real>(gemm: &Gemm<T>, a: &[T], b: &[T], c: &mut [T]) {
    let Gemm { batch, m, n, k, .. } = *gemm;
    assert!(a.len() >= batch * m * k && b.len() >= batch * k * n && c.len() >= batch * m * n);
    if m * n == 0 {
        return;
    }
    let one = |(index, c): (usize, &mut [T])| {
        let a = &a[index * m * k..][..m * k];
        let b = &b[index * k * n..][..k * n];
        if n == 1 { one_column(gemm, a, b, c) } else { one(gemm, a, b, c) }
    };
    let products = c[..batch * m * n].par_chunks_mut(m * n).enumerate();
    products.with_min_len((TASK / (m * n * k).max(1)).max(1)).for_each(one);
}

/// One product, in strips along its longer side: their number follows from the sizes alone, and they do not meet.
fn one<T: Real>(gemm: &Gemm<T>, a: &[T], b: &[T], c: &mut [T]) {
    let Gemm { m, n, k, transpose_a, transpose_b, alpha, beta, .. } = *gemm;
    let a = view(a, m, k, transpose_a);
    let b = view(b, k, n, transpose_b);
    let mut c = ArrayViewMut2::from_shape((m, n), c).expect("the slice has m·n elements");
    let strips = (m * n * k / TASK).min(m.max(n) / STRIP).clamp(1, MOST_STRIPS);
    let step = m.max(n).div_ceil(strips);
    if strips == 1 {
        general_mat_mul(alpha, &a, &b, beta, &mut c);
    } else if m > n {
        let strips = a.axis_chunks_iter(Axis(0), step).zip(c.axis_chunks_iter_mut(Axis(0), step));
        let strips: Vec<_> = strips.collect();
        strips.into_par_iter().for_each(|(a, mut c)| general_mat_mul(alpha, &a, &b, beta, &mut c));
    } else {
        let strips = b.axis_chunks_iter(Axis(1), step).zip(c.axis_chunks_iter_mut(Axis(1), step));
        let strips: Vec<_> = strips.collect();
        strips.into_par_iter().for_each(|(b, mut c)| general_mat_mul(alpha, &a, &b, beta, &mut c));
    }
}

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
