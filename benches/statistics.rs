//! How fast the statistics are, beside a plain read of the same mapping, `PyTorch` and numpy. One run, interleaved.
//!
//! Then the whole program: listing many tensors, and the memory that two large ones take.
//!
//! `FLASHPOINT_PYTHON=python3 cargo bench --bench statistics`. Files of 2 GB are made in the target directory once.
//! `FLASHPOINT_BENCH_MB` makes them smaller, `FLASHPOINT_BENCH_ROUNDS` repeats more often.

mod whole_process;

use std::fs::File;
use std::hint::black_box;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use flashpoint::analysis::statistics::{Isa, Pivot, Plan, measure_as_planned, measure_rows};
use flashpoint::context::Context;
use flashpoint::files::InputFile;
use flashpoint::tensor::{DType, Tensor};
use rayon::iter::{IntoParallelIterator, ParallelIterator};

/// Width of the matrices: a common hidden size.
const COLUMNS: u64 = 4096;

fn main() {
    let megabytes = number("FLASHPOINT_BENCH_MB", 2000);
    let rounds = number("FLASHPOINT_BENCH_ROUNDS", 5) as usize;
    let all = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    println!("load: {}", std::fs::read_to_string("/proc/loadavg").unwrap_or_default().trim());
    println!(
        "instruction sets: {}",
        Isa::available().iter().map(Isa::to_string).collect::<Vec<_>>().join(", ")
    );
    for dtype in [DType::F32, DType::Bf16] {
        let path = make_file(dtype, megabytes);
        for threads in [1, all] {
            measure_file(&path, dtype, threads, rounds);
        }
        peers(&path);
    }
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR"));
    whole_process::listing(directory);
    whole_process::memory(directory, megabytes);
    println!("load: {}", std::fs::read_to_string("/proc/loadavg").unwrap_or_default().trim());
}

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Times everything on one file, `rounds` times in turn. Prints medians: of the rate on the wall clock, and of the ratio of
/// processor times within a round.
fn measure_file(path: &Path, dtype: DType, threads: usize, rounds: usize) {
    let context = Context::default();
    let file = Arc::new(InputFile::open(path, &context).expect("the file was just made"));
    let bytes = HEADER as u64..file.len();
    let length = bytes.end - bytes.start;
    let rows = length / dtype.size().expect("floats have whole bytes") / COLUMNS;
    let tensor = Tensor::contiguous(dtype, vec![rows, COLUMNS], file, bytes).expect("it was made to fit");
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads can be started");
    println!("\n{dtype}, {} MB, {threads} thread(s)", length / 1_000_000);

    let mut cases: Vec<Case> = vec![Case::new("plain read", |tensor, _| {
        black_box(plain_read(tensor));
    })];
    for isa in Isa::available() {
        for (name, plan) in plans(isa) {
            cases.push(Case::new(&format!("{name}, {isa}"), move |tensor, context| {
                black_box(measure_as_planned(tensor, plan, Pivot::Zero, context).expect("the file is sound"));
            }));
        }
    }
    cases.push(Case::new("rows", |tensor, context| {
        black_box(measure_rows(tensor, context).expect("the file is sound"));
    }));
    let watch = Watch::start();
    pool.install(|| {
        for _ in 0..rounds {
            for case in &mut cases {
                let (start, cpu) = (Instant::now(), cpu_seconds());
                (case.run)(&tensor, &context);
                case.seconds.push(start.elapsed().as_secs_f64());
                case.cpu_seconds.push(cpu_seconds() - cpu);
            }
        }
    });
    let read = cases[0].cpu_seconds.clone();
    for case in &cases {
        let ratios = read.iter().zip(&case.cpu_seconds).map(|(read, case)| read / case).collect();
        println!(
            "  {:<44} {:7.2} GB/s   {:5.2} of read",
            case.name,
            length as f64 / median(case.seconds.clone()) / 1e9,
            median(ratios)
        );
    }
    println!("  peak anonymous memory beyond the mapping: {} MB", watch.peak_mb());
}

