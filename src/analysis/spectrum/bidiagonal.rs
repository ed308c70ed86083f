//! All singular values of a dense matrix without squaring it: Householder's reduction to bidiagonal form (Golub and Kahan
//! 1965), and the eigenvalues of the tridiagonal matrix that holds the bidiagonal one twice.
//!
//! Dearer than the Gram matrix, and as exact for the smallest values as for the largest: each within a small multiple of
//! the unit roundoff times the largest.

use super::tridiagonal;

/// The singular values of the rows×columns matrix `values`, row-major, largest first. `None` where the algorithm did not
/// converge.
pub fn singular_values(values: Vec<f64>, rows: usize, columns: usize) -> Option<Vec<f64>> {
    assert_eq!(values.len(), rows * columns);
    let (mut values, long, short) = if rows >= columns {
        (values, rows, columns)
    } else {
        let entry = |at: usize| values[(at % rows) * columns + at / rows];
        ((0..values.len()).map(entry).collect(), columns, rows)
    };
    let mut diagonal = Vec::with_capacity(short);
    let mut above = Vec::with_capacity(short);
    for step in 0..short {
        diagonal.push(reflect_column(&mut values, long, short, step));
        if step + 1 < short {
            above.push(reflect_row(&mut values, long, short, step));
        }
    }
    // The rows and columns of [0 Bᵀ; B 0] in the order 1, n+1, 2, n+2, … make a tridiagonal matrix of zero diagonal
    // with the eigenvalues ±σ.
    let mut below = Vec::with_capacity(2 * short);
    for (step, element) in diagonal.iter().enumerate() {
        below.push(*element);
        below.extend(above.get(step));
    }
    let both = tridiagonal::eigenvalues(vec![0.0; 2 * short], below)?;
    Some(both.into_iter().rev().take(short).map(f64::abs).collect())
}

/// Makes column `step` zero below row `step`; the element that is left.
fn reflect_column(values: &mut [f64], long: usize, short: usize, step: usize) -> f64 {
    let column: Vec<f64> = (step..long).map(|row| values[row * short + step]).collect();
    let (reflector, head, factor) = reflector(&column);
    if factor != 0.0 {
        let mut products = vec![0.0; short - step - 1];
        for (row, u) in (step..long).zip(&reflector) {
            axpy(*u, &values[row * short + step + 1..(row + 1) * short], &mut products);
        }
        for (row, u) in (step..long).zip(&reflector) {
            axpy(-factor * u, &products, &mut values[row * short + step + 1..(row + 1) * short]);
        }
    }
    head
}

/// Makes row `step` zero right of column `step` + 1; the element that is left.
fn reflect_row(values: &mut [f64], long: usize, short: usize, step: usize) -> f64 {
    let (reflector, head, factor) = reflector(&values[step * short + step + 1..(step + 1) * short]);
    if factor != 0.0 {
        for row in step + 1..long {
            let line = &mut values[row * short + step + 1..(row + 1) * short];
            let product: f64 = line.iter().zip(&reflector).map(|(x, u)| x * u).sum();
            axpy(-factor * product, &reflector, line);
        }
    }
    head
}

/// The reflector I − f·u·uᵀ that takes `vector` into its first element, as (u, that element, f).
fn reflector(vector: &[f64]) -> (Vec<f64>, f64, f64) {
    let head = vector[0];
    let scale = vector.iter().fold(0.0f64, |most, x| most.max(x.abs()));
    let rest: f64 = vector[1..].iter().map(|x| (x / scale).powi(2)).sum();
    if scale == 0.0 || rest == 0.0 {
        return (Vec::new(), head, 0.0);
    }
    let length = -(scale * (rest + (head / scale).powi(2)).sqrt()).copysign(head);
    let mut reflector: Vec<f64> = vector.iter().map(|x| x / scale).collect();
    let tip = (head - length) / scale;
    reflector[0] = tip;
    (reflector, length, 2.0 / (rest + tip * tip))
}

fn axpy(alpha: f64, x: &[f64], y: &mut [f64]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y += alpha * x;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::spectrum::jacobi;
    use crate::random::Stream;

    #[test]
    fn they_are_those_of_jacobi_for_square_tall_and_wide_matrices() {
        for (rows, columns) in [(1, 1), (1, 7), (7, 1), (5, 5), (40, 13), (13, 40), (64, 64)] {
            let values = Stream::new(3, (rows * 100 + columns) as u64).normals(rows * columns);
            // Columns of the square matrix that zeros make of it.
            let side = rows.max(columns);
            let entry = |row: usize, column: usize| {
                if row < rows && column < columns { values[row * columns + column] } else { 0.0 }
            };
            let square = (0..side).map(|column| (0..side).map(|row| entry(row, column)).collect()).collect();
            let expected = jacobi::triplets(square).values;
            let found = singular_values(values, rows, columns).unwrap();
            assert_eq!(found.len(), rows.min(columns));
            for (found, expected) in found.iter().zip(&expected) {
                assert!((found - expected).abs() < 1e-13 * expected.max(1.0), "{rows}×{columns}");
            }
        }
    }

    #[test]
    fn values_far_below_the_root_of_the_roundoff_are_resolved() {
        let graded: Vec<f64> = (0..12).map(|index| 10f64.powi(-index)).collect();
        let values = (0..144).map(|at| if at / 12 == at % 12 { graded[at / 12] } else { 0.0 }).collect();
        for (found, expected) in singular_values(values, 12, 12).unwrap().iter().zip(&graded) {
            assert!((found - expected).abs() < 1e-15, "{found} {expected}");
        }
    }
}
