//! Optimizer state dicts in a pickled object: `{"state": {key: {...}}, "param_groups": [{..., "params": [keys]}]}`.
//!
//! They stand at the root (`optimizer.pt`), under a key (nanoGPT, timm, hand-written loops) or in a list (Lightning).
//! Objects may share parts, so that a small file can spell a large dict many times over: every walk is bounded.

use std::collections::{BTreeSet, HashMap};

use super::algorithm::{Configuration, recognise};
use super::impossible::{ImpossibleNumber, OF_BETAS, OF_GROUPS, OF_RATES, OF_SCALES, Range};
use super::place::{Hyperparameter, Place, Quantity, Schedule, pickled};
use super::scalar;
use super::{Codebook, Mapping, Misplaced, OptimizerState, ParameterGroup, ParameterState};
use crate::error::ErrorKind;
use crate::format::{Container, MAX_TENSORS, Node, NodeId, Objects};

/// Levels of containers above an optimizer dict. Composer has two.
const MAX_DEPTH: usize = 4;
/// Containers that are searched.
const MAX_CONTAINERS: usize = 100_000;
/// Groups whose numbers are held against what they may be.
const MAX_GROUPS: usize = 10_000;
/// Keys of one parameter's state, or of one group.
const MAX_KEYS: usize = 64;

/// What the state of a parameter calls its f32 master weights: Transformer Engine and hand-written loops, Megatron's
/// distributed optimizer.
const MASTERS: &[&str] = &["master_param", "master_weight", "fp32_param", "param"];
/// Keys beside an optimizer under which its f32 master weights lie, a list for each group: Megatron, apex.
const MASTER_LISTS: &[&str] = &["fp32_from_fp16_params", "fp32_from_fp16", "fp32_groups"];

/// What one file holds of optimizers.
#[derive(Debug, Default)]
pub(in crate::checkpoint) struct Found {
    /// Its optimizers.
    pub optimizers: Vec<OptimizerState>,
    /// Its schedulers, with the learning rates that they set last.
    pub schedules: Vec<(Vec<f64>, Schedule)>,
    /// Why not all of them are there.
    pub problem: Option<ErrorKind>,
    /// Numbers of its optimizers, schedulers and loss scalers that no training goes on from; `None` where it has none of these.
    pub impossible: Option<Vec<ImpossibleNumber>>,
}

/// What all optimizers of a checkpoint may have together: as many parameters as it may have tensors, and no more groups or
/// states than that. A short file can spell one list of parameters in a hundred thousand optimizers.
#[derive(Debug)]
pub(in crate::checkpoint) struct Budget {
    parameters: u64,
    groups: u64,
    states: u64,
}

impl Default for Budget {
    fn default() -> Self {
        Self { parameters: MAX_TENSORS, groups: MAX_TENSORS, states: MAX_TENSORS }
    }
}

/// Takes `count` of what is `left`.
fn take(left: &mut u64, count: usize, what: &'static str) -> Result<(), ErrorKind> {
    *left = left.checked_sub(count as u64).ok_or(ErrorKind::TooMany { what, limit: MAX_TENSORS })?;
    Ok(())
}

/// Finds the optimizers and schedulers of `container`, file `number` of the checkpoint, whose first entry is its tensor `first`.
pub(in crate::checkpoint) fn read(
    container: &Container,
    file: &str,
    number: usize,
    first: usize,
    budget: &mut Budget,
) -> Found {
    let mut found = Found::default();
    let Some(objects) = &container.objects else { return found };
    let Some(root) = objects.root else { return found };
    let mut visited = BTreeSet::new();
    let mut waiting = vec![(root, file.to_owned(), 0)];
    let mut lists = Vec::new();
    while let Some((id, path, depth)) = waiting.pop() {
        if visited.len() >= MAX_CONTAINERS || !visited.insert(id) {
            continue;
        }
        let reader = Reader { objects, container, number, first };
        if let Some(numbers) = reader.impossible(id, &path) {
            found.impossible.get_or_insert_default().extend(numbers);
        }
        let optimizer = reader.optimizer(id, &path, budget).unwrap_or_else(|problem| {
            found.problem.get_or_insert(problem);
            None
        });
        if let Some(optimizer) = optimizer {
            found.optimizers.push(optimizer);
        } else if let Some(rates) = reader.schedule(id) {
            found.schedules.push(rates);
        } else if depth < MAX_DEPTH {
            let masters = MASTER_LISTS.iter().find_map(|key| objects.get(id, key));
            lists.extend(masters.map(|list| (format!("{path}: "), list)));
            let mut within = children(objects, id, &path);
            within.reverse();
            waiting.extend(within.into_iter().map(|(id, path)| (id, path, depth + 1)));
        }
    }
    let reader = Reader { objects, container, number, first };
    for (path, list) in lists {
        let mut inside = found.optimizers.iter_mut().filter(|optimizer| optimizer.place.starts_with(&path));
        if let (Some(optimizer), None) = (inside.next(), inside.next()) {
            reader.give_masters(list, optimizer);
        }
    }
    found
}

