//! The examples of `docs/ci.md` and `docs/policy.md` are run, and so are the scripts of the action.

#![cfg(unix)]

use std::path::Path;
use std::process::{Command, Output};

use flashpoint::gate::{Policy, TEMPLATE};

/// The fenced blocks of a page in one language.
fn blocks(page: &str, language: &str) -> Vec<String> {
    let text = std::fs::read_to_string(page).unwrap_or_else(|error| panic!("{page}: {error}"));
    let fence = format!("```{language}\n");
    let blocks =
        text.split(&fence).skip(1).map(|rest| rest.split("```").next().unwrap_or_default().to_owned());
    blocks.collect()
}

/// A folder with two checkpoints of a run, and `flashpoint` on the path.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        let place = Self(tempfile::tempdir().expect("a temporary directory can be made"));
        for (name, source) in [("checkpoint-800", "0000"), ("checkpoint-900", "0400")] {
            let source = Path::new("fixtures/runs/rnn-healthy").join(format!("checkpoint-{source}"));
            copy(&source, &place.0.path().join(name));
        }
        std::fs::create_dir(place.0.path().join("bin")).expect("a folder can be made");
        let binary = env!("CARGO_BIN_EXE_flashpoint");
        std::os::unix::fs::symlink(binary, place.0.path().join("bin/flashpoint"))
            .expect("a link can be made");
        place
    }

    fn run(&self, program: &str, arguments: &[&str], variables: &[(&str, &str)]) -> Output {
        let path =
            format!("{}:{}", self.0.path().join("bin").display(), std::env::var("PATH").unwrap_or_default());
        let mut command = Command::new(program);
        command.args(arguments).envs(variables.iter().copied()).env("PATH", path).current_dir(self.0.path());
        command.output().unwrap_or_else(|error| panic!("{program}: {error}"))
    }
}

fn copy(source: &Path, target: &Path) {
    std::fs::create_dir(target).expect("a folder can be made");
    for entry in std::fs::read_dir(source).expect("the fixture can be listed") {
        let path = entry.expect("a listed entry can be read").path();
        std::fs::copy(&path, target.join(path.file_name().expect("a name"))).expect("it can be copied");
    }
}

