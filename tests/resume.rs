//! Resume: which state, which words, whose exit code, whose signals; and real PyTorch runs that recover.

#[path = "common/recover.rs"]
mod common;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::*;
use serde_json::{Value, json};

/// Longer than anything here takes, on a machine that does other things too.
const A_MINUTE: Duration = Duration::from_mins(1);

const SPIKE: &str = "fixtures/runs/gpt-spike";

/// A copy of a run, so that what is written beside it goes away.
fn run(folder: &Path) -> PathBuf {
    let run = folder.join("run");
    copy(Path::new(SPIKE), &run);
    run
}

#[test]
fn the_exit_code_is_that_of_the_command_and_2_where_it_was_not_started() {
    let resume =
        |words: &[&str]| flashpoint(&[&["resume", SPIKE, "--from", "160", "--"], words].concat()).status;
    assert_eq!(resume(&["sh", "-c", "exit 0", "{checkpoint}"]).code(), Some(0));
    assert_eq!(resume(&["sh", "-c", "exit 7", "{checkpoint}"]).code(), Some(7));
    assert_eq!(resume(&["sh", "-c", "kill -9 $$", "{checkpoint}"]).code(), Some(137));
    assert_eq!(resume(&["no-such-program-here", "{checkpoint}"]).code(), Some(2));
    assert_eq!(resume(&["sh", "-c", "exit 0"]).code(), Some(2), "the checkpoint would be without effect");
    let clipped = flashpoint(&["resume", SPIKE, "--from", "160", "--", "sh", "{checkpoint}", "{clip_norm}"]);
    assert_eq!(clipped.status.code(), Some(2));
    let absent = flashpoint(&["resume", SPIKE, "--from", "161", "--", "sh", "{checkpoint}"]);
    assert_eq!(absent.status.code(), Some(2));
    assert!(told(&absent).contains("160"), "{}", told(&absent));
    let nothing = flashpoint(&["resume", SPIKE]);
    assert_eq!(nothing.status.code(), Some(2));
    assert!(told(&nothing).contains("only the program that trained it can go on"), "{}", told(&nothing));
    let misspelt = flashpoint(&["resume", "fixtures/runs/gpt-spkie"]);
    assert_eq!(misspelt.status.code(), Some(2));
    assert!(told(&misspelt).contains("no such file or directory"), "{}", told(&misspelt));
}

#[test]
fn the_command_gets_its_words_and_stdout_is_its_own() {
    let words = [
        "sh",
        "-c",
        "printf '%s\\n' \"$@\"",
        "x",
        "--from={checkpoint}",
        "{step}",
        "{lr}",
        "{skip_from}:{skip_to}",
    ];
    let flags = ["resume", SPIKE, "--from", "160", "--skip-batches", "180..190", "--"];
    let output = flashpoint(&[&flags[..], &words].concat());
    assert_eq!(output.status.code(), Some(0), "{}", told(&output));
    let printed = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<&str> = printed.lines().collect();
    assert_eq!(lines[0], format!("--from={SPIKE}/checkpoint-160"));
    assert_eq!((lines[1], lines[3]), ("160", "180:190"));
    assert!(lines[2].parse::<f64>().is_ok_and(|rate| rate > 0.0), "{printed}");
}

#[test]
fn a_dry_run_says_everything_and_does_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let run = run(folder.path());
    let before = files(folder.path());
    let flags = ["resume", text(&run), "--dry-run", "--repair", "--clip", "recommended", "--lr-scale", "0.5"];
    let words = ["--format", "json", "--", "touch", "started", "{checkpoint}", "{clip_norm}", "{lr}"];
    let output = flashpoint(&[&flags[..], &words].concat());
    assert_eq!(output.status.code(), Some(0), "{}", told(&output));
    assert_eq!(files(folder.path()), before);
    assert!(!Path::new("started").exists());
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["chosen"]["step"], 160);
    assert_eq!(report["audit"]["exactness"], "numeric");
    assert_eq!(report["plan"]["edits"][0]["action"], "learning-rate");
    assert_eq!(report["substitutions"].as_array().unwrap().len(), 3);
    assert!(report["repaired"].as_str().unwrap().ends_with("run-resumed/checkpoint-160"));
}