/// The containers that `id` holds, with their paths, in order.
fn children(objects: &Objects, id: NodeId, path: &str) -> Vec<(NodeId, String)> {
    let is_container = |id: NodeId| objects.entries(id).is_some() || objects.sequence(id).is_some();
    if let Some(entries) = objects.entries(id) {
        let keyed = entries.iter().filter(|&&(_, value)| is_container(value));
        let named = keyed
            .filter_map(|&(key, value)| Some((value, format!("{path}: {}", shortened(objects.text(key)?)))));
        named.take(MAX_CONTAINERS).collect()
    } else if let Some(items) = objects.sequence(id) {
        let items = items.iter().enumerate().filter(|&(_, &item)| is_container(item));
        items.take(MAX_CONTAINERS).map(|(index, &item)| (item, format!("{path}[{index}]"))).collect()
    } else {
        Vec::new()
    }
}

/// As much of a key as a person reads.
fn shortened(key: &str) -> String {
    key.chars().take(MAX_KEYS).collect()
}

struct Reader<'a> {
    objects: &'a Objects,
    container: &'a Container,
    number: usize,
    first: usize,
}

impl<'a> Reader<'a> {
    /// The optimizer that `id` is the state dict of. An error says that the checkpoint has more of something than any model.
    fn optimizer(
        &self,
        id: NodeId,
        path: &str,
        budget: &mut Budget,
    ) -> Result<Option<OptimizerState>, ErrorKind> {
        let Some((state, group_nodes)) = self.halves(id) else { return Ok(None) };
        take(&mut budget.groups, group_nodes.len(), "groups of optimizers")?;
        take(&mut budget.states, self.objects.entries(state).map_or(0, <[_]>::len), "states of optimizers")?;
        let states = self.states(state);
        let mut configuration = Configuration::default();
        let mut groups = Vec::new();
        let mut parameters = Vec::new();
        let mut hyperparameters = Vec::new();
        for (index, &node) in group_nodes.iter().enumerate() {
            let fields = self.fields(node);
            configuration.keys.extend(fields.keys().copied());
            configuration.decoupled =
                configuration.decoupled.or(self.flag(&fields, "decoupled_weight_decay"));
            let first = parameters.len();
            take(&mut budget.parameters, self.list(&fields, "params").len(), "parameters of optimizers")?;
            self.group_parameters(&fields, index, &states, &mut parameters);
            groups.push(self.group(&fields, parameters.len() - first));
            hyperparameters.extend(self.hyperparameters(&fields, index));
            self.share_group_step(&fields, &mut parameters[first..]);
        }
        let algorithm = recognise(&state_keys(&states), &configuration);
        let orphans = self.orphans(state, &states, &parameters);
        let mapping = Mapping::refused(parameters.len(), "there is no model beside the optimizer");
        Ok(Some(OptimizerState {
            place: path.to_owned(),
            algorithm,
            groups,
            parameters,
            orphans,
            mapping,
            misplaced: Misplaced::default(),
            scheduled: None,
            file: self.number,
            hyperparameters,
        }))
    }

    /// The state and the groups of what is an optimizer's state dict.
    fn halves(&self, id: NodeId) -> Option<(NodeId, &'a [NodeId])> {
        if self.objects.entries(id)?.len() > MAX_KEYS {
            return None;
        }
        let state = self.objects.get(id, "state")?;
        let groups = self.objects.sequence(self.objects.get(id, "param_groups")?)?;
        matches!(self.objects.node(state), Node::Dict(_) | Node::Object(_)).then_some((state, groups))
    }

