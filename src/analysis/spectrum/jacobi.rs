//! All singular triplets of a small dense matrix by one-sided Jacobi rotations (Hestenes 1958; Demmel and Veselić 1992).
//!
//! For what Lanczos leaves: bidiagonal matrices of some tens of rows. Every singular value comes out with a small
//! relative error, however much they differ.

use crate::robust::largest_first;

/// `B = P·diag(values)·Qᵀ` of a square matrix.
#[derive(Debug, Clone, PartialEq)]
pub struct Triplets {
    /// Singular values, largest first.
    pub values: Vec<f64>,
    /// Left singular vectors, one after the other. Zeros for a value of 0.
    pub left: Vec<Vec<f64>>,
    /// Right singular vectors, one after the other.
    pub right: Vec<Vec<f64>>,
}

/// Sweeps after which rotations end; cyclic Jacobi needs about ten at these sizes.
const MOST_SWEEPS: usize = 60;

/// The triplets of the matrix with these columns.
pub fn triplets(mut columns: Vec<Vec<f64>>) -> Triplets {
    let n = columns.len();
    let mut right: Vec<Vec<f64>> =
        (0..n).map(|row| (0..n).map(|column| f64::from(u8::from(row == column))).collect()).collect();
    for _ in 0..MOST_SWEEPS {
        let mut rotated = false;
        for first in 0..n {
            for second in first + 1..n {
                if let Some((cosine, sine)) = rotation(&columns[first], &columns[second]) {
                    rotate(&mut columns, first, second, cosine, sine);
                    rotate(&mut right, first, second, cosine, sine);
                    rotated = true;
                }
            }
        }
        if !rotated {
            break;
        }
    }
    let norms: Vec<f64> = columns.iter().map(|column| norm(column)).collect();
    let order = largest_first(&norms);
    let unit = |index: usize| {
        let inverse = if norms[index] > 0.0 { 1.0 / norms[index] } else { 0.0 };
        columns[index].iter().map(|x| x * inverse).collect()
    };
    Triplets {
        values: order.iter().map(|&index| norms[index]).collect(),
        left: order.iter().map(|&index| unit(index)).collect(),
        right: order.iter().map(|&index| right[index].clone()).collect(),
    }
}

/// The triplets of the upper bidiagonal matrix with this diagonal and superdiagonal.
pub fn bidiagonal(diagonal: &[f64], above: &[f64]) -> Triplets {
    let n = diagonal.len();
    let column = |index: usize| {
        let mut column = vec![0.0; n];
        column[index] = diagonal[index];
        if index > 0 {
            column[index - 1] = above[index - 1];
        }
        column
    };
    triplets((0..n).map(column).collect())
}

/// The rotation that makes two columns orthogonal; `None` where they are.
fn rotation(a: &[f64], b: &[f64]) -> Option<(f64, f64)> {
    let (alpha, beta, gamma) = (dot(a, a), dot(b, b), dot(a, b));
    if gamma.abs() <= f64::EPSILON * (alpha * beta).sqrt() || gamma == 0.0 {
        return None;
    }
    let zeta = (beta - alpha) / (2.0 * gamma);
    let tangent = zeta.signum() / (zeta.abs() + zeta.hypot(1.0));
    let cosine = 1.0 / tangent.hypot(1.0);
    Some((cosine, cosine * tangent))
}

fn rotate(columns: &mut [Vec<f64>], first: usize, second: usize, cosine: f64, sine: f64) {
    let (head, tail) = columns.split_at_mut(second);
    for (a, b) in head[first].iter_mut().zip(&mut tail[0]) {
        (*a, *b) = (cosine * *a - sine * *b, sine * *a + cosine * *b);
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn norm(column: &[f64]) -> f64 {
    dot(column, column).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Stream;

    #[test]
    fn the_product_of_the_factors_is_the_matrix() {
        let n = 23;
        let columns: Vec<Vec<f64>> = (0..n).map(|column| Stream::new(1, column).normals(23)).collect();
        let Triplets { values, left, right } = triplets(columns.clone());
        assert!(values.windows(2).all(|pair| pair[0] >= pair[1]));
        for (column, expected) in columns.iter().enumerate() {
            for (row, expected) in expected.iter().enumerate() {
                let terms = (0..values.len()).map(|i| left[i][row] * values[i] * right[i][column]);
                assert!((terms.sum::<f64>() - expected).abs() < 1e-13 * values[0]);
            }
        }
    }

    #[test]
    fn tiny_singular_values_keep_their_digits() {
        let values = bidiagonal(&[1.0, 1e-8, 1e-16], &[0.0, 0.0]).values;
        assert_eq!(values, [1.0, 1e-8, 1e-16]);
        // The product of the singular values of a triangular matrix is that of its diagonal.
        let values = bidiagonal(&[1.0, 1e-3, 1e-9], &[0.5, 1e-4]).values;
        let product: f64 = values.iter().product();
        assert!((product / 1e-12 - 1.0).abs() < 1e-13, "{values:?}");
    }

    #[test]
    fn a_column_of_zeros_is_a_singular_value_of_zero() {
        assert_eq!(bidiagonal(&[2.0, 0.0], &[0.0]).values, [2.0, 0.0]);
        assert!(bidiagonal(&[], &[]).values.is_empty());
    }
}
