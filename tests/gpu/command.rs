//! The unchanged binary with the fake driver, and with failures injected into it: it starts and answers with no driver, with a driver
//! alone, and with libraries; what the GPU does not do the processor does, and the report says so.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use flashpoint::random::Stream;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::Value;

use crate::fake::fake;

const CHECKPOINT: &str = "fixtures/runs/rnn-exploding/checkpoint-0400";

pub struct Run {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// The binary, with libraries from these directories and this fake behaviour.
pub fn flashpoint(arguments: &[&str], libraries: &[&Path], settings: &[(&str, &str)]) -> Run {
    let mut command = Command::new(env!("CARGO_BIN_EXE_flashpoint"));
    let path = std::env::join_paths(libraries).unwrap();
    command.args(arguments).env("LD_LIBRARY_PATH", path).env_remove("FAKE_CUDA").env_remove("FAKE_MATH");
    command.envs(settings.iter().copied()).env("NO_COLOR", "1");
    let Output { status, stdout, stderr } = command.output().expect("the binary runs");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    Run { code: status.code(), stdout: text(stdout), stderr: text(stderr) }
}

pub fn driver() -> [&'static Path; 1] {
    [fake().driver.as_path()]
}

pub fn everything() -> [&'static Path; 2] {
    [fake().driver.as_path(), fake().libraries.as_path()]
}

/// Whether this machine has a driver of its own: then these tests cannot be without one.
pub fn has_real_driver() -> bool {
    let run = flashpoint(&["devices"], &[], &[]);
    !run.stdout.contains("no CUDA driver")
}

/// What stands under `device` in the report of the one checkpoint, and the report without it.
pub fn apart(report: &str) -> (Option<Value>, Value) {
    let mut report: Value = serde_json::from_str(report).expect("a report");
    let analysis = if report.get("analysis").is_some() { &mut report["analysis"] } else { &mut report };
    let checkpoint = analysis["checkpoints"][0].as_object_mut().expect("a checkpoint");
    (checkpoint.shift_remove("device"), report)
}

/// Twenty examples in ten classes, as a file.
pub fn examples(directory: &Path) -> PathBuf {
    let path = directory.join("examples.safetensors");
    let x: Vec<u8> =
        Stream::new(1, 1).uniforms(2000).iter().flat_map(|&x| (x as f32).to_le_bytes()).collect();
    let y: Vec<u8> = (0..20i64).flat_map(|index| (index % 10).to_le_bytes()).collect();
    let tensors = [
        ("x", TensorView::new(Dtype::F32, vec![20, 10, 10], &x).unwrap()),
        ("y", TensorView::new(Dtype::I64, vec![20], &y).unwrap()),
    ];
    std::fs::write(&path, safetensors::serialize(tensors, None).unwrap()).unwrap();
    path
}

/// Numbers may differ by rounding, everything else must be the same.
pub fn assert_close(found: &Value, expected: &Value, place: &str) {
    assert_within(found, expected, ROUNDING, place);
}

/// What another order of sums makes of numbers that nothing amplifies.
const ROUNDING: f64 = 1e-9;

pub fn assert_within(found: &Value, expected: &Value, tolerance: f64, place: &str) {
    match (found, expected) {
        (Value::Number(a), Value::Number(b)) => {
            let (a, b) = (a.as_f64().unwrap(), b.as_f64().unwrap());
            assert!((a - b).abs() <= tolerance * b.abs().max(1e-3), "{place}: {a} instead of {b}");
        }
        (Value::Array(a), Value::Array(b)) => {
            assert_eq!(a.len(), b.len(), "{place}");
            for (at, (a, b)) in a.iter().zip(b).enumerate() {
                assert_within(a, b, tolerance, &format!("{place}[{at}]"));
            }
        }
        (Value::Object(a), Value::Object(b)) => {
            assert_eq!(a.keys().collect::<Vec<_>>(), b.keys().collect::<Vec<_>>(), "{place}");
            let tolerance =
                stated(b.get("rounding"), b.get("values")).map_or(tolerance, |stated| stated.max(tolerance));
            for (key, a) in a {
                // The width of noise is fitted at a minimum, whose place moves by √ε = 1.5e-8 where its terms move by ε.
                let tolerance = if key == "marchenko_pastur" { tolerance.max(1e-7) } else { tolerance };
                assert_within(a, &b[key], tolerance, &format!("{place}.{key}"));
            }
        }
        _ => assert_eq!(found, expected, "{place}"),
    }
}

/// How far the singular values of a spectrum may be off by what the report itself says, relative to the smallest: `rounding` times
/// σ₁²/σ, on both devices. What is derived from them may be off as far.
fn stated(rounding: Option<&Value>, values: Option<&Value>) -> Option<f64> {
    let rounding = rounding?["value"].as_f64()?;
    let values: Vec<f64> = values?["value"].as_array()?.iter().filter_map(Value::as_f64).collect();
    let (first, last) = (values.first()?, values.last()?);
    Some(2.0 * rounding * (first / last).powi(2))
}

fn inspected(device: &str, libraries: &[&Path], settings: &[(&str, &str)]) -> (Option<Value>, Value) {
    let run =
        flashpoint(&["inspect", CHECKPOINT, "--format", "json", "--device", device], libraries, settings);
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    assert!(!run.stderr.contains("panicked"), "{}", run.stderr);
    apart(&run.stdout)
}

#[test]
fn without_a_driver_the_processor_computes_and_a_gpu_that_was_asked_for_is_an_error_in_one_sentence() {
    if has_real_driver() {
        println!("SKIPPED: this machine has a CUDA driver");
        return;
    }
    let reports = ["auto", "cpu"].map(|device| inspected(device, &[], &[]));
    assert_eq!(reports[0], reports[1]);
    assert_eq!(reports[0].0, None, "where nothing is said the processor computed");
    for device in ["cuda", "cuda:2"] {
        let run = flashpoint(&["inspect", CHECKPOINT, "--device", device], &[], &[]);
        assert_eq!(run.code, Some(2), "{}", run.stderr);
        assert_eq!(run.stderr.trim_end().lines().count(), 1, "{}", run.stderr);
        assert!(
            run.stderr.contains("no CUDA driver: libcuda.so.1 was looked for in the loader's path"),
            "{}",
            run.stderr
        );
        assert_eq!(run.stdout, "");
    }
    let run = flashpoint(&["devices"], &[], &[]);
    assert_eq!(run.code, Some(0));
    assert!(run.stdout.contains("everything is computed on the processor"), "{}", run.stdout);
    let run = flashpoint(&["devices", "--self-test"], &[], &[]);
    assert_eq!(run.code, Some(2), "a test that did not run is no pass");
}

#[test]
fn what_is_no_device_is_refused() {
    for device in ["gpu", "cuda:", "cuda:x", "cuda:-1", ""] {
        let run = flashpoint(&["inspect", CHECKPOINT, "--device", device], &[], &[]);
        assert_eq!(run.code, Some(2), "{device}");
        assert!(run.stderr.contains("auto, cpu, cuda, or cuda:N"), "{}", run.stderr);
    }
}

#[test]
fn devices_says_what_is_there_from_which_file_and_what_is_missing() {
    let run = flashpoint(&["devices"], &everything(), &[("FAKE_CUDA", "devices=2,version=12040")]);
    let file = |directory: &Path, name: &str| directory.join(name).display().to_string();
    for expected in [
        format!("driver: for CUDA 12.4, {}", file(&fake().driver, "libcuda.so.1")),
        "cuda:0: Fake GPU 0, compute capability 9.0, 858993460 bytes to use".to_owned(),
        "cuda:1: Fake GPU 1".to_owned(),
        format!("cuBLAS: 13.9.1, {}", file(&fake().libraries, "libcublas.so.13")),
        format!("cuSOLVER: 12.8.7, {}", file(&fake().libraries, "libcusolver.so.12")),
    ] {
        assert!(run.stdout.contains(&expected), "{expected} is not in\n{}", run.stdout);
    }
    let run = flashpoint(&["devices"], &driver(), &[("HOME", "/nowhere"), ("PATH", "/nowhere")]);
    assert!(
        run.stdout.contains("cuBLAS: not found; products are those of flashpoint's own kernel"),
        "{}",
        run.stdout
    );
    assert!(run.stdout.contains("cuSOLVER: not found; all singular values are computed on the processor"));
    assert!(run.stdout.contains("/opt/cuda/lib64"), "where it was looked for: {}", run.stdout);
}

#[test]
fn libraries_in_a_directory_that_is_named_are_found_without_the_loader() {
    let named = fake().libraries.display().to_string();
    let run = flashpoint(&["devices", "--cuda-libs", &named], &driver(), &[]);
    assert!(
        run.stdout.contains("cuBLAS: 13.9.1") && run.stdout.contains("cuSOLVER: 12.8.7"),
        "{}",
        run.stdout
    );
    let home = tempfile::tempdir().unwrap();
    let packages = home.path().join("lib/python3.12/site-packages/nvidia/cu13/lib");
    std::fs::create_dir_all(&packages).unwrap();
    for library in ["libcublas.so.13", "libcusolver.so.12"] {
        std::fs::copy(fake().libraries.join(library), packages.join(library)).unwrap();
    }
    let run = flashpoint(&["devices"], &driver(), &[("VIRTUAL_ENV", home.path().to_str().unwrap())]);
    let place = packages.join("libcusolver.so.12").display().to_string();
    assert!(run.stdout.contains(&place), "as PyTorch's packages lie: {}", run.stdout);
}

#[test]
fn a_named_directory_may_be_relative_and_must_be_there() {
    let (home, name) = (fake().libraries.parent().unwrap(), fake().libraries.file_name().unwrap());
    let mut command = Command::new(env!("CARGO_BIN_EXE_flashpoint"));
    command.current_dir(home).args(["devices", "--cuda-libs"]).arg(name).env("LD_LIBRARY_PATH", driver()[0]);
    let text = String::from_utf8(command.output().expect("the binary runs").stdout).unwrap();
    assert!(text.contains("cuBLAS: 13.9.1") && text.contains("cuSOLVER: 12.8.7"), "{text}");
    for (directory, reason) in [
        ("no/such/directory", "no such file"),
        ("Cargo.toml", "look for CUDA's libraries"),
        ("", "a value is required"),
    ] {
        for command in [&["devices"][..], &["inspect", CHECKPOINT]] {
            let run = flashpoint(&[command, &["--cuda-libs", directory]].concat(), &driver(), &[]);
            assert_eq!(run.code, Some(2), "{directory}: {}", run.stderr);
            assert!(run.stderr.contains(reason), "{directory}: {}", run.stderr);
        }
    }
}

#[test]
fn the_norm_of_a_row_is_no_work_of_a_device() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("row.safetensors");
    let header = r#"{"row.weight":{"dtype":"F32","shape":[1,64],"data_offsets":[0,256]}}"#;
    let data: Vec<u8> = (0..64).flat_map(|index| (index as f32).to_le_bytes()).collect();
    let length = (header.len() as u64).to_le_bytes();
    std::fs::write(&path, [&length[..], header.as_bytes(), &data].concat()).unwrap();
    let inspect = ["inspect", path.to_str().unwrap(), "--format", "json", "--device", "cuda"];
    let run = flashpoint(&inspect, &driver(), &[]);
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    let (device, report) = apart(&run.stdout);
    assert_eq!(device, None, "the processor did it all");
    let found = &report["checkpoints"][0]["tensors"][0]["spectrum"]["value"]["spectral_norm"]["value"];
    // 0² + 1² + … + 63².
    assert!((found.as_f64().unwrap() - 85344f64.sqrt()).abs() < 1e-9, "{found}");
}

