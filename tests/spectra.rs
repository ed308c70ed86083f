//! Singular values against numpy, against closed forms of random matrices, and against themselves: the same bits on any number of
//! threads, in every dtype, and a bracket that fails no more often than it says.

mod common;

use std::path::Path;
use std::sync::Arc;

use flashpoint::analysis::model::{
    Degenerate, MeasureLevel, Measured, Role, Section, Spectrum, SpectrumMethod,
};
use flashpoint::analysis::spectrum::choice::Route;
use flashpoint::analysis::spectrum::{
    bidiagonal, block_lanczos::WIDTH, bracket, convolution, krylov, lanczos, marchenko_pastur, matrix,
};
use flashpoint::analysis::spectrum::{power_law, recurrence};
use flashpoint::compute::{Backend, Cpu, Gemm, Matrix, Side};
use flashpoint::context::Context;
use flashpoint::files::InputFile;
use flashpoint::random::Stream;
use flashpoint::tensor::{DType, Tensor};
use half::{bf16, f16};

/// A tensor of these values, stored in `dtype` behind an odd number of bytes.
fn stored(directory: &Path, dtype: DType, shape: &[u64], values: &[f64]) -> Tensor {
    let bytes: Vec<u8> = match dtype {
        DType::F64 => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
        DType::F32 => values.iter().flat_map(|x| (*x as f32).to_le_bytes()).collect(),
        DType::F16 => values.iter().flat_map(|x| f16::from_f64(*x).to_le_bytes()).collect(),
        DType::Bf16 => values.iter().flat_map(|x| bf16::from_f64(*x).to_le_bytes()).collect(),
        DType::F8E4M3 | DType::F8E5M2 => {
            values.iter().map(|x| ((x * 40.0) as i64).to_le_bytes()[0] & 0x77).collect()
        }
        _ => panic!("floats only"),
    };
    let path = directory.join("matrix");
    std::fs::write(&path, [&[0xa5; 13][..], &bytes].concat()).unwrap();
    let file = Arc::new(InputFile::open(&path, &Context::default()).unwrap());
    let range = 13..file.len();
    Tensor::contiguous(dtype, shape.to_vec(), file, range).unwrap()
}

fn f64_tensor(directory: &Path, rows: usize, columns: usize, values: &[f64]) -> Tensor {
    stored(directory, DType::F64, &[rows as u64, columns as u64], values)
}

fn spectrum(tensor: &Tensor, route: Route) -> Spectrum {
    match matrix::measure(&Cpu, &Matrix::new(tensor), route, &Context::default()).unwrap().unwrap() {
        Measured::Value(spectrum) => spectrum,
        other => panic!("no spectrum: {other:?}"),
    }
}

fn values(spectrum: &Spectrum) -> &[f64] {
    spectrum.values.value().expect("all singular values were asked for")
}

/// Standard normal numbers times `scale`.
fn gaussian(stream: u64, count: usize, scale: f64) -> Vec<f64> {
    Stream::new(2026, stream).normals(count).into_iter().map(|x| x * scale).collect()
}

fn multiply(a: &[f64], b: &[f64], n: usize) -> Vec<f64> {
    let gemm =
        Gemm { batch: 1, m: n, n, k: n, transpose_a: false, transpose_b: false, alpha: 1.0, beta: 0.0 };
    let mut c = vec![0.0; n * n];
    Cpu.gemm(&gemm, &a.to_vec(), &b.to_vec(), &mut c).unwrap();
    c
}

fn singular_values(matrix: Vec<f64>, rows: usize, columns: usize) -> Vec<f64> {
    bidiagonal::singular_values(matrix, rows, columns).unwrap()
}

/// I − 2·u·uᵀ times `factor`.
fn reflection(stream: u64, n: usize, factor: f64) -> Vec<f64> {
    let u = gaussian(stream, n, 1.0);
    let square: f64 = u.iter().map(|x| x * x).sum();
    let entry =
        |row: usize, column: usize| f64::from(u8::from(row == column)) - 2.0 * u[row] * u[column] / square;
    (0..n * n).map(|at| factor * entry(at / n, at % n)).collect()
}

