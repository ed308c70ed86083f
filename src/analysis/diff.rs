//! What differs between two checkpoints, tensor by tensor: two steps of a run, two ranks, a master copy and its model.
//!
//! Joins by canonical name within each part of the training state. Each tensor both have in one shape is read once at
//! either place, in one pass; the same numbers at any thread count.

use std::collections::{HashMap, HashSet};

use super::model::{
    ChangeSpectrum, Degenerate, Difference, MeasureLevel, Measured, Reshaped, TensorDifference,
};
use super::optimizer::place::readable;
use super::series::number;
use super::series::pass::{Pair, Sums};
use super::spectrum::change;
use super::statistics::STOPPED;
use crate::checkpoint::{Checkpoint, CheckpointTensor, Section};
use crate::compute::{Cpu, Matrix};
use crate::context::Context;
use crate::error::Result;
use crate::parallel;
use crate::tensor::Tensor;

/// What one tensor is joined by.
type Key<'a> = (Section, &'a str);

/// Compares the tensors of `sections` in `before` and `after`; at [`MeasureLevel::Spectra`] and above with the spectrum of each
/// matrix's change.
pub fn between(
    before: &Checkpoint,
    after: &Checkpoint,
    sections: &[Section],
    level: MeasureLevel,
    context: &Context,
) -> Difference {
    let wanted = |tensor: &&CheckpointTensor| sections.contains(&tensor.section) && tensor.tied_to.is_none();
    let index: HashMap<Key<'_>, &CheckpointTensor> =
        before.tensors.iter().filter(wanted).map(|tensor| (key(tensor), tensor)).collect();
    let later: Vec<&CheckpointTensor> = after.tensors.iter().filter(wanted).collect();
    let mut found = Difference {
        before: before.name.clone(),
        after: after.name.clone(),
        steps: [before.step, after.step],
        tensors: Vec::new(),
        missing: Vec::new(),
        new: Vec::new(),
        reshaped: Vec::new(),
        not_compared: Vec::new(),
    };
    let mut pairs = Vec::new();
    for &tensor in &later {
        match index.get(&key(tensor)) {
            Some(earlier) => pairs.push((*earlier, tensor)),
            None => found.new.push(tensor.canonical_name.clone()),
        }
    }
    let kept: HashSet<Key<'_>> = later.iter().map(|tensor| key(tensor)).collect();
    let gone = before.tensors.iter().filter(wanted).filter(|tensor| !kept.contains(&key(tensor)));
    found.missing = gone.map(|tensor| tensor.canonical_name.clone()).collect();
    announce(&pairs, context);
    for outcome in parallel::map(&pairs, |(one, other)| compare(one, other, level, context)) {
        match outcome {
            Outcome::Compared(difference) => found.tensors.push(*difference),
            Outcome::Reshaped(reshaped) => found.reshaped.push(reshaped),
            Outcome::Not(name, reason) => found.not_compared.push((name, reason)),
        }
    }
    found
}

fn key(tensor: &CheckpointTensor) -> Key<'_> {
    (tensor.section, tensor.canonical_name.as_str())
}

fn announce(pairs: &[(&CheckpointTensor, &CheckpointTensor)], context: &Context) {
    let sides = pairs.iter().flat_map(|(one, other)| [one, other]);
    let bytes = sides.filter_map(|tensor| Some(tensor.tensor.as_ref().ok()?.byte_count()));
    context.progress.expect_tensors(pairs.len());
    context.progress.expect(bytes.fold(0, u64::saturating_add));
}

enum Outcome {
    Compared(Box<TensorDifference>),
    Reshaped(Reshaped),
    Not(String, String),
}

fn compare(
    before: &CheckpointTensor,
    after: &CheckpointTensor,
    level: MeasureLevel,
    context: &Context,
) -> Outcome {
    let name = || after.canonical_name.clone();
    context.progress.begin(&after.name);
    let (one, other) = match (&before.tensor, &after.tensor) {
        (Ok(one), Ok(other)) => (one, other),
        (Err(error), _) | (_, Err(error)) => return Outcome::Not(name(), error.kind.to_string()),
    };
    if one.shape != other.shape {
        let shapes = [one.shape.clone(), other.shape.clone()];
        return Outcome::Reshaped(Reshaped { name: name(), shapes });
    }
    for tensor in [one, other] {
        if let Err(reason) = readable(tensor) {
            return Outcome::Not(name(), reason.replace("moments", "elements"));
        }
    }
    let pair = Pair { weights: Some([one, other]), ..Pair::default() };
    match pair.run(context) {
        Ok(Some(sums)) => {
            let mut difference = difference(after, [one.dtype, other.dtype], &sums);
            match spectrum(&difference, [one, other], level, context) {
                Ok(spectrum) => difference.spectrum = spectrum,
                Err(error) => return Outcome::Not(name(), error.kind.to_string()),
            }
            Outcome::Compared(Box::new(difference))
        }
        Ok(None) => Outcome::Not(name(), STOPPED.to_owned()),
        Err(error) => Outcome::Not(name(), error.kind.to_string()),
    }
}

/// The spectrum of a change, or why there is none.
fn spectrum(
    difference: &TensorDifference,
    [before, after]: [&Tensor; 2],
    level: MeasureLevel,
    context: &Context,
) -> Result<Measured<ChangeSpectrum>> {
    if level < MeasureLevel::Spectra {
        return Ok(Measured::not("needs --measure spectra"));
    }
    if before.shape.len() != 2 {
        return Ok(Measured::not("no matrix: a vector, or a stack of matrices"));
    }
    if difference.non_finite > 0 {
        return Ok(Measured::not(format!("{} elements are not finite", difference.non_finite)));
    }
    let size = match (&difference.difference, difference.changed) {
        (_, 0) => return Ok(Measured::Degenerate(Degenerate::AllZero)),
        (Measured::Value(size), _) => *size,
        (Measured::NotMeasured(reason), _) => return Ok(Measured::not(reason.clone())),
        (Measured::Degenerate(kind), _) => return Ok(Measured::Degenerate(*kind)),
    };
    let [before, after] = [Matrix::new(before), Matrix::new(after)];
    let measured = change::measure(&Cpu, &before, &after, size, context)?;
    Ok(measured.unwrap_or_else(|| Measured::not(STOPPED)))
}

fn difference(tensor: &CheckpointTensor, dtypes: [super::model::DType; 2], sums: &Sums) -> TensorDifference {
    let finite = sums.elements - sums.non_finite;
    let empty = Measured::Degenerate(Degenerate::Empty);
    let over = |value: f64, norm: f64| match norm {
        _ if finite == 0 => empty.clone(),
        0.0 => Measured::Degenerate(Degenerate::AllZero),
        norm => number(value / norm),
    };
    TensorDifference {
        name: tensor.name.clone(),
        canonical_name: tensor.canonical_name.clone(),
        section: tensor.section,
        layer: tensor.layer.clone(),
        role: tensor.role,
        elements: sums.elements,
        dtypes,
        difference: if finite == 0 { empty.clone() } else { number(sums.change.sqrt()) },
        relative_difference: over(sums.change.sqrt(), sums.before.sqrt()),
        cosine: over(sums.product, sums.before.sqrt() * sums.after.sqrt()),
        largest_difference: if finite == 0 { empty.clone() } else { number(sums.largest_change) },
        changed: sums.changed,
        non_finite: sums.non_finite,
        non_finite_each: Some(sums.non_finite_each),
        spectrum: Measured::not("needs --measure spectra"),
    }
}
