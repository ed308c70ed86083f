//! Biases whose gradient is nothing but rounding: those of keys, which a softmax cancels.
//!
//! A bias of the keys adds the same to all logits of a query, and a softmax does not see that. Rotary positions and norms of keys lie
//! between the two and give it a gradient of its own, so that the role alone does not tell.

use std::collections::BTreeSet;

use super::{IntervalAnalysis, Measured, Role, TensorInterval};

/// Norm of the gradient of a bias over that of its weight's, below which it is rounding: at most 6e-4 in bf16 and 4e-8 to 4e-5 in f32
/// where a softmax cancels it; at least 8.7e-3 for biases of queries and values of the same runs.
const ROUNDING: f64 = 3e-3;

/// The weight of a bias's layer.
pub fn weight_of<'a>(interval: &'a IntervalAnalysis, bias: &TensorInterval) -> Option<&'a TensorInterval> {
    interval.tensors.iter().find(|own| own.layer.path == bias.layer.path && own.name != bias.name)
}

/// Canonical names of the biases of keys that a softmax cancels: such a bias is cancelled as long as the run lasts, whatever rounding
/// makes of its gradient once everything explodes.
pub fn cancelled_biases(intervals: &[IntervalAnalysis]) -> BTreeSet<&str> {
    let biases =
        intervals.iter().flat_map(|interval| interval.tensors.iter().map(move |own| (interval, own)));
    let biases = biases.filter(|(_, own)| own.role == Role::Bias);
    let cancelled = biases.filter(|(interval, bias)| {
        weight_of(interval, bias)
            .filter(|weight| weight.role == Role::AttentionKey)
            .and_then(|weight| share(bias, weight))
            .is_some_and(|share| share < ROUNDING)
    });
    cancelled.map(|(_, bias)| bias.canonical_name.as_str()).collect()
}

/// The gradient of a bias over that of its weight; by how far they moved, where no second moment tells their gradients. A step of Adam
/// is as long for rounding as for anything, so that nothing is told of it then.
fn share(bias: &TensorInterval, weight: &TensorInterval) -> Option<f64> {
    if let (Measured::Value(own), Measured::Value(of_weight)) = (&bias.gradient_norm, &weight.gradient_norm) {
        return (*of_weight > 0.0).then(|| own / of_weight);
    }
    let moved = |tensor: &TensorInterval| Some(tensor.change_rms.value()? * (tensor.elements as f64).sqrt());
    let of_weight = moved(weight).filter(|&moved| moved > 0.0)?;
    Some(moved(bias)? / of_weight)
}
