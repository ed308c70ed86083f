//! `flashpoint train` as it is used: what it writes, what the other commands make of it, and going on bit for bit.

mod own_model;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::OnceLock;

use flashpoint::random::Stream;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::Value;

/// Few examples and steps: the network is the whole one, with its 2.5 million parameters. Two epochs of three steps.
const SMALL: [[&str; 2]; 5] = [
    ["--train-load-size", "24"],
    ["--validation-load-size", "4"],
    ["--test-load-size", "4"],
    ["--batch-size", "8"],
    ["--num-epochs", "2"],
];

/// A file of forty examples in ten classes, made once.
fn examples() -> &'static str {
    static MADE: OnceLock<String> = OnceLock::new();
    MADE.get_or_init(|| {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR"))
            .join(format!("examples-{}.safetensors", std::process::id()));
        let x: Vec<u8> =
            Stream::new(1, 1).uniforms(4000).iter().flat_map(|&x| (x as f32).to_le_bytes()).collect();
        let y: Vec<u8> = (0..40i64).flat_map(|index| (index % 10).to_le_bytes()).collect();
        let tensors = [
            ("x", TensorView::new(Dtype::F32, vec![40, 10, 10], &x).unwrap()),
            ("y", TensorView::new(Dtype::I64, vec![40], &y).unwrap()),
        ];
        std::fs::write(&path, safetensors::serialize(tensors, None).unwrap()).unwrap();
        path.to_str().expect("a path in UTF-8").to_owned()
    })
}

fn flashpoint(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_flashpoint")).args(arguments).output().expect("the binary under test")
}

fn train(path: &Path, arguments: &[&str]) -> Output {
    let place = path.to_str().expect("a path in UTF-8");
    let output = flashpoint(&small(place, arguments));
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

/// The small training, but where the arguments say otherwise.
fn small<'a>(place: &'a str, arguments: &[&'a str]) -> Vec<&'a str> {
    let own = SMALL.iter().filter(|pair| !arguments.contains(&pair[0])).flatten();
    let always = ["train", "--quiet", "--save-path", place, "--data", examples()];
    always.into_iter().chain(own.copied()).chain(arguments.iter().copied()).collect()
}

/// Every file below a directory, with its bytes.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut open = vec![folder.to_owned()];
    while let Some(next) = open.pop() {
        for entry in std::fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                let name = path.strip_prefix(folder).unwrap().to_string_lossy().into_owned();
                found.insert(name, std::fs::read(&path).unwrap());
            }
        }
    }
    found
}

fn assert_same(first: &Path, second: &Path, what: &str) {
    let (first, second) = (files(first), files(second));
    assert_eq!(first.keys().collect::<Vec<_>>(), second.keys().collect::<Vec<_>>(), "{what}");
    for (name, bytes) in &first {
        assert!(*bytes == second[name], "{what}: {name} differs");
    }
}

fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap_or(Value::Null)).collect()
}

