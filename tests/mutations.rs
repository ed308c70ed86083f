//! A hundred thousand damaged headers, indexes and pickles: none may panic, and none may pass for whole with fewer tensors
//! than there are.
//!
//! Which byte is changed follows from the number of the case alone, so that a failure is repeated with
//! `FLASHPOINT_MUTATION=NUMBER cargo test --test mutations`.

#[allow(dead_code, reason = "the crate's own tests use more of it")]
#[path = "../src/format/craft.rs"]
mod craft;

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use flashpoint::analysis::model::{CheckpointAnalysis, MeasureLevel};
use flashpoint::analysis::{measure_checkpoint, of_checkpoints};
use flashpoint::checkpoint::{Checkpoint, NameRules};
use flashpoint::context::Context;
use flashpoint::files::InputFile;
use flashpoint::format::zip::Archive;
use flashpoint::rules::{self, Overrides};

const CASES: usize = 100_000;

/// Every so many cases the binary is asked as well.
const ASKED: usize = 1000;

/// Every so many cases everything is measured and judged that a checkpoint is measured and judged for: statistics, optimizer
/// state, all rules. Odd, so that each of the seeds has its share.
const JUDGED: usize = 17;

/// A whole checkpoint, and what of it is damaged.
struct Seed {
    name: &'static str,
    /// Its files, the damaged one first.
    files: Vec<(String, Vec<u8>)>,
    /// Headers, directories and pickles of the first file; its tensors' elements are beside the question.
    regions: Vec<Range<usize>>,
    /// Whether the directory of the files is inspected, or the first of them.
    is_directory: bool,
}

fn seeds() -> Vec<Seed> {
    let whole = |name: &'static str| {
        let bytes = std::fs::read(Path::new("fixtures/formats").join(name)).expect("a fixture");
        Seed {
            name,
            regions: std::iter::once(0..bytes.len()).collect(),
            files: vec![(name.to_owned(), bytes)],
            is_directory: false,
        }
    };
    let up_to = |name, end| Seed { regions: std::iter::once(0..end).collect(), ..whole(name) };
    vec![
        up_to("official-writer.safetensors", header_of("official-writer.safetensors")),
        up_to("every-dtype.safetensors", header_of("every-dtype.safetensors")),
        without_storages(whole("adam-checkpoint.pt"), Path::new("fixtures/formats/adam-checkpoint.pt")),
        without_storages(whole("torchscript.pt"), Path::new("fixtures/formats/torchscript.pt")),
        without_storages(whole("nested-containers.pt"), Path::new("fixtures/formats/nested-containers.pt")),
        unchecked(),
        whole("legacy-adam-checkpoint.pt"),
        whole("legacy-nested-containers.pt"),
        up_to("array.npy", 128),
        whole("arrays.npz"),
        whole("arrays-deflated.npz"),
        sharded("sharded", "model.safetensors.index.json"),
        sharded("sharded-bin", "pytorch_model.bin.index.json"),
    ]
}

fn header_of(name: &str) -> usize {
    let bytes = std::fs::read(Path::new("fixtures/formats").join(name)).expect("a fixture");
    8 + u64::from_le_bytes(bytes[..8].try_into().expect("a file of eight bytes")) as usize
}

/// All of an archive but the bytes of its storages.
fn without_storages(seed: Seed, path: &Path) -> Seed {
    let file = InputFile::open(path, &Context::default()).expect("a fixture");
    let archive = Archive::open(&file).expect("an archive");
    let storages = archive
        .members()
        .iter()
        .filter(|member| member.name.contains("/data/") || member.name.contains("/constants/"));
    let mut ends: Vec<_> =
        storages.map(|member| member.data.start as usize..member.data.end as usize).collect();
    ends.sort_by_key(|range| range.start);
    let mut regions = Vec::new();
    let mut start = 0;
    for storage in ends {
        regions.push(start..storage.start);
        start = storage.end;
    }
    regions.push(start..seed.files[0].1.len());
    Seed { regions, ..seed }
}

