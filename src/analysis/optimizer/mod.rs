//! Forensics of optimizer state: what the moments saved in one checkpoint prove and tell about its history.
//!
//! One quantity a file, each with its formula, source, caveat and trustworthiness. `docs/forensics.md` is the reader's
//! version, and says what no single checkpoint can show. Judges nothing.

pub mod bound;
mod coverage;
pub mod gradient;
pub mod history;
pub mod mapping_proof;
mod moment;
mod parameter;
mod pass;
pub(in crate::analysis) mod place;
pub mod signal;
#[cfg(test)]
mod simulation;
pub mod spike;
pub mod steps;
pub mod stuck;
mod summary;
#[cfg(test)]
mod tests;
pub mod update;

use super::model::{Degenerate, MeasureLevel, Measured, OptimizerAnalysis};
use crate::checkpoint::Checkpoint;
use crate::context::Context;
use crate::error::Result;
use crate::parallel;
use crate::tensor::Tensor;
pub use coverage::coverage;
use place::Place;

/// Measures the optimizer state of `checkpoint`.
pub fn measure(
    checkpoint: &Checkpoint,
    level: MeasureLevel,
    context: &Context,
) -> Measured<OptimizerAnalysis> {
    if checkpoint.optimizers.is_empty() {
        return Measured::not("the checkpoint holds no optimizer state that is read");
    }
    if level == MeasureLevel::List {
        return Measured::not("needs --measure norms");
    }
    let places: Vec<Place<'_>> = Place::all(checkpoint);
    if places.is_empty() {
        return Measured::not(
            "the optimizer keeps no state for any parameter, as SGD without momentum does not",
        );
    }
    context.progress.expect_tensors(places.len());
    context.progress.expect(bytes(checkpoint));
    let measured = parallel::map(&places, |place| parameter::measure(place, context));
    let (parameters, energies): (Vec<_>, Vec<_>) = measured.into_iter().unzip();
    let optimizers = summary::optimizers(checkpoint, &parameters, &energies);
    let spike = spike::consensus(&parameters);
    Measured::Value(OptimizerAnalysis { optimizers, parameters, spike })
}

/// Bytes that [`measure`] reads.
fn bytes(checkpoint: &Checkpoint) -> u64 {
    let read = Place::all(checkpoint).into_iter().flat_map(|place| place.read());
    read.map(Tensor::byte_count).fold(0, u64::saturating_add)
}

/// What is said where bias correction is not known.
const UNCOUNTED: &str = "its state has no step counter";

/// A finite number, or overflow: JSON has no infinity.
fn number(value: f64) -> Measured<f64> {
    if value.is_finite() { Measured::Value(value) } else { Measured::Degenerate(Degenerate::Overflow) }
}

/// The value below which a share `at` of the sorted `values` lies, between neighbours by proportion; NaN of nothing.
fn quantile(values: &[f64], at: f64) -> f64 {
    let Some(last) = values.len().checked_sub(1) else { return f64::NAN };
    let place = at * last as f64;
    let index = (0..last).take_while(|&index| (index + 1) as f64 <= place).count();
    let (below, above) = (values[index], values[last.min(index + 1)]);
    if below == above { below } else { below + (above - below) * (place - index as f64) }
}

/// Feeds the elements of tensors of one shape to `add`, in index order. False when the user asked to stop.
pub(super) fn pass_over<const N: usize>(
    tensors: [&Tensor; N],
    context: &Context,
    mut add: impl FnMut([f64; N]),
) -> Result<bool> {
    const PART: u64 = 1 << 14;
    let count = tensors[0].count();
    let mut values = [const { Vec::new() }; N];
    for start in (0..count).step_by(PART as usize) {
        if context.cancelled() {
            return Ok(false);
        }
        let part = start..count.min(start + PART);
        for (tensor, values) in tensors.iter().zip(&mut values) {
            tensor.read_f64(part.clone(), values)?;
        }
        let length = (part.end - part.start) as usize;
        (0..length).for_each(|index| add(std::array::from_fn(|tensor| values[tensor][index])));
    }
    Ok(true)
}