#[test]
fn a_run_has_what_the_run_directory_promises_and_is_read_by_the_other_commands() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    train(&run, &["--gradient-interval", "2", "--save-interval", "4steps"]);
    let names: Vec<String> = files(&run).into_keys().collect();
    let mut expected: Vec<String> =
        [2, 4, 6].map(|step| format!("gradients/step-{step}.safetensors")).to_vec();
    for step in [0, 4, 6] {
        for file in ["model.safetensors", "optimizer.safetensors", "state.json"] {
            expected.push(format!("checkpoint-{step}/{file}"));
        }
    }
    expected.extend(["metrics.jsonl", "model.toml", "run.json", "validation.jsonl"].map(str::to_owned));
    expected.sort();
    assert_eq!(names, expected);
    let steps = lines(&run.join("metrics.jsonl"));
    assert_eq!(steps.len(), 6);
    for (index, step) in steps.iter().enumerate() {
        assert_eq!(step["step"], index + 1);
        let layers = step["grad_norm_by_layer"].as_object().unwrap();
        assert_eq!(layers.keys().collect::<Vec<_>>(), ["conv1", "conv2", "fc1", "fc2"]);
        let whole: f64 = layers.values().map(|norm| norm.as_f64().unwrap().powi(2)).sum::<f64>().sqrt();
        assert!((whole / step["grad_norm"].as_f64().unwrap() - 1.0).abs() < 1e-12);
    }
    let splits: Vec<_> =
        lines(&run.join("validation.jsonl")).iter().map(|line| line["split"].clone()).collect();
    assert_eq!(splits, ["validation", "validation", "test"]);
    let output = flashpoint(&["inspect", run.join("checkpoint-6").to_str().unwrap(), "--format", "json"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let optimizer = &report["checkpoints"][0]["optimizer"]["value"]["optimizers"][0];
    assert_eq!(optimizer["algorithm"], "adam", "{optimizer}");
    let output = flashpoint(&["postmortem", run.to_str().unwrap()]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_run_that_stops_and_goes_on_in_another_process_has_the_bits_of_one_that_does_not() {
    let cases: [(&[&str], [&str; 2]); 13] = [
        (&["--optimizer", "torch.sgd", "--momentum", "0.9"], ["1", "2"]),
        (&["--optimizer", "torch.adam", "--schedule", "cosine", "--warmup", "3"], ["1", "5"]),
        (&["--optimizer", "torch.adamw", "--schedule", "linear", "--dtype", "bf16"], ["2", "1"]),
        (&["--optimizer", "torch.rmsprop", "--momentum", "0.5"], ["5", "1"]),
        (&["--optimizer", "tensorflow.sgd", "--momentum", "0.9", "--dtype", "bf16", "--master"], ["1", "2"]),
        (&["--optimizer", "tensorflow.adam", "--clip", "autoclip"], ["2", "5"]),
        (&["--optimizer", "tensorflow.adamw", "--schedule", "step"], ["1", "1"]),
        (&["--optimizer", "tensorflow.rmsprop", "--momentum", "0.5"], ["2", "2"]),
        (&["--optimizer", "torch.adam", "--dtype", "bf16", "--master", "--clip", "zclip"], ["5", "2"]),
        (&["--optimizer", "torch.sgd", "--clip", "0.1", "--loss", "torch.mse"], ["1", "2"]),
        (&["--optimizer", "torch.rmsprop", "--dtype", "bf16", "--clip", "spam"], ["2", "1"]),
        (&["--weight-update", "gradient-descent", "--loss", "tensorflow.mse"], ["1", "5"]),
        (&["--optimizer", "torch.sgd", "--gradient-interval", "1"], ["1", "2"]),
    ];
    for (arguments, threads) in cases {
        let folder = tempfile::tempdir().unwrap();
        let (whole, halves) = (folder.path().join("whole"), folder.path().join("halves"));
        // In the middle of the second epoch: the position in the data matters, and there is a part of a mean loss.
        let arguments = [arguments, &["--save-interval", "4steps"]].concat();
        train(&whole, &[&arguments[..], &["--threads", threads[0]]].concat());
        train(&halves, &[&arguments[..], &["--threads", threads[0], "--max-steps", "4"]].concat());
        train(&halves, &[&arguments[..], &["--threads", threads[1]]].concat());
        assert_same(&whole, &halves, &format!("{arguments:?}"));
    }
}

#[test]
fn arms_are_what_they_are_alone() {
    let folder = tempfile::tempdir().unwrap();
    let (both, alone) = (folder.path().join("both"), folder.path().join("alone"));
    let arms =
        ["--optimizer", "torch.adam", "--optimizer", "tensorflow.adam", "--lr", "0.001", "--lr", "0.002"];
    train(&both, &arms);
    train(&alone, &["--optimizer", "tensorflow.adam", "--lr", "0.002"]);
    assert_same(&both.join("tensorflow.adam"), &alone, "an arm");
    let [first, second] = ["torch.adam", "tensorflow.adam"]
        .map(|arm| std::fs::read(both.join(arm).join("checkpoint-0/model.safetensors")).unwrap());
    assert!(first == second, "arms start from the same weights");
}

#[test]
fn zeros_train_nothing_but_the_last_bias_and_inspect_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    train(&run, &["--weight-initialization", "zeros", "--num-epochs", "1"]);
    for step in lines(&run.join("metrics.jsonl")) {
        assert_eq!(step["grad_norm_by_layer"]["conv1"], 0.0);
        assert_eq!(step["grad_norm_by_layer"]["conv2"], 0.0);
        assert_eq!(step["grad_norm_by_layer"]["fc1"], 0.0);
    }
    let output = flashpoint(&["inspect", run.join("checkpoint-3").to_str().unwrap()]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("critical FP201 zero-init"), "{text}");
}

#[test]
fn a_run_of_other_settings_is_not_gone_on_with_and_weight_reset_sets_it_aside() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    train(&run, &["--num-epochs", "1"]);
    let place = run.to_str().unwrap();
    let output = flashpoint(&small(place, &["--lr", "0.1", "--num-epochs", "1"]));
    assert_eq!(output.status.code(), Some(2));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("lr was 0.001 and is now 0.1"), "{text}");
    let output = flashpoint(&small(place, &["--num-epochs", "1", "--normalization", "standard"]));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("normalization was sum-to-one and is now standard"), "{text}");
    train(&run, &["--lr", "0.1", "--weight-reset", "True", "--num-epochs", "1"]);
    assert!(folder.path().join("run.1/checkpoint-3").is_dir());
    assert!(run.join("checkpoint-3").is_dir());
}

