//! Matrices that are measured by blocks on a GPU, through the unchanged binary: their brackets hold what the processor finds, and what fails
//! on the way is the processor's.

use std::path::{Path, PathBuf};

use flashpoint::random::Stream;
use half::bf16;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::Value;

use crate::command::{apart, driver, everything, flashpoint};

/// A tall and a wide matrix whose shorter sides are above 256: below it all singular values are computed.
const SHAPES: [(&str, usize, usize); 2] = [("first.weight", 264, 258), ("second.weight", 257, 263)];

fn checkpoint(directory: &Path) -> PathBuf {
    let path = directory.join("model.safetensors");
    let bytes = SHAPES.map(|(name, rows, columns)| {
        let numbers = Stream::new(31, name.len() as u64).normals(rows * columns);
        numbers.iter().flat_map(|x| bf16::from_f64(*x).to_le_bytes()).collect::<Vec<u8>>()
    });
    let tensors = SHAPES.iter().zip(&bytes).map(|((name, rows, columns), bytes)| {
        (*name, TensorView::new(Dtype::BF16, vec![*rows, *columns], bytes).expect("a tensor"))
    });
    std::fs::write(&path, safetensors::serialize(tensors, None).expect("a file")).expect("a file");
    path
}

/// What is reported of the device, and the spectra.
fn inspected(
    path: &Path,
    device: &str,
    libraries: &[&Path],
    settings: &str,
    math: &str,
) -> (Option<Value>, Vec<Value>) {
    let arguments = [
        "inspect",
        path.to_str().expect("a path"),
        "--format",
        "json",
        "--measure",
        "spectra",
        "--device",
        device,
    ];
    let run = flashpoint(&arguments, libraries, &[("FAKE_CUDA", settings), ("FAKE_MATH", math)]);
    assert_eq!(run.code, Some(0), "{settings}{math}: {}", run.stderr);
    assert!(!run.stderr.contains("panicked") && !run.stderr.contains("fake CUDA"), "{}", run.stderr);
    let (device, report) = apart(&run.stdout);
    let tensors = report["checkpoints"][0]["tensors"].as_array().expect("tensors");
    assert_eq!(tensors.len(), SHAPES.len());
    (device, tensors.iter().map(|tensor| tensor["spectrum"]["value"].clone()).collect())
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

/// Both are brackets of one number, so that they overlap; and none is wider than a hundredth.
fn assert_overlap(found: &[Value], expected: &[Value]) {
    for (found, expected) in found.iter().zip(expected) {
        let [(low, high), (expected_low, expected_high)] = [found, expected].map(|spectrum| {
            let norm = &spectrum["spectral_norm"];
            (number(&norm["value"]), number(&norm["upper"]["value"]))
        });
        assert!(low <= expected_high && expected_low <= high, "{found} {expected}");
        assert!(high < 1.0105 * low, "{found}");
        let frobenius = number(&found["frobenius_norm"]) / number(&expected["frobenius_norm"]);
        assert!((frobenius - 1.0).abs() < 1e-12, "{frobenius}");
    }
}

#[test]
fn brackets_by_blocks_overlap_those_of_the_processor() {
    let directory = tempfile::tempdir().unwrap();
    let path = checkpoint(directory.path());
    let (_, expected) = inspected(&path, "cpu", &[], "", "");
    for (libraries, settings) in [(&driver()[..], ""), (&everything()[..], "reversed,pools=0")] {
        let (device, found) = inspected(&path, "cuda", libraries, settings, "");
        let device = device.expect("it took part");
        assert_eq!(device.get("redone"), None, "{settings}: {device}");
        assert_overlap(&found, &expected);
        for spectrum in &found {
            // Fewer than half of the steps that one vector takes.
            assert_eq!(spectrum["spectral_norm"]["steps"], 14, "{spectrum}");
        }
    }
}

#[test]
fn a_failure_at_any_call_is_the_processors_result() {
    let directory = tempfile::tempdir().unwrap();
    let path = checkpoint(directory.path());
    let (_, expected) = inspected(&path, "cpu", &[], "", "");
    let calls = [
        "cuLaunchKernel",
        "cuMemcpyDtoHAsync_v2",
        "cuMemcpyHtoDAsync_v2",
        "cuMemcpyDtoDAsync_v2",
        "cuStreamSynchronize",
    ];
    for call in calls {
        // Early ones, some of the middle, and some of the end of the first matrix.
        for nth in [3, 7, 12, 25] {
            let settings = format!("fail={call}:{nth}+:700");
            let (device, found) = inspected(&path, "cuda", &everything(), &settings, "");
            let device = device.unwrap_or_else(|| panic!("{settings}: the report says nothing"));
            let redone = device["redone"].as_array().unwrap_or_else(|| panic!("{settings}: {device}"));
            assert!(!redone.is_empty(), "{settings}: {device}");
            for (index, (name, ..)) in SHAPES.iter().enumerate() {
                if redone.iter().any(|piece| piece["tensor"] == *name) {
                    assert_eq!(found[index], expected[index], "{settings}");
                } else {
                    assert_overlap(&found[index..=index], &expected[index..=index]);
                }
            }
        }
    }
}