fn plans(isa: Isa) -> [(&'static str, Plan); 4] {
    let norms = Plan { moments: false, headroom: false, exponents: false, isa };
    let full = Plan { moments: true, ..norms };
    let headroom = Plan { headroom: true, ..full };
    let everything = Plan { exponents: true, ..headroom };
    [("norms", norms), ("full", full), ("full + headroom", headroom), ("everything", everything)]
}

type Run = Box<dyn Fn(&Tensor, &Context) + Sync + Send>;

struct Case {
    name: String,
    run: Run,
    seconds: Vec<f64>,
    cpu_seconds: Vec<f64>,
}

impl Case {
    fn new(name: &str, run: impl Fn(&Tensor, &Context) + Sync + Send + 'static) -> Self {
        Self { name: name.to_owned(), run: Box::new(run), seconds: Vec::new(), cpu_seconds: Vec::new() }
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Processor time of all threads of this process so far; NaN where the system does not tell. Beside other work it says
/// more than the clock on the wall.
fn cpu_seconds() -> f64 {
    let threads = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let nanoseconds = threads.filter_map(|thread| {
        let told = std::fs::read_to_string(thread.path().join("schedstat")).ok()?;
        told.split(' ').next()?.parse::<f64>().ok()
    });
    let sum = nanoseconds.sum::<f64>() / 1e9;
    if sum > 0.0 { sum } else { f64::NAN }
}

/// The wrapping sum of all words of the mapping: as little as can be done with every byte.
fn plain_read(tensor: &Tensor) -> u64 {
    let (file, bytes) = tensor.contiguous_bytes().expect("the tensor is one piece");
    let mapped = file.mapped(bytes).expect("the file is mapped");
    let sums = (0..mapped.len().div_ceil(1 << 22)).into_par_iter().map(|part| {
        let part = &mapped[part << 22..mapped.len().min((part + 1) << 22)];
        part.as_chunks().0.iter().fold(0u64, |sum, &word| sum.wrapping_add(u64::from_le_bytes(word)))
    });
    sums.collect::<Vec<_>>().into_iter().fold(0, u64::wrapping_add)
}

/// Bytes before the data: a safetensors header padded to this length.
const HEADER: usize = 256;

/// A safetensors file with one matrix of roughly normal numbers, standard deviation 0.02. Made once.
fn make_file(dtype: DType, megabytes: u64) -> PathBuf {
    let size = dtype.size().expect("floats have whole bytes");
    let rows = megabytes * 1_000_000 / size / COLUMNS;
    let length = rows * COLUMNS * size;
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR"));
    std::fs::create_dir_all(directory).expect("the target directory is writable");
    let path = directory.join(format!("bench-{dtype}-{megabytes}.safetensors"));
    if path.metadata().is_ok_and(|metadata| metadata.len() == length + HEADER as u64) {
        // Once through, so that the page cache holds it.
        std::io::copy(&mut File::open(&path).expect("it is there"), &mut std::io::sink())
            .expect("it can be read");
        return path;
    }
    let mut out = BufWriter::with_capacity(1 << 20, File::create(&path).expect("the directory is writable"));
    let header = format!(
        r#"{{"weight":{{"dtype":"{}","shape":[{rows},{COLUMNS}],"data_offsets":[0,{length}]}}}}"#,
        dtype.name()
    );
    out.write_all(&(HEADER as u64 - 8).to_le_bytes()).expect("the disk has room");
    out.write_all(format!("{header:<width$}", width = HEADER - 8).as_bytes()).expect("the disk has room");
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    for _ in 0..rows * COLUMNS {
        let value = roughly_normal(&mut state) * 0.02;
        let written = match dtype {
            DType::F32 => out.write_all(&value.to_le_bytes()),
            _ => out.write_all(&half::bf16::from_f32(value).to_le_bytes()),
        };
        written.expect("the disk has room");
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

/// Looks at the anonymous memory of this process all the time: the system keeps no peak of it.
struct Watch {
    peak: Arc<AtomicU64>,
    start: u64,
}

impl Watch {
    fn start() -> Self {
        let watch = Self { peak: Arc::default(), start: anonymous_kb(Path::new(OURSELVES)) };
        let peak = Arc::downgrade(&watch.peak);
        std::thread::spawn(move || {
            while let Some(peak) = peak.upgrade() {
                peak.fetch_max(anonymous_kb(Path::new(OURSELVES)), Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        watch
    }

    fn peak_mb(&self) -> u64 {
        self.peak.load(Ordering::Relaxed).saturating_sub(self.start).div_ceil(1000)
    }
}

/// What the system tells of this process.
const OURSELVES: &str = "/proc/self/status";

/// `RssAnon` of the `status` of a process; 0 where there is none.
fn anonymous_kb(status: &Path) -> u64 {
    let status = std::fs::read_to_string(status).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap_or_default();
    line.trim().trim_end_matches(" kB").parse().unwrap_or_default()
}

/// The same statistics by `PyTorch` and numpy.
fn peers(path: &Path) {
    let Ok(python) = std::env::var("FLASHPOINT_PYTHON") else {
        println!("\n  PEERS NOT MEASURED: set FLASHPOINT_PYTHON to a Python with torch and numpy");
        return;
    };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/peers.py");
    match Command::new(python).arg(script).arg(path).status() {
        Ok(status) if status.success() => {}
        outcome => println!("\n  PEERS NOT MEASURED: {outcome:?}"),
    }
}
