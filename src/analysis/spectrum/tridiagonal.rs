//! Eigenvalues of symmetric tridiagonal matrices by the implicit QL algorithm (Dubrulle, Martin and Wilkinson 1968;
//! EISPACK's `imtql1`).

use crate::random::Stream;

/// Rotational sweeps for one eigenvalue after which the algorithm has failed. Two are usual.
const MOST_SWEEPS: usize = 60;

/// The eigenvalues, smallest first; `None` where the algorithm did not converge.
///
/// `below[i]` stands beside `diagonal[i]` and `diagonal[i + 1]`; each value is within a small multiple of the unit roundoff times
/// the largest of them.
pub fn eigenvalues(mut diagonal: Vec<f64>, mut below: Vec<f64>) -> Option<Vec<f64>> {
    let n = diagonal.len();
    below.resize(n, 0.0);
    // What is this small beside the whole matrix changes no value by more than rounding does. Without it a block of zeros, where
    // no element is small beside its neighbours, would not split.
    let norm = diagonal.iter().chain(&below).fold(0.0f64, |most, x| most.max(x.abs()));
    let negligible = 0.1 * f64::EPSILON * norm;
    for first in 0..n {
        let mut sweeps = 0;
        loop {
            let split = (first..n - 1).find(|&index| {
                let neighbours = diagonal[index].abs() + diagonal[index + 1].abs();
                below[index].abs() <= (f64::EPSILON * neighbours).max(negligible)
            });
            let last = split.unwrap_or(n - 1);
            if last == first {
                break;
            }
            if sweeps == MOST_SWEEPS {
                return None;
            }
            sweeps += 1;
            sweep(&mut diagonal, &mut below, first, last);
        }
    }
    diagonal.sort_by(f64::total_cmp);
    Some(diagonal)
}

/// One implicit QL sweep on the block `first..=last`.
fn sweep(diagonal: &mut [f64], below: &mut [f64], first: usize, last: usize) {
    let half_gap = (diagonal[first + 1] - diagonal[first]) / (2.0 * below[first]);
    let root = half_gap.hypot(1.0).copysign(half_gap);
    let mut shifted = diagonal[last] - diagonal[first] + below[first] / (half_gap + root);
    let (mut sine, mut cosine, mut carried) = (1.0, 1.0, 0.0);
    for index in (first..last).rev() {
        let (along, across) = (sine * below[index], cosine * below[index]);
        let radius = along.hypot(shifted);
        below[index + 1] = radius;
        if radius == 0.0 {
            // The block splits here: what is left of the shift is put back.
            diagonal[index + 1] -= carried;
            below[last] = 0.0;
            return;
        }
        sine = along / radius;
        cosine = shifted / radius;
        shifted = diagonal[index + 1] - carried;
        let turned = (diagonal[index] - shifted) * sine + 2.0 * cosine * across;
        carried = sine * turned;
        diagonal[index + 1] = shifted + carried;
        shifted = cosine * turned - across;
    }
    diagonal[first] -= carried;
    below[first] = shifted;
    below[last] = 0.0;
}

/// Inverse iterations for one vector: the first has rounding to come from, the second is there, the third is for ties.
const ITERATIONS: usize = 3;

/// Unit vectors of the `wanted` largest eigenvalues, largest first, orthogonal to each other: by inverse iteration from random starts
/// (Jessup and Ipsen 1992). `None` where the eigenvalues did not converge.
pub fn largest_vectors(diagonal: &[f64], below: &[f64], wanted: usize) -> Option<Vec<Vec<f64>>> {
    let n = diagonal.len();
    let values = eigenvalues(diagonal.to_vec(), below.to_vec())?;
    let norm = diagonal.iter().chain(below).fold(0.0f64, |most, x| most.max(x.abs()));
    let least = f64::EPSILON * if norm > 0.0 { norm } else { 1.0 };
    let mut vectors: Vec<Vec<f64>> = Vec::new();
    for (index, value) in values.iter().rev().take(wanted).enumerate() {
        let mut vector = Stream::new(0, index as u64).normals(n);
        for _ in 0..ITERATIONS {
            solve(diagonal, below, *value, least, &mut vector);
            // Divided before it is squared: it may be 1e16 times as long as it was.
            let most = vector.iter().fold(0.0f64, |most, x| most.max(x.abs()));
            for x in &mut vector {
                *x /= most;
            }
            for _ in 0..2 {
                for before in &vectors {
                    let inner: f64 = vector.iter().zip(before).map(|(x, y)| x * y).sum();
                    for (x, y) in vector.iter_mut().zip(before) {
                        *x -= inner * y;
                    }
                }
            }
            let length = vector.iter().map(|x| x * x).sum::<f64>().sqrt();
            for x in &mut vector {
                *x /= length;
            }
        }
        vectors.push(vector);
    }
    Some(vectors)
}

