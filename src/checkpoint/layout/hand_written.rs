//! What people save without a framework: a dict of model and optimizer, or a whole module.

use super::object::Root;
use crate::checkpoint::{Section, section};
use crate::format::Node;

/// Whether it is a dict that holds a model and an optimizer.
pub(super) fn is_training_state(root: &Root<'_>) -> bool {
    let sections = section::sections(root.objects);
    sections.contains(&Section::Model) && sections.contains(&Section::Optimizer)
}

/// Whether it is a `torch.nn.Module`, saved with its class.
pub(super) fn is_module(root: &Root<'_>) -> bool {
    let Node::Object(object) = root.objects.node(root.id) else { return false };
    let has = |key| object.state.is_some_and(|state| root.objects.get(state, key).is_some());
    has("_parameters") && has("_modules")
}