#[test]
fn devices_that_cannot_be_used_say_why() {
    let old: PathBuf = fake().old_driver.clone();
    for (libraries, settings, expected) in [
        (driver()[0], "devices=0", "finds no device: cuInit: CUDA_ERROR_NO_DEVICE"),
        (driver()[0], "fail=cuInit:1:999", "finds no device: cuInit: CUDA_ERROR_UNKNOWN"),
        (driver()[0], "fail=cuInit:1:34", "finds no device: cuInit: CUDA_ERROR_STUB_LIBRARY"),
        (driver()[0], "capability=7.0", "Fake GPU 0 has compute capability 7.0, and the kernels need 7.5"),
        (driver()[0], "fail=cuDevicePrimaryCtxRetain:1+:2", "out of memory"),
        (driver()[0], "fail=cuModuleLoadData:1+:222", "cuModuleLoadData: CUDA_ERROR_UNSUPPORTED_PTX_VERSION"),
        (driver()[0], "fail=cuLaunchKernel:1+:719", "cuLaunchKernel: CUDA_ERROR_LAUNCH_FAILED"),
        (old.as_path(), "", "lacks cuLaunchKernel"),
    ] {
        let run = flashpoint(
            &["inspect", CHECKPOINT, "--device", "cuda"],
            &[libraries],
            &[("FAKE_CUDA", settings)],
        );
        assert_eq!(run.code, Some(2), "{settings}: {}", run.stderr);
        assert!(run.stderr.contains(expected), "{settings}: {}", run.stderr);
        assert_eq!(run.stderr.trim_end().lines().count(), 1, "{}", run.stderr);
    }
    let run = flashpoint(&["inspect", CHECKPOINT, "--device", "cuda:3"], &driver(), &[]);
    assert!(
        run.stderr.contains("device 3 was asked for, and they are numbered from 0 to 0"),
        "{}",
        run.stderr
    );
}

