//! Weights before the first step, a function of seed and parameter alone.
//!
//! Maps are of shape outputs × inputs × kernel; the gates of a recurrence are so many outputs more, and a table of positions is a map
//! whose outputs are the positions. Biases are zero and gains of norms one, whatever the scheme.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::network::{Network, Operation, ParameterId};
use crate::parallel;
use crate::random::Stream;

/// Streams of parameters begin here: no other use of the seed comes near.
const STREAMS: u64 = 1 << 32;

/// Standard deviation of [`Initialization::Normal`].
const NORMAL_DEVIATION: f64 = 0.01;

/// How weights start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Initialization {
    /// All zero: nothing but the last bias ever gets a gradient.
    Zeros,
    /// Normal, deviation 0.01.
    Normal,
    /// Uniform in ±√(6/(inputs + outputs)) (Glorot and Bengio 2010).
    Xavier,
    /// Normal, variance 2/inputs (He et al. 2015, arXiv:1502.01852).
    He,
    /// Orthonormal rows or columns, times √2 (Saxe et al. 2014, arXiv:1312.6120).
    Orthogonal,
}

impl FromStr for Initialization {
    type Err = String;

    /// # Errors
    /// A sentence that lists the names, when it is none of them.
    fn from_str(text: &str) -> Result<Self, String> {
        Ok(match text {
            "zeros" => Self::Zeros,
            "normal" => Self::Normal,
            "xavier" => Self::Xavier,
            "he" => Self::He,
            "orthogonal" => Self::Orthogonal,
            _ => return Err(format!("{text:?} is none of zeros, normal, xavier, he, orthogonal")),
        })
    }
}

impl Initialization {
    /// The weights of every parameter of the network, in their order.
    pub fn weights(self, network: &Network, seed: u64) -> Vec<Vec<f32>> {
        let (gains, transposed) = (gains(network), transposed(network));
        let one = |index: usize| {
            let shape = &network.parameters[index].shape;
            let count = shape.iter().product();
            match shape.as_slice() {
                _ if gains.contains(&ParameterId(index)) => vec![1.0; count],
                [] | [_] => vec![0.0; count],
                &[inputs, outputs] if transposed.contains(&ParameterId(index)) => {
                    let stream = Stream::new(seed, STREAMS + index as u64);
                    let map = self.map(stream, outputs, inputs, 1);
                    (0..count).map(|at| map[at % outputs * inputs + at / outputs]).collect()
                }
                [outputs, rest @ ..] => {
                    let stream = Stream::new(seed, STREAMS + index as u64);
                    self.map(stream, *outputs, rest[0], rest[1..].iter().product())
                }
            }
        };
        parallel::map_indices(network.parameters.len(), one)
    }

    /// A map of this many outputs and inputs, each pair with a kernel of this many elements.
    fn map(self, stream: Stream, outputs: usize, inputs: usize, kernel: usize) -> Vec<f32> {
        let (fan_in, fan_out) = ((inputs * kernel) as f64, (outputs * kernel) as f64);
        let count = outputs * inputs * kernel;
        let times =
            |values: Vec<f64>, factor: f64| values.iter().map(|value| (value * factor) as f32).collect();
        match self {
            Self::Zeros => vec![0.0; count],
            Self::Normal => times(stream.normals(count), NORMAL_DEVIATION),
            Self::He => times(stream.normals(count), (2.0 / fan_in).sqrt()),
            Self::Xavier => {
                let bound = (6.0 / (fan_in + fan_out)).sqrt();
                stream.uniforms(count).iter().map(|value| ((2.0 * value - 1.0) * bound) as f32).collect()
            }
            Self::Orthogonal => {
                times(orthonormal(stream, outputs, inputs * kernel), std::f64::consts::SQRT_2)
            }
        }
    }
}

