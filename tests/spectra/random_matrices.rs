//! Closed forms of random matrices: T1, T2, T3 and T5 of the failure catalogue's acceptance tests. T4 stands in `recurrence.rs`.

use flashpoint::analysis::spectrum::choice::Route;
use flashpoint::analysis::spectrum::recurrence;
use flashpoint::compute::{Backend, Cpu, Gemm, Matrix};

use super::{f64_tensor, gaussian, reflection, singular_values, spectrum};

fn multiply(a: &[f64], b: &[f64], n: usize) -> Vec<f64> {
    let gemm =
        Gemm { batch: 1, m: n, n, k: n, transpose_a: false, transpose_b: false, alpha: 1.0, beta: 0.0 };
    let mut c = vec![0.0; n * n];
    Cpu.gemm(&gemm, &a.to_vec(), &b.to_vec(), &mut c).unwrap();
    c
}

/// T1: N×N Gaussian of variance 1/N: σ_max → 2, the mean of σ² is 1.
#[test]
fn a_square_gaussian_has_the_edge_two() {
    let directory = tempfile::tempdir().unwrap();
    let n = 800;
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

/// T1, the radius: ρ → 1. It comes to 1 slowly: at N = 800 numpy's eigenvalues give 1.0250 on average over 100 draws (standard deviation
/// 0.0113), which is what the mean over four of ours is held against, to 2 %, nearly four of its standard errors.
#[test]
fn square_gaussians_have_a_radius_near_one() {
    let n = 800;
    let radius = |draw| {
        let values = gaussian(60 + draw, n * n, 1.0 / (n as f64).sqrt());
        recurrence::spectral_radius(&Cpu, &values, n).unwrap()
    };
    let radii: Vec<f64> = (0..DRAWS).map(radius).collect();
    let mean = radii.iter().sum::<f64>() / radii.len() as f64;
    assert!((mean / 1.025 - 1.0).abs() < 0.02, "{radii:?}");
}

const DRAWS: u64 = 4;

/// T3: products of L Gaussians: max σ² → (L+1)^(L+1)/L^L, the mean of σ² is 1 and its variance L, to 7 %. At N = 1000 a product of sixteen has
/// not come so near: over 14 draws numpy finds 41.6 for the largest, with a standard deviation of 1.8, 7.3 % below the limit of 44.8. It is
/// held against that mean.
#[test]
fn products_of_gaussians_have_their_known_spread() {
    let directory = tempfile::tempdir().unwrap();
    let n = 1000;
    let factor = |index| gaussian(20 + index, n * n, 1.0 / (n as f64).sqrt());
    let mut product = factor(0);
    for layers in 1..=16u64 {
        if layers > 1 {
            product = multiply(&product, &factor(layers), n);
        }
        if !layers.is_power_of_two() {
            continue;
        }
        let tensor = f64_tensor(directory.path(), n, n, &product);
        let largest = spectrum(&tensor, Route::Lanczos).spectral_norm.value.powi(2);
        let depth = layers as f64;
        let limit = (depth + 1.0) * (1.0 + 1.0 / depth).powf(depth);
        let expected = if layers == 16 { 41.6 } else { limit };
        // Σσ⁴ is the squared Frobenius norm of the Gram matrix.
        let mean = Cpu.sum_of_squares(&Matrix::new(&tensor)).unwrap() / n as f64;
        let fourth = Cpu.gram(&Matrix::new(&tensor)).unwrap().iter().map(|x| x * x).sum::<f64>() / n as f64;
        let variance = fourth - mean * mean;
        println!("{layers}: {largest:.3} of {limit:.3}, mean {mean:.3}, variance {variance:.3}");
        assert!((largest / expected - 1.0).abs() < 0.07, "{layers}: {largest}, not {expected}");
        assert!(
            (mean - 1.0).abs() < 0.07 && (variance / depth - 1.0).abs() < 0.07,
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

#[test]
fn the_spectral_radius_is_below_the_norm_and_scales() {
    let n = 120;
    let elements = gaussian(50, n * n, 1.5 / (n as f64).sqrt());
    let radius = recurrence::spectral_radius(&Cpu, &elements, n).unwrap();
    let norm = singular_values(elements, n, n)[0];
    assert!((radius / 1.5 - 1.0).abs() < 0.1 && norm > 1.7 * radius, "{radius} {norm}");
}
