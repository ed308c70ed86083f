//! `flashpoint jacobian` from a checkpoint to its report, and what it refuses.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const GPT2: &str = "fixtures/rules/FP806-softmax-gradient-path/fires-queries-and-keys-nine-times-too-large";
const RNN: &str = "fixtures/rules/FP805-positive-lyapunov-exponent/silent-gain-of-nine-tenths";

fn flashpoint(arguments: &[&str]) -> Output {
    let command = Command::new(env!("CARGO_BIN_EXE_flashpoint")).args(arguments).output();
    command.expect("the binary under test can be started")
}

/// A small measurement as JSON.
fn report(path: &str, extra: &[&str]) -> serde_json::Value {
    let output = flashpoint(
        &[&["jacobian", path, "--tokens", "8", "--draws", "2", "--format", "json"], extra].concat(),
    );
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("the report is JSON")
}

fn jacobian(report: &serde_json::Value) -> &serde_json::Value {
    &report["checkpoints"][0]["jacobian"]["value"]
}

#[test]
fn every_block_and_branch_is_in_the_report_with_the_probe_it_belongs_to() {
    let report = report(GPT2, &[]);
    let own = jacobian(&report);
    let setting = &own["setting"];
    assert_eq!(setting["probe"], "synthetic-tokens");
    assert_eq!((&setting["tokens"]["value"], &setting["draws"]), (&8.into(), &2.into()));
    let kinds: Vec<&str> =
        own["parts"].as_array().unwrap().iter().map(|part| part["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["attention", "feed-forward", "block"].repeat(3));
    assert!(own["end_to_end"]["value"]["spectral_norm"]["value"]["mean"].as_f64().unwrap() > 1.0);
    assert!(own["initial"]["value"]["spectral_norm"]["mean"].as_f64().unwrap() > 1.0);
    assert_eq!(own["depths"]["value"].as_array().unwrap().len(), 3);
    assert!(report["findings"].as_array().unwrap().iter().any(|finding| finding["rule"] == "FP806"));
}

#[test]
fn the_same_bytes_come_out_on_one_two_and_five_threads() {
    let on = |threads: &str| report(GPT2, &["--no-initial", "--threads", threads]);
    let one = on("1");
    assert_eq!(one, on("2"));
    assert_eq!(one, on("5"));
}

#[test]
fn f32_and_f64_agree_to_five_digits() {
    let norm = |dtype: &str| {
        let report = report(GPT2, &["--no-initial", "--dtype", dtype]);
        jacobian(&report)["end_to_end"]["value"]["spectral_norm"]["value"]["mean"].as_f64().unwrap()
    };
    let (f32, f64) = (norm("f32"), norm("f64"));
    assert!((f32 / f64 - 1.0).abs() < 1e-5, "{f32} {f64}");
}

#[test]
fn a_plan_measures_nothing() {
    let output = flashpoint(&["jacobian", GPT2, "--plan"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(0));
    assert!(text.contains("3 blocks, 9 parts") && text.contains("floating-point operations"), "{text}");
    assert!(!text.contains("verdict"), "{text}");
}

#[test]
fn a_recurrence_is_followed_at_three_scales_of_its_input() {
    let report = report(RNN, &["--no-initial"]);
    let recurrence = &jacobian(&report)["recurrences"][0];
    let scales: Vec<f64> =
        recurrence["scales"].as_array().unwrap().iter().map(|at| at["scale"].as_f64().unwrap()).collect();
    assert_eq!(scales, [0.0, 0.1, 1.0]);
    // Without input and bias the state is 0, its Jacobian the matrix, and the exponent the logarithm of its radius.
    let radius = {
        let output = flashpoint(&["inspect", RNN, "--format", "json"]);
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let tensors = report["checkpoints"][0]["tensors"].as_array().unwrap();
        let hidden = tensors.iter().find(|tensor| tensor["name"] == "rnn.weight_hh_l0").unwrap();
        hidden["spectrum"]["value"]["spectral_radius"]["value"].as_f64().unwrap()
    };
    let exponent = recurrence["scales"][0]["exponents"][0]["value"]["value"].as_f64().unwrap();
    assert!((exponent - radius.ln()).abs() < 0.01, "{exponent} {}", radius.ln());
}

#[test]
fn data_with_labels_is_read_and_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("batch.npy");
    std::fs::write(&path, npy(&[3, 6], &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 0, 1, 0, 1, 0, 1])).unwrap();
    let report = report(GPT2, &["--no-initial", "--input", path.to_str().unwrap()]);
    let setting = &jacobian(&report)["setting"];
    assert_eq!((&setting["probe"], &setting["file"]), (&"data".into(), &"batch.npy".into()));
    // Two of the three rows, of six ids each.
    assert_eq!((&setting["draws"], &setting["tokens"]["value"]), (&2.into(), &6.into()));
}

#[test]
fn ids_beyond_the_vocabulary_are_refused_with_a_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("batch.npy");
    std::fs::write(&path, npy(&[1, 3], &[1, 2, 5000])).unwrap();
    let output = flashpoint(&["jacobian", GPT2, "--input", path.to_str().unwrap()]);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains("cannot be the probe") && text.contains("5000"), "{text}");
}

