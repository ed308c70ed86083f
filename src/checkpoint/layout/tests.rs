//! Directories that lie, and directories of every layout, made on the spot.

use std::path::PathBuf;

use tempfile::TempDir;

use super::*;
use crate::checkpoint::{Checkpoint, CheckpointTensor, NameRules};

/// A directory to fill.
struct Directory {
    _root: TempDir,
    path: PathBuf,
}

impl Directory {
    fn new(name: &str) -> Self {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("run").join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self { _root: root, path }
    }

    fn text(self, name: &str, text: &str) -> Self {
        std::fs::write(self.path.join(name), text).unwrap();
        self
    }

    /// A safetensors file of two-element F32 tensors, all elements the value beside the name.
    fn tensors(self, name: &str, tensors: &[(&str, f32)]) -> Self {
        let entries = tensors.iter().enumerate().map(|(index, (name, _))| {
            format!(
                r#""{name}":{{"dtype":"F32","shape":[2],"data_offsets":[{},{}]}}"#,
                8 * index,
                8 * index + 8
            )
        });
        let header = format!("{{{}}}", entries.collect::<Vec<_>>().join(","));
        let data = tensors.iter().flat_map(|(_, value)| [value.to_le_bytes(); 2].concat());
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.extend(data);
        std::fs::write(self.path.join(name), bytes).unwrap();
        self
    }

