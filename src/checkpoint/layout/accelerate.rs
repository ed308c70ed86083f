//! A directory as accelerate's `save_state` writes it: models, and the rest of the state in files numbered by kind.

use super::hf_trainer::missing_rank;
use super::listing::Listing;
use super::{Parts, hf_trainer, incomplete, model_directory};
use crate::checkpoint::{Layout, Section};
use crate::context::Context;
use crate::error::Result;

/// Random states, one file a rank: what it writes last, but for objects of the user's own.
const RANDOM_STATES: (&str, &str) = ("random_states_", ".pkl");

/// Whether the names are accelerate's: the Trainer has others for the same things, and its own state beside them.
pub(super) fn is_one(listing: &Listing) -> bool {
    !hf_trainer::is_by_trainer(listing)
        && listing.files().any(|file| {
            is_random_state(file) || ["optimizer.bin", "scheduler.bin", "sampler.bin"].contains(&file)
        })
}

fn is_random_state(file: &str) -> bool {
    file.starts_with(RANDOM_STATES.0) && file.ends_with(RANDOM_STATES.1)
}

/// Reads the models and every file beside them. The name of the directory counts checkpoints, not steps.
pub(super) fn read(listing: &Listing, context: &Context) -> Result<Parts> {
    let mut parts = model_directory::read(listing, context)?;
    parts.layout = Layout::Accelerate;
    add_more_models(&mut parts, listing, context);
    parts.add_side_files(listing, context);
    let missing = missing_rank(listing, RANDOM_STATES.0, RANDOM_STATES.1);
    let unfinished = listing.has("scheduler.bin") && !listing.files().any(is_random_state);
    let missing = missing
        .or_else(|| unfinished.then(|| "random_states_0.pkl, which accelerate writes last".to_owned()));
    parts.problems.extend(missing.map(|missing| incomplete(listing.path(), missing)));
    Ok(parts)
}

/// The second and further models of a training: `model_1.safetensors`, `pytorch_model_1.bin`.
fn add_more_models(parts: &mut Parts, listing: &Listing, context: &Context) {
    let numbered = |file: &str, start: &str, end: &str| {
        let number = file.strip_prefix(start).and_then(|rest| rest.strip_suffix(end));
        number.is_some_and(|number| number.parse::<u32>().is_ok())
    };
    for file in listing.files() {
        if numbered(file, "model_", ".safetensors") || numbered(file, "pytorch_model_", ".bin") {
            parts.add(listing, file, Some(Section::Model), context);
        }
    }
    parts.tell_apart();
}
