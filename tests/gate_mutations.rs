//! Thousands of mutated headers, indexes and pickles: none passes the gate with fewer tensors than the truth.
//!
//! A mutation that leaves every tensor in place may pass; one that hides a tensor must not.

use std::path::{Path, PathBuf};

use flashpoint::analysis::model::{Analysis, MeasureLevel, Section};
use flashpoint::analysis::{measure_checkpoint, of_checkpoints};
use flashpoint::checkpoint::{Checkpoint, NameRules};
use flashpoint::context::Context;
use flashpoint::gate::{Case, Outcome, Policy, Unreadable, judge};
use flashpoint::rules::{self, Overrides};
use toml::value::Date;

/// Mutations of each file.
const MUTATIONS: u64 = 700;

/// Measures the checkpoint and judges it by the built-in policy.
fn gate(path: &Path) -> (Outcome, Analysis) {
    let context = Context::default();
    let level = MeasureLevel::Stats;
    let read = Checkpoint::read(path, &NameRules::default(), &context);
    let (checkpoints, unreadable) = match read {
        Ok(checkpoint) => (vec![measure_checkpoint(&checkpoint, level, &context)], vec![]),
        Err(error) => {
            let (name, advice) = (String::new(), String::new());
            (vec![], vec![Unreadable { name, message: error.to_string(), advice }])
        }
    };
    let analysis = of_checkpoints(checkpoints, level);
    let assessment = rules::evaluate(&analysis, &Overrides::default());
    let judgement = judge(Case {
        analysis: &analysis,
        assessment: &assessment,
        unreadable: &unreadable,
        refused_baseline: None,
        policy: &Policy::default(),
        baseline: None,
        today: Date { year: 2027, month: 1, day: 1 },
        interrupted: false,
    });
    (judgement.outcome, analysis)
}

/// Tensors of the training state whose elements were read: what was judged.
fn judged(analysis: &Analysis) -> usize {
    let tensors = analysis.checkpoints.iter().flat_map(|checkpoint| &checkpoint.tensors);
    tensors.filter(|tensor| tensor.section != Section::Other && tensor.statistics.value().is_some()).count()
}

/// A counter that looks random: splitmix64.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end as u64).expect("it is below a usize")
    }
}

/// One to three bytes changed, cut out, doubled or swapped.
fn mutate(bytes: &mut Vec<u8>, chance: &mut Chance, keep_length: bool) {
    for _ in 0..=chance.below(3) {
        let place = chance.below(bytes.len());
        match chance.below(if keep_length { 3 } else { 5 }) {
            0 => bytes[place] ^= 1 << chance.below(8),
            1 => bytes[place] = chance.next().to_le_bytes()[0],
            2 => {
                let other = chance.below(bytes.len());
                bytes.swap(place, other);
            }
            3 => {
                let end = bytes.len().min(place + 1 + chance.below(64));
                bytes.drain(place..end);
                if bytes.is_empty() {
                    bytes.push(0);
                }
            }
            _ => {
                let end = bytes.len().min(place + 1 + chance.below(64));
                let copy = bytes[place..end].to_vec();
                bytes.splice(place..place, copy);
            }
        }
    }
}

/// Runs `MUTATIONS` of `make` and says which passed with fewer tensors than `whole` has. Both are the bytes of `target`, of the
/// checkpoint at `path`.
fn hunt(whole: &[u8], target: &Path, make: impl Fn(&mut Chance) -> Vec<u8>, path: &Path) {
    std::fs::write(target, whole).expect("it can be written");
    let (outcome, truth) = gate(path);
    assert_eq!(outcome, Outcome::Pass, "{} itself must pass", target.display());
    let truth = judged(&truth);
    assert!(truth > 0);
    let mut passed = 0;
    let mut hidden = Vec::new();
    for seed in 0..MUTATIONS {
        std::fs::write(target, make(&mut Chance(seed))).expect("it can be written");
        let (outcome, analysis) = gate(path);
        if outcome == Outcome::Pass {
            passed += 1;
            if judged(&analysis) < truth {
                hidden.push(seed);
            }
        }
    }
    eprintln!("{}: {passed} of {MUTATIONS} mutations pass", target.display());
    assert!(
        hidden.is_empty(),
        "{} passes with fewer than {truth} tensors: seeds {hidden:?}",
        target.display()
    );
}