#[test]
fn spectra_of_the_gpu_are_those_of_the_processor_with_the_driver_alone_and_with_libraries() {
    let (_, expected) = inspected("cpu", &[], &[]);
    for (libraries, settings) in [
        (&driver()[..], ""),
        (&everything()[..], ""),
        (&everything()[..], "reversed,pools=0"),
        // So little memory that nothing is kept and panels are small.
        (&driver()[..], "memory=60000"),
        // Memory that is there once what was kept for the next is given back.
        (&everything()[..], "fail=cuMemAllocAsync:5:2"),
    ] {
        let run = flashpoint(
            &["inspect", CHECKPOINT, "--format", "json", "--device", "cuda"],
            libraries,
            &[("FAKE_CUDA", settings)],
        );
        assert_eq!(run.code, Some(0), "{}", run.stderr);
        assert!(!run.stderr.contains("fake CUDA"), "{settings}: {}", run.stderr);
        let (device, report) = apart(&run.stdout);
        let device = device.expect("the report says which device");
        assert_eq!(device["name"], "Fake GPU 0 (cuda:0)");
        assert!(device["pieces"].as_u64().unwrap() >= 3, "{device}");
        assert_eq!(device.get("redone"), None, "{settings}: {device}");
        assert_close(&report, &expected, "report");
    }
}