#[test]
fn a_measurement_file_gives_its_jacobians_and_one_without_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let with: PathBuf = folder.path().join("with.measured.json");
    let without: PathBuf = folder.path().join("without.measured.json");
    for (path, level) in [(&with, "jacobian"), (&without, "norms")] {
        let output = flashpoint(&["measure", RNN, "--measure", level, "--output", path.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let text = |path: &Path| {
        let output = flashpoint(&["jacobian", path.to_str().unwrap()]);
        (output.status.code(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    };
    let (code, page) = text(&with);
    assert!(code == Some(0) && page.contains("Lyapunov exponents"), "{page}");
    let (code, page) = text(&without);
    assert!(code == Some(2) && page.contains("holds no Jacobians"), "{page}");
}

#[test]
fn a_checkpoint_of_no_known_network_says_what_to_give() {
    let output = flashpoint(&["jacobian", "fixtures/rules/FP207-resonant-convolution"]);
    assert_eq!(output.status.code(), Some(2));
    let any = std::fs::read_dir("fixtures/rules/FP207-resonant-convolution")
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    let output = flashpoint(&["jacobian", any.to_str().unwrap()]);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(2) && text.contains("--model"), "{text}");
}

#[test]
fn a_plan_is_text_or_json_and_written_where_it_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("plan.json");
    let output =
        flashpoint(&["jacobian", GPT2, "--plan", "--format", "json", "--output", path.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let plan: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&plan["cost"]["blocks"], &plan["cost"]["parts"]), (&3.into(), &9.into()));
    assert_eq!(plan["setting"]["tokens"]["value"], 32);
    assert_eq!(std::fs::read(&path).unwrap(), output.stdout);
    let output = flashpoint(&["jacobian", GPT2, "--plan", "--format", "html"]);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(2) && text.contains("does not write html"), "{text}");
}

#[test]
fn options_of_measuring_are_refused_with_a_measurement_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rnn.measured.json");
    let path = path.to_str().unwrap();
    let output = flashpoint(&["measure", RNN, "--measure", "jacobian", "--output", path]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    for given in [&["--plan"][..], &["--exact"], &["--tokens", "32"], &["--input", RNN], &["--dtype", "f64"]]
    {
        let output = flashpoint(&[&["jacobian", path], given].concat());
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(2) && text.contains(given[0]), "{given:?}: {text}");
    }
}

/// A copy of a checkpoint's directory whose tensor of this name begins with a NaN.
fn with_nan(from: &str, tensor: &str, folder: &Path) -> PathBuf {
    let home = folder.join("checkpoint");
    std::fs::create_dir_all(&home).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        std::fs::copy(entry.path(), home.join(entry.file_name())).unwrap();
    }
    let path = home.join("model.safetensors");
    let mut bytes = std::fs::read(&path).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: serde_json::Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    let own = header.as_object().unwrap().iter().find(|(name, _)| name.ends_with(tensor)).unwrap().1;
    assert_eq!(own["dtype"], "F32");
    let at = 8 + length + own["data_offsets"][0].as_u64().unwrap() as usize;
    bytes[at..at + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    std::fs::write(&path, bytes).unwrap();
    home
}

#[test]
fn what_is_not_finite_goes_through_a_measurement_file_and_is_not_evaluated() {
    for (from, tensor, rule) in [(GPT2, "h.1.mlp.c_fc.weight", "FP803"), (RNN, "rnn.weight_hh_l0", "FP805")] {
        let folder = tempfile::tempdir().unwrap();
        let checkpoint = with_nan(from, tensor, folder.path());
        let path = folder.path().join("nan.measured.json");
        let path = path.to_str().unwrap();
        let output =
            flashpoint(&["measure", checkpoint.to_str().unwrap(), "--measure", "jacobian", "--output", path]);
        assert!(
            output.status.code().is_some_and(|code| code < 2),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let output = flashpoint(&["jacobian", path, "--format", "json"]);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(0), "{text}");
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert!(!jacobian(&report).is_null(), "{from}");
        let found = report["findings"].as_array().unwrap();
        assert!(found.iter().all(|finding| finding["rule"] != rule), "{found:?}");
        let not_evaluated = report["not_evaluated"].to_string();
        assert!(not_evaluated.contains(rule) && not_evaluated.contains("not finite"), "{not_evaluated}");
    }
}

