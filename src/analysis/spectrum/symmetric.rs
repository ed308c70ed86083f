//! Eigenvalues of dense symmetric matrices: Householder's reduction to tridiagonal form, then implicit QL.
//!
//! Each step reflects the last row into its last but one element. The rank-two update of one step and the matrix–vector
//! product of the next go over the matrix together, so that it is read once a step: the reduction is limited by memory.
//! Rows are cut into parts by their number alone, and the parts' sums are added in order.

use rayon::iter::{IntoParallelIterator, ParallelIterator};

use super::tridiagonal;
use crate::compute::Backend;
use crate::error::Result;

/// Elements of the lower triangle that are worth a thread of their own.
const PART: usize = 1 << 16;

/// Parts of one step.
const MOST_PARTS: usize = 8;

/// Independent sums of a dot product.
const LANES: usize = 4;

/// The eigenvalues of the symmetric n×n matrix `values`, row-major, of which the lower triangle is read; smallest first.
/// `None` where the algorithm did not converge.
pub fn eigenvalues(mut values: Vec<f64>, n: usize) -> Option<Vec<f64>> {
    assert_eq!(values.len(), n * n);
    let (diagonal, below) = tridiagonalise(&mut values, n, |_, _| {});
    tridiagonal::eigenvalues(diagonal, below)
}

/// The eigenvalues of each of `count` symmetric matrices of a device, one after the other and ascending: by the solver of the device, or else
/// on the processor. `None` where the iteration of one did not converge.
pub(super) fn eigenvalues_on<B: Backend>(
    backend: &B,
    matrices: &B::Buffer<f64>,
    n: usize,
    count: usize,
) -> Result<Option<Vec<f64>>> {
    if let Some(values) = backend.eigenvalues(matrices, n, count)? {
        return Ok(Some(values));
    }
    let matrices = backend.download(matrices)?;
    if count == 1 {
        return Ok(eigenvalues(matrices, n));
    }
    let values = matrices.chunks_exact(n * n).map(|matrix| eigenvalues(matrix.to_vec(), n));
    Ok(values.collect::<Option<Vec<_>>>().map(|values| values.concat()))
}

/// Unit vectors of the `wanted` largest eigenvalues, largest first, of the same matrix as for [`eigenvalues`], or of all where it has
/// fewer. Their residuals are within a small multiple of rounding; `None` where the algorithm did not converge.
pub fn largest_vectors(mut values: Vec<f64>, n: usize, wanted: usize) -> Option<Vec<Vec<f64>>> {
    assert_eq!(values.len(), n * n);
    let mut reflectors = Vec::with_capacity(n);
    let (diagonal, below) =
        tridiagonalise(&mut values, n, |reflector, factor| reflectors.push((reflector.to_vec(), factor)));
    let mut vectors = tridiagonal::largest_vectors(&diagonal, &below, wanted)?;
    for vector in &mut vectors {
        // H₁H₂…A…H₂H₁ is tridiagonal: the last reflector is the first to be undone.
        for (reflector, factor) in reflectors.iter().rev() {
            let inner: f64 = reflector.iter().zip(&*vector).map(|(u, x)| u * x).sum();
            for (x, u) in vector.iter_mut().zip(reflector) {
                *x -= factor * inner * u;
            }
        }
    }
    Some(vectors)
}

/// Diagonal and subdiagonal of the tridiagonal matrix; `keep` is given each reflector u and its factor f, in order.
fn tridiagonalise(values: &mut [f64], n: usize, mut keep: impl FnMut(&[f64], f64)) -> (Vec<f64>, Vec<f64>) {
    let (mut diagonal, mut below) = (vec![0.0; n], vec![0.0; n.saturating_sub(1)]);
    // The update that is still to be made: A ← A − v·wᵀ − w·vᵀ.
    let (mut v, mut w) = (vec![0.0; n], vec![0.0; n]);
    for row in (0..n).rev() {
        let last = &mut values[row * n..=row * n + row];
        update_row(last, v[row], w[row], &v, &w);
        diagonal[row] = last[row];
        if row == 0 {
            break;
        }
        let (reflector, length, factor) = reflect(&last[..row]);
        below[row - 1] = length;
        keep(&reflector, factor);
        let mut product = update_and_multiply(&mut values[..row * n], n, row, (&v, &w), &reflector);
        // With H = I − f·u·uᵀ: HAH = A − u·wᵀ − w·uᵀ where w = f·A·u − (f²/2)(uᵀA·u)·u.
        for x in &mut product {
            *x *= factor;
        }
        let inner: f64 = product.iter().zip(&reflector).map(|(p, u)| p * u).sum();
        for (product, u) in product.iter_mut().zip(&reflector) {
            *product -= 0.5 * factor * inner * u;
        }
        v[..row].copy_from_slice(&reflector);
        w[..row].copy_from_slice(&product);
    }
    (diagonal, below)
}

