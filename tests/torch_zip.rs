//! Every PyTorch fixture against what PyTorch itself says about it (`fixtures/oracle`).

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use flashpoint::context::Context;
use flashpoint::error::{ErrorKind, Result};
use flashpoint::files::InputFile;
use flashpoint::format::{Container, Danger, Entry, detect, torch};
use flashpoint::tensor::{DType, Kind, Tensor};
use serde_json::Value;

fn read(path: &Path, mmap: bool) -> Result<Container> {
    let context = Context { mmap, ..Context::default() };
    torch::read(Arc::new(InputFile::open(path, &context)?), &context)
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}

fn formats(name: &str) -> Container {
    read(&fixture("formats").join(name), true).expect("a readable fixture")
}

fn oracle(path: &Path) -> BTreeMap<String, Value> {
    let oracle = json(path);
    let Some(tensors) = oracle["tensors"].as_object() else { panic!("{} has no tensors", path.display()) };
    tensors.iter().map(|(name, facts)| (name.clone(), facts.clone())).collect()
}

fn json(path: &Path) -> Value {
    let text = std::fs::read_to_string(path).expect("an oracle beside each fixture");
    serde_json::from_str(&text).expect("JSON")
}

fn entry<'a>(container: &'a Container, name: &str) -> &'a Entry {
    container.entries.iter().find(|entry| entry.name == name).unwrap_or_else(|| panic!("no tensor {name}"))
}

/// Every named tensor is there; those with plain elements have PyTorch's numbers. Returns how many were compared.
fn compare(container: &Container, oracle: &BTreeMap<String, Value>, file: &str) -> usize {
    assert_eq!(container.entries.len(), oracle.len(), "{file}: {:?}", names(container));
    oracle
        .iter()
        .filter(|(name, facts)| compare_one(entry(container, name), facts, &format!("{file} {name}")))
        .count()
}

fn names(container: &Container) -> Vec<&str> {
    container.entries.iter().map(|entry| entry.name.as_str()).collect()
}

fn compare_one(entry: &Entry, facts: &Value, place: &str) -> bool {
    let shape: Vec<u64> = serde_json::from_value(facts["shape"].clone()).expect("a list of sizes");
    let tensor = match &entry.tensor {
        Ok(tensor) => tensor,
        Err(error) => {
            let ErrorKind::UnsupportedTensor { shape: known, .. } = &error.kind else {
                panic!("{place}: {error}")
            };
            assert_eq!(known.as_deref(), Some(shape.as_slice()), "{place}");
            return false;
        }
    };
    assert_eq!(tensor.shape, shape, "{place}");
    assert_eq!(Some(tensor.dtype.name()), facts["dtype"].as_str(), "{place}");
    if tensor.dtype.kind() != Kind::Opaque {
        compare_values(tensor, facts, place);
    }
    true
}

fn compare_values(tensor: &Tensor, facts: &Value, place: &str) {
    let values = values(tensor);
    assert_eq!(values.len() as u64, tensor.count(), "{place}");
    let finite: Vec<f64> = values.iter().copied().filter(|value| value.is_finite()).collect();
    let zeros = finite.iter().filter(|&&value| value == 0.0).count();
    assert_eq!(Some(zeros as u64), facts["zero"].as_u64(), "{place}: zeros");
    let least = finite.iter().copied().reduce(f64::min);
    let most = finite.iter().copied().reduce(f64::max);
    assert_eq!(least, facts["min"].as_f64(), "{place}: least");
    assert_eq!(most, facts["max"].as_f64(), "{place}: most");
    if tensor.dtype.kind() == Kind::Float {
        let count = |what: fn(&f64) -> bool| values.iter().filter(|value| what(value)).count() as u64;
        assert_eq!(Some(count(|value| value.is_nan())), facts["nan"].as_u64(), "{place}: NaN");
        assert_eq!(
            Some(count(|value| *value == f64::INFINITY)),
            facts["positive_infinity"].as_u64(),
            "{place}"
        );
        assert_eq!(
            Some(count(|value| *value == f64::NEG_INFINITY)),
            facts["negative_infinity"].as_u64(),
            "{place}"
        );
        close(finite.iter().map(|value| value.abs()).sum(), &facts["l1"], &format!("{place}: l1"));
        close(
            finite.iter().map(|value| value * value).sum::<f64>().sqrt(),
            &facts["l2"],
            &format!("{place}: l2"),
        );
    }
}