fn temporary(name: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a temporary directory can be made");
    let path = folder.path().join(name);
    (folder, path)
}

#[test]
fn no_mutated_safetensors_header_hides_a_tensor() {
    for source in [
        "fixtures/runs/llama-healthy/checkpoint-0400/model.safetensors",
        "fixtures/runs/rnn-healthy/checkpoint-0400/model.safetensors",
    ] {
        let bytes = std::fs::read(source).expect("the fixture is there");
        let length = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes")) as usize;
        let (_folder, target) = temporary("model.safetensors");
        let make = |chance: &mut Chance| {
            let mut header = bytes[8..8 + length].to_vec();
            let keep_length = chance.below(2) == 0;
            mutate(&mut header, chance, keep_length);
            // Half of them with the length that fits, half with the length that was.
            let stated = if chance.below(2) == 0 { header.len() } else { length };
            [&(stated as u64).to_le_bytes()[..], &header, &bytes[8 + length..]].concat()
        };
        hunt(&bytes, &target, make, &target);
    }
}

#[test]
fn no_safetensors_header_without_one_of_its_tensors_passes() {
    let source = Path::new("fixtures/runs/rnn-healthy/checkpoint-0400/model.safetensors");
    let bytes = std::fs::read(source).expect("the fixture is there");
    let length = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes")) as usize;
    let header: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(&bytes[8..8 + length]).expect("the header is JSON");
    for name in header.keys().filter(|name| *name != "__metadata__") {
        let mut less = header.clone();
        less.remove(name);
        let mut text = serde_json::to_string(&less).expect("JSON can be written");
        text.push_str(&" ".repeat(text.len().next_multiple_of(8) - text.len()));
        let (_folder, target) = temporary("model.safetensors");
        let file = [&(text.len() as u64).to_le_bytes()[..], text.as_bytes(), &bytes[8 + length..]].concat();
        std::fs::write(&target, file).expect("it can be written");
        assert_eq!(gate(&target).0, Outcome::CouldNotDecide, "without {name}");
    }
}

/// A copy of a directory's files in a temporary one.
fn copied(source: &Path) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a temporary directory can be made");
    for entry in std::fs::read_dir(source).expect("the fixture can be listed") {
        let path = entry.expect("a listed entry can be read").path();
        std::fs::copy(&path, folder.path().join(path.file_name().expect("a name")))
            .expect("it can be copied");
    }
    folder
}

#[test]
fn no_mutated_index_hides_a_tensor() {
    let folder = sharded();
    let index = folder.path().join("model.safetensors.index.json");
    let bytes = std::fs::read(&index).expect("the index is there");
    let make = |chance: &mut Chance| {
        let mut text = bytes.clone();
        mutate(&mut text, chance, false);
        text
    };
    hunt(&bytes, &index, make, folder.path());
}

#[test]
fn no_index_without_a_tensor_or_a_shard_passes() {
    let folder = sharded();
    let index = folder.path().join("model.safetensors.index.json");
    let whole: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&index).expect("the index is there")).expect("it is JSON");
    let map = whole["weight_map"].as_object().expect("a map").clone();
    let shards = map.values().cloned().collect::<Vec<_>>();
    let try_without = |drop: &dyn Fn(&str, &serde_json::Value) -> bool| {
        let mut less = whole.clone();
        let kept = map.iter().filter(|(name, shard)| !drop(name, shard));
        less["weight_map"] = kept.map(|(name, shard)| (name.clone(), shard.clone())).collect();
        less.as_object_mut().expect("an object").remove("metadata");
        std::fs::write(&index, less.to_string()).expect("it can be written");
        assert_ne!(gate(folder.path()).0, Outcome::Pass, "{less}");
    };
    for name in map.keys() {
        try_without(&|other, _| other == name);
    }
    for shard in shards {
        try_without(&|_, other| *other == shard);
    }
}

