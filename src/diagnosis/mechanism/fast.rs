//! Parameters that are trained by a learning rate of their own, and moved accordingly.

use std::collections::BTreeMap;

use crate::analysis::model::{CheckpointAnalysis, ParameterOptimizer};
use crate::diagnosis::facts::{Facts, is_matrix, median};

/// Learning rate over the median of all parameters' from which a parameter has one of its own: layer-wise decay and
/// heads of fine-tuned models differ by less from one group to the next.
pub(super) const OWN_RATE: f64 = 3.0;

/// Change of a matrix over that of the median matrix, from which it moved farther: under Adam all move by about their
/// learning rate a step.
pub(super) const FARTHER: f64 = 2.0;

/// Distance of the farthest over that of another with a rate of its own, up to which the two are alike.
const ALIKE: f64 = 2.0;

/// The fast ones of a run.
#[derive(Debug, Clone)]
pub(super) struct Fast {
    /// Step of the first checkpoint whose optimizer says so.
    pub step: u64,
    /// The matrices, in the optimizer's order; those that it does not name by how far they moved.
    pub matrices: Vec<Own>,
}

/// One of them.
#[derive(Debug, Clone)]
pub(super) struct Own {
    /// Its canonical name.
    pub name: String,
    /// Its learning rate over the median of all.
    pub rate: f64,
    /// Its change over that of the median matrix, in the first interval where it is measured.
    pub distance: f64,
}

/// The matrices that are trained by a rate of their own and moved farther than the others.
///
/// State that could not be joined to a tensor by name or order is joined here by shape and distance: of the matrices of
/// its shape, those that moved farthest, as many as there are of such state.
pub(super) fn parameters(facts: Facts) -> Option<Fast> {
    let distances = distances(facts);
    facts.checkpoints().find_map(|(step, checkpoint)| {
        let rated = rated(checkpoint)?;
        let mut matrices: Vec<Own> = Vec::new();
        for (parameter, rate) in rated {
            let Some(name) = name_of(checkpoint, parameter, &distances, &matrices) else { continue };
            let distance = distances.get(name).copied().unwrap_or(0.0);
            matrices.push(Own { name: name.to_owned(), rate, distance });
        }
        // Steps that turn back and forth move none of them by all that they are long.
        let farthest = matrices.iter().map(|own| own.distance).fold(0.0, f64::max);
        matrices.retain(|own| {
            own.distance >= FARTHER || (farthest >= FARTHER && own.distance * ALIKE >= farthest)
        });
        (!matrices.is_empty()).then_some(Fast { step, matrices })
    })
}

/// Change of each matrix over the median matrix's, in the first interval.
fn distances(facts: Facts<'_>) -> BTreeMap<&str, f64> {
    let matrices = facts.parameters().into_iter().filter(|tensor| is_matrix(tensor));
    let matrices: Vec<&str> = matrices.map(|tensor| tensor.canonical_name.as_str()).collect();
    let change = |name: &str| {
        let first = facts.analysis.intervals.first()?;
        first.tensors.iter().find(|own| own.canonical_name == name)?.change_rms.value().copied()
    };
    let usual = median(matrices.iter().filter_map(|name| change(name))).filter(|&usual| usual > 0.0);
    let relative = |name: &&'_ str| Some(change(name)? / usual?);
    matrices.iter().filter_map(|name| Some((*name, relative(name)?))).collect()
}

/// The parameters of at least two axes whose group's learning rate is far above the median parameter's.
fn rated(checkpoint: &CheckpointAnalysis) -> Option<Vec<(&ParameterOptimizer, f64)>> {
    let state = checkpoint.optimizer.value()?;
    let rate = |parameter: &ParameterOptimizer| {
        state
            .optimizers
            .get(parameter.optimizer as usize)?
            .groups
            .get(parameter.group as usize)?
            .learning_rate
    };
    let usual = median(state.parameters.iter().filter_map(rate)).filter(|&usual| usual > 0.0)?;
    let fast = state.parameters.iter().filter(|parameter| parameter.shape.len() >= 2);
    let fast = fast.filter_map(|parameter| Some((parameter, rate(parameter)? / usual)));
    Some(fast.filter(|(_, ratio)| *ratio >= OWN_RATE).collect())
}

