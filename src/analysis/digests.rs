//! Digests of a checkpoint's files, found while its tensors are measured.

use super::checkpoint::{changed_files, measure_checkpoint, problem};
use super::model::{CheckpointAnalysis, MeasureLevel};
use crate::checkpoint::Checkpoint;
use crate::context::Context;
use crate::files::digest;
use crate::parallel;

/// As [`measure_checkpoint`], and the BLAKE3 digest of every file at the same time, so that storage is read once.
pub fn measure_with_digests(
    checkpoint: &Checkpoint,
    level: MeasureLevel,
    context: &Context,
) -> CheckpointAnalysis {
    let digests = || parallel::map(&checkpoint.files, |file| digest(&file.input, context));
    let (mut analysis, digests) = measure_beside(checkpoint, level, context, digests);
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

/// As [`measure_checkpoint`] beside `work`, which reads the same files: they are the same after both, or that is a problem.
fn measure_beside<T: Send>(
    checkpoint: &Checkpoint,
    level: MeasureLevel,
    context: &Context,
    work: impl FnOnce() -> T + Send,
) -> (CheckpointAnalysis, T) {
    let (mut analysis, done) = rayon::join(|| measure_checkpoint(checkpoint, level, context), work);
    // Whichever of both ended last read after the other had looked.
    for found in changed_files(checkpoint) {
        if !analysis.problems.contains(&found) {
            analysis.problems.push(found);
        }
    }
    (analysis, done)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::NameRules;

    #[test]
    fn a_file_that_changes_after_its_tensors_were_measured_is_a_problem() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        std::fs::copy("fixtures/runs/rnn-healthy/checkpoint-0400/model.safetensors", &path).unwrap();
        let context = Context::default();
        let checkpoint = Checkpoint::read(&path, &NameRules::default(), &context).unwrap();
        let measure = |work: &(dyn Fn() + Sync)| {
            // One thread: the work comes after the measuring.
            let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
            pool.install(|| measure_beside(&checkpoint, MeasureLevel::Norms, &context, work).0.problems)
        };
        assert_eq!(measure(&|| ()), []);
        let kinds = measure(&|| std::fs::write(&path, b"another").unwrap());
        let kinds = kinds.iter().map(|problem| problem.kind.as_str()).collect::<Vec<_>>();
        assert_eq!(kinds, ["changed-while-reading"]);
    }
}
