//! Legacy PyTorch files, `TorchScript` archives and numpy's arrays against what PyTorch and numpy say about them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use flashpoint::context::Context;
use flashpoint::error::ErrorKind;
use flashpoint::format::{Container, Entry, Format, Node, detect};
use flashpoint::tensor::{Kind, Tensor};
use serde_json::Value;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}

fn read(path: &Path, mmap: bool) -> Container {
    let context = Context { mmap, ..Context::default() };
    detect::read(path, &context).unwrap_or_else(|error| panic!("{error}"))
}

fn formats(name: &str) -> Container {
    read(&fixture("formats").join(name), true)
}

fn oracle(path: &Path) -> Value {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).expect("an oracle is JSON")
}

fn names(container: &Container) -> Vec<&str> {
    container.entries.iter().map(|entry| entry.name.as_str()).collect()
}

fn entry<'a>(container: &'a Container, name: &str) -> &'a Entry {
    container.entries.iter().find(|entry| entry.name == name).unwrap_or_else(|| panic!("no tensor {name}"))
}

/// Every tensor of the oracle, and no other, with its numbers.
#[track_caller]
fn compare(container: &Container, oracle: &Value, file: &str) {
    let tensors: BTreeMap<_, _> =
        oracle["tensors"].as_object().expect("an oracle lists tensors").iter().collect();
    assert_eq!(container.entries.len(), tensors.len(), "{file}: {:?}", names(container));
    for (name, facts) in tensors {
        let place = format!("{file} {name}");
        let tensor =
            entry(container, name).tensor.as_ref().unwrap_or_else(|error| panic!("{place}: {error}"));
        let shape = facts["shape"].as_array().expect("a shape").iter().filter_map(Value::as_u64);
        assert_eq!(tensor.shape, shape.collect::<Vec<_>>(), "{place}");
        assert_eq!(Some(tensor.dtype.name()), facts["dtype"].as_str(), "{place}");
        compare_values(tensor, facts, &place);
    }
}

fn compare_values(tensor: &Tensor, facts: &Value, place: &str) {
    if tensor.dtype.kind() == Kind::Opaque {
        return;
    }
    let mut values = Vec::new();
    tensor.read_f64(0..tensor.count(), &mut values).expect("readable elements");
    let (finite, others): (Vec<f64>, Vec<f64>) = values.iter().partition(|value| value.is_finite());
    let count = |what: fn(f64) -> bool| Some(values.iter().filter(|&&value| what(value)).count() as u64);
    assert_eq!(count(|value| value == 0.0), facts["zero"].as_u64(), "{place}: zeros");
    assert_eq!(finite.iter().copied().reduce(f64::min), facts["min"].as_f64(), "{place}: least");
    assert_eq!(finite.iter().copied().reduce(f64::max), facts["max"].as_f64(), "{place}: most");
    if tensor.dtype.kind() == Kind::Float {
        assert_eq!(count(f64::is_nan), facts["nan"].as_u64(), "{place}: NaN");
        let positive = others.iter().filter(|&&value| value == f64::INFINITY).count() as u64;
        assert_eq!(Some(positive), facts["positive_infinity"].as_u64(), "{place}: infinities");
        close(sum(finite.iter().map(|value| value.abs())), &facts["l1"], &format!("{place}: l1"));
        close(sum(finite.iter().map(|value| value * value)).sqrt(), &facts["l2"], &format!("{place}: l2"));
    }
}

/// Compensated, so that 10^7 terms cost no digit.
fn sum(terms: impl Iterator<Item = f64>) -> f64 {
    let (mut total, mut lost) = (0.0f64, 0.0f64);
    for term in terms {
        let next = total + term;
        lost += if total >= term { (total - next) + term } else { (term - next) + total };
        total = next;
    }
    total + lost
}

/// No number is expected where a float64 cannot hold it.
fn close(actual: f64, expected: &Value, place: &str) {
    let Some(expected) = expected.as_f64() else { return };
    assert!((actual - expected).abs() <= 1e-12 * expected.abs(), "{place}: {actual}, expected {expected}");
}

