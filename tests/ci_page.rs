//! The examples of `docs/ci.md` and `docs/policy.md` are run, and so are the scripts of the action and the hook of pre-commit.

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

    /// As the examples find it: the newest checkpoint under a fixed name, and the measurement of an accepted one.
    fn with_latest() -> Self {
        let place = Self::new();
        std::fs::create_dir(place.0.path().join("checkpoints")).expect("a folder can be made");
        copy(&place.0.path().join("checkpoint-900"), &place.0.path().join("checkpoints/latest"));
        let measure = ["measure", "checkpoint-800", "--output", "accepted.measured.json"];
        let output = place.run("flashpoint", &measure, &[]);
        assert!(output.status.success(), "{}", told(&output));
        place
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.0.path().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// Runs the gate of `action.yml` with these inputs and the defaults of the others, as one use of several in a job.
    fn act(&self, inputs: &[(&str, &str)], this: &str) -> Output {
        let action = std::fs::read_to_string("action.yml").expect("action.yml is there");
        let given = |name: &str| {
            let given = inputs.iter().find(|(input, _)| *input == name).map(|(_, value)| (*value).to_owned());
            let own = action.lines().skip_while(|line| line.trim() != format!("{name}:"));
            given.or_else(|| own.take(4).find_map(|line| value(line, "default")).map(str::to_owned))
        };
        let passed = action.lines().filter_map(|line| {
            let (variable, rest) = line.trim().split_once(": ${{ inputs.")?;
            let name = rest.strip_suffix(" }}")?;
            variable
                .chars()
                .all(|c| c.is_ascii_uppercase())
                .then(|| (variable, given(name).unwrap_or_default()))
        });
        let file = |name: &str| self.0.path().join(name).to_str().expect("UTF-8").to_owned();
        let mut variables = passed.collect::<Vec<_>>();
        assert_eq!(variables.len(), 4, "{variables:?}");
        variables.push(("GITHUB_OUTPUT", file(&format!("out{this}"))));
        variables.push(("GITHUB_STEP_SUMMARY", file(&format!("summary{this}"))));
        variables.push(("RUNNER_TEMP", file(".")));
        let variables = variables.iter().map(|(name, value)| (*name, value.as_str())).collect::<Vec<_>>();
        self.run("bash", &["-eo", "pipefail", "-c", &step("gate")], &variables)
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
    for (checkpoint, code, outcome) in
        [("checkpoint-900", 0, "pass"), ("no such; exit 0", 2, "could-not-decide")]
    {
        let place = Place::new();
        let output = place.act(&[("path", checkpoint), ("measure", "norms")], "1");
        assert_eq!(output.status.code(), Some(code), "{}", told(&output));
        let (out, summary) = (place.read("out1"), place.read("summary1"));
        assert!(out.contains(&format!("outcome={outcome}\n")), "{out}");
        assert!(out.contains("sarif=") && summary.contains("flashpoint gate"));
        assert!(String::from_utf8_lossy(&output.stdout).starts_with("::"), "{}", told(&output));
    }
}

#[test]
fn the_action_does_not_hand_on_what_a_gate_before_it_reported() {
    let place = Place::new();
    let first = place.act(&[("path", "checkpoint-900")], "1");
    assert_eq!(first.status.code(), Some(0), "{}", told(&first));
    assert!(place.read("out1").contains("sarif="));
    std::fs::write(place.0.path().join("broken.toml"), "[nope]\n").expect("it can be written");
    let second = place.act(&[("path", "checkpoint-900"), ("policy", "broken.toml")], "2");
    assert_eq!(second.status.code(), Some(2), "{}", told(&second));
    assert_eq!(place.read("out2"), "outcome=could-not-decide\n");
    assert!(!place.0.path().join("summary2").exists(), "{}", place.read("summary2"));
}

/// The value behind `key: ` in a line of YAML, where it is that key's.
fn value<'a>(line: &'a str, key: &str) -> Option<&'a str> {
    let rest = line.trim_start().trim_start_matches("- ").strip_prefix(key)?.strip_prefix(": ")?;
    Some(rest.trim_matches('"'))
}

