//! What `flashpoint gate --measure norms` costs on a healthy safetensors file, beside a plain read of the same file. One run,
//! interleaved; the digest stated apart.
//!
//! `cargo bench --bench gate`. A file of 1 GB is made in the target directory once; `FLASHPOINT_BENCH_MB` makes it
//! smaller, `FLASHPOINT_BENCH_ROUNDS` repeats more often.

use std::fs::File;
use std::hint::black_box;
use std::io::{BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use flashpoint::analysis::model::MeasureLevel;
use flashpoint::analysis::{measure_checkpoint, measure_with_digests, of_checkpoints};
use flashpoint::checkpoint::Checkpoint;
use flashpoint::context::Context;
use flashpoint::files::{InputFile, digest};
use flashpoint::gate::{Case, Outcome, Policy, judge};
use flashpoint::rules;
use rayon::iter::{IntoParallelIterator, ParallelIterator};

/// Width and height of each matrix.
const SIDE: u64 = 2048;

/// A name, and what is timed with the file.
type Timed = (&'static str, fn(&Path));

fn main() {
    let megabytes = number("FLASHPOINT_BENCH_MB", 1000);
    let rounds = number("FLASHPOINT_BENCH_ROUNDS", 5);
    let path = make_file(megabytes);
    let bytes = path.metadata().expect("it was just made").len() as f64;
    let cases: [Timed; 5] = [
        ("plain read, one thread, read(2)", read_through),
        ("plain read, every thread, the mapping", read_mapping),
        ("gate --measure norms, without digest", |path| gate(path, false)),
        ("digest alone", |path| {
            let file = InputFile::open(path, &Context::default()).expect("the file is sound");
            black_box(digest(&file, &Context::default()).expect("it can be read"));
        }),
        ("gate --measure norms, with digest", |path| gate(path, true)),
    ];
    let mut seconds = [const { Vec::new() }; 5];
    for _ in 0..rounds {
        for ((_, run), seconds) in cases.iter().zip(&mut seconds) {
            let start = Instant::now();
            run(&path);
            seconds.push(start.elapsed().as_secs_f64());
        }
    }
    let threads = rayon::current_num_threads();
    println!("{:.0} MB of f32, {rounds} rounds, {threads} thread(s), medians", bytes / 1e6);
    let medians = seconds.each_mut().map(|seconds| {
        seconds.sort_by(f64::total_cmp);
        seconds[seconds.len() / 2]
    });
    for ((name, _), median) in cases.iter().zip(medians) {
        let (of_read, of_mapping) = (median / medians[0], median / medians[1]);
        let rate = bytes / median / 1e9;
        println!(
            "  {name:<40} {median:6.3} s {rate:6.2} GB/s   {of_read:5.2} x read(2) {of_mapping:5.2} x mapping"
        );
    }
}

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn gate(path: &Path, digests: bool) {
    let (context, policy, level) = (Context::default(), Policy::default(), MeasureLevel::Norms);
    let checkpoint = Checkpoint::read(path, &policy.names, &context).expect("the file is sound");
    let measure = if digests { measure_with_digests } else { measure_checkpoint };
    let analysis = of_checkpoints(vec![measure(&checkpoint, level, &context)], level);
    let assessment = rules::evaluate(&analysis, &policy.thresholds);
    let judgement = judge(Case {
        analysis: &analysis,
        assessment: &assessment,
        unreadable: &[],
        refused_baseline: None,
        policy: &policy,
        baseline: None,
        today: toml::value::Date { year: 0, month: 1, day: 1 },
        interrupted: false,
    });
    assert_eq!(judgement.outcome, Outcome::Pass, "{}", judgement.sentence);
}

/// What `cat FILE > /dev/null` does.
fn read_through(path: &Path) {
    let mut file = File::open(path).expect("it is there");
    let mut buffer = vec![0; 1 << 20];
    while file.read(&mut buffer).expect("it can be read") > 0 {
        black_box(&buffer);
    }
}

/// The wrapping sum of all words of a mapping: as little as can be done with every byte.
fn read_mapping(path: &Path) {
    let file = InputFile::open(path, &Context::default()).expect("it is there");
    let mapped = file.mapped(0..file.len()).expect("the file is mapped");
    let sums = (0..mapped.len().div_ceil(1 << 22)).into_par_iter().map(|part| {
        let part = &mapped[part << 22..mapped.len().min((part + 1) << 22)];
        part.as_chunks().0.iter().fold(0u64, |sum, &word| sum.wrapping_add(u64::from_le_bytes(word)))
    });
    black_box(sums.collect::<Vec<_>>());
}

/// Square matrices of roughly normal numbers, standard deviation 0.02. Made once.
fn make_file(megabytes: u64) -> PathBuf {
    let length = SIDE * SIDE * 4;
    let count = (megabytes * 1_000_000 / length).max(1);
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR"));
    std::fs::create_dir_all(directory).expect("the target directory is writable");
    let path = directory.join(format!("bench-gate-{megabytes}.safetensors"));
    let entries = (0..count).map(|index| {
        let (start, end) = (index * length, (index + 1) * length);
        format!(r#""layers.{index}.proj.weight":{{"dtype":"F32","shape":[{SIDE},{SIDE}],"data_offsets":[{start},{end}]}}"#)
    });
    let mut header = format!("{{{}}}", entries.collect::<Vec<_>>().join(","));
    header.push_str(&" ".repeat(header.len().next_multiple_of(8) - header.len()));
    let whole = 8 + header.len() as u64 + count * length;
    if path.metadata().is_ok_and(|metadata| metadata.len() == whole) {
        // Once through, so that the page cache holds it.
        read_through(&path);
        return path;
    }
    let mut out = BufWriter::with_capacity(1 << 20, File::create(&path).expect("the directory is writable"));
    out.write_all(&(header.len() as u64).to_le_bytes()).expect("the disk has room");
    out.write_all(header.as_bytes()).expect("the disk has room");
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    for _ in 0..count * SIDE * SIDE {
        out.write_all(&(roughly_normal(&mut state) * 0.02).to_le_bytes()).expect("the disk has room");
    }
    out.flush().expect("the disk has room");
    path
}

/// A sum of four uniform numbers, scaled to variance 1.
fn roughly_normal(state: &mut u64) -> f32 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    let parts = [0, 16, 32, 48].map(|shift| f32::from((*state >> shift) as u16));
    (parts.into_iter().sum::<f32>() / 65535.0 - 2.0) * 3f32.sqrt()
}