#[test]
fn products_are_those_of_the_plain_definition_in_every_dtype_and_part() {
    let directory = tempfile::tempdir().unwrap();
    let (rows, columns) = (37, 2051);
    for dtype in [DType::F64, DType::F32, DType::F16, DType::Bf16, DType::F8E4M3, DType::F8E5M2] {
        let tensor = stored(directory.path(), dtype, &[rows, columns], &gaussian(1, 37 * 2051, 1.0));
        let whole = Matrix::new(&tensor);
        let parts = [
            (whole.clone(), (0..37).collect::<Vec<_>>(), 0..2051),
            (whole.clone().with_rows(vec![30..37, 2..5]), (30..37).chain(2..5).collect(), 0..2051),
            (whole.clone().with_columns(17..1100), (0..37).collect(), 17..1100),
        ];
        let mut elements = Vec::new();
        tensor.read_f64(0..rows * columns, &mut elements).unwrap();
        for (matrix, row_indices, column_range) in parts {
            let element =
                |row: usize, column: usize| elements[row_indices[row] * 2051 + column_range.start + column];
            let (m, n) = (row_indices.len(), column_range.len());
            assert_eq!((matrix.row_count(), matrix.column_count()), (m, n));
            for vectors in [1, 3] {
                let x = gaussian(2, n * vectors, 1.0);
                let mut y = vec![1.0; m * vectors];
                Cpu.multiply(&matrix, Side::Plain, vectors, &x, &mut y).unwrap();
                for (at, found) in y.iter().enumerate() {
                    let (row, vector) = (at / vectors, at % vectors);
                    let terms = (0..n).map(|column| element(row, column) * x[column * vectors + vector]);
                    let (sum, size) =
                        terms.fold((0.0, 0.0), |(sum, size), term| (sum + term, size + term.abs()));
                    assert!((found - sum).abs() <= 1e-14 * size, "{dtype} {at}");
                }
                let z = gaussian(3, m * vectors, 1.0);
                let mut w = vec![1.0; n * vectors];
                Cpu.multiply(&matrix, Side::Transposed, vectors, &z, &mut w).unwrap();
                for (at, found) in w.iter().enumerate() {
                    let (column, vector) = (at / vectors, at % vectors);
                    let terms = (0..m).map(|row| element(row, column) * z[row * vectors + vector]);
                    let (sum, size) =
                        terms.fold((0.0, 0.0), |(sum, size), term| (sum + term, size + term.abs()));
                    assert!((found - sum).abs() <= 1e-14 * size, "{dtype} {at}");
                }
            }
            let gram = Cpu.gram(&matrix).unwrap();
            for (i, j) in [(0, 0), (1, 3), (m - 1, 0)] {
                let expected: f64 = (0..n).map(|column| element(i, column) * element(j, column)).sum();
                assert!((gram[i * m + j] - expected).abs() <= 1e-9 * (1.0 + expected.abs()), "{dtype}");
            }
            let squares: f64 = (0..m * n).map(|at| element(at / n, at % n).powi(2)).sum();
            assert!((Cpu.sum_of_squares(&matrix).unwrap() / squares - 1.0).abs() < 1e-13, "{dtype}");
        }
    }
}

#[test]
fn the_same_bits_on_one_two_and_five_threads() {
    let directory = tempfile::tempdir().unwrap();
    // Large enough for several parts of a product, and for several parts of a step of the reduction.
    let (rows, columns) = (9000, 520);
    let tensor =
        stored(directory.path(), DType::F32, &[rows, columns], &gaussian(4, (rows * columns) as usize, 1.0));
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            [Route::Lanczos, Route::BlockLanczos, Route::Gram, Route::LanczosAndDensity]
                .map(|route| spectrum(&tensor, route))
        })
    };
    let one = run(1);
    assert_eq!(run(2), one);
    assert_eq!(run(5), one);
}

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

