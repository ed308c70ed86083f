//! Elements in another order, or at another place.

use ndarray::{ArrayViewD, ArrayViewMutD, IxDyn};

use crate::compute::{Real, Strip};

pub(super) fn permute<T: Real>(shape: &[usize], axes: &[usize], x: &[T], y: &mut [T]) {
    const WHY: &str = "the slice has as many elements as the shape";
    assert!(shape.len() == axes.len() && x.len() == y.len());
    let sizes: Vec<usize> = axes.iter().map(|&axis| shape[axis]).collect();
    let from = ArrayViewD::from_shape(IxDyn(shape), x).expect(WHY).permuted_axes(IxDyn(axes));
    ArrayViewMutD::from_shape(IxDyn(&sizes), y).expect(WHY).assign(&from);
}

pub(super) fn copy_strip<T: Real>(strip: &Strip, x: &[T], y: &mut [T]) {
    let Strip { rows, columns, from_width, from, to_width, to } = *strip;
    assert!(x.len() == rows * from_width && y.len() == rows * to_width);
    assert!(from + columns <= from_width && to + columns <= to_width);
    if columns == 0 {
        return;
    }
    for (x, y) in x.chunks_exact(from_width).zip(y.chunks_exact_mut(to_width)) {
        y[to..to + columns].copy_from_slice(&x[from..from + columns]);
    }
}
