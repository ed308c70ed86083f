//! What a name says: the step in it, a gradient dump, a log, a rank.

use std::path::Path;

use crate::checkpoint::step_in_name;
use crate::history::EVALUATION;

/// Extensions of files that may hold tensors of a checkpoint.
const TENSORS: &[&str] = &["safetensors", "pt", "pth", "bin", "ckpt", "tar", "npz"];

/// Extensions of logs of columns or rows.
const ROWS: &[&str] = &["jsonl", "ndjson", "csv", "tsv"];

/// Extensions of what a terminal showed.
const TEXTS: &[&str] = &["log", "txt", "out", "stdout", "err"];

/// Beside words for evaluation, one in names of logs that are not of training.
const PREDICTIONS: &str = "predictions";

/// Names of files that stand beside a model and are none.
const BESIDE: &[&str] = &[
    "optimizer",
    "scheduler",
    "scaler",
    "sampler",
    "dl_state_dict",
    "rng_state",
    "random_states",
    "custom_checkpoint",
    "training_args",
];

fn extension(name: &str) -> String {
    name.rsplit_once('.').map(|(_, extension)| extension.to_ascii_lowercase()).unwrap_or_default()
}

/// Words of a name, in lower case: `Grads_step-400.pt` has `grads`, `step`, `400`, `pt`.
fn words(name: &str) -> Vec<String> {
    let parts = name.split(|character: char| !character.is_ascii_alphanumeric());
    parts.filter(|word| !word.is_empty()).map(str::to_ascii_lowercase).collect()
}

/// A measurement file.
pub(super) fn is_measurement(name: &str) -> bool {
    name.trim_end_matches(".gz").ends_with(".measured.json")
}

/// A file that may hold tensors of a model.
pub(super) fn may_hold_tensors(name: &str) -> bool {
    let stem = name.split('.').next().unwrap_or(name);
    let beside = BESIDE.iter().any(|start| {
        stem.strip_prefix(start)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('_') || rest.starts_with('-'))
    });
    TENSORS.contains(&extension(name).as_str()) && !beside
}

/// A name of gradients: `grads`, `gradients-400`, `step_400.grad.safetensors`.
pub(super) fn is_of_gradients(name: &str) -> bool {
    let is = |word: &String| {
        ["grad", "grads", "gradient", "gradients", "graddump", "graddumps"].contains(&word.as_str())
            || word.strip_prefix("grads").or(word.strip_prefix("gradients")).is_some_and(is_number)
    };
    words(name).iter().any(is)
}

/// A directory that by its whole name holds gradients and nothing else: `grads`, not `gradient-spike-3`.
pub(super) fn is_gradients(name: &str) -> bool {
    words(name).len() == 1 && is_of_gradients(name)
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// How much a name promises to be a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LogName {
    /// Rows, or events of TensorBoard.
    Rows,
    /// Text in which rows may stand.
    Text,
}

/// Whether the name is that of a log of training.
pub(super) fn log(name: &str) -> Option<LogName> {
    if name.contains("tfevents") {
        return Some(LogName::Rows);
    }
    let words = words(name);
    if words.iter().any(|word| EVALUATION.contains(&word.as_str()) || word == PREDICTIONS) {
        return None;
    }
    let extension = extension(name);
    if ROWS.contains(&extension.as_str()) {
        return Some(LogName::Rows);
    }
    TEXTS.contains(&extension.as_str()).then_some(LogName::Text)
}

/// The step in the name of a file or directory, and whether it can be nothing else.
pub(super) fn step(name: &str) -> Option<(u64, bool)> {
    step_in_name(Path::new(name))
}

/// The last number in a name, and the name with `#` in its place: what numbered files have in common.
///
/// `None` for one of several shards, which are numbered too.
pub(super) fn numbered(name: &str) -> Option<(u64, String)> {
    let stem = name.strip_suffix(&format!(".{}", extension(name))).unwrap_or(name);
    if stem.contains("-of-") {
        return None;
    }
    let end = stem.rfind(|character: char| character.is_ascii_digit())? + 1;
    let start = stem[..end].rfind(|character: char| !character.is_ascii_digit()).map_or(0, |at| at + 1);
    // The start lies behind a whole character: digits are ASCII, and what precedes them is found as a character.
    let start = if stem.is_char_boundary(start) { start } else { end };
    let number = stem.get(start..end)?.parse().ok()?;
    Some((number, format!("{}#{}", stem.get(..start)?, name.get(end..)?)))
}

