//! Everything a run is started with, as `run.json` keeps it: the same bytes whenever the same is asked for.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::data::Source;
use super::initialization::Initialization;
use super::loss::Loss;
use super::optimizer::{self, Optimizer};
use super::schedule::Schedule;
use crate::clip::{AutoClip, Method};

/// What is trained, on what, for how long, and how.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// `nn`, or the path of a `model.toml`.
    pub model_name: String,
    /// The text of that file: a run goes on with the network that it began with. None of `nn`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Examples.
    #[serde(flatten)]
    pub source: Source,
    /// Passes over the training examples.
    pub num_epochs: u64,
    /// Examples of a step.
    pub batch_size: usize,
    /// When a checkpoint is written.
    pub save_interval: Interval,
    /// Steps from one gradient dump to the next; none without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gradient_interval: Option<u64>,
    /// How weights start.
    pub weight_initialization: Initialization,
    /// Of all random numbers.
    pub seed: u64,
    /// The GPU that passes run on; none: the processor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cuda: Option<usize>,
    /// What tells this arm from those beside it.
    #[serde(flatten)]
    pub arm: ArmConfig,
    /// Batches that are left out, first and last, counted from 0 over all epochs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub skip_batches: Vec<[u64; 2]>,
}

/// One way to train: arms see the same batches and start from the same weights.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ArmConfig {
    /// Which optimizer.
    pub optimizer: optimizer::Name,
    /// With which constants.
    #[serde(flatten)]
    pub settings: optimizer::Settings,
    /// What is minimised.
    pub loss: Loss,
    /// Learning rate before the schedule.
    pub lr: f64,
    /// Its course.
    pub schedule: Schedule,
    /// What gradients are limited by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clip: Option<Clip>,
    /// Whether the optimizer takes the step, or weights move along the gradient and nothing else.
    pub weight_update: WeightUpdate,
    /// In what parameters are kept.
    pub dtype: Precision,
    /// Beside bf16 parameters, those in f32 that they are roundings of.
    pub master: bool,
}

/// How weights move.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum WeightUpdate {
    /// By the optimizer.
    #[serde(rename = "optimizer.step")]
    OptimizerStep,
    /// `w ← w - η·g`.
    #[serde(rename = "gradient-descent")]
    GradientDescent,
}

impl FromStr for WeightUpdate {
    type Err = String;

    /// # Errors
    /// A sentence that lists the names, when it is none of them.
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "optimizer.step" => Ok(Self::OptimizerStep),
            "gradient-descent" => Ok(Self::GradientDescent),
            _ => Err(format!("{text:?} is neither optimizer.step nor gradient-descent")),
        }
    }
}

/// In what parameters are kept between steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Precision {
    /// f32.
    F32,
    /// bf16, rounded to the nearest, ties to even, after each step in f32.
    Bf16,
}

impl FromStr for Precision {
    type Err = String;

    /// # Errors
    /// A sentence that lists the names, when it is none of them.
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "f32" => Ok(Self::F32),
            "bf16" => Ok(Self::Bf16),
            _ => Err(format!("{text:?} is neither f32 nor bf16")),
        }
    }
}

/// When checkpoints are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Interval {
    /// Every so many epochs.
    Epochs(u64),
    /// Every so many steps.
    Steps(u64),
}

impl FromStr for Interval {
    type Err = String;

    /// A number of epochs, or of steps with the suffix `steps`.
    ///
    /// # Errors
    /// A sentence, when it is neither.
    fn from_str(text: &str) -> Result<Self, String> {
        let (number, make): (&str, fn(u64) -> Self) = match text.strip_suffix("steps") {
            Some(number) => (number.trim_end(), Self::Steps),
            None => (text, Self::Epochs),
        };
        let number = number.parse().ok().filter(|&number: &u64| number > 0);
        number
            .map(make)
            .ok_or_else(|| format!("{text:?} is neither a number of epochs nor one of steps, as in 100steps"))
    }
}

/// What gradients are limited by.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Clip {
    /// A method with its constants.
    Method(Method),
    /// What is known at the start: without a record there is no threshold to recommend, and `AutoClip` adapts from the first
    /// step. `resume --clip recommended` has the record of the run and puts a constant here.
    Recommended,
}

impl FromStr for Clip {
    type Err = String;

    /// `recommended`, the name of a method, or a number for the global norm.
    ///
    /// # Errors
    /// A sentence, when it is none of them.
    fn from_str(text: &str) -> Result<Self, String> {
        if text == "recommended" { Ok(Self::Recommended) } else { text.parse().map(Self::Method) }
    }
}

impl Clip {
    /// The method that is used.
    pub fn method(self) -> Method {
        match self {
            Self::Method(method) => method,
            Self::Recommended => Method::AutoClip(AutoClip { percentile: PERCENTILE }),
        }
    }
}

/// Of `AutoClip`, by its paper.
const PERCENTILE: f64 = 10.0;

impl ArmConfig {
    /// The optimizer that takes the steps.
    pub fn rule(&self) -> Optimizer {
        match self.weight_update {
            WeightUpdate::OptimizerStep => Optimizer::new(self.optimizer, &self.settings),
            WeightUpdate::GradientDescent => {
                Optimizer::new(optimizer::Name::TorchSgd, &optimizer::Settings::default())
            }
        }
    }
}

impl Config {
    /// Steps of an epoch over this many examples.
    pub fn batches_of_an_epoch(&self, examples: usize) -> u64 {
        examples.div_ceil(self.batch_size) as u64
    }

    /// Whether the batch of this number, counted over all epochs, is left out.
    pub fn skips(&self, batch: u64) -> bool {
        self.skip_batches.iter().any(|[first, last]| (*first..=*last).contains(&batch))
    }

    /// Batches of all epochs together.
    pub fn batches(&self, examples: usize) -> u64 {
        self.num_epochs.saturating_mul(self.batches_of_an_epoch(examples))
    }

    /// Batches that are trained on in all epochs together.
    pub fn steps(&self, examples: usize) -> u64 {
        let batches = self.batches(examples);
        // Ranges may overlap, and end behind the last batch.
        let mut ranges = self.skip_batches.clone();
        ranges.sort_unstable();
        let (mut skipped, mut next) = (0, 0);
        for [first, last] in ranges {
            let (first, last) = (first.max(next), last.min(batches.saturating_sub(1)));
            if first <= last && batches > 0 {
                skipped += last - first + 1;
                next = last + 1;
            }
        }
        batches - skipped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_is_one_of_epochs_or_of_steps_with_the_suffix() {
        assert_eq!("10".parse(), Ok(Interval::Epochs(10)));
        assert_eq!("100steps".parse(), Ok(Interval::Steps(100)));
        assert!(["0", "0steps", "steps", "-1", "1.5"].iter().all(|text| text.parse::<Interval>().is_err()));
    }
}
