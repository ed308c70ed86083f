//! Ctrl-C ends with what is known so far.
#![cfg(unix)]

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Bytes of one tensor; a file of holes takes no room on disk and as long to read as any.
const TENSOR: u64 = 1 << 30;

/// Tensors: more than any machine reads before the signal comes.
const TENSORS: u64 = 64;

/// From the signal to the end.
const PATIENCE: Duration = Duration::from_mins(1);

/// A small tensor that is read at once, and a long work behind it.
fn large_file(path: &Path) {
    let mut header = serde_json::Map::new();
    for index in 0..TENSORS {
        let offsets = [index * TENSOR, (index + 1) * TENSOR];
        header.insert(
            format!("layers.{index}.weight"),
            serde_json::json!({"dtype": "F32", "shape": [TENSOR / 4 / 1024, 1024], "data_offsets": offsets}),
        );
    }
    let header = serde_json::to_vec(&header).expect("JSON");
    let mut file = File::create(path).expect("a file can be made");
    file.write_all(&(header.len() as u64).to_le_bytes()).expect("it can be written");
    file.write_all(&header).expect("it can be written");
    file.set_len(8 + header.len() as u64 + TENSORS * TENSOR).expect("holes can be made");
}

fn start(arguments: &[&str]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_flashpoint"))
        .args(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary under test can be started")
}

fn interrupt(child: &Child) {
    let sent = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(sent.expect("kill can be started").success());
}

#[test]
fn an_interrupted_command_ends_soon_and_says_what_it_knows_and_that_it_was_interrupted() {
    let folder = tempfile::tempdir().expect("a temporary directory can be made");
    let path = folder.path().join("large.safetensors");
    large_file(&path);
    let path = path.to_str().expect("temporary paths are UTF-8");
    let page = folder.path().join("report.html");
    let page_name = page.to_str().expect("temporary paths are UTF-8");
    let mut commands = vec![vec!["inspect", path, "--measure", "norms", "--no-mmap", "--output", page_name]];
    commands.push(vec!["gate", path, "--measure", "norms", "--no-mmap", "--no-digest"]);
    for command in commands {
        let child = start(&command);
        std::thread::sleep(Duration::from_millis(700));
        interrupt(&child);
        let signal = Instant::now();
        let output = child.wait_with_output().expect("it ends");
        assert!(signal.elapsed() < PATIENCE, "{command:?} took {:?}", signal.elapsed());
        assert_eq!(output.status.code(), Some(130), "{command:?}");
        let text = String::from_utf8(output.stdout).expect("reports are UTF-8");
        assert!(text.contains("before everything was measured"), "{command:?}: {text}");
        assert!(text.contains("64 tensors"), "{command:?}: what is known is told: {text}");
        assert!(!text.contains("gate: pass"), "{text}");
    }
    let page = std::fs::read_to_string(&page).expect("the page was written too");
    assert!(page.contains("interrupted before everything was measured"), "the page says so");
    assert!(page.contains("layers.63.weight"), "every tensor is on the page");
}