#[test]
fn the_gram_route_and_the_bidiagonal_one_are_within_their_error_bars_of_numpy() {
    for name in ["gaussian-40x24", "condition-1e10-30", "rank-5-of-32x20"] {
        let oracle: serde_json::Value = serde_json::from_str(
            &std::fs::read_to_string(format!("fixtures/oracle/spectra/{name}.json")).unwrap(),
        )
        .unwrap();
        let numbers = |key: &str| -> Vec<f64> {
            oracle[key].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
        };
        let (elements, expected) = (numbers("matrix"), numbers("singular_values"));
        let columns = oracle["columns"].as_u64().unwrap() as usize;
        let rows = elements.len() / columns;
        let directory = tempfile::tempdir().unwrap();
        let tensor = f64_tensor(directory.path(), rows, columns, &elements);
        for route in [Route::Gram, Route::GramThenBidiagonal] {
            let found = spectrum(&tensor, route);
            let rounding = *found.rounding.value().unwrap();
            let largest = expected[0];
            // As numpy.linalg.matrix_rank; of zeros the Gram matrix has only rounding, which is no rank.
            let tolerance = largest * rows.max(columns) as f64 * f64::EPSILON;
            let rank = expected.iter().filter(|value| **value > tolerance).count() as u64;
            let metrics = found.weight_watcher.value().unwrap();
            let is_resolved = found.method != SpectrumMethod::Gram || name == "gaussian-40x24";
            assert_eq!(metrics.matrix_rank.value(), is_resolved.then_some(&rank), "{name} {route:?}");
            assert_eq!(metrics.entropy.value().is_some(), is_resolved, "{name} {route:?}");
            for (value, expected) in values(&found).iter().zip(&expected) {
                let bar = match found.method {
                    SpectrumMethod::Gram => {
                        largest * rounding.sqrt().min(rounding * largest / expected.max(1e-300))
                    }
                    _ => largest * rounding,
                };
                // numpy's own values are within some roundoffs of the true ones.
                assert!(
                    (value - expected).abs() <= bar + 1e-14 * largest,
                    "{name} {route:?}: {value} {expected}"
                );
                if found.method == SpectrumMethod::Gram && *expected > 1e-5 * largest {
                    assert!((value - expected).abs() <= 1e-10 * largest, "{name}: {value} {expected}");
                }
                if found.method == SpectrumMethod::Bidiagonal {
                    assert!((value - expected).abs() <= 1e-12 * largest, "{name}: {value} {expected}");
                }
            }
        }
    }
}

#[test]
fn power_law_and_noise_are_those_of_weightwatcher_and_powerlaw() {
    let text = std::fs::read_to_string("fixtures/oracle/spectra/weightwatcher.json").unwrap();
    let oracle: serde_json::Value = serde_json::from_str(&text).unwrap();
    for (name, case) in oracle.as_object().unwrap() {
        let values: Vec<f64> =
            case["singular_values"].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect();
        let (rows, columns) =
            (case["rows"].as_u64().unwrap() as usize, case["columns"].as_u64().unwrap() as usize);
        let number =
            |package: &str, key: &str| case[package][key].as_f64().unwrap_or_else(|| panic!("{name} {key}"));
        let metrics = power_law::metrics(&values, rows.max(columns)).unwrap();
        let value = |measured: &Measured<f64>| *measured.value().unwrap();
        let near = |found: f64, expected: f64, tolerance: f64, what: &str| {
            assert!(
                (found - expected).abs() <= tolerance * expected.abs().max(1e-3),
                "{name} {what}: {found}, not {expected}"
            );
        };
        near(value(&metrics.alpha), number("weightwatcher", "alpha"), 1e-9, "alpha");
        near(value(&metrics.distance), number("weightwatcher", "D"), 1e-9, "D");
        near(value(&metrics.sigma), number("weightwatcher", "sigma"), 1e-9, "sigma");
        near(value(&metrics.xmin), number("weightwatcher", "xmin"), 1e-9, "xmin");
        assert_eq!(
            *metrics.num_pl_spikes.value().unwrap() as f64,
            number("weightwatcher", "num_pl_spikes"),
            "{name}"
        );
        near(value(&metrics.entropy), number("weightwatcher", "entropy"), 1e-6, "entropy");
        assert_eq!(
            *metrics.matrix_rank.value().unwrap() as f64,
            number("weightwatcher", "matrix_rank"),
            "{name}"
        );
        if number("weightwatcher", "num_pl_spikes") >= 50.0 && case["powerlaw"].is_object() {
            near(value(&metrics.alpha), number("powerlaw", "alpha"), 1e-3, "powerlaw's alpha");
        }
        if rows != columns {
            let noise = marchenko_pastur::fit(&values, rows, columns).unwrap();
            let scale = (values.len() as f64 / values.iter().map(|x| x * x).sum::<f64>()).sqrt();
            near(noise.edge * scale, number("weightwatcher", "bulk_max").sqrt(), 5e-3, "edge");
            assert_eq!(noise.spikes as f64, number("weightwatcher", "num_spikes"), "{name}");
            near(noise.softrank, number("weightwatcher", "mp_softrank"), 1e-2, "mp_softrank");
        }
    }
}

