//! A directory as the Hugging Face Trainer writes it: a model, and the rest of the state in files of fixed names beside it.

use std::collections::BTreeSet;

use serde::Deserialize;

use super::listing::Listing;
use super::{Parts, incomplete, model_directory};
use crate::checkpoint::step::Claim;
use crate::checkpoint::{Layout, Section, json, masters};
use crate::context::Context;
use crate::error::{ErrorKind, Result};

/// Where the Trainer says how far it came.
pub(crate) const TRAINER_STATE: &str = "trainer_state.json";

/// Longest `trainer_state.json` that is read: about a million log entries.
pub(crate) const MAX_STATE_BYTES: u64 = 256 << 20;

/// Files beside the model, by how their names begin and end. accelerate numbers them, and calls some `.bin` or `.pkl`.
const SIDE_FILES: &[(&str, Section)] = &[
    ("optimizer", Section::Optimizer),
    ("scheduler", Section::Other),
    ("scaler", Section::Other),
    ("sampler", Section::Other),
    ("dl_state_dict", Section::Other),
    ("rng_state", Section::Other),
    ("random_states", Section::Other),
    ("custom_checkpoint", Section::Other),
    ("training_args", Section::Other),
];
const SIDE_EXTENSIONS: &[&str] = &["pt", "pth", "bin", "pkl", "safetensors"];

/// What all of the file is, where its name says that it stands beside a model.
pub(super) fn section_of_side_file(name: &str) -> Option<Section> {
    let (stem, extension) = name.rsplit_once('.')?;
    if masters::is_file(name) {
        return Some(Section::Optimizer);
    }
    let is_one = |&(start, section): &(&str, Section)| match stem.strip_prefix(start) {
        Some("") => true,
        // `sampler_1` counts samplers, `sampler_net` is a network. The state of an optimizer is judged under any name.
        Some(rest) => rest.strip_prefix('_').is_some_and(|rest| {
            section == Section::Optimizer
                || rest.trim_start_matches("rank_").chars().all(|digit| digit.is_ascii_digit())
        }),
        None => false,
    };
    let found = SIDE_FILES.iter().find(|side| is_one(side));
    found.filter(|_| SIDE_EXTENSIONS.contains(&extension)).map(|&(_, section)| section)
}

/// Whether something is there that only the Trainer writes.
pub(super) fn is_by_trainer(listing: &Listing) -> bool {
    [TRAINER_STATE, "training_args.bin", "optimizer.pt"].iter().any(|file| listing.has(file))
}

/// Whether training state lies beside the model.
pub(super) fn is_one(listing: &Listing) -> bool {
    is_by_trainer(listing)
        || listing.files().any(|file| section_of_side_file(file) == Some(Section::Optimizer))
}

/// Reads the model and every file beside it.
pub(super) fn read(listing: &Listing, context: &Context) -> Result<Parts> {
    let mut parts = model_directory::read(listing, context)?;
    parts.layout = Layout::HfTrainer;
    parts.add_side_files(listing, context);
    let missing = missing_rank(listing, "rng_state_", ".pth");
    parts.problems.extend(missing.map(|missing| incomplete(listing.path(), missing)));
    if listing.has(TRAINER_STATE) {
        parts.read_trainer_state(listing, context);
    } else if listing.has("optimizer.pt") && listing.has("scheduler.pt") {
        parts.problems.push(incomplete(listing.path(), "trainer_state.json, which the Trainer writes last"));
    }
    Ok(parts)
}

/// The file of the first rank that is not there, though that of a later one is.
pub(super) fn missing_rank(listing: &Listing, start: &str, end: &str) -> Option<String> {
    let rank = |file: &str| file.strip_prefix(start)?.strip_suffix(end)?.parse::<u64>().ok();
    let ranks: BTreeSet<u64> = listing.files().filter_map(rank).collect();
    let missing = (0..).zip(&ranks).find(|(expected, rank)| expected != *rank);
    missing.map(|(expected, _)| format!("{start}{expected}{end}"))
}

/// What is read of `trainer_state.json`; its log belongs to the history of the run.
#[derive(Deserialize)]
struct TrainerState {
    global_step: Option<u64>,
}

impl Parts {
    /// Adds every file that stands beside the model. That one holds no tensor is nothing wrong.
    pub(super) fn add_side_files(&mut self, listing: &Listing, context: &Context) {
        let first = self.files.len();
        for file in listing.files() {
            if let Some(section) = section_of_side_file(file).filter(|_| !masters::is_file(file)) {
                self.add(listing, file, Some(section), context);
            }
        }
        for part in &mut self.files[first..] {
            part.container.problems.retain(|problem| problem.kind != ErrorKind::NoTensors);
        }
        self.add_masters(listing, context);
    }

    /// Adds files of master weights, whose tensors have the names of the model's.
    pub(super) fn add_masters(&mut self, listing: &Listing, context: &Context) {
        let first = self.files.len();
        for file in listing.files().filter(|file| masters::is_file(file)) {
            self.add(listing, file, Some(Section::Optimizer), context);
        }
        self.files[first..].iter_mut().for_each(|part| part.label = Some(masters::LABEL.to_owned()));
    }

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
