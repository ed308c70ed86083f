//! The likeliest mistakes: each ends with 2 or 1, never with a pass, and with one clear message.

use std::path::Path;
use std::process::Command;

/// A mistake: what it is, the policy, the arguments, the exit code, and what must be said.
struct Mistake {
    what: &'static str,
    policy: Option<&'static str>,
    arguments: &'static [&'static str],
    code: i32,
    said: &'static [&'static str],
}

/// Stands for the checkpoint that is healthy, and for the folder in which the command runs.
const HEALTHY: &str = "fixtures/runs/rnn-healthy/checkpoint-0400";

const fn mistake(
    what: &'static str,
    policy: Option<&'static str>,
    arguments: &'static [&'static str],
    code: i32,
    said: &'static [&'static str],
) -> Mistake {
    Mistake { what, policy, arguments, code, said }
}

/// `MODEL` in an argument is the healthy checkpoint; `ROOT` is the repository.
const MISTAKES: &[Mistake] = &[
    mistake(
        "a typo in a rule's code",
        Some("[rules.FP1O1]\nseverity = \"note\"\n"),
        &["MODEL"],
        2,
        &["line 1, column 8", "no rule FP1O1 (did you mean FP101?)"],
    ),
    mistake(
        "a typo in a rule's name",
        Some("\n[rules.norm-gain-outlyer]\nratio = 2.0\n"),
        &["MODEL"],
        2,
        &["line 2, column 8", "did you mean norm-gain-outlier?"],
    ),
    mistake(
        "a typo in a limit of a rule",
        Some("[rules.FP406]\nratoi = 20.0\n"),
        &["MODEL"],
        2,
        &["line 2, column 1", "did you mean ratio?"],
    ),
    mistake(
        "a limit that is no number",
        Some("[rules.FP406]\nratio = \"20\"\n"),
        &["MODEL"],
        2,
        &["line 2, column 9", "must be a number"],
    ),
    mistake(
        "a severity that is none",
        Some("[rules.FP406]\nseverity = \"error\"\n"),
        &["MODEL"],
        2,
        &["line 2, column 12", "\"critical\", \"warning\", \"note\" or \"off\""],
    ),
    mistake(
        "a section that is none",
        Some("[gates]\nfail-on = \"note\"\n"),
        &["MODEL"],
        2,
        &["line 1, column 2", "unknown field `gates`"],
    ),
    mistake("not TOML", Some("[gate\nfail-on = \"note\"\n"), &["MODEL"], 2, &["line 1, column 6"]),
    mistake(
        "a policy that is not there",
        None,
        &["MODEL", "--policy", "ci/flashpoint.toml"],
        2,
        &["ci/flashpoint.toml: no such file", "check the spelling"],
    ),
    mistake(
        "a limit for a family",
        Some("[rules.FP4xx]\nratio = 2.0\n"),
        &["MODEL"],
        2,
        &["line 2, column 1", "belongs below a rule of it"],
    ),
    mistake(
        "an exception without a reason",
        Some("[[skip]]\ntensors = \"head.*\"\n"),
        &["MODEL"],
        2,
        &["line 1, column 1", "missing field `reason`"],
    ),
    mistake(
        "an expired exception",
        Some(
            "[gate]\nfail-on = \"warning\"\n[[skip]]\ntensors = \"head.*\"\nreason = \"new head\"\nexpires = 2020-01-31\n",
        ),
        &["MODEL"],
        1,
        &["the exception of head.* (new head) expired on 2020-01-31", "no longer applies"],
    ),
    mistake(
        "a date that is none",
        Some("[[skip]]\ntensors = \"head.*\"\nreason = \"r\"\nexpires = 2027-02-30\n"),
        &["MODEL"],
        2,
        &["line 4, column 11"],
    ),
    mistake(
        "a day that is none",
        Some("[[skip]]\ntensors = \"head.*\"\nreason = \"r\"\nexpires = \"next summer\"\n"),
        &["MODEL"],
        2,
        &["line 4, column 11", "expires on a day"],
    ),
    mistake(
        "a glob that does not parse",
        Some("[[skip]]\ntensors = \"head[\"\nreason = \"r\"\n"),
        &["MODEL"],
        2,
        &["line 2, column 11", "head[ is no glob: a bracket is not closed"],
    ),
    mistake(
        "a quantity that is none",
        Some("[[limits]]\nquantity = \"nrom\"\nlargest = 1.0\n"),
        &["MODEL"],
        2,
        &["line 2, column 12", "did you mean norm?"],
    ),
    mistake(
        "a limit without a number",
        Some("[[limits]]\nquantity = \"norm\"\n"),
        &["MODEL"],
        2,
        &["it limits nothing"],
    ),
    mistake(
        "a baseline that is not there",
        None,
        &["MODEL", "--baseline", "accepted.measured.json"],
        2,
        &["accepted.measured.json: no such file", "check the spelling"],
    ),
    mistake(
        "a baseline that is not there, under a name that is none of a measurement file",
        None,
        &["MODEL", "--baseline", "accepted.json"],
        2,
        &["accepted.json: no such file", "check the spelling"],
    ),
    mistake(
        "a checkpoint as the baseline",
        None,
        &["MODEL", "--baseline", "ROOT/fixtures/runs/rnn-healthy/checkpoint-0000"],
        2,
        &["a baseline is a measurement file", "flashpoint measure CHECKPOINT"],
    ),
    mistake(
        "a baseline of another model",
        None,
        &["MODEL", "--baseline", "other.measured.json"],
        2,
        &["it is of another model: 0 tensors have the same name"],
    ),
    mistake(
        "a baseline of two checkpoints",
        None,
        &["MODEL", "--baseline", "two.measured.json"],
        2,
        &["it holds 2 checkpoints where one is needed"],
    ),
    mistake(
        "a baseline in which nothing was measured",
        None,
        &["MODEL", "--baseline", "list.measured.json"],
        2,
        &["no element of", "was read when it was measured"],
    ),
    mistake(
        "a baseline that is half written",
        None,
        &["MODEL", "--baseline", "half.measured.json"],
        2,
        &["half.measured.json, line", "the measurement file is not usable"],
    ),
    mistake(
        "a baseline of a damaged checkpoint",
        None,
        &["MODEL", "--baseline", "damaged.measured.json"],
        2,
        &["was damaged when it was measured"],
    ),
    mistake(
        "a limit for a name that no tensor has",
        Some("[[limits]]\nquantity = \"norm\"\ntensors = \"layerz.*\"\nlargest = 1.0\n"),
        &["MODEL"],
        2,
        &[
            "gate: could not decide",
            "tensors = \"layerz.*\"",
            "no tensor of the model has such a name",
            "mend its pattern",
        ],
    ),
    mistake(
        "a spectral norm of vectors",
        Some("[[limits]]\nquantity = \"spectral-norm\"\ntensors = \"*bias*\"\nlargest = 1.0\n"),
        &["MODEL", "--measure", "spectra"],
        2,
        &["tensors = \"*bias*\"", "has fewer than two dimensions"],
    ),
    mistake(
        "a limit of growth without a baseline",
        Some("[[limits]]\nquantity = \"parameter-norm\"\ngrowth = 2.0\n"),
        &["MODEL"],
        2,
        &["the growth of parameter-norm needs a baseline", "give --baseline"],
    ),
    mistake(
        "a limit on shrinking without a baseline",
        Some("[[limits]]\nquantity = \"norm\"\nshrink = 0.5\n"),
        &["MODEL"],
        2,
        &["the shrinking of norm needs a baseline", "give --baseline"],
    ),
    mistake(
        "a family required that judges no checkpoint",
        Some("[gate]\nrequired = [\"FP5xx\"]\n"),
        &["MODEL"],
        2,
        &["line 2, column 13", "every rule of FP5xx judges a run", "leave it out, or name one of FP1xx"],
    ),
    mistake(
        "growth per step from a baseline of the same step",
        Some("[[limits]]\nquantity = \"parameter-norm\"\ngrowth-per-step = 1.1\n"),
        &["MODEL", "--baseline", "same.measured.json"],
        2,
        &["the baseline is of the same step or a later one"],
    ),
    mistake(
        "one baseline for two checkpoints",
        None,
        &["MODEL", "MODEL", "--baseline", "same.measured.json"],
        2,
        &["several are to be judged"],
    ),
    mistake(
        "an output that cannot be written",
        None,
        &["MODEL", "--output", "no/such/folder/a.sarif"],
        2,
        &["no/such/folder/a.sarif: no such file"],
    ),
    mistake(
        "an output over the baseline",
        None,
        &["MODEL", "--baseline", "same.measured.json", "--output", "json=same.measured.json"],
        2,
        &["is a part of the input, and is not overwritten"],
    ),
    mistake(
        "a format that is none",
        None,
        &["MODEL", "--output", "serif=a.txt"],
        2,
        &["no such format; formats are terminal, json, markdown, html, sarif, junit, github"],
    ),
    mistake(
        "a checkpoint that is not there",
        None,
        &["checkpoint-900"],
        2,
        &["checkpoint-900: no such file"],
    ),
    mistake(
        "a run where a checkpoint is needed",
        None,
        &["ROOT/fixtures/runs/rnn-healthy"],
        2,
        &["holds 2 checkpoints; the newest is checkpoint-0400", "name one of them"],
    ),
    mistake(
        "a pointer that git-lfs left",
        None,
        &["pointer.safetensors"],
        2,
        &["is a git-lfs pointer", "git lfs pull"],
    ),
    mistake("nothing to judge", None, &[], 2, &["<PATH>"]),
    mistake(
        "names and shapes only",
        None,
        &["MODEL", "--measure", "list"],
        2,
        &["no element of", "was read"],
    ),
    mistake(
        "a required rule that cannot run",
        Some("[gate]\nrequired = [\"FP702\"]\n"),
        &["MODEL"],
        2,
        &["FP702 broken-moment-bound was not evaluated: needs optimizer state", "the policy requires it"],
    ),
    mistake(
        "a format that is not allowed",
        Some("[gate]\nformats = [\"safetensors\"]\n"),
        &["MODEL"],
        1,
        &["optimizer.pt is torch-zip; allowed are: safetensors"],
    ),
    mistake(
        "a format that nobody reads",
        Some("[gate]\nformats = [\"safetensor\"]\n"),
        &["MODEL"],
        2,
        &["line 2, column 12", "unknown variant `safetensor`"],
    ),
    mistake(
        "init over a policy",
        Some("# ours\n"),
        &["--init"],
        2,
        &["flashpoint.toml: it is there already, and is not overwritten"],
    ),
];

