//! Brackets of the largest singular value fail no more often than they say.

use flashpoint::analysis::model::{Degenerate, Measured};
use flashpoint::analysis::spectrum::choice::Route;
use flashpoint::analysis::spectrum::{block_lanczos::WIDTH, bracket, matrix};
use flashpoint::compute::{Cpu, Matrix};
use flashpoint::context::Context;
use flashpoint::random::Stream;

use super::{f64_tensor, gaussian, reflection, singular_values, spectrum};

/// Kinds of matrices that a bracket must hold for.
fn contrived(kind: usize, draw: u64) -> (usize, usize, Vec<f64>) {
    let sizes = Stream::new(99, draw).uniforms(2);
    let size = |uniform: f64| usize::try_from((2.0 + 255.0 * uniform) as i64).expect("it is at least two");
    let (rows, columns) = (size(sizes[0]), size(sizes[1]));
    let mut values = gaussian(1_000 + draw, rows * columns, 1.0);
    let outer = |values: &mut Vec<f64>, factor: f64, stream: u64| {
        let (left, right) = (gaussian(stream, rows, 1.0), gaussian(stream + 1, columns, 1.0));
        for (at, value) in values.iter_mut().enumerate() {
            *value += factor * left[at / columns] * right[at % columns];
        }
    };
    match kind {
        0 => {}
        1 => {
            for spike in 0..3u64 {
                outer(&mut values, 0.3 * (spike + 1) as f64, 50_000_000 + 100 * draw + 2 * spike);
            }
        }
        2 => {
            // Two largest values within a thousandth of each other.
            for value in &mut values {
                *value *= 0.01;
            }
            for at in 0..2.min(rows).min(columns) {
                values[at * columns + at] += 1.0 + 1e-3 * at as f64;
            }
        }
        _ => {
            values.fill(0.0);
            for term in 0..3u64 {
                outer(&mut values, 1.0 / (term + 1) as f64, 90_000_000 + 100 * draw + 2 * term);
            }
        }
    }
    (rows, columns, values)
}

/// `FLASHPOINT_BRACKETS=10000 cargo test --release --test spectra -- --nocapture the_bracket` is the whole run.
#[test]
fn the_bracket_fails_no_more_often_than_it_says() {
    the_bracket_holds(Route::Lanczos);
}

#[test]
fn the_bracket_of_blocks_fails_no_more_often_than_it_says() {
    the_bracket_holds(Route::BlockLanczos);
}

fn the_bracket_holds(route: Route) {
    let draws: u64 =
        std::env::var("FLASHPOINT_BRACKETS").ok().and_then(|text| text.parse().ok()).unwrap_or(200);
    let directory = tempfile::tempdir().unwrap();
    let (mut failures, mut widths, mut exact, mut stopped_early) = (0u64, Vec::new(), 0u64, 0u64);
    for draw in 0..draws {
        let (rows, columns, elements) = contrived((draw % 4) as usize, draw);
        let tensor = f64_tensor(directory.path(), rows, columns, &elements);
        let norm = spectrum(&tensor, route).spectral_norm;
        let largest = singular_values(elements, rows, columns)[0];
        let upper = *norm.upper.value().unwrap();
        assert!(norm.value <= largest * (1.0 + 1e-12), "the lower end is no estimate: it holds always");
        failures += u64::from(upper < largest * (1.0 - 1e-12));
        widths.push(upper / norm.value - 1.0);
        exact += u64::from(norm.failure_probability == 0.0);
        let width = if route == Route::BlockLanczos { WIDTH } else { 1 };
        stopped_early += u64::from((norm.steps as usize) * width < rows.min(columns));
    }
    widths.sort_by(f64::total_cmp);
    println!(
        "{route:?}: {draws} matrices: {failures} failures, median width {:.2e}, largest {:.2e}, {exact} certain, {stopped_early} of a part of the space",
        widths[widths.len() / 2],
        widths[widths.len() - 1],
    );
    // Binomial upper limit at the stated probability: mean and four standard deviations.
    let mean = draws as f64 * bracket::FAILURE_PROBABILITY;
    assert!(failures as f64 <= mean + 4.0 * mean.sqrt().max(0.25), "{failures} of {draws}");
    assert!(widths[widths.len() - 1] < 0.0105);
}

