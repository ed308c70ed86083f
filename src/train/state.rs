//! What a checkpoint holds beside the tensors: everything that going on bit for bit needs, as `state.json`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::config::Config;
use super::numerics::Fingerprint;
use super::optimizer::Written;
use crate::clip::Clipper;

/// The state between two steps.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct State {
    /// Steps taken, those that clipping skipped included.
    pub step: u64,
    /// Hyperparameters, with the learning rate of the next step.
    pub optimizer: Written,
    /// Steps that the optimizer took.
    pub updates: u64,
    /// Where in the data the next batch is.
    pub position: Position,
    /// The course of the learning rate.
    pub schedule: ScheduleState,
    /// The clipping method, with what it remembers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clipper: Option<Clipper>,
    /// Random numbers: by counter, so that the seed is all their state.
    pub random: Random,
    /// Everything the run was started with.
    pub config: Config,
    /// BLAKE3 of the examples as they are trained on.
    pub data: String,
    /// BLAKE3 of the files beside this one.
    pub digests: BTreeMap<String, String>,
    /// What else decides the bits.
    pub numerics: Fingerprint,
}

/// Where in the data the next batch is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// The next batch, counted over all epochs.
    pub next: u64,
    /// Whole passes over the training examples.
    pub epoch: u64,
    /// Batches of the current one.
    pub batch: u64,
    /// Steps of the current epoch, and the sum of their losses by its bits: it may be NaN, which JSON has no number for.
    pub epoch_steps: u64,
    /// See above.
    pub epoch_loss_bits: u64,
}

/// The course of the learning rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScheduleState {
    /// Steps taken in it.
    pub step: u64,
    /// Steps until its end.
    pub total: u64,
}

/// Where random numbers come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Random {
    /// `philox4x32-10`.
    pub generator: String,
    /// Its key.
    pub seed: u64,
}

impl Random {
    /// The generator of `random.rs` under a seed.
    pub fn new(seed: u64) -> Self {
        Self { generator: "philox4x32-10".to_owned(), seed }
    }
}
