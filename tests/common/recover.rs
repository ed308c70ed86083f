//! What the tests of repair, convert and resume share.

#![allow(dead_code, reason = "each test file uses a part")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use flashpoint::checkpoint::{Checkpoint, NameRules};
use flashpoint::context::Context;

/// Runs the binary under test.
pub fn flashpoint(arguments: &[&str]) -> Output {
    command(arguments).output().expect("the binary under test can be started")
}

pub fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_flashpoint"));
    command.args(arguments);
    command
}

/// Stdout, then stderr.
pub fn told(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

pub fn text(path: &Path) -> &str {
    path.to_str().expect("temporary paths are UTF-8")
}

/// A checkpoint that must be readable.
pub fn read(path: &Path) -> Checkpoint {
    Checkpoint::read(path, &NameRules::default(), &Context::default())
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The elements of a tensor by its stored name.
pub fn elements(checkpoint: &Checkpoint, name: &str) -> Vec<f64> {
    let found = checkpoint.tensors.iter().find(|tensor| tensor.name == name);
    let tensor = found.unwrap_or_else(|| panic!("{name} is there")).tensor.as_ref().expect("it can be read");
    let mut values = Vec::new();
    tensor.read_f64(0..tensor.count(), &mut values).expect("it can be read");
    values
}

/// The stored bytes of a tensor.
pub fn bytes(checkpoint: &Checkpoint, index: usize) -> Vec<u8> {
    let tensor = checkpoint.tensors[index].tensor.as_ref().expect("it can be read");
    let mut buffer = Vec::new();
    tensor.bytes(0..tensor.count(), &mut buffer).expect("it can be read").to_vec()
}

/// Copies a directory with everything in it.
pub fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a directory can be made");
    for entry in std::fs::read_dir(from).expect("a directory can be listed") {
        let path = entry.expect("a listed entry can be read").path();
        let target = to.join(path.file_name().expect("it has a name"));
        if path.is_dir() {
            copy(&path, &target);
        } else {
            std::fs::copy(&path, &target).expect("a file can be copied");
        }
    }
}

/// Every file below `folder`, by its path in it, with its bytes.
pub fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    let mut open = vec![folder.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(&folder).expect("a directory can be listed") {
            let path = entry.expect("a listed entry can be read").path();
            if path.is_dir() {
                open.push(path);
            } else {
                let bytes = std::fs::read(&path).expect("a file can be read");
                found.push((path.display().to_string(), bytes));
            }
        }
    }
    let prefix = format!("{}/", folder.display());
    for (name, _) in &mut found {
        *name = name.strip_prefix(&prefix).unwrap_or(name).to_owned();
    }
    found.sort();
    found
}

/// A Python with torch and safetensors, or, said loudly, none.
pub fn python(what: &str) -> Option<PathBuf> {
    let python = std::env::var("FLASHPOINT_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let found = Command::new(&python)
        .args(["-c", "import torch, safetensors"])
        .output()
        .is_ok_and(|output| output.status.success());
    if !found {
        eprintln!("SKIPPED {what}: no Python with torch and safetensors; set FLASHPOINT_PYTHON");
    }
    found.then(|| python.into())
}

/// Runs a Python program with arguments; its stdout.
pub fn run_python(python: &Path, program: &str, arguments: &[&str]) -> String {
    let output = Command::new(python).args(["-c", program]).args(arguments).output();
    let output = output.expect("python can be started");
    assert!(output.status.success(), "{}", told(&output));
    String::from_utf8(output.stdout).expect("text")
}
