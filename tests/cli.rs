//! The command line: exit codes, what goes to stdout and what to stderr, and that the answer does not depend on how it
//! was computed.

use std::path::Path;
use std::process::{Command, Output, Stdio};

const EXPLODED: &str = "fixtures/runs/rnn-exploding/checkpoint-0400";
const HEALTHY: &str = "fixtures/runs/rnn-healthy/checkpoint-0400";

fn flashpoint(arguments: &[&str]) -> Output {
    command(arguments).output().expect("the binary under test can be started")
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_flashpoint"));
    command.args(arguments);
    command
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("reports are UTF-8")
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("errors are UTF-8")
}

#[test]
fn an_answered_question_is_0_whatever_was_found() {
    assert_eq!(flashpoint(&["inspect", EXPLODED]).status.code(), Some(0));
    assert_eq!(flashpoint(&["inspect", HEALTHY]).status.code(), Some(0));
}

#[test]
fn fail_on_makes_findings_1() {
    assert_eq!(flashpoint(&["inspect", EXPLODED, "--fail-on", "warning"]).status.code(), Some(1));
    assert_eq!(flashpoint(&["inspect", HEALTHY, "--fail-on", "warning"]).status.code(), Some(0));
}

#[test]
fn a_verdict_that_no_finding_stands_behind_fails_as_a_warning_and_says_so() {
    let folder = tempfile::tempdir().expect("a temporary directory can be made");
    let judged = |last_rate: f64, limit: &str| {
        let rate = |step: u64| if step < 100 { 1e-3 } else { last_rate };
        let rows =
            (1..=200).map(|step| format!("{step},{},{}\n", 2.0 + 0.01 * (step % 7) as f64, rate(step)));
        let log = format!("step,loss,lr\n{}", rows.collect::<String>());
        std::fs::write(folder.path().join("train.csv"), log).expect("a temporary file can be written");
        let run = folder.path().to_str().expect("temporary paths are UTF-8");
        flashpoint(&["postmortem", run, "--format", "json", "--fail-on", limit])
    };
    let stopped = judged(0.0, "warning");
    let report = json(&stopped);
    assert_eq!(report["diagnosis"]["mechanism"], "frozen");
    let findings = report["findings"].as_array().expect("a list");
    assert!(findings.iter().all(|finding| finding["severity"] == "note"), "{findings:?}");
    assert_eq!(stopped.status.code(), Some(1));
    assert!(stderr(&stopped).contains("the verdict does: frozen at step "), "{}", stderr(&stopped));
    assert_eq!(judged(0.0, "critical").status.code(), Some(0));
    let goes_on = judged(1e-3, "warning");
    assert_eq!((goes_on.status.code(), stderr(&goes_on).as_str()), (Some(0), ""));
}

#[test]
fn a_path_that_is_not_there_is_2_and_one_sentence() {
    let output = flashpoint(&["inspect", "no/such/checkpoint"]);
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(
        stderr(&output),
        "flashpoint: no/such/checkpoint: no such file or directory; check the spelling of the path\n"
    );
    assert_eq!(stdout(&output), "");
}