/// What the small training says of arguments that it refuses.
fn refused(place: &Path, arguments: &[&str]) -> String {
    let output = flashpoint(&small(place.to_str().unwrap(), arguments));
    assert_eq!(output.status.code(), Some(2), "{arguments:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn what_cannot_be_trained_leaves_the_earlier_run_where_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    train(&run, &["--num-epochs", "1"]);
    let before = files(folder.path());
    for wrong in [
        &["--weight-reset", "True", "--normalization", "none", "--train-load-size", "5000"][..],
        &["--weight-reset", "True", "--model-name", "resnet"],
        &["--optimizer", "torch.adam", "--optimizer", "torch.sgd"],
        &["--momentum", "0.9"],
    ] {
        refused(&run, wrong);
        assert!(files(folder.path()) == before, "{wrong:?}");
    }
}

#[test]
fn a_run_that_is_through_is_tested_once_and_its_epochs_only_grow() {
    let folder = tempfile::tempdir().unwrap();
    let (run, whole) = (folder.path().join("run"), folder.path().join("whole"));
    train(&run, &[]);
    let before = files(&run);
    train(&run, &[]);
    assert!(files(&run) == before, "the same command changed a run that was through");
    let text = refused(&run, &["--num-epochs", "1"]);
    assert!(text.contains("num_epochs was 2 and is now 1"), "{text}");
    train(&run, &["--num-epochs", "3"]);
    train(&whole, &["--num-epochs", "3"]);
    for file in ["validation.jsonl", "metrics.jsonl", "checkpoint-9/model.safetensors"] {
        assert!(files(&run)[file] == files(&whole)[file], "{file}");
    }
}

#[test]
fn a_setting_that_no_arm_has_a_use_for_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("run");
    for (flag, arguments) in [
        ("--momentum", &["--momentum", "0.9"][..]),
        ("--beta2", &["--optimizer", "torch.sgd", "--beta2", "0.9"]),
        ("--epsilon", &["--optimizer", "tensorflow.sgd", "--epsilon", "1e-3"]),
        ("--weight-decay", &["--weight-update", "gradient-descent", "--weight-decay", "0.1"]),
        ("--master", &["--master"]),
    ] {
        let text = refused(&place, arguments);
        assert!(text.starts_with(&format!("flashpoint: {flag}: it would be without effect")), "{text}");
        assert!(!place.exists());
    }
    // One arm of two has momentum.
    let arms = ["--optimizer", "torch.adam", "--optimizer", "torch.sgd", "--momentum", "0.9"];
    train(&place, &[&arms[..], &["--max-steps", "1"]].concat());
    let text = refused(&folder.path().join("other"), &["--lr", "-1"]);
    assert!(text.contains("-1 is not above 0"), "{text}");
}

#[test]
fn examples_that_are_damaged_or_of_another_size_are_refused_by_the_name_of_their_file() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let damaged = folder.path().join("damaged.npz");
    let mut bytes = std::fs::read("fixtures/formats/arrays.npz").unwrap();
    // The first array begins with its magic number and a header that ends at 128 bytes.
    let array = bytes.windows(6).position(|window| window == b"\x93NUMPY").expect("there is an array");
    bytes[array + 128] ^= 0x01;
    std::fs::write(&damaged, bytes).unwrap();
    let large = folder.path().join("large.safetensors");
    let ones = 1f32.to_le_bytes().repeat(40 * 28 * 28);
    let labels = vec![0; 40 * 8];
    let tensors = [
        ("x", TensorView::new(Dtype::F32, vec![40, 28, 28], &ones).unwrap()),
        ("y", TensorView::new(Dtype::I64, vec![40], &labels).unwrap()),
    ];
    std::fs::write(&large, safetensors::serialize(tensors, None).unwrap()).unwrap();
    for (path, why) in [
        (&damaged, "checksum"),
        (&large, "nn takes samples of shape [1, 10, 10], these are of shape [28, 28]"),
    ] {
        let place = path.to_str().unwrap();
        let output = flashpoint(&["train", "--quiet", "--save-path", run.to_str().unwrap(), "--data", place]);
        assert_eq!(output.status.code(), Some(2));
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(text.starts_with(&format!("flashpoint: {place}")) && text.contains(why), "{text}");
        assert!(!run.exists());
    }
}

