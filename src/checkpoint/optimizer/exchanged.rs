//! Two states that lie under one another's parameters, found where names do not say whose they are and the file does not keep the order of
//! the parameters.
//!
//! Against some sequences of shapes no order of registration stands. Where all of one up to a place can stand, and all from another place
//! on, and with the shapes of these two places exchanged the whole can, two states have changed places.

use super::registration::{self, Parameter};

/// A place in one of the two sequences of shapes, and the parameter whose state should lie there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Exchanged {
    pub sequence: usize,
    pub place: usize,
    pub parameter: usize,
}

/// Two sequences of known shapes, the second empty where all parameters stand in one.
type Sequences<'a> = [Vec<Option<&'a [u64]>>; 2];

/// The two places, in their order; `None` where an order stands, where two states alone do not explain that none does, and where the search
/// was too long.
pub(super) fn find(
    parameters: &[Parameter<'_>],
    wanted: &Sequences<'_>,
    states: &mut usize,
) -> Option<[Exchanged; 2]> {
    if stands(parameters, wanted, states)? {
        return None;
    }
    for sequence in 0..2 {
        let Breaks::At(first, last) = breaks(parameters, wanted, sequence, states)? else { continue };
        let mut exchanged = wanted.clone();
        exchanged[sequence].swap(first, last);
        let sets = registration::arrangements(parameters, [&exchanged[0], &exchanged[1]], states)?;
        let at = |place: usize| match sets[sequence][place].iter().collect::<Vec<_>>()[..] {
            [&parameter] => Some(Exchanged { sequence, place, parameter }),
            _ => None,
        };
        if let (Some(first), Some(last)) = (at(first), at(last)) {
            return Some([first, last]);
        }
    }
    None
}

/// Whether some order of registration stands against the shapes.
fn stands(parameters: &[Parameter<'_>], wanted: &Sequences<'_>, states: &mut usize) -> Option<bool> {
    let sets = registration::arrangements(parameters, [&wanted[0], &wanted[1]], states)?;
    Some(sets.iter().flatten().any(|set| !set.is_empty()))
}

/// Where a sequence has its fault.
enum Breaks {
    /// The first place up to which, and the last from which on, no order stands.
    At(usize, usize),
    /// Not in this sequence alone, or not between two shapes.
    Elsewhere,
}

/// Where no order stands any more; `None` where the search was too long.
fn breaks(
    parameters: &[Parameter<'_>],
    wanted: &Sequences<'_>,
    sequence: usize,
    states: &mut usize,
) -> Option<Breaks> {
    let length = wanted[sequence].len();
    let mut with = |kept: std::ops::Range<usize>| {
        let mut masked = wanted.clone();
        for (place, shape) in masked[sequence].iter_mut().enumerate() {
            *shape = shape.filter(|_| kept.contains(&place));
        }
        stands(parameters, &masked, states)
    };
    if length == 0 || !with(0..0)? {
        return Some(Breaks::Elsewhere);
    }
    let (mut fits, mut fails) = (0, length);
    while fails - fits > 1 {
        let middle = usize::midpoint(fits, fails);
        if with(0..middle)? { fits = middle } else { fails = middle }
    }
    let first = fits;
    let (mut fails, mut fits) = (0, length);
    while fits - fails > 1 {
        let middle = usize::midpoint(fails, fits);
        if with(middle..length)? { fits = middle } else { fails = middle }
    }
    let last = fails;
    let are_two = first < last && wanted[sequence][first] != wanted[sequence][last];
    Some(if are_two { Breaks::At(first, last) } else { Breaks::Elsewhere })
}

#[cfg(test)]
mod tests {
    use super::*;

    type Shape = (String, Vec<u64>);

    const STATES: usize = 100_000;

    /// A LLaMA: its parameters in the order of a sorted file, and the shapes of its matrices and of its gains in that of its modules.
    fn llama(layers: usize) -> (Vec<Shape>, [Vec<Vec<u64>>; 2]) {
        let parts: [(&str, &[u64]); 9] = [
            ("self_attn.q_proj", &[64, 64]),
            ("self_attn.k_proj", &[32, 64]),
            ("self_attn.v_proj", &[32, 64]),
            ("self_attn.o_proj", &[64, 64]),
            ("mlp.gate_proj", &[128, 64]),
            ("mlp.up_proj", &[128, 64]),
            ("mlp.down_proj", &[64, 128]),
            ("input_layernorm", &[64]),
            ("post_attention_layernorm", &[64]),
        ];
        let mut walked = vec![("model.embed_tokens.weight".to_owned(), vec![200, 64])];
        for layer in 0..layers {
            let named = |(part, shape): (&str, &[u64])| {
                (format!("model.layers.{layer}.{part}.weight"), shape.to_vec())
            };
            walked.extend(parts.map(named));
        }
        walked.push(("model.norm.weight".to_owned(), vec![64]));
        walked.push(("lm_head.weight".to_owned(), vec![200, 64]));
        let of_rank = |rank: usize| {
            let shapes = walked.iter().map(|(_, shape)| shape.clone());
            shapes.filter(|shape| shape.len() == rank).collect()
        };
        let shapes = [of_rank(2), of_rank(1)];
        walked.sort();
        (walked, shapes)
    }

    fn found(layers: usize, exchange: &[(usize, usize)]) -> Option<[(usize, String); 2]> {
        let (sorted, mut shapes) = llama(layers);
        for &(one, other) in exchange {
            shapes[0].swap(one, other);
        }
        let parameter =
            |(name, shape): &'_ (String, Vec<u64>)| (name.clone(), shape.clone(), 2 - shape.len());
        let sorted: Vec<_> = sorted.iter().map(parameter).collect();
        let parameters: Vec<Parameter<'_>> = sorted
            .iter()
            .map(|(name, shape, sequence)| Parameter { name, shape, sequence: *sequence })
            .collect();
        let wanted = [0, 1].map(|half: usize| shapes[half].iter().map(|shape| Some(&shape[..])).collect());
        let mut states = STATES;
        let two = find(&parameters, &wanted, &mut states)?;
        Some(two.map(|one| (one.place, sorted[one.parameter].0.clone())))
    }

    #[test]
    fn two_states_that_changed_places_are_found_with_the_parameters_they_belong_to() {
        let expected = [
            (4, "model.layers.0.self_attn.o_proj.weight".to_owned()),
            (9, "model.layers.1.self_attn.k_proj.weight".to_owned()),
        ];
        assert_eq!(found(3, &[(4, 9)]), Some(expected));
        let expected = [
            (0, "model.embed_tokens.weight".to_owned()),
            (1, "model.layers.0.self_attn.q_proj.weight".to_owned()),
        ];
        assert_eq!(found(32, &[(0, 1)]), Some(expected));
    }

    #[test]
    fn an_order_that_stands_states_of_one_shape_and_more_than_two_are_not_told() {
        assert_eq!(found(3, &[]), None);
        assert_eq!(found(3, &[(1, 4)]), None, "a query and an output of one shape");
        assert_eq!(found(3, &[(4, 9), (0, 7)]), None);
    }
}
