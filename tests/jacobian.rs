//! Jacobians against closed forms: products of random matrices, deep networks at initialisation, recurrences.
//!
//! T3 to T10 are the acceptance tests of the failure catalogue; each says what the theory gives for infinite width and how far
//! a finite one may be from it.

use flashpoint::analysis::jacobian::spectrum::{Request, measure};
use flashpoint::analysis::jacobian::{exact, lyapunov::Directions};
use flashpoint::analysis::model::{Degenerate, JacobianSpectrum, Measured};
use flashpoint::analysis::spectrum::operator::Operator;
use flashpoint::analysis::spectrum::recurrence::spectral_radius;
use flashpoint::compute::{Backend, Cpu, Gemm, Side};
use flashpoint::context::Context;
use flashpoint::error::Result;
use flashpoint::random::Stream;

#[path = "common/mean_field.rs"]
mod mean_field;

use mean_field::Activation;

/// A product of square matrices, the first of which is applied first.
struct Product {
    factors: Vec<Vec<f64>>,
    side: usize,
}

impl Operator<Cpu> for Product {
    fn rows(&self) -> usize {
        self.side
    }

    fn columns(&self) -> usize {
        self.side
    }

    fn apply(&self, backend: &Cpu, side: Side, x: &Vec<f64>, y: &mut Vec<f64>) -> Result<()> {
        let n = self.side;
        let transposed = side == Side::Transposed;
        let gemm = Gemm {
            batch: 1,
            m: n,
            n: 1,
            k: n,
            transpose_a: transposed,
            transpose_b: false,
            alpha: 1.0,
            beta: 0.0,
        };
        let mut value = x.clone();
        for step in 0..self.factors.len() {
            let factor = &self.factors[if transposed { self.factors.len() - 1 - step } else { step }];
            let mut next = vec![0.0; n];
            backend.gemm(&gemm, factor, &value, &mut next)?;
            value = next;
        }
        *y = value;
        Ok(())
    }
}

impl Product {
    fn new(factors: Vec<Vec<f64>>, side: usize) -> Self {
        Self { factors, side }
    }

    /// The product itself.
    fn dense(&self) -> Vec<f64> {
        let n = self.side;
        let gemm =
            Gemm { batch: 1, m: n, n, k: n, transpose_a: false, transpose_b: false, alpha: 1.0, beta: 0.0 };
        let mut product = self.factors[0].clone();
        for factor in &self.factors[1..] {
            let mut next = vec![0.0; n * n];
            Cpu.gemm(&gemm, factor, &product, &mut next).unwrap();
            product = next;
        }
        product
    }

    /// Population variance of σ² over the square of its mean.
    fn spread(&self) -> f64 {
        let spectrum = exact::spectrum(self.dense(), self.side, self.side, UNIT).unwrap();
        *spectrum.spread.value().unwrap()
    }
}

/// Unit roundoff of f64.
const UNIT: f64 = f64::EPSILON / 2.0;

const REQUEST: Request = Request { pairs: 20, probes: 16, density: false, exact: false, seed: 7, unit: UNIT };

fn spectrum_of(operator: &impl Operator<Cpu>, request: &Request) -> JacobianSpectrum {
    match measure(&Cpu, operator, request, &Context::default()).unwrap().unwrap() {
        Measured::Value(spectrum) => spectrum,
        other => panic!("{other:?}"),
    }
}

/// n×n standard normal numbers over √n, times `gain`.
fn gaussian(n: usize, gain: f64, stream: u64) -> Vec<f64> {
    Stream::new(11, stream).normals(n * n).into_iter().map(|x| gain * x / (n as f64).sqrt()).collect()
}