/// The reflector I − f·u·uᵀ that takes `row` into its last element, as (u, that element, f).
fn reflect(row: &[f64]) -> (Vec<f64>, f64, f64) {
    let (&last, rest) = row.split_last().expect("a row that is reflected is not empty");
    let scale = row.iter().fold(0.0f64, |most, x| most.max(x.abs()));
    let square: f64 = rest.iter().map(|x| (x / scale).powi(2)).sum();
    if scale == 0.0 || square == 0.0 {
        return (vec![0.0; row.len()], last, 0.0);
    }
    let length = -(scale * (square + (last / scale).powi(2)).sqrt()).copysign(last);
    let mut reflector: Vec<f64> = row.iter().map(|x| x / scale).collect();
    let tip = (last - length) / scale;
    reflector[row.len() - 1] = tip;
    (reflector, length, 2.0 / (square + tip * tip))
}

fn update_row(row: &mut [f64], v: f64, w: f64, vs: &[f64], ws: &[f64]) {
    for ((value, v_column), w_column) in row.iter_mut().zip(vs).zip(ws) {
        *value -= v * w_column + w * v_column;
    }
}

#[expect(clippy::cast_sign_loss, reason = "a share of the rows is not negative")]
/// Updates the lower triangle of the leading `rows` rows and multiplies the outcome with `u`.
fn update_and_multiply(
    values: &mut [f64],
    n: usize,
    rows: usize,
    (v, w): (&[f64], &[f64]),
    u: &[f64],
) -> Vec<f64> {
    let parts = (rows * rows / 2 / PART).clamp(1, MOST_PARTS);
    let mut pieces = Vec::with_capacity(parts);
    let (mut rest, mut first) = (values, 0);
    for part in 1..=parts {
        // Rows of a triangle: equal areas end at square roots.
        let end =
            if part == parts { rows } else { ((part as f64 / parts as f64).sqrt() * rows as f64) as usize };
        let (piece, others) = rest.split_at_mut((end - first) * n);
        pieces.push((first, piece));
        (rest, first) = (others, end);
    }
    let sums: Vec<Vec<f64>> = if parts == 1 {
        pieces.into_iter().map(|(first, piece)| triangle(piece, n, first, (v, w), u)).collect()
    } else {
        pieces.into_par_iter().map(|(first, piece)| triangle(piece, n, first, (v, w), u)).collect()
    };
    let mut product = vec![0.0; rows];
    for sum in sums {
        for (total, part) in product.iter_mut().zip(sum) {
            *total += part;
        }
    }
    product
}

/// Updates these rows of the lower triangle, `first` the first of them, and gives what they add to `A·u`.
fn triangle(rows: &mut [f64], n: usize, first: usize, (v, w): (&[f64], &[f64]), u: &[f64]) -> Vec<f64> {
    let count = rows.len() / n;
    let mut sum = vec![0.0; first + count];
    for (offset, row) in rows.chunks_exact_mut(n).enumerate() {
        let index = first + offset;
        let left = &mut row[..index];
        let along = update_and_add(
            left,
            [v[index], w[index], u[index]],
            [&v[..index], &w[..index], &u[..index]],
            &mut sum[..index],
        );
        row[index] -= 2.0 * v[index] * w[index];
        sum[index] += along + row[index] * u[index];
    }
    sum
}

