//! The gate from outside: what passes, what fails, what cannot be decided, and the mistakes people make.
//!
//! `UPDATE_SNAPSHOTS=1 cargo test --test gate` writes the snapshots in `tests/gate/`.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

const HEALTHY: &str = "fixtures/runs/rnn-healthy/checkpoint-0400";
const HEALTHY_BEFORE: &str = "fixtures/runs/rnn-healthy/checkpoint-0000";
const EXPLODED: &str = "fixtures/runs/rnn-exploding/checkpoint-0400";
const EXPLODED_BEFORE: &str = "fixtures/runs/rnn-exploding/checkpoint-0000";
const DAMAGED: &str = "fixtures/rules/FP903-damaged-file/fires-truncated-shard";

fn flashpoint(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_flashpoint"));
    command.args(arguments).env_remove("NO_COLOR");
    command.output().expect("the binary under test can be started")
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("reports are UTF-8")
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("errors are UTF-8")
}

fn text(path: &Path) -> &str {
    path.to_str().expect("temporary paths are UTF-8")
}

/// A folder with the policy that uses every feature, and a baseline beside it.
struct Project {
    folder: TempDir,
}

impl Project {
    fn with_baseline(accepted: &str) -> Self {
        let project = Self { folder: tempfile::tempdir().expect("a temporary directory can be made") };
        std::fs::copy("tests/gate/flashpoint.toml", project.path("flashpoint.toml"))
            .expect("it can be copied");
        let output =
            flashpoint(&["measure", accepted, "--output", text(&project.path("accepted.measured.json"))]);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        project
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn gate(&self, checkpoint: &str, more: &[&str]) -> Output {
        let policy = self.path("flashpoint.toml");
        let arguments = ["gate", checkpoint, "--measure", "spectra", "--policy", text(&policy)];
        flashpoint(&[&arguments, more].concat())
    }

    /// A checkpoint whose model file lacks its last byte.
    fn truncated(&self) -> PathBuf {
        let path = self.path("run/checkpoint-0400");
        std::fs::create_dir_all(&path).expect("a folder can be made");
        let bytes =
            std::fs::read(Path::new(HEALTHY).join("model.safetensors")).expect("the fixture is there");
        std::fs::write(path.join("model.safetensors"), &bytes[..bytes.len() - 1]).expect("it can be written");
        path
    }
}

/// Holds `found` against the snapshot of that name.
fn assert_snapshot(name: &str, found: &str) {
    let path = Path::new("tests/gate").join(name);
    if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
        std::fs::write(&path, found).expect("a snapshot can be written");
    }
    let expected =
        std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert_eq!(found, expected, "{} is stale: UPDATE_SNAPSHOTS=1 cargo test --test gate", path.display());
}

/// Without what changes with every new rule: the list of what was not evaluated, and its length.
fn without_unevaluated(text: &str) -> String {
    let mut kept = Vec::new();
    let mut skipping = false;
    for line in text.lines() {
        let begins = line == "not evaluated" || line.starts_with("<details><summary>Not evaluated");
        skipping = begins || skipping && !(line.starts_with("gate:") || line == "</details>");
        if !skipping && line != "</details>" {
            let end = line.find(" checks could not run").and_then(|end| line[..end].rfind("; "));
            kept.push(end.map_or(line, |end| &line[..end]));
        }
    }
    kept.join("\n") + "\n"
}

#[test]
fn pass_fail_and_could_not_decide_under_a_policy_that_uses_everything() {
    let healthy = Project::with_baseline(HEALTHY_BEFORE);
    let exploded = Project::with_baseline(EXPLODED_BEFORE);
    let truncated = healthy.truncated();
    let cases = [
        ("pass", &healthy, HEALTHY, 0),
        ("fail", &exploded, EXPLODED, 1),
        ("could-not-decide", &healthy, text(&truncated), 2),
    ];
    for (name, project, checkpoint, code) in cases {
        assert_snapshots(name, code, |format| project.gate(checkpoint, &["--format", format]));
    }
}

/// Holds what the gate says in every format of the snapshots against them.
fn assert_snapshots(name: &str, code: i32, gate: impl Fn(&str) -> Output) {
    for (format, ending) in [("terminal", "txt"), ("markdown", "md"), ("github", "github")] {
        let output = gate(format);
        assert_eq!(output.status.code(), Some(code), "{name}\n{}{}", stdout(&output), stderr(&output));
        assert_snapshot(&format!("{name}.{ending}"), &without_unevaluated(&stdout(&output)));
    }
    let json: Value = serde_json::from_slice(&gate("json").stdout).expect("the report is JSON");
    let mut decided = json["gate"].clone();
    let sentence = decided["sentence"].as_str().expect("a sentence").to_owned();
    decided["sentence"] = without_unevaluated(&sentence).trim_end().into();
    let text = serde_json::to_string_pretty(&decided).expect("JSON can be written") + "\n";
    assert_snapshot(&format!("{name}.json"), &text);
}