#[test]
fn every_likely_mistake_gets_one_clear_message_and_never_a_pass() {
    assert!(MISTAKES.len() >= 22);
    let root = std::env::current_dir().expect("a directory");
    let root = root.to_str().expect("the repository's path is UTF-8");
    let model = format!("{root}/{HEALTHY}");
    for Mistake { what, policy, arguments, code, said } in MISTAKES {
        let folder = tempfile::tempdir().expect("a temporary directory can be made");
        if let Some(policy) = policy {
            std::fs::write(folder.path().join("flashpoint.toml"), policy).expect("it can be written");
        }
        if arguments.iter().any(|argument| argument.contains(".measured.json")) {
            baselines(folder.path(), root);
        }
        let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12\n";
        std::fs::write(folder.path().join("pointer.safetensors"), pointer).expect("it can be written");
        let arguments =
            arguments.iter().map(|argument| argument.replace("MODEL", &model).replace("ROOT", root));
        let output = Command::new(env!("CARGO_BIN_EXE_flashpoint"))
            .arg("gate")
            .args(arguments)
            .current_dir(folder.path())
            .output()
            .expect("the binary under test can be started");
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(*code), "{what}\n{printed}{errors}");
        for said in *said {
            assert!(
                printed.contains(said) || errors.contains(said),
                "{what} lacks {said:?}:\n{printed}{errors}"
            );
        }
        let ours = errors.lines().filter(|line| line.starts_with("flashpoint: ")).count();
        assert!(ours <= 1, "{what}: {ours} messages\n{errors}");
        assert!(!errors.contains("panicked"), "{what}\n{errors}");
    }
}

