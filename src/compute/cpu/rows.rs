//! Kernels that look at a row at a time: sums, softmax, norms, the largest. Rows are apart, so threads change nothing.

use rayon::iter::{IndexedParallelIterator, IntoParallelIterator, ParallelIterator};
use rayon::slice::{ParallelSlice, ParallelSliceMut};

use crate::compute::{Norm, Real, Spread};

/// Sums that are taken side by side: columns of a matrix lie next to each other.
const COLUMNS: usize = 64;

pub(super) fn reduce<T: Real>(spread: Spread, x: &[T], v: &mut [T]) {
    let Spread { count, inner } = spread;
    assert!(v.len() == count && x.len().is_multiple_of((count * inner).max(1)));
    if count * inner == 0 {
        return;
    }
    v.par_chunks_mut(COLUMNS).enumerate().for_each(|(part, v)| {
        let first = part * COLUMNS;
        let mut sums = [0.0f64; COLUMNS];
        for x in x.chunks_exact(count * inner) {
            let x = x[first * inner..(first + v.len()) * inner].chunks_exact(inner);
            for (sum, x) in sums.iter_mut().zip(x) {
                for &x in x {
                    *sum += x.into();
                }
            }
        }
        for (v, sum) in v.iter_mut().zip(sums) {
            *v = T::from_f64((*v).into() + sum);
        }
    });
}

pub(super) fn softmax<T: Real>(columns: usize, logarithm: bool, x: &[T], y: &mut [T]) {
    assert!(x.len() == y.len() && x.len().is_multiple_of(columns.max(1)));
    x.par_chunks(columns.max(1)).zip(y.par_chunks_mut(columns.max(1))).for_each(|(x, y)| {
        let largest = x.iter().fold(f64::NEG_INFINITY, |most, &x| most.max(x.into()));
        let mut sum = 0.0;
        for (&x, y) in x.iter().zip(y.iter_mut()) {
            let exponential = (x.into() - largest).exp();
            sum += exponential;
            *y = T::from_f64(exponential);
        }
        if logarithm {
            let shift = largest + sum.ln();
            for (&x, y) in x.iter().zip(y) {
                *y = T::from_f64(x.into() - shift);
            }
        } else {
            for y in y {
                *y = T::from_f64((*y).into() / sum);
            }
        }
    });
}

pub(super) fn softmax_product<T: Real>(columns: usize, p: &[T], x: &[T], y: &mut [T]) {
    assert!(p.len() == x.len() && x.len() == y.len() && x.len().is_multiple_of(columns.max(1)));
    let columns = columns.max(1);
    let rows = p.par_chunks(columns).zip(x.par_chunks(columns)).zip(y.par_chunks_mut(columns));
    rows.for_each(|((p, x), y)| {
        let mean = super::dense::dot(p, x);
        for ((&p, &x), y) in p.iter().zip(x).zip(y) {
            *y = T::from_f64(p.into() * (x.into() - mean));
        }
    });
}

pub(super) fn normalize<T: Real>(norm: Norm, x: &[T], y: &mut [T], inverse: &mut [T]) {
    let Norm { columns, centred, epsilon } = norm;
    assert!(x.len() == y.len() && x.len() == inverse.len() * columns);
    let columns = columns.max(1);
    let rows = x.par_chunks(columns).zip(y.par_chunks_mut(columns)).zip(inverse);
    rows.for_each(|((x, y), inverse)| {
        let count = columns as f64;
        let mean = if centred { x.iter().map(|&x| x.into()).sum::<f64>() / count } else { 0.0 };
        let square = x.iter().map(|&x| (x.into() - mean).powi(2)).sum::<f64>() / count;
        let scale = 1.0 / (square + epsilon).sqrt();
        for (&x, y) in x.iter().zip(y) {
            *y = T::from_f64((x.into() - mean) * scale);
        }
        *inverse = T::from_f64(scale);
    });
}

pub(super) fn normalize_product<T: Real>(norm: Norm, normal: &[T], inverse: &[T], x: &[T], y: &mut [T]) {
    let Norm { columns, centred, .. } = norm;
    assert!(normal.len() == x.len() && x.len() == y.len() && x.len() == inverse.len() * columns);
    let columns = columns.max(1);
    let rows = normal.par_chunks(columns).zip(x.par_chunks(columns)).zip(y.par_chunks_mut(columns));
    rows.zip(inverse).for_each(|(((normal, x), y), &inverse)| {
        let count = columns as f64;
        let mean = if centred { x.iter().map(|&x| x.into()).sum::<f64>() / count } else { 0.0 };
        let along = super::dense::dot(normal, x) / count;
        for ((&normal, &x), y) in normal.iter().zip(x).zip(y) {
            *y = T::from_f64(inverse.into() * (x.into() - mean - normal.into() * along));
        }
    });
}

pub(super) fn argmax<T: Real>(columns: usize, x: &[T]) -> Vec<u32> {
    assert!(columns > 0 && x.len().is_multiple_of(columns) && u32::try_from(x.len()).is_ok());
    let rows = x.len() / columns;
    let largest = |row: usize| {
        let start = row * columns;
        let mut best = start;
        for at in start + 1..start + columns {
            let (value, most): (f64, f64) = (x[at].into(), x[best].into());
            if value > most || (value.is_nan() && !most.is_nan()) {
                best = at;
            }
        }
        best as u32
    };
    (0..rows).into_par_iter().map(largest).collect()
}