/// Beside damage and limits: a path that is not there, a second model, tensors without plain elements, a required rule.
#[test]
fn every_cause_that_keeps_the_gate_from_deciding_is_told() {
    let folder = tempfile::tempdir().expect("a temporary directory can be made");
    let policy = folder.path().join("flashpoint.toml");
    let text_of_policy = "[gate]\nrequired = [\"FP702\"]\n\n[[limits]]\nquantity = \"spectral-norm\"\ntensors = \"rnn.weight_hh_l0\"\nlargest = 9.0\n";
    std::fs::write(&policy, text_of_policy).expect("it can be written");
    let directory = folder.path().join("run/checkpoint-0400");
    std::fs::create_dir_all(&directory).expect("a folder can be made");
    for (source, name) in [
        ("fixtures/runs/rnn-healthy/checkpoint-0400/model.safetensors", "model.safetensors"),
        ("fixtures/formats/protocol-5.pt", "pytorch_model.bin"),
    ] {
        std::fs::copy(source, directory.join(name)).unwrap_or_else(|error| panic!("{source}: {error}"));
    }
    let paths = [text(&directory), "fixtures/formats/quantized-and-sparse.pt", "no/such/checkpoint"];
    assert_snapshots("could-not-decide-causes", 2, |format| {
        flashpoint(&[&["gate", "--policy", text(&policy), "--format", format], &paths[..]].concat())
    });
}

#[test]
fn every_decision_has_a_reason_in_every_format() {
    let project = Project::with_baseline(EXPLODED_BEFORE);
    let json: Value =
        serde_json::from_slice(&project.gate(EXPLODED, &["--format", "json"]).stdout).expect("it is JSON");
    let decisions = json["gate"]["decisions"].as_array().expect("decisions are a list");
    assert!(decisions.len() > 3);
    let all = ["terminal", "markdown", "sarif", "junit"]
        .map(|format| (format, stdout(&project.gate(EXPLODED, &["--format", format, "--all"]))));
    for decision in decisions {
        let reason = decision["reason"].as_str().expect("a reason");
        assert!(!reason.is_empty());
        for (format, text) in &all {
            let escaped = reason.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
            assert!(text.contains(reason) || text.contains(&escaped), "{format} lacks {reason}");
        }
    }
}

#[test]
fn the_built_in_policy_wants_a_checkpoint_readable_finite_and_without_a_critical_finding() {
    let cases = [
        (HEALTHY, 0),
        (EXPLODED, 1),
        (DAMAGED, 2),
        ("fixtures/rules/FP101-non-finite/fires-one-nan-in-weight.safetensors", 1),
        ("fixtures/rules/FP901-dangerous-pickle/fires-system-call.pt", 1),
        ("fixtures/rules/FP904-uncovered-bytes/fires-hole-between-tensors.safetensors", 2),
        ("fixtures/rules/FP904-uncovered-bytes/fires-unreferenced-storage.pt", 2),
        ("fixtures/rules/FP903-damaged-file/fires-missing-shard", 2),
        ("fixtures/formats/quantized-and-sparse.pt", 2),
        ("no/such/checkpoint", 2),
    ];
    for (path, code) in cases {
        let output = flashpoint(&["gate", path]);
        assert_eq!(output.status.code(), Some(code), "{path}\n{}{}", stdout(&output), stderr(&output));
    }
}

#[test]
fn no_severity_exception_or_baseline_makes_damage_pass() {
    let folder = tempfile::tempdir().expect("a temporary directory can be made");
    let policy = folder.path().join("flashpoint.toml");
    let lenient = "[rules.FP9xx]\nseverity = \"off\"\n[[skip]]\ntensors = \"*\"\nreason = \"all\"\n";
    std::fs::write(&policy, lenient).expect("it can be written");
    let hole = "fixtures/rules/FP904-uncovered-bytes/fires-hole-between-tensors.safetensors";
    for path in [DAMAGED, hole, "fixtures/rules/FP903-damaged-file/fires-missing-shard"] {
        let output = flashpoint(&["gate", path, "--policy", text(&policy)]);
        assert_eq!(output.status.code(), Some(2), "{path}\n{}", stdout(&output));
    }
}