#[test]
fn the_largest_values_by_block_krylov_are_those_of_the_whole_spectrum() {
    let directory = tempfile::tempdir().unwrap();
    let (rows, columns) = (400, 300);
    let mut elements = gaussian(6, rows * columns, 1.0);
    for index in 0..12 {
        elements[index * columns + index] += 60.0 + 5.0 * index as f64;
    }
    let tensor = f64_tensor(directory.path(), rows, columns, &elements);
    let expected = singular_values(elements, rows, columns);
    let top = krylov::run(&Cpu, &Matrix::new(&tensor), 12, Stream::new(1, 1), &Context::default())
        .unwrap()
        .unwrap();
    for ((value, residual), expected) in top.values.iter().zip(&top.residuals).zip(&expected) {
        assert!((value - expected).abs() < 1e-9 * expected, "{value} {expected}");
        assert!(*residual < 1e-3 * expected);
    }
}

#[test]
fn the_estimated_density_is_near_the_exact_one() {
    let directory = tempfile::tempdir().unwrap();
    let (rows, columns) = (700, 500);
    let mut elements = gaussian(7, rows * columns, 1.0);
    for index in 0..6 {
        elements[index * columns + index] += 100.0;
    }
    let tensor = f64_tensor(directory.path(), rows, columns, &elements);
    let exact = spectrum(&tensor, Route::Gram).density;
    let found = spectrum(&tensor, Route::LanczosAndDensity);
    let (exact, estimated) = (exact.value().unwrap(), found.density.value().unwrap());
    assert!(exact.is_exact && !estimated.is_exact);
    let pairs = exact.quantiles.iter().zip(&estimated.quantiles);
    let distance: f64 = pairs.map(|(a, b)| (a - b).abs()).sum::<f64>() / exact.quantiles.len() as f64;
    assert!(distance < 1e-2 * found.spectral_norm.value, "W1 {distance} of {}", found.spectral_norm.value);
}

#[test]
fn zeros_one_row_and_low_rank_are_answers() {
    let directory = tempfile::tempdir().unwrap();
    let measure = |route, rows: usize, columns: usize, elements: &[f64]| {
        let tensor = f64_tensor(directory.path(), rows, columns, elements);
        matrix::measure(&Cpu, &Matrix::new(&tensor), route, &Context::default()).unwrap().unwrap()
    };
    for route in [Route::Gram, Route::Lanczos, Route::LanczosAndDensity] {
        assert!(matches!(measure(route, 5, 7, &[0.0; 35]), Measured::Degenerate(_)), "{route:?}");
        let ones = measure(route, 20, 30, &[1.0; 600]);
        let ones = ones.value().unwrap();
        assert!((ones.spectral_norm.value - 600f64.sqrt()).abs() < 1e-10, "{route:?}");
        assert!((ones.stable_rank - 1.0).abs() < 1e-10);
        assert!(ones.condition.value().is_none());
    }
    let row = measure(Route::Direct, 1, 4, &[3.0, 0.0, 4.0, 0.0]);
    assert_eq!(row.value().unwrap().spectral_norm.value, 5.0);
}

/// T1: N×N Gaussian of variance 1/N: σ_max → 2, the mean of σ² is 1.
#[test]
fn a_square_gaussian_has_the_edge_two() {
    let directory = tempfile::tempdir().unwrap();
    let n = 600;
    let tensor = f64_tensor(directory.path(), n, n, &gaussian(11, n * n, 1.0 / (n as f64).sqrt()));
    let found = spectrum(&tensor, Route::Gram);
    assert!((found.spectral_norm.value / 2.0 - 1.0).abs() < 0.02, "{}", found.spectral_norm.value);
    assert!((found.frobenius_norm.powi(2) / n as f64 - 1.0).abs() < 0.02);
}

/// T2: 1600×400 of variance 1/400: σ between 1 and 3.
#[test]
fn a_tall_gaussian_lies_between_its_edges() {
    let directory = tempfile::tempdir().unwrap();
    let tensor = f64_tensor(directory.path(), 1600, 400, &gaussian(12, 1600 * 400, 0.05));
    let found = spectrum(&tensor, Route::Gram);
    assert!((found.spectral_norm.value / 3.0 - 1.0).abs() < 0.02, "{}", found.spectral_norm.value);
    assert!((found.smallest.value().unwrap() - 1.0).abs() < 0.02, "{:?}", found.smallest);
}