#[test]
fn a_run_that_came_back_from_a_spike_goes_on_from_its_newest_state() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    copy(&Path::new(SPIKE).join("checkpoint-240"), &run.join("checkpoint-240"));
    // One gradient forty times the usual at step 60, before any checkpoint; the loss falls on after twenty steps.
    let rows = (1..=240).map(|step| {
        let wave = f64::from(step * 7 % 11) / 100.0;
        let norm = if step == 60 { 40.0 } else { 1.0 + wave };
        let loss = if (60..80).contains(&step) { 4.0 } else { 3.0 - f64::from(step) / 200.0 + wave };
        json!({ "step": step, "loss": loss, "grad_norm": norm, "learning_rate": 1e-3 })
    });
    let state = json!({ "global_step": 240, "log_history": rows.collect::<Vec<_>>() });
    std::fs::write(run.join("checkpoint-240/trainer_state.json"), state.to_string()).unwrap();
    let flags = ["resume", text(&run), "--dry-run", "--clip", "recommended", "--format", "json"];
    let output = flashpoint(&[&flags[..], &["--", "touch", "{checkpoint}", "{clip_norm}"]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", told(&output));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["chosen"]["step"], 240);
    let because = report["chosen"]["because"].as_str().unwrap();
    assert!(
        because.starts_with("the run came back by itself from the gradient-spike of step 60"),
        "{because}"
    );
}

#[test]
fn a_repaired_state_is_a_new_one_beside_the_run() {
    let folder = tempfile::tempdir().unwrap();
    let run = run(folder.path());
    let before = files(&run);
    for number in ["", "-2"] {
        let flags = ["resume", text(&run), "--from", "160", "--lr-scale", "0.5", "--", "ls", "{checkpoint}"];
        let output = flashpoint(&flags);
        assert_eq!(output.status.code(), Some(0), "{}", told(&output));
        assert!(String::from_utf8_lossy(&output.stdout).contains("repair.json"));
        let target = folder.path().join(format!("run-resumed{number}/checkpoint-160"));
        let (old, new) = (read(&run.join("checkpoint-160")), read(&target));
        let rate = |checkpoint: &flashpoint::checkpoint::Checkpoint| {
            checkpoint.optimizers[0].groups[0].learning_rate
        };
        assert_eq!(rate(&new), rate(&old).map(|rate| 0.5 * rate));
    }
    assert_eq!(files(&run), before, "the run is never written to");
}

/// Starts a resume of `script` by the shell, waits until it says that it is ready.
#[cfg(unix)]
fn started(folder: &Path, flags: &[&str], script: &str) -> std::process::Child {
    let words = ["--", "sh", "-c", script, "{checkpoint}", text(folder)];
    let mut child = command(&[&["resume", SPIKE, "--from", "160"], flags, &words].concat())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the binary under test can be started");
    let began = Instant::now();
    while !folder.join("ready").exists() {
        assert!(began.elapsed() < A_MINUTE, "it never got ready");
        assert!(child.try_wait().unwrap().is_none(), "it ended before it was ready");
        std::thread::sleep(Duration::from_millis(10));
    }
    child
}

/// Waits for the end, for at most a minute.
fn end(child: &mut std::process::Child) -> Option<i32> {
    let began = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code();
        }
        if began.elapsed() > A_MINUTE {
            child.kill().unwrap();
            panic!("it did not end");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[cfg(unix)]
#[test]
fn signals_are_passed_on_and_the_command_decides_what_they_mean() {
    for (signal, code) in [("TERM", 41), ("INT", 42), ("USR1", 43), ("HUP", 44)] {
        let folder = tempfile::tempdir().unwrap();
        let script = format!("trap 'exit {code}' {signal}; touch \"$1/ready\"; while :; do sleep 0.05; done");
        let mut child = started(folder.path(), &[], &script);
        let sent = Command::new("kill").args([&format!("-{signal}"), &child.id().to_string()]).status();
        assert!(sent.unwrap().success());
        assert_eq!(end(&mut child), Some(code), "{signal}");
    }
}

/// A shell program that logs a loss that falls slowly, and from step 200 on grows by half with every step.
const EXPLODES: &str = "
trap 'touch \"$1/asked\"; exit 0' TERM
awk -v dir=\"$1\" 'BEGIN {
  for (step = 161; step < 230; step++) {
    loss = 1.0 + 0.02 * ((step * 7919) % 13) / 13
    if (step >= 200) loss = loss * exp(0.4 * (step - 199))
    printf \"{\\\"step\\\": %d, \\\"loss\\\": %f, \\\"grad_norm\\\": %f}\\n\", step, loss, loss / 2 > (dir \"/metrics.jsonl\")
  }
}'
touch \"$1/ready\"
while :; do sleep 0.05; done
";

#[cfg(unix)]
#[test]
fn a_watched_command_that_blows_up_again_is_asked_to_stop_and_the_exit_code_is_3() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("metrics.jsonl");
    let mut child = started(folder.path(), &["--watch", text(&log), "--watch-every", "0.2"], EXPLODES);
    assert_eq!(end(&mut child), Some(3));
    assert!(folder.path().join("asked").exists(), "it was not asked first");
}

