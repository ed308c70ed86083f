//! Every order in which modules may have registered parameters whose names and shapes are known.
//!
//! `named_parameters()` walks the tree of modules: a module's own parameters, then those of its children, each child as
//! a whole, in the order in which the constructor assigned them. Files sorted by name forget that order. What remains
//! known: subtrees are contiguous; own parameters come first; numbered children ascend (`ModuleList`, `Sequential`);
//! and some families of siblings have one constructor in all public code ([`SIBLINGS`]). Against the sequence of shapes
//! that the optimizer kept, this leaves for each position the parameters that some such order puts there. One is an
//! identity; several are an ambiguity that nothing in the file resolves.
//!
//! The search is a dynamic programme over sets of placed siblings: node × offset × subset. It is exact, and gives up
//! beyond a fixed number of states.

use std::collections::{BTreeMap, BTreeSet, HashMap};

/// A parameter of the model.
#[derive(Debug, Clone, Copy)]
pub(super) struct Parameter<'a> {
    pub name: &'a str,
    pub shape: &'a [u64],
    /// Which of the two sequences of shapes it stands in: decay and no decay are filled in one walk over the modules.
    pub sequence: usize,
}

/// Two sequences of shapes, the second empty where all parameters stand in one. A shape that is not known fits every parameter.
pub(super) type Wanted<'a> = [&'a [Option<&'a [u64]>]; 2];

/// A place in each of the two.
type Offset = [usize; 2];

fn behind(offset: Offset, size: Offset) -> Offset {
    [offset[0] + size[0], offset[1] + size[1]]
}

/// Siblings in the order of their constructors, where all of them stand together: torch.nn; transformers' modeling
/// files of Llama and its descendants, BERT and its descendants, GPT-2; nanoGPT.
const SIBLINGS: &[&[&str]] = &[
    &["weight", "bias"],
    &["in_proj_weight", "in_proj_bias"],
    &["self_attn", "linear1", "linear2", "norm1", "norm2"],
    &["q_proj", "k_proj", "v_proj", "o_proj"],
    &["gate_proj", "up_proj", "down_proj"],
    &["self_attn", "mlp", "input_layernorm", "post_attention_layernorm"],
    &["embed_tokens", "layers", "norm"],
    &["query", "key", "value"],
    &["self", "output"],
    &["attention", "intermediate", "output"],
    &["dense", "LayerNorm"],
    &["word_embeddings", "position_embeddings", "token_type_embeddings", "LayerNorm"],
    &["wte", "wpe", "h", "ln_f"],
    &["ln_1", "attn", "ln_2", "mlp"],
    &["c_attn", "c_proj"],
    &["c_fc", "c_proj"],
];

/// Parameters of `torch.nn.LSTM` and its like, for each layer and direction.
const RECURRENT: &[&str] = &["weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr"];

/// Deepest path of a parameter. Real ones have some ten components.
const MAX_DEPTH: usize = 48;
/// Siblings whose order is not known: subsets of them are enumerated.
const MAX_SIBLINGS: usize = 64;
/// States of the searches of one checkpoint. A 100-layer transformer needs some thousands.
pub(super) const MAX_STATES: usize = 200_000;

/// What is known of the order beside the names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    /// Nothing: the names were sorted.
    Names,
    /// The order of the file is that of the modules. Whoever built the optimizer may have handed over parts of the model one by
    /// one, outside of numbered stacks; nobody takes a layer of a stack apart.
    Stored,
}