/// The epoch in the last component of a path: 3 in `model_epoch_3.pth`, `epoch=3.ckpt`, `epoch3`.
pub(super) fn epoch(path: &str) -> Option<u64> {
    let name = path.rsplit('/').next().unwrap_or(path);
    let words = words(name);
    words.iter().enumerate().find_map(|(at, word)| {
        let number = word.strip_prefix("epoch")?;
        let number = if number.is_empty() { words.get(at + 1)? } else { number };
        number.parse().ok()
    })
}

/// The rank in a path, and the path without it: replicas differ in nothing else.
pub(super) fn rank(path: &str) -> Option<(u64, String)> {
    let lower = path.to_ascii_lowercase();
    lower.match_indices("rank").find_map(|(start, word)| {
        let rest = &lower[start + word.len()..];
        let rest = rest.strip_prefix(['-', '_', '=']).unwrap_or(rest);
        let digits = rest.len() - rest.trim_start_matches(|character: char| character.is_ascii_digit()).len();
        let rank = rest[..digits].parse().ok()?;
        Some((rank, format!("{}#{}", &lower[..start], &rest[digits..])))
    })
}

/// Sorts names as people do: `version_10` behind `version_2`.
pub(super) fn natural(name: &str) -> Vec<(bool, u128, String)> {
    let mut parts: Vec<(bool, u128, String)> = Vec::new();
    let mut rest = name;
    while !rest.is_empty() {
        let digits = rest.len() - rest.trim_start_matches(|character: char| character.is_ascii_digit()).len();
        let text = rest.find(|character: char| character.is_ascii_digit()).unwrap_or(rest.len());
        let length = if digits > 0 { digits } else { text };
        let (part, behind) = rest.split_at(length);
        let number = if digits > 0 { part.parse().unwrap_or(u128::MAX) } else { 0 };
        parts.push((digits == 0, number, part.to_owned()));
        rest = behind;
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gradients_are_told_by_a_word() {
        for name in ["grads", "Gradients", "step-400.grad.safetensors", "gradients_400.pt", "grads400.pt"] {
            assert!(is_of_gradients(name), "{name}");
        }
        for name in ["gradio", "upgrade.pt", "model.safetensors", "grader"] {
            assert!(!is_of_gradients(name), "{name}");
        }
    }

    #[test]
    fn numbers_and_ranks_are_found() {
        assert_eq!(numbered("net_000100.pth"), Some((100, "net_#.pth".to_owned())));
        assert_eq!(numbered("7.safetensors"), Some((7, "#.safetensors".to_owned())));
        assert_eq!(numbered("model-00001-of-00003.safetensors"), None);
        assert_eq!(numbered("größe3é.pt"), Some((3, "größe#é.pt".to_owned())));
        assert_eq!(numbered("model.pt"), None);
        assert_eq!(rank("run/ckpt_400_rank1.pt"), Some((1, "run/ckpt_400_#.pt".to_owned())));
        assert_eq!(rank("rank0/checkpoint-4"), Some((0, "#/checkpoint-4".to_owned())));
        assert_eq!(rank("lowrank/a"), None);
    }

    #[test]
    fn versions_are_in_the_order_of_their_numbers() {
        let mut names = ["version_10", "version_2", "a", "version_2b"];
        names.sort_by_key(|name| natural(name));
        assert_eq!(names, ["a", "version_2", "version_2b", "version_10"]);
    }

    #[test]
    fn logs_of_evaluation_are_none() {
        assert_eq!(log("metrics.csv"), Some(LogName::Rows));
        assert_eq!(log("events.out.tfevents.1700000000.host"), Some(LogName::Rows));
        assert_eq!(log("train.log"), Some(LogName::Text));
        assert_eq!(log("eval_results.csv"), None);
        assert_eq!(log("validation.jsonl"), None);
        assert_eq!(log("model.safetensors"), None);
    }
}