/// `P·diag(values)·Q` with P and Q reflections, of as many rows and columns.
fn with_values(stream: u64, rows: usize, columns: usize, values: &[f64]) -> Vec<f64> {
    let (left, right) = (reflection(stream, rows, 1.0), reflection(stream + 1, columns, 1.0));
    let mut matrix = vec![0.0; rows * columns];
    for (index, value) in values.iter().enumerate() {
        for (at, entry) in matrix.iter_mut().enumerate() {
            *entry += left[at / columns * rows + index] * value * right[index * columns + at % columns];
        }
    }
    matrix
}

#[test]
fn blocks_find_the_largest_values_within_their_residuals_ties_and_missing_ranks_too() {
    let directory = tempfile::tempdir().unwrap();
    // Ten of the same, which is more than a block has vectors; pairs that differ by 1e-6; few above nothing; one alone; fast decay.
    let equal: Vec<f64> = (0..150).map(|index| if index < 10 { 3.0 } else { 1.0 }).collect();
    let pairs: Vec<f64> = (0..150).map(|index| 2.0 - 1e-6 * f64::from(index)).collect();
    let decay: Vec<f64> = (0..150).map(|index| 0.5f64.powi(index)).collect();
    let cases: [(usize, usize, &[f64]); 8] = [
        (160, 150, &equal),
        (150, 170, &equal),
        (160, 150, &pairs),
        (150, 150, &[5.0, 5.0, 4.0]),
        (190, 150, &[5.0; 20]),
        (150, 190, &[1e-20]),
        (150, 150, &decay),
        (9, 5, &[3.0, 3.0, 1.0]),
    ];
    for (case, (rows, columns, expected)) in cases.into_iter().enumerate() {
        let elements = with_values(700 + 2 * case as u64, rows, columns, expected);
        let tensor = f64_tensor(directory.path(), rows, columns, &elements);
        let found = spectrum(&tensor, Route::BlockLanczos);
        let (norm, largest) = (&found.spectral_norm, expected[0]);
        assert!(*norm.upper.value().unwrap() >= largest * (1.0 - 1e-12), "{case}: {norm:?}");
        assert!(*norm.upper.value().unwrap() <= largest * 1.0105, "{case}: {norm:?}");
        assert!((norm.value - largest).abs() <= norm.residual + 1e-12 * largest, "{case}: {norm:?}");
        // Of equal values a block sees as many as it has vectors.
        let is_seen = |index: usize| index < WIDTH || expected[index] < expected[index - WIDTH];
        let seen = (0..expected.len()).filter(|index| is_seen(*index)).map(|index| &expected[index]);
        for (value, expected) in found.largest.iter().zip(seen) {
            // Ritz values lie below the singular values of the same number, and these are within a hundredth.
            assert!(*value <= expected * (1.0 + 1e-12), "{case}: {:?}", found.largest);
            assert!(*value >= expected * 0.99, "{case}: {:?}", found.largest);
        }
        let ranks = expected.iter().filter(|value| **value > 1e-3 * largest).count();
        assert!(found.largest.len() >= ranks.min(8), "{case}: {:?}", found.largest);
    }
    let zeros = f64_tensor(directory.path(), 300, 280, &vec![0.0; 300 * 280]);
    let found = matrix::measure(&Cpu, &Matrix::new(&zeros), Route::BlockLanczos, &Context::default());
    assert_eq!(found.unwrap(), Some(Measured::Degenerate(Degenerate::AllZero)));
    // Squares of squares that leave the range of f64.
    for factor in [1e-90, 1e90] {
        let tensor = f64_tensor(directory.path(), 60, 50, &gaussian(3, 3000, factor));
        let (found, expected) = (spectrum(&tensor, Route::BlockLanczos), spectrum(&tensor, Route::Lanczos));
        assert_eq!(found, expected);
    }
    let mut elements = gaussian(3, 300 * 280, 1.0);
    elements[4711] = f64::NAN;
    let tensor = f64_tensor(directory.path(), 300, 280, &elements);
    let found = matrix::measure(&Cpu, &Matrix::new(&tensor), Route::BlockLanczos, &Context::default());
    assert_eq!(found.unwrap().unwrap().value(), None);
}
