//! States that lie under one another's parameters.

use super::super::{MappingSource, Misplaced, OptimizerState, exchanged};
use super::{Candidates, Joined, decay_halves, known, parameters_of};

/// One state in so many may lie elsewhere than the order of parameters says. Where more do, it is the order that is another.
const FEW_MISPLACED: usize = 8;

/// The states whose shapes are those of one another's parameters, by names or, where one group has a state for each parameter of the
/// model in its order, by that order. There, an optimizer may have been given its parameters in another order: then most places differ, and
/// nothing is told.
pub(super) fn misplaced(
    optimizer: &OptimizerState,
    joined: &Joined,
    shapes: &[Option<Vec<u64>>],
    candidates: &mut Candidates<'_>,
) -> Misplaced {
    let by_name = matches!(joined.source, MappingSource::ParamNames | MappingSource::Fqn);
    let is_whole = candidates.in_order
        && optimizer.groups.len() == 1
        && shapes.len() == candidates.list.len()
        && shapes.iter().all(Option::is_some);
    let owners: Vec<Option<usize>> = match (by_name, is_whole) {
        (true, _) => joined.pairs.clone(),
        (false, true) => (0..shapes.len()).map(Some).collect(),
        (false, false) if joined.source == MappingSource::SoleShapes => {
            return exchanged_states(optimizer, shapes, candidates).unwrap_or_default();
        }
        (false, false) => return Misplaced::default(),
    };
    let mut states = Vec::new();
    let (mut wanted, mut kept) = (Vec::new(), Vec::new());
    for (owner, shape) in owners.iter().zip(shapes) {
        let (Some(owner), Some(shape)) = (owner, shape) else { continue };
        let candidate = &candidates.list[*owner];
        if candidate.shape != *shape {
            wanted.push(&candidate.shape);
            kept.push(shape);
            states.push((candidate.index, shape.clone()));
        }
    }
    wanted.sort_unstable();
    kept.sort_unstable();
    let is_few = states.len() * FEW_MISPLACED <= shapes.len();
    if wanted == kept && (by_name || is_few) { Misplaced { states, by_name } } else { Misplaced::default() }
}

/// Two states of an optimizer of all parameters of the model, for which no order of these stands unless the two are exchanged.
fn exchanged_states(
    optimizer: &OptimizerState,
    shapes: &[Option<Vec<u64>>],
    candidates: &mut Candidates<'_>,
) -> Option<Misplaced> {
    let is_whole = shapes.len() == candidates.list.len() && shapes.iter().all(Option::is_some);
    if candidates.in_order || !is_whole || !candidates.effort.allows(shapes.len()) {
        return None;
    }
    let (parameters, wanted) = if optimizer.groups.len() == 1 {
        let sequences = vec![0; shapes.len()];
        (parameters_of(candidates.list, &sequences), [known(shapes), Vec::new()])
    } else {
        let halves = decay_halves(optimizer, shapes, candidates.list)?;
        (parameters_of(candidates.list, &halves.sequences), halves.shapes.map(known))
    };
    let two = exchanged::find(&parameters, &wanted, &mut candidates.effort.states)?;
    let state = |one: exchanged::Exchanged| {
        let kept = wanted[one.sequence][one.place]?.to_vec();
        Some((candidates.list[one.parameter].index, kept))
    };
    let states = two.into_iter().map(state).collect::<Option<_>>()?;
    Some(Misplaced { states, by_name: false })
}