#[test]
fn examples_that_are_no_numbers_or_too_few_to_share_out_are_refused_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let (path, run) = (folder.path().join("examples.safetensors"), folder.path().join("run"));
    for (count, dtype, why) in [
        (40, Dtype::C64, "x is 4000 numbers of C64, which are not trained on"),
        (9, Dtype::F32, "it has 9 examples, which leave none for --test-load-size"),
    ] {
        let bytes = if dtype == Dtype::C64 { 8 } else { 4 };
        let (x, y) = (vec![0; count * 100 * bytes], vec![0; count * 8]);
        let tensors = [
            ("x", TensorView::new(dtype, vec![count, 100], &x).unwrap()),
            ("y", TensorView::new(Dtype::I64, vec![count], &y).unwrap()),
        ];
        std::fs::write(&path, safetensors::serialize(tensors, None).unwrap()).unwrap();
        let data = ["--data", path.to_str().unwrap()];
        let place = run.to_str().unwrap();
        let output =
            flashpoint(&[&["train", "--save-path", place, "--normalization", "none"], &data[..]].concat());
        assert_eq!(output.status.code(), Some(2));
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(text.contains(why), "{text}");
        assert!(!run.exists());
    }
}

#[test]
fn clipping_that_the_log_knows_the_norms_before_is_not_said_to_have_hidden_them() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    train(&run, &["--clip", "0.001", "--num-epochs", "7"]);
    let output = flashpoint(&["clip", run.to_str().unwrap()]);
    let text = String::from_utf8_lossy(&output.stdout).split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(text.contains("nearly every step was clipped"), "{text}");
    assert!(text.contains("of those before clipping not enough is known: there are 21 usable"), "{text}");
}

#[test]
fn epochs_do_not_grow_where_the_learning_rate_ends_with_them() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    train(&run, &["--schedule", "cosine"]);
    let before = files(&run);
    let text = refused(&run, &["--schedule", "cosine", "--num-epochs", "3"]);
    assert!(text.contains("num_epochs was 2 and is now 3: the course of the learning rate"), "{text}");
    assert!(files(&run) == before);
}

#[test]
fn a_directory_in_which_another_process_trains_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    train(&run, &["--max-steps", "2"]);
    let before = files(folder.path());
    let other = std::fs::File::open(&run).unwrap();
    other.lock().unwrap();
    for arguments in [&[][..], &["--weight-reset", "True"]] {
        let text = refused(&run, arguments);
        assert!(text.contains("another process is training in this directory"), "{text}");
        assert!(files(folder.path()) == before, "{arguments:?}");
    }
    drop(other);
    train(&run, &[]);
}

#[test]
fn several_arms_go_on_one_by_one_and_sgd_without_momentum_lacks_no_moments() {
    let folder = tempfile::tempdir().unwrap();
    let both = folder.path().join("both");
    train(&both, &["--optimizer", "torch.sgd", "--optimizer", "torch.adam", "--save-interval", "2steps"]);
    for beside in [&[][..], &["--dry-run"]] {
        let output = flashpoint(&[&["resume", both.to_str().unwrap()], beside].concat());
        assert_eq!(output.status.code(), Some(2), "{beside:?}");
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(text.contains("holds 2 runs: torch.adam, torch.sgd; name one of them"), "{text}");
    }
    for arm in ["torch.sgd", "torch.adam"] {
        let run = both.join(arm);
        let output = resume(&run, &["--from", "2", "--dry-run", "--format", "json"]);
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(report["audit"]["exactness"], "bit", "{arm}: {report}");
        // And so it is.
        let again = folder.path().join(arm);
        resume(&run, &["--from", "2", "--to", again.to_str().unwrap()]);
        let [ended, gone_on] =
            [&run, &again].map(|run| std::fs::read(run.join("checkpoint-6/model.safetensors")).unwrap());
        assert!(ended == gone_on, "{arm}");
    }
}