/// T3: products of L Gaussians: max σ² → (L+1)^(L+1)/L^L, the mean of σ² is 1 and its variance L.
#[test]
fn products_of_gaussians_have_their_known_spread() {
    let n = 500;
    let factor = |index| gaussian(20 + index, n * n, 1.0 / (n as f64).sqrt());
    let mut product = factor(0);
    for (layers, largest) in [(1u64, 4.0), (2, 6.75), (3, 9.481), (4, 12.207)] {
        if layers > 1 {
            product = multiply(&product, &factor(layers), n);
        }
        let values = singular_values(product.clone(), n, n);
        assert!((values[0].powi(2) / largest - 1.0).abs() < 0.07, "{layers}: {}", values[0].powi(2));
        let mean = values.iter().map(|x| x * x).sum::<f64>() / n as f64;
        let variance = values.iter().map(|x| (x * x - mean).powi(2)).sum::<f64>() / n as f64;
        assert!(
            (mean - 1.0).abs() < 0.07 && (variance / layers as f64 - 1.0).abs() < 0.07,
            "{layers}: {mean} {variance}"
        );
    }
}

/// T5: every singular value of L orthogonal maps times g is g^L.
#[test]
fn orthogonal_maps_keep_all_singular_values_equal() {
    let (n, gain, depth) = (60, 1.1, 20);
    let mut product = reflection(30, n, gain);
    for (stream, _) in (31..).zip(1..depth) {
        product = multiply(&product, &reflection(stream, n, gain), n);
    }
    for value in singular_values(product, n, n) {
        assert!((value / gain.powi(depth) - 1.0).abs() < 1e-14, "{value}");
    }
}

/// T11: a He-initialised convolution of 64 channels has the operator norm 2.83, its unfolded kernel 1.88, and a kernel that
/// only turns channels has all singular values 1.
#[test]
fn a_convolution_is_more_than_its_unfolded_kernel() {
    let (channels, side) = (64, 16);
    let weights = gaussian(40, channels * channels * 9, (2.0 / (9.0 * channels as f64)).sqrt());
    let unfolded = singular_values(weights.clone(), channels, channels * 9)[0];
    assert!((unfolded / 1.878 - 1.0).abs() < 0.02, "{unfolded}");
    let operator = |circular| {
        let geometry = convolution::Geometry::same(&[side, side], &[3, 3], circular);
        convolution::Convolution::new(weights.clone(), channels, 1, vec![3, 3], geometry).unwrap()
    };
    let largest = |circular| {
        let ritz = lanczos::run(&Cpu, &operator(circular), 60, Stream::new(5, 5), &Context::default())
            .unwrap()
            .unwrap();
        ritz.values[0]
    };
    assert!((largest(true) / 2.828 - 1.0).abs() < 0.03, "{}", largest(true));
    assert!(largest(false) < largest(true) && largest(false) > 1.3 * unfolded);

    let turn = reflection(41, 4, 1.0);
    let delta: Vec<f64> =
        turn.iter().flat_map(|value| (0..9).map(move |tap| if tap == 4 { *value } else { 0.0 })).collect();
    let geometry = convolution::Geometry::same(&[8, 8], &[3, 3], true);
    let delta = convolution::Convolution::new(delta, 4, 1, vec![3, 3], geometry).unwrap();
    let values = delta.circular_singular_values().unwrap();
    assert_eq!(values.len(), 4 * 64);
    assert!(values.iter().all(|value| (value - 1.0).abs() < 1e-12));
}

#[test]
fn the_frequencies_of_a_larger_input_bound_the_operator_with_zeros() {
    let weights: Vec<f64> = gaussian(42, 8 * 8 * 9, 0.1).iter().map(|x| x + 0.05).collect();
    let made = |side: usize, circular| {
        let geometry = convolution::Geometry::same(&[side, side], &[3, 3], circular);
        convolution::Convolution::new(weights.clone(), 8, 1, vec![3, 3], geometry).unwrap()
    };
    let zeros =
        lanczos::run(&Cpu, &made(6, false), 80, Stream::new(5, 5), &Context::default()).unwrap().unwrap();
    let bound = made(8, true).circular_singular_values().unwrap()[0];
    assert!(zeros.values[0] <= bound && bound < 1.5 * zeros.values[0], "{} {bound}", zeros.values[0]);
}

#[test]
fn the_spectral_radius_is_below_the_norm_and_scales() {
    let n = 120;
    let elements = gaussian(50, n * n, 1.5 / (n as f64).sqrt());
    let radius = recurrence::spectral_radius(&Cpu, &elements, n).unwrap();
    let norm = singular_values(elements, n, n)[0];
    assert!((radius / 1.5 - 1.0).abs() < 0.1 && norm > 1.7 * radius, "{radius} {norm}");
}

