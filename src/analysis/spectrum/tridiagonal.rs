//! Eigenvalues of symmetric tridiagonal matrices by the implicit QL algorithm (Dubrulle, Martin and Wilkinson 1968;
//! EISPACK's `imtql1`).

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
