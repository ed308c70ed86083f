//! Conversion: every tensor of every format that is read comes out with its bits, and what does not go over is said.

#[path = "common/recover.rs"]
mod common;

use std::collections::BTreeSet;
use std::path::Path;

use common::*;
use serde_json::Value;

/// Converts `source`; the exit code and the report.
fn convert(source: &str, target: &Path, more: &[&str]) -> (Option<i32>, Value) {
    let arguments = ["convert", source, "--to", text(target), "--format", "json"];
    let output = flashpoint(&[&arguments, more].concat());
    let report = serde_json::from_slice(&output.stdout).unwrap_or_default();
    (output.status.code(), report)
}

#[test]
fn every_tensor_of_every_format_comes_out_with_its_bits() {
    let folder = tempfile::tempdir().unwrap();
    let mut sources: Vec<String> = std::fs::read_dir("fixtures/formats")
        .unwrap()
        .map(|entry| entry.unwrap().path().display().to_string())
        .collect();
    sources.extend(
        ["lightning.ckpt", "nanogpt.pt", "timm.pth.tar", "whole-module.pt", "hf-trainer/checkpoint-6"]
            .map(|name| format!("fixtures/layouts/{name}")),
    );
    sources.push("fixtures/layouts/accelerate/checkpoints/checkpoint_0".to_owned());
    sources.push("fixtures/optimizer/run-directory/checkpoint-400".to_owned());
    let (mut converted, mut compared) = (0, 0);
    for (round, source) in sources.iter().enumerate() {
        let target = folder.path().join(format!("{round}.safetensors"));
        let (code, report) = convert(source, &target, &[]);
        if !target.exists() {
            assert_eq!(code, Some(2), "{source}");
            continue;
        }
        converted += 1;
        let (before, after) = (read(Path::new(source)), read(&target));
        let list = |key: &str| report[key].as_array().cloned().unwrap_or_default();
        let refused: BTreeSet<String> =
            list("refused").iter().map(|lost| lost["what"].as_str().unwrap().to_owned()).collect();
        assert_eq!(code, Some(if refused.is_empty() { 0 } else { 2 }), "{source}");
        let tied: BTreeSet<String> = list("fates")
            .iter()
            .filter_map(|fate| Some(fate["tied"]["tensor"].as_str()?.to_owned()))
            .collect();
        for (index, tensor) in before.tensors.iter().enumerate() {
            if refused.contains(&tensor.name) {
                continue;
            }
            let name =
                if tied.contains(&tensor.name) { tensor.tied_to.as_ref().unwrap() } else { &tensor.name };
            let twin = after.tensors.iter().position(|other| other.name == *name);
            let twin = twin.unwrap_or_else(|| panic!("{source}: {name} is lost without a word"));
            let (own, new) = (tensor.tensor.as_ref().unwrap(), after.tensors[twin].tensor.as_ref().unwrap());
            assert_eq!((own.dtype, &own.shape), (new.dtype, &new.shape), "{source}: {name}");
            if own.dtype.size().is_some() && own.count() > 0 {
                assert_eq!(bytes(&before, index), bytes(&after, twin), "{source}: {name}");
                compared += 1;
            }
        }
        for name in &tied {
            assert!(after.metadata.contains_key(name), "{source}: the metadata does not say what {name} is");
        }
    }
    assert!(converted > 20 && compared > 200, "{converted} files, {compared} tensors");
}

#[test]
fn what_does_not_go_over_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("x.safetensors");
    let (code, report) = convert("fixtures/layouts/lightning.ckpt", &target, &[]);
    assert_eq!(code, Some(0));
    let lost = report["lost"].to_string();
    for key in ["optimizer_states", "lr_schedulers", "loops", "callbacks", "hyper_parameters"] {
        assert!(lost.contains(key), "{key}: {lost}");
    }
    let target = folder.path().join("y.safetensors");
    let (_, report) = convert("fixtures/layouts/hf-trainer/checkpoint-6", &target, &["--only", "model"]);
    assert!(report["lost"].to_string().contains("trainer_state.json"));
    assert!(read(&target).tensors.iter().all(|tensor| !tensor.name.contains("exp_avg")));
}

#[test]
fn tensors_without_plain_elements_are_refused_by_name_and_the_rest_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("x.safetensors");
    let (code, report) = convert("fixtures/formats/quantized-and-sparse.pt", &target, &[]);
    assert_eq!(code, Some(2));
    assert!(report["refused"].to_string().contains("quantised"), "{}", report["refused"]);
    assert!(report["refused"].to_string().contains("sparse"), "{}", report["refused"]);
    // A view that shows four bytes as four terabytes is not written out.
    let target = folder.path().join("y.safetensors");
    let (code, report) = convert("fixtures/hostile/tensors/stride-of-zero.pt", &target, &[]);
    assert_eq!(code, Some(2));
    assert!(report["refused"].to_string().contains("4398046511104"), "{}", report["refused"]);
    assert!(std::fs::metadata(&target).map_or(0, |metadata| metadata.len()) < 10_000);
}

#[test]
fn an_archive_that_is_not_what_its_checksums_say_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (damaged, target) = (folder.path().join("w.npz"), folder.path().join("x.safetensors"));
    let mut bytes = std::fs::read("fixtures/formats/arrays.npz").unwrap();
    // The first array begins with its magic number and a header that ends at 128 bytes.
    let array = bytes.windows(6).position(|window| window == b"\x93NUMPY").expect("there is an array");
    bytes[array + 128] ^= 0x01;
    std::fs::write(&damaged, bytes).unwrap();
    let output = flashpoint(&["convert", text(&damaged), "--to", text(&target)]);
    assert_eq!(output.status.code(), Some(2), "{}", told(&output));
    assert!(told(&output).contains("checksum"), "{}", told(&output));
    assert!(!target.exists());
}

#[test]
fn nothing_is_overwritten_and_the_name_must_say_what_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("x.safetensors");
    std::fs::write(&target, "theirs").unwrap();
    let output = flashpoint(&["convert", "fixtures/layouts/nanogpt.pt", "--to", text(&target)]);
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(std::fs::read(&target).unwrap(), b"theirs");
    let other = folder.path().join("x.pt");
    let output = flashpoint(&["convert", "fixtures/layouts/nanogpt.pt", "--to", text(&other)]);
    assert_eq!(output.status.code(), Some(2));
    assert!(!other.exists());
}

/// What safetensors' own reader finds, held against torch's.
const SAME: &str = "
import sys, torch
from safetensors import safe_open
state = torch.load(sys.argv[1], weights_only=True)
with safe_open(sys.argv[2], 'pt') as file:
    names = set(file.keys())
    metadata = file.metadata() or {}
    for name, tensor in state['model'].items():
        name = 'model.' + name
        kept = name if name in names else metadata[name]
        assert torch.equal(file.get_tensor(kept), tensor), name
print(len(names), metadata['format'])
";

#[test]
fn the_reference_reader_finds_what_torch_does() {
    let Some(python) = python("safetensors of converted checkpoints") else { return };
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("x.safetensors");
    convert("fixtures/layouts/nanogpt.pt", &target, &[]);
    let told = run_python(&python, SAME, &["fixtures/layouts/nanogpt.pt", text(&target)]);
    assert!(told.ends_with(" pt\n"), "{told}");
}