fn name_of<'a>(
    checkpoint: &'a CheckpointAnalysis,
    parameter: &'a ParameterOptimizer,
    distances: &BTreeMap<&str, f64>,
    taken: &[Own],
) -> Option<&'a str> {
    let is_free = |name: &str| taken.iter().all(|own| own.name != name);
    if let Some(tensor) = &parameter.tensor {
        return Some(tensor.canonical_name.as_str()).filter(|name| is_free(name));
    }
    let alike =
        checkpoint.tensors.iter().filter(|tensor| is_matrix(tensor) && tensor.shape == parameter.shape);
    let alike = alike.filter(|tensor| is_free(&tensor.canonical_name));
    let farthest = alike.max_by(|a, b| {
        let distance = |name: &str| distances.get(name).copied().unwrap_or(0.0);
        distance(&a.canonical_name).total_cmp(&distance(&b.canonical_name))
    })?;
    Some(farthest.canonical_name.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::model::{Measured, Role};
    use crate::rules::Assessment;
    use crate::rules::test_support::{checkpoint, interval_tensor, moments, run_of, tensor};

    /// The fast matrices of eight of one shape, by how far each moves as against 1; the state of the first `fast` of the optimizer has
    /// ten times the rate of the others, and is joined to no tensor.
    fn fast(moved: [f64; 8], fast: usize) -> Vec<String> {
        let names: Vec<String> = (0..8).map(|at| format!("h.{at}.weight")).collect();
        let tensors = || {
            let own = names.iter().zip(moved).map(|(name, moved)| {
                let mut own = interval_tensor(name);
                own.change_rms = Measured::Value(moved);
                own
            });
            own.collect()
        };
        let mut run = run_of(1, tensors);
        for (one, step) in run.checkpoints.iter_mut().zip([0, 100]) {
            let model = names.iter().map(|name| tensor(name, Role::Linear, &[64, 64])).collect();
            let mut index = 0;
            *one = checkpoint(model).at_step(step).with_moments(
                names.iter().map(|name| moments(name)).collect(),
                |_, state| {
                    state.tensor = None;
                    state.group = u64::from(index < fast);
                    index += 1;
                },
            );
            if let Measured::Value(state) = &mut one.optimizer {
                let slow = state.optimizers[0].groups[0].clone();
                let mut own = slow.clone();
                own.learning_rate = slow.learning_rate.map(|rate| 10.0 * rate);
                state.optimizers[0].groups = vec![slow, own];
            }
        }
        let facts = Facts { analysis: &run, assessment: &Assessment::default() };
        let found = parameters(facts).map_or_else(Vec::new, |fast| fast.matrices);
        found.into_iter().map(|own| own.name).collect()
    }

    #[test]
    fn as_many_matrices_are_fast_as_the_optimizer_says_and_those_that_moved_alike() {
        let one = ["h.2.weight"].map(str::to_owned);
        assert_eq!(fast([1.0, 1.0, 5.0, 1.0, 1.0, 1.0, 1.0, 1.0], 1), one);
        let three = ["h.2.weight", "h.5.weight", "h.1.weight"].map(str::to_owned);
        assert_eq!(fast([1.0, 2.5, 4.0, 1.0, 1.0, 3.0, 1.0, 1.0], 3), three);
        // The third moved as slowly as those of the other group.
        assert_eq!(fast([1.0, 1.0, 4.0, 1.0, 1.0, 3.0, 1.0, 1.0], 3), three[..2]);
        assert!(fast([1.0; 8], 3).is_empty());
    }
}