#[test]
fn every_fixture_has_the_tensors_and_numbers_of_its_own_framework() {
    let mut found = BTreeMap::new();
    for listed in std::fs::read_dir(fixture("formats")).expect("the fixtures") {
        let path = listed.expect("a directory entry").path();
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        if !["legacy", "torchscript", "array"].iter().any(|start| name.starts_with(start)) {
            continue;
        }
        let oracle = oracle(&fixture("oracle/formats").join(format!("{name}.json")));
        for mmap in [true, false] {
            let container = read(&path, mmap);
            compare(&container, &oracle, &name);
            assert_eq!(container.problems, [], "{name}");
            assert_eq!(container.uncovered, [], "{name}");
            assert_eq!(container.globals, [], "{name}");
            found.insert(name.clone(), container.format);
        }
    }
    let count = |format| found.values().filter(|&&found| found == format).count();
    let counts = [Format::TorchLegacy, Format::TorchScript, Format::Npy, Format::Npz].map(count);
    assert_eq!(counts, [10, 2, 4, 2], "{found:?}");
}

#[test]
fn tied_tensors_of_a_legacy_file_share_an_identity() {
    let container = formats("legacy-shared-storage.pt");
    let storage = |name| entry(&container, name).storage.expect("a storage");
    assert_eq!(storage("embed.weight"), storage("head.weight"));
    assert_ne!(storage("flat.0"), storage("flat.1"));
}

#[test]
fn constants_of_a_script_share_no_identity_with_its_weights() {
    let container = formats("torchscript-constants.pt");
    let identities: Vec<_> = container.entries.iter().filter_map(|entry| entry.storage).collect();
    assert_eq!(identities.len(), 2);
    assert_ne!(identities[0], identities[1]);
}

#[test]
fn the_object_of_a_legacy_file_keeps_its_numbers() {
    let container = formats("legacy-adam-checkpoint.pt");
    let objects = container.objects.expect("a pickle has objects");
    let root = objects.root.expect("the pickle was read to its end");
    assert_eq!(objects.get(root, "step").and_then(|step| objects.integer(step)), Some(5));
    let model = objects.get(root, "model").expect("a model");
    let weight = objects.get(model, "first.weight").expect("a weight");
    assert!(matches!(objects.node(weight), Node::Tensor(_)));
}

#[test]
fn a_legacy_file_cut_short_keeps_the_tensors_before_the_cut() {
    let bytes = std::fs::read(fixture("formats/legacy-misaligned.pt")).expect("a fixture");
    let whole = formats("legacy-misaligned.pt");
    let folder = tempfile::tempdir().expect("a temporary directory");
    let path = folder.path().join("cut.pt");
    std::fs::write(&path, &bytes[..bytes.len() - 1]).expect("a writable directory");
    let cut = read(&path, true);
    let damaged: Vec<_> = cut.entries.iter().filter(|entry| entry.tensor.is_err()).collect();
    let [last] = damaged.as_slice() else { panic!("{damaged:?}") };
    let error = last.tensor.as_ref().expect_err("filtered so");
    assert!(matches!(error.kind, ErrorKind::PastEndOfFile { .. }), "{error}");
    assert_eq!(cut.problems.len(), 1, "{:?}", cut.problems);
    assert_eq!(cut.entries.len(), whole.entries.len());
}

/// `FLASHPOINT_REAL_INPUTS=DIR`, filled by `fixtures/real_inputs.py fetch DIR`.
#[test]
fn real_legacy_and_script_files_have_the_numbers_of_pytorch() {
    let Some(folder) = std::env::var_os("FLASHPOINT_REAL_INPUTS").filter(|folder| !folder.is_empty()) else {
        eprintln!("SKIPPED legacy files: FLASHPOINT_REAL_INPUTS is not set, no real input was read");
        return;
    };
    let mut files = 0;
    for listed in std::fs::read_dir(fixture("oracle/real")).expect("the oracles") {
        let oracle = oracle(&listed.expect("a directory entry").path());
        let name = oracle["file"].as_str().expect("an oracle names its file");
        if !["resemblyzer", "rxnfp", "lpips"].iter().any(|package| name.starts_with(package))
            && Path::new(name).extension().is_none_or(|ending| ending != "jit")
        {
            continue;
        }
        let container = read(&Path::new(&folder).join(name), true);
        compare(&container, &oracle, name);
        assert_eq!(container.problems, [], "{name}");
        println!("{name}: {} tensors, {:?}", container.entries.len(), container.globals);
        files += 1;
    }
    assert!(files >= 7, "only {files} real files have an oracle");
}