#[test]
fn norms_of_a_gpu_that_was_asked_for_are_the_same_bytes() {
    let measured = |device: &str| {
        let run =
            flashpoint(&["measure", CHECKPOINT, "--measure", "norms", "--device", device], &driver(), &[]);
        assert_eq!(run.code, Some(0), "{}", run.stderr);
        assert!(!run.stderr.contains("fake CUDA"), "{}", run.stderr);
        apart(&run.stdout)
    };
    let ((device, found), (none, expected)) = (measured("cuda"), measured("cpu"));
    assert_eq!(found, expected);
    assert!(none.is_none() && device.expect("it took part")["pieces"].as_u64().unwrap() >= 3);
    assert_eq!(measured("auto").0, None, "the bus is slower than the processor");
}

#[test]
fn what_the_gpu_does_not_do_is_done_on_the_processor_and_the_report_says_so() {
    let (_, expected) = inspected("cpu", &[], &[]);
    for (settings, math, reason) in [
        ("fail=cuMemAllocAsync:5+:2", "", "out of memory"),
        ("fail=cuMemAllocAsync:9+:2", "", "out of memory"),
        ("fail=cuLaunchKernel:3:719", "", "it failed before and is not used again: cuLaunchKernel"),
        ("fail=cuMemcpyDtoHAsync_v2:3:700", "", "CUDA_ERROR_ILLEGAL_ADDRESS"),
        ("fail=cuMemcpyHtoDAsync_v2:4:999", "", "CUDA_ERROR_UNKNOWN"),
        ("fail=cuStreamSynchronize:9:214", "", "CUDA_ERROR_ECC_UNCORRECTABLE"),
        ("fail=cuModuleLoadData:2+:222", "", "CUDA_ERROR_UNSUPPORTED_PTX_VERSION"),
        ("", "gemm", "CUBLAS_STATUS_EXECUTION_FAILED"),
        ("", "eigen", "CUSOLVER_STATUS_INTERNAL_ERROR"),
        ("", "diverge", "3 values did not converge"),
        ("memory=3000", "", "of its budget"),
    ] {
        let (device, report) =
            inspected("cuda", &everything(), &[("FAKE_CUDA", settings), ("FAKE_MATH", math)]);
        let device = device.unwrap_or_else(|| panic!("{settings}{math}: the report says nothing"));
        let redone = device["redone"]
            .as_array()
            .unwrap_or_else(|| panic!("{settings}{math}: nothing was done again: {device}"));
        assert!(!redone.is_empty() && redone.iter().all(|piece| piece["tensor"].is_string()));
        assert!(device["redone"].to_string().contains(reason), "{settings}{math}: {device}");
        assert_close(&report, &expected, "report");
    }
    let run = flashpoint(
        &["inspect", CHECKPOINT, "--device", "cuda"],
        &driver(),
        &[("FAKE_CUDA", "fail=cuLaunchKernel:6:719")],
    );
    assert!(run.stdout.contains("  device: Fake GPU 0 (cuda:0), "), "{}", run.stdout);
    assert!(run.stdout.contains(": cpu (gpu: "), "{}", run.stdout);
}