#[test]
fn a_refused_baseline_leaves_a_report_that_says_so() {
    let root = std::env::current_dir().expect("a directory");
    let root = root.to_str().expect("the repository's path is UTF-8");
    let folder = tempfile::tempdir().expect("a temporary directory can be made");
    baselines(folder.path(), root);
    for (baseline, said, is_measured) in
        [("gone.json", "no such file", false), ("other.measured.json", "it is of another model", true)]
    {
        let output = Command::new(env!("CARGO_BIN_EXE_flashpoint"))
            .args(["gate", &format!("{root}/{HEALTHY}"), "--baseline", baseline])
            .args(["--output", "json=gate.json", "--output", "sarif=gate.sarif"])
            .current_dir(folder.path())
            .output()
            .expect("the binary under test can be started");
        assert_eq!(output.status.code(), Some(2));
        let report = std::fs::read_to_string(folder.path().join("gate.json")).expect("it was written");
        let report: serde_json::Value = serde_json::from_str(&report).expect("it is JSON");
        let first = &report["gate"]["decisions"][0];
        assert_eq!(report["gate"]["outcome"], "could-not-decide");
        assert_eq!(
            (&first["check"], &first["effect"]),
            (&"gate-refused-baseline".into(), &"prevents".into())
        );
        assert!(first["message"].as_str().is_some_and(|message| message.contains(said)), "{first}");
        assert_eq!(report["checkpoints"].as_array().map(Vec::len), Some(usize::from(is_measured)));
        let sarif = std::fs::read_to_string(folder.path().join("gate.sarif")).expect("it was written");
        assert!(sarif.contains("gate-refused-baseline"));
        std::fs::remove_file(folder.path().join("gate.json")).expect("it is there");
    }
}

/// Measurement files that can be baselines, and some that cannot.
fn baselines(folder: &Path, root: &str) {
    let measure = |name: &str, arguments: &[&str]| {
        let paths = arguments.iter().map(|argument| argument.replace("ROOT", root)).collect::<Vec<_>>();
        let output = Command::new(env!("CARGO_BIN_EXE_flashpoint"))
            .args(["measure", "--output", name])
            .args(&paths)
            .current_dir(folder)
            .output()
            .expect("the binary under test can be started");
        assert!(folder.join(name).is_file(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    let healthy = format!("ROOT/{HEALTHY}");
    measure("same.measured.json", &[&healthy]);
    measure("other.measured.json", &["ROOT/fixtures/runs/mlp-healthy/checkpoint-0100"]);
    measure("two.measured.json", &[&healthy, "ROOT/fixtures/runs/rnn-healthy/checkpoint-0000"]);
    measure("list.measured.json", &[&healthy, "--measure", "list"]);
    measure("damaged.measured.json", &["ROOT/fixtures/rules/FP903-damaged-file/fires-truncated-shard"]);
    let whole = std::fs::read(folder.join("same.measured.json")).expect("it was written");
    std::fs::write(folder.join("half.measured.json"), &whole[..whole.len() / 2]).expect("it can be written");
}
