//! The clipping threshold, where a config beside the log or in a checkpoint says it.

use std::collections::BTreeMap;
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
];

/// Keys that loops of one's own use for it, and others for the ratio of PPO or the size of a picture: they count beside one of
/// [`OF_TRAINING`] and none of [`OF_POLICIES`].
const SHORT_KEYS: &[&str] = &["clip", "max_norm"];

/// See [`SHORT_KEYS`].
const OF_TRAINING: &[&str] = &["lr", "learning_rate", "optimizer", "optim"];

/// See [`SHORT_KEYS`].
const OF_POLICIES: &[&str] = &[
    "gamma",
    "gae_lambda",
    "ent_coef",
    "entropy_coef",
    "vf_coef",
    "value_coef",
    "clip_range",
    "clip_coef",
    "ppo_epochs",
    "env",
    "env_id",
];

/// What is clipped, where it can be something else: Lightning and timm. `value` is each element, `agc` the norm of each unit.
const MODES: &[&str] = &["gradient_clip_algorithm", "clip_mode"];

/// The mode whose threshold is one of the norm.
const NORM: &str = "norm";

/// What an argument says, as far as it matters.
enum Stated {
    Number(f64),
    Text(String),
}

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
    // Each object's own arguments, in the order in which the objects begin.
    let mut found: Vec<Vec<(String, Stated)>> = Vec::new();
    let mut places: BTreeMap<String, usize> = BTreeMap::new();
    // What stands before the place where it stops being JSON counts all the same.
    let _ = jsonl::object(&mut Reader::new(bytes), &mut String::new(), &mut |name, value| {
        let (place, key) = name.rsplit_once('/').unwrap_or(("", name));
        if !matters(key) {
            return;
        }
        let stated = match value {
            Value::Number(number) => Stated::Number(number),
            Value::Text(text) => Stated::Text(text.to_owned()),
            _ => Stated::Text(String::new()),
        };
        let at = *places.entry(place.to_owned()).or_insert_with(|| {
            found.push(Vec::new());
            found.len() - 1
        });
        found[at].push((key.to_owned(), stated));
    });
    found.iter().find_map(|arguments| stated_threshold(arguments))
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
    let stated = objects.entries(attributes)?.iter().filter_map(|(key, value)| {
        let stated = match (objects.number(*value), objects.text(*value)) {
            (Some(number), _) => Stated::Number(number),
            (None, text) => Stated::Text(text.unwrap_or_default().to_owned()),
        };
        Some((objects.text(*key)?.to_owned(), stated))
    });
    stated_threshold(&stated.collect::<Vec<_>>())
}

/// Whether an argument of this name says anything about a threshold.
fn matters(key: &str) -> bool {
    [KEYS, SHORT_KEYS, OF_TRAINING, OF_POLICIES, MODES].iter().any(|keys| keys.contains(&key))
}

/// The threshold of the norm among the arguments of one object.
fn stated_threshold(arguments: &[(String, Stated)]) -> Option<f64> {
    let has = |keys: &[&str]| arguments.iter().any(|(key, _)| keys.contains(&key.as_str()));
    let is_other = |(key, stated): &(String, Stated)| {
        MODES.contains(&key.as_str())
            && matches!(stated, Stated::Text(mode) if !mode.is_empty() && !mode.eq_ignore_ascii_case(NORM))
    };
    if arguments.iter().any(is_other) {
        return None;
    }
    let short = has(OF_TRAINING) && !has(OF_POLICIES);
    let holds = |key: &str| KEYS.contains(&key) || (short && SHORT_KEYS.contains(&key));
    arguments.iter().filter(|(key, _)| holds(key)).find_map(|(_, stated)| match stated {
        Stated::Number(threshold) => Some(*threshold).filter(|threshold| is_threshold(*threshold)),
        Stated::Text(_) => None,
    })
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
            // Lightning and timm clip something else, and PPO its ratio.
            (r#"{"gradient_clip_val": 0.2, "gradient_clip_algorithm": "value"}"#, None),
            (r#"{"gradient_clip_val": 0.2, "gradient_clip_algorithm": "norm"}"#, Some(0.2)),
            (r#"{"gradient_clip_val": 0.2, "gradient_clip_algorithm": null}"#, Some(0.2)),
            (r#"{"clip_grad": 0.01, "clip_mode": "agc"}"#, None),
            (r#"{"clip": 0.2}"#, None),
            (r#"{"ppo": {"clip": 0.2, "lr": 3e-4, "gamma": 0.99, "max_grad_norm": 0.5}}"#, Some(0.5)),
            (
                r#"{"augmentation": {"clip": 4, "max_norm": 2}, "optim": {"lr": 0.1, "max_norm": 3}}"#,
                Some(3.0),
            ),
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