    /// The items of a list of a small dict; none where it has no such list.
    fn list(&self, fields: &HashMap<&str, NodeId>, key: &str) -> &'a [NodeId] {
        fields.get(key).and_then(|&id| self.objects.sequence(id)).unwrap_or_default()
    }

    /// The state of each parameter, by the text of its key.
    fn states(&self, state: NodeId) -> HashMap<String, HashMap<&'a str, NodeId>> {
        let entries = self.objects.entries(state).unwrap_or_default().iter();
        entries.filter_map(|&(key, value)| Some((self.key(key)?, self.fields(value)))).collect()
    }

    /// The keys of states, in their order, that no group lists: of those that keep something under a name that the states of listed
    /// parameters have too, or that any state has where none is listed. What an optimizer keeps for itself is none of them.
    fn orphans(
        &self,
        state: NodeId,
        states: &HashMap<String, HashMap<&'a str, NodeId>>,
        parameters: &[ParameterState],
    ) -> Vec<String> {
        let listed: BTreeSet<&str> = parameters.iter().map(|parameter| parameter.key.as_str()).collect();
        let of_listed = states.iter().filter(|(key, _)| listed.contains(key.as_str()));
        let kept: BTreeSet<&str> = of_listed.flat_map(|(_, fields)| fields.keys().copied()).collect();
        let is_state = |fields: &HashMap<&str, NodeId>| {
            if kept.is_empty() {
                fields.values().any(|&value| matches!(self.objects.node(value), Node::Tensor(_)))
            } else {
                fields.keys().any(|key| kept.contains(key))
            }
        };
        let entries = self.objects.entries(state).unwrap_or_default().iter();
        let keys = entries.filter_map(|&(key, _)| self.key(key));
        keys.filter(|key| !listed.contains(key.as_str()) && states.get(key).is_some_and(&is_state)).collect()
    }

    /// A parameter's key. Older torch numbers parameters by their addresses, which may not fit 63 bits.
    fn key(&self, id: NodeId) -> Option<String> {
        match self.objects.node(id) {
            Node::Int(number) => Some(number.to_string()),
            Node::Text(text) => Some(text.clone()),
            Node::BigInt(span) => Some(format!("big integer at byte {}", span.start)),
            _ => None,
        }
    }

    /// The text keys of a small dict.
    fn fields(&self, id: NodeId) -> HashMap<&'a str, NodeId> {
        let entries = self.objects.entries(id).unwrap_or_default().iter().take(MAX_KEYS);
        entries.filter_map(|&(key, value)| Some((self.objects.text(key)?, value))).collect()
    }

    /// Adds the parameters of one group.
    fn group_parameters(
        &self,
        fields: &HashMap<&str, NodeId>,
        group: usize,
        states: &HashMap<String, HashMap<&'a str, NodeId>>,
        parameters: &mut Vec<ParameterState>,
    ) {
        let (keys, names) = (self.list(fields, "params"), self.list(fields, "param_names"));
        let no_state = HashMap::new();
        for (position, &key) in keys.iter().enumerate() {
            let is_name = self.objects.text(key).is_some();
            let key = self.key(key).unwrap_or_default();
            let listed = names.get(position).and_then(|&name| self.objects.text(name)).map(str::to_owned);
            let stored = states.get(&key);
            parameters.push(ParameterState {
                group,
                name: listed.or_else(|| is_name.then(|| key.clone())),
                stored: stored.is_some(),
                key,
                ..self.parameter(stored.unwrap_or(&no_state))
            });
        }
    }

    fn parameter(&self, fields: &HashMap<&str, NodeId>) -> ParameterState {
        let tensor = |key| match *self.objects.node(*fields.get(key)?) {
            Node::Tensor(entry) if entry < self.container.entries.len() => Some(self.first + entry),
            _ => None,
        };
        ParameterState {
            step: fields.get("step").and_then(|&id| self.scalar(id)),
            step_place: fields.get("step").and_then(|&id| self.place(id)),
            exp_avg: tensor("exp_avg").or_else(|| tensor("state1")),
            exp_avg_sq: tensor("exp_avg_sq").or_else(|| tensor("state2")),
            codebooks: [
                Codebook { values: tensor("qmap1"), scales: tensor("absmax1") },
                Codebook { values: tensor("qmap2"), scales: tensor("absmax2") },
            ],
            max_exp_avg_sq: tensor("max_exp_avg_sq"),
            momentum_buffer: tensor("momentum_buffer"),
            square_avg: tensor("square_avg").or_else(|| tensor("sum")),
            grad_avg: tensor("grad_avg"),
            master: MASTERS.iter().find_map(|key| tensor(key)),
            ..ParameterState::default()
        }
    }

    /// Gives each parameter its master of a list of lists, where a group has one for each of its parameters.
    fn give_masters(&self, list: NodeId, optimizer: &mut OptimizerState) {
        let lists = self.objects.sequence(list).unwrap_or_default();
        let mut rest = optimizer.parameters.as_mut_slice();
        for (group, &list) in optimizer.groups.iter().zip(lists) {
            let (parameters, behind) = rest.split_at_mut(rest.len().min(group.parameters as usize));
            rest = behind;
            let masters = self.objects.sequence(list).unwrap_or_default();
            if parameters.len() != masters.len() {
                continue;
            }
            for (state, &master) in parameters.iter_mut().zip(masters) {
                if let Node::Tensor(entry) = *self.objects.node(master)
                    && entry < self.container.entries.len()
                {
                    state.master = Some(self.first + entry);
                }
            }
        }
    }

    /// A finite number, as [`Self::any_scalar`] reads it.
    fn scalar(&self, id: NodeId) -> Option<f64> {
        self.any_scalar(id).filter(|number| number.is_finite())
    }

    /// A number, or the one element of a tensor: torch has kept `step` as a tensor since 1.12.
    fn any_scalar(&self, id: NodeId) -> Option<f64> {
        match *self.objects.node(id) {
            Node::Tensor(entry) => scalar::of_entry(self.container.entries.get(entry)?),
            _ => self.objects.number(id),
        }
    }

    /// The numbers of an optimizer, a scheduler or a loss scaler that no training goes on from; `None` where `id` is none of these.
    fn impossible(&self, id: NodeId, path: &str) -> Option<Vec<ImpossibleNumber>> {
        if self.objects.entries(id)?.len() > MAX_KEYS {
            return None;
        }
        let get = |key: &str| self.objects.get(id, key);
        let judged = |range: Range, place: String, id: NodeId| range.violated(place, self.any_scalar(id)?);
        if let Some(groups) = get("param_groups").and_then(|groups| self.objects.sequence(groups)) {
            let groups = groups.iter().take(MAX_GROUPS).enumerate();
            return Some(
                groups.flat_map(|(index, &group)| self.impossible_in_group(group, path, index)).collect(),
            );
        }
        if let Some(rates) = get("_last_lr").and_then(|rates| self.objects.sequence(rates)) {
            let rates = rates.iter().take(MAX_KEYS).enumerate();
            let place = |index| format!("{path}: _last_lr[{index}]");
            return Some(rates.filter_map(|(index, &rate)| judged(OF_RATES, place(index), rate)).collect());
        }
        let (scale, _) = (get("scale")?, get("growth_factor")?);
        Some(judged(OF_SCALES, format!("{path}: scale"), scale).into_iter().collect())
    }

    fn impossible_in_group(&self, group: NodeId, path: &str, index: usize) -> Vec<ImpossibleNumber> {
        let fields = self.fields(group);
        let place = |key: &str| format!("{path}: param_groups[{index}].{key}");
        // RMSprop's; those of `AdEMAMix` and Ranger are other numbers.
        let has_decay = fields.contains_key("centered");
        let named = OF_GROUPS
            .iter()
            .filter(|&&(key, _)| key != "alpha" || has_decay)
            .filter_map(|&(key, range)| range.violated(place(key), self.any_scalar(*fields.get(key)?)?));
        let betas = fields.get("betas").and_then(|&id| self.objects.sequence(id)).unwrap_or_default();
        let decays = betas.iter().take(MAX_KEYS).enumerate().filter_map(|(beta, &id)| {
            OF_BETAS.violated(place(&format!("betas[{beta}]")), self.any_scalar(id)?)
        });
        named.chain(decays).collect()
    }

    fn group(&self, fields: &HashMap<&str, NodeId>, parameters: usize) -> ParameterGroup {
        let number = |key| fields.get(key).and_then(|&id| self.scalar(id));
        let betas = fields.get("betas").and_then(|&id| self.objects.sequence(id)).unwrap_or_default();
        let beta = |index: usize| betas.get(index).and_then(|&id| self.scalar(id));
        ParameterGroup {
            learning_rate: number("lr"),
            beta1: beta(0),
            beta2: beta(1),
            epsilon: number("eps"),
            weight_decay: number("weight_decay"),
            momentum: number("momentum"),
            dampening: number("dampening"),
            alpha: number("alpha"),
            amsgrad: self.flag(fields, "amsgrad").unwrap_or(false),
            parameters: parameters as u64,
        }
    }

    /// Where a number is written.
    fn place(&self, id: NodeId) -> Option<Place> {
        match *self.objects.node(id) {
            Node::Tensor(entry) if entry < self.container.entries.len() => {
                Some(Place::Tensor(self.first + entry))
            }
            _ => pickled(self.objects, id),
        }
    }

    fn number(&self, quantity: Quantity, name: String, group: usize, id: NodeId) -> Option<Hyperparameter> {
        let value = self.scalar(id)?;
        Some(Hyperparameter { quantity, name, group, value, place: self.place(id) })
    }

    /// The numbers of one group that training reads back.
    fn hyperparameters(&self, fields: &HashMap<&str, NodeId>, group: usize) -> Vec<Hyperparameter> {
        let betas = fields.get("betas").and_then(|&id| self.objects.sequence(id)).unwrap_or_default();
        let numbers = [
            (Quantity::LearningRate, "lr", fields.get("lr").copied()),
            (Quantity::BaseRate, "initial_lr", fields.get("initial_lr").copied()),
            (Quantity::Beta2, "betas[1]", betas.get(1).copied()),
            (Quantity::Epsilon, "eps", fields.get("eps").copied()),
            (Quantity::Step, "step", fields.get("step").copied()),
        ];
        let named = |(quantity, key, id): (Quantity, &str, Option<NodeId>)| {
            self.number(quantity, format!("param_groups[{group}].{key}"), group, id?)
        };
        numbers.into_iter().filter_map(named).collect()
    }

    fn flag(&self, fields: &HashMap<&str, NodeId>, key: &str) -> Option<bool> {
        match *self.objects.node(*fields.get(key)?) {
            Node::Bool(flag) => Some(flag),
            _ => None,
        }
    }

    /// apex and DeepSpeed's fused Adam keep one step for a whole group.
    fn share_group_step(&self, fields: &HashMap<&str, NodeId>, parameters: &mut [ParameterState]) {
        let step = fields.get("step").and_then(|&id| self.scalar(id));
        for parameter in parameters.iter_mut().filter(|parameter| parameter.stored) {
            parameter.step = parameter.step.or(step);
        }
    }

    /// The learning rates that a scheduler's state dict says it set last.
    fn schedule(&self, id: NodeId) -> Option<(Vec<f64>, Schedule)> {
        if self.objects.entries(id)?.len() > MAX_KEYS {
            return None;
        }
        let list = |key| self.objects.get(id, key).and_then(|list| self.objects.sequence(list));
        let last = list("_last_lr")?;
        let rates: Option<Vec<f64>> = last.iter().take(MAX_KEYS).map(|&rate| self.scalar(rate)).collect();
        let named = |quantity, key: &'static str, list: &'a [NodeId]| {
            let numbers = list.iter().take(MAX_KEYS).enumerate();
            numbers
                .filter_map(move |(group, &id)| self.number(quantity, format!("{key}[{group}]"), group, id))
        };
        let base = list("base_lrs").unwrap_or_default();
        let numbers = named(Quantity::ScheduledRate, "_last_lr", last)
            .chain(named(Quantity::BaseRate, "base_lrs", base))
            .collect();
        Some((rates?, Schedule { file: self.number, rates: numbers }))
    }
}

/// Every key that any parameter's state has.
fn state_keys<'a>(states: &HashMap<String, HashMap<&'a str, NodeId>>) -> BTreeSet<&'a str> {
    states.values().flat_map(|fields| fields.keys().copied()).collect()
}
