//! nanoGPT's `ckpt.pt`: model, optimizer, the sizes the model was made with, and the count of iterations.

use serde_json::{Map, Value};

use super::object::Root;

pub(super) fn is_one(root: &Root<'_>) -> bool {
    root.has(&["model", "model_args", "iter_num"])
}

/// `model_args`, which uses the keys of GPT-2's `config.json`.
pub(super) fn config(root: &Root<'_>) -> Option<Map<String, Value>> {
    root.plain("model_args")
}
