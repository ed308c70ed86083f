//! Which parameters are suspect, on which side: by their gradients, by their steps, by their weights.

use super::Suspect;
use super::facts::{Facts, is_matrix, median, rms};
use crate::analysis::model::{
    CheckpointAnalysis, IntervalAnalysis, Role, TensorAnalysis, TensorInterval, cancelled_biases,
};

/// A parameter leads where its quantity is this many times the median of the others': what is common to all parameters
/// (a hard batch, a change of schedule) moves the median as well.
pub(super) const LEAD: f64 = 1.9;

/// Where the others stand out too, as they do once the loss is hurt, it leads by this factor.
const FAR_LEAD: f64 = 4.0;

/// How many suspects are told.
const TOLD: usize = 8;

/// Who stands out in an interval.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Lead {
    /// One parameter, by `ratio`, where the others have `others`.
    One {
        /// Its canonical name.
        tensor: String,
        /// Its quantity.
        ratio: f64,
        /// The median of the others'.
        others: f64,
    },
    /// All together.
    All {
        /// The median.
        ratio: f64,
    },
}

/// Who leads by a quantity that is usually 1, and is at least `limit` to stand out.
pub(super) fn lead(
    interval: &IntervalAnalysis,
    quantity: impl Fn(&TensorInterval) -> Option<f64>,
    limit: f64,
) -> Option<Lead> {
    // Gains and biases have few elements, and begin at zero: their ratios are of anything.
    let own = interval.tensors.iter().filter(|tensor| !is_vector(tensor.role));
    let own = own.filter_map(|tensor| Some((tensor, quantity(tensor)?)));
    let own: Vec<(&TensorInterval, f64)> = own.filter(|(_, ratio)| ratio.is_finite()).collect();
    let (first, ratio) = own.iter().copied().max_by(|a, b| a.1.total_cmp(&b.1))?;
    let others = median(own.iter().filter(|(tensor, _)| tensor.name != first.name).map(|(_, ratio)| *ratio));
    let others = others.unwrap_or(1.0);
    let wanted = if others >= limit { FAR_LEAD } else { LEAD };
    if ratio >= limit && ratio >= wanted * others {
        Some(Lead::One { tensor: first.canonical_name.clone(), ratio, others })
    } else {
        (others >= limit).then_some(Lead::All { ratio: others })
    }
}

/// Whether a role is that of gains or biases.
pub(super) fn is_vector(role: Role) -> bool {
    matches!(role, Role::Bias | Role::NormGain | Role::NormBias)
}

/// The parameters ranked by the side on which each stands out most, over the intervals that contain or follow `step`.
pub(super) fn rank(facts: Facts, step: Option<u64>, chosen: Option<&str>) -> Vec<Suspect> {
    let intervals = facts.analysis.intervals.iter();
    let around = intervals.filter(|one| step.is_none_or(|step| one.to_step >= step)).take(2);
    let around: Vec<&IntervalAnalysis> = around.collect();
    let shown = shown_checkpoint(facts, step);
    // What rounding does to a bias is any multiple of what it did before.
    let cancelled = cancelled_biases(&facts.analysis.intervals);
    let mut suspects: Vec<Suspect> = facts
        .parameters()
        .into_iter()
        .filter(|parameter| !cancelled.contains(parameter.canonical_name.as_str()))
        .map(|parameter| {
            let name = parameter.canonical_name.as_str();
            let of = |quantity: fn(&TensorInterval) -> Option<f64>| {
                let own = around.iter().flat_map(|one| &one.tensors).filter(|own| own.canonical_name == name);
                own.filter_map(quantity).filter(|ratio| ratio.is_finite()).reduce(f64::max)
            };
            Suspect {
                tensor: name.to_owned(),
                gradient_ratio: of(|tensor| tensor.gradient_ratio.value().copied()),
                change_ratio: of(|tensor| tensor.change_ratio.value().copied()),
                geometry_ratio: shown.and_then(|one| geometry(one, name)),
            }
        })
        .collect();
    // Stable: equal suspects stay in forward order.
    suspects.sort_by(|a, b| worst(b).total_cmp(&worst(a)));
    if let Some(index) = suspects.iter().position(|one| Some(one.tensor.as_str()) == chosen) {
        let first = suspects.remove(index);
        suspects.insert(0, first);
    }
    suspects.truncate(TOLD);
    suspects
}