/// For each of the `wanted` shapes, in order, the parameters that may stand there; `None` where the search was too
/// long. Every parameter stands somewhere. A shape that is not known fits every parameter. `states` are those that may
/// still be searched.
pub(super) fn arrangements(
    parameters: &[Parameter<'_>],
    wanted: Wanted<'_>,
    states: &mut usize,
) -> Option<[Vec<BTreeSet<usize>>; 2]> {
    search(parameters, wanted, Known::Names, states)
}

/// Whether parameters in the order of their modules could stand in no other order of the parts of the model, their shapes
/// being as `wanted`. A search that is too long has found no such thing.
pub(super) fn is_the_only_order(
    parameters: &[Parameter<'_>],
    wanted: &[Option<&[u64]>],
    states: &mut usize,
) -> bool {
    let possible = search(parameters, [wanted, &[]], Known::Stored, states);
    possible.is_some_and(|[sets, _]| sets.iter().enumerate().all(|(place, set)| set.iter().eq([&place])))
}

fn search(
    parameters: &[Parameter<'_>],
    wanted: Wanted<'_>,
    known: Known,
    states: &mut usize,
) -> Option<[Vec<BTreeSet<usize>>; 2]> {
    let in_first = parameters.iter().filter(|parameter| parameter.sequence == 0).count();
    if [in_first, parameters.len() - in_first] != wanted.map(<[_]>::len) {
        return None;
    }
    let tree = Tree::new(parameters, known)?;
    let mut search = Search { tree: &tree, parameters, wanted, fits: HashMap::new(), states };
    let mut possible = wanted.map(|wanted| vec![BTreeSet::new(); wanted.len()]);
    if !search.fits(ROOT, [0; 2])? {
        return Some(possible);
    }
    let mut waiting = vec![(ROOT, [0; 2])];
    let mut seen = BTreeSet::new();
    while let Some((node, offset)) = waiting.pop() {
        if !seen.insert((node, offset)) {
            continue;
        }
        match tree.nodes[node].leaf {
            Some(parameter) => {
                let sequence = parameters[parameter].sequence;
                possible[sequence][offset[sequence]].insert(parameter);
            }
            None => waiting.extend(search.placements(node, offset)?),
        }
    }
    Some(possible)
}

const ROOT: usize = 0;

/// A module, or one parameter.
#[derive(Debug, Default)]
struct Node {
    /// The parameter, where it is one.
    leaf: Option<usize>,
    children: Vec<usize>,
    /// For each child, the set of siblings that stand before it in any order.
    before: Vec<u64>,
    /// Parameters in the subtree, of each sequence.
    size: Offset,
}

struct Tree {
    nodes: Vec<Node>,
    /// For each node, whether its children stand as they are stored.
    is_settled: Vec<bool>,
    known: Known,
}

impl Tree {
    fn new(parameters: &[Parameter<'_>], known: Known) -> Option<Self> {
        let mut tree = Self { nodes: vec![Node::default()], is_settled: vec![false], known };
        let mut names: Vec<BTreeMap<&str, usize>> = vec![BTreeMap::new()];
        for (index, parameter) in parameters.iter().enumerate() {
            let mut node = ROOT;
            tree.nodes[ROOT].size[parameter.sequence] += 1;
            if parameter.name.split('.').count() > MAX_DEPTH {
                return None;
            }
            for component in parameter.name.split('.') {
                let next = tree.nodes.len();
                let child = *names[node].entry(component).or_insert(next);
                if child == next {
                    tree.nodes.push(Node::default());
                    names.push(BTreeMap::new());
                    tree.nodes[node].children.push(child);
                    let is_numbered = known == Known::Stored && counted(component).1.is_some();
                    tree.is_settled.push(tree.is_settled[node] || is_numbered);
                }
                node = child;
                tree.nodes[node].size[parameter.sequence] += 1;
            }
            // Two parameters of one name, or a parameter that is also a module.
            if tree.nodes[node].leaf.replace(index).is_some() {
                return None;
            }
        }
        let clashes = tree.nodes.iter().any(|node| node.leaf.is_some() && !node.children.is_empty());
        (!clashes && tree.order_siblings(&names)).then_some(tree)
    }

    /// Splits long runs of numbered siblings and finds which siblings precede which. False where there are too many.
    fn order_siblings(&mut self, names: &[BTreeMap<&str, usize>]) -> bool {
        for (node, children) in names.iter().enumerate() {
            if self.is_settled[node] && !children.is_empty() {
                let stored = std::mem::take(&mut self.nodes[node].children);
                self.chain(node, &stored);
                continue;
            }
            let mut siblings: Vec<(&str, usize)> =
                children.iter().map(|(&name, &child)| (name, child)).collect();
            if let Some(numbers) =
                siblings.iter().map(|(name, _)| name.parse::<u64>().ok()).collect::<Option<Vec<_>>>()
            {
                let mut numbered: Vec<(u64, usize)> =
                    numbers.into_iter().zip(siblings.iter().map(|&(_, child)| child)).collect();
                numbered.sort_unstable();
                self.chain(node, &numbered.into_iter().map(|(_, child)| child).collect::<Vec<_>>());
                continue;
            }
            if siblings.len() > MAX_SIBLINGS {
                return false;
            }
            siblings.sort_by_key(|&(_, child)| child);
            let before = siblings.iter().map(|&one| self.predecessors(one, &siblings)).collect();
            self.nodes[node].children = siblings.into_iter().map(|(_, child)| child).collect();
            self.nodes[node].before = before;
        }
        true
    }

    /// Gives `node` children in a fixed order: a chain of pairs, so that no subset is large.
    fn chain(&mut self, node: usize, children: &[usize]) {
        let mut end = node;
        for (position, &child) in children.iter().enumerate() {
            if position + 2 >= children.len() {
                let rest = children[position..].to_vec();
                self.nodes[end].before = (0..rest.len()).map(|place| (1 << place) - 1).collect();
                self.nodes[end].children = rest;
                return;
            }
            let (whole, first) = (self.nodes[end].size, self.nodes[child].size);
            let size = [whole[0] - first[0], whole[1] - first[1]];
            let rest = self.nodes.len();
            self.nodes.push(Node { size, ..Node::default() });
            self.nodes[end].children = vec![child, rest];
            self.nodes[end].before = vec![0, 1];
            end = rest;
        }
    }

    fn predecessors(&self, (name, child): (&str, usize), siblings: &[(&str, usize)]) -> u64 {
        let is_leaf = |child: usize| self.nodes[child].leaf.is_some();
        let together =
            |family: &&&[&str]| family.iter().all(|member| siblings.iter().any(|(name, _)| name == member));
        let families: Vec<_> = SIBLINGS.iter().filter(together).collect();
        let precedes = |other: &str, other_child: usize| {
            let by_kind = is_leaf(other_child) && !is_leaf(child);
            // A module's own parameters are handed over together.
            let by_place =
                self.known == Known::Stored && is_leaf(other_child) && is_leaf(child) && other_child < child;
            let by_number = match self.known {
                Known::Names => {
                    matches!((other.parse::<u64>(), name.parse::<u64>()), (Ok(a), Ok(b)) if a < b)
                }
                // `conv1` comes before `conv2`, whoever hands them over.
                Known::Stored => {
                    let ((stem, number), (other_stem, other_number)) = (counted(name), counted(other));
                    stem == other_stem && other_number < number
                }
            };
            let by_layer = matches!((recurrent(other), recurrent(name)), (Some(a), Some(b)) if a < b);
            let place = |family: &[&str], name| family.iter().position(|&member| member == name);
            let by_family = families.iter().any(
                |family| matches!((place(family, other), place(family, name)), (Some(a), Some(b)) if a < b),
            );
            by_kind || by_place || by_number || by_layer || by_family
        };
        let bits =
            siblings.iter().enumerate().filter(|(_, (other, other_child))| precedes(other, *other_child));
        bits.map(|(place, _)| 1 << place).sum()
    }
}

/// A name without the number at its end, and that number: `conv2` is `conv` and 2.
fn counted(name: &str) -> (&str, Option<u64>) {
    let stem = name.trim_end_matches(|character: char| character.is_ascii_digit());
    (stem, name[stem.len()..].parse().ok())
}

/// Layer, direction and kind of a recurrent layer's parameter: `weight_hh_l1_reverse` is (1, true, 1).
fn recurrent(name: &str) -> Option<(u64, bool, usize)> {
    let (forward, reverse) = match name.strip_suffix("_reverse") {
        Some(forward) => (forward, true),
        None => (name, false),
    };
    let (kind, layer) = forward.rsplit_once("_l")?;
    Some((layer.parse().ok()?, reverse, RECURRENT.iter().position(|&known| known == kind)?))
}

struct Search<'a> {
    tree: &'a Tree,
    parameters: &'a [Parameter<'a>],
    wanted: Wanted<'a>,
    fits: HashMap<(usize, Offset), bool>,
    /// How many may still be searched, here and for the other groups of the checkpoint.
    states: &'a mut usize,
}

impl Search<'_> {
    /// Whether some order of the subtree gives the wanted shapes from `offset` on; `None` when the search is too long.
    fn fits(&mut self, node: usize, offset: Offset) -> Option<bool> {
        if let Some(&known) = self.fits.get(&(node, offset)) {
            return Some(known);
        }
        let fits = match self.tree.nodes[node].leaf {
            Some(parameter) => {
                let Parameter { shape, sequence, .. } = self.parameters[parameter];
                self.wanted[sequence][offset[sequence]].is_none_or(|wanted| wanted == shape)
            }
            None => self.reachable(node, offset)?.contains_key(&self.all(node)),
        };
        self.fits.insert((node, offset), fits);
        Some(fits)
    }

    /// The set of all children.
    fn all(&self, node: usize) -> u64 {
        match self.tree.nodes[node].children.len() {
            0 => 0,
            count => u64::MAX >> (u64::BITS as usize - count),
        }
    }

    /// The sets of children that can stand first, each with the offset behind it.
    fn reachable(&mut self, node: usize, offset: Offset) -> Option<BTreeMap<u64, Offset>> {
        let mut reached = BTreeMap::from([(0, offset)]);
        let mut waiting = vec![(0, offset)];
        while let Some((placed, at)) = waiting.pop() {
            for (_, set, next) in self.next(node, placed, at)? {
                if reached.insert(set, next).is_none() {
                    waiting.push((set, next));
                }
            }
        }
        Some(reached)
    }

    /// The children that can follow the set `placed` at offset `at`: the child, the set with it, the offset behind it.
    fn next(&mut self, node: usize, placed: u64, at: Offset) -> Option<Vec<(usize, u64, Offset)>> {
        *self.states = self.states.checked_sub(1)?;
        let tree = self.tree;
        let mut next = Vec::new();
        for (place, (&child, &before)) in
            tree.nodes[node].children.iter().zip(&tree.nodes[node].before).enumerate()
        {
            let set = placed | 1 << place;
            if set != placed && before & !placed == 0 && self.fits(child, at)? {
                next.push((child, set, behind(at, tree.nodes[child].size)));
            }
        }
        Some(next)
    }

    /// Every child at every offset where some whole order of the node has it.
    fn placements(&mut self, node: usize, offset: Offset) -> Option<Vec<(usize, Offset)>> {
        let reached = self.reachable(node, offset)?;
        let mut completes = BTreeSet::from([self.all(node)]);
        let mut placements = BTreeSet::new();
        // A set only leads to larger sets, which are larger numbers too.
        for (&placed, &at) in reached.iter().rev() {
            for (child, set, _) in self.next(node, placed, at)? {
                if completes.contains(&set) {
                    completes.insert(placed);
                    placements.insert((child, at));
                }
            }
        }
        Some(placements.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn possible(names: &[(&str, &[u64])], wanted: &[&[u64]]) -> Option<Vec<Vec<usize>>> {
        let parameters: Vec<_> =
            names.iter().map(|&(name, shape)| Parameter { name, shape, sequence: 0 }).collect();
        let wanted: Vec<_> = wanted.iter().map(|&shape| Some(shape)).collect();
        let [sets, _] = arrangements(&parameters, [&wanted, &[]], &mut MAX_STATES.clone())?;
        Some(sets.into_iter().map(|set| set.into_iter().collect()).collect())
    }

    #[test]
    fn numbered_modules_ascend_and_own_parameters_come_first() {
        let names: &[(&str, &[u64])] =
            &[("h.10.w", &[2]), ("h.2.w", &[2]), ("h.scale", &[2]), ("h.9.w", &[2])];
        // `h` has a parameter of its own beside its numbered children.
        assert_eq!(
            possible(names, &[&[2], &[2], &[2], &[2]]),
            Some(vec![vec![2], vec![1], vec![3], vec![0]])
        );
    }

    #[test]
    fn shapes_decide_between_children_and_equal_children_stay_ambiguous() {
        let names: &[(&str, &[u64])] = &[("a.x", &[2, 2]), ("b.x", &[3, 2]), ("c.x", &[2, 2])];
        let expected = vec![vec![0, 2], vec![0, 2], vec![1]];
        assert_eq!(possible(names, &[&[2, 2], &[2, 2], &[3, 2]]), Some(expected));
        assert_eq!(possible(names, &[&[3, 2], &[3, 2], &[2, 2]]), Some(vec![Vec::new(); 3]));
    }

    #[test]
    fn a_subtree_stays_together() {
        let names: &[(&str, &[u64])] = &[("a.x", &[1]), ("a.y", &[2]), ("b.x", &[1]), ("b.y", &[3])];
        // Shapes 1 2 1 3 in this order, or with x behind y: never a.x beside b.y.
        assert_eq!(
            possible(names, &[&[2], &[1], &[1], &[3]]),
            Some(vec![vec![1], vec![0], vec![2], vec![3]])
        );
    }

    #[test]
    fn known_families_are_in_the_order_of_their_constructor() {
        let d: &[u64] = &[4, 4];
        let llama =
            [("l.k_proj.weight", d), ("l.o_proj.weight", d), ("l.q_proj.weight", d), ("l.v_proj.weight", d)];
        assert_eq!(possible(&llama, &[d, d, d, d]), Some(vec![vec![2], vec![0], vec![3], vec![1]]));
        // OPT and BART register k before q: their `out_proj` is in no family.
        let opt = [
            ("l.k_proj.weight", d),
            ("l.out_proj.weight", d),
            ("l.q_proj.weight", d),
            ("l.v_proj.weight", d),
        ];
        assert!(possible(&opt, &[d, d, d, d]).unwrap().iter().all(|set| set.len() == 4));
    }

    #[test]
    fn a_hundred_layers_are_no_long_search() {
        let mut names = Vec::new();
        for layer in 0..100 {
            for part in ["mlp.down", "mlp.up", "norm_b", "norm_a"] {
                names.push(format!("layers.{layer}.{part}.weight"));
            }
        }
        let shapes: [&[u64]; 4] = [&[4, 16], &[16, 4], &[4], &[5]];
        let parameters: Vec<_> = names
            .iter()
            .enumerate()
            .map(|(i, name)| Parameter { name, shape: shapes[i % 4], sequence: 0 })
            .collect();
        let wanted: Vec<_> = (0..400).map(|i| Some(shapes[[2, 3, 1, 0][i % 4]])).collect();
        let [sets, _] = arrangements(&parameters, [&wanted, &[]], &mut MAX_STATES.clone()).unwrap();
        assert!(sets.iter().all(|set| set.len() == 1));
    }

    #[test]
    fn names_that_make_no_tree_or_a_bottomless_one_are_refused() {
        assert_eq!(possible(&[("a", &[1]), ("a.b", &[1])], &[&[1], &[1]]), None);
        assert_eq!(possible(&[("a", &[1]), ("a", &[1])], &[&[1], &[1]]), None);
        let deep = vec!["a"; 5000].join(".");
        assert_eq!(possible(&[(&deep, &[1])], &[&[1]]), None);
    }

    #[test]
    fn what_one_sequence_tells_of_the_modules_holds_for_the_other() {
        // Two linear maps: matrices in one group, biases in the other. The biases alone could be either's.
        let names: [(&str, &[u64], usize); 4] =
            [("a.weight", &[3, 2], 0), ("a.bias", &[2], 1), ("b.weight", &[4, 2], 0), ("b.bias", &[2], 1)];
        let parameters = names.map(|(name, shape, sequence)| Parameter { name, shape, sequence });
        let (matrices, vectors): ([&[u64]; 2], [&[u64]; 2]) = ([&[4, 2], &[3, 2]], [&[2], &[2]]);
        let (matrices, vectors) = (matrices.map(Some), vectors.map(Some));
        let found = arrangements(&parameters, [&matrices, &vectors], &mut MAX_STATES.clone()).unwrap();
        let sets = |sets: &[BTreeSet<usize>]| {
            sets.iter().map(|set| set.iter().copied().collect()).collect::<Vec<Vec<_>>>()
        };
        assert_eq!(found.map(|found| sets(&found)), [vec![vec![2], vec![0]], vec![vec![3], vec![1]]]);
    }
}
