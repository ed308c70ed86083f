//! Repair by its invariants: what no edit names is byte for byte the source's, the container stays what it was, the edits are exact,
//! nothing is ever half written, and the input is never written to.

#[path = "common/recover.rs"]
mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use common::*;
use flashpoint::checkpoint::Checkpoint;
use flashpoint::checkpoint::optimizer::{Hyperparameter, Quantity};
use flashpoint::context::Context;
use flashpoint::format::torch::verify_checksums;
use flashpoint::tensor::{DType, decode};
use half::bf16;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::Value;

const NANO_GPT: &str = "fixtures/layouts/nanogpt.pt";
const TRAINER: &str = "fixtures/layouts/hf-trainer/checkpoint-6";
const OWN: &str = "fixtures/optimizer/run-directory/checkpoint-400";
const ATTENTION: &str = "fixtures/runs/gpt-attention-logits/checkpoint-125";

/// Repairs `source` into a new directory; the manifest.
fn repair(source: &str, target: &Path, edits: &[&str]) -> Value {
    let output = flashpoint(&[&["repair", source, "--to", text(target)], edits].concat());
    assert_eq!(output.status.code(), Some(0), "{}", told(&output));
    manifest(target)
}

fn manifest(target: &Path) -> Value {
    let text = std::fs::read_to_string(target.join("repair.json")).expect("there is a manifest");
    serde_json::from_str(&text).expect("it is JSON")
}

/// The check of a manifest whose name begins so.
fn check<'m>(manifest: &'m Value, name: &str) -> &'m Value {
    let mut checks = manifest["checks"].as_array().expect("it has checks").iter();
    let found = checks.find(|check| check["name"].as_str().is_some_and(|own| own.starts_with(name)));
    found.unwrap_or_else(|| panic!("no check {name}: {}", manifest["checks"]))
}

/// Places at which two files of one length differ, those next to each other as one.
fn differences(one: &[u8], other: &[u8]) -> Vec<std::ops::Range<usize>> {
    assert_eq!(one.len(), other.len());
    let mut runs: Vec<std::ops::Range<usize>> = Vec::new();
    for at in (0..one.len()).filter(|&at| one[at] != other[at]) {
        match runs.last_mut() {
            Some(run) if run.end == at => run.end = at + 1,
            _ => runs.push(at..at + 1),
        }
    }
    runs
}

/// The bytes of the file that each tensor of that name takes.
fn places(checkpoint: &Checkpoint, named: impl Fn(&str) -> bool) -> Vec<std::ops::Range<u64>> {
    let tensors = checkpoint.tensors.iter().filter(|tensor| named(&tensor.name));
    tensors
        .flat_map(|tensor| tensor.tensor.as_ref().expect("it can be read").pieces.iter())
        .map(|piece| piece.bytes.clone())
        .collect()
}

#[test]
fn every_byte_of_an_archive_that_no_edit_names_is_that_of_the_source() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("out");
    let before = std::fs::read(NANO_GPT).unwrap();
    let told = repair(NANO_GPT, &target, &["--reset-moments", "*c_proj.weight", "--lr-scale", "0.5"]);
    assert_eq!(std::fs::read(NANO_GPT).unwrap(), before, "the input is never written to");
    let written = std::fs::read(target.join("nanogpt.pt")).unwrap();
    let edited: Vec<&str> = told["edits"][0]["tensors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|tensor| tensor["tensor"].as_str().unwrap())
        .collect();
    assert_eq!(edited.len(), 6, "m, v and step of two parameters: {edited:?}");
    let checkpoint = read(Path::new(NANO_GPT));
    let allowed = places(&checkpoint, |name| edited.contains(&name));
    let is_allowed = |run: &std::ops::Range<usize>| {
        allowed.iter().any(|place| place.start <= run.start as u64 && run.end as u64 <= place.end)
    };
    let rest: Vec<_> = differences(&before, &written).into_iter().filter(|run| !is_allowed(run)).collect();
    // Two learning rates of eight bytes in the pickle; two checksums of four bytes for each of seven members.
    assert!(rest.iter().all(|run| run.len() <= 8), "{rest:?}");
    let bytes: usize = rest.iter().map(std::ops::Range::len).sum();
    assert!(bytes <= 2 * 8 + 7 * 2 * 4, "{bytes} bytes: {rest:?}");
    let after = read(&target.join("nanogpt.pt"));
    let damaged = verify_checksums(&after.files[0].input, &Context::default()).unwrap();
    assert!(damaged.is_empty(), "{damaged:?}");
    for name in edited {
        assert!(elements(&after, name).iter().all(|value| *value == 0.0), "{name}");
    }
}