/// Gains of norms: what a normalised row is multiplied by.
fn gains(network: &Network) -> Vec<ParameterId> {
    let gain = |operation: &Operation| match operation {
        Operation::LayerNorm(norm) => norm.gain,
        Operation::GroupNorm(norm) => norm.gain,
        _ => None,
    };
    network.nodes.iter().filter_map(|node| gain(&node.operation)).collect()
}

/// Weights that are stored inputs × outputs.
fn transposed(network: &Network) -> Vec<ParameterId> {
    let weight = |operation: &Operation| match operation {
        Operation::Linear(linear) if linear.transposed => Some(linear.weight),
        _ => None,
    };
    network.nodes.iter().filter_map(|node| weight(&node.operation)).collect()
}

/// A matrix whose rows, or columns where there are fewer of them, are orthonormal: normal vectors, each made orthogonal to
/// those before it, twice.
fn orthonormal(stream: Stream, rows: usize, columns: usize) -> Vec<f64> {
    let (count, length) = (rows.min(columns), rows.max(columns));
    let mut vectors = stream.normals(count * length);
    for index in 0..count {
        let (before, rest) = vectors.split_at_mut(index * length);
        let vector = &mut rest[..length];
        for _ in 0..2 {
            for other in before.chunks_exact(length) {
                let along = product(vector, other);
                for (x, y) in vector.iter_mut().zip(other) {
                    *x -= along * y;
                }
            }
        }
        let norm = product(vector, vector).sqrt();
        for x in vector {
            *x /= norm;
        }
    }
    if rows <= columns {
        return vectors;
    }
    (0..rows * columns).map(|at| vectors[at % columns * length + at / columns]).collect()
}

fn product(x: &[f64], y: &[f64]) -> f64 {
    x.iter().zip(y).map(|(x, y)| x * y).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moments(values: &[f32]) -> (f64, f64) {
        let count = values.len() as f64;
        let mean = values.iter().map(|&value| f64::from(value)).sum::<f64>() / count;
        let square = values.iter().map(|&value| (f64::from(value) - mean).powi(2)).sum::<f64>() / count;
        (mean, square.sqrt())
    }

    #[test]
    fn every_scheme_has_the_deviation_of_its_paper() {
        let expected = [
            (Initialization::Normal, 0.01),
            // 10 inputs with kernels of 9: a fan of 90; 100 outputs.
            (Initialization::He, (2.0f64 / 90.0).sqrt()),
            (Initialization::Xavier, (6.0f64 / (90.0 + 900.0)).sqrt() / 3f64.sqrt()),
        ];
        for (scheme, deviation) in expected {
            let (mean, found) = moments(&scheme.map(Stream::new(3, 1), 100, 10, 9));
            // Four standard errors of 9000 values; that of a deviation is at most 1/√(2n) of it.
            assert!(mean.abs() < 4.0 * deviation / 9000f64.sqrt(), "{scheme:?}");
            assert!((found / deviation - 1.0).abs() < 4.0 / 18000f64.sqrt(), "{scheme:?}");
        }
        assert!(Initialization::Zeros.map(Stream::new(3, 1), 4, 4, 1).iter().all(|&value| value == 0.0));
    }

    #[test]
    fn rows_or_columns_of_an_orthogonal_map_are_orthonormal_up_to_the_gain() {
        for (rows, columns) in [(5, 40), (40, 5), (7, 7)] {
            let values = orthonormal(Stream::new(1, 2), rows, columns);
            let at = |row: usize, column: usize| values[row * columns + column];
            let side = rows.min(columns);
            for first in 0..side {
                for second in 0..side {
                    let sum: f64 = if rows <= columns {
                        (0..columns).map(|k| at(first, k) * at(second, k)).sum()
                    } else {
                        (0..rows).map(|k| at(k, first) * at(k, second)).sum()
                    };
                    let expected = f64::from(u8::from(first == second));
                    assert!((sum - expected).abs() < 1e-13, "{rows}×{columns}: {first}, {second}: {sum}");
                }
            }
        }
    }
}