/// Updates the row, adds `u·row` to `sum` and gives the row's dot product with us.
fn update_and_add(row: &mut [f64], [v, w, u]: [f64; 3], [vs, ws, us]: [&[f64]; 3], sum: &mut [f64]) -> f64 {
    let mut lanes = [0.0f64; LANES];
    let whole = row.len() - row.len() % LANES;
    let (row_chunks, row_rest) = row.as_chunks_mut::<LANES>();
    let (sum_chunks, sum_rest) = sum.as_chunks_mut::<LANES>();
    let chunks =
        vs.as_chunks::<LANES>().0.iter().zip(ws.as_chunks::<LANES>().0).zip(us.as_chunks::<LANES>().0);
    for ((row, sum), ((vs, ws), us)) in row_chunks.iter_mut().zip(sum_chunks).zip(chunks) {
        for lane in 0..LANES {
            let value = row[lane] - (v * ws[lane] + w * vs[lane]);
            row[lane] = value;
            sum[lane] += u * value;
            lanes[lane] += us[lane] * value;
        }
    }
    let mut along = (lanes[0] + lanes[1]) + (lanes[2] + lanes[3]);
    for (index, (row, sum)) in (whole..).zip(row_rest.iter_mut().zip(sum_rest)) {
        *row -= v * ws[index] + w * vs[index];
        *sum += u * *row;
        along += us[index] * *row;
    }
    along
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Stream;

    fn random(n: usize) -> Vec<f64> {
        let mut values = Stream::new(5, n as u64).normals(n * n);
        for row in 0..n {
            for column in 0..row {
                values[column * n + row] = values[row * n + column];
            }
        }
        values
    }

    #[test]
    fn trace_and_squares_are_those_of_the_matrix() {
        for n in [1, 2, 3, 7, 64, 129, 400] {
            let values = random(n);
            let trace: f64 = (0..n).map(|index| values[index * n + index]).sum();
            let squares: f64 = values.iter().map(|x| x * x).sum();
            let found = eigenvalues(values, n).unwrap();
            let largest = found.iter().fold(0.0f64, |most, x| most.max(x.abs()));
            assert!((found.iter().sum::<f64>() - trace).abs() < 1e-13 * largest * n as f64, "{n}");
            let sum: f64 = found.iter().map(|x| x * x).sum();
            assert!((sum / squares - 1.0).abs() < 1e-13 * n as f64, "{n}");
        }
    }

    #[test]
    fn a_rotated_diagonal_has_the_eigenvalues_of_the_diagonal() {
        // H·D·H with H = I − 2·u·uᵀ is D − 2·u·(D·u)ᵀ − 2·(D·u)·uᵀ + 4·(uᵀ·D·u)·u·uᵀ.
        let n = 150;
        let mut u = Stream::new(9, 0).normals(n);
        let norm = u.iter().map(|x| x * x).sum::<f64>().sqrt();
        for x in &mut u {
            *x /= norm;
        }
        let d: Vec<f64> = (0..n).map(|index| (index as f64 - 60.0).powi(3)).collect();
        let inner: f64 = u.iter().zip(&d).map(|(u, d)| u * u * d).sum();
        let entry = |i: usize, j: usize| {
            let diagonal = if i == j { d[i] } else { 0.0 };
            diagonal - 2.0 * u[i] * u[j] * (d[i] + d[j]) + 4.0 * inner * u[i] * u[j]
        };
        let values = (0..n * n).map(|at| entry(at / n, at % n)).collect();
        for (found, expected) in eigenvalues(values, n).unwrap().iter().zip(&d) {
            assert!((found - expected).abs() < 1e-13 * d[n - 1], "{found} {expected}");
        }
    }

    /// Diagonal matrices turned by a reflector, with ties, and random ones.
    #[test]
    fn the_largest_vectors_are_orthonormal_and_have_residuals_of_rounding() {
        let n = 60;
        let diagonal = |tie: bool| -> Vec<f64> {
            (0..n * n)
                .map(|at| match (at / n == at % n, tie) {
                    (false, _) => 0.0,
                    (true, true) => [7.0, 7.0, 7.0, 3.0][at % n % 4],
                    (true, false) => (at % n) as f64,
                })
                .collect()
        };
        let mut turned = diagonal(true);
        let u = Stream::new(9, 1).normals(n);
        let square: f64 = u.iter().map(|x| x * x).sum();
        for _ in 0..2 {
            // (I − 2uuᵀ)·D, and again from the other side.
            let product: Vec<f64> =
                (0..n).map(|j| (0..n).map(|i| u[i] * turned[i * n + j]).sum::<f64>()).collect();
            turned = (0..n * n)
                .map(|at| turned[at % n * n + at / n] - 2.0 * u[at % n] * product[at / n] / square)
                .collect();
        }
        for matrix in [random(n), turned, diagonal(true), diagonal(false), vec![0.0; n * n]] {
            let values = eigenvalues(matrix.clone(), n).unwrap();
            let norm = values.iter().fold(0.0f64, |most, x| most.max(x.abs()));
            let vectors = largest_vectors(matrix.clone(), n, 16).unwrap();
            assert_eq!(vectors.len(), 16);
            for (index, vector) in vectors.iter().enumerate() {
                let value = values[n - 1 - index];
                for row in 0..n {
                    let product: f64 = (0..n).map(|column| matrix[row * n + column] * vector[column]).sum();
                    assert!((product - value * vector[row]).abs() <= 1e-12 * norm, "{index}");
                }
                for (other, before) in vectors[..=index].iter().enumerate() {
                    let inner: f64 = vector.iter().zip(before).map(|(a, b)| a * b).sum();
                    assert!((inner - f64::from(u8::from(other == index))).abs() < 1e-12, "{index} {other}");
                }
            }
        }
        assert_eq!(largest_vectors(vec![4.0], 1, 16).unwrap().len(), 1);
    }

    #[test]
    fn zeros_and_the_identity_are_their_own_answer() {
        assert_eq!(eigenvalues(vec![0.0; 9], 3).unwrap(), [0.0; 3]);
        let identity = (0..16).map(|at| f64::from(u8::from(at % 5 == 0))).collect();
        assert_eq!(eigenvalues(identity, 4).unwrap(), [1.0; 4]);
    }
}