#[test]
fn learning_rates_change_in_groups_and_schedule_alike_and_the_other_files_are_copied() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("checkpoint-6");
    repair(TRAINER, &target, &["--lr-scale", "0.25", "--epsilon", "1e-7", "--beta2", "0.95"]);
    let (before, after) = (read(Path::new(TRAINER)), read(&target));
    let numbers = |checkpoint: &Checkpoint| -> BTreeMap<(usize, String), Hyperparameter> {
        let own = checkpoint.optimizers.iter().map(|one| (one.file, &one.hyperparameters));
        let scheduled = checkpoint.schedules.iter().map(|one| (one.file, &one.rates));
        let all = own.chain(scheduled).flat_map(|(file, list)| list.iter().map(move |number| (file, number)));
        all.map(|(file, number)| ((file, number.name.clone()), number.clone())).collect()
    };
    let (was, is) = (numbers(&before), numbers(&after));
    let mut rates = 0;
    for (key, number) in &was {
        let expected = match number.quantity {
            Quantity::LearningRate | Quantity::BaseRate | Quantity::ScheduledRate => {
                rates += 1;
                0.25 * number.value
            }
            Quantity::Epsilon => 1e-7,
            Quantity::Beta2 => 0.95,
            Quantity::Step => number.value,
        };
        assert_eq!(is[key].value, expected, "{key:?}");
    }
    assert_eq!(rates, 8, "lr and initial_lr of two groups, _last_lr and base_lrs of both");
    let changed: Vec<String> = files(Path::new(TRAINER))
        .into_iter()
        .filter(|(name, bytes)| std::fs::read(target.join(name)).unwrap() != *bytes)
        .map(|(name, _)| name)
        .collect();
    assert_eq!(changed, ["optimizer.pt", "scheduler.pt"]);
    for index in 0..before.tensors.len() {
        assert_eq!(bytes(&before, index), bytes(&after, index), "{}", before.tensors[index].name);
    }
}

#[test]
fn a_reset_takes_the_step_with_it_also_where_it_is_shared() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("checkpoint-400");
    let told = repair(OWN, &target, &["--reset-moments", "wide.weight", "--lr-scale", "2"]);
    assert_eq!(told["expected"], "numeric");
    let (before, after) = (read(Path::new(OWN)), read(&target));
    let steps = |checkpoint: &Checkpoint| -> BTreeMap<String, Option<f64>> {
        let states = checkpoint.optimizers.iter().flat_map(|optimizer| &optimizer.parameters);
        states.map(|state| (state.key.clone(), state.step)).collect()
    };
    assert_eq!(steps(&after)["wide.weight"], Some(0.0));
    assert_eq!(steps(&after)["small.weight"], steps(&before)["small.weight"]);
    for leaf in ["exp_avg", "exp_avg_sq"] {
        let of = |name: &str| {
            let is_it = |tensor: &&flashpoint::checkpoint::CheckpointTensor| {
                tensor.name.ends_with(&format!("{name}.{leaf}"))
            };
            after.tensors.iter().find(is_it).expect("it is there").name.clone()
        };
        assert!(elements(&after, &of("wide.weight")).iter().all(|value| *value == 0.0));
        let small = of("small.weight");
        assert_eq!(elements(&after, &small), elements(&before, &small));
    }
    let state: Value =
        serde_json::from_str(&std::fs::read_to_string(target.join("state.json")).unwrap()).unwrap();
    assert_eq!(state["optimizer"]["groups"][1]["lr"], 0.002);
    assert_eq!(state["optimizer"]["groups"][1]["betas"][1], 0.999);
    assert_eq!(state["step"], 400);
}

