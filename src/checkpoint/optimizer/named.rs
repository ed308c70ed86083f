//! Optimizer state by name: a safetensors file whose tensors are called `PARAMETER.exp_avg`, and hyperparameters in JSON.
//!
//! That is how a run directory keeps it (`docs/run-directory.md`): nothing is numbered, so that nothing has to be guessed.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use super::algorithm::{Configuration, recognise};
use super::scalar;
use super::{Algorithm, Mapping, Misplaced, OptimizerState, ParameterGroup, ParameterState, Place};
use crate::format::Container;

/// What `state.json` says under `optimizer`, in our words or in those of torch's own `state_dict`.
#[derive(Debug, Clone, Default, Deserialize)]
pub(in crate::checkpoint) struct Hyperparameters {
    #[serde(alias = "name")]
    algorithm: Option<String>,
    #[serde(default, alias = "param_groups")]
    groups: Vec<Group>,
}

#[derive(Debug, Clone, Default, Deserialize)]
struct Group {
    lr: Option<f64>,
    betas: Option<(f64, f64)>,
    eps: Option<f64>,
    weight_decay: Option<f64>,
    momentum: Option<f64>,
    dampening: Option<f64>,
    alpha: Option<f64>,
    #[serde(default)]
    amsgrad: bool,
    /// Names of its parameters; of the only group, or of the last one without a list, all that are in no other.
    #[serde(alias = "params")]
    parameters: Option<BTreeSet<String>>,
}

/// Last components of the tensors' names.
const LEAVES: &[&str] = &[
    "exp_avg",
    "exp_avg_sq",
    "max_exp_avg_sq",
    "momentum_buffer",
    "square_avg",
    "grad_avg",
    "sum",
    "step",
    "master_param",
];

/// The optimizer whose state `container` holds, file `number` of the checkpoint, its first entry tensor `first`. A parameter
/// without a counter of its own has taken `steps`.
pub(in crate::checkpoint) fn read(
    container: &Container,
    file: &str,
    number: usize,
    first: usize,
    hyperparameters: Option<&Hyperparameters>,
    steps: Option<u64>,
) -> Option<OptimizerState> {
    let mut states: BTreeMap<&str, BTreeMap<&str, usize>> = BTreeMap::new();
    for (index, entry) in container.entries.iter().enumerate() {
        if let Some((parameter, leaf)) = entry.name.rsplit_once('.')
            && LEAVES.contains(&leaf)
        {
            states.entry(parameter).or_default().insert(leaf, index);
        }
    }
    if states.is_empty() {
        return None;
    }
    let written = hyperparameters.map(|told| told.groups.as_slice()).unwrap_or_default();
    let whole = [Group::default()];
    let written = if written.is_empty() { &whole } else { written };
    let group_of = |parameter: &str| {
        let lists = |group: &Group| group.parameters.as_ref().is_some_and(|names| names.contains(parameter));
        written
            .iter()
            .position(lists)
            .or_else(|| written.iter().rposition(|group| group.parameters.is_none()))
    };
    let shared = container.entries.iter().position(|entry| entry.name == "step");
    let counter = |own: Option<&usize>| {
        let own = own.copied().or(shared);
        own.map_or(steps.map(|steps| steps as f64), |index| {
            scalar::of_entry(&container.entries[index]).filter(|steps| steps.is_finite())
        })
    };
    let mut parameters = Vec::with_capacity(states.len());
    for (&parameter, fields) in &states {
        let Some(group) = group_of(parameter) else { continue };
        let tensor = |leaf| fields.get(leaf).map(|index| first + index);
        parameters.push(ParameterState {
            key: parameter.to_owned(),
            group,
            name: Some(parameter.to_owned()),
            step: counter(fields.get("step")),
            step_place: tensor("step").map(Place::Tensor),
            stored: true,
            exp_avg: tensor("exp_avg"),
            exp_avg_sq: tensor("exp_avg_sq"),
            max_exp_avg_sq: tensor("max_exp_avg_sq"),
            momentum_buffer: tensor("momentum_buffer"),
            square_avg: tensor("square_avg").or_else(|| tensor("sum")),
            grad_avg: tensor("grad_avg"),
            master: tensor("master_param"),
            ..ParameterState::default()
        });
    }
    parameters.sort_by_key(|parameter| parameter.group);
    let groups = written.iter().enumerate().map(|(index, group)| {
        let own = parameters.iter().filter(|parameter| parameter.group == index).count();
        group.checked(own as u64)
    });
    let keys: BTreeSet<&str> = states.values().flat_map(|fields| fields.keys().copied()).collect();
    let told = hyperparameters.and_then(|told| named(told.algorithm.as_deref()?));
    Some(OptimizerState {
        place: file.to_owned(),
        algorithm: told.unwrap_or_else(|| recognise(&keys, &Configuration::default())),
        groups: groups.collect(),
        orphans: Vec::new(),
        mapping: Mapping::refused(parameters.len(), "there is no model beside the optimizer"),
        parameters,
        misplaced: Misplaced::default(),
        scheduled: None,
        file: number,
        // They stand in `state.json`, under keys of their own.
        hyperparameters: Vec::new(),
    })
}

fn named(algorithm: &str) -> Option<Algorithm> {
    Some(match algorithm.to_ascii_lowercase().as_str() {
        "adam" => Algorithm::Adam,
        "adamw" => Algorithm::AdamW,
        "sgd" => Algorithm::Sgd,
        "rmsprop" => Algorithm::RmsProp,
        "lion" => Algorithm::Lion,
        "adagrad" => Algorithm::Adagrad,
        _ => return None,
    })
}

impl Group {
    fn checked(&self, parameters: u64) -> ParameterGroup {
        ParameterGroup {
            learning_rate: self.lr,
            beta1: self.betas.map(|betas| betas.0),
            beta2: self.betas.map(|betas| betas.1),
            epsilon: self.eps,
            weight_decay: self.weight_decay,
            momentum: self.momentum,
            dampening: self.dampening,
            alpha: self.alpha,
            amsgrad: self.amsgrad,
            parameters,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hyperparameters_are_read_in_our_words_and_in_those_of_torch() {
        let ours =
            r#"{"algorithm": "adamw", "groups": [{"lr": 0.5, "betas": [0.9, 0.99], "parameters": ["a"]}]}"#;
        let torchs = r#"{"name": "AdamW", "param_groups": [{"lr": 0.5, "betas": [0.9, 0.99], "params": ["a"], "maximize": false}]}"#;
        for text in [ours, torchs] {
            let told: Hyperparameters = serde_json::from_str(text).unwrap();
            assert_eq!(told.algorithm.as_deref().and_then(named), Some(Algorithm::AdamW));
            let [group] = &told.groups[..] else { panic!("one group: {text}") };
            assert_eq!((group.lr, group.betas), (Some(0.5), Some((0.9, 0.99))));
            assert_eq!(group.parameters, Some(BTreeSet::from(["a".to_owned()])));
        }
    }
}
