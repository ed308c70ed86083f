//! Joining an optimizer's parameters to the model's tensors.
//!
//! torch numbers parameters in the order in which they were given to the optimizer. In order of trust: names in the
//! groups; names as keys; the order in which frameworks hand parameters over, held against the shapes of the moments;
//! shapes that occur once. A parameter that more than one tensor may be is refused: a finding must not name a wrong
//! tensor. Two checkpoints can confirm a mapping by cos(Δw, −m/√v).
//!
//! An optimizer may be given parts of a model in another order than the model has them: `[*decoder, *encoder]`. Where the
//! shapes are then the same, nothing in the file tells, and the mapping is not confirmed by shapes.
//!
//! Orders. `model.parameters()` in one group; or the Hugging Face Trainer's and nanoGPT's two groups, decay and no
//! decay, each in the order of `named_parameters()`. A torch file keeps that order; a safetensors file is sorted by
//! name, so that the order must be found again ([`registration`](super::registration)).

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::registration::{self, Parameter};
use super::{Mapping, MappingSource, OptimizerState};

mod misplaced;

use self::misplaced::misplaced;

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

/// All of them, as every optimizer of the checkpoint asks for them, and how much may still be searched.
pub(in crate::checkpoint) struct Candidates<'a> {
    list: &'a [Candidate],
    /// Whether they stand in the order in which modules register them.
    in_order: bool,
    by_name: HashMap<&'a str, usize>,
    by_shape: HashMap<&'a [u64], Vec<usize>>,
    vectors: Vec<usize>,
    matrices: Vec<usize>,
    effort: Effort,
}

/// What the optimizers of a checkpoint may cost together: a hostile one has a hundred thousand groups of all tensors.
struct Effort {
    /// Candidates that may be looked at.
    looks: u64,
    /// States of searches for an order of registration.
    states: usize,
}

/// A model of 100,000 tensors in 400 groups; a hundred models of a thousand in as many.
const MAX_LOOKS: u64 = 40_000_000;

impl Effort {
    /// Whether `count` candidates may be looked at.
    fn allows(&mut self, count: usize) -> bool {
        let left = self.looks.checked_sub(count as u64);
        self.looks = left.unwrap_or(0);
        left.is_some()
    }
}

impl<'a> Candidates<'a> {
    pub(in crate::checkpoint) fn new(list: &'a [Candidate], in_order: bool) -> Self {
        let mut by_name: HashMap<&str, usize> = HashMap::new();
        let mut by_shape: HashMap<&[u64], Vec<usize>> = HashMap::new();
        for (position, candidate) in list.iter().enumerate() {
            for name in &candidate.names {
                by_name.entry(name).or_insert(position);
            }
            by_shape.entry(&candidate.shape).or_default().push(position);
        }
        let (matrices, vectors) = (0..list.len()).partition(|&position| is_matrix(&list[position].shape));
        let effort = Effort { looks: MAX_LOOKS, states: registration::MAX_STATES };
        Self { list, in_order, by_name, by_shape, vectors, matrices, effort }
    }
}

fn is_matrix(shape: &[u64]) -> bool {
    shape.len() >= 2
}

/// What the parameters turned out to be, and why not.
struct Joined {
    source: MappingSource,
    /// For each parameter, the candidate.
    pairs: Vec<Option<usize>>,
    reason: Option<&'static str>,
}

/// Joins the parameters of `optimizer` to `candidates`. `shapes` are those of each parameter's moments, where it has any.
pub(in crate::checkpoint) fn map(
    optimizer: &mut OptimizerState,
    shapes: &[Option<Vec<u64>>],
    candidates: &mut Candidates<'_>,
) {
    if candidates.list.is_empty() {
        return;
    }
    let mut joined =
        by_name(optimizer, candidates).unwrap_or_else(|| by_order(optimizer, shapes, candidates));
    optimizer.misplaced = misplaced(optimizer, &joined, shapes, candidates);
    drop_contradictions(&mut joined, shapes, candidates.list);
    let refused = joined.pairs.iter().filter(|pair| pair.is_none()).count();
    if joined.pairs.iter().all(Option::is_none) {
        joined.source = MappingSource::Refused;
    }
    for (parameter, pair) in optimizer.parameters.iter_mut().zip(&joined.pairs) {
        parameter.parameter = pair.map(|candidate| candidates.list[candidate].index);
    }
    let compared = joined.pairs.iter().zip(shapes).any(|(pair, shape)| pair.is_some() && shape.is_some());
    optimizer.mapping = Mapping {
        source: joined.source,
        confirmed_by_shapes: compared && !could_be_otherwise(optimizer, &joined, shapes, candidates),
        refused: refused as u64,
        reason: joined.reason.filter(|_| refused > 0).map(str::to_owned),
    };
}