/// A model in two shards with an index, made of a model in one file.
fn sharded() -> tempfile::TempDir {
    let source = "fixtures/runs/rnn-healthy/checkpoint-0400/model.safetensors";
    let bytes = std::fs::read(source).expect("the fixture is there");
    let model = safetensors::SafeTensors::deserialize(&bytes).expect("the fixture is sound");
    let folder = tempfile::tempdir().expect("a temporary directory can be made");
    let mut map = serde_json::Map::new();
    let mut tensors = model.tensors();
    tensors.sort_by(|a, b| a.0.cmp(&b.0));
    let mut total = 0;
    for (number, shard) in tensors.chunks(2).enumerate() {
        let file = format!("model-0000{}-of-00002.safetensors", number + 1);
        for (name, view) in shard {
            map.insert(name.clone(), file.clone().into());
            total += view.data().len();
        }
        let views = shard.iter().map(|(name, view)| (name.as_str(), view.clone()));
        let written = safetensors::serialize(views, None).expect("it can be written");
        std::fs::write(folder.path().join(file), written).expect("it can be written");
    }
    let index = serde_json::json!({ "metadata": { "total_size": total }, "weight_map": map });
    std::fs::write(folder.path().join("model.safetensors.index.json"), index.to_string())
        .expect("it can be written");
    folder
}

/// The pickle of a PyTorch archive is changed in place, and its checksum made right again.
#[test]
fn no_mutated_pickle_hides_a_tensor() {
    for source in [
        "fixtures/rules/FP904-uncovered-bytes/silent-every-storage-used.pt",
        "fixtures/rules/FP901-dangerous-pickle/silent-state-dict.pt",
    ] {
        let bytes = std::fs::read(source).expect("the fixture is there");
        let (_folder, target) = temporary("model.pt");
        hunt(&bytes, &target, |chance| with_mutated_pickle(&bytes, chance), &target);
    }
}

#[test]
fn no_mutated_pickle_hides_a_tensor_of_an_optimizer() {
    let bytes = std::fs::read(ADAM).expect("the fixture is there");
    let (_folder, target) = temporary("checkpoint.pt");
    hunt(&bytes, &target, |chance| with_mutated_pickle(&bytes, chance), &target);
}

#[test]
fn no_mutated_pickle_in_a_directory_hides_a_tensor() {
    let folder = copied(Path::new("fixtures/layouts/hf-trainer/checkpoint-6"));
    let target = folder.path().join("optimizer.pt");
    let bytes = std::fs::read(&target).expect("the fixture has an optimizer");
    hunt(&bytes, &target, |chance| with_mutated_pickle(&bytes, chance), folder.path());
}

/// A model and its Adam in one archive.
const ADAM: &str = "fixtures/formats/adam-checkpoint.pt";

fn with_mutated_pickle(bytes: &[u8], chance: &mut Chance) -> Vec<u8> {
    let pickle = pickle_of(bytes);
    let old = crc32(&bytes[pickle.clone()]).to_le_bytes();
    let mut changed = bytes[pickle.clone()].to_vec();
    mutate(&mut changed, chance, true);
    let new = crc32(&changed).to_le_bytes();
    let mut file = bytes.to_vec();
    file[pickle].copy_from_slice(&changed);
    let places = bytes.windows(4).enumerate().filter(|(_, window)| *window == old).map(|(at, _)| at);
    for at in places.collect::<Vec<_>>() {
        file[at..at + 4].copy_from_slice(&new);
    }
    file
}

const ARRAYS: &str = "fixtures/hostile/numpy/honest.npz";

/// The file with one mutation of any kind, anywhere.
fn mutant(bytes: &[u8], chance: &mut Chance) -> Vec<u8> {
    let mut file = bytes.to_vec();
    let keep_length = chance.below(2) == 0;
    mutate(&mut file, chance, keep_length);
    file
}

#[test]
fn no_mutated_archive_of_arrays_hides_one() {
    let bytes = std::fs::read(ARRAYS).expect("the fixture is there");
    let (_folder, target) = temporary("arrays.npz");
    hunt(&bytes, &target, |chance| mutant(&bytes, chance), &target);
}