/// `x ← (T − shift)⁻¹·x` by elimination with partial pivoting; a pivot of less than `least` is that.
fn solve(diagonal: &[f64], below: &[f64], shift: f64, least: f64, x: &mut [f64]) {
    let n = diagonal.len();
    // Rows of the upper triangle: the pivot and the two beside it.
    let mut upper: Vec<[f64; 3]> = Vec::with_capacity(n);
    let row = |index: usize| {
        let beside = below.get(index).copied().unwrap_or(0.0);
        [diagonal[index] - shift, beside, 0.0]
    };
    let mut own = row(0);
    for index in 0..n - 1 {
        let mut next = [below[index], row(index + 1)[0], row(index + 1)[1]];
        if next[0].abs() > own[0].abs() {
            std::mem::swap(&mut own, &mut next);
            x.swap(index, index + 1);
        }
        let factor = if own[0] == 0.0 { 0.0 } else { next[0] / own[0] };
        x[index + 1] -= factor * x[index];
        upper.push(own);
        own = [next[1] - factor * own[1], next[2] - factor * own[2], 0.0];
    }
    upper.push(own);
    for index in (0..n).rev() {
        let [pivot, beside, beyond] = upper[index];
        let after = |far: usize| x.get(index + far).copied().unwrap_or(0.0);
        let pivot = if pivot.abs() < least { least } else { pivot };
        x[index] = (x[index] - beside * after(1) - beyond * after(2)) / pivot;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The second difference has the eigenvalues 2 − 2cos(πk/(n+1)).
    #[test]
    fn the_second_difference_has_its_known_eigenvalues() {
        for n in [1, 2, 3, 10, 301] {
            let values = eigenvalues(vec![2.0; n], vec![-1.0; n.saturating_sub(1)]).unwrap();
            for (index, value) in values.iter().enumerate() {
                let angle = std::f64::consts::PI * (index + 1) as f64 / (n + 1) as f64;
                assert!((value - (2.0 - 2.0 * angle.cos())).abs() < 1e-14, "{n}: {index}");
            }
        }
    }

    #[test]
    fn diagonal_and_empty_matrices_are_their_own_answer() {
        assert_eq!(eigenvalues(vec![3.0, -1.0, 2.0], vec![0.0; 2]).unwrap(), [-1.0, 2.0, 3.0]);
        assert_eq!(eigenvalues(vec![0.0; 3], vec![0.0; 2]).unwrap(), [0.0; 3]);
        assert!(eigenvalues(Vec::new(), Vec::new()).unwrap().is_empty());
    }

    #[test]
    fn a_block_of_rounding_beside_large_values_converges() {
        let below: Vec<f64> =
            (0..59).map(|index| if index < 10 { 1.0 } else { 1e-17 / f64::from(index) }).collect();
        let values = eigenvalues(vec![0.0; 60], below).unwrap();
        // ±2cos(πk/12) and zero of the path of eleven.
        for (index, value) in values.iter().rev().take(5).enumerate() {
            let expected = 2.0 * (std::f64::consts::PI * (index + 1) as f64 / 12.0).cos();
            assert!((value - expected).abs() < 1e-14);
        }
    }

    #[test]
    fn what_is_not_a_number_does_not_run_forever() {
        assert_eq!(eigenvalues(vec![f64::NAN, 1.0], vec![1.0]), None);
    }
}
