//! Hostile inputs, each named for the lie it tells, and what flashpoint must say about it.
//!
//! The table is the specification: one module a container. Small inputs are kept in `fixtures/hostile`; a test holds them
//! against the table both ways (`FLASHPOINT_WRITE_FIXTURES=1` writes them anew). Survival is that of the binary: it ends
//! by itself, in time, with the exit code and the report of the table, and within a bounded memory.

#[allow(dead_code, reason = "the crate's own tests use more of it")]
#[path = "../../src/format/craft.rs"]
mod craft;
mod expectation;
mod general;
mod legacy;
mod numpy;
mod pickle;
mod running;
mod safetensors;
mod shards;
mod side_files;
mod tensors;
mod zip;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use expectation::{Case, Input};
use flashpoint::checkpoint::{Checkpoint, NameRules};
use flashpoint::context::Context;

fn cases() -> Vec<Case> {
    let modules = [
        general::cases(),
        safetensors::cases(),
        shards::cases(),
        zip::cases(),
        pickle::cases(),
        tensors::cases(),
        legacy::cases(),
        numpy::cases(),
        side_files::cases(),
    ];
    modules.into_iter().flatten().collect()
}

const KEPT: &str = "fixtures/hostile";

/// Bytes that the kept inputs may have together.
const MOST_KEPT: usize = 300_000;

#[test]
fn every_hostile_input_comes_to_its_expected_end() {
    let only = std::env::var("FLASHPOINT_HOSTILE").unwrap_or_default();
    let mut wrong = Vec::new();
    for case in cases().iter().filter(|case| case.name.contains(&only)) {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let path = match case.input {
            Input::Made(make) => make(folder.path()),
            _ => Path::new(KEPT).join(case.name),
        };
        for extra in [&[][..], &["--no-mmap"]] {
            let faults = running::run(&path, extra).faults(case);
            wrong.extend(faults.into_iter().map(|fault| format!("{} {extra:?}: {fault}", case.name)));
        }
    }
    assert!(wrong.is_empty(), "{} deviations:\n{}", wrong.len(), wrong.join("\n"));
}

/// Edits that touch optimizer state and numbers, where there are any.
const REPAIR: [&str; 3] = ["--reset-moments", "--lr-scale", "0.5"];

/// Whether something of it is lost, or would run when it is loaded.
fn is_unfit(path: &Path) -> bool {
    let read = Checkpoint::read(path, &NameRules::default(), &Context::default());
    let Ok(checkpoint) = read else { return true };
    let of_tensors =
        checkpoint.tensors.iter().filter_map(|tensor| tensor.tensor.as_ref().err().map(AsRef::as_ref));
    checkpoint.problems.iter().chain(of_tensors).any(|error| error.kind.is_damage())
}

