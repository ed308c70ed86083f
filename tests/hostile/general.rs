//! What is no checkpoint at all: pipes, devices, pages, half of a directory.

use std::path::{Path, PathBuf};

use super::expectation::*;
use super::safetensors::honest;

const A: (&str, f64) = ("a", 1.0);

fn model() -> (&'static str, Vec<u8>) {
    ("model.safetensors", honest("a", &[1.0]))
}

fn inside(folder: &Path, name: &str, files: &[(&str, Vec<u8>)]) -> PathBuf {
    let directory = folder.join(name);
    std::fs::create_dir_all(&directory).expect("a new directory");
    for (name, bytes) in files {
        write(&directory, name, bytes);
    }
    directory
}

pub fn cases() -> Vec<Case> {
    let mut cases = vec![
        file("general/empty.pt", Vec::new(), refused("empty-file")),
        file("general/zeros.bin", vec![0; 512], refused("unknown-format")),
        file(
            "general/git-lfs-pointer.bin",
            b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n".to_vec(),
            refused("git-lfs-pointer"),
        ),
        file("general/web-page.bin", b"<!DOCTYPE html><html>login</html>".to_vec(), refused("web-page")),
        file("general/plain-text.bin", b"access denied".to_vec(), refused("text-file")),
        file("general/json.bin", b"{\"a\": 1}".to_vec(), refused("text-file")),
        file("general/xml.bin", b"<?xml version=\"1.0\"?><Error/>".to_vec(), refused("text-file")),
        file(
            "general/gguf.gguf",
            [&b"GGUF\x03\0\0\0"[..], &[0xff; 16]].concat(),
            refused("unsupported-format"),
        ),
        file(
            "general/hdf5.h5",
            [&b"\x89HDF\r\n\x1a\n"[..], &[0; 16]].concat(),
            refused("unsupported-format"),
        ),
        file("general/gzip.bin", [&b"\x1f\x8b"[..], &[0; 16]].concat(), refused("unsupported-format")),
        made("general/directory-empty", Path::to_owned, refused("no-checkpoint")),
        directory(
            "general/directory-of-notes",
            vec![("notes.txt", b"hello".to_vec())],
            refused("no-checkpoint"),
        ),
        directory("general/directory-half-written.tmp", vec![model()], refused("incomplete")),
        directory("general/tmp-checkpoint-400", vec![model()], refused("incomplete")),
        directory(
            "general/distributed-without-metadata",
            vec![("__0_0.distcp", vec![0; 16])],
            refused("incomplete"),
        ),
        directory(
            "general/distributed",
            vec![("__0_0.distcp", vec![0; 16]), (".metadata", vec![0; 16])],
            refused("unsupported-format"),
        ),
        directory(
            "general/latest-of-a-tag-that-is-missing",
            vec![("latest", b"global_step7".to_vec())],
            refused("incomplete"),
        ),
        directory(
            "general/latest-up-the-tree",
            vec![("latest", b"../../etc".to_vec()), model()],
            reads(&[A]),
        ),
        directory(
            "general/optimizer-without-its-model",
            vec![("optimizer.pt", super::zip::honest())],
            refused("incomplete"),
        ),
        directory(
            "general/trainer-without-its-state",
            vec![model(), ("optimizer.pt", super::zip::honest()), ("scheduler.pt", super::zip::honest())],
            damaged(&["incomplete"], &[A, ("a", 3.0), ("a", 3.0)]),
        ),
        directory(
            "general/several-models",
            vec![("one.safetensors", honest("a", &[1.0])), ("two.safetensors", honest("a", &[1.0]))],
            refused("several-checkpoints"),
        ),
        made("general/not-there", |folder| folder.join("not-there"), refused("not-found")),
        made(
            "general/directory-in-place-of-a-model",
            |folder| {
                let checkpoint = inside(folder, "checkpoint", &[]);
                inside(&checkpoint, "model.safetensors", &[]);
                checkpoint
            },
            refused("no-checkpoint"),
        ),
        made(
            "general/run-of-several-checkpoints",
            |folder| {
                inside(folder, "run/checkpoint-1", &[model()]);
                inside(folder, "run/checkpoint-2", &[model()]);
                folder.join("run")
            },
            refused("several-checkpoints"),
        ),
        made(
            "general/step-that-the-name-contradicts",
            |folder| {
                inside(
                    folder,
                    "checkpoint-5",
                    &[model(), ("trainer_state.json", br#"{"global_step": 4}"#.to_vec())],
                )
            },
            noted(&["steps-disagree"], &[A]),
        ),
        made(
            "general/measurement-of-another-time",
            |folder| write(folder, "x.measured.json", br#"{"schema_version": "9.0"}"#),
            refused("side-file"),
        ),
        made(
            "general/directory-of-two-hundred-thousand-files",
            |folder| {
                let directory = inside(folder, "many", &[model()]);
                for index in 0..100_001 {
                    std::fs::hard_link(
                        directory.join("model.safetensors"),
                        directory.join(format!("x{index}")),
                    )
                    .or_else(|_| std::fs::write(directory.join(format!("x{index}")), b""))
                    .expect("an entry of a directory");
                }
                directory
            },
            refused("too-large"),
        ),
    ];
    #[cfg(unix)]
    {
        use std::os::unix::fs::symlink;
        cases.push(made(
            "general/pipe",
            |folder| {
                let path = folder.join("model.safetensors");
                mkfifo(&path);
                path
            },
            refused("not-a-regular-file"),
        ));
        cases.push(made(
            "general/pipe-in-a-directory",
            |folder| {
                mkfifo(&folder.join("model.safetensors"));
                folder.to_owned()
            },
            refused("not-a-regular-file"),
        ));
        cases.push(made(
            "general/device-of-endless-zeros",
            |_| PathBuf::from("/dev/zero"),
            refused("not-a-regular-file"),
        ));
        cases.push(made(
            "general/link-to-a-device",
            |folder| {
                symlink("/dev/zero", folder.join("model.pt")).expect("a link");
                folder.join("model.pt")
            },
            refused("not-a-regular-file"),
        ));
        cases.push(made(
            "general/link-to-itself",
            |folder| {
                symlink("model.pt", folder.join("model.pt")).expect("a link");
                folder.join("model.pt")
            },
            refused("io"),
        ));
        cases.push(made(
            "general/name-that-is-not-utf-8",
            |folder| {
                use std::os::unix::ffi::OsStrExt;
                let path = folder.join(std::ffi::OsStr::from_bytes(b"\xff\x1b[31m.safetensors"));
                std::fs::write(&path, honest("a", &[1.0])).expect("a file");
                path
            },
            reads(&[A]),
        ));
        cases.push(made(
            "general/config-out-of-the-directory",
            |folder| {
                write(folder, "secret.json", br#"{"secret": "outside"}"#);
                let checkpoint = inside(folder, "checkpoint", &[model()]);
                symlink("../secret.json", checkpoint.join("config.json")).expect("a link");
                checkpoint
            },
            damaged(&["path-escapes"], &[A]),
        ));
        cases.push(made(
            "general/optimizer-out-of-the-directory",
            |folder| {
                write(folder, "outside.safetensors", &honest("outside", &[9.0]));
                let checkpoint = inside(folder, "checkpoint", &[model()]);
                symlink("../outside.safetensors", checkpoint.join("optimizer.safetensors")).expect("a link");
                checkpoint
            },
            damaged(&["path-escapes"], &[A]),
        ));
    }
    cases
}

#[cfg(unix)]
fn mkfifo(path: &Path) {
    let made = std::process::Command::new("mkfifo").arg(path).status().expect("mkfifo can be started");
    assert!(made.success());
}
