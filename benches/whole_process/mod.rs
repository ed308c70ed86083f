//! The whole program, run as a user runs it: how long it takes to list many tensors, how much memory two large ones take.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Tensors of the file that is listed.
const LISTED: usize = 10_000;
/// Runs of which the median is told.
const RUNS: usize = 15;
/// Tensors of the largest size whose pages are compared.
const LARGEST: u64 = 4 << 30;

/// Lists 10,000 small tensors: wall time of the process, from its start to its end.
pub fn listing(directory: &Path) {
    let path = many_tensors(directory);
    println!("\n{LISTED} tensors, inspect --measure list, whole process, {RUNS} runs");
    for format in ["terminal", "json"] {
        let mut seconds: Vec<f64> = (0..RUNS)
            .map(|_| {
                let start = Instant::now();
                let status = flashpoint(&path, &["--measure", "list", "--format", format]).status();
                assert!(status.expect("the program was built with its benchmarks").success());
                start.elapsed().as_secs_f64()
            })
            .collect();
        seconds.sort_by(f64::total_cmp);
        println!("  {format:<10} median {:.3} s, fastest {:.3} s", seconds[RUNS / 2], seconds[0]);
    }
}

/// Measures two large tensors of one file: peak anonymous memory of the process.
pub fn memory(directory: &Path, megabytes: u64) {
    println!("\ntwo tensors in one file, inspect --measure stats, peak anonymous memory of the process");
    for (what, bytes, sparse) in [("zeros", LARGEST, true), ("numbers", megabytes * 1_000_000, false)] {
        let path = pair(directory, bytes / 4096 * 4096, sparse);
        for reading in ["mapped", "--no-mmap"] {
            let mut command = flashpoint(&path, &["--measure", "stats", "--quiet"]);
            command.args((reading == "--no-mmap").then_some(reading));
            let start = Instant::now();
            let peak = peak_mb(&mut command);
            let seconds = start.elapsed().as_secs_f64();
            println!(
                "  {what:<8} 2 x {:5.2} GB {reading:<10} {peak:4} MB {seconds:6.1} s",
                bytes as f64 / 1e9
            );
        }
    }
}

fn flashpoint(path: &Path, options: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_flashpoint"));
    command.arg("inspect").arg(path).args(options).stdout(Stdio::null());
    command
}

/// Looks at the anonymous memory of the process all the time: the system keeps no peak of it.
fn peak_mb(command: &mut Command) -> u64 {
    let mut child = command.spawn().expect("the program was built with its benchmarks");
    let status = PathBuf::from(format!("/proc/{}/status", child.id()));
    let mut peak = 0;
    while child.try_wait().expect("it is our child").is_none() {
        peak = peak.max(super::anonymous_kb(&status));
        std::thread::sleep(Duration::from_millis(2));
    }
    peak.div_ceil(1000)
}

/// A safetensors file of decoder layers with matrices of 8 by 8. Made once.
fn many_tensors(directory: &Path) -> PathBuf {
    const LEAVES: [&str; 9] = [
        "input_layernorm",
        "self_attn.q_proj",
        "self_attn.k_proj",
        "self_attn.v_proj",
        "self_attn.o_proj",
        "post_attention_layernorm",
        "mlp.gate_proj",
        "mlp.up_proj",
        "mlp.down_proj",
    ];
    let path = directory.join("bench-many.safetensors");
    if path.exists() {
        return path;
    }
    let mut end = 0;
    let entries: Vec<String> = (0..LISTED)
        .map(|index| {
            let leaf = LEAVES[index % LEAVES.len()];
            let shape = if leaf.ends_with("norm") { "[8]" } else { "[8,8]" };
            let start = end;
            end += if leaf.ends_with("norm") { 32 } else { 256 };
            format!(
                r#""model.layers.{}.{leaf}.weight":{{"dtype":"F32","shape":{shape},"data_offsets":[{start},{end}]}}"#,
                index / LEAVES.len()
            )
        })
        .collect();
    let mut out = create(&path, &format!("{{{}}}", entries.join(",")));
    out.write_all(&vec![0; end]).expect("the disk has room");
    finish(out, &path);
    path
}

/// A safetensors file of two tensors of `bytes` each: a hole in the file, or pages that all differ. Made once.
fn pair(directory: &Path, bytes: u64, sparse: bool) -> PathBuf {
    let path = directory.join(format!("bench-pair-{bytes}-{sparse}.safetensors"));
    if path.exists() {
        return path;
    }
    let entry = |name: &str, start: u64| {
        let (rows, end) = (bytes / 4096, start + bytes);
        format!(r#""{name}":{{"dtype":"F32","shape":[{rows},1024],"data_offsets":[{start},{end}]}}"#)
    };
    let header = format!("{{{},{}}}", entry("one.weight", 0), entry("two.weight", bytes));
    let mut out = create(&path, &header);
    if sparse {
        out.flush().expect("the disk has room");
        let file = out.get_ref();
        let length = file.metadata().expect("it was just made").len() + 2 * bytes;
        file.set_len(length).expect("the file system has files with holes");
        finish(out, &path);
        return path;
    }
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    for _ in 0..2 * bytes / 8 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        // Two floats between 0 and 2.
        out.write_all(&(state & 0x3fff_ffff_3fff_ffff).to_le_bytes()).expect("the disk has room");
    }
    finish(out, &path);
    path
}

/// What `path` will be: a file that begins with `header`, padded to whole words.
fn create(path: &Path, header: &str) -> BufWriter<File> {
    let file = File::create(path.with_extension("part")).expect("the directory is writable");
    let mut out = BufWriter::with_capacity(1 << 20, file);
    let length = header.len().next_multiple_of(8);
    let padded = [header.as_bytes(), &vec![b' '; length - header.len()]].concat();
    out.write_all(&(length as u64).to_le_bytes()).expect("the disk has room");
    out.write_all(&padded).expect("the disk has room");
    out
}

/// Gives the file its name, under which there is never half of one.
fn finish(mut out: BufWriter<File>, path: &Path) {
    out.flush().expect("the disk has room");
    std::fs::rename(path.with_extension("part"), path).expect("the directory is writable");
}