#[test]
fn convert_and_repair_refuse_what_is_damaged_and_leave_nothing_half_written() {
    let only = std::env::var("FLASHPOINT_HOSTILE").unwrap_or_default();
    let mut wrong = Vec::new();
    for case in cases().iter().filter(|case| case.name.contains(&only)) {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let path = match case.input {
            Input::Made(make) => make(folder.path()),
            _ => Path::new(KEPT).join(case.name),
        };
        let place = tempfile::tempdir().expect("a temporary directory");
        let (converted, repaired) = (place.path().join("x.safetensors"), place.path().join("fixed"));
        let unfit = is_unfit(&path);
        let codes: &[i32] = if unfit { &[2] } else { &[0, 1, 2] };
        let commands = [("convert", &converted, &[][..]), ("repair", &repaired, &REPAIR)];
        // What is made anew each time is large or no file at all: one command that reads it through is enough.
        let is_made = matches!(case.input, Input::Made(_));
        for (command, target, edits) in commands.into_iter().take(if is_made { 1 } else { 2 }) {
            let mut arguments: Vec<&OsStr> = [command].map(OsStr::new).to_vec();
            arguments.extend([path.as_os_str(), OsStr::new("--to"), target.as_os_str()]);
            arguments.extend(edits.iter().map(OsStr::new));
            let mut faults = running::faults_of(&arguments, codes, case.allowance);
            if unfit && target.exists() {
                faults.push("something was written".to_owned());
            }
            if target.exists()
                && Checkpoint::read(target, &NameRules::default(), &Context::default()).is_err()
            {
                faults.push("what was written cannot be read".to_owned());
            }
            wrong.extend(faults.into_iter().map(|fault| format!("{command} {}: {fault}", case.name)));
        }
        let left = std::fs::read_dir(place.path()).expect("it can be listed").filter_map(Result::ok);
        let left = left.filter(|entry| entry.file_name().to_string_lossy().ends_with(".tmp"));
        wrong.extend(left.map(|entry| format!("{}: {:?} is left behind", case.name, entry.file_name())));
    }
    assert!(wrong.is_empty(), "{} deviations:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn every_kept_file_is_in_the_table_and_every_kept_input_of_the_table_is_a_file() {
    let mut expected: BTreeMap<PathBuf, Vec<u8>> = BTreeMap::new();
    for case in cases() {
        let path = Path::new(KEPT).join(case.name);
        match case.input {
            Input::File(bytes) => drop(expected.insert(path, bytes)),
            Input::Directory(files) => {
                expected.extend(files.into_iter().map(|(name, bytes)| (path.join(name), bytes)));
            }
            Input::Made(_) => {}
        }
    }
    let size: usize = expected.values().map(Vec::len).sum();
    assert!(size <= MOST_KEPT, "{size} bytes");
    if std::env::var_os("FLASHPOINT_WRITE_FIXTURES").is_some() {
        let _ = std::fs::remove_dir_all(KEPT);
        for (path, bytes) in &expected {
            std::fs::create_dir_all(path.parent().expect("it lies in a folder")).expect("a folder");
            std::fs::write(path, bytes).expect("a fixture can be written");
        }
    }
    let found = files_below(Path::new(KEPT));
    let names: BTreeSet<_> = expected.keys().cloned().collect();
    assert_eq!(found, names, "FLASHPOINT_WRITE_FIXTURES=1 writes them anew");
    for (path, bytes) in expected {
        let kept = std::fs::read(&path).expect("a listed file can be read");
        assert!(kept == bytes, "{}: FLASHPOINT_WRITE_FIXTURES=1 writes it anew", path.display());
    }
}

#[test]
fn every_input_has_a_name_of_its_own() {
    let mut names = BTreeSet::new();
    for case in cases() {
        assert!(names.insert(case.name), "{}", case.name);
    }
}

/// Kinds of error that no input alone can cause, and why.
const NOT_OF_INPUTS: &[(&str, &str)] = &[
    ("changed-while-reading", "needs a writer at the same time: src/files/input.rs tests it"),
    ("not-an-output", "is about where the report goes: tests/cli.rs"),
    ("unknown-rule", "is about an argument: tests/cli.rs"),
    ("unknown-command", "is about an argument: tests/cli.rs"),
    ("baseline", "is about which checkpoint is compared with which: tests/gate_mistakes.rs"),
    ("training-data", "is about examples to train on: src/train/data"),
    ("cannot-go-on", "is about a run of the trainer and other settings: tests/train.rs"),
    ("unpaired-arms", "is about an argument: tests/train.rs"),
    ("no-such-report", "is about an argument: tests/gate_formats.rs"),
    ("nothing-of-a-run", "is about where a run is looked for: tests/cli.rs"),
    ("no-elements", "is about which command is given a measurement: tests/diff.rs"),
    ("output-name", "is about where the measurement goes: tests/cli.rs"),
    ("no-such-column", "is about an argument: src/history/log/tests.rs"),
    ("no-device", "is about an argument and the machine: tests/gpu"),
    ("device", "is about the machine, and the processor does the work: tests/gpu"),
    ("unknown-architecture", "is about which networks are built: tests/network/"),
    ("unknown-heads", "is about which networks are built: tests/network/"),
    ("missing-parameters", "is about config and weights of different models: tests/network/"),
    ("parameter-shape", "is about config and weights of different models: tests/network/"),
    ("network-input", "is about an argument: tests/network/"),
    ("no-jacobian", "is about which command is given a measurement: tests/jacobian_command.rs"),
    ("probe", "is about an argument: tests/jacobian_command.rs"),
    ("already-there", "is about where a policy goes: tests/gate_mistakes.rs"),
    ("not-editable", "is about what a repair is asked for: tests/repair.rs"),
    (
        "not-done",
        "is about what a repair, a conversion or a resume is asked for: tests/repair.rs, tests/resume.rs",
    ),
];

#[test]
fn every_kind_of_error_has_a_hostile_input() {
    let source = std::fs::read_to_string("src/error.rs").expect("src/error.rs is there");
    let kinds = variants(&source, "ErrorKind");
    assert!(kinds.len() > 60, "{kinds:?}");
    let cases = cases();
    let caused: BTreeSet<&str> = cases.iter().flat_map(|case| case.expected.all_kinds()).collect();
    let excused: BTreeSet<&str> = NOT_OF_INPUTS.iter().map(|(kind, _)| *kind).collect();
    let without: Vec<_> = kinds
        .iter()
        .filter(|kind| !caused.contains(kind.as_str()) && !excused.contains(kind.as_str()))
        .collect();
    assert!(without.is_empty(), "no hostile input for {without:?}");
    let known: BTreeSet<&str> = kinds.iter().map(String::as_str).chain(["opaque"]).collect();
    let unknown: Vec<_> = caused.union(&excused).filter(|kind| !known.contains(**kind)).collect();
    assert!(unknown.is_empty(), "not kinds of error: {unknown:?}");
    assert!(caused.is_disjoint(&excused), "excused, and yet caused");
}

/// The variants of an enum of the source, as they are called in JSON.
fn variants(source: &str, name: &str) -> Vec<String> {
    let body = source.split(&format!("pub enum {name} {{")).nth(1).expect("the enum is there");
    let body = body.split("\n}").next().expect("the enum ends");
    let lines = body
        .lines()
        .filter_map(|line| line.strip_prefix("    "))
        .filter(|line| line.starts_with(char::is_uppercase));
    let word = |line: &str| {
        line.split(|character: char| !character.is_alphanumeric()).next().unwrap_or_default().to_owned()
    };
    lines.map(word).map(|word| kebab(&word)).collect()
}

fn kebab(name: &str) -> String {
    let mut written = String::new();
    for character in name.chars() {
        if character.is_uppercase() && !written.is_empty() {
            written.push('-');
        }
        written.extend(character.to_lowercase());
    }
    written
}

fn files_below(folder: &Path) -> BTreeSet<PathBuf> {
    let mut files = BTreeSet::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten() {
            let path = entry.expect("an entry of a folder").path();
            if path.is_dir() {
                folders.push(path);
            } else {
                files.insert(path);
            }
        }
    }
    files
}