/// An archive whose writer switched checksums off: nothing but the pickle itself says what it should be.
fn unchecked() -> Seed {
    use craft::{Record, dict, floats, pickled, stored, zip};
    let keys = ["0", "1", "2", "3", "4", "5"];
    let tensors: Vec<_> =
        keys.iter().map(|key| (format!("layer.{key}"), floats(key, 4, 0, &[2, 2], &[2, 1]))).collect();
    let tensors: Vec<_> = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor.clone())).collect();
    let pickle = pickled(&dict(&[("state_dict", dict(&tensors)), ("step", craft::int(7))]));
    let storage = |key: &&str| stored(&format!("archive/data/{key}"), &[1; 16]);
    let records: Vec<_> = std::iter::once(stored("archive/data.pkl", &pickle))
        .chain(keys.iter().map(storage))
        .map(|record| Record { checksum: Some(0), ..record })
        .collect();
    let bytes = zip(&records);
    let start =
        bytes.windows(pickle.len()).position(|window| window == pickle).expect("the pickle is stored");
    Seed {
        name: "pickle-without-a-checksum.pt",
        regions: std::iter::once(start..start + pickle.len()).collect(),
        files: vec![("pickle-without-a-checksum.pt".to_owned(), bytes)],
        is_directory: false,
    }
}

fn sharded(name: &'static str, index: &str) -> Seed {
    let folder = Path::new("fixtures/formats").join(name);
    let mut files: Vec<(String, Vec<u8>)> = std::fs::read_dir(&folder)
        .expect("a fixture")
        .map(|entry| entry.expect("an entry").path())
        .map(|path| {
            (
                path.file_name().expect("a name").to_string_lossy().into_owned(),
                std::fs::read(&path).expect("a fixture"),
            )
        })
        .collect();
    files.sort_by_key(|(file, _)| file != index);
    Seed { name, regions: std::iter::once(0..files[0].1.len()).collect(), files, is_directory: true }
}

/// Numbers that follow from their place alone (Steele, Lea and Flood, SplitMix).
struct Draws {
    case: u64,
    count: u64,
}

impl Draws {
    fn next(&mut self) -> u64 {
        self.count += 1;
        let mut state = (self.case << 16 | self.count).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        state = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        state = (state ^ state >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        state ^ state >> 31
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }

    /// A place in the regions of `seed`.
    fn place(&mut self, seed: &Seed) -> usize {
        let length: usize = seed.regions.iter().map(Range::len).sum();
        let mut at = self.below(length);
        for region in &seed.regions {
            if at < region.len() {
                return region.start + at;
            }
            at -= region.len();
        }
        seed.regions[0].start
    }
}

/// The damaged first file of `seed`, and what was done to it.
fn mutate(seed: &Seed, case: usize) -> (Vec<u8>, String) {
    let mut draws = Draws { case: case as u64, count: 0 };
    let mut bytes = seed.files[0].1.clone();
    let at = draws.place(seed);
    if draws.below(2) == 0 {
        // Half of the time a value that means something to headers and pickles.
        const TELLING: &[u8] = b"\0\x01\x7f\x80\xff\"{}[],:0129-.eNRbtuas(20hq\x85\x87\x93\x94";
        let value =
            if draws.below(2) == 0 { TELLING[draws.below(TELLING.len())] } else { draws.next() as u8 };
        bytes[at] = value;
        return (bytes, format!("byte {at} is {value:#04x}"));
    }
    let longest = [4, 16, 64, 512][draws.below(4)];
    let removed = draws.below(longest + 1).min(bytes.len() - at);
    let from = draws.place(seed);
    let inserted = draws.below(longest + 1).min(bytes.len() - from);
    // Half of the time nothing moves.
    let inserted = if draws.below(2) == 0 { removed.min(bytes.len() - from) } else { inserted };
    let piece = bytes[from..from + inserted].to_vec();
    bytes.splice(at..at + removed, piece);
    (bytes, format!("{removed} bytes at {at} are those of {from}..{}", from + inserted))
}

/// What `inspect` would say, in as much as it decides the exit code: the number of listed tensors where it would be 0.
fn passes(path: &Path, truth: usize, context: &Context) -> Option<usize> {
    let checkpoint = Checkpoint::read(path, &NameRules::default(), context).ok()?;
    let analysis = measure_checkpoint(&checkpoint, MeasureLevel::List, context);
    if analysis.is_damaged() {
        return None;
    }
    if analysis.tensors.len() >= truth {
        return Some(analysis.tensors.len());
    }
    // Checksums of storages are compared only where every byte is read.
    let analysis = measure_checkpoint(&checkpoint, MeasureLevel::Stats, context);
    (!analysis.is_damaged() && analysis.is_judged()).then_some(analysis.tensors.len())
}

/// Everything that a damaged file goes through beside the list of its tensors. What comes of it is beside the question.
fn judge(path: &Path, context: &Context) {
    if let Ok(checkpoint) = Checkpoint::read(path, &NameRules::default(), context) {
        let analysis = measure_checkpoint(&checkpoint, MeasureLevel::Stats, context);
        rules::evaluate(&of_checkpoints(vec![analysis], MeasureLevel::Stats), &Overrides::default());
    }
}

/// A directory with all files of a seed, of which the first is written anew for each case.
struct Bench {
    seed: Arc<Seed>,
    truth: usize,
    _folder: tempfile::TempDir,
    first: PathBuf,
    inspected: PathBuf,
}

impl Bench {
    fn new(seed: Arc<Seed>) -> Self {
        let memory = Path::new("/dev/shm");
        let folder = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
        let folder = folder.expect("a temporary directory");
        for (name, bytes) in &seed.files {
            std::fs::write(folder.path().join(name), bytes).expect("a temporary file");
        }
        let first = folder.path().join(&seed.files[0].0);
        let inspected = if seed.is_directory { folder.path().to_owned() } else { first.clone() };
        let whole: CheckpointAnalysis = {
            let checkpoint = Checkpoint::read(&inspected, &NameRules::default(), &Context::default())
                .expect("a whole checkpoint");
            measure_checkpoint(&checkpoint, MeasureLevel::Stats, &Context::default())
        };
        assert!(!whole.is_damaged(), "{}: {:?}", seed.name, whole.problems);
        Self { truth: whole.tensors.len(), seed, _folder: folder, first, inspected }
    }