#[test]
fn a_flag_that_is_given_for_some_arms_only_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("run");
    let arms = ["--lr", "1", "--lr", "2", "--lr", "3", "--loss", "torch.mse", "--loss", "tensorflow.mse"];
    let output = flashpoint(&small(place.to_str().unwrap(), &arms));
    assert_eq!(output.status.code(), Some(2));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(
        text.contains("--loss: arms cannot be told: it is given 2 times, and there are 3 arms"),
        "{text}"
    );
    assert!(!place.exists());
}

#[test]
fn a_run_goes_on_from_a_step_with_other_settings_in_a_new_directory_that_names_its_parent() {
    let folder = tempfile::tempdir().unwrap();
    let (run, to) = (folder.path().join("run"), folder.path().join("again"));
    train(&run, &["--save-interval", "2steps"]);
    let settings = ["--from", "2", "--clip", "0.5", "--lr-scale", "0.5", "--skip-batches", "3..3"];
    resume(&run, &[&settings[..], &["--to", to.to_str().unwrap()]].concat());
    let file: Value = serde_json::from_slice(&std::fs::read(to.join("run.json")).unwrap()).unwrap();
    assert_eq!((&file["parent"]["step"], &file["max_grad_norm"]), (&2.into(), &0.5.into()));
    assert_eq!(file["config"]["lr"], 0.0005);
    let before = lines(&run.join("metrics.jsonl"));
    let after = lines(&to.join("metrics.jsonl"));
    // Six batches: two were taken before, one is left out.
    let steps: Vec<&Value> = after.iter().map(|line| &line["step"]).collect();
    assert_eq!(steps, [3, 4, 5]);
    // The third batch meets the weights that it met before; the fifth comes next.
    for key in ["loss", "grad_norm"] {
        assert_eq!(after[0][key], before[2][key]);
    }
    for line in &after {
        assert_eq!(line["lr"], 0.0005);
        assert!(line["clipped_grad_norm"].as_f64().unwrap() <= 0.5 * (1.0 + 1e-6), "{line}");
    }
    for beside in [&["--repair"][..], &["--repair", "--dry-run"]] {
        let output = flashpoint(&[&["resume", run.to_str().unwrap(), "--from", "2"], beside].concat());
        assert_eq!(output.status.code(), Some(2));
    }
    // What would be done is what was done, and nothing is written.
    let dry = [&settings[..], &["--dry-run"]].concat();
    let output = resume(&run, &dry);
    let text = String::from_utf8_lossy(&output.stdout).split_whitespace().collect::<Vec<_>>().join(" ");
    let told = "learning rate 5.00e-4, clipping global norm 0.5000, without the batches 3 to 3";
    assert!(text.contains(told) && text.contains("run-resumed"), "{text}");
    let output = resume(&run, &[&dry[..], &["--format", "json"]].concat());
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["continuation"]["learning_rate"], 0.0005);
    assert!(report["plan"].is_null() && !folder.path().join("run-resumed").exists());
    // From its end there is nothing to train on.
    for beside in [&[][..], &["--what-if"], &["--dry-run"]] {
        let output = flashpoint(&[&["resume", run.to_str().unwrap(), "--from", "6"], beside].concat());
        assert_eq!(output.status.code(), Some(2));
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(text.contains("no batch is still to come") && text.contains("--from STEP"), "{text}");
        assert!(!folder.path().join("run-resumed").exists());
    }
    // A place that is taken is said before as it is then.
    for beside in [&[][..], &["--dry-run"]] {
        let place = run.to_str().unwrap();
        let output = flashpoint(&[&["resume", place, "--from", "2", "--to", place], beside].concat());
        assert_eq!(output.status.code(), Some(2), "{beside:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("it is there already"), "{beside:?}");
    }
    // Batch 2 comes next, and batch 5 is the last.
    for (batches, to_come) in [("0..1", "2 to 5"), ("6..9", "2 to 5")] {
        let new = folder.path().join("new");
        let arguments = ["resume", run.to_str().unwrap(), "--from", "2", "--to", new.to_str().unwrap()];
        let output = flashpoint(&[&arguments[..], &["--skip-batches", batches]].concat());
        assert_eq!(output.status.code(), Some(2), "{batches}");
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(text.contains(&format!("those to come are {to_come}")), "{text}");
        assert!(!new.exists());
    }
}