/// √(v − mean²) of a centered RMSprop is NaN where v alone is 0.
#[test]
fn a_reset_of_a_centered_rmsprop_takes_the_mean_gradient_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let (source, target) = (folder.path().join("checkpoint-6"), folder.path().join("repaired"));
    std::fs::create_dir(&source).unwrap();
    let write = |file: &str, tensors: &[(&str, Vec<usize>, f32)]| {
        let bytes: Vec<Vec<u8>> = tensors
            .iter()
            .map(|(_, shape, value)| value.to_le_bytes().repeat(shape.iter().product()))
            .collect();
        let views = tensors.iter().zip(&bytes).map(|((name, shape, _), bytes)| {
            (*name, TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap())
        });
        std::fs::write(source.join(file), safetensors::serialize(views, None).unwrap()).unwrap();
    };
    write("model.safetensors", &[("fc.weight", vec![4, 4], 0.1)]);
    let state = ["square_avg", "grad_avg", "momentum_buffer"];
    let names = state.map(|leaf| format!("fc.weight.{leaf}"));
    let mut tensors: Vec<_> = names.iter().map(|name| (name.as_str(), vec![4, 4], 0.01)).collect();
    tensors.push(("fc.weight.step", vec![], 6.0));
    write("optimizer.safetensors", &tensors);
    let told = r#"{"step": 6, "optimizer": {"algorithm": "rmsprop", "groups": [{"lr": 0.01, "alpha": 0.99, "momentum": 0.9}]}}"#;
    std::fs::write(source.join("state.json"), told).unwrap();
    repair(text(&source), &target, &["--reset-moments"]);
    let after = read(&target);
    for leaf in ["square_avg", "grad_avg", "momentum_buffer", "step"] {
        let of_leaf = || after.tensors.iter().filter(|tensor| tensor.name.ends_with(&format!(".{leaf}")));
        assert!(of_leaf().next().is_some(), "{leaf}");
        for tensor in of_leaf() {
            assert!(elements(&after, &tensor.name).iter().all(|value| *value == 0.0), "{}", tensor.name);
        }
    }
}

#[test]
fn a_reset_says_whose_state_it_could_not_tell() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("checkpoint-6");
    std::fs::create_dir(&source).unwrap();
    std::fs::copy("fixtures/layouts/optimizer-state.pt", source.join("optimizer.pt")).unwrap();
    std::fs::write(source.join("trainer_state.json"), "{\"global_step\": 6}").unwrap();
    // Shapes of the six states. Three are of eight numbers, and nothing says in which order they were given.
    let shapes: [(&str, &[usize]); 6] = [
        ("fc.weight", &[8, 6]),
        ("first.gain", &[8]),
        ("head.bias", &[3]),
        ("head.weight", &[3, 8]),
        ("second.gain", &[8]),
        ("third.gain", &[8]),
    ];
    let ones = 1f32.to_le_bytes().repeat(48);
    let tensors = shapes.map(|(name, shape)| {
        let bytes = &ones[..4 * shape.iter().product::<usize>()];
        (name, TensorView::new(Dtype::F32, shape.to_vec(), bytes).unwrap())
    });
    std::fs::write(source.join("model.safetensors"), safetensors::serialize(tensors, None).unwrap()).unwrap();
    let why = |glob: &str| {
        let output =
            flashpoint(&["repair", text(&source), "--plan", "--format", "json", "--reset-moments", glob]);
        let plan: Value =
            serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", told(&output)));
        plan["edits"][0]["why"].clone()
    };
    assert_eq!(why("*"), serde_json::json!(["asked for: --reset-moments *"]));
    assert_eq!(why("head.*"), serde_json::json!(["asked for: --reset-moments head.*"]));
    let part = why("f*");
    assert!(part[1].as_str().is_some_and(|left| left.contains("the state of first.gain, which")), "{part}");
}

/// Copies our own checkpoint and changes one element of one tensor of one of its files.
fn with_element(folder: &Path, file: &str, tensor: &str, value: f32) -> PathBuf {
    let copied = folder.join("checkpoint-400");
    copy(Path::new(OWN), &copied);
    let place = places(&read(&copied), |name| name == tensor).remove(0).start as usize;
    let path = copied.join(file);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[place..place + 4].copy_from_slice(&value.to_le_bytes());
    std::fs::write(&path, bytes).unwrap();
    copied
}

