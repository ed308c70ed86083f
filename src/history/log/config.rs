//! The clipping threshold, where a config beside the log or in a checkpoint says it.

use std::path::Path;
use std::sync::Arc;

use super::json::Reader;
use super::jsonl;
use super::table::Value;
use crate::context::Context;
use crate::files::InputFile;
use crate::format::detect::read_file;
use crate::format::{Node, NodeId, Objects};

/// Files that trainers write their arguments into.
pub(in super::super) const FILES: &[&str] = &[
    "run.json",
    "args.json",
    "training_args.json",
    PICKLED,
    "ds_config.json",
    "train_config.json",
    "config.json",
];

/// The arguments of the Hugging Face Trainer, a pickled object.
const PICKLED: &str = "training_args.bin";

/// Keys under which a checkpoint in one file keeps the arguments of its run: nanoGPT, timm and Megatron, Lightning.
const PLACES: &[&str] = &["config", "args", "hyper_parameters", "hparams"];

/// A longer file is no list of arguments.
const MAX_BYTES: u64 = 4 << 20;

/// Keys that hold the threshold of the norm: the Trainer, Megatron, nanoGPT, Lightning, DeepSpeed, and loops of one's own.
const KEYS: &[&str] = &[
    "max_grad_norm",
    "clip_grad",
    "clip_grad_norm",
    "grad_clip",
    "gradient_clip_val",
    "gradient_clipping",
    "gradient_clip",
    "clip_norm",
    "clip",
    "max_norm",
];

/// The first threshold above 0 in the file at `path`. A file that cannot be read says nothing.
pub(in super::super) fn clip_threshold(path: &Path, context: &Context) -> Option<f64> {
    let file = Arc::new(InputFile::open(path, context).ok()?);
    if file.len() > MAX_BYTES {
        return None;
    }
    if path.file_name().is_some_and(|name| name == PICKLED) {
        let objects = read_file(&file, context).ok()?.objects?;
        return threshold_in(&objects, objects.root?);
    }
    let mut buffer = Vec::new();
    let bytes = file.bytes(0..file.len(), &mut buffer).ok()?;
    let mut found = None;
    // What stands before the place where it stops being JSON counts all the same.
    let _ = jsonl::object(&mut Reader::new(bytes), &mut String::new(), &mut |name, value| {
        let key = name.rsplit('/').next().unwrap_or(name);
        if let Value::Number(threshold) = value
            && KEYS.contains(&key)
            && is_threshold(threshold)
        {
            found.get_or_insert(threshold);
        }
    });
    found
}

/// The first threshold above 0 among the arguments that a checkpoint in one file keeps. One that cannot be read says nothing.
pub(in super::super) fn clip_threshold_within(path: &Path, context: &Context) -> Option<f64> {
    let file = Arc::new(InputFile::open(path, context).ok()?);
    let objects = read_file(&file, context).ok()?.objects?;
    let root = objects.root?;
    PLACES.iter().filter_map(|place| objects.get(root, place)).find_map(|place| threshold_in(&objects, place))
}

/// The threshold of a dict of arguments, or of an object whose attributes they are.
fn threshold_in(objects: &Objects, arguments: NodeId) -> Option<f64> {
    let attributes = match objects.node(arguments) {
        Node::Object(object) => object.state.unwrap_or(arguments),
        _ => arguments,
    };
    let stated = KEYS.iter().filter_map(|key| objects.number(objects.get(attributes, key)?));
    stated.into_iter().find(|threshold| is_threshold(*threshold))
}

/// 0 turns clipping off.
fn is_threshold(value: f64) -> bool {
    value > 0.0 && value.is_finite()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_threshold_is_found_wherever_it_stands() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.json");
        for (text, expected) in [
            (r#"{"config": {"clip": 0.5, "lr": 1e-3}, "seed": 1}"#, Some(0.5)),
            (r#"{"gradient_clipping": 1.0, "broken": "#, Some(1.0)),
            (r#"{"max_grad_norm": 0, "clip_grad": null}"#, None),
            ("[1, 2]", None),
        ] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(clip_threshold(&path, &Context::default()), expected, "{text}");
        }
        assert_eq!(clip_threshold(folder.path(), &Context::default()), None);
    }

    /// What `fixtures/make_logs.py` had the Trainer write, and what nanoGPT and Lightning keep in their checkpoints.
    #[test]
    fn the_threshold_is_found_among_pickled_arguments() {
        let folder = Path::new("fixtures/logs/arguments");
        let context = Context::default();
        assert_eq!(clip_threshold(&folder.join("training_args.bin"), &context), Some(0.75));
        for (name, expected) in
            [("ckpt_3.pt", Some(0.5)), ("epoch=0-step=3.ckpt", Some(0.25)), ("training_args.bin", None)]
        {
            assert_eq!(clip_threshold_within(&folder.join(name), &context), expected, "{name}");
        }
    }
}