#[test]
fn what_if_goes_on_from_one_state_in_several_ways_and_without_a_change_as_the_run_did() {
    let folder = tempfile::tempdir().unwrap();
    let (run, to) = (folder.path().join("run"), folder.path().join("several"));
    train(&run, &["--save-interval", "2steps"]);
    let output = resume(&run, &["--from", "2", "--what-if", "--to", to.to_str().unwrap()]);
    let text = String::from_utf8_lossy(&output.stdout);
    let mut names: Vec<String> = std::fs::read_dir(&to)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    // Six norms are too few to recommend a threshold from, but Adam's second moments say how large they were.
    assert_eq!(names, ["clip-1", "lower-lr", "no-clip", "recommended"]);
    assert!(names.iter().all(|name| text.contains(name.as_str())), "{text}");
    let [whole, branch] = [&run, &to.join("no-clip")]
        .map(|run| std::fs::read(run.join("checkpoint-6/model.safetensors")).unwrap());
    assert!(whole == branch, "nothing was changed, and the weights differ");
    let place = run.to_str().unwrap();
    for (beside, why) in [
        (&["--clip", "0.5"][..], "--clip with a number would be without effect"),
        (&["--dry-run"], "neither in another program nor as a dry run"),
        (&["--", "train", "{checkpoint}"], "neither in another program nor as a dry run"),
    ] {
        let output = flashpoint(&[&["resume", place, "--from", "2", "--what-if"], beside].concat());
        assert_eq!(output.status.code(), Some(2), "{beside:?}");
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(text.contains(why), "{text}");
    }
}

fn resume(run: &Path, arguments: &[&str]) -> Output {
    let output = flashpoint(&[&["resume", run.to_str().unwrap(), "--quiet"], arguments].concat());
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

/// Kills a training a hundred times at moments that are spread over its steps and saves; whenever there is a checkpoint by its whole name,
/// it can be read and gone on from.
#[test]
fn a_hundred_kills_leave_the_last_complete_checkpoint_readable() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let place = run.to_str().unwrap().to_owned();
    let many = [
        "--save-interval",
        "1steps",
        "--num-epochs",
        "100000",
        "--optimizer",
        "torch.sgd",
        "--train-load-size",
        "16",
    ];
    let arguments = small(&place, &many);
    let mut last = 0;
    for kill in 0..100u64 {
        let mut child = Command::new(env!("CARGO_BIN_EXE_flashpoint"))
            .args(&arguments)
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .expect("the binary under test");
        // Until it has gone on, then a moment that walks through a step and its save.
        let deadline = std::time::Instant::now() + std::time::Duration::from_mins(1);
        while newest(&run) <= last && std::time::Instant::now() < deadline {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        std::thread::sleep(std::time::Duration::from_micros(kill * 700));
        child.kill().unwrap();
        child.wait().unwrap();
        let newest = newest(&run);
        assert!(newest > last, "the training did not go on: still at step {last}");
        last = newest;
        let checkpoint = run.join(format!("checkpoint-{newest}"));
        let state: Value =
            serde_json::from_slice(&std::fs::read(checkpoint.join("state.json")).unwrap()).unwrap();
        assert_eq!(state["step"], newest);
        for (name, digest) in state["digests"].as_object().unwrap() {
            let bytes = std::fs::read(checkpoint.join(name)).unwrap();
            assert_eq!(
                digest.as_str().unwrap(),
                blake3::hash(&bytes).to_hex().as_str(),
                "{name} of step {newest}"
            );
        }
        prune(&run, newest);
    }
}

fn newest(run: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(run) else { return 0 };
    let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter_map(|name| name.strip_prefix("checkpoint-")?.parse().ok()).max().unwrap_or(0)
}

/// Earlier checkpoints have done their duty; the disk has not room for hundreds.
fn prune(run: &Path, newest: u64) {
    for entry in std::fs::read_dir(run).unwrap().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let step = name.strip_prefix("checkpoint-").and_then(|step| step.parse::<u64>().ok());
        if step.is_some_and(|step| step < newest) {
            std::fs::remove_dir_all(entry.path()).unwrap();
        }
    }
}