#[test]
fn the_github_example_gates_through_the_action_with_inputs_that_it_has() {
    let yaml = blocks("docs/ci.md", "yaml");
    let example = yaml.iter().find(|block| block.contains("runs-on:")).expect("the page has one");
    let action = std::fs::read_to_string("action.yml").expect("action.yml is there");
    let mut uses = example.lines().filter_map(|line| value(line, "uses"));
    let version = env!("CARGO_PKG_VERSION");
    assert!(uses.any(|used| used == format!("OWNER/flashpoint@v{version}")), "{example}");
    let with = example.lines().skip_while(|line| !line.contains("OWNER/flashpoint")).skip(2);
    let inputs = with.filter_map(|line| line.trim().split_once(": "));
    let inputs = inputs.map(|(name, value)| (name, value.trim_matches('"'))).collect::<Vec<_>>();
    assert!(inputs.len() >= 3, "{inputs:?}");
    for (name, _) in &inputs {
        assert!(action.contains(&format!("\n  {name}:\n    description:")), "{name} is no input");
    }
    let place = Place::with_latest();
    let output = place.act(&inputs, "1");
    assert_eq!(output.status.code(), Some(0), "{}", told(&output));
    assert!(told(&output).contains("gate: pass"), "{}", told(&output));
}

#[test]
fn the_gitlab_example_installs_from_the_repository_and_gates() {
    let yaml = blocks("docs/ci.md", "yaml");
    let example = yaml.iter().find(|block| block.contains("script:")).expect("the page has one");
    let script = example.lines().skip_while(|line| line.trim() != "script:").skip(1);
    let script = script.map_while(|line| line.trim().strip_prefix("- ")).collect::<Vec<_>>();
    let [install, gate] = script[..] else { panic!("{script:?}") };
    let tag = format!("--git https://github.com/OWNER/flashpoint --tag v{}", env!("CARGO_PKG_VERSION"));
    assert_eq!(install, format!("cargo install --locked {tag}"));
    let place = Place::with_latest();
    let output = place.run("bash", &["-euo", "pipefail", "-c", gate], &[]);
    assert_eq!(output.status.code(), Some(0), "{}", told(&output));
    let report = example.lines().find_map(|line| value(line, "junit")).expect("a report");
    assert!(place.read(report).contains("<testsuites"));
}

#[test]
fn the_hook_gates_every_staged_file_and_ends_with_the_worst_code() {
    let hooks = std::fs::read_to_string(".pre-commit-hooks.yaml").expect("it is there");
    let id = hooks.lines().find_map(|line| value(line, "id")).expect("an id");
    let page = blocks("docs/ci.md", "yaml");
    assert!(page.iter().any(|block| block.contains(&format!("- id: {id}\n"))), "{page:?}");
    let entry = hooks.lines().find_map(|line| value(line, "entry")).expect("an entry");
    let place = Place::with_latest();
    let policy = "[baseline]\nfile = \"accepted.measured.json\"\n";
    std::fs::write(place.0.path().join("flashpoint.toml"), policy).expect("it can be written");
    let (sound, broken) = ("checkpoint-900/model.safetensors", "cut.safetensors");
    let bytes = std::fs::read(place.0.path().join(sound)).expect("it is there");
    std::fs::write(place.0.path().join(broken), &bytes[..bytes.len() - 1]).expect("it can be written");
    let staged = |files: &[&str]| {
        let command = format!("{entry} {}", files.join(" "));
        place.run("bash", &["-c", &command], &[])
    };
    let copy = "checkpoints/latest/model.safetensors";
    for (files, code) in [(vec![sound, copy], 0), (vec![broken, sound], 2), (vec![sound, "none.pt"], 2)] {
        let output = staged(&files);
        assert_eq!(output.status.code(), Some(code), "{files:?}\n{}", told(&output));
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
