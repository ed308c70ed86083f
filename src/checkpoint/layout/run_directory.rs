//! A checkpoint of flashpoint's own run directory: model, optimizer, and the state as JSON (`docs/run-directory.md`).

use serde::Deserialize;

use super::listing::Listing;
use super::{Parts, open};
use crate::checkpoint::optimizer::Hyperparameters;
use crate::checkpoint::step::Claim;
use crate::checkpoint::{Layout, Section, json};
use crate::context::Context;
use crate::error::Result;

const MODEL: &str = "model.safetensors";
const OPTIMIZER: &str = "optimizer.safetensors";
const STATE: &str = "state.json";

/// Longest `state.json` that is read.
const MAX_STATE_BYTES: u64 = 16 << 20;

#[derive(Deserialize)]
struct State {
    step: u64,
    optimizer: Option<Hyperparameters>,
}

/// Whether the directory is one of ours.
pub(super) fn is_one(listing: &Listing) -> bool {
    listing.has(MODEL) && listing.has(STATE)
}

/// Reads model, optimizer and step.
pub(super) fn read(listing: &Listing, context: &Context) -> Result<Parts> {
    let mut parts = Parts::new(Layout::RunDirectory);
    parts.push(open(listing.path(), MODEL, Some(Section::Model), context)?);
    if listing.has(OPTIMIZER) {
        parts.add(listing, OPTIMIZER, Some(Section::Optimizer), context);
    }
    parts.add_masters(listing, context);
    match json::read(listing.path(), STATE, STATE, MAX_STATE_BYTES, context) {
        Ok(State { step, optimizer }) => {
            parts.claims.push(Claim { place: STATE.to_owned(), step, certain: true });
            parts.hyperparameters = optimizer;
        }
        Err(error) => parts.problems.push(error),
    }
    Ok(parts)
}
