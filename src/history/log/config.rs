//! The clipping threshold, where a config beside the log says it.

use std::path::Path;
use std::sync::Arc;

use super::json::Reader;
use super::jsonl;
use super::table::Value;
use crate::context::Context;
use crate::files::InputFile;

/// Files that trainers write their arguments into.
pub(in super::super) const FILES: &[&str] =
    &["run.json", "args.json", "training_args.json", "ds_config.json", "train_config.json", "config.json"];

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
    let mut buffer = Vec::new();
    let bytes = file.bytes(0..file.len(), &mut buffer).ok()?;
    let mut found = None;
    // What stands before the place where it stops being JSON counts all the same.
    let _ = jsonl::object(&mut Reader::new(bytes), &mut String::new(), &mut |name, value| {
        let key = name.rsplit('/').next().unwrap_or(name);
        if let Value::Number(threshold) = value
            && KEYS.contains(&key)
            && threshold > 0.0
            && threshold.is_finite()
        {
            found.get_or_insert(threshold);
        }
    });
    found
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
}
