//! Rows by their numbers.

use crate::compute::Real;

pub(super) fn gather<T: Real>(width: usize, index: &[u32], x: &[T], y: &mut [T]) {
    assert_eq!(y.len(), index.len() * width);
    if width == 0 {
        return;
    }
    for (&row, y) in index.iter().zip(y.chunks_exact_mut(width)) {
        y.copy_from_slice(&x[row as usize * width..][..width]);
    }
}

pub(super) fn scatter_add<T: Real>(width: usize, index: &[u32], x: &[T], y: &mut [T]) {
    assert_eq!(x.len(), index.len() * width);
    if width == 0 {
        return;
    }
    for (&row, x) in index.iter().zip(x.chunks_exact(width)) {
        for (y, &x) in y[row as usize * width..][..width].iter_mut().zip(x) {
            *y = *y + x;
        }
    }
}
