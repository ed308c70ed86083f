//! What a tensor's name says: its canonical name, its layer, its place in forward order, and its role.
//!
//! Names are conventions, not facts. The conventions of public architectures are the tables in `roles.rs` and
//! `order.rs`; a model with names of its own says what they mean under `[[names]]` in `flashpoint.toml`
//! ([`NameRules`]), which is asked first. What nobody knows is [`Role::Other`]. Reference: `docs/formats.md`.

use std::collections::HashSet;

use rayon::iter::{IndexedParallelIterator, IntoParallelIterator, ParallelIterator};

use super::{Layer, Role};
use crate::tensor::DType;

mod glob;
mod order;
mod pattern;
mod roles;
mod rules;
#[cfg(test)]
mod tests;

pub use self::glob::Glob;
pub use rules::NameRules;

/// What is known of a tensor besides its elements.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// Its name, without the name of the container that held it.
    pub name: &'a str,
    /// Its shape, where it could be read.
    pub shape: Option<&'a [u64]>,
    /// Its dtype, where it could be read.
    pub dtype: Option<DType>,
}

/// What its name says.
#[derive(Debug, Clone, PartialEq)]
pub struct Named {
    /// The name with wrappers' prefixes removed.
    pub canonical_name: String,
    /// Its layer.
    pub layer: Layer,
    /// Its role.
    pub role: Role,
}

/// Components that wrappers put into the path of the module they wrap: DDP, `torch.compile`, `DeepSpeed`, FSDP,
/// activation checkpointing.
const WRAPPERS: &[&str] = &[
    "module",
    "_orig_mod",
    "_forward_module",
    "_fsdp_wrapped_module",
    "_fpw_module",
    "_checkpoint_wrapped_module",
    "_checkpoint_wrapped",
];

/// Whether `name` is that of a parameter inside a wrapper. `module` is a wrapper's where it stands first: deeper, it is a layer's own (`LeViT`).
pub fn is_wrapped(name: &str) -> bool {
    let is_wrapper = |component: &str| component.starts_with('_') && WRAPPERS.contains(&component);
    name.starts_with("module.") || name.split('.').any(is_wrapper)
}

/// Names all tensors of one model. Siblings and the order of the list matter, so it must be the whole model.
pub fn assign(subjects: &[Subject<'_>], rules: &NameRules) -> Vec<Named> {
    let names = canonical_names(subjects.iter().map(|subject| subject.name));
    let roles = roles::roles(&names, subjects);
    let name_one = |(name, role): (String, Role)| {
        let rule = rules.find(&name);
        let role = rule.map_or(role, |rule| rule.role);
        let path = rule.and_then(|rule| rule.layer.as_deref()).unwrap_or_else(|| module(&name));
        let layer = Layer { path: path.to_owned(), index: order::block_index(&name), order: 0 };
        Named { canonical_name: name, layer, role }
    };
    // What a convention says of one name is no work for another thread, nor worth starting any; patterns of the user's are.
    let mut named: Vec<Named> = if rules.is_empty() {
        names.into_iter().zip(roles).map(name_one).collect()
    } else {
        names.into_par_iter().zip(roles).map(name_one).collect()
    };
    order::put_in_order(&mut named);
    named
}

/// Longest name that is taken apart, in bytes and in components. Frameworks make none a tenth as long, and patterns
/// cost more than linear time in both.
const MAX_NAME_BYTES: usize = 4096;
const MAX_COMPONENTS: usize = 256;

/// Whether a name is none that a framework makes. Such a name has no conventional role, index or place.
fn is_too_long(name: &str) -> bool {
    name.len() > MAX_NAME_BYTES
        || (name.len() > MAX_COMPONENTS && name.split('.').nth(MAX_COMPONENTS).is_some())
}

/// How components of names begin that are of an adapter and of no base model: IA3, LoHa, LoKr, OFT, VeRA, prompts (peft).
const ADAPTERS: [&str; 6] = ["ia3_", "hada_", "lokr_", "oft_", "vera_", "prompt_embeddings"];

/// Whether `name` is of an adapter other than a low-rank one, whose halves have roles.
pub fn is_of_adapter(name: &str) -> bool {
    name.split('.').any(|component| ADAPTERS.iter().any(|start| component.starts_with(start)))
}

/// The components of `name`, as `split('.')` has them: that is made for long texts, and a component has a dozen letters.
pub fn components(name: &str) -> impl Iterator<Item = &str> + Clone {
    let mut rest = Some(name);
    std::iter::from_fn(move || {
        let text = rest?;
        let Some(dot) = text.bytes().position(|byte| byte == b'.') else { return rest.take() };
        rest = Some(&text[dot + 1..]);
        Some(&text[..dot])
    })
}

/// The path of the module that owns the parameter `name`: all but its last component.
pub(in crate::checkpoint) fn module(name: &str) -> &str {
    name.rsplit_once('.').map_or("", |(module, _)| module)
}

/// The names without wrappers; a name stays as it is where two would become one.
fn canonical_names<'a>(names: impl Iterator<Item = &'a str> + Clone) -> Vec<String> {
    let mut any_unwrapped = false;
    let mut strip = |name: &str| {
        let shorter = without_wrappers(name);
        any_unwrapped |= shorter.is_some();
        shorter.unwrap_or_else(|| name.to_owned())
    };
    let stripped = without_shared_prefix(names.clone().map(&mut strip).collect());
    // A prefix that all have in common tells no two of them apart.
    if !any_unwrapped {
        return stripped;
    }
    let distinct: HashSet<&str> = stripped.iter().map(String::as_str).collect();
    if distinct.len() == names.clone().collect::<HashSet<_>>().len() {
        stripped
    } else {
        names.map(str::to_owned).collect()
    }
}

/// The name without wrappers, where it has any, and something besides.
fn without_wrappers(name: &str) -> Option<String> {
    // The comparison of one letter spares nearly all of the others.
    let is_wrapper = |component: &&str| component.starts_with(['m', '_']) && WRAPPERS.contains(component);
    if !components(name).any(|component| is_wrapper(&component)) {
        return None;
    }
    let kept: Vec<&str> = name.split('.').filter(|component| !is_wrapper(component)).collect();
    (!kept.is_empty()).then(|| kept.join("."))
}

/// What transformers' models with a head call the body below it. Where the head is tied it need not be stored, and its model is the
/// same with it and without.
const BODIES: &[&str] =
    &["model.embed_tokens.", "model.decoder.embed_tokens.", "model.encoder.embed_tokens.", "model.shared."];

/// The names without `model.`, where all of them begin with it and it is not the body of a model with a head.
fn without_shared_prefix(mut names: Vec<String>) -> Vec<String> {
    const SHARED: &str = "model.";
    let is_body = names.iter().any(|name| BODIES.iter().any(|body| name.starts_with(body)));
    if !is_body && names.iter().all(|name| name.len() > SHARED.len() && name.starts_with(SHARED)) {
        for name in &mut names {
            name.drain(..SHARED.len());
        }
    }
    names
}
