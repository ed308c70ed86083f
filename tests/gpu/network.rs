//! Networks on the fake device: Jacobians and training are those of the processor, by the driver alone and with libraries; what the
//! device does not do is done on the processor, or ends a training in one sentence.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use crate::command::{apart, assert_within, driver, everything, flashpoint};

const NETWORK: &str = "fixtures/rules/FP209-shape-error/silent-llama";

/// Products are in f32 and in another order; what is said of a residual is smaller than what both are off by.
const OF_PRODUCTS: f64 = 2e-4;

/// The Jacobians in a report, the device that they name, and what a GPU did of the checkpoint.
fn jacobians(
    device: &str,
    libraries: &[&Path],
    settings: &[(&str, &str)],
) -> (Option<Value>, Option<Value>, Value) {
    let arguments = ["jacobian", NETWORK, "--tokens", "2", "--draws", "2", "--top", "2", "--format", "json"];
    let run = flashpoint(&[&arguments[..], &["--device", device]].concat(), libraries, settings);
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    assert!(!run.stderr.contains("fake CUDA") && !run.stderr.contains("panicked"), "{}", run.stderr);
    let (used, mut report) = apart(&run.stdout);
    let mut found = report["checkpoints"][0]["jacobian"]["value"].take();
    let named = found.as_object_mut().unwrap_or_else(|| panic!("it has Jacobians")).shift_remove("device");
    (used, named, found)
}

#[test]
fn jacobians_of_the_gpu_are_those_of_the_processor() {
    let (none, unnamed, expected) = jacobians("cpu", &[], &[]);
    assert!(none.is_none() && unnamed.is_none(), "where nothing is said the processor did it");
    for libraries in [&driver()[..], &everything()[..]] {
        let (used, named, found) = jacobians("cuda", libraries, &[]);
        assert_eq!(named, Some("Fake GPU 0 (cuda:0)".into()));
        let used = used.expect("the report says which device");
        assert_eq!(used.get("redone"), None, "{used}");
        assert_within(&found, &expected, OF_PRODUCTS, "jacobian");
    }
    let (_, named, _) = jacobians("auto", &everything(), &[]);
    assert_eq!(named, None, "it is too small to be worth a GPU of its own accord");
}

#[test]
fn jacobians_that_the_gpu_does_not_do_are_done_on_the_processor_and_the_report_says_so() {
    let (_, _, expected) = jacobians("cpu", &[], &[]);
    for (settings, math, reason) in [
        ("fail=cuMemAllocAsync:30+:2", "", "out of memory"),
        ("fail=cuMemAllocAsync:60+:2", "", "out of memory"),
        ("fail=cuLaunchKernel:300:719", "", "CUDA_ERROR_LAUNCH_FAILED"),
        ("fail=cuMemcpyDtoHAsync_v2:20:700", "", "CUDA_ERROR_ILLEGAL_ADDRESS"),
        ("", "gemm", "CUBLAS_STATUS_EXECUTION_FAILED"),
        ("memory=3000", "", "of its budget"),
    ] {
        let faults = [("FAKE_CUDA", settings), ("FAKE_MATH", math)];
        let (used, named, found) = jacobians("cuda", &everything(), &faults);
        assert_eq!(named, None, "{settings}{math}");
        assert_eq!(found, expected, "{settings}{math}: what the processor finds, and nothing of the GPU's");
        let used = used.unwrap_or_else(|| panic!("{settings}{math}: the report says nothing"));
        let redone = used["redone"].as_array().unwrap_or_else(|| panic!("{settings}{math}: {used}"));
        let own = redone.iter().find(|piece| piece["tensor"] == "the Jacobians").expect("it is named");
        let said = own["reason"].as_str().expect("a sentence");
        // Where the spectra went first, they have met the failure, and the device is not asked again.
        assert!(used["redone"].to_string().contains(reason), "{settings}{math}: {said}");
    }
}

#[test]
fn the_page_says_what_ran_the_network() {
    let of = |device: &str| {
        let arguments =
            ["jacobian", NETWORK, "--tokens", "2", "--draws", "1", "--top", "2", "--device", device];
        flashpoint(&arguments, &everything(), &[]).stdout
    };
    assert!(of("cuda").contains("  device of the Jacobians: Fake GPU 0 (cuda:0)"), "{}", of("cuda"));
    assert!(!of("cpu").contains("device"), "{}", of("cpu"));
}

/// A training of the whole small network, two steps of two examples: arguments, and where it goes.
fn trained(place: &Path, data: &Path, more: &[&str], settings: &[(&str, &str)]) -> crate::command::Run {
    let (place, data) = (place.to_str().expect("UTF-8"), data.to_str().expect("UTF-8"));
    let arguments = [
        &["train", "--quiet", "--save-path", place, "--data", data, "--train-load-size", "4"][..],
        &["--validation-load-size", "2", "--test-load-size", "2", "--batch-size", "2", "--num-epochs", "1"],
        more,
    ]
    .concat();
    let run = flashpoint(&arguments, &everything(), settings);
    assert!(!run.stderr.contains("fake CUDA") && !run.stderr.contains("panicked"), "{}", run.stderr);
    run
}

/// The checkpoints below a run, with their bytes.
fn checkpoints(run: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(run).expect("a run").filter_map(Result::ok) {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with("checkpoint-") {
            for file in std::fs::read_dir(entry.path()).expect("a checkpoint").filter_map(Result::ok) {
                let bytes = std::fs::read(file.path()).expect("a file");
                found.insert(format!("{name}/{}", file.file_name().to_string_lossy()), bytes);
            }
        }
    }
    found
}

