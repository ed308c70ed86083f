//! Ways past the gate that are closed: what nobody judged, what the baseline hides, what an exception means, heads under a limit.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use safetensors::tensor::{Dtype, TensorView};
use serde_json::Value;
use tempfile::TempDir;

const HEALTHY: &str = "fixtures/runs/rnn-healthy/checkpoint-0400";
const HOLE: &str = "fixtures/rules/FP904-uncovered-bytes/fires-hole-between-tensors.safetensors";

fn flashpoint(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_flashpoint"))
        .args(arguments)
        .output()
        .expect("the binary under test can be started")
}

fn told(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// A folder for files of one test.
struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary directory can be made"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().expect("temporary paths are UTF-8").to_owned()
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        std::fs::write(self.path(name), content).expect("it can be written");
        self.text(name)
    }

    fn copy(&self, source: &str, name: &str) -> String {
        std::fs::copy(source, self.path(name)).unwrap_or_else(|error| panic!("{source}: {error}"));
        self.text(name)
    }

    /// A file of f32 tensors, each of one dimension.
    fn tensors(&self, name: &str, tensors: &[(&str, &[f32])]) -> String {
        let bytes = tensors.iter().map(|(name, values)| {
            (*name, values.len(), values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>())
        });
        let bytes = bytes.collect::<Vec<_>>();
        let views = bytes.iter().map(|(name, length, bytes)| {
            (*name, TensorView::new(Dtype::F32, vec![*length], bytes).expect("the shape fits"))
        });
        self.write(name, safetensors::serialize(views, None).expect("it can be written"))
    }

    /// The measurement file of a checkpoint, as an accepted one.
    fn accepted(&self, checkpoint: &str) -> String {
        let name = self.text("accepted.measured.json");
        let output = flashpoint(&["measure", checkpoint, "--output", &name]);
        assert!(self.path("accepted.measured.json").is_file(), "{}", told(&output));
        name
    }
}

/// The exit code, and what was decided: check, effect, message.
fn judged(arguments: &[&str]) -> (i32, Vec<[String; 3]>) {
    let output = flashpoint(&[&["gate", "--format", "json"], arguments].concat());
    let report: Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", told(&output)));
    let decisions = report["gate"]["decisions"].as_array().expect("decisions are a list").iter();
    let decisions = decisions.map(|decision| {
        ["check", "effect", "message"].map(|key| decision[key].as_str().expect("text").to_owned())
    });
    (output.status.code().expect("an exit code"), decisions.collect())
}

fn count(decisions: &[[String; 3]], check: &str, effect: &str) -> usize {
    decisions.iter().filter(|decision| decision[0] == check && decision[1] == effect).count()
}

/// 2048 small values that no rule minds.
fn small() -> Vec<f32> {
    (0..2048_u32)
        .map(|index| (f32::from(u8::try_from(index * 37 % 101).expect("it is below 101")) - 50.0) / 1000.0)
        .collect()
}

fn with(first: &[(usize, f32)]) -> Vec<f32> {
    let mut values = small();
    for (count, value) in first {
        let start = values.iter().filter(|value| !value.is_finite()).count();
        values[start..start + count].fill(*value);
    }
    values
}

#[test]
fn a_file_of_neither_model_nor_optimizer_is_not_judged() {
    let folder = Folder::new();
    let path = folder.copy("fixtures/layouts/hf-trainer/checkpoint-6/rng_state.pth", "rng_state.pth");
    let (code, decisions) = judged(&[&path]);
    assert_eq!((code, count(&decisions, "gate-not-judged", "prevents")), (2, 1), "{decisions:?}");
    assert!(decisions[0][2].contains("its tensors are of neither"), "{decisions:?}");
}