/// The checkpoint whose weights are looked at: the first that has seen the onset, or the first of all.
fn shown_checkpoint(facts: Facts<'_>, step: Option<u64>) -> Option<&CheckpointAnalysis> {
    let seen = facts.checkpoints().find(|(own, _)| step.is_none_or(|step| *own >= step));
    seen.or_else(|| facts.checkpoints().next_back()).map(|(_, one)| one)
}

fn worst(suspect: &Suspect) -> f64 {
    let sides = [suspect.gradient_ratio, suspect.change_ratio, suspect.geometry_ratio];
    sides.into_iter().flatten().fold(0.0, f64::max)
}

/// How far the weights of a matrix are above those of the model's other matrices, whichever way these are usual: by
/// their elements, by their rows, or by their columns.
///
/// One of the three is what an initialisation keeps equal over layers: one standard deviation for all (GPT-2), gain
/// over fan-in (LeCun, He, torch), gain over fan-out. The smallest of the three is how far it is from all of them.
pub(super) fn geometry(checkpoint: &CheckpointAnalysis, canonical_name: &str) -> Option<f64> {
    let own = checkpoint
        .tensors
        .iter()
        .find(|tensor| tensor.canonical_name == canonical_name && is_matrix(tensor))?;
    let others: Vec<_> =
        checkpoint.tensors.iter().filter(|other| is_matrix(other) && other.name != own.name).collect();
    let ways: [fn(&[u64], u64) -> f64; 3] = [
        |_, _| 1.0,
        |shape, elements| (elements as f64 / shape[0] as f64).sqrt(),
        |shape, elements| (elements as f64 / shape[1] as f64).sqrt(),
    ];
    let ratios = ways.iter().map(|way| {
        let size = |tensor: &TensorAnalysis| Some(rms(tensor)? * way(&tensor.shape, tensor.elements));
        let usual = median(others.iter().filter_map(|other| size(other)).filter(|&size| size > 0.0))?;
        Some(size(own)? / usual)
    });
    ratios.collect::<Option<Vec<f64>>>()?.into_iter().reduce(f64::min)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::model::Measured;
    use crate::rules::test_support::{interval_tensor, run_of};

    /// A run of two intervals of a map with a bias; the gradient of the bias, `None` where the optimizer keeps no second moment, and
    /// by how much each element of it moved.
    fn cancelled(role: Role, gradients: [Option<f64>; 2], moved: f64) -> bool {
        let tensors = || {
            let mut map = ["attn.k_proj.weight", "attn.k_proj.bias"].map(interval_tensor);
            (map[0].role, map[1].role, map[1].elements) = (role, Role::Bias, 64);
            for own in &mut map {
                own.layer.path = "attn.k_proj".to_owned();
            }
            map[1].change_rms = Measured::Value(moved);
            map.to_vec()
        };
        let mut run = run_of(2, tensors);
        for (interval, gradient) in run.intervals.iter_mut().zip(gradients) {
            match gradient {
                Some(norm) => interval.tensors[1].gradient_norm = Measured::Value(norm),
                None => interval
                    .tensors
                    .iter_mut()
                    .for_each(|own| own.gradient_norm = Measured::not("no second moment")),
            }
        }
        cancelled_biases(&run.intervals).contains("attn.k_proj.bias")
    }

    #[test]
    fn the_bias_of_keys_is_cancelled_where_its_gradient_is_rounding_once() {
        // The gradient of the weight is 0.1 in both intervals: 1e-7 of it, and then, in an explosion, all of it.
        assert!(cancelled(Role::AttentionKey, [Some(1e-8), Some(0.1)], 2e-4));
        // With rotary positions it has a gradient like any other.
        assert!(!cancelled(Role::AttentionKey, [Some(2e-3), Some(2e-3)], 2e-4));
        assert!(!cancelled(Role::AttentionQuery, [Some(1e-8), Some(1e-8)], 2e-4));
    }

    #[test]
    fn without_second_moments_it_is_the_distance_that_tells() {
        // 64 elements against 4096 that moved 2e-4 each.
        assert!(cancelled(Role::AttentionKey, [None; 2], 2e-8));
        assert!(!cancelled(Role::AttentionKey, [None; 2], 2e-4));
    }
}