/// A random orthogonal matrix for n a power of two, times `gain`: Hadamard's matrix between random signs and orders, twice.
fn orthogonal(n: usize, gain: f64, stream: u64) -> Vec<f64> {
    let random = Stream::new(12, stream).uniforms(5 * n);
    let sign = |at: usize| if random[at] < 0.5 { -1.0 } else { 1.0 };
    let order = |from: usize| {
        let mut order: Vec<usize> = (0..n).collect();
        order.sort_by(|&a, &b| random[from + a].total_cmp(&random[from + b]));
        order
    };
    let orders = [order(3 * n), order(4 * n)];
    let mut matrix = vec![0.0; n * n];
    for column in 0..n {
        let mut vector = vec![0.0; n];
        vector[column] = sign(column);
        for (round, order) in orders.iter().enumerate() {
            hadamard(&mut vector);
            vector = order.iter().map(|&at| vector[at] * sign((round + 1) * n + at)).collect();
        }
        for (row, value) in vector.into_iter().enumerate() {
            matrix[row * n + column] = gain * value;
        }
    }
    matrix
}

fn hadamard(vector: &mut [f64]) {
    let n = vector.len();
    let mut half = 1;
    while half < n {
        for start in (0..n).step_by(2 * half) {
            for at in start..start + half {
                (vector[at], vector[at + half]) =
                    (vector[at] + vector[at + half], vector[at] - vector[at + half]);
            }
        }
        half *= 2;
    }
    for x in vector {
        *x /= (n as f64).sqrt();
    }
}

fn multiply(matrix: &[f64], vector: &[f64]) -> Vec<f64> {
    matrix.chunks_exact(vector.len()).map(|row| row.iter().zip(vector).map(|(a, b)| a * b).sum()).collect()
}

/// The Jacobian of `x ← φ(W·x + b)` through all of `weights` from a random input whose first pre-activation has variance `q`, and
/// the mean square of each pre-activation.
fn deep(
    weights: Vec<Vec<f64>>,
    activation: Activation,
    weight: f64,
    bias: f64,
    q: f64,
    n: usize,
) -> (Product, Vec<f64>) {
    let scale = ((q - bias) / weight).sqrt();
    let mut state: Vec<f64> = Stream::new(13, 0).normals(n).into_iter().map(|x| x * scale).collect();
    let mut squares = Vec::new();
    let mut factors = Vec::new();
    for (layer, matrix) in (1..).zip(weights) {
        let shifts = Stream::new(13, layer).normals(n);
        let before: Vec<f64> =
            multiply(&matrix, &state).iter().zip(&shifts).map(|(x, b)| x + bias.sqrt() * b).collect();
        squares.push(before.iter().map(|x| x * x).sum::<f64>() / n as f64);
        let slope = |x: f64| match activation {
            Activation::Tanh => 1.0 - x.tanh().powi(2),
            Activation::Relu => f64::from(u8::from(x > 0.0)),
        };
        let mut factor = matrix;
        for (row, x) in factor.chunks_exact_mut(n).zip(&before) {
            for w in row {
                *w *= slope(*x);
            }
        }
        factors.push(factor);
        state = before
            .iter()
            .map(|&x| match activation {
                Activation::Tanh => x.tanh(),
                Activation::Relu => x.max(0.0),
            })
            .collect();
    }
    (Product::new(factors, n), squares)
}

#[track_caller]
fn assert_near(found: f64, expected: f64, relative: f64) {
    assert!((found / expected - 1.0).abs() <= relative, "{found} is not within {relative} of {expected}");
}

/// T3: σ₁² → (L+1)^(L+1)/L^L, the mean of σ² → 1, for products of L Gaussians of variance 1/N.
#[test]
fn a_product_of_gaussians_has_the_largest_value_of_the_closed_form() {
    let n = 500;
    for (depth, tolerance) in [(1usize, 0.04), (2, 0.05), (4, 0.07), (8, 0.10)] {
        let factors = (0..depth as u64).map(|layer| gaussian(n, 1.0, 100 * depth as u64 + layer)).collect();
        let spectrum = spectrum_of(&Product::new(factors, n), &REQUEST);
        let l = depth as f64;
        let expected = (l + 1.0).powf(l + 1.0) / l.powf(l);
        assert_near(spectrum.spectral_norm.value.powi(2), expected, tolerance);
        // The mean of σ² of a finite product fluctuates by about √(L/2)/N·√N… of itself: 4 %.
        let mean = spectrum.frobenius_norm.value.powi(2) / n as f64;
        let error = 2.0 * spectrum.frobenius_norm.standard_error / spectrum.frobenius_norm.value;
        assert!((mean - 1.0).abs() < 0.04 + 4.0 * error, "{depth}: {mean}");
    }
}