#[test]
fn a_second_model_that_was_not_read_prevents_a_decision_and_is_told_once() {
    let folder = Folder::new();
    for entry in std::fs::read_dir("fixtures/formats/sharded-bin").expect("the fixture can be listed") {
        let path = entry.expect("a listed entry can be read").path();
        let name = path.file_name().and_then(|name| name.to_str()).expect("a name");
        folder.copy(path.to_str().expect("UTF-8"), name);
    }
    let alone = judged(&[folder.0.path().to_str().expect("UTF-8")]);
    assert_eq!(alone.0, 0, "{:?}", alone.1);
    folder.tensors("value_head.safetensors", &[("fc.weight", &with(&[(2048, f32::NAN)]))]);
    let path = folder.0.path().to_str().expect("UTF-8");
    let (code, decisions) = judged(&[path]);
    assert_eq!((code, decisions.len()), (2, 1), "{decisions:?}");
    assert_eq!(decisions[0][0], "gate-not-judged");
    assert!(told(&flashpoint(&["gate", path])).contains("gate that file by its own path"));
}

#[test]
fn files_that_may_hold_tensors_and_are_no_part_of_the_model_are_named_and_do_not_fail() {
    let folder = Folder::new();
    for below in ["m", "m/2_Dense", "m/onnx", "m/.cache", "m/1_Pooling"] {
        std::fs::create_dir(folder.path(below)).expect("a folder can be made");
    }
    folder.tensors("m/model.safetensors", &[("fc.weight", &small())]);
    folder.write("m/1_Pooling/config.json", "{}");
    folder.write("m/onnx/tokenizer.json", "{}");
    folder.tensors("m/.cache/old.safetensors", &[("fc.weight", &[f32::NAN])]);
    let (code, quiet) = judged(&[&folder.text("m")]);
    assert_eq!((code, count(&quiet, "FP903", "noticed")), (0, 0), "{quiet:?}");

    folder.write("m/weights.npz", "anything");
    folder.write("m/onnx/model.onnx", "anything");
    folder.tensors("m/2_Dense/model.safetensors", &[("linear.weight", &[f32::NAN])]);
    let (code, told) = judged(&[&folder.text("m")]);
    assert_eq!((code, count(&told, "FP903", "noticed")), (0, 1), "{told:?}");
    let [_, _, message] = told.iter().find(|told| told[0] == "FP903").expect("it was counted");
    assert_eq!(
        message,
        "weights.npz: it may hold tensors, and was not read beside model.safetensors; 2 more: 2_Dense/model.safetensors, onnx/model.onnx"
    );
}

#[test]
fn a_hole_is_told_once_and_a_raised_limit_lets_it_be_and_says_so() {
    let (code, decisions) = judged(&[HOLE]);
    let prevents = decisions.iter().filter(|decision| decision[1] == "prevents").collect::<Vec<_>>();
    assert_eq!((code, prevents.len()), (2, 1), "{decisions:?}");
    assert_eq!(prevents[0][0], "FP904");
    let folder = Folder::new();
    let policy = folder.write("flashpoint.toml", "[rules.FP904]\nbytes = 1e9\n");
    let (code, decisions) = judged(&[HOLE, "--policy", &policy]);
    assert_eq!((code, count(&decisions, "gate-not-judged", "tolerated")), (0, 1), "{decisions:?}");
    assert!(told(&flashpoint(&["gate", HOLE, "--policy", &policy])).contains("limit replaced: FP904.bytes"));
    let tight = folder.write("flashpoint.toml", "[rules.FP904]\nbytes = 1\n");
    assert_eq!(judged(&[HOLE, "--policy", &tight]).0, 2);
}

#[test]
fn damage_beside_a_note_of_the_same_rule_is_still_damage() {
    // As an older measurement may state it: a hole that no file admits to, beside a note.
    let folder = Folder::new();
    let measured = folder.accepted(HOLE);
    let mut analysis: Value =
        serde_json::from_slice(&std::fs::read(&measured).expect("it was written")).expect("it is JSON");
    let checkpoint = &mut analysis["checkpoints"][0];
    checkpoint["files"][0]["uncovered_bytes"] = 0.into();
    let problems = checkpoint["problems"].as_array_mut().expect("problems are a list");
    assert_eq!(problems.len(), 1);
    let mut note = problems[0].clone();
    (note["kind"], note["damage"]) = ("steps-disagree".into(), false.into());
    problems.push(note);
    std::fs::write(&measured, analysis.to_string()).expect("it can be written");
    let (code, decisions) = judged(&[&measured]);
    assert_eq!((code, count(&decisions, "gate-unreadable", "prevents")), (2, 1), "{decisions:?}");
}