#[cfg(unix)]
#[test]
fn a_watched_command_that_does_not_stop_when_asked_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("metrics.jsonl");
    let stubborn = EXPLODES.replace("exit 0' TERM", "' TERM");
    let flags = ["--watch", text(&log), "--watch-every", "0.2", "--grace", "0.5"];
    let mut child = started(folder.path(), &flags, &stubborn);
    assert_eq!(end(&mut child), Some(3));
    assert!(folder.path().join("asked").exists());
}

#[cfg(unix)]
#[test]
fn a_watched_command_that_is_healthy_runs_to_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("metrics.jsonl");
    let healthy = EXPLODES
        .replace("step >= 200", "step >= 2000")
        .replace("while :; do sleep 0.05; done", "sleep 1; exit 5");
    let flags = ["--watch", text(&log), "--watch-every", "0.2"];
    let mut child = started(folder.path(), &flags, &healthy);
    assert_eq!(end(&mut child), Some(5));
    assert!(!folder.path().join("asked").exists());
}

#[cfg(unix)]
#[test]
fn workers_have_their_time_to_save_though_the_leader_ends_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("metrics.jsonl");
    let worker = "(trap 'sleep 1; touch \"$1/saved\"; exit 0' TERM; while :; do sleep 0.05; done) &";
    let program = EXPLODES.replacen("trap 'touch \"$1/asked\"; exit 0' TERM", worker, 1);
    assert!(program.contains("saved"));
    let mut child = started(folder.path(), &["--watch", text(&log), "--watch-every", "0.2"], &program);
    assert_eq!(end(&mut child), Some(3));
    assert!(folder.path().join("saved").exists(), "it was killed before it had saved");
}

#[cfg(unix)]
#[test]
fn a_log_that_never_says_anything_of_the_new_attempt_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("nothing.jsonl");
    let flags = ["resume", SPIKE, "--from", "160", "--watch", text(&log), "--"];
    let output = flashpoint(&[&flags[..], &["sh", "-c", "exit 6", "{checkpoint}"]].concat());
    assert_eq!(output.status.code(), Some(6));
    assert!(told(&output).contains("never saw a step behind 160"), "{}", told(&output));
}

/// A copy of the run in which one weight of step 160 is `value`.
fn with_weight(folder: &Path, value: f32) -> PathBuf {
    let run = run(folder);
    let state = read(&run.join("checkpoint-160"));
    let weight = state.tensors.iter().find(|tensor| {
        tensor.section == flashpoint::checkpoint::Section::Model
            && tensor.tensor.as_ref().is_ok_and(|tensor| tensor.shape.len() == 2)
    });
    let stored = weight.expect("there is a matrix").tensor.as_ref().unwrap();
    assert_eq!(stored.dtype, flashpoint::tensor::DType::F32);
    let (path, place) = (stored.file().unwrap().path().to_owned(), stored.pieces[0].bytes.start as usize);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[place..place + 4].copy_from_slice(&value.to_le_bytes());
    std::fs::write(&path, bytes).unwrap();
    run
}

#[test]
fn nothing_is_started_from_a_state_that_no_edit_repairs_or_that_is_damaged() {
    let folder = tempfile::tempdir().unwrap();
    let run = with_weight(folder.path(), f32::NAN);
    let witness = folder.path().join("started");
    let resume = |flags: &[&str]| {
        let start = ["resume", text(&run), "--from", "160"];
        flashpoint(&[&start[..], flags, &["--", "touch", text(&witness), "{checkpoint}"]].concat())
    };
    let refused = resume(&["--repair"]);
    assert_eq!(refused.status.code(), Some(2), "{}", told(&refused));
    assert!(told(&refused).contains("roll back"), "{}", told(&refused));
    assert!(!witness.exists(), "the command was started");
    // Neither by itself nor for a rate alone is it gone on from: that a weight is no number, and what to do, is said.
    for flags in [&[][..], &["--dry-run"], &["--lr-scale", "0.5"], &["--lr-scale", "0.5", "--dry-run"]] {
        let refused = resume(flags);
        assert_eq!(refused.status.code(), Some(2), "{}", told(&refused));
        assert!(told(&refused).contains("1 of "), "{}", told(&refused));
        assert!(told(&refused).contains("are not finite (1 NaN, 0 infinite)"), "{}", told(&refused));
        assert!(told(&refused).contains("take an earlier checkpoint"), "{}", told(&refused));
        assert!(!witness.exists(), "the command was started");
    }
    let model = run.join("checkpoint-160/model.safetensors");
    let bytes = std::fs::read(&model).unwrap();
    std::fs::write(&model, &bytes[..bytes.len() / 2]).unwrap();
    let refused = resume(&[]);
    assert_eq!(refused.status.code(), Some(2), "{}", told(&refused));
    assert!(!witness.exists(), "the command was started");
}

