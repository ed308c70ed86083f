//! A directory as the Hugging Face Trainer and accelerate write it: a model, and the rest of the state in files of
//! fixed names beside it.

use serde::Deserialize;

use super::listing::Listing;
use super::{Parts, incomplete, model_directory};
use crate::checkpoint::step::Claim;
use crate::checkpoint::{Layout, Section, json};
use crate::context::Context;
use crate::error::Result;

const TRAINER_STATE: &str = "trainer_state.json";

/// Longest `trainer_state.json` that is read: about a million log entries.
const MAX_STATE_BYTES: u64 = 256 << 20;

/// Files beside the model, by how their names begin and end. accelerate numbers them and writes `.bin`; random states
/// of accelerate are bare pickles (`.pkl`) without tensors, and are not read.
const SIDE_FILES: &[(&str, Section)] = &[
    ("optimizer", Section::Optimizer),
    ("scheduler", Section::Other),
    ("scaler", Section::Other),
    ("sampler", Section::Other),
    ("rng_state", Section::Other),
    ("training_args", Section::Other),
];
const SIDE_EXTENSIONS: &[&str] = &["pt", "pth", "bin", "safetensors"];

/// What all of the file is, where its name says that it stands beside a model.
pub(super) fn section_of_side_file(name: &str) -> Option<Section> {
    let (stem, extension) = name.rsplit_once('.')?;
    let rest = |start| stem.strip_prefix(start).filter(|rest| rest.is_empty() || rest.starts_with('_'));
    let found = SIDE_FILES.iter().find(|(start, _)| rest(start).is_some());
    found.filter(|_| SIDE_EXTENSIONS.contains(&extension)).map(|&(_, section)| section)
}

/// Whether training state lies beside the model.
pub(super) fn is_one(listing: &Listing) -> bool {
    listing.has(TRAINER_STATE)
        || listing.files().any(|file| section_of_side_file(file) == Some(Section::Optimizer))
}

/// Reads the model and every file beside it. A side file without a tensor is nothing wrong.
pub(super) fn read(listing: &Listing, context: &Context) -> Result<Parts> {
    let mut parts = model_directory::read(listing, context)?;
    parts.layout = Layout::HfTrainer;
    for file in listing.files() {
        if let Some(section) = section_of_side_file(file) {
            parts.add(listing, file, Some(section), context);
        }
    }
    if listing.has(TRAINER_STATE) {
        parts.read_trainer_state(listing, context);
    } else if listing.has("optimizer.pt") && listing.has("scheduler.pt") {
        parts.problems.push(incomplete(listing.path(), "trainer_state.json, which the Trainer writes last"));
    }
    Ok(parts)
}

/// What is read of `trainer_state.json`; its log belongs to the history of the run.
#[derive(Deserialize)]
struct TrainerState {
    global_step: Option<u64>,
}

impl Parts {
    fn read_trainer_state(&mut self, listing: &Listing, context: &Context) {
        match json::read(listing.path(), TRAINER_STATE, TRAINER_STATE, MAX_STATE_BYTES, context) {
            Ok(TrainerState { global_step: Some(step) }) => {
                self.claims.insert(0, Claim { place: TRAINER_STATE.to_owned(), step, certain: true });
            }
            Ok(TrainerState { global_step: None }) => {}
            Err(error) => self.problems.push(error),
        }
    }
}