#[test]
fn required_rules_that_ask_for_adam_are_missing_on_another_optimizer() {
    let folder = Folder::new();
    let rules = ["FP303", "FP304", "FP305", "FP308", "FP309", "FP312", "FP702", "FP707"];
    let list = rules.map(|rule| format!("\"{rule}\"")).join(", ");
    let policy = folder.write("flashpoint.toml", format!("[gate]\nrequired = [{list}]\n"));
    let (code, decisions) = judged(&["fixtures/optimizer/adafactor.pt", "--policy", &policy]);
    assert_eq!(code, 2, "{decisions:?}");
    for rule in rules {
        let missing = decisions.iter().filter(|decision| {
            decision[0] == "gate-required-check" && decision[2].starts_with(rule) && decision[1] == "prevents"
        });
        assert_eq!(missing.count(), 1, "{rule}: {decisions:?}");
    }
}

#[test]
fn a_measurement_without_a_checkpoint_is_unreadable_beside_one_that_passes() {
    let folder = Folder::new();
    let measured = folder.accepted(HEALTHY);
    let mut analysis: Value =
        serde_json::from_slice(&std::fs::read(&measured).expect("it was written")).expect("it is JSON");
    analysis["checkpoints"] = Value::Array(Vec::new());
    let empty = folder.write("empty.measured.json", analysis.to_string());
    let (code, decisions) = judged(&[&empty, HEALTHY]);
    assert_eq!((code, count(&decisions, "gate-unreadable", "prevents")), (2, 1), "{decisions:?}");
    assert!(decisions[0][2].contains("holds no checkpoint"), "{decisions:?}");
}

#[test]
fn a_number_that_is_well_again_is_not_worse_and_a_count_that_grows_is() {
    let folder = Folder::new();
    let before =
        folder.tensors("before.safetensors", &[("fc.weight", &with(&[(3, f32::NAN), (2, f32::INFINITY)]))]);
    let baseline = folder.accepted(&before);
    let after = folder.tensors("after.safetensors", &[("fc.weight", &with(&[(2, f32::INFINITY)]))]);
    let (code, decisions) = judged(&[&after, "--baseline", &baseline]);
    assert_eq!((code, count(&decisions, "FP101", "tolerated")), (0, 1), "{decisions:?}");

    let before = folder.tensors("before.safetensors", &[("fc.weight", &with(&[(100, f32::NAN)]))]);
    let baseline = folder.accepted(&before);
    assert_eq!(judged(&[&before, "--baseline", &baseline]).0, 0);
    let after = folder.tensors("after.safetensors", &[("fc.weight", &with(&[(101, f32::NAN)]))]);
    let (code, decisions) = judged(&[&after, "--baseline", &baseline]);
    assert_eq!((code, count(&decisions, "FP101", "fails")), (1, 1), "{decisions:?}");
    let output = flashpoint(&["gate", &after, "--baseline", &baseline, "--format", "sarif"]);
    let log: Value = serde_json::from_slice(&output.stdout).expect("it is JSON");
    assert_eq!(log["runs"][0]["results"][0]["baselineState"], "updated");
}

