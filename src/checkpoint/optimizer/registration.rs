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
/// States of the search. A 100-layer transformer needs some thousands.
const MAX_STATES: usize = 200_000;

/// For each of the `wanted` shapes, in order, the parameters that may stand there; `None` where the search was too
/// long. Every parameter stands somewhere. A shape that is not known fits every parameter.
pub(super) fn arrangements(
    parameters: &[Parameter<'_>],
    wanted: &[Option<&[u64]>],
) -> Option<Vec<BTreeSet<usize>>> {
    if parameters.len() != wanted.len() {
        return None;
    }
    let tree = Tree::new(parameters)?;
    let mut search = Search { tree: &tree, parameters, wanted, fits: HashMap::new(), states: 0 };
    let mut possible = vec![BTreeSet::new(); wanted.len()];
    if !search.fits(ROOT, 0)? {
        return Some(possible);
    }
    let mut waiting = vec![(ROOT, 0)];
    let mut seen = BTreeSet::new();
    while let Some((node, offset)) = waiting.pop() {
        if !seen.insert((node, offset)) {
            continue;
        }
        match tree.nodes[node].leaf {
            Some(parameter) => {
                possible[offset].insert(parameter);
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
    /// Parameters in the subtree.
    size: usize,
}

struct Tree {
    nodes: Vec<Node>,
}

impl Tree {
    fn new(parameters: &[Parameter<'_>]) -> Option<Self> {
        let mut tree = Self { nodes: vec![Node::default()] };
        let mut names: Vec<BTreeMap<&str, usize>> = vec![BTreeMap::new()];
        for (index, parameter) in parameters.iter().enumerate() {
            let mut node = ROOT;
            tree.nodes[ROOT].size += 1;
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
                }
                node = child;
                tree.nodes[node].size += 1;
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
            let size = self.nodes[end].size - self.nodes[child].size;
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
            let by_number = matches!((other.parse::<u64>(), name.parse::<u64>()), (Ok(a), Ok(b)) if a < b);
            let by_layer = matches!((recurrent(other), recurrent(name)), (Some(a), Some(b)) if a < b);
            let place = |family: &[&str], name| family.iter().position(|&member| member == name);
            let by_family = families.iter().any(
                |family| matches!((place(family, other), place(family, name)), (Some(a), Some(b)) if a < b),
            );
            by_kind || by_number || by_layer || by_family
        };
        let bits =
            siblings.iter().enumerate().filter(|(_, (other, other_child))| precedes(other, *other_child));
        bits.map(|(place, _)| 1 << place).sum()
    }
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
    wanted: &'a [Option<&'a [u64]>],
    fits: HashMap<(usize, usize), bool>,
    states: usize,
}

impl Search<'_> {
    /// Whether some order of the subtree gives the wanted shapes from `offset` on; `None` when the search is too long.
    fn fits(&mut self, node: usize, offset: usize) -> Option<bool> {
        if let Some(&known) = self.fits.get(&(node, offset)) {
            return Some(known);
        }
        let fits = match self.tree.nodes[node].leaf {
            Some(parameter) => {
                self.wanted[offset].is_none_or(|wanted| wanted == self.parameters[parameter].shape)
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
    fn reachable(&mut self, node: usize, offset: usize) -> Option<BTreeMap<u64, usize>> {
        let mut reached = BTreeMap::from([(0, offset)]);
        let mut waiting = vec![(0, offset)];
        while let Some((placed, at)) = waiting.pop() {
            for (set, behind) in
                self.next(node, placed, at)?.into_iter().map(|(_, set, behind)| (set, behind))
            {
                if reached.insert(set, behind).is_none() {
                    waiting.push((set, behind));
                }
            }
        }
        Some(reached)
    }

    /// The children that can follow the set `placed` at offset `at`: the child, the set with it, the offset behind it.
    fn next(&mut self, node: usize, placed: u64, at: usize) -> Option<Vec<(usize, u64, usize)>> {
        self.states += 1;
        if self.states > MAX_STATES {
            return None;
        }
        let tree = self.tree;
        let mut next = Vec::new();
        for (place, (&child, &before)) in
            tree.nodes[node].children.iter().zip(&tree.nodes[node].before).enumerate()
        {
            let set = placed | 1 << place;
            if set != placed && before & !placed == 0 && self.fits(child, at)? {
                next.push((child, set, at + tree.nodes[child].size));
            }
        }
        Some(next)
    }

    /// Every child at every offset where some whole order of the node has it.
    fn placements(&mut self, node: usize, offset: usize) -> Option<Vec<(usize, usize)>> {
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
        let parameters: Vec<_> = names.iter().map(|&(name, shape)| Parameter { name, shape }).collect();
        let wanted: Vec<_> = wanted.iter().map(|&shape| Some(shape)).collect();
        let sets = arrangements(&parameters, &wanted)?;
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
        let parameters: Vec<_> =
            names.iter().enumerate().map(|(i, name)| Parameter { name, shape: shapes[i % 4] }).collect();
        let wanted: Vec<_> = (0..400).map(|i| Some(shapes[[2, 3, 1, 0][i % 4]])).collect();
        let sets = arrangements(&parameters, &wanted).unwrap();
        assert!(sets.iter().all(|set| set.len() == 1));
    }

    #[test]
    fn names_that_make_no_tree_or_a_bottomless_one_are_refused() {
        assert_eq!(possible(&[("a", &[1]), ("a.b", &[1])], &[&[1], &[1]]), None);
        assert_eq!(possible(&[("a", &[1]), ("a", &[1])], &[&[1], &[1]]), None);
        let deep = vec!["a"; 5000].join(".");
        assert_eq!(possible(&[(&deep, &[1])], &[&[1]]), None);
    }
}