/// Plain f64 sums of at most 10^7 terms are within 1e-9 of the exact ones.
fn close(actual: f64, expected: &Value, place: &str) {
    let Some(expected) = expected.as_f64() else { return };
    let overflown = actual.is_infinite();
    assert!(overflown || (actual - expected).abs() <= 1e-9 * expected.abs(), "{place}: {actual} {expected}");
}

fn values(tensor: &Tensor) -> Vec<f64> {
    let mut all = Vec::new();
    let mut block = Vec::new();
    let mut start = 0;
    while start < tensor.count() {
        let end = tensor.count().min(start + 1000);
        tensor.read_f64(start..end, &mut block).expect("readable elements");
        all.extend_from_slice(&block);
        start = end;
    }
    all
}

#[test]
fn every_fixture_has_the_tensors_and_numbers_of_pytorch() {
    let refused = ["big-endian.pt"];
    let mut files = 0;
    for found in std::fs::read_dir(fixture("formats")).expect("the fixtures") {
        let path = found.expect("a directory entry").path();
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        if path.extension().is_none_or(|extension| extension != "pt") || refused.contains(&name.as_str()) {
            continue;
        }
        let oracle = oracle(&fixture("oracle/formats").join(format!("{name}.json")));
        let mapped = read(&path, true).unwrap_or_else(|error| panic!("{error}"));
        let compared = compare(&mapped, &oracle, &name);
        assert!(compared > 0, "{name}: nothing was compared");
        assert_eq!(mapped.problems, [], "{name}");
        assert_eq!(mapped.uncovered, [], "{name}");
        let unmapped = read(&path, false).expect("readable without a map too");
        assert_eq!(compare(&unmapped, &oracle, &name), compared, "{name}");
        files += 1;
    }
    assert!(files >= 14, "{files} fixtures");
}

