//! Joining an optimizer's parameters to the model's tensors.
//!
//! torch numbers parameters in the order in which they were given to the optimizer. In order of trust: names in the
//! groups; names as keys; the order in which frameworks hand parameters over, held against the shapes of the moments;
//! shapes that occur once. A parameter that more than one tensor may be is refused: a finding must not name a wrong
//! tensor. Two checkpoints can confirm a mapping by cos(Δw, −m/√v).
//!
//! Orders. `model.parameters()` in one group; or the Hugging Face Trainer's and nanoGPT's two groups, decay and no
//! decay, each in the order of `named_parameters()`. A torch file keeps that order; a safetensors file is sorted by
//! name, so that the order must be found again ([`registration`](super::registration)).

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::registration::{self, Parameter};
use super::{Mapping, MappingSource, OptimizerState};

/// A tensor of the model that an optimizer may hold the state of.
#[derive(Debug, Clone)]
pub(in crate::checkpoint) struct Candidate {
    /// Its index among the checkpoint's tensors.
    pub index: usize,
    /// Its name as stored, and its canonical name.
    pub names: [String; 2],
    /// Its shape.
    pub shape: Vec<u64>,
}

/// What the parameters turned out to be, and why not.
struct Joined {
    source: MappingSource,
    /// For each parameter, the candidate.
    pairs: Vec<Option<usize>>,
    reason: Option<&'static str>,
}

/// Joins the parameters of `optimizer` to `candidates`. `shapes` are those of each parameter's moments, where it has
/// any; `in_order` says whether the candidates stand in the order in which modules register them.
pub(in crate::checkpoint) fn map(
    optimizer: &mut OptimizerState,
    shapes: &[Option<Vec<u64>>],
    candidates: &[Candidate],
    in_order: bool,
) {
    if candidates.is_empty() {
        return;
    }
    let mut joined =
        by_name(optimizer, candidates).unwrap_or_else(|| by_order(optimizer, shapes, candidates, in_order));
    drop_contradictions(&mut joined, shapes, candidates);
    let refused = joined.pairs.iter().filter(|pair| pair.is_none()).count();
    if joined.pairs.iter().all(Option::is_none) {
        joined.source = MappingSource::Refused;
    }
    for (parameter, pair) in optimizer.parameters.iter_mut().zip(&joined.pairs) {
        parameter.parameter = pair.map(|candidate| candidates[candidate].index);
    }
    let confirmed = joined.pairs.iter().zip(shapes).any(|(pair, shape)| pair.is_some() && shape.is_some());
    optimizer.mapping = Mapping {
        source: joined.source,
        confirmed_by_shapes: confirmed,
        refused: refused as u64,
        reason: joined.reason.filter(|_| refused > 0).map(str::to_owned),
    };
}

/// A parameter is never joined to a tensor of another shape, nor are two to one.
fn drop_contradictions(joined: &mut Joined, shapes: &[Option<Vec<u64>>], candidates: &[Candidate]) {
    let mut claims = BTreeMap::new();
    for &candidate in joined.pairs.iter().flatten() {
        *claims.entry(candidate).or_insert(0) += 1;
    }
    for (pair, shape) in joined.pairs.iter_mut().zip(shapes) {
        let Some(candidate) = *pair else { continue };
        let fits = shape.as_ref().is_none_or(|shape| *shape == candidates[candidate].shape);
        if !fits || claims[&candidate] > 1 {
            *pair = None;
            joined.reason =
                Some("the moments have another shape than the tensor of that name, or two claim one tensor");
        }
    }
}

/// By the names that groups or keys give; `None` where they give none.
fn by_name(optimizer: &OptimizerState, candidates: &[Candidate]) -> Option<Joined> {
    if !optimizer.parameters.iter().any(|parameter| parameter.name.is_some()) {
        return None;
    }
    let mut index: HashMap<&str, usize> = HashMap::new();
    for (position, candidate) in candidates.iter().enumerate() {
        for name in &candidate.names {
            index.entry(name).or_insert(position);
        }
    }
    let keys_are_names =
        optimizer.parameters.iter().all(|parameter| parameter.name.as_ref() == Some(&parameter.key));
    let find = |name: &str| suffixes(name).find_map(|suffix| index.get(suffix).copied());
    Some(Joined {
        source: if keys_are_names { MappingSource::Fqn } else { MappingSource::ParamNames },
        pairs: optimizer.parameters.iter().map(|parameter| find(parameter.name.as_deref()?)).collect(),
        reason: Some("the model has no tensor of that name"),
    })
}

/// A name without its first components, as wrappers put them before it: `module.model.fc.weight`, `model.fc.weight`, …
fn suffixes(name: &str) -> impl Iterator<Item = &str> {
    const DEEPEST: usize = 8;
    std::iter::successors(Some(name), |name| name.split_once('.').map(|(_, rest)| rest)).take(DEEPEST)
}

