//! One run of the binary: how it ended, how long it took, what memory it held, and what its report says.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use flashpoint::checkpoint::{Checkpoint, NameRules};
use flashpoint::context::Context;
use flashpoint::tensor::Kind;
use serde_json::Value;

use super::expectation::Case;

/// Processor time that an input may take, in a release build; the one under test is hardly optimised. Time on the clock
/// says as much about what else the machine does.
const MOST_TIME: Duration = Duration::from_secs(2);
const DEBUG_FACTOR: u32 = if cfg!(debug_assertions) { 4 } else { 1 };

/// Anonymous memory: 64 MB, and the block of 2^20 elements that each thread has in hand.
const MOST_MEMORY: u64 = (64 << 20) + BLOCK;
const BLOCK: u64 = THREADS * (12 << 20);
const THREADS: u64 = 2;

/// Rules whose findings are compared; the others are not about files.
const JUDGED: &[&str] = &["FP901", "FP904"];

pub struct Run {
    path: PathBuf,
    code: Option<i32>,
    time: Duration,
    memory: u64,
    report: Result<Value, String>,
    stderr: String,
}

/// Inspects `path` and looks on.
pub fn run(path: &Path, extra: &[&str]) -> Run {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let output = |name: &str| std::fs::File::create(folder.path().join(name)).expect("a temporary file");
    let started = Instant::now();
    let mut child = Command::new(env!("CARGO_BIN_EXE_flashpoint"))
        .arg("inspect")
        .arg(path)
        .args(["--format", "json", "--threads", &THREADS.to_string()])
        .args(extra)
        .stdin(Stdio::null())
        .stdout(output("stdout"))
        .stderr(output("stderr"))
        .spawn()
        .expect("the binary under test can be started");
    let (code, memory, time) = watch(&mut child, started);
    let read = |name: &str| std::fs::read(folder.path().join(name)).expect("what was just written");
    let stderr = String::from_utf8_lossy(&read("stderr")).into_owned();
    let report = serde_json::from_slice(&read("stdout")).map_err(|error| error.to_string());
    Run { path: path.to_owned(), code, time, memory, report, stderr }
}

/// What is wrong with how a command ended that writes something of `path`: one of `codes`, in time, in bounded memory.
pub fn faults_of(arguments: &[&OsStr], codes: &[i32], allowance: u64) -> Vec<String> {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let output = |name: &str| std::fs::File::create(folder.path().join(name)).expect("a temporary file");
    let started = Instant::now();
    let mut child = Command::new(env!("CARGO_BIN_EXE_flashpoint"))
        .args(arguments)
        .args(["--threads", &THREADS.to_string(), "--quiet"])
        .stdin(Stdio::null())
        .stdout(output("stdout"))
        .stderr(output("stderr"))
        .spawn()
        .expect("the binary under test can be started");
    let (code, memory, time) = watch(&mut child, started);
    let stderr =
        String::from_utf8_lossy(&std::fs::read(folder.path().join("stderr")).expect("what was written"))
            .into_owned();
    let mut faults = Vec::new();
    if !code.is_some_and(|code| codes.contains(&code)) {
        faults.push(format!("exit {code:?}, expected one of {codes:?}; {}", shortened(&stderr)));
    }
    if time > DEBUG_FACTOR * MOST_TIME {
        faults.push(format!("{time:?} of processor time are too much"));
    }
    if memory > MOST_MEMORY + (allowance << 20) {
        faults.push(format!("{} MB are too much", memory >> 20));
    }
    if stderr.contains("panicked") {
        faults.push(shortened(&stderr));
    }
    faults
}

