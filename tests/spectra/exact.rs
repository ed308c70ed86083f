//! What routes give against the plain definition, numpy, WeightWatcher and `powerlaw`, in every dtype and on any number of threads.

use flashpoint::analysis::model::{Measured, SpectrumMethod};
use flashpoint::analysis::spectrum::choice::Route;
use flashpoint::analysis::spectrum::{krylov, marchenko_pastur, matrix, power_law};
use flashpoint::compute::{Backend, Cpu, Matrix, Side};
use flashpoint::context::Context;
use flashpoint::random::Stream;
use flashpoint::tensor::DType;

use super::{f64_tensor, gaussian, singular_values, spectrum, stored, values};

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