#[test]
fn an_exception_of_a_missing_tensor_is_used_and_canonical_names_except_changes() {
    let folder = Folder::new();
    let tensors = |prefix: &str, names: &[&str]| {
        let names = names.iter().map(|name| format!("{prefix}{name}")).collect::<Vec<_>>();
        let values = small();
        let tensors = names.iter().map(|name| (name.as_str(), &values[..])).collect::<Vec<_>>();
        folder.tensors("model.safetensors", &tensors)
    };
    let before = tensors("", &["a.bias", "b.bias", "old.bias"]);
    let baseline = folder.accepted(&before);
    let after = tensors("module.", &["a.bias", "b.bias", "new.bias"]);
    let policy = folder.write(
        "flashpoint.toml",
        "[baseline]\nnew = \"critical\"\n[[skip]]\ntensors = \"old.*\"\nreason = \"gone\"\n[[skip]]\ntensors = \"new.bias\"\nreason = \"added\"\n[[skip]]\ntensors = \"a\"\nreason = \"a layer\"\n",
    );
    let (code, decisions) = judged(&[&after, "--baseline", &baseline, "--policy", &policy]);
    assert_eq!(count(&decisions, "gate-missing-tensor", "tolerated"), 1, "{decisions:?}");
    assert_eq!(count(&decisions, "gate-new-tensor", "tolerated"), 1, "{decisions:?}");
    assert!(decisions.iter().all(|decision| decision[0] != "gate-unused-exception"), "{decisions:?}");
    assert_eq!(code, 0, "{decisions:?}");
    // Without them it fails, and one that names nothing is told.
    let policy = folder.write("flashpoint.toml", "[[skip]]\ntensors = \"nothing.*\"\nreason = \"r\"\n");
    let (code, decisions) = judged(&[&after, "--baseline", &baseline, "--policy", &policy]);
    assert_eq!((code, count(&decisions, "gate-unused-exception", "noticed")), (1, 1), "{decisions:?}");
}

const ATTENTION: [&str; 2] =
    ["fixtures/runs/gpt-attention-logits/checkpoint-25", "fixtures/runs/gpt-attention-logits/checkpoint-125"];

/// A layer's path, and the logit bounds of its heads.
type Layer = (String, Vec<f64>);

/// Logit bounds of each head by layer, as they were measured.
fn bounds(measured: &str) -> Vec<Layer> {
    let analysis: Value =
        serde_json::from_slice(&std::fs::read(measured).expect("it was written")).expect("it is JSON");
    let layers = analysis["checkpoints"][0]["attention"]["value"].as_array().expect("layers").iter();
    let bounds = layers.map(|layer| {
        let heads = layer["heads"].as_array().expect("heads").iter();
        let bounds = heads.map(|head| head["logit_bound"].as_f64().expect("a number"));
        (layer["layer"].as_str().expect("a path").to_owned(), bounds.collect())
    });
    bounds.collect()
}

#[test]
fn a_logit_bound_is_limited_head_by_head() {
    let folder = Folder::new();
    let now = bounds(&folder.accepted(ATTENTION[1]));
    let baseline = folder.accepted(ATTENTION[0]);
    let before = bounds(&baseline);
    assert_eq!(now.len(), before.len());
    let largest = now.iter().flat_map(|(_, heads)| heads).copied().fold(0.0, f64::max);
    let growth = |(now, before): (&Layer, &Layer)| {
        now.1.iter().zip(&before.1).map(|(now, before)| now / before).collect::<Vec<_>>()
    };
    let most = now.iter().zip(&before).flat_map(growth).fold(0.0, f64::max);
    assert!(most > 1.0, "{now:?} {before:?}");
    let gate = |limit: &str| {
        let policy = folder.write(
            "flashpoint.toml",
            format!("[rules.FP4xx]\nseverity = \"off\"\n[[limits]]\nquantity = \"logit-bound\"\n{limit}\n"),
        );
        judged(&[ATTENTION[1], "--measure", "spectra", "--baseline", &baseline, "--policy", &policy])
    };
    let limits = [
        (format!("largest = {}", largest * 1.001), 0),
        (format!("largest = {}", largest * 0.999), 1),
        (format!("growth = {}", most * 1.001), 0),
        (format!("growth = {}", most * 0.999), 1),
        (format!("growth-per-step = {}", (most * 1.001).powf(1.0 / 100.0)), 0),
        (format!("growth-per-step = {}", (most * 0.99).powf(1.0 / 100.0)), 1),
    ];
    for (limit, code) in limits {
        let (found, decisions) = gate(&limit);
        assert_eq!(found, code, "{limit}: {decisions:?}");
        assert_eq!(count(&decisions, "gate-limit", "fails") > 0, code == 1, "{limit}: {decisions:?}");
    }
    let (_, decisions) = gate(&format!("largest = {}", largest * 0.999));
    assert!(decisions[0][2].contains("logit-bound of head "), "{decisions:?}");
    let (layer, _) = &now[0];
    assert_eq!(gate(&format!("tensors = \"{layer}\"\nlargest = 1e-9")).0, 1);
    let (code, decisions) = gate("tensors = \"layerz\"\nlargest = 1e9");
    assert_eq!((code, count(&decisions, "gate-limit", "prevents")), (2, 1), "{decisions:?}");
}