#[test]
fn one_bad_path_does_not_hide_the_good_one() {
    let output = flashpoint(&["inspect", HEALTHY, "no/such/checkpoint"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stdout(&output).contains("rnn-healthy/checkpoint-0400"));
    assert!(stderr(&output).contains("no/such/checkpoint"));
}

#[test]
fn damage_is_2_and_what_is_intact_is_still_reported() {
    let output = flashpoint(&["inspect", "fixtures/rules/FP903-damaged-file/fires-truncated-shard"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stdout(&output).contains("FP903"), "{}", stdout(&output));
}

#[test]
fn damage_takes_precedence_over_findings() {
    let path = "fixtures/rules/FP903-damaged-file/fires-truncated-shard";
    assert_eq!(flashpoint(&["inspect", path, "--fail-on", "critical"]).status.code(), Some(2));
}

#[test]
fn json_is_the_same_for_any_number_of_threads_and_without_a_memory_map() {
    let reference = flashpoint(&["inspect", EXPLODED, "--format", "json"]).stdout;
    for extra in [&["--threads", "1"][..], &["--threads", "2"], &["--threads", "5"], &["--no-mmap"]] {
        let arguments = [&["inspect", EXPLODED, "--format", "json"], extra].concat();
        assert!(flashpoint(&arguments).stdout == reference, "{extra:?} changes the report");
    }
}

#[test]
fn a_measurement_file_gives_the_same_report_as_the_checkpoint() {
    let folder = tempfile::tempdir().expect("a temporary directory can be made");
    let file = folder.path().join("x.measured.json");
    let file = file.to_str().expect("temporary paths are UTF-8");
    let measured = flashpoint(&["measure", EXPLODED, "--output", file]);
    assert_eq!(measured.status.code(), Some(0), "{}", stderr(&measured));
    for format in ["terminal", "json"] {
        let from_file = stdout(&flashpoint(&["inspect", file, "--format", format]));
        let from_checkpoint = stdout(&flashpoint(&["inspect", EXPLODED, "--format", format]));
        assert_eq!(from_file, from_checkpoint);
    }
}

#[test]
fn the_json_report_holds_no_absolute_path() {
    let absolute = std::fs::canonicalize(EXPLODED).expect("the fixture is there");
    let output = flashpoint(&["inspect", absolute.to_str().expect("UTF-8"), "--format", "json"]);
    let root = absolute
        .ancestors()
        .nth(3)
        .expect("the fixture lies deep enough")
        .to_str()
        .expect("UTF-8")
        .to_owned();
    assert!(!stdout(&output).contains(&root));
}

#[test]
fn an_output_that_cannot_be_written_is_refused_before_the_work() {
    let output = flashpoint(&["inspect", EXPLODED, "--output", "json=no/such/folder/report.json"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("no/such/folder/report.json"), "{}", stderr(&output));
    assert_eq!(stdout(&output), "");
}

#[test]
fn an_output_file_holds_what_stdout_would() {
    let folder = tempfile::tempdir().expect("a temporary directory can be made");
    let file = folder.path().join("report.json");
    let target = format!("json={}", file.display());
    flashpoint(&["inspect", EXPLODED, "--output", &target]);
    let written = std::fs::read(&file).expect("the report was written");
    assert!(written == flashpoint(&["inspect", EXPLODED, "--format", "json"]).stdout);
}

#[test]
fn a_reader_that_goes_away_is_not_an_error() {
    let mut child = command(&["inspect", EXPLODED, "--format", "json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary under test can be started");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(stderr(&output), "");
}

#[cfg(unix)]
#[test]
fn a_fifo_given_as_a_checkpoint_does_not_hang() {
    let folder = tempfile::tempdir().expect("a temporary directory can be made");
    let fifo = folder.path().join("model.safetensors");
    let made = Command::new("mkfifo").arg(&fifo).status().expect("mkfifo can be started");
    assert!(made.success());
    let output = flashpoint(&["inspect", fifo.to_str().expect("temporary paths are UTF-8")]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("not a regular file"), "{}", stderr(&output));
}

#[test]
fn a_measurement_file_of_another_major_version_is_refused_by_version() {
    let folder = tempfile::tempdir().expect("a temporary directory can be made");
    let file = folder.path().join("x.measured.json");
    std::fs::write(&file, r#"{"schema_version":"9.0"}"#).expect("a temporary file can be written");
    let output = flashpoint(&["inspect", file.to_str().expect("temporary paths are UTF-8")]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("schema version 9.0"), "{}", stderr(&output));
}

#[test]
fn a_measurement_is_not_written_under_a_name_no_command_knows_again() {
    let output = flashpoint(&["measure", EXPLODED, "--output", "x.json"]);
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(
        stderr(&output),
        "flashpoint: x.json: its name does not end in .measured.json, and no command would know it again; \
         give the output a name that ends so\n"
    );
    assert!(!Path::new("x.json").exists());
}

#[test]
fn a_check_that_could_not_run_is_said_not_to_have_run() {
    let output = flashpoint(&["inspect", HEALTHY, "--measure", "list"]);
    let text = stdout(&output);
    assert!(text.contains("not evaluated"), "{text}");
    let of_fp101 = text.lines().find(|line| line.trim_start().starts_with("FP101"));
    assert!(of_fp101.is_some_and(|line| line.ends_with("needs --measure norms")), "{text}");
}

#[test]
fn explain_prints_the_page_by_code_or_name_and_suggests_the_list() {
    let by_code = stdout(&flashpoint(&["explain", "fp101"]));
    assert!(by_code.starts_with("# FP101 non-finite\n"));
    assert_eq!(stdout(&flashpoint(&["explain", "non-finite"])), by_code);
    let of_the_gate = stdout(&flashpoint(&["explain", "gate-not-judged"]));
    assert!(of_the_gate.starts_with("# gate-not-judged\n") && of_the_gate.contains("## What to do"));
    let nearly = flashpoint(&["explain", "gate-limits"]);
    assert!(stderr(&nearly).contains("did you mean gate-limit?"), "{}", stderr(&nearly));
    let unknown = flashpoint(&["explain", "FP999"]);
    assert_eq!(unknown.status.code(), Some(2));
    assert!(stderr(&unknown).contains("`flashpoint rules` lists them"), "{}", stderr(&unknown));
}

#[test]
fn a_policy_overrides_a_limit_and_a_wrong_one_is_an_error_at_its_line() {
    let folder = tempfile::tempdir().expect("a temporary directory can be made");
    let policy = folder.path().join("flashpoint.toml");
    let policy_path = policy.to_str().expect("temporary paths are UTF-8").to_owned();
    std::fs::write(&policy, "\n[rules.FP999]\nx = 1.0\n").expect("a temporary file can be written");
    let output = flashpoint(&["inspect", EXPLODED, "--config", &policy_path]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("line 2"), "{}", stderr(&output));
}

#[test]
fn rules_lists_every_rule_once() {
    let text = stdout(&flashpoint(&["rules"]));
    let codes = text.lines().filter_map(|line| line.split_whitespace().next()).collect::<Vec<_>>();
    let expected = flashpoint::rules::RULES.iter().map(|rule| rule.code).collect::<Vec<_>>();
    assert_eq!(codes, expected);
}

#[test]
fn two_checkpoints_of_one_name_keep_their_findings_apart() {
    let folder = tempfile::tempdir().expect("a temporary directory can be made");
    let place = |name: &str, source: &str| {
        let path = folder.path().join(name);
        std::fs::create_dir(&path).expect("a folder can be made");
        std::fs::copy(source, path.join("model.safetensors")).expect("a fixture can be copied");
        path.join("model.safetensors").to_str().expect("temporary paths are UTF-8").to_owned()
    };
    let broken = place("a", "fixtures/rules/FP101-non-finite/fires-one-nan-in-weight.safetensors");
    let whole = place("b", "fixtures/rules/FP101-non-finite/silent-large-running-variance.safetensors");
    let text = stdout(&flashpoint(&["inspect", &broken, &whole]));
    assert_eq!(text.matches("critical FP101").count(), 1, "{text}");
    let second = text.split("model.safetensors (2)").nth(1).expect("the second one has a name of its own");
    assert!(!second.contains("critical FP101"), "{text}");
}

#[test]
fn an_index_with_a_missing_shard_is_reported_without_absolute_paths() {
    let index = "fixtures/rules/FP903-damaged-file/fires-missing-shard/model.safetensors.index.json";
    let absolute = std::fs::canonicalize(index).expect("the fixture is there");
    let root = std::env::current_dir().expect("a directory").to_str().expect("UTF-8").to_owned();
    let output = flashpoint(&["inspect", absolute.to_str().expect("UTF-8"), "--format", "json"]);
    assert!(stdout(&output).contains("FP903"));
    assert!(!stdout(&output).contains(&root), "{}", stdout(&output));
}

#[test]
fn the_norm_of_a_part_is_not_given_for_the_whole() {
    let text = stdout(&flashpoint(&["inspect", "fixtures/rules/FP903-damaged-file/fires-truncated-shard"]));
    assert!(text.contains("parameter norm not measured"), "{text}");
}

#[test]
fn a_file_whose_elements_cannot_be_read_is_2_and_not_a_clean_verdict() {
    let output = flashpoint(&[
        "inspect",
        "fixtures/formats/quantized-and-sparse.pt",
        "--measure",
        "list",
        "--fail-on",
        "critical",
    ]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stdout(&output).contains("verdict: nothing was judged"), "{}", stdout(&output));
}

#[test]
fn an_output_never_replaces_the_input_a_link_or_a_device() {
    let folder = tempfile::tempdir().expect("a temporary directory can be made");
    let model = folder.path().join("model.safetensors");
    std::fs::copy("fixtures/formats/degenerate.safetensors", &model).expect("a fixture can be copied");
    let before = std::fs::read(&model).expect("it was copied");
    let model = model.to_str().expect("temporary paths are UTF-8");
    let target = format!("json={model}");
    for input in [model, folder.path().to_str().expect("temporary paths are UTF-8")] {
        let output = flashpoint(&["inspect", input, "--output", &target]);
        assert_eq!(output.status.code(), Some(2), "{}", stdout(&output));
        assert!(stderr(&output).contains("part of the input"), "{}", stderr(&output));
    }
    assert!(std::fs::read(model).expect("it is still there") == before);
    #[cfg(unix)]
    {
        let link = folder.path().join("link");
        std::os::unix::fs::symlink("elsewhere", &link).expect("a link can be made");
        let target = format!("json={}", link.display());
        let output = flashpoint(&["inspect", EXPLODED, "--output", &target]);
        assert!(stderr(&output).contains("link or device"), "{}", stderr(&output));
    }
}

#[test]
fn a_format_that_is_none_is_not_taken_for_a_file_name() {
    let output = flashpoint(&["inspect", EXPLODED, "--output", "xml=report"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("no such format"), "{}", stderr(&output));
}

#[test]
fn a_measurement_file_that_contradicts_itself_is_refused() {
    let folder = tempfile::tempdir().expect("a temporary directory can be made");
    let file = folder.path().join("x.measured.json");
    let path = file.to_str().expect("temporary paths are UTF-8");
    flashpoint(&["measure", EXPLODED, "--output", path]);
    let text = std::fs::read_to_string(&file).expect("it was written");
    std::fs::write(&file, text.replace("\"shape\":[48,48]", "\"shape\":[48,0]")).expect("it can be written");
    let output = flashpoint(&["inspect", path]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("does not have that many elements"), "{}", stderr(&output));
}

#[test]
fn a_measurement_file_from_before_optimizers_were_measured_is_still_read() {
    let folder = tempfile::tempdir().expect("a temporary directory can be made");
    let file = folder.path().join("x.measured.json");
    let path = file.to_str().expect("temporary paths are UTF-8");
    flashpoint(&["measure", HEALTHY, "--output", path]);
    let mut analysis: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&file).expect("it was written")).expect("it is JSON");
    let checkpoint = analysis["checkpoints"][0].as_object_mut().expect("a checkpoint");
    checkpoint.remove("optimizer").expect("it is there today");
    std::fs::write(&file, analysis.to_string()).expect("it can be written");
    let output = flashpoint(&["inspect", path]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(stdout(&output).contains("written before this was measured"), "{}", stdout(&output));
}

#[test]
fn a_replaced_limit_is_said_and_an_impossible_one_refused() {
    let folder = tempfile::tempdir().expect("a temporary directory can be made");
    let policy = folder.path().join("flashpoint.toml");
    let path = policy.to_str().expect("temporary paths are UTF-8").to_owned();
    std::fs::write(&policy, "[rules.FP406]\nratio = 20.0\n").expect("a temporary file can be written");
    let text = stdout(&flashpoint(&["inspect", HEALTHY, "--config", &path]));
    assert!(text.contains("limit replaced: FP406.ratio = 20"), "{text}");
    std::fs::write(&policy, "[rules.FP406]\nratio = nan\n").expect("a temporary file can be written");
    let output = flashpoint(&["inspect", HEALTHY, "--config", &path]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("line 2"), "{}", stderr(&output));
}

#[test]
fn a_pickle_that_runs_code_and_holds_no_tensor_is_2_and_says_what_it_would_run() {
    let folder = tempfile::tempdir().expect("a temporary directory can be made");
    for module in ["posix", "commands"] {
        let file = folder.path().join(module).with_extension("pkl");
        // PROTO 2; GLOBAL module getoutput; BINUNICODE "echo"; TUPLE1; REDUCE; STOP.
        let global = format!("c{module}\ngetoutput\n");
        let pickle = [b"\x80\x02".as_slice(), global.as_bytes(), b"X\x04\0\0\0echo\x85R."].concat();
        std::fs::write(&file, pickle).expect("a temporary file can be written");
        let output = flashpoint(&["inspect", file.to_str().expect("temporary paths are UTF-8")]);
        assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
        assert!(stdout(&output).contains("critical FP901"), "{}{}", stdout(&output), stderr(&output));
    }
}

#[test]
fn one_flipped_bit_of_a_pytorch_archive_is_damage() {
    let folder = tempfile::tempdir().expect("a temporary directory can be made");
    let path = folder.path().join("flipped.pt");
    let mut bytes = std::fs::read("fixtures/formats/shared-storage.pt").expect("the fixture is there");
    // Members are aligned to 64 bytes and named before their data: behind "data/0" and its padding lie elements.
    let name = bytes.windows(6).position(|window| window == b"data/0").expect("a storage");
    bytes[(name + 6).next_multiple_of(64) + 64] ^= 1;
    std::fs::write(&path, bytes).expect("a temporary file can be written");
    let output = flashpoint(&["inspect", path.to_str().expect("temporary paths are UTF-8")]);
    assert_eq!(output.status.code(), Some(2), "{}", stdout(&output));
    assert!(stdout(&output).contains("checksum"), "{}", stdout(&output));
}

fn json(output: &Output) -> serde_json::Value {
    serde_json::from_slice(&output.stdout).expect("a report is JSON")
}

#[test]
fn a_path_that_could_not_be_read_is_in_the_json_report() {
    let output = flashpoint(&["inspect", HEALTHY, "no/such/checkpoint", "--format", "json"]);
    assert_eq!(output.status.code(), Some(2));
    let report = json(&output);
    assert_eq!(report["unread"][0]["file"], "no/such/checkpoint");
    assert_eq!(report["unread"][0]["kind"], "not-found");
    let sentence = report["verdict"]["sentence"].as_str().expect("a sentence");
    assert!(sentence.starts_with("1 of 2 paths could not be read (no/such/checkpoint"), "{sentence}");
    let alone = flashpoint(&["inspect", "no/such/checkpoint", "--format", "json"]);
    assert_eq!(alone.status.code(), Some(2));
    assert_eq!(json(&alone)["unread"][0]["kind"], "not-found");
    assert_eq!(json(&alone)["checkpoints"].as_array().map(Vec::len), Some(0));
}

#[test]
fn each_of_several_checkpoints_has_a_verdict_of_its_own() {
    let output = flashpoint(&["inspect", HEALTHY, EXPLODED]);
    let text = stdout(&output);
    assert!(text.contains("\nrnn-healthy/checkpoint-0400: nothing critical, no warning"), "{text}");
    assert!(text.contains("\nrnn-exploding/checkpoint-0400: 2 critical"), "{text}");
    assert!(text.contains("\nverdict: 2 critical: rnn-exploding/checkpoint-0400: "), "{text}");
    let report = json(&flashpoint(&["inspect", HEALTHY, EXPLODED, "--format", "json"]));
    assert_eq!(report["verdicts"][0]["verdict"]["critical"], 0);
    assert_eq!(report["verdicts"][1]["verdict"]["critical"], 2);
}

#[test]
fn a_step_that_only_a_name_says_is_said_to_be_of_the_name() {
    let folder = tempfile::tempdir().expect("a temporary directory can be made");
    let file = folder.path().join("ckpt_400.pt");
    std::fs::copy("fixtures/formats/shared-storage.pt", &file).expect("a temporary file can be written");
    let path = file.to_str().expect("temporary paths are UTF-8");
    assert!(stdout(&flashpoint(&["inspect", path])).contains("step 400 by the name ckpt_400.pt"));
    let report = json(&flashpoint(&["inspect", path, "--format", "json"]));
    assert_eq!(report["checkpoints"][0]["step_source"], "the name ckpt_400.pt");
}

#[test]
fn optimizer_state_shows_gradients_signal_updates_and_the_date_of_a_spike() {
    let path = "fixtures/rules/FP707/fires-spike.pt";
    let text = stdout(&flashpoint(&["inspect", path]));
    assert!(text.contains("  a spike about 20 steps ago in model."), "{text}");
    let header = text.lines().find(|line| line.contains("RMS gradient")).expect("a table of optimizer state");
    let columns = ["tensor", "steps", "RMS gradient", "signal", "update RMS", "update/weight"];
    assert!(columns.iter().all(|column| header.contains(column)), "{header}");
    let report = json(&flashpoint(&["inspect", path, "--format", "json"]));
    let state = &report["checkpoints"][0]["optimizer"]["value"];
    let age = state["spike"]["value"]["age"].as_f64().expect("a date");
    assert!((age - 20.0).abs() < 0.5, "{age}");
    for parameter in state["parameters"].as_array().expect("a list") {
        for quantity in ["gradient_rms", "signal_fraction", "update_rms", "update_ratio"] {
            assert!(parameter[quantity]["value"].is_number(), "{quantity}: {}", parameter[quantity]);
        }
    }
}

#[test]
fn a_directory_without_anything_of_a_run_is_2_and_one_sentence_and_nothing_is_written() {
    let folder = tempfile::tempdir().expect("a temporary directory can be made");
    let path = |name: &str| folder.path().join(name).to_str().expect("temporary paths are UTF-8").to_owned();
    let (empty, texts, file) = (path("empty"), path("texts"), path("x.measured.json"));
    std::fs::create_dir(&empty).expect("a folder can be made");
    std::fs::create_dir(&texts).expect("a folder can be made");
    std::fs::write(folder.path().join("texts/notes.md"), "# notes\n").expect("it can be written");
    for run in [&empty, &texts] {
        for arguments in
            [&["postmortem", run][..], &["measure", run], &["measure", run, "--output", file.as_str()]]
        {
            let output = flashpoint(arguments);
            assert_eq!(output.status.code(), Some(2), "{arguments:?}");
            assert_eq!(
                stderr(&output),
                format!(
                    "flashpoint: {run}: no checkpoint, gradient dump or log of a run was found there; \
                     name the directory that training wrote to, or a checkpoint or log in it\n"
                )
            );
            assert_eq!(stdout(&output), "", "{arguments:?}");
        }
    }
    assert!(!Path::new(&file).exists(), "no command could read it again");
}

#[test]
fn a_run_without_anything_up_to_a_step_says_the_step() {
    let folder = tempfile::tempdir().expect("a temporary directory can be made");
    let checkpoint = folder.path().join("checkpoint-400");
    std::fs::create_dir(&checkpoint).expect("a folder can be made");
    std::fs::copy(Path::new(HEALTHY).join("model.safetensors"), checkpoint.join("model.safetensors"))
        .expect("a fixture can be copied");
    let run = folder.path().to_str().expect("temporary paths are UTF-8");
    let output = flashpoint(&["postmortem", run, "--until", "10"]);
    assert_eq!(output.status.code(), Some(2), "{}", stdout(&output));
    assert!(
        stderr(&output).contains("was found there, up to step 10; look at later steps"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn a_mistake_in_a_policy_is_told_of_the_file_that_was_given() {
    let folder = tempfile::tempdir().expect("a temporary directory can be made");
    let policy = folder.path().join("strict.toml");
    std::fs::write(&policy, "[rules.FP40]\nratio = 3\n").expect("a temporary file can be written");
    let output =
        flashpoint(&["gate", HEALTHY, "--policy", policy.to_str().expect("temporary paths are UTF-8")]);
    let told = stderr(&output);
    assert!(told.contains("strict.toml, line 1, column 8: the policy is not usable: "), "{told}");
    assert!(!told.contains("flashpoint.toml"), "{told}");
}

#[test]
fn one_thing_is_told_in_the_singular_and_several_in_the_plural() {
    let folder = tempfile::tempdir().expect("a temporary directory can be made");
    let place = |name: &str| {
        let checkpoint = folder.path().join(name);
        std::fs::create_dir(&checkpoint).expect("a folder can be made");
        let model = checkpoint.join("model.safetensors");
        std::fs::copy(Path::new(HEALTHY).join("model.safetensors"), model).expect("a fixture can be copied");
        stderr(&flashpoint(&["inspect", folder.path().to_str().expect("temporary paths are UTF-8")]))
    };
    let one = place("checkpoint-100");
    assert!(one.contains("holds 1 checkpoint, checkpoint-100; name it\n"), "{one}");
    let two = place("checkpoint-200");
    assert!(two.contains("holds 2 checkpoints; the newest is checkpoint-200; name one of them\n"), "{two}");
    let warnings =
        stdout(&flashpoint(&["inspect", "fixtures/rules/FP401-attention-logits/fires-queries-of-gpt2"]));
    assert!(warnings.contains("verdict: 4 critical, 6 warnings: "), "{warnings}");
}

/// The help of a command, on one line whatever the width is.
fn help(command: &str) -> String {
    stdout(&flashpoint(&[command, "--help"])).split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn help_names_rules_by_their_codes_and_the_default_of_a_run() {
    let diff = help("diff");
    for code in ["(FP601, FP602)", "(FP603)"] {
        assert!(diff.contains(code), "{diff}");
    }
    let measure = help("measure");
    assert!(measure.contains("for measure but of a run's directory; otherwise stats"), "{measure}");
    for (of, level) in [(HEALTHY, "spectra"), ("fixtures/runs/rnn-healthy", "stats")] {
        assert_eq!(json(&flashpoint(&["measure", of]))["measured"], level);
    }
}

#[test]
fn what_is_said_of_a_convolution_is_measured_and_printed_and_a_slip_is_named() {
    let resnext = "fixtures/oracle/spectra/geometry/resnext";
    let said = |text: &str| flashpoint(&["inspect", resnext, "--convolution", text]);
    let found = said("layer?.0.conv2=stride:2,padding:2x1,dilation:2x1,input:9x7");
    let line = "layer1.0.conv2.weight: stride 2, padding 2×1, dilation 2×1 (as asked), groups 4 (by the shapes around it), input 9×7 (as asked)";
    assert!(stdout(&found).contains(line), "{}", stdout(&found));
    for (slip, told) in [
        ("conv2", "an = between them"),
        ("conv2=stride", "a : between them"),
        ("conv2=strides:2", "the keys are stride, padding, dilation, groups and input"),
        ("conv2=stride:0", "stride is at least 1"),
        ("conv2=groups:2x2", "groups is one number"),
        ("conv2=input:many", "sizes of input are numbers"),
        ("conv[=stride:2", "is no glob"),
    ] {
        let refused = said(slip);
        assert_eq!(refused.status.code(), Some(2), "{slip}");
        assert!(stderr(&refused).contains(told), "{slip}: {}", stderr(&refused));
    }
    // Groups that the channels do not divide into are a reason, and no panic.
    let found = flashpoint(&["inspect", resnext, "--convolution", "*conv2=groups:3", "--format", "json"]);
    assert_eq!(found.status.code(), Some(0));
    assert!(stdout(&found).contains("its channels do not divide into its groups"), "{}", stdout(&found));
}
