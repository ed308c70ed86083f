//! The committed PTX is that of the committed source.
//!
//! Always: the digest in its first line is the source's. Where `KERNELS_NVRTC` names the directory of NVRTC 13.0
//! (`pip install nvidia-cuda-nvrtc==13.0.88`, `…/site-packages/nvidia/cu13/lib`): compiling again gives the same bytes;
//! `KERNELS_WRITE=1` writes them. Where `KERNELS_PTXAS` names ptxas (`pip install nvidia-cuda-nvcc==13.0.88`): every kernel assembles
//! without spilling a register.

#![expect(unsafe_code, reason = "opening the compiler of kernels where a test is told where it is")]

use std::path::{Path, PathBuf};
use std::process::Command;

use cudarc::nvrtc::{CompileOptions, compile_ptx_with_opts};

use crate::ptx::Module;

const HOME: &str = "src/compute/cuda/kernels";

/// The version that the committed text is of.
const COMPILER: &str = "13.0.88";

/// Each source, and the names that choose its modules.
pub const FAMILIES: &[(&str, &[&str])] = &[
    ("stored", &["F64", "F32", "F16", "BF16", "E4M3", "E5M2"]),
    ("dense", &["F32", "F64"]),
    ("network", &["F32", "F64"]),
];

/// The file of a module.
pub fn file(family: &str, name: &str) -> PathBuf {
    Path::new(HOME).join(format!("{family}_{}.ptx", name.to_lowercase()))
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn source(family: &str) -> String {
    read(&Path::new(HOME).join(format!("{family}.cu")))
}

fn modules() -> impl Iterator<Item = (&'static str, &'static str)> {
    FAMILIES.iter().flat_map(|(family, names)| names.iter().map(move |name| (*family, *name)))
}

/// The first line of a module.
fn header(family: &str, name: &str) -> String {
    let digest = blake3::hash(source(family).as_bytes());
    format!(
        "// {family}.cu, blake3 {digest}, NVRTC {COMPILER}: --gpu-architecture=compute_75 --fmad=false -D{name}; .version lowered to 6.3"
    )
}

#[test]
fn every_module_is_of_its_source_as_it_stands() {
    for (family, name) in modules() {
        let text = read(&file(family, name));
        let first = text.lines().next().unwrap_or_default();
        assert_eq!(
            first,
            header(family, name),
            "KERNELS_NVRTC=… KERNELS_WRITE=1 cargo test --test gpu writes it anew"
        );
        assert!(text.contains("\n.version 6.3\n.target sm_75\n"), "a driver of CUDA 10 reads it");
    }
}

#[test]
fn no_kernel_uses_an_approximate_instruction_or_an_atomic_on_floats() {
    for (family, name) in modules() {
        let text = read(&file(family, name));
        for line in text.lines().filter(|line| !line.trim_start().starts_with("//")) {
            let refused = [".approx", ".ftz", "atom.add.f", "red.add.f", "atom.global.add.f", "call"];
            assert!(refused.iter().all(|word| !line.contains(word)), "{family}_{name}: {line}");
        }
    }
}

#[test]
fn the_interpreter_knows_every_instruction_of_every_module() {
    for (family, name) in modules() {
        let module = Module::read(&read(&file(family, name)))
            .unwrap_or_else(|error| panic!("{family}_{name}: {error}"));
        assert!(!module.kernels.is_empty());
    }
}

#[test]
fn compiling_the_sources_again_gives_the_same_bytes() {
    let Some(home) = std::env::var_os("KERNELS_NVRTC").map(PathBuf::from) else {
        println!("SKIPPED: KERNELS_NVRTC does not name the compiler");
        return;
    };
    for library in ["libnvrtc-builtins.so.13.0", "libnvrtc.so.13"] {
        let path = std::ffi::CString::new(home.join(library).to_str().expect("a path")).expect("no zeros");
        // SAFETY: the library that whoever runs the test named; opened once, never closed.
        let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) };
        assert!(!handle.is_null(), "{library} cannot be opened in {}", home.display());
    }
    for (family, name) in modules() {
        let options = CompileOptions {
            arch: Some("compute_75"),
            fmad: Some(false),
            options: vec![format!("-D{name}")],
            name: Some(format!("{family}.cu")),
            ..CompileOptions::default()
        };
        let compiled = compile_ptx_with_opts(source(family), options);
        let compiled = compiled.unwrap_or_else(|error| panic!("{family}_{name}: {error:?}")).to_src();
        assert!(compiled.contains(&format!("V{COMPILER}")), "another compiler than {COMPILER}");
        let (_, text) = compiled.split_once("\n.version 9.0\n").expect("the version of CUDA 13.0");
        let text = format!("{}\n\n.version 6.3\n{text}\n", header(family, name));
        let path = file(family, name);
        if std::env::var_os("KERNELS_WRITE").is_some() {
            std::fs::write(&path, &text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        }
        assert!(read(&path) == text, "{} is not what its source compiles to", path.display());
    }
}

#[test]
fn every_kernel_assembles_without_spills() {
    let Some(assembler) = std::env::var_os("KERNELS_PTXAS") else {
        println!("SKIPPED: KERNELS_PTXAS does not name the assembler");
        return;
    };
    let directory = tempfile::tempdir().expect("a directory");
    for (family, name) in modules() {
        for architecture in ["sm_75", "sm_80", "sm_90", "sm_100", "sm_120"] {
            let output = Command::new(&assembler)
                .args(["-v", &format!("-arch={architecture}"), "-o"])
                .arg(directory.path().join("out"))
                .arg(file(family, name))
                .output()
                .expect("the assembler runs");
            let report = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{family}_{name}, {architecture}: {report}");
            let stacks: Vec<&str> =
                report.lines().filter(|line| line.contains("bytes stack frame")).collect();
            assert!(!stacks.is_empty(), "{report}");
            for line in stacks {
                let wanted = "0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads";
                assert_eq!(line.trim(), wanted, "{family}_{name}, {architecture}");
            }
        }
    }
}