#[test]
fn a_training_on_the_gpu_is_that_of_the_processor_but_for_rounding_and_goes_on_bit_for_bit() {
    let home = tempfile::tempdir().unwrap();
    let data = crate::command::examples(home.path());
    let place = |name: &str| home.path().join(name);
    let gpu = ["--device", "cuda", "--save-interval", "1steps"];
    for (name, more) in [
        ("processor", &["--save-interval", "1steps"][..]),
        ("whole", &gpu),
        ("stopped", &[&gpu[..], &["--max-steps", "1"]].concat()),
        ("stopped", &gpu),
    ] {
        let run = trained(&place(name), &data, more, &[]);
        assert_eq!(run.code, Some(0), "{name}: {}", run.stderr);
    }
    let whole = checkpoints(&place("whole"));
    assert!(whole.len() > 8, "{:?}", whole.keys());
    assert_eq!(whole, checkpoints(&place("stopped")), "a run that was stopped and went on");
    let losses = |name: &str| -> Vec<f64> {
        let text = std::fs::read_to_string(place(name).join("metrics.jsonl")).unwrap();
        let of = |line: &str| serde_json::from_str::<Value>(line).unwrap()["loss"].as_f64().unwrap();
        text.lines().map(of).collect()
    };
    let (found, expected) = (losses("whole"), losses("processor"));
    assert_eq!((found.len(), expected.len()), (2, 2));
    for (found, expected) in found.iter().zip(&expected) {
        assert!((found / expected - 1.0).abs() < 1e-4, "{found} instead of {expected}");
    }
    let states: Vec<&[u8]> =
        whole.iter().filter(|(name, _)| name.ends_with("state.json")).map(|(_, bytes)| &bytes[..]).collect();
    let state = String::from_utf8_lossy(states[0]);
    assert!(
        state.contains("Fake GPU 0 (cuda:0), CUDA 13.0, cuBLAS 13.9.1"),
        "what decides the bits is written down: {state}"
    );
}

#[test]
fn a_run_of_a_gpu_goes_on_in_its_place_on_that_alone_and_elsewhere_on_what_is_asked_for() {
    let home = tempfile::tempdir().unwrap();
    let data = crate::command::examples(home.path());
    let run = home.path().join("run");
    let gpu = ["--device", "cuda", "--max-steps", "1", "--save-interval", "1steps"];
    assert_eq!(trained(&run, &data, &gpu, &[]).code, Some(0));
    let other = trained(&run, &data, &["--save-interval", "1steps"], &[]);
    assert_eq!(other.code, Some(2), "{}", other.stderr);
    assert!(other.stderr.contains("cuda was 0 and is now none"), "{}", other.stderr);
    let resume = |device: &str, to: &str| {
        let (run, to) = (run.to_str().unwrap(), home.path().join(to));
        let to = to.to_str().unwrap().to_owned();
        let arguments = ["resume", run, "--from", "1", "--to", &to, "--device", device, "--quiet"];
        flashpoint(&arguments, &everything(), &[])
    };
    for (device, says_gpu) in [("auto", true), ("cpu", false)] {
        let resumed = resume(device, device);
        assert_eq!(resumed.code, Some(0), "{device}: {}", resumed.stderr);
        let text = std::fs::read_to_string(home.path().join(device).join("run.json")).unwrap();
        assert_eq!(text.contains("\"cuda\": 0"), says_gpu, "{device}: {text}");
    }
}

#[test]
fn a_training_whose_gpu_fails_ends_in_one_sentence_and_goes_on_from_its_last_checkpoint() {
    let home = tempfile::tempdir().unwrap();
    let data = crate::command::examples(home.path());
    let place = |name: &str| home.path().join(name);
    let gpu = ["--device", "cuda", "--save-interval", "1steps"];
    assert_eq!(trained(&place("whole"), &data, &gpu, &[]).code, Some(0));
    // A loss and eight gradients a step: in the second.
    let failed = trained(&place("failed"), &data, &gpu, &[("FAKE_CUDA", "fail=cuMemcpyDtoHAsync_v2:14:719")]);
    assert_eq!(failed.code, Some(2), "{}", failed.stderr);
    assert!(failed.stderr.contains("cuda:0: the GPU did not do it: cuMemcpyDtoHAsync"), "{}", failed.stderr);
    assert_eq!(failed.stderr.trim_end().lines().count(), 1, "{}", failed.stderr);
    assert_eq!(trained(&place("failed"), &data, &gpu, &[]).code, Some(0));
    assert_eq!(checkpoints(&place("whole")), checkpoints(&place("failed")));
    let auto = flashpoint(&["train", "--save-path", "nowhere", "--device", "auto"], &[], &[]);
    assert_eq!(auto.code, Some(2), "{}", auto.stderr);
    assert!(auto.stderr.contains("a run is trained on cpu, cuda, or cuda:N"), "{}", auto.stderr);
    let none = flashpoint(&["train", "--save-path", "nowhere", "--device", "cuda"], &[], &[]);
    if !crate::command::has_real_driver() {
        assert_eq!(none.code, Some(2), "{}", none.stderr);
        assert!(none.stderr.contains("no CUDA driver"), "{}", none.stderr);
    }
}
