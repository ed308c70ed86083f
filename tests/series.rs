//! A run is measured as a stream: the same report for any number of threads, and no more than two checkpoints at hand.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// Elements of the large tensor: more than one block of 2^20.
const ELEMENTS: usize = (1 << 20) + 37;

#[test]
fn a_run_is_reported_alike_at_one_two_and_five_threads() {
    let folder = tempfile::tempdir().expect("a temporary directory can be made");
    for (index, step) in [10, 20, 30].into_iter().enumerate() {
        write(&folder.path().join(format!("checkpoint-{step}.safetensors")), index as u32);
    }
    for run in
        [folder.path(), Path::new("fixtures/rules/FP301/fires-above-the-edge"), Path::new(WITH_MOMENTS)]
    {
        let reference = postmortem(run, "1");
        assert!(reference.len() > 1000, "{}: there is nothing to compare", run.display());
        for threads in ["2", "5"] {
            assert!(postmortem(run, threads) == reference, "{}: {threads} threads change it", run.display());
        }
    }
}

/// A run whose checkpoints hold moments.
const WITH_MOMENTS: &str = "fixtures/runs/second-moment-memorised-easy";

#[test]
#[cfg(target_os = "linux")]
fn no_more_than_two_checkpoints_are_mapped_and_memory_does_not_grow_with_their_number() {
    let folder = tempfile::tempdir().expect("a temporary directory can be made");
    let original = folder.path().join("original");
    write(&original, 1);
    let few = watch(&linked(folder.path(), &original, 3));
    let many = watch(&linked(folder.path(), &original, 24));
    assert_eq!(many.checkpoints, 24);
    assert_eq!(many.mapped, 2, "checkpoints mapped at once");
    // Twenty-one checkpoints more, of four megabytes each: one that stayed would be seen, let alone all of them.
    let grown = many.anonymous.saturating_sub(few.anonymous);
    assert!(grown < 8 << 20, "{} bytes with 3 checkpoints, {} with 24", few.anonymous, many.anonymous);
}

/// A run of `count` links to one file.
#[cfg(target_os = "linux")]
fn linked(folder: &Path, original: &Path, count: usize) -> std::path::PathBuf {
    let run = folder.join(format!("run-of-{count}"));
    std::fs::create_dir(&run).expect("a directory can be made");
    for index in 1..=count {
        let path = run.join(format!("checkpoint-{}.safetensors", 10 * index));
        std::fs::hard_link(original, path).expect("a link can be made");
    }
    run
}

/// What was seen of a process while it measured a run.
#[cfg(target_os = "linux")]
struct Seen {
    checkpoints: usize,
    mapped: usize,
    anonymous: u64,
}

#[cfg(target_os = "linux")]
fn watch(run: &Path) -> Seen {
    let mut child = Command::new(env!("CARGO_BIN_EXE_flashpoint"))
        .args(["postmortem", "--threads", "1", "--measure", "norms", "--format", "json", "--output"])
        .arg(format!("json={}.json", run.display()))
        .arg(run)
        .stdout(Stdio::null())
        .spawn()
        .expect("the binary starts");
    let mut seen = Seen { checkpoints: 0, mapped: 0, anonymous: 0 };
    let prefix = format!("{}/", run.to_str().expect("temporary paths are UTF-8"));
    let status = loop {
        let of =
            |file: &str| std::fs::read_to_string(format!("/proc/{}/{file}", child.id())).unwrap_or_default();
        let maps = of("maps");
        let mapped: BTreeSet<&str> =
            maps.lines().filter_map(|line| Some(&line[line.find(&prefix)?..])).collect();
        seen.mapped = seen.mapped.max(mapped.len());
        let status = of("status");
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap_or("0 kB");
        let kilobytes: u64 = line.trim().trim_end_matches(" kB").parse().expect("RssAnon is a number");
        seen.anonymous = seen.anonymous.max(kilobytes << 10);
        if let Some(status) = child.try_wait().expect("a child can be waited for") {
            break status;
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    assert_eq!(status.code(), Some(0));
    let report = std::fs::read(run.with_extension("json")).expect("the report was written");
    let report: serde_json::Value = serde_json::from_slice(&report).expect("the report is JSON");
    seen.checkpoints = report["checkpoints"].as_array().map_or(0, Vec::len);
    seen
}

fn postmortem(run: &Path, threads: &str) -> Vec<u8> {
    let output = Command::new(env!("CARGO_BIN_EXE_flashpoint"))
        .args(["postmortem", "--format", "json", "--threads", threads])
        .arg(run)
        .output()
        .expect("the binary starts");
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// A safetensors file of one large matrix, whose elements depend on `seed`.
fn write(path: &Path, seed: u32) {
    let bytes = 4 * ELEMENTS;
    let header = format!(
        r#"{{"layers.0.weight":{{"dtype":"F32","shape":[1,{ELEMENTS}],"data_offsets":[0,{bytes}]}}}}"#
    );
    let mut contents = Vec::with_capacity(bytes + 128);
    contents.extend((header.len() as u64).to_le_bytes());
    contents.extend(header.as_bytes());
    let mut state = seed;
    for _ in 0..ELEMENTS {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        contents.extend(((f64::from(state) / f64::from(u32::MAX) - 0.5) as f32).to_le_bytes());
    }
    let mut file = std::fs::File::create(path).expect("a file can be made");
    file.write_all(&contents).expect("a file can be written");
}

/// Weights come twice: as the later ones, along with their statistics, and as the earlier ones.
#[test]
fn no_byte_of_a_run_of_weights_is_read_more_than_twice() {
    use flashpoint::analysis::model::MeasureLevel;
    use flashpoint::analysis::run::{Request, measure};
    use flashpoint::checkpoint::NameRules;
    use flashpoint::context::Context;
    use flashpoint::history::{History, Options};

    let folder = tempfile::tempdir().expect("a temporary directory can be made");
    for (index, step) in [10, 20, 30, 40].into_iter().enumerate() {
        write(&folder.path().join(format!("checkpoint-{step}.safetensors")), index as u32);
    }
    let (context, names) = (Context::default(), NameRules::default());
    let history = History::read(folder.path(), &Options::default(), &context).expect("there are checkpoints");
    let request = Request { level: MeasureLevel::Norms, names: &names };
    let measured = measure(&history, &request, &context);
    assert_eq!((measured.errors.len(), measured.analysis.intervals.len()), (0, 3));
    let (read, announced) = context.progress.read();
    assert_eq!(read, announced, "what was announced is what was read");
    // Four checkpoints as they come, and all but the last as the one before.
    assert_eq!(read, 7 * 4 * ELEMENTS as u64);
}
