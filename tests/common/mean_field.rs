//! What mean-field theory says of wide layers with independent weights of variance σ_w²/N and biases of variance σ_b²: the
//! length that signals settle at, and the factor χ by which the squares of small changes grow a layer (Poole et al. 2016;
//! Schoenholz et al. 2017, arXiv 1611.01232).
//!
//! `q* = σ_w²·E[φ(√q*·z)²] + σ_b²`, `χ = σ_w²·E[φ′(√q*·z)²]`, z standard normal; a network is critical where χ = 1.

/// An activation between layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// max(x, 0).
    Relu,
    /// tanh x.
    Tanh,
}

impl Activation {
    fn value(self, x: f64) -> f64 {
        match self {
            Activation::Relu => x.max(0.0),
            Activation::Tanh => x.tanh(),
        }
    }

    fn slope(self, x: f64) -> f64 {
        match self {
            Activation::Relu => f64::from(u8::from(x > 0.0)),
            Activation::Tanh => 1.0 - x.tanh().powi(2),
        }
    }
}

/// Ends of the integration, in standard deviations: what lies beyond is below 1e-22.
const RANGE: f64 = 10.0;

/// Points of the trapezoid rule, which converges faster than any power for smooth functions that vanish at the ends.
const POINTS: i32 = 4000;

/// E[f(z)] for standard normal z.
fn expectation(f: impl Fn(f64) -> f64) -> f64 {
    let step = 2.0 * RANGE / f64::from(POINTS);
    let term = |index: i32| {
        let z = -RANGE + (f64::from(index) + 0.5) * step;
        f(z) * (-0.5 * z * z).exp()
    };
    (0..POINTS).map(term).sum::<f64>() * step / std::f64::consts::TAU.sqrt()
}

/// E[φ(√q·z)²].
pub fn mean_square(activation: Activation, q: f64) -> f64 {
    expectation(|z| activation.value(q.sqrt() * z).powi(2))
}

/// E[φ′(√q·z)²].
pub fn mean_square_slope(activation: Activation, q: f64) -> f64 {
    expectation(|z| activation.slope(q.sqrt() * z).powi(2))
}

/// χ of a layer of weight variance `weight` over its fan-in, whose inputs of the activation have variance `q`.
pub fn chi(activation: Activation, weight: f64, q: f64) -> f64 {
    weight * mean_square_slope(activation, q)
}

/// The variance that signals settle at, by iterating the layer map; `None` where they grow without bound or do not settle.
pub fn fixed_point(activation: Activation, weight: f64, bias: f64) -> Option<f64> {
    let mut q = 1.0;
    for _ in 0..100_000 {
        let next = weight * mean_square(activation, q) + bias;
        if !next.is_finite() || next > 1e12 {
            return None;
        }
        if (next - q).abs() <= 1e-13 * (1.0 + q) {
            return Some(next);
        }
        q = next;
    }
    None
}