#[test]
fn state_that_is_not_finite_is_dropped_and_a_weight_that_is_not_is_no_matter_of_repair() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("repaired");
    let source = with_element(folder.path(), "optimizer.safetensors", "small.weight.exp_avg_sq", f32::NAN);
    let plan = flashpoint(&["repair", text(&source), "--plan"]);
    assert_eq!(plan.status.code(), Some(0));
    assert!(told(&plan).contains("FP701") && told(&plan).contains("drop-non-finite"), "{}", told(&plan));
    assert!(!target.exists());
    let manifest = repair(text(&source), &target, &["--from-findings"]);
    assert_eq!(manifest["healthy"], true);
    let (before, after) = (read(&source), read(&target));
    let kept: Vec<usize> = (0..before.tensors.len())
        .filter(|&index| !before.tensors[index].name.contains("small.weight."))
        .collect();
    for index in kept {
        let twin = after.tensors.iter().position(|tensor| tensor.name == before.tensors[index].name).unwrap();
        assert_eq!(bytes(&before, index), bytes(&after, twin), "{}", before.tensors[index].name);
    }
    std::fs::remove_dir_all(&source).unwrap();
    let source = with_element(folder.path(), "model.safetensors", "small.weight", f32::INFINITY);
    let other = folder.path().join("other");
    let refused = flashpoint(&["repair", text(&source), "--to", text(&other), "--from-findings"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(told(&refused).contains("roll back"), "{}", told(&refused));
    assert!(!other.exists());
}

#[test]
fn a_cast_rounds_each_element_once_and_leaves_the_others_alone() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("checkpoint-6");
    repair(TRAINER, &target, &["--cast", "*mlp*=bf16"]);
    let (before, after) = (read(Path::new(TRAINER)), read(&target));
    let mut cast = 0;
    for (index, tensor) in before.tensors.iter().enumerate() {
        let twin = after.tensors.iter().position(|other| other.name == tensor.name).expect("it is there");
        let (own, new) = (tensor.tensor.as_ref().unwrap(), after.tensors[twin].tensor.as_ref().unwrap());
        if own.dtype == new.dtype {
            assert_eq!(bytes(&before, index), bytes(&after, twin), "{}", tensor.name);
            continue;
        }
        cast += 1;
        assert_eq!((own.dtype, new.dtype), (DType::F32, DType::Bf16));
        let mut stored = Vec::new();
        decode::to_f64(DType::Bf16, &bytes(&after, twin), &mut stored);
        let rounded =
            elements(&before, &tensor.name).into_iter().map(|value| bf16::from_f32(value as f32).to_f64());
        assert!(rounded.eq(stored), "{}", tensor.name);
    }
    assert!(cast >= 2, "{cast}");
    let index = std::fs::read_to_string(target.join("model.safetensors.index.json")).unwrap();
    let index: Value = serde_json::from_str(&index).unwrap();
    let model = after.tensors.iter().filter(|tensor| !tensor.name.contains("state."));
    let model = model.filter(|tensor| after.files[tensor.file.unwrap()].name.starts_with("model-"));
    let total: u64 = model.map(|tensor| tensor.tensor.as_ref().unwrap().byte_count()).sum();
    assert_eq!(index["metadata"]["total_size"], total);
}

