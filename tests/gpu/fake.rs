//! Builds the fake driver and libraries, once for each text of theirs.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

const SOURCES: [&str; 6] = [
    "tests/gpu/fake/cuda.rs",
    "tests/gpu/fake/math.rs",
    "tests/gpu/ptx/mod.rs",
    "tests/gpu/ptx/parse.rs",
    "tests/gpu/ptx/operations.rs",
    "tests/gpu/ptx/machine.rs",
];

/// Directories with what a machine may have.
pub struct Fake {
    /// The driver alone.
    pub driver: PathBuf,
    /// cuBLAS and cuSOLVER, without the driver.
    pub libraries: PathBuf,
    /// The same, with a cuSOLVER that takes one matrix in a call.
    pub old_libraries: PathBuf,
    /// A driver that cannot launch kernels.
    pub old_driver: PathBuf,
}

/// The built libraries.
pub fn fake() -> &'static Fake {
    static FAKE: OnceLock<Fake> = OnceLock::new();
    FAKE.get_or_init(|| {
        let mut digest = blake3::Hasher::new();
        for source in SOURCES {
            digest.update(&std::fs::read(source).unwrap_or_else(|error| panic!("{source}: {error}")));
        }
        let home = Path::new(env!("CARGO_TARGET_TMPDIR"))
            .join(format!("fake-cuda-{}", &digest.finalize().to_hex()[..16]));
        let fake = Fake {
            driver: home.join("driver"),
            libraries: home.join("libraries"),
            old_libraries: home.join("old-libraries"),
            old_driver: home.join("old"),
        };
        build("tests/gpu/fake/cuda.rs", &fake.driver, "libcuda.so.1", &[]);
        build("tests/gpu/fake/cuda.rs", &fake.old_driver, "libcuda.so.1", &["--cfg", "without_launch"]);
        build("tests/gpu/fake/math.rs", &fake.libraries, "libcublas.so.13", &[]);
        build("tests/gpu/fake/math.rs", &fake.libraries, "libcusolver.so.12", &[]);
        build("tests/gpu/fake/math.rs", &fake.old_libraries, "libcublas.so.13", &[]);
        let without_batch = ["--cfg", "without_batch"];
        build("tests/gpu/fake/math.rs", &fake.old_libraries, "libcusolver.so.12", &without_batch);
        fake
    })
}

/// Compiles a library, unless that was done before.
fn build(source: &str, directory: &Path, name: &str, more: &[&str]) {
    let file = directory.join(name);
    if file.is_file() {
        return;
    }
    std::fs::create_dir_all(directory).expect("the target directory can be written");
    let own = Path::new(env!("CARGO")).with_file_name("rustc");
    let compiler = if own.is_file() { own } else { PathBuf::from("rustc") };
    let unfinished = directory.join(format!("{name}.{}", std::process::id()));
    let output = Command::new(compiler)
        .args([
            "--edition",
            "2024",
            "-O",
            "--crate-type",
            "cdylib",
            "--crate-name",
            "fake",
            "--cap-lints",
            "allow",
        ])
        .args([
            "--check-cfg",
            "cfg(without_launch, without_batch)",
            "-C",
            &format!("link-arg=-Wl,-soname,{name}"),
        ])
        .args(more)
        .arg("-o")
        .arg(&unfinished)
        .arg(source)
        .output()
        .expect("rustc runs");
    assert!(output.status.success(), "{source}: {}", String::from_utf8_lossy(&output.stderr));
    std::fs::rename(&unfinished, &file).expect("a file can be renamed");
}