/// A member whose bytes are there and which no directory lists.
#[test]
fn no_archive_passes_without_a_tensor_that_its_directory_leaves_out() {
    for source in [ARRAYS, ADAM, "fixtures/rules/FP901-dangerous-pickle/silent-state-dict.pt"] {
        let bytes = std::fs::read(source).expect("the fixture is there");
        let name = Path::new(source).file_name().and_then(|name| name.to_str()).expect("a name");
        let (_folder, target) = temporary(name);
        std::fs::write(&target, &bytes).expect("it can be written");
        let (outcome, truth) = gate(&target);
        assert_eq!(outcome, Outcome::Pass, "{source}");
        let entries = entries_of(&bytes);
        assert!(entries.len() > 1, "{source}");
        for entry in entries {
            std::fs::write(&target, without_entry(&bytes, entry.clone())).expect("it can be written");
            let (outcome, analysis) = gate(&target);
            let hides = outcome == Outcome::Pass && judged(&analysis) < judged(&truth);
            assert!(!hides, "{source} without {entry:?}");
        }
    }
}

/// Where the end of the central directory is, and what it says: entries, length, offset.
fn end_of(file: &[u8]) -> usize {
    file.windows(4).rposition(|window| window == b"PK\x05\x06").expect("an archive has an end")
}

fn short(file: &[u8], at: usize) -> usize {
    usize::from(u16::from_le_bytes([file[at], file[at + 1]]))
}

fn long(file: &[u8], at: usize) -> usize {
    u32::from_le_bytes(file[at..at + 4].try_into().expect("four bytes")) as usize
}

/// The entries of the central directory.
fn entries_of(file: &[u8]) -> Vec<std::ops::Range<usize>> {
    let end = end_of(file);
    let (length, mut at) = (long(file, end + 12), long(file, end + 16));
    let last = at + length;
    let mut entries = Vec::new();
    while at < last {
        let next = at + 46 + short(file, at + 28) + short(file, at + 30) + short(file, at + 32);
        entries.push(at..next);
        at = next;
    }
    entries
}

/// The archive without one entry of its directory; the member's own bytes stay.
fn without_entry(file: &[u8], entry: std::ops::Range<usize>) -> Vec<u8> {
    let end = end_of(file);
    let (count, length) = (short(file, end + 10) - 1, long(file, end + 12) - entry.len());
    let mut tail = file[end..].to_vec();
    let count = u16::try_from(count).expect("it was a u16").to_le_bytes();
    tail[8..10].copy_from_slice(&count);
    tail[10..12].copy_from_slice(&count);
    tail[12..16].copy_from_slice(&u32::try_from(length).expect("it was a u32").to_le_bytes());
    // The end of large archives, which lies between directory and end, is left out: it says the same.
    let start = long(file, end + 16);
    let directory = [&file[start..entry.start], &file[entry.end..start + long(file, end + 12)]].concat();
    [&file[..start], &directory, &tail].concat()
}

/// The bytes of `data.pkl`: from its protocol to the STOP that its length says.
fn pickle_of(file: &[u8]) -> std::ops::Range<usize> {
    let name = b"data.pkl";
    let local = file.windows(4).enumerate().filter(|(_, window)| *window == b"PK\x03\x04").map(|(at, _)| at);
    for at in local {
        let short =
            |offset: usize| usize::from(u16::from_le_bytes([file[at + offset], file[at + offset + 1]]));
        let (names, extra) = (short(26), short(28));
        if file[at + 30..at + 30 + names].ends_with(name) {
            let start = at + 30 + names + extra;
            let central = file
                .windows(4)
                .enumerate()
                .filter(|(_, window)| *window == b"PK\x01\x02")
                .map(|(at, _)| at)
                .find(|at| {
                    let names = usize::from(u16::from_le_bytes([file[at + 28], file[at + 29]]));
                    file[at + 46..at + 46 + names].ends_with(name)
                })
                .expect("the directory lists it");
            let size = u32::from_le_bytes(file[central + 24..central + 28].try_into().expect("four bytes"));
            return start..start + size as usize;
        }
    }
    panic!("the archive has no data.pkl")
}

fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum()
}

#[test]
fn no_mutated_pickle_of_before_archives_hides_a_tensor() {
    let source = "fixtures/formats/legacy-state-dict.pt";
    let bytes = std::fs::read(source).expect("the fixture is there");
    let (_folder, target) = temporary("model.pt");
    hunt(&bytes, &target, |chance| mutant(&bytes, chance), &target);
}