/// A safetensors file of i64 arrays of one shape.
fn arrays(path: &Path, shape: &[usize], arrays: &[(&str, &[i64])]) {
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    for (name, values) in arrays {
        let start = data.len();
        data.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        let own = serde_json::json!({"dtype": "I64", "shape": shape, "data_offsets": [start, data.len()]});
        header.insert((*name).to_owned(), own);
    }
    let header = serde_json::to_vec(&header).unwrap();
    std::fs::write(path, [&(header.len() as u64).to_le_bytes(), &header[..], &data].concat()).unwrap();
}

#[test]
fn labels_say_which_gradient_goes_back_and_those_that_do_not_fit_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("batch.safetensors");
    let input = path.to_str().unwrap();
    let ids = [1, 2, 3, 4, 5, 6];
    let gradient = |labels: &[i64]| {
        arrays(&path, &[1, 6], &[("input_ids", &ids), ("labels", labels)]);
        let report = report(GPT2, &["--no-initial", "--input", input]);
        let own = jacobian(&report);
        assert_eq!(own["setting"]["gradient"], "labels");
        own["depths"]["value"][0]["gradient"]["value"]["mean"].as_f64().unwrap()
    };
    let all = gradient(&[2, 3, 4, 5, 6, 7]);
    let some = gradient(&[2, 3, 4, -100, -100, -100]);
    assert!((some / all - 1.0).abs() > 1e-6, "{some} {all}");
    for (labels, reason) in [
        ([2, 3, 4, 5, 6, 100_000], "the label 100000 is none of the 16 classes"),
        ([-100; 6], "leave every row out"),
        ([2, 3, 4, 5, 6, -1], "the label -1 is no class"),
    ] {
        arrays(&path, &[1, 6], &[("input_ids", &ids), ("labels", &labels)]);
        let output = flashpoint(&["jacobian", GPT2, "--input", input]);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(2) && text.contains(reason), "{text}");
    }
    arrays(&path, &[1, 6], &[("input_ids", &ids)]);
    assert_eq!(jacobian(&report(GPT2, &["--no-initial", "--input", input]))["setting"]["gradient"], "random");
}

#[test]
fn a_config_that_cannot_be_used_is_a_problem_and_not_only_unmeasured() {
    let folder = tempfile::tempdir().unwrap();
    for file in ["config.json", "model.safetensors"] {
        std::fs::copy(Path::new(GPT2).join(file), folder.path().join(file)).unwrap();
    }
    let path = folder.path().join("config.json");
    let mut config: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let inspect = |config: &serde_json::Value| -> serde_json::Value {
        std::fs::write(&path, config.to_string()).unwrap();
        let folder = folder.path().to_str().unwrap();
        let output = flashpoint(&["inspect", folder, "--measure", "jacobian", "--format", "json"]);
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        report["checkpoints"][0].clone()
    };
    config["n_layer"] = "three".into();
    let checkpoint = inspect(&config);
    assert!(checkpoint["jacobian"]["not_measured"].is_string(), "{}", checkpoint["jacobian"]);
    assert_eq!(checkpoint["problems"][0]["kind"], "side-file", "{}", checkpoint["problems"]);
    config["n_layer"] = 3.into();
    config["model_type"] = "a-model-of-tomorrow".into();
    let checkpoint = inspect(&config);
    assert!(checkpoint["jacobian"]["not_measured"].is_string(), "{}", checkpoint["jacobian"]);
    assert_eq!(checkpoint["problems"], serde_json::json!([]), "a network that is not built is no problem");
    std::fs::remove_file(&path).unwrap();
    let output = flashpoint(&[
        "inspect",
        folder.path().to_str().unwrap(),
        "--measure",
        "jacobian",
        "--format",
        "json",
    ]);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let checkpoint = &report["checkpoints"][0];
    let reason = checkpoint["jacobian"]["not_measured"].as_str().expect("its heads are not known");
    assert!(reason.contains("heads"), "{reason}");
    assert_eq!(checkpoint["problems"], serde_json::json!([]), "heads that nobody tells are none either");
}

#[test]
fn heads_are_for_a_gpt2_that_no_config_describes() {
    let output = flashpoint(&["jacobian", GPT2, "--heads", "8"]);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!((output.status.code(), told.contains("--heads changes nothing")), (Some(2), true), "{told}");
    let output = flashpoint(&["jacobian", RNN, "--heads", "8"]);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!((output.status.code(), told.contains("not those of one")), (Some(2), true), "{told}");
}

/// A file of i64 numbers as numpy writes it.
fn npy(shape: &[usize], values: &[i64]) -> Vec<u8> {
    let sizes = shape.iter().map(usize::to_string).collect::<Vec<_>>().join(", ");
    let mut header = format!("{{'descr': '<i8', 'fortran_order': False, 'shape': ({sizes}), }}");
    while !(10 + header.len() + 1).is_multiple_of(64) {
        header.push(' ');
    }
    header.push('\n');
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((header.len() as u16).to_le_bytes());
    bytes.extend(header.as_bytes());
    bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    bytes
}