    /// What is wrong with how one damaged file is taken.
    fn try_one(&self, case: usize) -> Option<String> {
        let (bytes, what) = mutate(&self.seed, case);
        std::fs::write(&self.first, &bytes).expect("a temporary file");
        let context = Context { mmap: case.is_multiple_of(2), ..Context::default() };
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            if case.is_multiple_of(JUDGED) {
                judge(&self.inspected, &context);
            }
            passes(&self.inspected, self.truth, &context)
        }));
        let fault = match outcome {
            Err(_) => Some("it panics".to_owned()),
            Ok(Some(found)) if found < self.truth => {
                Some(format!("it passes with {found} of {} tensors", self.truth))
            }
            Ok(_) if case.is_multiple_of(ASKED) => self.ask(outcome.is_ok_and(|found| found.is_some())),
            Ok(_) => None,
        };
        fault.map(|fault| format!("FLASHPOINT_MUTATION={case} ({}, {what}): {fault}", self.seed.name))
    }

    /// Whether the binary ends otherwise than was found out in process.
    fn ask(&self, passes: bool) -> Option<String> {
        let output =
            Command::new(env!("CARGO_BIN_EXE_flashpoint")).arg("inspect").arg(&self.inspected).output();
        let code = output.expect("the binary under test can be started").status.code();
        let is_expected = match code {
            Some(0) => passes,
            Some(2) => true,
            _ => false,
        };
        (!is_expected).then(|| {
            format!(
                "the binary ends with {code:?}, in process it {}",
                if passes { "passes" } else { "does not pass" }
            )
        })
    }
}

#[test]
fn no_damaged_header_index_or_pickle_panics_or_hides_a_tensor() {
    let only = std::env::var("FLASHPOINT_MUTATION")
        .ok()
        .map(|case| case.parse::<usize>().expect("a number of a case"));
    let seeds: Vec<Arc<Seed>> = seeds().into_iter().map(Arc::new).collect();
    let next = AtomicUsize::new(0);
    let faults = Mutex::new(Vec::new());
    let threads = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let benches: Vec<Bench> = seeds.iter().cloned().map(Bench::new).collect();
                // Each case is small: a pool of threads for it would cost more than it does.
                let pool = rayon::ThreadPoolBuilder::new()
                    .num_threads(1)
                    .use_current_thread()
                    .build()
                    .expect("a pool");
                pool.install(|| {
                    loop {
                        let case = next.fetch_add(1, Ordering::Relaxed);
                        if case >= CASES {
                            break;
                        }
                        if only.is_some_and(|only| only != case) {
                            continue;
                        }
                        let fault = benches[case % benches.len()].try_one(case);
                        faults.lock().expect("no thread panics while it holds this").extend(fault);
                    }
                });
            });
        }
    });
    let faults = faults.into_inner().expect("no thread panics while it holds this");
    let first: Vec<_> = faults.iter().take(40).map(String::as_str).collect();
    assert!(faults.is_empty(), "{} of {CASES}:\n{}", faults.len(), first.join("\n"));
}

#[test]
fn a_case_is_always_the_same() {
    let seeds = seeds();
    let seed = &seeds[0];
    assert_eq!(mutate(seed, 39).0, mutate(seed, 39).0);
    let different = (0..100).filter(|case| mutate(seed, *case).0 != seed.files[0].1).count();
    assert!(different > 80, "{different} of 100 cases change something");
}
