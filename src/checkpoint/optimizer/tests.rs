//! State dicts as they lie in pickles, and files that lie.

use std::collections::BTreeMap;

use super::*;
use crate::error::ErrorKind;
use crate::format::{Container, Entry, Format, Node, Objects, Span};

/// A pickled object, built from the leaves up.
#[derive(Default)]
struct Pickle {
    objects: Objects,
    entries: Vec<Entry>,
}

impl Pickle {
    fn push(&mut self, node: Node) -> usize {
        self.objects.push(node, Span::default())
    }

    fn text(&mut self, text: &str) -> usize {
        self.push(Node::Text(text.to_owned()))
    }

    fn dict(&mut self, entries: &[(&str, usize)]) -> usize {
        let entries = entries.iter().map(|&(key, value)| (self.text(key), value)).collect();
        self.push(Node::Dict(entries))
    }

    fn tensor(&mut self, name: &str) -> usize {
        let tensor = Err(Box::new(ErrorKind::NoTensors.in_file(std::path::Path::new("x"))));
        self.entries.push(Entry { name: name.to_owned(), tensor, storage: None });
        self.push(Node::Tensor(self.entries.len() - 1))
    }

    /// The state of one parameter of Adam.
    fn moments(&mut self, step: i64) -> usize {
        let (first, second) = (self.tensor("exp_avg"), self.tensor("exp_avg_sq"));
        let step = self.push(Node::Int(step));
        self.dict(&[("step", step), ("exp_avg", first), ("exp_avg_sq", second)])
    }

    fn group(&mut self, keys: &[i64]) -> usize {
        let keys = keys.iter().map(|&key| self.push(Node::Int(key))).collect();
        let params = self.push(Node::List(keys));
        let (rate, beta1, beta2) =
            (self.push(Node::Float(1e-3)), self.push(Node::Float(0.9)), self.push(Node::Float(f64::NAN)));
        let betas = self.push(Node::Tuple(vec![beta1, beta2]));
        let amsgrad = self.push(Node::Bool(false));
        self.dict(&[("lr", rate), ("betas", betas), ("amsgrad", amsgrad), ("params", params)])
    }

    fn optimizer(&mut self, states: &[(i64, usize)], groups: Vec<usize>) -> usize {
        let states = states.iter().map(|&(key, state)| (self.push(Node::Int(key)), state)).collect();
        let (states, groups) = (self.push(Node::Dict(states)), self.push(Node::List(groups)));
        self.dict(&[("state", states), ("param_groups", groups)])
    }

    fn read(mut self, root: usize) -> read::Found {
        self.objects.root = Some(root);
        let container = Container {
            format: Format::TorchZip,
            entries: self.entries,
            metadata: BTreeMap::new(),
            objects: Some(self.objects),
            globals: Vec::new(),
            uncovered: Vec::new(),
            problems: Vec::new(),
        };
        read(&container, "x.pt", 0, 10, &mut Budget::default())
    }
}

#[test]
fn addresses_as_keys_are_put_into_the_order_of_the_groups() {
    let mut pickle = Pickle::default();
    let (late, early) = (pickle.moments(7), pickle.moments(7));
    let group = pickle.group(&[140_178_894_849_224, 140_178_894_849_152]);
    let optimizer =
        pickle.optimizer(&[(140_178_894_849_152, late), (140_178_894_849_224, early)], vec![group]);
    let found = pickle.read(optimizer).optimizers.remove(0);
    assert_eq!(found.algorithm, Algorithm::AdamLike);
    let moments: Vec<_> = found.parameters.iter().map(|parameter| parameter.exp_avg).collect();
    assert_eq!(moments, [Some(12), Some(10)]);
    assert_eq!(found.parameters[0].step, Some(7.0));
    assert_eq!((found.groups[0].beta1, found.groups[0].beta2), (Some(0.9), None), "NaN is no beta");
}

#[test]
fn optimizers_are_found_in_lists_and_beside_schedulers() {
    let mut pickle = Pickle::default();
    let optimizers: Vec<usize> = (0..2)
        .map(|_| {
            let (state, group) = (pickle.moments(1), pickle.group(&[0]));
            pickle.optimizer(&[(0, state)], vec![group])
        })
        .collect();
    let optimizers = pickle.push(Node::List(optimizers));
    let rate = pickle.push(Node::Float(0.5));
    let rates = pickle.push(Node::List(vec![rate]));
    let schedule = pickle.dict(&[("_last_lr", rates)]);
    let root = pickle.dict(&[("optimizer_states", optimizers), ("lr_scheduler", schedule)]);
    let found = pickle.read(root);
    let places: Vec<_> = found.optimizers.iter().map(|optimizer| optimizer.place.as_str()).collect();
    assert_eq!(places, ["x.pt: optimizer_states[0]", "x.pt: optimizer_states[1]"]);
    let rates: Vec<_> = found.schedules.iter().map(|(rates, _)| rates.as_slice()).collect();
    assert_eq!(rates, [[0.5]]);
}

#[test]
fn one_list_spelled_a_million_times_is_refused() {
    let mut pickle = Pickle::default();
    let group = pickle.group(&[0; 2000]);
    let optimizer = pickle.optimizer(&[], vec![group; 1000]);
    let found = pickle.read(optimizer);
    assert!(found.optimizers.is_empty());
    assert!(matches!(found.problem, Some(ErrorKind::TooMany { .. })));
}

#[test]
fn one_list_spelled_in_many_optimizers_is_read_as_often_as_a_checkpoint_may_have_tensors() {
    let mut pickle = Pickle::default();
    let group = pickle.group(&vec![0; 20_000]);
    let optimizers = (0..10).map(|_| pickle.optimizer(&[], vec![group])).collect();
    let root = pickle.push(Node::List(optimizers));
    let found = pickle.read(root);
    assert_eq!(found.optimizers.len(), 6, "6 * 20,000 are below 131,072");
    assert!(matches!(found.problem, Some(ErrorKind::TooMany { what: "parameters of optimizers", .. })));
}

#[test]
fn a_container_that_holds_itself_ends() {
    let mut pickle = Pickle::default();
    let root = pickle.dict(&[]);
    let key = pickle.text("again");
    pickle.objects.nodes[root] = Node::Dict(vec![(key, root)]);
    assert!(pickle.read(root).optimizers.is_empty());
}
