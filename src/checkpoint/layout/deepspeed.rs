//! The root of `DeepSpeed` checkpoints, as far as it says that one is not whole. The checkpoints themselves are not read.

use super::incomplete;
use super::listing::Listing;
use crate::context::Context;
use crate::error::{Error, Result};
use crate::files::open_sibling;

/// Names the directory of the newest checkpoint.
const LATEST: &str = "latest";

/// A longer file is not one line of text.
const MAX_TAG_BYTES: u64 = 1024;

/// What is wrong where `latest` names a directory that is not there.
pub(super) fn missing_tag(listing: &Listing, context: &Context) -> Option<Error> {
    // A file that cannot be read is none of DeepSpeed's: nothing else is asked of it.
    let tag = tag(listing, context).ok().flatten()?;
    let missing = || format!("the directory {} that its file {LATEST} names", tag.escape_debug());
    (!listing.has_directory(&tag)).then(|| incomplete(listing.path(), missing()))
}

fn tag(listing: &Listing, context: &Context) -> Result<Option<String>> {
    if !listing.has(LATEST) {
        return Ok(None);
    }
    let file = open_sibling(listing.path(), LATEST, context)?;
    let mut buffer = Vec::new();
    let bytes = file.bytes(0..file.len().min(MAX_TAG_BYTES + 1), &mut buffer)?;
    let tag = std::str::from_utf8(bytes).map(str::trim).unwrap_or_default();
    let plain = !tag.is_empty() && !tag.contains(['/', '\\', '\n', '\0']) && file.len() <= MAX_TAG_BYTES;
    Ok(plain.then(|| tag.to_owned()))
}
