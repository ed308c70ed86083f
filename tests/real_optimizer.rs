//! Optimizer states of published checkpoints: mapped to the parameters that PyTorch says, not accused of anything, and
//! damaged copies of them seen by the rules that can see the damage, and by no others (`docs/forensics.md`).
//!
//! `FLASHPOINT_REAL_INPUTS=DIR cargo test --test real_optimizer`.

mod common;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use flashpoint::analysis::model::{MeasureLevel, Measured, OptimizerAnalysis};
use flashpoint::analysis::{measure_checkpoint, of_checkpoints};
use flashpoint::checkpoint::optimizer::ParameterState;
use flashpoint::checkpoint::{Checkpoint, NameRules};
use flashpoint::context::Context;
use flashpoint::rules::{self, Overrides, Severity};
use serde_json::Value;

/// Path and oracle of each checkpoint; none, said loudly, where there are no inputs.
fn inputs(test: &str) -> Vec<(PathBuf, Value)> {
    let Some(folder) = std::env::var_os("FLASHPOINT_REAL_INPUTS").filter(|folder| !folder.is_empty()) else {
        eprintln!("SKIPPED {test}: FLASHPOINT_REAL_INPUTS is not set, no real input was read");
        return Vec::new();
    };
    let oracle = common::oracle(Path::new("fixtures/oracle/optimizer/real.json"));
    let files = oracle.as_object().expect("a table");
    files.iter().map(|(file, truth)| (Path::new(&folder).join(file), truth.clone())).collect()
}

fn read(path: &Path) -> Checkpoint {
    Checkpoint::read(path, &NameRules::default(), &Context::default())
        .unwrap_or_else(|error| panic!("{error}"))
}

/// Checksums are left out: they see every damage to a copy, and no damage that was saved.
fn state_of(checkpoint: &Checkpoint) -> OptimizerAnalysis {
    match measure_checkpoint(checkpoint, MeasureLevel::Norms, &Context::default()).optimizer {
        Measured::Value(state) => state,
        other => panic!("{other:?}"),
    }
}

/// Rules of optimizer state that fire as warnings or worse.
fn fired(checkpoint: &Checkpoint) -> BTreeSet<String> {
    let analysis = measure_checkpoint(checkpoint, MeasureLevel::Norms, &Context::default());
    let assessment =
        rules::evaluate(&of_checkpoints(vec![analysis], MeasureLevel::Norms), &Overrides::default());
    let alarms = assessment.findings.into_iter().filter(|finding| finding.severity > Severity::Note);
    alarms.map(|finding| finding.rule).filter(|rule| !rule.starts_with("FP9")).collect()
}

#[test]
fn every_parameter_is_the_one_that_pytorch_says() {
    for (path, truth) in inputs("mapping") {
        let checkpoint = read(&path);
        let names = truth["names"].as_object().expect("a table");
        let optimizer = &checkpoint.optimizers[0];
        assert_eq!(optimizer.parameters.len(), names.len(), "{}", path.display());
        for parameter in &optimizer.parameters {
            let tensor = parameter.parameter.map(|index| checkpoint.tensors[index].name.as_str());
            let expected = names[&parameter.key].as_str().expect("a name");
            // Stored names begin with the key that holds the model.
            assert!(
                tensor.is_some_and(|name| name.ends_with(expected)),
                "{}: {tensor:?} for {expected}",
                path.display()
            );
        }
        let steps: BTreeSet<String> =
            optimizer.parameters.iter().filter_map(|state| Some(format!("{:.0}", state.step?))).collect();
        let told: BTreeSet<String> =
            truth["steps"].as_array().expect("a list").iter().map(Value::to_string).collect();
        assert_eq!(steps, told, "{}", path.display());
    }
}

#[test]
fn no_real_state_is_accused_of_anything() {
    for (path, _) in inputs("false alarms") {
        assert_eq!(fired(&read(&path)), BTreeSet::new(), "{}", path.display());
    }
}

/// Two parameters of one shape, with moments, that are matrices; the first as large as there are.
fn pair(checkpoint: &Checkpoint) -> (usize, usize) {
    let states = &checkpoint.optimizers[0].parameters;
    let shape = |state: &ParameterState| {
        let tensor = checkpoint.tensors[state.exp_avg?].tensor.as_ref().ok()?;
        (tensor.shape.len() >= 2).then(|| tensor.shape.clone())
    };
    let pairs = (0..states.len()).flat_map(|one| (one + 1..states.len()).map(move |other| (one, other)));
    let alike = pairs.filter(|&(one, other)| {
        shape(&states[one]).is_some() && shape(&states[one]) == shape(&states[other])
    });
    let size = |&(one, _): &(usize, usize)| shape(&states[one]).map(|shape| shape.iter().product::<u64>());
    alike.max_by_key(size).expect("layers of one shape")
}

