//! What is done with every sample before it is trained on.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{ErrorKind, Result};

/// A normalisation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Normalization {
    /// As it is.
    None,
    /// Divided by its sum, for non-negative samples: Σ = 1 within 1e-6.
    SumToOne,
    /// Each feature less its mean over the training examples, divided by its deviation over them; one that is constant
    /// there is only moved.
    Standard,
}

impl Normalization {
    /// Normalises samples of `length` numbers in place.
    ///
    /// # Errors
    /// When a number is not finite, or a sample cannot be divided by its sum: the sample is named.
    pub(super) fn apply(self, features: &mut [f32], length: usize, train: &[u32], path: &Path) -> Result<()> {
        let refuse = |sample: usize, what: String| {
            let message = format!("sample {sample} {what}");
            Err(ErrorKind::TrainingData { message }.in_file(path))
        };
        for (index, sample) in features.chunks_exact(length).enumerate() {
            if let Some(at) = sample.iter().position(|value| !value.is_finite()) {
                return refuse(index, format!("has {} at {at}, which is no number to train on", sample[at]));
            }
        }
        match self {
            Self::None => {}
            Self::SumToOne => {
                for (index, sample) in features.chunks_exact_mut(length).enumerate() {
                    if let Some(at) = sample.iter().position(|&value| value < 0.0) {
                        let value = sample[at];
                        return refuse(
                            index,
                            format!("has {value} at {at}: sum-to-one is for non-negative samples"),
                        );
                    }
                    let sum: f64 = sample.iter().map(|&value| f64::from(value)).sum();
                    if sum == 0.0 {
                        return refuse(index, "sums to zero and cannot be divided by its sum".to_owned());
                    }
                    for value in sample {
                        *value = (f64::from(*value) / sum) as f32;
                    }
                }
            }
            Self::Standard => standardise(features, length, train),
        }
        Ok(())
    }
}

fn standardise(features: &mut [f32], length: usize, train: &[u32]) {
    let count = train.len() as f64;
    let over = |term: &dyn Fn(usize, f64) -> f64| {
        let mut sums = vec![0.0; length];
        for &position in train {
            let sample = &features[position as usize * length..][..length];
            for (at, (sum, &value)) in sums.iter_mut().zip(sample).enumerate() {
                *sum += term(at, f64::from(value));
            }
        }
        sums.iter().map(|sum| sum / count).collect::<Vec<f64>>()
    };
    let means = over(&|_, value| value);
    let squares = over(&|at, value| (value - means[at]).powi(2));
    for sample in features.chunks_exact_mut(length) {
        for ((value, mean), square) in sample.iter_mut().zip(&means).zip(&squares) {
            let deviation = if *square > 0.0 { square.sqrt() } else { 1.0 };
            *value = ((f64::from(*value) - mean) / deviation) as f32;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apply(normalization: Normalization, features: &mut [f32], length: usize) -> Result<()> {
        let train: Vec<u32> = (0..(features.len() / length) as u32).collect();
        normalization.apply(features, length, &train, Path::new("x.npz"))
    }

    #[test]
    fn a_sample_that_sums_to_zero_is_an_error_that_names_it() {
        let error = apply(Normalization::SumToOne, &mut [1.0, 2.0, 0.0, 0.0], 2).unwrap_err();
        assert!(error.to_string().contains("sample 1 sums to zero"), "{error}");
        let error = apply(Normalization::SumToOne, &mut [1.0, 2.0, 3.0, -0.5], 2).unwrap_err();
        assert!(error.to_string().contains("sample 1 has -0.5 at 1"), "{error}");
        let error = apply(Normalization::None, &mut [1.0, f32::NAN], 2).unwrap_err();
        assert!(error.to_string().contains("sample 0 has NaN at 1"), "{error}");
    }

    #[test]
    fn standard_features_have_mean_zero_and_deviation_one_and_constant_ones_are_only_moved() {
        let mut features = [1.0, 5.0, 2.0, 5.0, 6.0, 5.0];
        apply(Normalization::Standard, &mut features, 2).unwrap();
        // Mean 3, deviation √(14/3).
        let expected = [-2.0f64, -1.0, 3.0].map(|value| value / (14.0f64 / 3.0).sqrt());
        for (found, expected) in features.chunks(2).zip(expected) {
            assert!((f64::from(found[0]) - expected).abs() < 1e-7 && found[1] == 0.0);
        }
    }
}