/// The mean loss that a script of `fixtures/resume` prints last.
fn loss(output: &std::process::Output) -> f64 {
    let text = told(output);
    let last = text.lines().rev().find(|line| line.contains("mean loss")).unwrap_or_else(|| panic!("{text}"));
    last.rsplit(' ').next().unwrap().parse().unwrap_or(f64::NAN)
}

fn blew_up(output: &std::process::Output, limit: f64) -> bool {
    let loss = loss(output);
    loss.is_nan() || loss >= limit
}

fn script(python: &Path, name: &str, arguments: &[&str]) -> std::process::Output {
    let output = Command::new(python).arg(format!("fixtures/resume/{name}.py")).args(arguments).output();
    output.expect("python can be started")
}

/// A broken shard throws the run far away; the save before it was torn. Loss of a whole run without either: 1.09.
#[test]
fn a_real_run_in_a_trainers_directory_is_repaired_resumed_by_its_own_script_and_recovers() {
    let Some(python) = python("the resume of a Trainer-style run") else { return };
    let folder = tempfile::tempdir().unwrap();
    let (run, again, control) =
        (folder.path().join("run"), folder.path().join("again"), folder.path().join("control"));
    let bad = ["--bad-steps", "230-231"];
    let first = script(
        &python,
        "trainer_style",
        &[&["--output-dir", text(&run), "--torn-save", "200"], &bad[..]].concat(),
    );
    assert!(blew_up(&first, 10.0), "it has to blow up: {}", told(&first));
    let program = "fixtures/resume/trainer_style.py";
    let flags = ["resume", text(&run), "--from", "200", "--repair", "--clip", "recommended", "--"];
    let words = [
        text(&python),
        program,
        "--output-dir",
        text(&again),
        "--resume-from",
        "{checkpoint}",
        "--max-grad-norm",
        "{clip_norm}",
    ];
    let unasked: Vec<&str> = flags.iter().copied().filter(|flag| *flag != "--repair").collect();
    let refused = flashpoint(&[&unasked[..], &words, &bad].concat());
    assert_eq!(refused.status.code(), Some(2), "{}", told(&refused));
    assert!(told(&refused).contains("are not finite (1 NaN, 0 infinite)"), "{}", told(&refused));
    assert!(told(&refused).contains("let --repair reset that state in a copy"), "{}", told(&refused));
    assert!(!again.exists(), "the command was started");
    let resumed = flashpoint(&[&flags[..], &words, &bad].concat());
    assert_eq!(resumed.status.code(), Some(0), "{}", told(&resumed));
    assert!(told(&resumed).contains("drop-non-finite"), "{}", told(&resumed));
    assert!(loss(&resumed) < 1.3, "{}", told(&resumed));
    // Without the repair the torn state makes everything NaN, clipped or not.
    let torn = run.join("checkpoint-200");
    let unrepaired = ["--output-dir", text(&control), "--resume-from", text(&torn), "--max-grad-norm", "0.3"];
    assert!(loss(&script(&python, "trainer_style", &unrepaired)).is_nan());
}

/// A learning rate fifty times too high explodes in the warm-up.
#[test]
fn a_real_run_in_nano_gpts_files_is_resumed_at_a_lower_rate_and_recovers() {
    let Some(python) = python("the resume of a nanoGPT-style run") else { return };
    let folder = tempfile::tempdir().unwrap();
    let (run, again) = (folder.path().join("out"), folder.path().join("again"));
    let first = script(&python, "nano_gpt_style", &["--out-dir", text(&run), "--learning-rate", "1.0"]);
    assert!(blew_up(&first, 2.0), "it has to blow up: {}", told(&first));
    let program = "fixtures/resume/nano_gpt_style.py";
    let flags =
        ["resume", text(&run), "--lr-scale", "0.02", "--clip", "recommended", "--watch", text(&again), "--"];
    let words = [
        text(&python),
        program,
        "--out-dir",
        text(&again),
        "--resume-from",
        "{checkpoint}",
        "--learning-rate",
        "{lr}",
        "--max-grad-norm",
        "{clip_norm}",
    ];
    let resumed = flashpoint(&[&flags[..], &words].concat());
    assert_eq!(resumed.status.code(), Some(0), "{}", told(&resumed));
    assert!(loss(&resumed) < 1.3, "{}", told(&resumed));
    // At the rate it had, it blows up again, and is stopped.
    let once_more = folder.path().join("once-more");
    let flags =
        ["resume", text(&run), "--watch", text(&once_more), "--watch-every", "0.3", "--grace", "5", "--"];
    let words = [
        text(&python),
        program,
        "--out-dir",
        text(&once_more),
        "--resume-from",
        "{checkpoint}",
        "--learning-rate",
        "{lr}",
        "--max-iters",
        "100000",
    ];
    let stopped = flashpoint(&[&flags[..], &words].concat());
    assert_eq!(stopped.status.code(), Some(3), "{}", told(&stopped));
}