fn told(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn every_shell_example_of_the_page_runs() {
    let examples = blocks("docs/ci.md", "sh");
    assert!(examples.len() >= 3);
    for example in examples {
        let place = Place::new();
        let output = place.run("bash", &["-euo", "pipefail", "-c", &example], &[]);
        assert!(output.status.success(), "{example}\n{}", told(&output));
    }
}

#[test]
fn the_epilogue_tells_pass_failure_and_neither_apart() {
    let epilogue = blocks("docs/ci.md", "sh").into_iter().find(|block| block.contains("sort -V"));
    let epilogue = epilogue.expect("the page has an epilogue") + "exit \"$code\"\n";
    let exploded = Path::new("fixtures/runs/rnn-exploding/checkpoint-0400");
    let damaged = Path::new("fixtures/rules/FP903-damaged-file/fires-truncated-shard");
    for (last, code, said) in
        [(None, 0, "passes"), (Some(exploded), 1, "fails"), (Some(damaged), 2, "could not")]
    {
        let place = Place::new();
        if let Some(last) = last {
            copy(last, &place.0.path().join("checkpoint-1000"));
        }
        let output = place.run("bash", &["-euo", "pipefail", "-c", &epilogue], &[]);
        assert_eq!(output.status.code(), Some(code), "{}", told(&output));
        assert!(told(&output).contains(said), "{}", told(&output));
    }
}

#[test]
fn every_policy_on_a_page_is_one() {
    let mut whole = String::new();
    for page in ["docs/policy.md", "README.md"] {
        for block in blocks(page, "toml") {
            Policy::parse(&block, Path::new("flashpoint.toml"))
                .unwrap_or_else(|error| panic!("{page}: {error}"));
            if page == "docs/policy.md" {
                whole.push_str(&block);
            }
        }
    }
    Policy::parse(&whole, Path::new("flashpoint.toml")).expect("together they are a policy as well");
}

#[test]
fn every_line_of_the_commented_policy_is_accepted_without_its_comment_sign() {
    let setting = |line: &&str| {
        let rest = line.strip_prefix("# ").unwrap_or_default();
        let key = rest.split(" = ").next().unwrap_or_default();
        rest.starts_with('[')
            || rest.contains(" = ") && key.chars().all(|c| c.is_ascii_lowercase() || c == '-')
    };
    let lines = TEMPLATE.lines().filter(|line| *line == "[gate]" || setting(line));
    let lines = lines.map(|line| line.strip_prefix("# ").unwrap_or(line)).collect::<Vec<_>>();
    assert!(lines.len() > 30, "{lines:#?}");
    let policy = Policy::parse(&lines.join("\n"), Path::new("flashpoint.toml"))
        .unwrap_or_else(|error| panic!("{error}"));
    assert_eq!((policy.exceptions.len(), policy.limits.len()), (1, 3));
    assert!(policy.severities.contains_key("FP406") && policy.severities.contains_key("FP407"));
    let built_in = Policy::default();
    let untouched = Policy::parse(TEMPLATE, Path::new("x")).expect("it is a policy");
    assert_eq!(format!("{:?}", untouched.limits), format!("{:?}", built_in.limits));
    assert_eq!(untouched.required, built_in.required);
}

/// The script of a step of `action.yml`.
fn step(name: &str) -> String {
    let text = std::fs::read_to_string("action.yml").expect("action.yml is there");
    let start = text.find(&format!("- name: {name}\n")).unwrap_or_else(|| panic!("a step {name}"));
    let lines = text[start..].lines().skip_while(|line| !line.trim_start().starts_with("run: |")).skip(1);
    let lines = lines.take_while(|line| line.starts_with("        ") || line.is_empty());
    lines.map(|line| line.get(8..).unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_action_gates_reports_and_ends_with_the_code_of_the_gate() {
    let script = step("gate");
    for (checkpoint, code, outcome) in
        [("checkpoint-900", 0, "pass"), ("no such; exit 0", 2, "could-not-decide")]
    {
        let place = Place::new();
        let file = |name: &str| place.0.path().join(name).to_str().expect("UTF-8").to_owned();
        let (out, summary, temporary) = (file("out"), file("summary"), file("."));
        let variables = [
            ("CHECKPOINT", checkpoint),
            ("POLICY", ""),
            ("BASELINE", ""),
            ("MEASURE", "norms"),
            ("GITHUB_OUTPUT", out.as_str()),
            ("GITHUB_STEP_SUMMARY", summary.as_str()),
            ("RUNNER_TEMP", temporary.as_str()),
        ];
        let output = place.run("bash", &["-eo", "pipefail", "-c", &script], &variables);
        assert_eq!(output.status.code(), Some(code), "{}", told(&output));
        let read = |path: &str| std::fs::read_to_string(path).expect("it was written");
        assert!(read(&out).contains(&format!("outcome={outcome}\n")), "{}", read(&out));
        assert!(read(&out).contains("sarif=") && read(&summary).contains("flashpoint gate"));
        assert!(String::from_utf8_lossy(&output.stdout).starts_with("::"), "{}", told(&output));
    }
}

/// Stand-ins for the two trainers, and a call of each callback with a checkpoint that passes and one that does not.
const STUB: &str = r#"
import sys, types
from types import SimpleNamespace as Plain
for name in ["transformers", "lightning", "lightning.pytorch", "lightning.pytorch.callbacks"]:
    sys.modules[name] = types.ModuleType(name)
class TrainerCallback: pass
sys.modules["transformers"].TrainerCallback = TrainerCallback
class ModelCheckpoint:
    def _save_checkpoint(self, trainer, filepath): self.saved = filepath
sys.modules["lightning.pytorch.callbacks"].ModelCheckpoint = ModelCheckpoint
"#;

const CALLS: &str = r#"
def hugging_face(step):
    control = Plain(should_training_stop=False)
    state = Plain(is_world_process_zero=True, global_step=step)
    return FlashpointGate("--quiet").on_save(Plain(output_dir="."), state, control).should_training_stop
def lightning(path):
    trainer = Plain(is_global_zero=True, should_stop=False)
    callback = GatedModelCheckpoint()
    callback._save_checkpoint(trainer, path)
    assert callback.saved == path
    return trainer.should_stop
assert hugging_face(900) is False and hugging_face(1000) is True
assert lightning("checkpoint-900") is False and lightning("checkpoint-1000") is True
print("both callbacks ran")
"#;

#[test]
fn the_callbacks_stop_a_run_whose_checkpoint_does_not_pass() {
    let python = std::env::var("FLASHPOINT_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    if !Command::new(&python).arg("--version").output().is_ok_and(|output| output.status.success()) {
        eprintln!("SKIPPED callbacks: no Python was found; set FLASHPOINT_PYTHON");
        return;
    }
    let examples = blocks("docs/ci.md", "python");
    assert_eq!(examples.len(), 2);
    let place = Place::new();
    copy(Path::new("fixtures/runs/rnn-exploding/checkpoint-0400"), &place.0.path().join("checkpoint-1000"));
    let script = [STUB, &examples[0], &examples[1], CALLS].concat();
    let output = place.run(&python, &["-c", &script], &[]);
    assert!(told(&output).contains("both callbacks ran"), "{}", told(&output));
}
