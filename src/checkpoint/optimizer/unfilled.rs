//! Places of a checkpoint that are called an optimizer's and hold nothing.

use serde::{Deserialize, Serialize};

use crate::format::{Container, Node, NodeId, Objects};

/// A place for an optimizer's state that holds none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct UnfilledOptimizer {
    /// The file, and the key in it.
    pub place: String,
    /// What stands there.
    pub holds: Nothing,
}

/// What stands where nothing is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Nothing {
    /// `None`, which somebody wrote on purpose.
    None,
    /// An empty list: of no optimizer.
    EmptyList,
    /// An empty dict, which no optimizer of PyTorch gives: as a process gets that another one gathers the state for.
    EmptyDict,
}

/// Words of keys that hold the state of optimizers.
const OPTIMIZERS: &[&str] = &["optimizer", "optimizers", "optimiser", "optimisers", "optim", "optims", "opt"];
const STATES: &[&str] = &["state", "states", "dict", "dicts", "sd"];
/// Words that tell several optimizers apart.
const NAMES: &[&str] = &["generator", "discriminator", "gen", "disc", "actor", "critic", "policy", "value"];

/// The keys of the root that are an optimizer's by their names and hold nothing; the root itself, where the whole file is an optimizer's.
pub(in crate::checkpoint) fn unfilled(
    container: &Container,
    file: &str,
    is_optimizer: bool,
) -> Vec<UnfilledOptimizer> {
    let Some((objects, root)) = container.objects.as_ref().and_then(|objects| Some((objects, objects.root?)))
    else {
        return Vec::new();
    };
    if let Some(holds) = nothing(objects, root).filter(|_| is_optimizer) {
        return vec![UnfilledOptimizer { place: file.to_owned(), holds }];
    }
    let of_optimizers = objects.entries(root).unwrap_or_default().iter().filter_map(|&(key, value)| {
        let key = objects.text(key).filter(|key| is_of_optimizer(key))?;
        Some(UnfilledOptimizer { place: format!("{file}: {key}"), holds: nothing(objects, value)? })
    });
    of_optimizers.collect()
}

fn nothing(objects: &Objects, id: NodeId) -> Option<Nothing> {
    match objects.node(id) {
        Node::None => Some(Nothing::None),
        _ if objects.entries(id).is_some_and(<[_]>::is_empty) => Some(Nothing::EmptyDict),
        _ if objects.sequence(id).is_some_and(<[_]>::is_empty) => Some(Nothing::EmptyList),
        _ => None,
    }
}

/// `optimizer`, `optimizer_state_dict`, `optimizer_states`, `optim_d`, `optimizerG`, `critic_optimizer`; not `optimizer_kwargs`, and not `opt`,
/// which is as often the options of a command.
fn is_of_optimizer(key: &str) -> bool {
    let lower = key.to_ascii_lowercase();
    let is_optimizer = |word: &str| {
        let begins = |start: &&str| word.strip_prefix(*start).is_some_and(|rest| rest.len() <= 1);
        OPTIMIZERS.iter().any(begins) && word != "opts"
    };
    let is_beside = |word: &str| STATES.contains(&word) || NAMES.contains(&word) || word.len() == 1;
    let mut words = lower.split(['_', '-', '.', ' ']);
    lower != "opt"
        && words.clone().any(is_optimizer)
        && words.all(|word| is_optimizer(word) || is_beside(word))
}

#[cfg(test)]
mod tests {
    use super::is_of_optimizer;

    #[test]
    fn keys_of_the_state_of_optimizers_are_told_from_those_of_their_settings() {
        for key in [
            "optimizer",
            "optimizers",
            "optimizer_state_dict",
            "optimizer_states",
            "opt_state",
            "optim_d",
            "optimizerG",
            "optim2",
            "critic_optimizer",
        ] {
            assert!(is_of_optimizer(key), "{key}");
        }
        for key in [
            "opt",
            "opts",
            "optimizer_kwargs",
            "optimizer_class",
            "optimize",
            "options",
            "state",
            "lr_scheduler",
        ] {
            assert!(!is_of_optimizer(key), "{key}");
        }
    }
}