fn by_order(
    optimizer: &OptimizerState,
    shapes: &[Option<Vec<u64>>],
    candidates: &[Candidate],
    in_order: bool,
) -> Joined {
    if shapes.iter().all(Option::is_none) {
        return Joined {
            source: MappingSource::Refused,
            pairs: vec![None; shapes.len()],
            reason: Some("no parameter has state whose shape could be compared"),
        };
    }
    let source = if optimizer.groups.len() > 1 {
        MappingSource::FrameworkOrder
    } else {
        MappingSource::NamedParametersOrder
    };
    let mut pairs = vec![None; shapes.len()];
    let mut start = 0;
    for group in &optimizer.groups {
        let end = start + group.parameters as usize;
        let found = one_group(&shapes[start..end], candidates, in_order);
        pairs[start..end].copy_from_slice(&found);
        start = end;
    }
    if pairs.iter().any(Option::is_some) {
        let reason =
            Some("several tensors of the same shape may stand in its place, and the groups list no names");
        return Joined { source, pairs, reason };
    }
    let reason = Some(
        "the order of its parameters is not known, several have the same shape, and the groups list no names",
    );
    Joined { source: MappingSource::SoleShapes, pairs: by_sole_shapes(shapes, candidates), reason }
}

/// The candidates of one group's parameters. Ranks of shapes tell which candidates can be in it at all.
fn one_group(shapes: &[Option<Vec<u64>>], candidates: &[Candidate], in_order: bool) -> Vec<Option<usize>> {
    let is_matrix = |shape: &Vec<u64>| shape.len() >= 2;
    let ranks: BTreeSet<bool> = shapes.iter().flatten().map(is_matrix).collect();
    let eligible: Vec<usize> =
        (0..candidates.len()).filter(|&index| ranks.contains(&is_matrix(&candidates[index].shape))).collect();
    let wanted: Vec<Option<&[u64]>> = shapes.iter().map(Option::as_deref).collect();
    let found = if in_order {
        embed(&wanted, &eligible.iter().map(|&index| candidates[index].shape.as_slice()).collect::<Vec<_>>())
    } else {
        arrange(&wanted, &eligible, candidates)
    };
    found.into_iter().map(|pair| pair.map(|position: usize| eligible[position])).collect()
}

/// Where each wanted shape stands in `all`, in order and with omissions (buffers, frozen parameters), where only one
/// place is possible: the first place from the front is also the first from the back.
fn embed(wanted: &[Option<&[u64]>], all: &[&[u64]]) -> Vec<Option<usize>> {
    let fits = |wanted: Option<&[u64]>, shape: &[u64]| wanted.is_none_or(|wanted| wanted == shape);
    let mut from_front = Vec::with_capacity(wanted.len());
    let mut next = 0;
    for &shape in wanted {
        match (next..all.len()).find(|&place| fits(shape, all[place])) {
            Some(place) => {
                from_front.push(place);
                next = place + 1;
            }
            None => return vec![None; wanted.len()],
        }
    }
    let mut pairs = vec![None; wanted.len()];
    let mut end = all.len();
    for (index, &shape) in wanted.iter().enumerate().rev() {
        let place = (0..end).rev().find(|&place| fits(shape, all[place]));
        end = place.expect("an order that can be laid from the front can be laid from the back");
        pairs[index] = (from_front[index] == end).then_some(end);
    }
    pairs
}

/// The one parameter that every order of registration puts at each place.
fn arrange(wanted: &[Option<&[u64]>], eligible: &[usize], candidates: &[Candidate]) -> Vec<Option<usize>> {
    let parameters: Vec<Parameter<'_>> = eligible
        .iter()
        .map(|&index| Parameter { name: &candidates[index].names[1], shape: &candidates[index].shape })
        .collect();
    let Some(possible) = registration::arrangements(&parameters, wanted) else {
        return vec![None; wanted.len()];
    };
    possible.into_iter().map(|set| if set.len() == 1 { set.first().copied() } else { None }).collect()
}

/// Pairs of the shapes that occur once on either side.
fn by_sole_shapes(shapes: &[Option<Vec<u64>>], candidates: &[Candidate]) -> Vec<Option<usize>> {
    let mut of_parameters: HashMap<&[u64], usize> = HashMap::new();
    for shape in shapes.iter().flatten() {
        *of_parameters.entry(shape).or_default() += 1;
    }
    let mut of_candidates: HashMap<&[u64], Vec<usize>> = HashMap::new();
    for (index, candidate) in candidates.iter().enumerate() {
        of_candidates.entry(&candidate.shape).or_default().push(index);
    }
    let sole = |shape: &[u64]| match of_candidates.get(shape).map(Vec::as_slice) {
        Some(&[only]) if of_parameters[shape] == 1 => Some(only),
        _ => None,
    };
    shapes.iter().map(|shape| sole(shape.as_deref()?)).collect()
}
