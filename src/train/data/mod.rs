//! Examples to train on: the built-in set, or those of a file, normalised, split, and put in the order of each epoch.
//!
//! The order is a function of seed and epoch alone, so that a run can go on in the middle of one.

mod builtin;
mod files;
mod idx;
mod normalization;

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::context::Context;
use crate::error::{ErrorKind, Result};
use crate::random::Stream;

pub use normalization::Normalization;

/// Streams that order epochs begin here.
const ORDER_STREAMS: u64 = 2 << 32;

/// The stream by which examples of a file without a split of its own are shared out.
const SPLIT_STREAM: u64 = 3 << 32;

/// Of ten parts of a set without a split, the last is the test set, the one before it the validation set.
const PARTS: usize = 10;

/// How much of a split is used.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LoadSize {
    /// This part of it.
    Share(f64),
    /// So many examples.
    Count(usize),
}

impl FromStr for LoadSize {
    type Err = String;

    /// A value with a point, or equal to 1, is a share; an integer above 1 a count.
    ///
    /// # Errors
    /// A sentence, when it is neither.
    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let refused =
            || format!("{text:?} is neither a share in (0, 1] with a point nor a count of examples");
        if text.contains('.') || text == "1" {
            let share: f64 = text.parse().map_err(|_| refused())?;
            return if share > 0.0 && share <= 1.0 { Ok(Self::Share(share)) } else { Err(refused()) };
        }
        text.parse().ok().filter(|&count| count > 1).map(Self::Count).ok_or_else(refused)
    }
}

impl LoadSize {
    #[expect(clippy::cast_sign_loss, reason = "a share of a count is not negative")]
    fn of(self, whole: usize) -> usize {
        match self {
            Self::Share(share) => ((whole as f64 * share).round() as usize).clamp(1, whole.max(1)),
            Self::Count(count) => count,
        }
    }
}

/// Where examples come from and what is done with them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Source {
    /// A file or a directory; the built-in set without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<PathBuf>,
    /// What is done with each sample.
    pub normalization: Normalization,
    /// Of the training split.
    pub train_load_size: LoadSize,
    /// Of the validation split.
    pub validation_load_size: LoadSize,
    /// Of the test split.
    pub test_load_size: LoadSize,
}

/// Examples before they are shared out: those for training first, then those for the test, where the file tells.
struct Examples {
    shape: Vec<usize>,
    features: Vec<f32>,
    labels: Vec<u32>,
    /// How many of the last ones are the test set by the file's own word.
    test: Option<usize>,
}

/// Examples in memory, ready to be trained on.
#[derive(Debug)]
pub struct Data {
    /// Sizes of a sample.
    pub shape: Vec<usize>,
    /// Labels lie below it.
    pub classes: usize,
    /// BLAKE3 of samples and labels as they are trained on.
    pub digest: String,
    /// Positions of the training examples.
    pub train: Vec<u32>,
    /// Positions of the validation examples.
    pub validation: Vec<u32>,
    /// Positions of the test examples.
    pub test: Vec<u32>,
    features: Vec<f32>,
    labels: Vec<u32>,
}

/// Examples that go through the network together.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// Samples one after the other.
    pub features: Vec<f64>,
    /// The class of each.
    pub labels: Vec<u32>,
}

impl Data {
    /// Reads, normalises and shares out.
    ///
    /// # Errors
    /// When a file cannot be used, a sample cannot be normalised (it is named), or a split has fewer examples than asked for.
    pub fn prepare(source: &Source, seed: u64, context: &Context) -> Result<Self> {
        let path = source.data.as_deref().unwrap_or(Path::new("the built-in set"));
        let mut examples = match &source.data {
            None => builtin::examples(),
            Some(path) => files::read(path, context)?,
        };
        let count = examples.labels.len();
        let [mut train, mut validation, mut test] = share_out(&examples, source.data.is_some(), seed);
        for (positions, size, flag) in [
            (&mut train, source.train_load_size, "--train-load-size"),
            (&mut validation, source.validation_load_size, "--validation-load-size"),
            (&mut test, source.test_load_size, "--test-load-size"),
        ] {
            if positions.is_empty() {
                let message = format!(
                    "it has {count} examples, which leave none for {flag}: a tenth of those for training, or of all, is put aside"
                );
                return Err(ErrorKind::TrainingData { message }.in_file(path));
            }
            let wanted = size.of(positions.len());
            if wanted > positions.len() {
                let message = format!("{flag} asks for {wanted} examples, the split has {}", positions.len());
                return Err(ErrorKind::TrainingData { message }.in_file(path));
            }
            positions.truncate(wanted);
        }
        let length = examples.shape.iter().product();
        source.normalization.apply(&mut examples.features, length, &train, path)?;
        let classes = examples.labels.iter().max().map_or(0, |&label| label as usize + 1);
        let mut hasher = blake3::Hasher::new();
        hasher.update(&(count as u64).to_le_bytes());
        hasher.update_rayon(&bytes_of(&examples.features));
        hasher.update(&examples.labels.iter().flat_map(|label| label.to_le_bytes()).collect::<Vec<_>>());
        Ok(Self {
            shape: examples.shape,
            classes,
            digest: hasher.finalize().to_hex().to_string(),
            train,
            validation,
            test,
            features: examples.features,
            labels: examples.labels,
        })
    }