/// Every attention layer of a checkpoint.
fn attention(path: &str) -> Vec<flashpoint::analysis::model::AttentionAnalysis> {
    let checkpoint = common::analyse_at(Path::new(path), MeasureLevel::Spectra, &Context::default());
    checkpoint.attention.value().cloned().unwrap_or_else(|| panic!("{path}: {:?}", checkpoint.attention))
}

#[test]
fn heads_of_fused_and_grouped_layers_are_those_written_out_with_torch() {
    let oracle = common::oracle(Path::new("fixtures/oracle/spectra/heads.json"));
    for (name, layers) in oracle.as_object().unwrap() {
        let found = attention(&format!("fixtures/runs/{name}"));
        let layers = layers.as_array().unwrap();
        assert_eq!(found.len(), layers.len(), "{name}");
        for (index, expected) in layers.iter().enumerate() {
            let layer = found.iter().find(|layer| layer.index == Some(index as u64)).unwrap();
            let expected = expected.as_array().unwrap();
            assert_eq!(layer.heads.len(), expected.len(), "{name} {index}");
            for (head, expected) in layer.heads.iter().zip(expected) {
                let near = |found: f64, key: &str| {
                    let expected = expected[key].as_f64().unwrap();
                    assert!(
                        (found / expected - 1.0).abs() < 1e-7,
                        "{name} {index} {key}: {found}, not {expected}"
                    );
                };
                near(head.logit_std, "logit_std");
                near(head.logit_bound, "logit_bound");
                near(head.spectral_entropy, "spectral_entropy");
            }
        }
    }
}

#[test]
fn fused_queries_keys_and_values_are_parts_that_add_up() {
    let checkpoint = common::analyse_at(
        Path::new("fixtures/runs/gpt-healthy/checkpoint-0400"),
        MeasureLevel::Spectra,
        &Context::default(),
    );
    let fused: Vec<_> = checkpoint
        .tensors
        .iter()
        .filter(|tensor| tensor.role == Role::AttentionQkv && tensor.shape.len() == 2)
        .collect();
    assert_eq!(fused.len(), 3);
    for tensor in fused {
        let spectrum = tensor.spectrum.value().unwrap();
        let names: Vec<_> = spectrum.parts.iter().map(|part| part.name.as_str()).collect();
        assert_eq!(names, ["query", "key", "value"]);
        let squares: f64 = spectrum.parts.iter().map(|part| part.frobenius_norm.powi(2)).sum();
        assert!((squares.sqrt() / spectrum.frobenius_norm - 1.0).abs() < 1e-12);
        let largest = spectrum.parts.iter().fold(0.0f64, |most, part| most.max(part.spectral_norm.value));
        assert!(largest <= spectrum.spectral_norm.value * (1.0 + 1e-12));
    }
}

#[test]
fn every_tensor_has_a_spectrum_or_says_why_not() {
    for run in [
        "cnn-healthy/checkpoint-0200",
        "lstm-healthy/checkpoint-0400",
        "rnn-exploding/checkpoint-0400",
        "mlp-nan",
    ] {
        let path = Path::new("fixtures/runs").join(run);
        let path = if run == "mlp-nan" {
            std::fs::read_dir(&path)
                .unwrap()
                .map(|entry| entry.unwrap().path())
                .filter(|path| path.is_dir())
                .max()
                .unwrap()
        } else {
            path
        };
        let checkpoint = common::analyse_at(&path, MeasureLevel::Full, &Context::default());
        for tensor in &checkpoint.tensors {
            let is_matrix =
                tensor.shape.len() >= 2 && tensor.section == Section::Model && tensor.elements > 0;
            let is_finite = tensor.statistics.value().is_some_and(|statistics| statistics.non_finite() == 0);
            match &tensor.spectrum {
                Measured::Value(spectrum) => {
                    let norm = &spectrum.spectral_norm;
                    assert!(
                        is_matrix && norm.value > 0.0 && *norm.upper.value().unwrap() >= norm.value,
                        "{}",
                        tensor.name
                    );
                }
                Measured::NotMeasured(reason) => {
                    assert!(!(is_matrix && is_finite), "{}: {reason}", tensor.name);
                    assert!(!reason.is_empty(), "{} says no reason", tensor.name);
                }
                Measured::Degenerate(_) => {}
            }
        }
    }
}