    fn index(self, weight_map: &str, metadata: &str) -> Self {
        let text = format!(r#"{{"metadata":{metadata},"weight_map":{weight_map}}}"#);
        self.text("model.safetensors.index.json", &text)
    }

    fn read(&self) -> Result<Checkpoint> {
        Checkpoint::read(&self.path, &NameRules::default(), &Context::default())
    }

    fn refusal(&self) -> String {
        self.read().unwrap_err().kind.name()
    }
}

fn problems(checkpoint: &Checkpoint) -> Vec<String> {
    checkpoint.problems.iter().map(|problem| problem.kind.name()).collect()
}

/// Name and `ok` or what is wrong, sorted.
fn outcomes(checkpoint: &Checkpoint) -> Vec<(String, String)> {
    let outcome = |tensor: &CheckpointTensor| match &tensor.tensor {
        Ok(_) => "ok".to_owned(),
        Err(error) => error.kind.name(),
    };
    let mut outcomes: Vec<_> =
        checkpoint.tensors.iter().map(|tensor| (tensor.name.clone(), outcome(tensor))).collect();
    outcomes.sort();
    outcomes
}

fn expect(directory: &Directory, tensors: &[(&str, &str)], expected_problems: &[&str]) {
    let checkpoint = directory.read().unwrap();
    let tensors: Vec<_> =
        tensors.iter().map(|&(name, outcome)| (name.to_owned(), outcome.to_owned())).collect();
    assert_eq!(outcomes(&checkpoint), tensors);
    assert_eq!(problems(&checkpoint), expected_problems);
}

const FIRST: &str = "model-00001-of-00002.safetensors";
const SECOND: &str = "model-00002-of-00002.safetensors";

/// Two shards: `a` in the first, `b` in the second.
fn two_shards() -> Directory {
    Directory::new("sharded").tensors(FIRST, &[("a", 1.0)]).tensors(SECOND, &[("b", 2.0)])
}

fn honest_map() -> String {
    format!(r#"{{"a":"{FIRST}","b":"{SECOND}"}}"#)
}

#[test]
fn index_and_shards_that_agree_have_no_problem() {
    for total in [r#"{"total_size":16}"#, r#"{"total_size":16.0}"#, "{}", "null"] {
        let directory = two_shards().index(&honest_map(), total);
        expect(&directory, &[("a", "ok"), ("b", "ok")], &[]);
        assert_eq!(directory.read().unwrap().layout, Layout::Sharded);
    }
}

#[test]
fn a_model_under_a_name_that_ends_in_tar_is_the_model_of_its_directory() {
    for name in ["model.pth.tar", "checkpoint-12.pth.tar"] {
        let directory = Directory::new("tar").tensors(name, &[("a", 1.0)]);
        expect(&directory, &[("a", "ok")], &[]);
    }
    let archive = Directory::new("tar").tensors("images.tar", &[("a", 1.0)]);
    assert_eq!(archive.refusal(), "no-checkpoint");
}

#[test]
fn an_index_may_be_named_itself() {
    let directory = two_shards().index(&honest_map(), "{}");
    let path = directory.path.join("model.safetensors.index.json");
    let checkpoint = Checkpoint::read(&path, &NameRules::default(), &Context::default()).unwrap();
    assert_eq!(outcomes(&checkpoint).len(), 2);
}

#[test]
fn a_missing_shard_leaves_its_tensors_listed_as_missing() {
    let directory =
        Directory::new("x").tensors(FIRST, &[("a", 1.0)]).index(&honest_map(), r#"{"total_size":16}"#);
    expect(&directory, &[("a", "ok"), ("b", "missing-shard")], &["not-found"]);
}

#[test]
fn an_index_without_any_shard_is_an_incomplete_checkpoint() {
    assert_eq!(Directory::new("x").index(&honest_map(), "{}").refusal(), "incomplete");
}

#[test]
fn shards_without_an_index_are_an_incomplete_checkpoint() {
    assert_eq!(two_shards().refusal(), "incomplete");
}

#[test]
fn a_shard_elsewhere_is_never_opened() {
    for place in
        ["../../etc/passwd", "/etc/passwd", "..", "a/b", r"C:\\x", r"\\\\host\\share", "a\\u0000b", ""]
    {
        let map = format!(r#"{{"a":"{FIRST}","b":"{place}"}}"#);
        let directory = Directory::new("x").tensors(FIRST, &[("a", 1.0)]).index(&map, "{}");
        expect(&directory, &[("a", "ok"), ("b", "missing-shard")], &["path-escapes"]);
    }
    let only = r#"{"b":"../../etc/passwd"}"#;
    assert_eq!(Directory::new("x").index(only, "{}").refusal(), "path-escapes");
}

#[test]
fn names_with_percents_or_reserved_words_are_names_and_not_found() {
    for place in ["%2e%2e%2fetc%2fpasswd", "CON", "．．／etc"] {
        let map = format!(r#"{{"a":"{FIRST}","b":"{place}"}}"#);
        let directory = Directory::new("x").tensors(FIRST, &[("a", 1.0)]).index(&map, "{}");
        expect(&directory, &[("a", "ok"), ("b", "missing-shard")], &["not-found"]);
    }
}

#[cfg(unix)]
#[test]
fn a_shard_that_is_a_link_out_of_the_directory_is_never_opened() {
    let outside = tempfile::NamedTempFile::new().unwrap();
    let directory = Directory::new("x").tensors(FIRST, &[("a", 1.0)]).index(&honest_map(), "{}");
    std::os::unix::fs::symlink(outside.path(), directory.path.join(SECOND)).unwrap();
    expect(&directory, &[("a", "ok"), ("b", "missing-shard")], &["path-escapes"]);
}

#[test]
fn the_index_as_its_own_shard_is_not_a_checkpoint() {
    let map = format!(r#"{{"a":"{FIRST}","b":"model.safetensors.index.json"}}"#);
    let directory = Directory::new("x").tensors(FIRST, &[("a", 1.0)]).index(&map, "{}");
    expect(&directory, &[("a", "ok"), ("b", "missing-shard")], &["text-file"]);
}

#[test]
fn a_stray_shard_is_named_and_not_read() {
    let directory = two_shards().tensors("model.safetensors", &[("c", 3.0)]).index(&honest_map(), "{}");
    expect(&directory, &[("a", "ok"), ("b", "ok")], &["stray-shard"]);
}

#[test]
fn values_that_are_not_text_cost_their_tensor() {
    for value in ["5", "null", "[]", "{}"] {
        let map = format!(r#"{{"a":"{FIRST}","b":{value}}}"#);
        let directory = Directory::new("x").tensors(FIRST, &[("a", 1.0)]).index(&map, "{}");
        expect(&directory, &[("a", "ok"), ("b", "side-file")], &[]);
    }
}

#[test]
fn an_index_that_is_none_is_refused() {
    for text in ["{}", "[]", "", "{", r#"{"weight_map":[]}"#, r#"{"weight_map":"x"}"#, "\u{feff}{}", "\0"] {
        let refusal = Directory::new("x").text("model.safetensors.index.json", text).refusal();
        assert!(["side-file", "empty-file"].contains(&refusal.as_str()), "{text:?}: {refusal}");
    }
}

#[test]
fn a_total_that_is_not_that_of_the_tensors_is_a_problem() {
    for total in ["-1", "17", "\"16\"", "1e999", "[]"] {
        let directory = two_shards().index(&honest_map(), &format!(r#"{{"total_size":{total}}}"#));
        expect(&directory, &[("a", "ok"), ("b", "ok")], &["total-size"]);
    }
}

#[test]
fn what_the_index_names_and_the_shard_lacks_is_listed() {
    let map = format!(r#"{{"a":"{FIRST}","b":"{SECOND}","c":"{SECOND}"}}"#);
    expect(&two_shards().index(&map, "{}"), &[("a", "ok"), ("b", "ok"), ("c", "not-in-shard")], &[]);
}

#[test]
fn what_the_shard_holds_and_the_index_does_not_name_is_listed() {
    let directory = Directory::new("x").tensors(FIRST, &[("a", 1.0), ("c", 3.0)]);
    let directory = directory.index(&format!(r#"{{"a":"{FIRST}"}}"#), "{}");
    expect(&directory, &[("a", "ok"), ("c", "ok")], &["not-in-index"]);
}

#[test]
fn a_tensor_in_another_shard_than_the_index_says_is_listed_on_both_sides() {
    let map = format!(r#"{{"a":"{SECOND}","b":"{SECOND}","c":"{FIRST}"}}"#);
    let directory =
        Directory::new("x").tensors(FIRST, &[("a", 1.0), ("c", 3.0)]).tensors(SECOND, &[("b", 2.0)]);
    let tensors = [("a", "not-in-shard"), ("a", "ok"), ("b", "ok"), ("c", "ok")];
    expect(&directory.index(&map, "{}"), &tensors, &["not-in-index"]);
}

#[test]
fn two_shards_with_one_name_are_one_tensor_only_if_their_bytes_agree() {
    let directory = |value| {
        let shards =
            Directory::new("x").tensors(FIRST, &[("a", 1.0)]).tensors(SECOND, &[("a", value), ("b", 2.0)]);
        shards.index(&honest_map(), "{}")
    };
    expect(&directory(1.0), &[("a", "ok"), ("b", "ok")], &[]);
    expect(&directory(7.0), &[("a", "different-copies"), ("a", "ok"), ("b", "ok")], &[]);
}

#[test]
fn a_trainer_directory_takes_its_step_from_its_state_which_may_hold_nan() {
    let state = r#"{"global_step": 400, "log_history": [{"loss": NaN, "grad_norm": Infinity, "step": 400}]}"#;
    let directory = Directory::new("checkpoint-400")
        .tensors("model.safetensors", &[("model.a", 1.0), ("model.b", 2.0)])
        .tensors("optimizer.bin", &[("state.0.exp_avg", 0.5)])
        .text("config.json", r#"{"hidden_size": 8}"#)
        .text("trainer_state.json", state);
    let checkpoint = directory.read().unwrap();
    assert_eq!((checkpoint.layout, checkpoint.step), (Layout::HfTrainer, Some(400)));
    assert_eq!(checkpoint.name, "run/checkpoint-400");
    assert_eq!(checkpoint.config.as_ref().unwrap()["hidden_size"], 8);
    assert_eq!(problems(&checkpoint), [""; 0]);
    let names: Vec<_> =
        checkpoint.tensors.iter().map(|tensor| (tensor.canonical_name.as_str(), tensor.section)).collect();
    let optimizer = ("optimizer.state.0.exp_avg", Section::Optimizer);
    assert_eq!(names, [("a", Section::Model), ("b", Section::Model), optimizer]);
}

#[test]
fn a_trainer_directory_whose_state_is_of_another_step_says_so() {
    let directory = Directory::new("checkpoint-500")
        .tensors("model.safetensors", &[("a", 1.0)])
        .text("trainer_state.json", r#"{"global_step": 400}"#);
    let checkpoint = directory.read().unwrap();
    assert_eq!((checkpoint.step, problems(&checkpoint)), (Some(400), vec!["steps-disagree".to_owned()]));
}

#[test]
fn side_files_that_cannot_be_read_cost_themselves() {
    let directory = Directory::new("checkpoint-400")
        .tensors("model.safetensors", &[("a", 1.0)])
        .text("optimizer.pt", "GGUF")
        .text("config.json", "{")
        .text("trainer_state.json", "[1, 2,]");
    let problems = ["unsupported-format", "side-file", "side-file"];
    let checkpoint = directory.read().unwrap();
    assert_eq!(
        (checkpoint.step, self::problems(&checkpoint)),
        (Some(400), problems.map(str::to_owned).to_vec())
    );
}

#[test]
fn a_directory_of_ours_is_a_run_directory() {
    let directory = Directory::new("checkpoint-7")
        .tensors("model.safetensors", &[("a", 1.0)])
        .tensors("optimizer.safetensors", &[("a.exp_avg", 1.0), ("a.step", 7.0)])
        .text("state.json", r#"{"step": 7, "loss": NaN}"#);
    let checkpoint = directory.read().unwrap();
    assert_eq!((checkpoint.layout, checkpoint.step), (Layout::RunDirectory, Some(7)));
    assert_eq!(checkpoint.tensors[2].section, Section::Optimizer);
    assert_eq!(problems(&checkpoint), [""; 0]);
}

#[test]
fn a_directory_with_one_file_of_any_name_is_a_model_directory() {
    let checkpoint = Directory::new("m").tensors("step_30.safetensors", &[("a", 1.0)]).read().unwrap();
    assert_eq!((checkpoint.layout, checkpoint.step), (Layout::ModelDirectory, Some(30)));
    let consolidated = Directory::new("m")
        .tensors("consolidated.00.pth", &[("a", 1.0)])
        .tensors("consolidated.01.pth", &[("a", 2.0)]);
    assert_eq!(consolidated.read().unwrap().files.len(), 2);
}

#[test]
fn a_run_names_its_newest_checkpoint() {
    let run = Directory::new("run");
    for step in [100, 1000, 200] {
        std::fs::create_dir(run.path.join(format!("checkpoint-{step}"))).unwrap();
    }
    let expected = ErrorKind::SeveralCheckpoints { count: 3, newest: "checkpoint-1000".to_owned() };
    assert_eq!(run.read().unwrap_err().kind, expected);
    let files =
        Directory::new("run").tensors("step_9.pt", &[("a", 1.0)]).tensors("step_10.pt", &[("a", 1.0)]);
    let expected = ErrorKind::SeveralCheckpoints { count: 2, newest: "step_10.pt".to_owned() };
    assert_eq!(files.read().unwrap_err().kind, expected);
}

#[test]
fn half_written_directories_are_incomplete() {
    for name in ["checkpoint-400.tmp", "tmp-checkpoint-400", "400.orbax-checkpoint-tmp-17"] {
        assert_eq!(Directory::new(name).tensors("model.safetensors", &[("a", 1.0)]).refusal(), "incomplete");
    }
    assert_eq!(Directory::new("x").text("__0_0.distcp", "x").refusal(), "incomplete");
    assert_eq!(
        Directory::new("checkpoint-400").tensors("optimizer.pt", &[("a", 1.0)]).refusal(),
        "incomplete"
    );
}

#[test]
fn checkpoints_of_other_kinds_are_named() {
    for file in [".metadata", "mp_rank_00_model_states.pt", "manifest.ocdbt", "saved_model.pb"] {
        assert_eq!(Directory::new("x").text(file, "x").refusal(), "unsupported-format", "{file}");
    }
    assert_eq!(Directory::new("x").text("README.md", "x").refusal(), "no-checkpoint");
}

#[test]
fn no_tensor_is_an_error_and_never_an_empty_answer() {
    assert_eq!(Directory::new("x").tensors("model.safetensors", &[]).refusal(), "no-tensors");
    let missing = Checkpoint::read(Path::new("/nowhere/at/all"), &NameRules::default(), &Context::default());
    assert_eq!(missing.unwrap_err().kind, ErrorKind::NotFound);
}
