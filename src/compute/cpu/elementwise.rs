//! Kernels that look at one element, or at two with the same index.

use rayon::iter::{IndexedParallelIterator, ParallelIterator};
use rayon::slice::{ParallelSlice, ParallelSliceMut};

use crate::compute::{Binary, Real, Spread, Unary};

/// Elements that are worth a task of their own.
const CHUNK: usize = 1 << 13;

pub(super) fn map<T: Real>(function: Unary, x: &[T], y: &mut [T], derivative: Option<&mut Vec<T>>) {
    assert_eq!(x.len(), y.len());
    if function == Unary::Relu {
        return relu(x, y, derivative);
    }
    let chunks = x.par_chunks(CHUNK).zip(y.par_chunks_mut(CHUNK));
    match derivative {
        None => chunks.for_each(|(x, y)| {
            for (x, y) in x.iter().zip(y) {
                *y = T::from_f64(evaluate(function, (*x).into()).0);
            }
        }),
        Some(slopes) => {
            assert_eq!(x.len(), slopes.len());
            chunks.zip(slopes.par_chunks_mut(CHUNK)).for_each(|((x, y), slopes)| {
                for ((x, y), slope) in x.iter().zip(y).zip(slopes) {
                    let (value, derivative) = evaluate(function, (*x).into());
                    (*y, *slope) = (T::from_f64(value), T::from_f64(derivative));
                }
            });
        }
    }
}

/// The one function that is cheaper than the choice between functions.
fn relu<T: Real>(x: &[T], y: &mut [T], derivative: Option<&mut Vec<T>>) {
    // A NaN is not at most 0: it stays, and so does its derivative.
    let value = |x: T| if x <= T::zero() { T::zero() } else { x };
    let chunks = x.par_chunks(CHUNK).zip(y.par_chunks_mut(CHUNK));
    let Some(slopes) = derivative else {
        return chunks.for_each(|(x, y)| x.iter().zip(y).for_each(|(&x, y)| *y = value(x)));
    };
    assert_eq!(x.len(), slopes.len());
    chunks.zip(slopes.par_chunks_mut(CHUNK)).for_each(|((x, y), slopes)| {
        for ((&x, y), slope) in x.iter().zip(y).zip(slopes) {
            *y = value(x);
            *slope = if x > T::zero() { T::one() } else { value(x) };
        }
    });
}

/// The function and its derivative at x. A NaN gives NaN in both.
fn evaluate(function: Unary, x: f64) -> (f64, f64) {
    match function {
        Unary::Relu | Unary::Relu6 if x <= 0.0 => (0.0, 0.0),
        Unary::Relu6 if x >= 6.0 => (6.0, 0.0),
        Unary::LeakyRelu { slope } if x <= 0.0 => (slope * x, slope),
        Unary::Elu { alpha } if x <= 0.0 => (alpha * x.exp_m1(), alpha * x.exp()),
        Unary::Relu | Unary::Relu6 | Unary::LeakyRelu { .. } | Unary::Elu { .. } => {
            (x, if x.is_nan() { x } else { 1.0 })
        }
        Unary::GeluErf => {
            let distribution = 0.5 * libm::erfc(-x * std::f64::consts::FRAC_1_SQRT_2);
            let density = (-0.5 * x * x).exp() * FRAC_1_SQRT_TAU;
            (x * distribution, distribution + x * density)
        }
        Unary::GeluTanh => {
            let tanh = (SQRT_2_OVER_PI * (x + 0.044_715 * x * x * x)).tanh();
            let inner = SQRT_2_OVER_PI * (1.0 + 3.0 * 0.044_715 * x * x);
            (0.5 * x * (1.0 + tanh), 0.5 * (1.0 + tanh) + 0.5 * x * (1.0 - tanh * tanh) * inner)
        }
        Unary::GeluSigmoid => gated(x, 1.702),
        Unary::Silu => gated(x, 1.0),
        Unary::Tanh => {
            let tanh = x.tanh();
            (tanh, 1.0 - tanh * tanh)
        }
        Unary::Sigmoid => {
            let sigmoid = sigmoid(x);
            (sigmoid, sigmoid * (1.0 - sigmoid))
        }
        Unary::Softplus => (x.max(0.0) + (-x.abs()).exp().ln_1p(), sigmoid(x)),
        Unary::Exp => (x.exp(), x.exp()),
        Unary::Log => (x.ln(), 1.0 / x),
        Unary::SoftCap { cap } => {
            let tanh = (x / cap).tanh();
            (cap * tanh, 1.0 - tanh * tanh)
        }
    }
}

const FRAC_1_SQRT_TAU: f64 = 0.398_942_280_401_432_7;
const SQRT_2_OVER_PI: f64 = 0.797_884_560_802_865_4;

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// `x·σ(factor·x)`.
fn gated(x: f64, factor: f64) -> (f64, f64) {
    let sigmoid = sigmoid(factor * x);
    (x * sigmoid, sigmoid + factor * x * sigmoid * (1.0 - sigmoid))
}

pub(super) fn zip<T: Real>(operation: Binary, x: &[T], y: &[T], z: &mut [T]) {
    assert!(x.len() == y.len() && y.len() == z.len());
    match operation {
        Binary::Add => zip_with(x, y, z, |x, y| x + y),
        Binary::Subtract => zip_with(x, y, z, |x, y| x - y),
        Binary::Multiply => zip_with(x, y, z, |x, y| x * y),
    }
}

/// By a function that is known here: called through a pointer, elements would be taken one at a time.
fn zip_with<T: Real>(x: &[T], y: &[T], z: &mut [T], apply: impl Fn(T, T) -> T + Sync) {
    x.par_chunks(CHUNK).zip(y.par_chunks(CHUNK)).zip(z.par_chunks_mut(CHUNK)).for_each(|((x, y), z)| {
        for ((&x, &y), z) in x.iter().zip(y).zip(z) {
            *z = apply(x, y);
        }
    });
}

pub(super) fn broadcast<T: Real>(operation: Binary, spread: Spread, v: &[T], y: &mut [T]) {
    let Spread { count, inner } = spread;
    assert!(v.len() == count && y.len().is_multiple_of((count * inner).max(1)));
    if y.is_empty() {
        return;
    }
    match operation {
        Binary::Add => broadcast_with(spread, v, y, |x, y| x + y),
        Binary::Subtract => broadcast_with(spread, v, y, |x, y| x - y),
        Binary::Multiply => broadcast_with(spread, v, y, |x, y| x * y),
    }
}

fn broadcast_with<T: Real>(spread: Spread, v: &[T], y: &mut [T], apply: impl Fn(T, T) -> T + Sync) {
    let Spread { count, inner } = spread;
    let whole = count * inner;
    y.par_chunks_mut(whole * (CHUNK / whole).max(1)).for_each(|y| {
        for y in y.chunks_exact_mut(whole) {
            if inner == 1 {
                for (y, &v) in y.iter_mut().zip(v) {
                    *y = apply(*y, v);
                }
            } else {
                for (y, &v) in y.chunks_exact_mut(inner).zip(v) {
                    for y in y {
                        *y = apply(*y, v);
                    }
                }
            }
        }
    });
}

pub(super) fn convert<S: Real, T: Real>(x: &[S], y: &mut [T]) {
    assert_eq!(x.len(), y.len());
    for (&x, y) in x.iter().zip(y) {
        *y = T::from_f64(x.into());
    }
}