/// A copy of the file in which the elements of one tensor are changed.
fn patched(
    path: &Path,
    pick: fn(&ParameterState) -> Option<usize>,
    change: fn(f32) -> f32,
) -> (tempfile::TempDir, Checkpoint) {
    let checkpoint = read(path);
    let (one, _) = pair(&checkpoint);
    let index = pick(&checkpoint.optimizers[0].parameters[one]).expect("it has moments");
    let tensor = checkpoint.tensors[index].tensor.as_ref().expect("it can be read");
    let [piece] = tensor.pieces.as_slice() else { panic!("a tensor of one piece") };
    let range = piece.bytes.start as usize..piece.bytes.end as usize;
    let mut bytes = std::fs::read(path).expect("a real input");
    for element in bytes[range].chunks_exact_mut(4) {
        let value = f32::from_le_bytes(element.try_into().expect("four bytes"));
        element.copy_from_slice(&change(value).to_le_bytes());
    }
    let folder = tempfile::tempdir().expect("a temporary directory");
    let copy = folder.path().join(path.file_name().expect("a name"));
    std::fs::write(&copy, bytes).expect("a temporary file");
    (folder, read(&copy))
}

fn rules_of(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn a_lost_step_is_seen() {
    for (path, _) in inputs("a lost step") {
        for step in [0.0, 1.0] {
            let mut checkpoint = read(&path);
            checkpoint.optimizers[0].parameters.iter_mut().for_each(|state| state.step = Some(step));
            assert!(fired(&checkpoint).contains("FP308"), "{} at {step}", path.display());
        }
        let mut checkpoint = read(&path);
        let (one, _) = pair(&checkpoint);
        checkpoint.optimizers[0].parameters[one].step = Some(1000.0);
        assert!(fired(&checkpoint).contains("FP708"), "{}", path.display());
    }
}

#[test]
fn a_restarted_step_is_seen_where_the_checkpoint_says_its_own() {
    for (path, truth) in inputs("a restarted step") {
        let mut checkpoint = read(&path);
        checkpoint.optimizers[0].parameters.iter_mut().for_each(|state| state.step = Some(10.0));
        checkpoint.step = truth["steps"][0].as_u64();
        assert!(fired(&checkpoint).contains("FP308"), "{}", path.display());
    }
}

#[test]
fn second_moments_that_are_too_small_are_seen() {
    for (path, _) in inputs("v too small") {
        let (_folder, checkpoint) = patched(&path, |state| state.exp_avg_sq, |v| v * 1e-6);
        let fired = fired(&checkpoint);
        assert!(fired.contains("FP702") && fired.contains("FP303"), "{}: {fired:?}", path.display());
    }
}

#[test]
fn second_moments_that_are_negative_are_seen() {
    for (path, _) in inputs("negative v") {
        let (_folder, checkpoint) = patched(&path, |state| state.exp_avg_sq, |v| -v);
        assert!(fired(&checkpoint).contains("FP701"), "{}", path.display());
    }
}

#[test]
fn betas_are_seen_exactly_where_the_bound_they_give_is_broken() {
    for (path, _) in inputs("betas") {
        let mut checkpoint = read(&path);
        checkpoint.optimizers[0].groups.iter_mut().for_each(|group| group.beta2 = Some(0.82));
        let state = state_of(&checkpoint);
        let largest = state
            .parameters
            .iter()
            .filter_map(|parameter| Some(parameter.bound_ratio.value()? - parameter.bound_tolerance));
        let is_broken = largest.fold(0.0, f64::max) > 1.0;
        assert_eq!(fired(&checkpoint).contains("FP702"), is_broken, "{}", path.display());
        eprintln!("{}: betas (0.9, 0.82) break the bound: {is_broken}", path.display());
    }
}

#[test]
fn what_no_single_checkpoint_shows_is_not_made_up() {
    for (path, _) in inputs("what is not seen") {
        let (_folder, halved) = patched(&path, |state| state.exp_avg_sq, |v| v / 2.0);
        assert_eq!(fired(&halved), BTreeSet::new(), "v halved: {}", path.display());
        let mut swapped = read(&path);
        let (one, other) = pair(&swapped);
        let states = &mut swapped.optimizers[0].parameters;
        let (first, second) = (states[one].clone(), states[other].clone());
        (states[one].exp_avg, states[one].exp_avg_sq) = (second.exp_avg, second.exp_avg_sq);
        (states[other].exp_avg, states[other].exp_avg_sq) = (first.exp_avg, first.exp_avg_sq);
        let fired = fired(&swapped);
        // What may show is how large the next step of a layer is, where the two layers' gradients differ that much.
        assert!(fired.is_subset(&rules_of(&["FP307"])), "swapped: {}: {fired:?}", path.display());
    }
}

#[test]
fn a_first_moment_of_another_time_is_seen_only_where_it_is_larger_than_any_history_gives() {
    for (path, _) in inputs("m of another step") {
        // Smaller, and of the other sign: as good as any.
        let (_folder, older) = patched(&path, |state| state.exp_avg, |m| -0.8 * m);
        assert_eq!(fired(&older), BTreeSet::new(), "{}", path.display());
        let (_folder, louder) = patched(&path, |state| state.exp_avg, |m| m * 1e3);
        assert!(fired(&louder).contains("FP702"), "{}", path.display());
    }
}