    /// The training examples in the order of an epoch: sorted by random numbers, one each, of the seed and the epoch.
    pub fn order(&self, seed: u64, epoch: u64) -> Vec<u32> {
        shuffled(&self.train, Stream::new(seed, ORDER_STREAMS + epoch))
    }

    /// The examples at these positions.
    pub fn batch(&self, positions: &[u32]) -> Batch {
        let length: usize = self.shape.iter().product();
        let sample = |&position: &u32| &self.features[position as usize * length..][..length];
        Batch {
            features: positions.iter().flat_map(sample).map(|&value| f64::from(value)).collect(),
            labels: positions.iter().map(|&position| self.labels[position as usize]).collect(),
        }
    }
}

/// The batches of an epoch: all of one size but perhaps the last.
pub fn batch_range(batch: u64, size: usize, examples: usize) -> Range<usize> {
    let start = (batch as usize).saturating_mul(size).min(examples);
    start..(start + size).min(examples)
}

fn share_out(examples: &Examples, shuffle: bool, seed: u64) -> [Vec<u32>; 3] {
    let count = examples.labels.len();
    let mut positions: Vec<u32> = (0..count as u32).collect();
    let test = examples.test.unwrap_or(count / PARTS);
    let validation = (count - test) / if examples.test.is_some() { PARTS } else { PARTS - 1 };
    // A file may be sorted by class. Examples that the file itself keeps for the test stay where they are.
    if shuffle {
        let own = examples.test.map_or(count, |test| count - test);
        let mixed = shuffled(&positions[..own], Stream::new(seed, SPLIT_STREAM));
        positions[..own].copy_from_slice(&mixed);
    }
    let test = positions.split_off(count - test);
    let validation = positions.split_off(positions.len() - validation);
    [positions, validation, test]
}

fn shuffled(positions: &[u32], stream: Stream) -> Vec<u32> {
    let numbers = stream.uniforms(positions.len());
    let mut order: Vec<u32> = (0..positions.len() as u32).collect();
    order.sort_by(|&a, &b| numbers[a as usize].total_cmp(&numbers[b as usize]).then(a.cmp(&b)));
    order.iter().map(|&at| positions[at as usize]).collect()
}

fn bytes_of(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(normalization: Normalization, train: &str) -> Source {
        Source {
            data: None,
            normalization,
            train_load_size: train.parse().unwrap(),
            validation_load_size: "100".parse().unwrap(),
            test_load_size: "0.5".parse().unwrap(),
        }
    }

    #[test]
    fn a_load_size_with_a_point_or_equal_to_one_is_a_share_and_a_larger_integer_a_count() {
        assert_eq!("1".parse(), Ok(LoadSize::Share(1.0)));
        assert_eq!("0.25".parse(), Ok(LoadSize::Share(0.25)));
        assert_eq!("1.0".parse(), Ok(LoadSize::Share(1.0)));
        assert_eq!("2".parse(), Ok(LoadSize::Count(2)));
        for wrong in ["0", "1.5", "-1", "0.0", "many", "", "nan.", "-0.5"] {
            assert!(wrong.parse::<LoadSize>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_built_in_set_has_a_hundred_thousand_examples_in_a_hundred_classes_that_sum_to_one() {
        let data = Data::prepare(&source(Normalization::SumToOne, "1"), 0, &Context::default()).unwrap();
        assert_eq!((data.labels.len(), data.classes), (100_000, 100));
        assert_eq!(data.shape, [1, 10, 10]);
        assert_eq!([data.train.len(), data.validation.len(), data.test.len()], [80_000, 100, 5_000]);
        for sample in data.features.chunks_exact(100) {
            let sum: f64 = sample.iter().map(|&value| f64::from(value)).sum();
            assert!((sum - 1.0).abs() < 1e-6 && sample.iter().all(|&value| value >= 0.0));
        }
        let mut counts = [0; 100];
        data.labels.iter().for_each(|&label| counts[label as usize] += 1);
        assert!(counts.iter().all(|&count| count == 1000));
    }

    #[test]
    fn an_epoch_has_every_training_example_once_and_another_epoch_or_seed_another_order() {
        let data = Data::prepare(&source(Normalization::None, "500"), 0, &Context::default()).unwrap();
        let order = data.order(7, 3);
        let mut sorted = order.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, data.train);
        assert_eq!(order, data.order(7, 3));
        assert_ne!(order, data.order(7, 4));
        assert_ne!(order, data.order(8, 3));
    }

    #[test]
    fn batches_cover_an_epoch_and_the_last_one_may_be_smaller() {
        let ranges: Vec<_> = (0..4).map(|batch| batch_range(batch, 32, 70)).collect();
        assert_eq!(ranges, [0..32, 32..64, 64..70, 70..70]);
    }

    #[test]
    fn a_split_that_is_smaller_than_asked_for_is_refused() {
        let asked = source(Normalization::None, "90000");
        let error = Data::prepare(&asked, 0, &Context::default()).unwrap_err();
        assert!(error.to_string().contains("--train-load-size asks for 90000 examples, the split has 80000"));
    }
}