/// T3, the spread: var σ² = L.
#[test]
fn the_spread_of_a_product_of_gaussians_is_its_depth() {
    let n = 400;
    for depth in [1u64, 2, 4, 8] {
        let product =
            Product::new((0..depth).map(|layer| gaussian(n, 1.0, 900 + 10 * depth + layer)).collect(), n);
        assert_near(product.spread(), depth as f64, 0.10);
    }
}

/// T5: every singular value of a product of scaled orthogonal matrices is g^L.
#[test]
fn a_scaled_orthogonal_network_has_one_singular_value() {
    let (n, gain, depth) = (64, 1.1f64, 12);
    let product = Product::new((0..depth).map(|layer| orthogonal(n, gain, layer)).collect(), n);
    let expected = gain.powi(depth as i32);
    let spectrum = spectrum_of(&product, &Request { exact: true, ..REQUEST });
    assert_near(spectrum.spectral_norm.value, expected, 1e-13);
    assert_near(*spectrum.smallest.value().unwrap(), expected, 1e-13);
    assert!(*spectrum.spread.value().unwrap() < 1e-25);
    assert!((spectrum.mean_logarithm.value().unwrap() - expected.ln()).abs() < 1e-13);
    let by_products = spectrum_of(&product, &Request { density: true, ..REQUEST });
    assert_near(by_products.spectral_norm.value, expected, 1e-12);
    assert_near(by_products.frobenius_norm.value, expected * (n as f64).sqrt(), 0.05);
    assert!((by_products.mean_logarithm.value().unwrap() - expected.ln()).abs() < 1e-10);
}

/// T6: the critical σ_w² of tanh for three σ_b², where χ = 1 at the fixed point.
#[test]
fn tanh_is_critical_where_the_theory_says() {
    for (bias, weight, q) in [(0.05, 1.7610, 0.5700), (0.001, 1.1892, 0.1073), (0.3, 2.5051, f64::NAN)] {
        let mut range = (1.0, 4.0);
        for _ in 0..60 {
            let middle = f64::midpoint(range.0, range.1);
            let fixed = mean_field::fixed_point(Activation::Tanh, middle, bias).unwrap();
            if mean_field::chi(Activation::Tanh, middle, fixed) < 1.0 {
                range.0 = middle;
            } else {
                range.1 = middle;
            }
        }
        assert!((range.0 - weight).abs() < 1e-4, "{bias}: {}", range.0);
        let fixed = mean_field::fixed_point(Activation::Tanh, range.0, bias).unwrap();
        assert!(q.is_nan() || (fixed - q).abs() < 1e-4, "{bias}: {fixed}");
    }
}

/// T7: χ off the critical line.
#[test]
fn tanh_off_criticality_has_the_factors_of_the_theory() {
    for (weight, expected) in [(1.3, 0.8802), (2.0, 1.0477), (3.0, 1.2089)] {
        let fixed = mean_field::fixed_point(Activation::Tanh, weight, 0.05).unwrap();
        let chi = mean_field::chi(Activation::Tanh, weight, fixed);
        assert!((chi - expected).abs() < 1e-4, "{weight}: {chi}");
    }
}

/// T8: var σ²/mean² of a critical tanh network, orthogonal against Gaussian.
#[test]
fn orthogonal_tanh_networks_are_far_nearer_to_an_isometry_than_gaussian_ones() {
    let (n, depth) = (512, 16);
    let (weight, bias, q) = (1.1892f64, 0.001, 0.1073);
    let of = |make: fn(usize, f64, u64) -> Vec<f64>| {
        let weights = (0..depth).map(|layer| make(n, weight.sqrt(), 300 + layer)).collect();
        deep(weights, Activation::Tanh, weight, bias, q, n).0.spread()
    };
    assert_near(of(orthogonal), 0.705, 0.15);
    assert_near(of(gaussian), 16.7, 0.15);
}