#[test]
fn every_element_of_every_fixture_stands_where_pytorch_has_it() {
    let order = json(&fixture("oracle/order/formats.json"));
    let files = order.as_object().expect("a table of files");
    assert!(files.len() >= 25, "{}", files.len());
    let mut wrong = Vec::new();
    for (file, expected) in files.iter().filter(|(file, _)| *file != "formats/big-endian.pt") {
        for mmap in [true, false] {
            let context = Context { mmap, ..Context::default() };
            let container = detect::read(&fixture(file), &context).unwrap_or_else(|error| panic!("{error}"));
            let found = common::out_of_order(&container.entries, expected);
            wrong.extend(found.into_iter().map(|name| format!("{file}: {name}")));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What the sums of every other oracle let pass.
#[test]
fn a_view_whose_axes_are_taken_for_each_other_is_out_of_order() {
    let order = json(&fixture("oracle/order/formats.json"));
    let mut container = formats("views.pt");
    let is_turned = |entry: &Entry| {
        let Ok(tensor) = &entry.tensor else { return false };
        let [piece] = tensor.pieces.as_slice() else { return false };
        tensor.shape.len() == 2
            && tensor.shape[0] != tensor.shape[1]
            && piece.axes.len() == 2
            && piece.axes[0].storage_stride < piece.axes[1].storage_stride
    };
    let turned = container.entries.iter_mut().find(|entry| is_turned(entry)).expect("a transposed view");
    let name = turned.name.clone();
    let tensor = turned.tensor.as_mut().expect("filtered so");
    let (file, bytes) = (tensor.pieces[0].file.clone(), tensor.pieces[0].bytes.clone());
    let shape = tensor.shape.clone();
    // As if it lay there row by row.
    *tensor = Tensor::strided(tensor.dtype, shape.clone(), &[shape[1], 1], file, bytes).expect("a view");
    assert_eq!(common::out_of_order(&container.entries, &order["formats/views.pt"]), [name]);
}

#[test]
fn shards_of_a_bin_checkpoint_hold_the_whole_together() {
    let folder = fixture("formats/sharded-bin");
    let oracle = oracle(&fixture("oracle/formats/sharded-bin.json"));
    let mut found = 0;
    for shard in 1..=3 {
        let container =
            read(&folder.join(format!("pytorch_model-0000{shard}-of-00003.bin")), true).expect("a shard");
        for entry in &container.entries {
            assert!(compare_one(entry, &oracle[&entry.name], &entry.name), "{}", entry.name);
            found += 1;
        }
    }
    assert_eq!(found, oracle.len());
}

#[test]
fn tied_tensors_share_an_identity_and_other_views_of_the_storage_do_not() {
    let container = formats("shared-storage.pt");
    let storage = |name| entry(&container, name).storage;
    assert!(storage("embed.weight").is_some());
    assert_eq!(storage("embed.weight"), storage("head.weight"));
    assert_ne!(storage("flat.0"), storage("flat.1"));
    assert_ne!(storage("flat.0"), storage("flat.overlap"));
}

#[test]
fn a_big_endian_archive_is_refused_by_name() {
    let error = read(&fixture("formats/big-endian.pt"), true).expect_err("swapped storages");
    assert_eq!(error.kind, ErrorKind::ByteOrder { found: "big".to_owned() });
}

#[test]
fn a_call_of_the_shell_is_found_in_plain_sight_and_through_the_memo() {
    for name in ["calls-system.pt", "calls-system-through-memo.pt"] {
        let container = formats(name);
        let [found] = container.globals.as_slice() else { panic!("{name}: {:?}", container.globals) };
        assert_eq!((found.global.module.as_str(), found.global.name.as_str()), ("posix", "system"), "{name}");
        assert_eq!((found.danger, found.called), (Danger::Dangerous, true), "{name}");
        assert_eq!(names(&container), ["weight"], "{name}");
    }
}

#[test]
fn only_classes_of_the_model_itself_are_unknown() {
    let named = |name| {
        let uses = formats(name).globals;
        uses.into_iter().map(|used| (used.danger, used.global.name)).collect::<Vec<_>>()
    };
    assert_eq!(named("adam-checkpoint.pt"), []);
    assert_eq!(named("module-sequential.pt"), []);
    assert_eq!(named("views.pt"), []);
    assert_eq!(named("numpy-inside.pt"), []);
    assert_eq!(named("module-custom.pt"), [(Danger::Unknown, "TwoLayers".to_owned())]);
    assert_eq!(named("opaque-object.pt"), [(Danger::Unknown, "RunningStatistics".to_owned())]);
}

#[test]
fn the_pickled_object_keeps_its_numbers_and_marks_its_tensors() {
    let container = formats("adam-checkpoint.pt");
    let objects = container.objects.expect("a pickle has objects");
    let root = objects.root.expect("the pickle was read to its end");
    let step = objects.get(root, "step").expect("a step");
    assert_eq!(objects.integer(step), Some(5));
    let span = objects.spans[step];
    assert_eq!(span.end - span.start, 2, "BININT1 and its byte");
    let best = objects.get(root, "best_loss").and_then(|id| objects.number(id));
    assert_eq!(best, Some(0.75));
    let model = objects.get(root, "model").expect("a model");
    let weight = objects.get(model, "first.weight").expect("a weight");
    let flashpoint::format::Node::Tensor(index) = *objects.node(weight) else {
        panic!("{:?}", objects.node(weight))
    };
    assert_eq!(container.entries[index].name, "model.first.weight");
}

#[test]
fn numpy_scalars_are_numbers() {
    let container = formats("numpy-inside.pt");
    let objects = container.objects.expect("a pickle has objects");
    let root = objects.root.expect("the pickle was read to its end");
    let number = |name| objects.get(root, name).and_then(|id| objects.number(id));
    assert_eq!(number("best_metric"), Some(0.25));
    assert_eq!(number("count"), Some(7.0));
}

#[test]
fn checksums_of_intact_files_hold() {
    let context = Context::default();
    let file = InputFile::open(&fixture("formats/views.pt"), &context).expect("a fixture");
    assert_eq!(torch::verify_checksums(&file, &context), Ok(Vec::new()));
}

#[test]
fn one_flipped_byte_of_a_storage_fails_its_checksum_and_nothing_else() {
    let container = formats("adam-checkpoint.pt");
    let tensor = entry(&container, "model.first.weight").tensor.as_ref().expect("a tensor");
    assert_eq!(tensor.dtype, DType::F32);
    let place = tensor.pieces[0].bytes.start as usize;
    let mut bytes = std::fs::read(fixture("formats/adam-checkpoint.pt")).expect("a fixture");
    bytes[place] ^= 1;
    let folder = tempfile::tempdir().expect("a temporary directory");
    let path = folder.path().join("flipped.pt");
    std::fs::write(&path, bytes).expect("a writable directory");
    let context = Context::default();
    let file = Arc::new(InputFile::open(&path, &context).expect("a file"));
    let damaged = torch::verify_checksums(&file, &context).expect("a readable archive");
    assert!(
        matches!(damaged.as_slice(), [error] if matches!(error.kind, ErrorKind::ZipChecksum { .. })),
        "{damaged:?}"
    );
    assert_eq!(torch::read(file, &context).expect("a readable archive").problems, []);
}