#[test]
fn queries_and_keys_are_clipped_to_where_a_softmax_condenses_and_only_when_that_is_accepted() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("checkpoint-125");
    let refused = flashpoint(&["repair", ATTENTION, "--to", text(&target), "--qk-clip"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(told(&refused).contains("--accept-function-change"), "{}", told(&refused));
    assert!(!target.exists());
    // The maps become smaller and their next step does not: without a lower rate that is a failed check, and exit code 1.
    let alone = folder.path().join("alone");
    let output =
        flashpoint(&["repair", ATTENTION, "--to", text(&alone), "--qk-clip", "--accept-function-change"]);
    assert_eq!(output.status.code(), Some(1), "{}", told(&output));
    assert_eq!(manifest(&alone)["healthy"], false);
    let done = repair(ATTENTION, &target, &["--qk-clip", "--accept-function-change", "--lr-scale", "0.5"]);
    assert_eq!(check(&done, "no head's largest expected logit")["outcome"], "pass");
    let heads = |path: &Path| -> Vec<(f64, f64)> {
        let output = flashpoint(&["inspect", text(path), "--measure", "spectra", "--format", "json"]);
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        let layers = report["checkpoints"][0]["attention"]["value"].as_array().unwrap().clone();
        let of = |layer: &Value| -> Vec<(f64, f64)> {
            let critical = (2.0 * layer["context"].as_f64().unwrap().ln()).sqrt();
            let heads = layer["heads"].as_array().unwrap().iter();
            heads.map(|head| (head["logit_std"].as_f64().unwrap(), critical)).collect()
        };
        layers.iter().flat_map(of).collect()
    };
    let (before, after) = (heads(Path::new(ATTENTION)), heads(&target));
    assert!(before.iter().any(|(std, critical)| std > critical), "something has to be clipped: {before:?}");
    for ((was, critical), (is, _)) in before.iter().zip(&after) {
        assert!(is < critical, "{was} became {is}, limit {critical}");
        assert!((is - was.min(*critical)).abs() < 2e-4 * critical, "{was} became {is}, limit {critical}");
    }
    // Values are in the same fused matrix, and stay.
    let (one, other) = (read(Path::new(ATTENTION)), read(&target));
    let fused = one.tensors.iter().find(|tensor| tensor.name.ends_with("h.0.attn.c_attn.weight")).unwrap();
    let (was, is) = (elements(&one, &fused.name), elements(&other, &fused.name));
    let width = fused.tensor.as_ref().unwrap().shape[1] as usize;
    let values = |all: &[f64]| -> Vec<f64> {
        all.chunks_exact(width).flat_map(|row| row[2 * width / 3..].to_vec()).collect()
    };
    assert_eq!(values(&was), values(&is));
    assert_ne!(was, is);
}

#[test]
fn a_spectral_clip_brings_the_largest_singular_value_to_its_limit() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("checkpoint");
    let source = "fixtures/runs/rnn-exploding/checkpoint-0400";
    // Two globs name the map: it is scaled once, to the smaller limit.
    let edits = [
        "--spectral-clip",
        "*weight_hh_l0=3",
        "--spectral-clip",
        "rnn.weight_hh_l0=2",
        "--accept-function-change",
    ];
    let output = flashpoint(&[&["repair", source, "--to", text(&target)], &edits[..]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", told(&output));
    let (before, after) = (read(Path::new(source)), read(&target));
    let sigma = |checkpoint: &Checkpoint| {
        // By power iteration on WᵀW, in f64.
        let values = elements(checkpoint, "rnn.weight_hh_l0");
        let n = 48;
        let mut vector = vec![1.0; n];
        let mut norm = 0.0;
        for _ in 0..400 {
            let product: Vec<f64> =
                values.chunks(n).map(|row| row.iter().zip(&vector).map(|(a, b)| a * b).sum()).collect();
            let back: Vec<f64> =
                (0..n).map(|j| (0..n).map(|i| values[i * n + j] * product[i]).sum()).collect();
            norm = back.iter().map(|x: &f64| x * x).sum::<f64>().sqrt();
            vector = back.into_iter().map(|x| x / norm).collect();
        }
        norm.sqrt()
    };
    let done = manifest(&target);
    assert_eq!(done["edits"][0]["tensors"].as_array().unwrap().len(), 1, "{done}");
    let check = check(&done, "the largest singular value of what was clipped");
    assert_eq!(check["outcome"], "pass", "{check}");
    assert!(sigma(&before) > 1e5);
    assert!(sigma(&after) <= 2.0, "{}", sigma(&after));
    assert!((sigma(&after) - 2.0).abs() < 1e-5, "{}", sigma(&after));
}

#[test]
fn replicas_become_their_mean_and_what_they_agree_on_stays() {
    let folder = tempfile::tempdir().unwrap();
    let other = with_element(folder.path(), "model.safetensors", "small.weight", 3.0);
    let target = folder.path().join("synced");
    repair(OWN, &target, &["--sync-replicas", text(&other)]);
    let (one, second, synced) = (read(Path::new(OWN)), read(&other), read(&target));
    let (a, b) = (elements(&one, "small.weight"), elements(&second, "small.weight"));
    let mean: Vec<f64> = a.iter().zip(&b).map(|(a, b)| f64::from(((a + b) / 2.0) as f32)).collect();
    assert_eq!(elements(&synced, "small.weight"), mean);
    assert_eq!(elements(&synced, "wide.weight"), elements(&one, "wide.weight"));
}

#[test]
fn replicas_are_averaged_before_anything_else_is_done_and_a_damaged_one_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let moment = "wide.weight.exp_avg";
    let other = with_element(folder.path(), "optimizer.safetensors", moment, 3.0);
    let target = folder.path().join("synced");
    repair(OWN, &target, &["--reset-moments", "wide.weight", "--sync-replicas", text(&other)]);
    let synced = read(&target);
    let name = synced.tensors.iter().find(|tensor| tensor.name.ends_with(moment)).unwrap().name.clone();
    assert!(
        elements(&synced, &name).iter().all(|value| *value == 0.0),
        "reset after the mean, not before it"
    );
    let clipped = ["--spectral-clip", "*=2", "--accept-function-change", "--sync-replicas", text(&other)];
    let refused = flashpoint(&[&["repair", OWN, "--to", "never"], &clipped[..]].concat());
    assert_eq!(refused.status.code(), Some(2));
    assert!(told(&refused).contains("sync first"), "{}", told(&refused));
    // One bit of a weight is another: only the archive's checksum tells.
    let mut bytes = std::fs::read(NANO_GPT).unwrap();
    let checkpoint = read(Path::new(NANO_GPT));
    let weight = checkpoint.tensors.iter().find(|tensor| tensor.name.ends_with("wpe.weight")).unwrap();
    bytes[places(&checkpoint, |name| name == weight.name)[0].start as usize] ^= 1;
    let flipped = folder.path().join("flipped.pt");
    std::fs::write(&flipped, bytes).unwrap();
    let refused = flashpoint(&["repair", NANO_GPT, "--to", "never", "--sync-replicas", text(&flipped)]);
    assert_eq!(refused.status.code(), Some(2), "{}", told(&refused));
    assert!(
        told(&refused).contains("flipped.pt") && told(&refused).contains("checksum"),
        "{}",
        told(&refused)
    );
    assert!(!Path::new("never").exists());
}

#[test]
fn a_cast_leaves_optimizer_state_alone_unless_only_that_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let dtypes = |path: &Path, ending: &str| -> Vec<DType> {
        let checkpoint = read(path);
        let named = checkpoint.tensors.iter().filter(|tensor| tensor.name.ends_with(ending));
        named.map(|tensor| tensor.tensor.as_ref().unwrap().dtype).collect()
    };
    let all = folder.path().join("all");
    repair(OWN, &all, &["--cast", "*=bf16"]);
    assert_eq!(dtypes(&all, ".weight"), vec![DType::Bf16; 2]);
    assert_eq!(dtypes(&all, ".exp_avg"), vec![DType::F32; 2]);
    assert_eq!(dtypes(&all, ".exp_avg_sq"), vec![DType::F32; 2]);
    let moments = folder.path().join("moments");
    repair(OWN, &moments, &["--cast", "*.exp_avg=bf16"]);
    assert_eq!(dtypes(&moments, ".exp_avg"), vec![DType::Bf16; 2]);
    assert_eq!(dtypes(&moments, ".weight"), vec![DType::F32; 2]);
}

