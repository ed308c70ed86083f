//! timm's `.pth.tar`, which is no tar: model, averaged model, optimizer and the arguments of its training script.

use serde_json::{Map, Value};

use super::object::Root;

/// The `version` tells it from the dicts of `PyTorch`'s ImageNet example, which also have an `arch`.
pub(super) fn is_one(root: &Root<'_>) -> bool {
    root.has(&["state_dict", "arch", "version"])
}

/// The script's arguments, and the name of the architecture.
pub(super) fn config(root: &Root<'_>) -> Option<Map<String, Value>> {
    let mut config = root.plain("args").unwrap_or_default();
    let arch = root.objects.text(root.get("arch")?)?;
    config.insert("arch".to_owned(), Value::from(arch));
    Some(config)
}