/// T9: var σ²/mean² of ReLU networks of He's gain is 2L for Gaussian weights and L for orthogonal ones.
#[test]
fn relu_networks_spread_with_their_depth() {
    let (n, depth) = (512, 16);
    let of = |make: fn(usize, f64, u64) -> Vec<f64>| {
        let weights = (0..depth).map(|layer| make(n, 2f64.sqrt(), 400 + layer)).collect();
        deep(weights, Activation::Relu, 2.0, 0.0, 1.0, n).0.spread()
    };
    assert_near(of(gaussian), 32.0, 0.15);
    assert_near(of(orthogonal), 16.0, 0.15);
}

/// T10: a linear recurrence of a Gaussian matrix grows by its spectral radius a step, and its norm is twice the gain.
#[test]
fn a_gaussian_recurrence_grows_by_its_radius() {
    let (n, gain) = (400, 1.2);
    let matrix = gaussian(n, gain, 500);
    let radius = spectral_radius(&Cpu, &matrix, n).unwrap();
    let mut directions = Directions::new(1, n, Stream::new(1, 1));
    for step in 0..2400 {
        let images = directions.vectors().iter().map(|vector| multiply(&matrix, vector)).collect();
        directions.step(images, step >= 400);
    }
    let exponent = directions.exponents()[0].value().copied().unwrap();
    assert_near(exponent.value.exp(), radius, 0.01);
    let norm = spectrum_of(&Product::new(vec![matrix], n), &REQUEST).spectral_norm.value;
    assert_near(norm, 2.0 * gain, 0.02);
}

#[test]
fn the_mean_square_gain_of_a_tanh_network_is_the_product_of_the_factors() {
    let (n, depth, weight, bias) = (400, 8, 1.3f64, 0.05);
    let weights = (0..depth).map(|layer| gaussian(n, weight.sqrt(), 600 + layer)).collect();
    let (product, squares) = deep(weights, Activation::Tanh, weight, bias, 0.8, n);
    let expected: f64 = squares.iter().map(|&q| mean_field::chi(Activation::Tanh, weight, q)).product();
    let spectrum = spectrum_of(&product, &REQUEST);
    let found = spectrum.frobenius_norm.value.powi(2) / n as f64;
    assert_near(found, expected, 0.08);
}

#[test]
fn a_relu_network_of_hes_gain_keeps_the_mean_square_of_changes() {
    let (n, depth) = (400, 20);
    let weights = (0..depth).map(|layer| gaussian(n, 2f64.sqrt(), 700 + layer)).collect();
    let (product, _) = deep(weights, Activation::Relu, 2.0, 0.0, 1.0, n);
    let spectrum = spectrum_of(&product, &REQUEST);
    assert_near(spectrum.frobenius_norm.value.powi(2) / n as f64, 1.0, 0.2);
}

#[test]
fn products_and_the_dense_matrix_tell_the_same_values() {
    let n = 150;
    let product = Product::new((0..4).map(|layer| gaussian(n, 1.0, 800 + layer)).collect(), n);
    let dense = exact::dense(&Cpu, &product, &Context::default()).unwrap().unwrap();
    for (found, expected) in dense.iter().zip(product.dense()) {
        assert!((found - expected).abs() < 1e-12, "{found} {expected}");
    }
    let all = spectrum_of(&product, &Request { exact: true, ..REQUEST });
    let few = spectrum_of(&product, &REQUEST);
    assert_near(few.spectral_norm.value, all.spectral_norm.value, 1e-4);
    assert!(few.spectral_norm.value <= all.spectral_norm.value * (1.0 + 1e-12));
    assert!(*few.spectral_norm.upper.value().unwrap() >= all.spectral_norm.value);
    for (few, all) in few.largest.iter().zip(&all.largest) {
        assert!((few - all).abs() < 1e-2 * all, "{few} {all}");
    }
    let off = (few.frobenius_norm.value - all.frobenius_norm.value).abs();
    assert!(off < 4.0 * few.frobenius_norm.standard_error, "{off} {:?}", few.frobenius_norm);
    assert!(few.frobenius_norm.standard_error < 0.02 * all.frobenius_norm.value);
}