/// The state of numpy's PCG64, of 128 bits: 39 digits that no float holds.
const LONG: &str = "213914190021264268166117096116393812427";

#[test]
fn a_state_of_random_numbers_keeps_every_digit_when_a_rate_beside_it_is_edited() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("checkpoint-400");
    copy(Path::new(OWN), &source);
    let path = source.join("state.json");
    let text_of = |path: &Path| std::fs::read_to_string(path).unwrap();
    let with_state = text_of(&path).replacen('{', &format!("{{\n  \"numpy\": {{\"state\":  {LONG}}},"), 1);
    std::fs::write(&path, &with_state).unwrap();
    let target = folder.path().join("repaired");
    repair(text(&source), &target, &["--lr-scale", "2"]);
    let written = text_of(&target.join("state.json"));
    assert!(written.contains(LONG), "{written}");
    let changed: Vec<_> =
        with_state.lines().zip(written.lines()).filter(|(one, other)| one != other).collect();
    assert!(!changed.is_empty() && changed.iter().all(|(line, _)| line.contains("lr")), "{changed:?}");
    assert_eq!(with_state.lines().count(), written.lines().count());
}

#[test]
fn a_parameter_that_never_had_a_gradient_fails_no_check_of_what_was_reset() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("checkpoint-400");
    copy(Path::new(OWN), &source);
    let checkpoint = read(&source);
    let path = source.join("optimizer.safetensors");
    let mut bytes = std::fs::read(&path).unwrap();
    for place in places(&checkpoint, |name| name.contains("small.weight.exp_avg")) {
        bytes[place.start as usize..place.end as usize].fill(0);
    }
    std::fs::write(&path, bytes).unwrap();
    let target = folder.path().join("scaled");
    let told = repair(text(&source), &target, &["--lr-scale", "0.5"]);
    assert_eq!(told["healthy"], true);
    assert!(
        !told["checks"].to_string().contains("the first update"),
        "nothing was reset: {}",
        told["checks"]
    );
    let target = folder.path().join("reset");
    let told = repair(text(&source), &target, &["--reset-moments", "wide.weight"]);
    assert_eq!(check(&told, "the first update of what was reset")["outcome"], "pass");
}