/// Whether the optimizer may have been given parts of the model in another order, and its shapes would be the same.
fn could_be_otherwise(
    optimizer: &OptimizerState,
    joined: &Joined,
    shapes: &[Option<Vec<u64>>],
    candidates: &mut Candidates<'_>,
) -> bool {
    let by_order = [MappingSource::FrameworkOrder, MappingSource::NamedParametersOrder];
    // What is found again in a sorted file was held against every order.
    if !by_order.contains(&joined.source) || !candidates.in_order {
        return false;
    }
    let mut start = 0;
    optimizer.groups.iter().any(|group| {
        let group = start..start + group.parameters as usize;
        start = group.end;
        let pairs = group.filter_map(|place| Some((place, joined.pairs[place]?)));
        let (places, pairs): (Vec<usize>, Vec<usize>) = pairs.unzip();
        let list = candidates.list;
        let parameter =
            |&pair: &usize| Parameter { name: &list[pair].names[1], shape: &list[pair].shape, sequence: 0 };
        let parameters: Vec<Parameter<'_>> = pairs.iter().map(parameter).collect();
        let wanted: Vec<Option<&[u64]>> = places.iter().map(|&place| shapes[place].as_deref()).collect();
        !candidates.effort.allows(parameters.len())
            || !registration::is_the_only_order(&parameters, &wanted, &mut candidates.effort.states)
    })
}

fn known(shapes: &[Option<Vec<u64>>]) -> Vec<Option<&[u64]>> {
    shapes.iter().map(Option::as_deref).collect()
}

fn parameters_of<'a>(list: &'a [Candidate], sequences: &[usize]) -> Vec<Parameter<'a>> {
    let parameter = |(candidate, &sequence): (&'a Candidate, &usize)| Parameter {
        name: &candidate.names[1],
        shape: &candidate.shape,
        sequence,
    };
    list.iter().zip(sequences).map(parameter).collect()
}

/// Two groups, one of all matrices and the other of all the rest.
struct Halves<'a> {
    /// In which of the two each candidate is.
    sequences: Vec<usize>,
    /// Shapes of both.
    shapes: [&'a [Option<Vec<u64>>]; 2],
}