#[test]
fn the_self_test_says_of_each_item_whether_it_passed() {
    let run = flashpoint(&["devices", "--self-test", "--quick"], &everything(), &[]);
    assert_eq!(run.code, Some(0), "{}", run.stdout);
    assert!(run.stdout.contains("self-test of Fake GPU 0 (cuda:0), against the processor"));
    for expected in [
        "f64 gemm A·Bᵀ, cuBLAS: pass",
        "f32 map GeluErf: pass",
        "F8_E4M3 tall, norms: pass, the same bits",
        "eigenvalues of 70 of 33×33: pass",
        "spectrum of 24×31 among others, ThreeRanks: pass",
        "heads of 32×48: pass",
        "heads of 32×48, libraries: pass",
        " 0 failed",
    ] {
        assert!(run.stdout.contains(expected), "{expected}:\n{}", run.stdout);
    }
    let run = flashpoint(
        &["devices", "--self-test", "--quick"],
        &everything(),
        &[("FAKE_CUDA", "fail=cuLaunchKernel:9:719")],
    );
    assert_eq!(run.code, Some(2));
    assert!(run.stdout.contains("FAIL, "), "{}", run.stdout);
    let run = flashpoint(&["devices", "--self-test", "--quick"], &everything(), &[("FAKE_MATH", "batch")]);
    assert_eq!(run.code, Some(2));
    for expected in [
        "eigenvalues of 1 of 33×33: pass",
        "eigenvalues of 2 of 33×33: FAIL, cuda:0: the GPU did not do it: cusolverDnXsyevBatched: CUSOLVER_STATUS_INTERNAL_ERROR",
        "spectrum of 24×31 among others, Normals: FAIL, 0 numbers instead of 24",
    ] {
        assert!(run.stdout.contains(expected), "{expected}:\n{}", run.stdout);
    }
}