/// Waits for the end, and takes the largest anonymous memory on the way.
fn watch(child: &mut Child, started: Instant) -> (Option<i32>, u64, Duration) {
    let (mut memory, mut time) = (0, Duration::ZERO);
    loop {
        time = time.max(processor_time(child.id()));
        memory = memory.max(anonymous_memory(child.id()));
        if let Some(status) = child.try_wait().expect("a child can be waited for") {
            return (status.code(), memory, time);
        }
        if started.elapsed() > 10 * DEBUG_FACTOR * MOST_TIME {
            child.kill().expect("a child can be ended");
            child.wait().expect("a child can be waited for");
            return (None, memory, started.elapsed());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Bytes that are not those of mapped files; 0 where the system does not say.
fn anonymous_memory(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap_or_default();
    line.trim().trim_end_matches(" kB").parse::<u64>().map_or(0, |kilobytes| kilobytes << 10)
}

/// What all its threads have taken, in hundredths of a second; 0 where the system does not say.
fn processor_time(process: u32) -> Duration {
    let line = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    let fields = line.rsplit(") ").next().unwrap_or_default().split(' ').collect::<Vec<_>>();
    let ticks = |index: usize| fields.get(index).and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
    Duration::from_millis(10 * (ticks(11) + ticks(12)))
}

impl Run {
    /// Everything in which it is not what the case expects.
    pub fn faults(&self, case: &Case) -> Vec<String> {
        let mut faults = Vec::new();
        if self.code != Some(case.expected.exit) {
            faults.push(format!(
                "exit {:?}, expected {}; {}",
                self.code,
                case.expected.exit,
                shortened(&self.stderr)
            ));
        }
        if self.time > DEBUG_FACTOR * MOST_TIME {
            faults.push(format!("{:?} of processor time are too much", self.time));
        }
        if self.memory > MOST_MEMORY + (case.allowance << 20) {
            faults.push(format!("{} MB are too much", self.memory >> 20));
        }
        if self.stderr.contains("panicked") {
            faults.push(shortened(&self.stderr));
        }
        match &self.report {
            Ok(report) => {
                compare(report, case, &mut faults);
                compare_listed(&self.path, report, case, &mut faults);
            }
            Err(error) => faults.push(format!("no report: {error}; {}", shortened(&self.stderr))),
        }
        if std::env::var_os("FLASHPOINT_HOSTILE_FIGURES").is_some() {
            eprintln!("{}: {:?}, {} MB", case.name, self.time, self.memory >> 20);
        }
        faults
    }
}

fn shortened(text: &str) -> String {
    text.chars().take(300).collect()
}

fn compare(report: &Value, case: &Case, faults: &mut Vec<String>) {
    let expected = &case.expected;
    let checkpoints = report["checkpoints"].as_array().map(Vec::as_slice).unwrap_or_default();
    let problems = checkpoints.iter().flat_map(|checkpoint| list(&checkpoint["problems"]));
    let problems: Vec<&Value> = problems.chain(list(&report["unread"])).collect();
    let kinds: BTreeSet<&str> = problems.iter().filter_map(|problem| problem["kind"].as_str()).collect();
    if kinds != expected.kinds {
        let told: Vec<_> = problems.iter().take(4).map(|problem| shortened(&problem.to_string())).collect();
        faults.push(format!("problems {kinds:?}, expected {:?}: {told:?}", expected.kinds));
    }
    let tensors: Vec<&Value> =
        checkpoints.iter().flat_map(|checkpoint| list(&checkpoint["tensors"])).collect();
    let read: Vec<(String, f64)> = tensors.iter().filter_map(|tensor| sum(tensor)).collect();
    if read != expected.tensors {
        faults.push(format!("read {}, expected {}", some(&read), some(&expected.tensors)));
    }
    let findings = list(&report["findings"]).filter_map(|finding| finding["rule"].as_str());
    let findings: BTreeSet<&str> = findings.filter(|rule| JUDGED.contains(rule)).collect();
    if findings != expected.findings {
        faults.push(format!("findings {findings:?}, expected {:?}", expected.findings));
    }
}

/// Tensors that are listed without being read: the report has the sentence, and the kind behind it is the library's.
fn compare_listed(path: &Path, report: &Value, case: &Case, faults: &mut Vec<String>) {
    let listed = &case.expected.listed;
    if listed.is_empty() {
        return;
    }
    let checkpoint = Checkpoint::read(path, &NameRules::default(), &Context::default());
    let kind_of = |name: &str| -> Option<String> {
        let found = checkpoint.as_ref().ok()?.tensors.iter().find(|tensor| tensor.name == name)?;
        match &found.tensor {
            Err(error) => Some(error.kind.name()),
            // Its place is known and its elements have no number each.
            Ok(tensor) => (tensor.dtype.kind() == Kind::Opaque).then(|| "opaque".to_owned()),
        }
    };
    let tensors: Vec<&Value> =
        list(&report["checkpoints"]).flat_map(|checkpoint| list(&checkpoint["tensors"])).collect();
    for &(name, kind, reason) in listed {
        let found = tensors.iter().find(|tensor| tensor["name"] == name);
        let why = found.and_then(|tensor| tensor["statistics"]["not_measured"].as_str()).unwrap_or_default();
        if reason.is_empty() || !why.starts_with(reason) {
            faults.push(format!("{name} is not listed because of {reason:?}: {why:?}"));
        }
        let actual = kind_of(name);
        if actual.as_deref() != Some(kind) {
            faults.push(format!("{name} is listed because of the kind {actual:?}, expected {kind:?}"));
        }
    }
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// Name and Σ|x| of a tensor whose elements were read; of one without elements it is 0.
fn sum(tensor: &Value) -> Option<(String, f64)> {
    let name = tensor["name"].as_str()?.to_owned();
    let statistics = tensor["statistics"].get("value")?;
    Some((name, statistics["l1"]["value"].as_f64().unwrap_or(0.0)))
}

fn some(tensors: &[(String, f64)]) -> String {
    let first: Vec<_> =
        tensors.iter().take(5).map(|(name, sum)| format!("{} {sum}", shortened(name))).collect();
    format!("{} tensors ({})", tensors.len(), first.join(", "))
}