#[test]
fn a_repair_of_a_repaired_checkpoint_keeps_what_the_first_one_said() {
    let folder = tempfile::tempdir().unwrap();
    let (first, second, third) =
        (folder.path().join("first"), folder.path().join("second"), folder.path().join("third"));
    repair(OWN, &first, &["--lr-scale", "0.5"]);
    let said = std::fs::read(first.join("repair.json")).unwrap();
    let told = repair(text(&first), &second, &["--epsilon", "1e-7"]);
    assert_eq!(std::fs::read(second.join("repair-1.json")).unwrap(), said);
    assert_eq!(told["edits"][0]["action"], "epsilon");
    let names: Vec<&str> =
        told["files"].as_array().unwrap().iter().map(|file| file["name"].as_str().unwrap()).collect();
    assert!(names.contains(&"repair-1.json") && !names.contains(&"repair.json"), "{names:?}");
    let files = check(&told, "files without an edit");
    assert_eq!(files["outcome"], "pass", "{files}");
    repair(text(&second), &third, &["--epsilon", "1e-6"]);
    assert_eq!(std::fs::read(third.join("repair-1.json")).unwrap(), said);
    let second_said = std::fs::read(second.join("repair.json")).unwrap();
    assert_eq!(std::fs::read(third.join("repair-2.json")).unwrap(), second_said);
}

#[test]
fn what_has_no_weights_is_no_state_to_go_on_from() {
    let output = flashpoint(&["repair", "fixtures/layouts/optimizer-state.pt", "--plan", "--format", "json"]);
    let plan: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(plan["audit"]["components"][0]["part"], "model");
    assert_eq!(plan["audit"]["components"][0]["presence"], "missing");
    assert_eq!(plan["audit"]["exactness"], "restart");
}

#[test]
fn what_cannot_be_repaired_is_2_and_nothing_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("out");
    let cases: &[(&str, &[&str], &str)] = &[
        ("fixtures/formats/legacy-adam-checkpoint.pt", &["--lr-scale", "0.5"], "flashpoint convert"),
        ("fixtures/formats/arrays.npz", &["--lr-scale", "0.5"], "no learning rate"),
        (NANO_GPT, &["--cast", "*wpe*=bf16"], "flashpoint convert"),
        (NANO_GPT, &[], "nothing to repair"),
        (NANO_GPT, &["--reset-moments", "no.such.parameter"], "no parameter"),
        (TRAINER, &["--cast", "*wpe*=f32"], "no tensor that"),
        ("fixtures/hostile/side-files/optimizer-that-calls-the-shell", &["--lr-scale", "0.5"], ""),
        ("fixtures/hostile/zip/checksum-of-a-storage-wrong.pt", &["--reset-moments"], ""),
    ];
    for (source, edits, expected) in cases {
        let output = flashpoint(&[&["repair", source, "--to", text(&target)], *edits].concat());
        assert_eq!(output.status.code(), Some(2), "{source}: {}", told(&output));
        assert!(told(&output).contains(expected), "{source}: {}", told(&output));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "{source}");
    }
    let copied = folder.path().join("checkpoint-6");
    copy(Path::new(TRAINER), &copied);
    let inside =
        flashpoint(&["repair", text(&copied), "--to", text(&copied.join("fixed")), "--lr-scale", "0.5"]);
    assert_eq!(inside.status.code(), Some(2));
    let there = flashpoint(&["repair", TRAINER, "--to", text(&copied), "--lr-scale", "0.5"]);
    assert_eq!(there.status.code(), Some(2));
    assert!(told(&there).contains("is there already"), "{}", told(&there));
    assert_eq!(files(&copied), files(Path::new(TRAINER)));
}

/// Our own checkpoint with a tensor of 48 MB beside the others.
fn large(folder: &Path) -> PathBuf {
    use flashpoint::format::safetensors::{Written, written_header};
    let copied = folder.join("checkpoint-400");
    copy(Path::new(OWN), &copied);
    let count = 12 << 20;
    let written = Written { name: "large.weight".to_owned(), dtype: DType::F32, shape: vec![count] };
    let mut bytes = written_header(&[written], &BTreeMap::new()).unwrap();
    bytes.extend((0..count).flat_map(|at| (1.0 + (at % 97) as f32 / 97.0).to_le_bytes()));
    std::fs::write(copied.join("model.safetensors"), bytes).unwrap();
    copied
}

