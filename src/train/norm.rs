//! Norms of gradients: sums of squares in f64, in blocks of a fixed size that are folded in order.

use rayon::iter::ParallelIterator;
use rayon::slice::ParallelSlice;

const BLOCK: usize = 1 << 16;
const LANES: usize = 16;

/// `Σ x²`.
pub(super) fn squares(values: &[f32]) -> f64 {
    let blocks: Vec<f64> = values.par_chunks(BLOCK).map(of_block).collect();
    blocks.iter().sum()
}

fn of_block(values: &[f32]) -> f64 {
    let (chunks, rest) = values.as_chunks::<LANES>();
    let mut sums = [0.0f64; LANES];
    for chunk in chunks {
        for (sum, &value) in sums.iter_mut().zip(chunk) {
            *sum += f64::from(value) * f64::from(value);
        }
    }
    let rest: f64 = rest.iter().map(|&value| f64::from(value) * f64::from(value)).sum();
    sums.iter().sum::<f64>() + rest
}

/// How many are NaN or infinite; they are only counted where the sum of squares says that there may be some.
pub(super) fn non_finite(values: &[f32], squares: f64) -> u64 {
    if squares.is_finite() {
        return 0;
    }
    values.iter().filter(|value| !value.is_finite()).count() as u64
}