#[test]
fn what_a_deeper_measurement_would_have_judged_is_said_beside_the_verdict() {
    let sentence = |level: &[&str]| {
        let output = flashpoint(&[&["gate", "--format", "json", ATTENTION[1]], level].concat());
        let report: Value = serde_json::from_slice(&output.stdout).expect("it is JSON");
        report["gate"]["sentence"].as_str().expect("text").to_owned()
    };
    let shallow = sentence(&[]);
    assert!(shallow.contains(" of them only with --measure full"), "{shallow}");
    let deep = sentence(&["--measure", "full"]);
    assert!(deep.contains(" checks could not run") && !deep.contains("at this level"), "{deep}");
}

#[test]
fn a_logit_bound_that_was_not_measured_prevents_a_decision() {
    let folder = Folder::new();
    let policy = folder.write("flashpoint.toml", "[[limits]]\nquantity = \"logit-bound\"\nlargest = 1e9\n");
    let (code, decisions) = judged(&[ATTENTION[1], "--policy", &policy]);
    assert_eq!((code, count(&decisions, "gate-limit", "prevents")), (2, 1), "{decisions:?}");
    assert!(decisions[0][2].contains("needs --measure spectra"), "{decisions:?}");
    let (code, decisions) = judged(&[HEALTHY, "--measure", "spectra", "--policy", &policy]);
    assert_eq!((code, count(&decisions, "gate-limit", "prevents")), (2, 1), "{decisions:?}");
    assert!(Path::new(ATTENTION[0]).is_dir());
}

#[test]
fn another_name_of_a_tensor_may_go_and_come_with_the_container() {
    let folder = Folder::new();
    let plain = folder
        .tensors("model.safetensors", &[("embed.weight", &[0.5, -0.25, 0.125]), ("norm.weight", &[1.0])]);
    let baseline = folder.text("accepted.measured.json");
    assert_eq!(flashpoint(&["measure", &plain, "--output", &baseline, "-q"]).status.code(), Some(0));
    // As a container that keeps ties measures it: the head is the embedding under another name.
    let text = std::fs::read_to_string(&baseline).expect("it was written");
    let mut measured: Value = serde_json::from_str(&text).expect("it is JSON");
    let tensors = measured["checkpoints"][0]["tensors"].as_array_mut().expect("a list");
    let mut head = tensors[0].clone();
    assert_eq!(head["name"], "embed.weight");
    (head["name"], head["canonical_name"]) = ("head.weight".into(), "head.weight".into());
    head["tied_to"] = "embed.weight".into();
    tensors.push(head);
    let tied = folder.write("tied.measured.json", measured.to_string());

    let without = flashpoint(&["gate", &plain, "--baseline", &tied, "--measure", "norms"]);
    assert_eq!(without.status.code(), Some(0), "{}", told(&without));
    let with =
        flashpoint(&["gate", &tied, "--baseline", &baseline, "--measure", "norms", "--format", "json"]);
    assert!(!told(&with).contains("gate-new-tensor"), "{}", told(&with));
    assert!(!told(&without).contains("gate-missing-tensor"), "{}", told(&without));
}

