//! FP8: how often each of 256 patterns occurs.

use super::block::{Contribution, fold};
use super::kernel::Job;
use super::patterns::Format;
use crate::context::Context;
use crate::error::Result;
use crate::tensor::Tensor;

/// How often each byte occurs.
pub(super) type Histogram = [u64; 256];

/// Tally and sums of an FP8 tensor. Nothing when the user asked to stop.
pub(super) fn contribution(
    tensor: &Tensor,
    job: &Job,
    format: &Format,
    context: &Context,
) -> Result<Option<Contribution>> {
    let mut whole = [0; 256];
    let finished = fold(
        tensor,
        context,
        || [0; 256],
        |histogram, _, bytes| {
            count(bytes, histogram);
            Ok(())
        },
        |histogram| histogram,
        |histogram: Histogram| whole.iter_mut().zip(histogram).for_each(|(sum, count)| *sum += count),
    )?;
    Ok(finished.then(|| of_histogram(&whole, job, format)))
}

/// Counts bytes in four histograms, so that equal neighbours do not wait for each other.
fn count(bytes: &[u8], histogram: &mut Histogram) {
    let mut parts = [[0u32; 256]; 4];
    let (quads, rest) = bytes.as_chunks::<4>();
    for quad in quads {
        for (part, &byte) in parts.iter_mut().zip(quad) {
            part[usize::from(byte)] += 1;
        }
    }
    for &byte in rest {
        parts[0][usize::from(byte)] += 1;
    }
    for part in parts {
        histogram.iter_mut().zip(part).for_each(|(sum, count)| *sum += u64::from(count));
    }
}

/// Everything from the histogram: 256 terms a sum.
pub(super) fn of_histogram(histogram: &Histogram, job: &Job, format: &Format) -> Contribution {
    let mut whole = format.nothing(job);
    for (bits, &weight) in (0..).zip(histogram) {
        format.add(bits, weight, job, &mut whole.tally, &mut whole.sums);
    }
    whole
}
