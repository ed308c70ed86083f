//! A gradient dump: norms of every parameter's gradient, and the curvature along a step between two dumps (C1).
//!
//! Norms are sums in f64 over the finite elements; the others are counted. The secant (Δgᵀ Δw)/(Δwᵀ Δw) of two gradients
//! at two places is the mean curvature along the line between them, and so no larger than the largest: a lower bound of
//! λ_max where both gradients are of one batch, and λ_max plus noise otherwise. The gradient that step s applied was taken
//! at the weights after step s−1.

use crate::analysis::model::{
    CheckpointAnalysis, Degenerate, DumpAnalysis, DumpTensor, Measured, Section, TensorAnalysis,
};
use crate::analysis::optimizer::{pass_over, place::readable};
use crate::analysis::statistics::STOPPED;
use crate::checkpoint::{Checkpoint, CheckpointTensor};
use crate::context::Context;
use std::collections::{BTreeMap, HashMap};

/// What names of gradients may end in.
const SUFFIX: &str = ".grad";

/// The dump that applied `step`, from what was measured of its file and what the file says of itself.
pub fn of(measured: &CheckpointAnalysis, metadata: &BTreeMap<String, String>, step: u64) -> DumpAnalysis {
    let mut tensors: Vec<DumpTensor> =
        measured.tensors.iter().filter(|tensor| tensor.section == Section::Model).map(one).collect();
    // Stable: what names do not order stays as it is in the file.
    tensors.sort_by_key(|tensor| tensor.layer.order);
    let flag = |key: &str| metadata.get(key).and_then(|text| text.trim().parse::<bool>().ok());
    let count = |key: &str| metadata.get(key).and_then(|text| text.trim().parse::<u64>().ok());
    DumpAnalysis {
        name: measured.name.clone(),
        step,
        clipped: flag("clipped"),
        unscaled: flag("unscaled"),
        accumulation: count("accumulation"),
        rank: count("rank"),
        norm: whole(&tensors),
        tensors,
        secant: Measured::not("needs the dump before it, and checkpoints of the step before either"),
    }
}

fn one(tensor: &TensorAnalysis) -> DumpTensor {
    let unread = |reason: &str| Measured::NotMeasured(reason.to_owned());
    let (non_finite, norm, max_abs) = match &tensor.statistics {
        Measured::Value(found) => (found.non_finite(), found.l2.clone(), found.max_abs.clone()),
        Measured::NotMeasured(reason) => (0, unread(reason), unread(reason)),
        Measured::Degenerate(kind) => (0, Measured::Degenerate(*kind), Measured::Degenerate(*kind)),
    };
    DumpTensor {
        name: tensor.name.clone(),
        canonical_name: parameter(&tensor.canonical_name).to_owned(),
        layer: tensor.layer.clone(),
        role: tensor.role,
        elements: tensor.elements,
        non_finite,
        norm,
        max_abs,
    }
}

/// The parameter's name in that of its gradient.
fn parameter(name: &str) -> &str {
    name.strip_suffix(SUFFIX).unwrap_or(name)
}

/// The norm of all of them together, where each is known and finite.
fn whole(tensors: &[DumpTensor]) -> Measured<f64> {
    let mut sum = 0.0;
    for tensor in tensors {
        if tensor.non_finite > 0 {
            return Measured::not(format!("the gradient of {} is not finite", tensor.name));
        }
        match &tensor.norm {
            Measured::Value(norm) => sum += norm * norm,
            Measured::Degenerate(Degenerate::Empty) => {}
            Measured::NotMeasured(reason) => return Measured::not(format!("{}: {reason}", tensor.name)),
            other @ Measured::Degenerate(_) => return other.clone(),
        }
    }
    super::number(sum.sqrt())
}

/// (Δgᵀ Δw)/(Δwᵀ Δw) over the parameters that all four have: weights before and after, gradients taken at either.
pub fn secant(weights: [&Checkpoint; 2], gradients: [&Checkpoint; 2], context: &Context) -> Measured<f64> {
    let [earlier, later] = weights.map(by_name);
    let [first, second] = gradients.map(by_name);
    let (mut product, mut square, mut read) = (0.0, 0.0, 0);
    for tensor in &weights[1].tensors {
        let name = tensor.canonical_name.as_str();
        let (Some(before), Some(after)) = (earlier.get(name), later.get(name)) else { continue };
        let (Some(one), Some(other)) = (first.get(name), second.get(name)) else { continue };
        let four = [before, after, one, other].map(|tensor| tensor.tensor.as_ref().ok());
        let [Some(before), Some(after), Some(one), Some(other)] = four else { continue };
        let four = [before, after, one, other];
        if four.iter().any(|tensor| tensor.shape != before.shape || readable(tensor).is_err()) {
            continue;
        }
        let finished = pass_over(four, context, |[before, after, one, other]| {
            product += (other - one) * (after - before);
            square += (after - before).powi(2);
        });
        match finished {
            Ok(true) => read += 1,
            Ok(false) => return Measured::not(STOPPED),
            Err(error) => return Measured::not(error.kind.to_string()),
        }
    }
    match (read, square) {
        (0, _) => Measured::not("no parameter has its weights and its gradient at both"),
        (_, 0.0) => Measured::Degenerate(Degenerate::AllZero),
        _ => super::number(product / square),
    }
}

fn by_name(checkpoint: &Checkpoint) -> HashMap<&str, &CheckpointTensor> {
    let model = checkpoint.tensors.iter().filter(|tensor| tensor.section == Section::Model);
    model.map(|tensor| (parameter(&tensor.canonical_name), tensor)).collect()
}