#[test]
fn damage_takes_precedence_over_a_failure_which_is_still_told() {
    let folder = tempfile::tempdir().expect("a temporary directory can be made");
    let path = folder.path().join("model.safetensors");
    let source = "fixtures/rules/FP101-non-finite/fires-one-nan-in-weight.safetensors";
    let mut bytes = std::fs::read(source).expect("the fixture is there");
    bytes.extend_from_slice(&[1, 2, 3]);
    std::fs::write(&path, bytes).expect("it can be written");
    let output = flashpoint(&["gate", text(&path)]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stdout(&output).contains("1 more would fail"), "{}", stdout(&output));
}

#[test]
fn a_known_finding_passes_and_one_that_grew_does_not() {
    let folder = tempfile::tempdir().expect("a temporary directory can be made");
    let baseline = folder.path().join("accepted.measured.json");
    flashpoint(&["measure", EXPLODED, "--output", text(&baseline)]);
    let same = flashpoint(&["gate", EXPLODED, "--baseline", text(&baseline)]);
    assert_eq!(same.status.code(), Some(0), "{}", stdout(&same));
    assert!(stdout(&same).contains("known: the baseline has it too"), "{}", stdout(&same));
    // As if the recurrent matrix had been two thirds as large when it was accepted.
    let written = std::fs::read_to_string(&baseline).expect("it was written");
    let mut analysis: Value = serde_json::from_str(&written).expect("it is JSON");
    let rms = &mut analysis["checkpoints"][0]["tensors"][2]["statistics"]["value"]["rms"]["value"];
    *rms = (rms.as_f64().expect("a number") / 1.5).into();
    std::fs::write(&baseline, analysis.to_string()).expect("it can be written");
    let grown = flashpoint(&["gate", EXPLODED, "--baseline", text(&baseline)]);
    assert_eq!(grown.status.code(), Some(1), "{}", stdout(&grown));
    assert!(stdout(&grown).contains("not as known: the baseline has it with"), "{}", stdout(&grown));
    // The gain goes with the square of the RMS: 2.25.
    let policy = folder.path().join("flashpoint.toml");
    std::fs::write(&policy, "[baseline]\nfinding-growth = 2.3\n").expect("it can be written");
    let allowed = flashpoint(&["gate", EXPLODED, "--baseline", text(&baseline), "--policy", text(&policy)]);
    assert_eq!(allowed.status.code(), Some(0), "{}", stdout(&allowed));
}

#[test]
fn new_missing_retyped_and_reshaped_tensors_are_told_from_the_baseline() {
    let folder = tempfile::tempdir().expect("a temporary directory can be made");
    let baseline = folder.path().join("accepted.measured.json");
    flashpoint(&["measure", HEALTHY, "--output", text(&baseline)]);
    let written = std::fs::read_to_string(&baseline).expect("it was written");
    let mut analysis: Value = serde_json::from_str(&written).expect("it is JSON");
    let tensors = analysis["checkpoints"][0]["tensors"].as_array_mut().expect("tensors are a list");
    let names = tensors.iter().map(|tensor| tensor["name"].as_str().expect("a name").to_owned());
    assert_eq!(
        names.collect::<Vec<_>>(),
        ["head.bias", "head.weight", "rnn.weight_hh_l0", "rnn.weight_ih_l0"]
    );
    for key in ["name", "canonical_name"] {
        tensors[0][key] = "head.offset".into();
    }
    tensors[1]["dtype"] = "BF16".into();
    let shape = tensors[3]["shape"].as_array_mut().expect("a shape");
    shape.reverse();
    std::fs::write(&baseline, analysis.to_string()).expect("it can be written");
    let output = flashpoint(&["gate", HEALTHY, "--baseline", text(&baseline), "--format", "json"]);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let report: Value = serde_json::from_slice(&output.stdout).expect("it is JSON");
    let decisions = report["gate"]["decisions"].as_array().expect("decisions are a list");
    let told = decisions.iter().map(|decision| {
        let field = |name: &str| decision[name].as_str().expect("text").to_owned();
        (field("check"), field("effect"), decision["subject"]["tensor"].as_str().unwrap_or("").to_owned())
    });
    let told = told.collect::<Vec<_>>();
    let expected = [
        ("gate-reshaped-tensor", "fails", "rnn.weight_ih_l0"),
        ("gate-missing-tensor", "fails", "head.offset"),
        ("gate-new-tensor", "noticed", "head.bias"),
        ("gate-retyped-tensor", "noticed", "head.weight"),
    ];
    let expected = expected.map(|(a, b, c)| (a.to_owned(), b.to_owned(), c.to_owned()));
    for entry in &expected {
        assert!(told.contains(entry), "{entry:?} is not in {told:?}");
    }
    assert_eq!(told.len(), expected.len(), "{told:?}");
}