/// A few large values decide a plain estimate: sd = √(2/m)·‖J‖²_S4/‖J‖²_F/2. With their space taken out it is below it by far.
#[test]
fn the_space_of_the_largest_values_takes_most_of_the_variance_away() {
    let n = 300;
    let values: Vec<f64> =
        (0..n).map(|index| if index < 4 { 40.0 / (index as f64 + 1.0) } else { 1.0 }).collect();
    let diagonal = (0..n * n).map(|at| if at / n == at % n { values[at / n] } else { 0.0 }).collect();
    let spectrum = spectrum_of(&Product::new(vec![diagonal], n), &REQUEST);
    let squares: f64 = values.iter().map(|x| x * x).sum();
    let fourth: f64 = values.iter().map(|x| x.powi(4)).sum();
    let plain = 0.5 * (2.0f64 / 16.0).sqrt() * fourth.sqrt() / squares;
    let found = spectrum.frobenius_norm;
    assert!(
        (found.value - squares.sqrt()).abs() < 4.0 * found.standard_error,
        "{found:?} {}",
        squares.sqrt()
    );
    assert!(found.standard_error / found.value < plain / 20.0, "{found:?} {plain}");
    assert_near(spectrum.stable_rank, squares / 1600.0, 0.01);
}

#[test]
fn a_logarithm_that_the_quadrature_does_not_resolve_is_not_given() {
    let n = 200;
    let graded = |least: f64| -> Vec<f64> {
        let value = |index: usize| least.powf(index as f64 / (n - 1) as f64);
        (0..n * n).map(|at| if at / n == at % n { value(at / n) } else { 0.0 }).collect()
    };
    let request = Request { density: true, ..REQUEST };
    let wide = spectrum_of(&Product::new(vec![graded(1e-6)], n), &request);
    assert!(
        matches!(wide.mean_logarithm, Measured::NotMeasured(reason) if reason.starts_with("not resolvable"))
    );
    let narrow = spectrum_of(&Product::new(vec![graded(1e-1)], n), &request);
    // The mean of ln over a geometric sequence is half the ln of its end.
    let found = *narrow.mean_logarithm.value().unwrap();
    assert!((found - 0.5 * 0.1f64.ln()).abs() < 0.05, "{found}");
}

#[test]
fn what_is_zero_empty_or_leaves_the_range_is_a_typed_outcome() {
    let of =
        |factor: Vec<f64>, n| measure(&Cpu, &Product::new(vec![factor], n), &REQUEST, &Context::default());
    assert_eq!(of(vec![0.0; 9], 3).unwrap(), Some(Measured::Degenerate(Degenerate::AllZero)));
    assert_eq!(of(Vec::new(), 0).unwrap(), Some(Measured::Degenerate(Degenerate::Empty)));
    let mut broken = gaussian(30, 1.0, 1);
    broken[17] = f64::NAN;
    assert_eq!(of(broken, 30).unwrap(), Some(Measured::Degenerate(Degenerate::Overflow)));
    assert_eq!(of(vec![1e300; 4], 2).unwrap(), Some(Measured::Degenerate(Degenerate::Overflow)));
}

#[test]
fn the_same_numbers_come_out_on_any_number_of_threads() {
    let n = 128;
    let product = Product::new((0..3).map(|layer| gaussian(n, 1.0, 950 + layer)).collect(), n);
    let on = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| spectrum_of(&product, &Request { density: true, ..REQUEST }))
    };
    let one = on(1);
    assert_eq!(one, on(2));
    assert_eq!(one, on(5));
}
