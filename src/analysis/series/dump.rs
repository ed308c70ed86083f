//! A gradient dump: norms of every parameter's gradient, how they change with depth and under clipping, and the curvature
//! along a step between two dumps (C1).
//!
//! Norms are sums in f64 over the finite elements; the others are counted. The secant (Δgᵀ Δw)/(Δwᵀ Δw) of two gradients
//! at two places is the mean curvature along the line between them, and so no larger than the largest: a lower bound of
//! λ_max where both gradients are of one batch, and λ_max plus noise otherwise. The gradient that step s applied was taken
//! at the weights after step s−1. What Adam makes of the same two dumps is in `sharpness.rs`.

use super::sharpness::{Preconditioner, Second};
use super::{clip, depth};
use crate::analysis::model::{
    CheckpointAnalysis, Degenerate, DumpAnalysis, DumpTensor, Measured, Section, Sharpness, TensorAnalysis,
};
use crate::analysis::optimizer::{pass_over, place::readable};
use crate::analysis::statistics::STOPPED;
use crate::checkpoint::{Checkpoint, CheckpointTensor};
use crate::context::Context;
use std::collections::{BTreeMap, HashMap};

/// What names of gradients may end in.
const SUFFIX: &str = ".grad";

/// What is said of curvature where a dump has no other to be held against.
const ALONE: &str = "needs the dump before it, and checkpoints of the step before either";

/// The dump that applied `step`, from what was measured of its file and what the file says of itself. `threshold` is the one
/// that the run clips to.
pub fn of(
    measured: &CheckpointAnalysis,
    metadata: &BTreeMap<String, String>,
    step: u64,
    threshold: Option<f64>,
) -> DumpAnalysis {
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
        secant: Measured::not(ALONE),
        preconditioned: Measured::not(ALONE),
        first_last_ratio: depth::first_over_last(&tensors),
        depth_gain: depth::gain(&tensors),
        clip_cosine: clip_cosine(&tensors, threshold, [flag("clipped"), flag("unscaled")]),
        tensors,
    }
}

/// What clipping by parameter would do to the direction of a gradient that was not clipped yet.
fn clip_cosine(
    tensors: &[DumpTensor],
    threshold: Option<f64>,
    [clipped, unscaled]: [Option<bool>; 2],
) -> Measured<f64> {
    if clipped == Some(true) {
        return Measured::not("it was taken after clipping");
    }
    if unscaled == Some(false) {
        return Measured::not("the loss scale is not divided out of it");
    }
    let Some(threshold) = threshold.filter(|threshold| *threshold > 0.0) else {
        return Measured::not("neither a config nor a log of the run says what it clips to");
    };
    // Whatever stops the norm of the whole stops this too.
    if let other @ (Measured::NotMeasured(_) | Measured::Degenerate(_)) = whole(tensors) {
        return other;
    }
    let norms: Vec<f64> = tensors.iter().filter_map(|tensor| tensor.norm.value().copied()).collect();
    clip::direction(&norms, threshold / (norms.len().max(1) as f64).sqrt())
}

fn one(tensor: &TensorAnalysis) -> DumpTensor {
    let unread = |reason: &str| Measured::not(reason.to_owned());
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
pub(in crate::analysis) fn parameter(name: &str) -> &str {
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

/// The curvature along the line between two dumps: plain, and as Adam's preconditioner at the later one sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct Curvature {
    /// (Δgᵀ Δw)/(Δwᵀ Δw).
    pub secant: Measured<f64>,
    /// (Δgᵀ Δw)/(Δwᵀ P Δw), and where it leads.
    pub preconditioned: Measured<Sharpness>,
}

impl Curvature {
    fn not(reason: &str) -> Self {
        Self { secant: Measured::not(reason.to_owned()), preconditioned: Measured::not(reason.to_owned()) }
    }
}

/// Curvature over the parameters that all four have: weights before and after, gradients taken at either, the later one
/// applied by `step`.
pub fn curvature(
    weights: [&Checkpoint; 2],
    gradients: [&Checkpoint; 2],
    step: u64,
    context: &Context,
) -> Curvature {
    let mut preconditioner = Preconditioner::of(weights[1]);
    let [earlier, later] = weights.map(by_name);
    let [first, second] = gradients.map(by_name);
    let (mut product, mut square, mut scaled, mut read) = (0.0, 0.0, 0.0, 0);
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
        let second = match &preconditioner {
            Ok(known) => known.second(name).filter(|second| second.tensor.shape == four[0].shape),
            Err(_) => None,
        };
        if second.is_none() && preconditioner.is_ok() {
            preconditioner = Err(format!("{name} has no second moments"));
        }
        let [before, after, one, other] = four;
        let finished = match second {
            Some(second @ Second { tensor, .. }) => {
                pass_over([before, after, one, other, tensor], context, |[before, after, one, other, v]| {
                    let change: f64 = after - before;
                    product += (other - one) * change;
                    square += change * change;
                    scaled += second.denominator(v) * change * change;
                })
            }
            None => pass_over(four, context, |[before, after, one, other]| {
                product += (other - one) * (after - before);
                square += (after - before).powi(2);
            }),
        };
        match finished {
            Ok(true) => read += 1,
            Ok(false) => return Curvature::not(STOPPED),
            Err(error) => return Curvature::not(&error.kind.to_string()),
        }
    }
    if read == 0 {
        return Curvature::not("no parameter has its weights and its gradient at both");
    }
    let quotient = |square: f64| match square {
        0.0 => Measured::Degenerate(Degenerate::AllZero),
        square => super::number(product / square),
    };
    let preconditioned = match preconditioner {
        Err(reason) => Measured::not(reason),
        Ok(preconditioner) => match quotient(scaled) {
            Measured::Value(value) => preconditioner.judge(value, step),
            Measured::NotMeasured(reason) => Measured::NotMeasured(reason),
            Measured::Degenerate(kind) => Measured::Degenerate(kind),
        },
    };
    Curvature { secant: quotient(square), preconditioned }
}

fn by_name(checkpoint: &Checkpoint) -> HashMap<&str, &CheckpointTensor> {
    let model = checkpoint.tensors.iter().filter(|tensor| tensor.section == Section::Model);
    model.map(|tensor| (parameter(&tensor.canonical_name), tensor)).collect()
}
