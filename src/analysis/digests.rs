//! Digests of a checkpoint's files, found while its tensors are measured.

use rayon::prelude::*;

use super::checkpoint::{measure_checkpoint, problem};
use super::model::{CheckpointAnalysis, MeasureLevel};
use crate::checkpoint::Checkpoint;
use crate::context::Context;
use crate::files::digest;

/// As [`measure_checkpoint`], and the BLAKE3 digest of every file at the same time, so that storage is read once.
pub fn measure_with_digests(
    checkpoint: &Checkpoint,
    level: MeasureLevel,
    context: &Context,
) -> CheckpointAnalysis {
    let (mut analysis, digests) = rayon::join(
        || measure_checkpoint(checkpoint, level, context),
        || checkpoint.files.par_iter().map(|file| digest(&file.input, context)).collect::<Vec<_>>(),
    );
    for (file, found) in analysis.files.iter_mut().zip(digests) {
        match found {
            Ok(digest) => file.digest = digest,
            Err(error) => {
                let found = problem(checkpoint, &error);
                if !analysis.problems.contains(&found) {
                    analysis.problems.push(found);
                }
            }
        }
    }
    analysis
}