/// The two groups, where they are such.
fn decay_halves<'a>(
    optimizer: &OptimizerState,
    shapes: &'a [Option<Vec<u64>>],
    list: &[Candidate],
) -> Option<Halves<'a>> {
    let [first, _] = optimizer.groups.as_slice() else { return None };
    let halves = shapes.split_at_checked(first.parameters as usize)?;
    let rank = |half: &[Option<Vec<u64>>]| {
        let ranks: BTreeSet<bool> = half.iter().flatten().map(|shape| is_matrix(shape)).collect();
        if ranks.len() == 1 { ranks.first().copied() } else { None }
    };
    let of_first = rank(halves.0).filter(|&first| rank(halves.1) == Some(!first))?;
    let sequences =
        list.iter().map(|candidate| usize::from(is_matrix(&candidate.shape) != of_first)).collect();
    Some(Halves { sequences, shapes: [halves.0, halves.1] })
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
fn by_name(optimizer: &OptimizerState, candidates: &Candidates<'_>) -> Option<Joined> {
    if !optimizer.parameters.iter().any(|parameter| parameter.name.is_some()) {
        return None;
    }
    let keys_are_names =
        optimizer.parameters.iter().all(|parameter| parameter.name.as_ref() == Some(&parameter.key));
    let find = |name: &str| suffixes(name).find_map(|suffix| candidates.by_name.get(suffix).copied());
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
    candidates: &mut Candidates<'_>,
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
    let pairs = decay_and_no_decay(optimizer, shapes, candidates)
        .unwrap_or_else(|| group_by_group(optimizer, shapes, candidates));
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

fn group_by_group(
    optimizer: &OptimizerState,
    shapes: &[Option<Vec<u64>>],
    candidates: &mut Candidates<'_>,
) -> Vec<Option<usize>> {
    let mut pairs = vec![None; shapes.len()];
    let mut start = 0;
    for group in &optimizer.groups {
        let end = start + group.parameters as usize;
        let found = one_group(&shapes[start..end], candidates);
        pairs[start..end].copy_from_slice(&found);
        start = end;
    }
    pairs
}

/// The candidates of two groups, one of all matrices and the other of all the rest, as a walk over the modules fills both: what
/// one tells of the order of modules holds for the other. `None` where the groups are not such, or the order is known anyway.
fn decay_and_no_decay(
    optimizer: &OptimizerState,
    shapes: &[Option<Vec<u64>>],
    candidates: &mut Candidates<'_>,
) -> Option<Vec<Option<usize>>> {
    if candidates.in_order || shapes.len() != candidates.list.len() || !candidates.effort.allows(shapes.len())
    {
        return None;
    }
    let halves = decay_halves(optimizer, shapes, candidates.list)?;
    let parameters = parameters_of(candidates.list, &halves.sequences);
    let wanted = halves.shapes.map(known);
    let possible =
        registration::arrangements(&parameters, [&wanted[0], &wanted[1]], &mut candidates.effort.states)?;
    Some(possible.into_iter().flatten().map(|set| sole(&set)).collect())
}

/// The only one of a set.
fn sole(set: &BTreeSet<usize>) -> Option<usize> {
    if set.len() == 1 { set.first().copied() } else { None }
}

/// The candidates of one group's parameters. Ranks of shapes tell which candidates can be in it at all.
fn one_group(shapes: &[Option<Vec<u64>>], candidates: &mut Candidates<'_>) -> Vec<Option<usize>> {
    let Candidates { list, in_order, ref vectors, ref matrices, ref mut effort, .. } = *candidates;
    let ranks: BTreeSet<bool> = shapes.iter().flatten().map(|shape| is_matrix(shape)).collect();
    let of = |wanted: bool, positions: &Vec<usize>| {
        if ranks.contains(&wanted) { positions.clone() } else { Vec::new() }
    };
    if !effort.allows(vectors.len() + matrices.len()) {
        return vec![None; shapes.len()];
    }
    let mut eligible = of(false, vectors);
    eligible.extend(of(true, matrices));
    eligible.sort_unstable();
    let wanted: Vec<Option<&[u64]>> = shapes.iter().map(Option::as_deref).collect();
    let found = if in_order {
        embed(&wanted, &eligible.iter().map(|&index| list[index].shape.as_slice()).collect::<Vec<_>>())
    } else {
        arrange(&wanted, &eligible, list, &mut effort.states)
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
fn arrange(
    wanted: &[Option<&[u64]>],
    eligible: &[usize],
    candidates: &[Candidate],
    states: &mut usize,
) -> Vec<Option<usize>> {
    if wanted.len() != eligible.len() {
        return vec![None; wanted.len()];
    }
    let parameters: Vec<Parameter<'_>> = eligible
        .iter()
        .map(|&index| Parameter {
            name: &candidates[index].names[1],
            shape: &candidates[index].shape,
            sequence: 0,
        })
        .collect();
    let Some([possible, _]) = registration::arrangements(&parameters, [wanted, &[]], states) else {
        return vec![None; wanted.len()];
    };
    possible.iter().map(sole).collect()
}

/// Pairs of the shapes that occur once on either side.
fn by_sole_shapes(shapes: &[Option<Vec<u64>>], candidates: &Candidates<'_>) -> Vec<Option<usize>> {
    let mut of_parameters: HashMap<&[u64], usize> = HashMap::new();
    for shape in shapes.iter().flatten() {
        *of_parameters.entry(shape).or_default() += 1;
    }
    let sole = |shape: &[u64]| match candidates.by_shape.get(shape).map(Vec::as_slice) {
        Some(&[only]) if of_parameters[shape] == 1 => Some(only),
        _ => None,
    };
    shapes.iter().map(|shape| sole(shape.as_deref()?)).collect()
}

#[cfg(test)]
mod tests {
    use super::super::{Algorithm, Misplaced, ParameterGroup, ParameterState};
    use super::*;

    /// One optimizer of `shapes` in one group, joined to tensors that stand in the order of their modules.
    fn joined(names: &[(&str, &[u64])], shapes: &[&[u64]]) -> (Mapping, Vec<Option<usize>>) {
        let optimizer = mapped(names, shapes);
        let pairs = optimizer.parameters.iter().map(|parameter| parameter.parameter).collect();
        (optimizer.mapping, pairs)
    }

    fn misplaced_of(names: &[(&str, &[u64])], shapes: &[&[u64]]) -> Misplaced {
        mapped(names, shapes).misplaced
    }

    fn mapped(names: &[(&str, &[u64])], shapes: &[&[u64]]) -> OptimizerState {
        let list: Vec<Candidate> = names
            .iter()
            .enumerate()
            .map(|(index, (name, shape))| Candidate {
                index,
                names: [(*name).to_owned(), (*name).to_owned()],
                shape: shape.to_vec(),
            })
            .collect();
        let parameters: Vec<_> =
            shapes.iter().map(|_| ParameterState { stored: true, ..Default::default() }).collect();
        let mut optimizer = OptimizerState {
            place: "x.pt".to_owned(),
            algorithm: Algorithm::AdamW,
            groups: vec![ParameterGroup { parameters: shapes.len() as u64, ..Default::default() }],
            mapping: Mapping::refused(parameters.len(), "not yet"),
            parameters,
            misplaced: Misplaced::default(),
            scheduled: None,
            file: 0,
            orphans: Vec::new(),
            hyperparameters: Vec::new(),
        };
        let shapes: Vec<_> = shapes.iter().map(|shape| Some(shape.to_vec())).collect();
        map(&mut optimizer, &shapes, &mut Candidates::new(&list, true));
        optimizer
    }

    const SQUARE: &[u64] = &[4, 4];
    const ROW: &[u64] = &[4];

    #[test]
    fn parts_that_could_change_places_unseen_are_not_confirmed_by_shapes() {
        let names = [
            ("encoder.weight", SQUARE),
            ("encoder.bias", ROW),
            ("decoder.weight", SQUARE),
            ("decoder.bias", ROW),
        ];
        let (mapping, pairs) = joined(&names, &[SQUARE, ROW, SQUARE, ROW]);
        assert_eq!(pairs, [Some(0), Some(1), Some(2), Some(3)], "the assumed order is still told");
        assert_eq!(mapping.source, MappingSource::NamedParametersOrder);
        assert!(!mapping.confirmed_by_shapes);
        // One more parameter in one of them tells which is which.
        let names = [("encoder.weight", SQUARE), ("encoder.bias", ROW), ("decoder.weight", SQUARE)];
        assert!(joined(&names, &[SQUARE, ROW, SQUARE]).0.confirmed_by_shapes);
    }

    #[test]
    fn layers_of_a_stack_that_repeat_stay_confirmed() {
        let mut names: Vec<(String, &[u64])> = vec![("model.embed_tokens.weight".to_owned(), &[9, 4])];
        for layer in 0..12 {
            for part in ["self_attn.wq", "self_attn.wk", "self_attn.wv", "mlp.up", "mlp.down"] {
                names.push((format!("model.layers.{layer}.{part}.weight"), SQUARE));
            }
            names.push((format!("model.layers.{layer}.input_layernorm.weight"), ROW));
        }
        names.push(("model.norm.weight".to_owned(), ROW));
        names.push(("lm_head.weight".to_owned(), &[9, 4]));
        let names: Vec<(&str, &[u64])> = names.iter().map(|(name, shape)| (name.as_str(), *shape)).collect();
        let shapes: Vec<&[u64]> = names.iter().map(|(_, shape)| *shape).collect();
        let (mapping, pairs) = joined(&names, &shapes);
        assert!(pairs.iter().all(Option::is_some));
        assert!(mapping.confirmed_by_shapes);
    }

    #[test]
    fn two_states_under_one_anothers_parameters_are_told_and_another_order_is_not() {
        let mut names: Vec<(String, &[u64])> = Vec::new();
        for layer in 0..8 {
            names.push((format!("layers.{layer}.fc.weight"), SQUARE));
            names.push((format!("layers.{layer}.fc.bias"), ROW));
        }
        names.push(("head.weight".to_owned(), &[9, 4]));
        let names: Vec<(&str, &[u64])> = names.iter().map(|(name, shape)| (name.as_str(), *shape)).collect();
        let states = |shapes: &[&[u64]]| misplaced_of(&names, shapes).states;
        let shapes: Vec<&[u64]> = names.iter().map(|(_, shape)| *shape).collect();
        assert!(states(&shapes).is_empty());
        let mut swapped = shapes.clone();
        swapped.swap(3, 6);
        assert_eq!(states(&swapped), [(3, SQUARE.to_vec()), (6, ROW.to_vec())]);
        let mut head_first = shapes.clone();
        head_first.rotate_right(1);
        assert!(states(&head_first).is_empty(), "an optimizer that was given its head first");
        let mut foreign = shapes.clone();
        foreign[3] = &[7];
        assert!(states(&foreign).is_empty(), "a shape that no parameter has is told by another rule");
    }

    #[test]
    fn siblings_that_count_stay_in_their_order() {
        let names = [("fc1.weight", SQUARE), ("fc1.bias", ROW), ("fc2.weight", SQUARE), ("fc2.bias", ROW)];
        assert!(joined(&names, &[SQUARE, ROW, SQUARE, ROW]).0.confirmed_by_shapes);
    }
}