/// A baseline of a model whose head is its embedding under another name, and the same model with a head of its own.
fn tied_and_untied(folder: &Folder) -> [String; 2] {
    let (embedding, head) = (("embed.weight", [0.5, -0.25, 0.125]), ("head.weight", [0.5, -0.25, 0.25]));
    let own = folder.tensors("own.safetensors", &[(embedding.0, &embedding.1), (head.0, &head.1)]);
    let measured = folder.text("own.measured.json");
    assert_eq!(flashpoint(&["measure", &own, "--output", &measured, "-q"]).status.code(), Some(0));
    let text = std::fs::read_to_string(&measured).expect("it was written");
    let mut analysis: Value = serde_json::from_str(&text).expect("it is JSON");
    let tensors = analysis["checkpoints"][0]["tensors"].as_array_mut().expect("a list");
    let mut tied = tensors[0].clone();
    (tied["name"], tied["canonical_name"]) = ("head.weight".into(), "head.weight".into());
    tied["tied_to"] = "embed.weight".into();
    tensors[1] = tied;
    [measured, folder.write("tied.measured.json", analysis.to_string())]
}

#[test]
fn a_head_that_is_no_longer_tied_is_told_as_new_and_one_that_has_become_tied_as_missing() {
    let folder = Folder::new();
    let [own, tied] = tied_and_untied(&folder);
    let gate = |checkpoint: &str, baseline: &str| {
        judged(&[checkpoint, "--baseline", baseline, "--measure", "norms"])
    };
    let (code, untied) = gate(&own, &tied);
    assert_eq!(code, 0);
    assert_eq!(count(&untied, "gate-new-tensor", "noticed"), 1, "{untied:?}");
    assert_eq!(count(&untied, "gate-missing-tensor", "fails"), 0, "{untied:?}");
    let (code, now_tied) = gate(&tied, &own);
    assert_eq!(code, 1);
    assert_eq!(count(&now_tied, "gate-missing-tensor", "fails"), 1, "{now_tied:?}");
    for unchanged in [&own, &tied] {
        let (code, told) = gate(unchanged, unchanged);
        assert_eq!(
            (code, told.iter().filter(|told| told[0].ends_with("tensor")).count()),
            (0, 0),
            "{told:?}"
        );
    }
}

#[test]
fn a_container_without_ties_may_keep_either_name_or_a_copy_for_each() {
    let folder = Folder::new();
    let [_, tied] = tied_and_untied(&folder);
    let weights = [0.5, -0.25, 0.125];
    for (name, kept) in [
        ("embedding.safetensors", vec!["embed.weight"]),
        ("head.safetensors", vec!["head.weight"]),
        ("copies.safetensors", vec!["embed.weight", "head.weight"]),
    ] {
        let kept: Vec<(&str, &[f32])> = kept.iter().map(|&name| (name, &weights[..])).collect();
        let file = folder.tensors(name, &kept);
        let (code, told) = judged(&[&file, "--baseline", &tied, "--measure", "norms"]);
        let changes = told.iter().filter(|told| told[0].ends_with("tensor")).count();
        assert_eq!((code, changes), (0, 0), "{name}: {told:?}");
    }
}

#[test]
fn annotations_lead_to_the_file_however_deep_it_lies() {
    let folder = Folder::new();
    std::fs::create_dir_all(folder.path("outputs/run/step-9")).expect("folders can be made");
    let name = "outputs/run/step-9/model.safetensors";
    folder.tensors(name, &[("fc.weight", &with(&[(1, f32::NAN)]))]);
    let gate = |path: &str, format: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_flashpoint"));
        let output = command.args(["gate", path, "--format", format]).current_dir(folder.0.path()).output();
        told(&output.expect("the binary under test can be started"))
    };
    for path in [name, "outputs/run/step-9", "./outputs/run/step-9/"] {
        let sarif = gate(path, "sarif");
        assert!(sarif.contains("\"uri\": \"outputs/run/step-9/model.safetensors\""), "{path}: {sarif}");
        assert!(gate(path, "github").contains("file=outputs/run/step-9/model.safetensors"), "{path}");
    }
    // What lies elsewhere is told by its name: a report says nothing of the machine.
    let absolute = folder.text("outputs/run/step-9");
    assert!(!gate(&absolute, "sarif").contains(folder.0.path().to_str().expect("UTF-8")));
}