#[cfg(unix)]
#[test]
fn a_repair_that_is_killed_leaves_no_half_of_its_target() {
    let folder = tempfile::Builder::new().prefix("killed").tempdir().unwrap();
    let source = large(folder.path());
    let mut killed = 0;
    for (round, delay) in [0, 5, 15, 30, 60].into_iter().enumerate() {
        let target = folder.path().join(format!("out-{round}"));
        let mut child =
            command(&["repair", text(&source), "--to", text(&target), "--lr-scale", "0.5", "--quiet"])
                .stdout(std::process::Stdio::null())
                .spawn()
                .unwrap();
        let is_writing = || {
            let names = std::fs::read_dir(folder.path()).unwrap();
            names
                .filter_map(Result::ok)
                .any(|entry| entry.file_name().to_string_lossy().starts_with(&format!(".out-{round}.")))
        };
        while !is_writing() && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_millis(delay));
        child.kill().unwrap();
        child.wait().unwrap();
        if target.exists() {
            assert_eq!(manifest(&target)["healthy"], true);
            read(&target);
        } else {
            killed += 1;
        }
    }
    assert!(killed > 0, "no round was killed in time");
    // What is left behind is hidden, and no run takes it for a checkpoint.
    let again = folder.path().join("again");
    repair(text(&source), &again, &["--lr-scale", "0.5"]);
    let listed = flashpoint(&["postmortem", text(folder.path()), "--format", "json"]);
    let report: Value = serde_json::from_slice(&listed.stdout).unwrap_or_default();
    let names: Vec<&str> = report["checkpoints"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|checkpoint| checkpoint["name"].as_str())
        .collect();
    assert!(!names.is_empty(), "{}", told(&listed));
    assert!(names.iter().all(|name| !name.contains(".tmp")), "{names:?}");
}

#[test]
fn the_plan_is_the_same_json_for_any_number_of_threads() {
    let plan = |threads: &str| {
        flashpoint(&["repair", ATTENTION, "--plan", "--format", "json", "--threads", threads]).stdout
    };
    let one = plan("1");
    assert_eq!(one, plan("2"));
    let value: Value = serde_json::from_slice(&one).unwrap();
    assert_eq!(value["audit"]["components"].as_array().unwrap().len(), 9);
    assert!(value["proposals"].to_string().contains("--qk-clip"), "{}", value["proposals"]);
}

/// What PyTorch makes of the repaired files: without executing anything, into an optimizer of its own.
const LOADS: &str = "
import sys, zipfile, torch
for before, after in zip(sys.argv[1::2], sys.argv[2::2]):
    one, two = (torch.load(path, weights_only=True, map_location='cpu') for path in (before, after))
    assert zipfile.ZipFile(after).testzip() is None, after
    def walk(a, b, path):
        assert type(a) is type(b), path
        if isinstance(a, dict):
            assert list(a) == list(b), path
            for key in a: walk(a[key], b[key], path + [key])
        elif isinstance(a, (list, tuple)):
            assert len(a) == len(b), path
            for at, (x, y) in enumerate(zip(a, b)): walk(x, y, path + [at])
        elif isinstance(a, torch.Tensor):
            if not torch.equal(a, b):
                assert path[-1] in ('exp_avg', 'exp_avg_sq', 'step', 'momentum_buffer'), path
                assert float(b.abs().sum()) == 0.0, path
        elif a != b:
            assert 'lr' in str(path) and abs(b - a / 2) < 1e-18, (path, a, b)
            global rates
            rates += 1
    rates = 0
    walk(one, two, [])
    print(rates)
";

#[test]
fn pytorch_loads_what_was_repaired_with_weights_only_and_finds_exactly_the_edits() {
    let Some(python) = python("torch.load of repaired archives") else { return };
    let folder = tempfile::tempdir().unwrap();
    let mut pairs = Vec::new();
    let sources: [(&str, &[&str]); 4] = [
        (NANO_GPT, &["nanogpt.pt"]),
        (TRAINER, &["optimizer.pt", "scheduler.pt"]),
        ("fixtures/layouts/optimizer-state.pt", &["optimizer-state.pt"]),
        ("fixtures/layouts/model-and-optimizer.pt", &["model-and-optimizer.pt"]),
    ];
    for (round, (source, names)) in sources.into_iter().enumerate() {
        let target = folder.path().join(round.to_string());
        repair(source, &target, &["--reset-moments", "--lr-scale", "0.5"]);
        for name in names {
            let path = Path::new(source);
            let before = if path.is_dir() { path.join(name) } else { path.to_owned() };
            pairs.extend([text(&before).to_owned(), text(&target.join(name)).to_owned()]);
        }
    }
    let pairs: Vec<&str> = pairs.iter().map(String::as_str).collect();
    let rates = run_python(&python, LOADS, &pairs);
    let rates: Vec<u32> = rates.lines().map(|line| line.parse().unwrap()).collect();
    assert_eq!(rates, [2, 4, 4, 1, 1], "rates that changed, file by file");
}