#[test]
fn a_digest_is_in_a_measurement_and_in_a_gate_unless_it_is_refused() {
    let digest =
        blake3::hash(&std::fs::read(Path::new(HEALTHY).join("model.safetensors")).expect("it is there"));
    let digest = digest.to_hex().to_string();
    for command in ["measure", "gate"] {
        assert!(stdout(&flashpoint(&[command, HEALTHY])).contains(&digest), "{command}");
        assert!(!stdout(&flashpoint(&[command, HEALTHY, "--no-digest"])).contains(&digest), "{command}");
    }
    assert!(!stdout(&flashpoint(&["inspect", HEALTHY, "--format", "json"])).contains(&digest));
}

#[test]
fn a_baseline_is_the_same_bytes_each_time_with_a_tensor_a_line() {
    let first = stdout(&flashpoint(&["measure", HEALTHY]));
    assert_eq!(first, stdout(&flashpoint(&["measure", HEALTHY, "--threads", "1"])));
    let lines = first.lines().filter(|line| line.trim_start().starts_with("{\"name\":\"rnn."));
    assert_eq!(lines.count(), 2);
    assert!(first.len() < 32 << 10, "{} bytes for four tensors", first.len());
}

#[test]
fn measuring_replaces_a_baseline_whole_or_not_at_all() {
    let folder = tempfile::tempdir().expect("a temporary directory can be made");
    let baseline = folder.path().join("accepted.measured.json");
    flashpoint(&["measure", HEALTHY, "--output", text(&baseline)]);
    let before = std::fs::read(&baseline).expect("it was written");
    let output = flashpoint(&["measure", "no/such/checkpoint", "--output", text(&baseline)]);
    assert_eq!(output.status.code(), Some(2));
    assert!(std::fs::read(&baseline).expect("it is still there") == before);
    let left = std::fs::read_dir(folder.path()).expect("the folder can be listed");
    assert_eq!(left.count(), 1, "a temporary file was left");
}

#[test]
fn init_writes_a_policy_that_is_the_built_in_one_and_never_overwrites() {
    let folder = tempfile::tempdir().expect("a temporary directory can be made");
    let run = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_flashpoint"));
        command.args(arguments).current_dir(folder.path()).output().expect("the binary can be started")
    };
    assert_eq!(run(&["gate", "--init"]).status.code(), Some(0));
    let written = std::fs::read(folder.path().join("flashpoint.toml")).expect("it was written");
    let again = run(&["gate", "--init"]);
    assert_eq!(again.status.code(), Some(2));
    assert!(stderr(&again).contains("is not overwritten"), "{}", stderr(&again));
    assert!(std::fs::read(folder.path().join("flashpoint.toml")).expect("it is there") == written);
    let checkpoint = std::fs::canonicalize(HEALTHY).expect("the fixture is there");
    let output = run(&["gate", text(&checkpoint)]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(stdout(&output).contains("policy: flashpoint.toml, fails on critical"), "{}", stdout(&output));
}

#[test]
fn several_checkpoints_are_judged_and_the_worst_decides() {
    let output = flashpoint(&["gate", HEALTHY, EXPLODED]);
    assert_eq!(output.status.code(), Some(1), "{}", stdout(&output));
    let output = flashpoint(&["gate", EXPLODED, DAMAGED]);
    assert_eq!(output.status.code(), Some(2), "{}", stdout(&output));
    let output = flashpoint(&["gate", HEALTHY, "no/such/checkpoint"]);
    assert_eq!(output.status.code(), Some(2), "{}", stdout(&output));
}

#[test]
fn outputs_are_written_also_where_nothing_could_be_read() {
    let folder = tempfile::tempdir().expect("a temporary directory can be made");
    let files = ["a.sarif", "b.xml", "c.md", "d.json"].map(|name| folder.path().join(name));
    let mut arguments = vec!["gate", "no/such/checkpoint"];
    for file in &files {
        arguments.extend(["--output", text(file)]);
    }
    assert_eq!(flashpoint(&arguments).status.code(), Some(2));
    for file in &files {
        let written =
            std::fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        assert!(written.contains("no such file or directory"), "{written}");
    }
}
