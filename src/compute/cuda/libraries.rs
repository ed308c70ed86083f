//! Where CUDA's libraries are, and making the ones that the loader does not find known to it.
//!
//! cudarc opens libraries by their plain names. One that was opened before by its path, and is still open, is found by its name
//! (its SONAME), so that the libraries in PyTorch's packages serve without `LD_LIBRARY_PATH`. Never looks into the current
//! directory, runs nothing to find a path, and opens no library but those named here.

#![expect(unsafe_code, reason = "opening shared libraries")]

use std::ffi::{CStr, CString, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// A library beside the driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Library {
    /// Dense products.
    Blas,
    /// Eigenvalues.
    Solver,
}

impl Library {
    /// What it is called.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Blas => "cuBLAS",
            Self::Solver => "cuSOLVER",
        }
    }

    /// The files that make it up, those first that others need, for each major version of CUDA, newest first.
    fn files(self) -> [&'static [&'static str]; 2] {
        match self {
            Self::Blas => {
                [&["libcublasLt.so.13", "libcublas.so.13"], &["libcublasLt.so.12", "libcublas.so.12"]]
            }
            Self::Solver => [
                &[
                    "libnvJitLink.so.13",
                    "libcublasLt.so.13",
                    "libcublas.so.13",
                    "libcusparse.so.12",
                    "libcusolver.so.12",
                ],
                &[
                    "libnvJitLink.so.12",
                    "libcublasLt.so.12",
                    "libcublas.so.12",
                    "libcusparse.so.12",
                    "libcusolver.so.11",
                ],
            ],
        }
    }
}

/// The driver's library.
pub(super) const DRIVER: &str = "libcuda.so.1";

/// Directories of the driver that loaders may not know: containers, WSL, NixOS.
const DRIVER_DIRECTORIES: &[&str] =
    &["/usr/local/nvidia/lib64", "/usr/lib/wsl/lib", "/run/opengl-driver/lib"];

/// Where the driver is looked for, beside the loader's own path.
pub(super) fn driver_directories(named: &[PathBuf]) -> Vec<PathBuf> {
    named.iter().cloned().chain(DRIVER_DIRECTORIES.iter().map(PathBuf::from)).collect()
}

/// Opens the driver by its path from the first of the directories that has it; false where none has.
pub(super) fn preload_driver(directories: &[PathBuf]) -> bool {
    directories.iter().any(|directory| open(&directory.join(DRIVER)))
}

/// Opens the files of `library` from the first of the directories that has the last of them. The newest version that the driver runs
/// comes first.
pub(super) fn preload(library: Library, named: &[PathBuf], newest_major: i32) -> bool {
    let directories = directories(named);
    let versions = library.files();
    let versions = if newest_major >= 13 { &versions[..] } else { &versions[1..] };
    versions.iter().any(|files| {
        let own = files.last().expect("a library has files");
        directories.iter().any(|directory| {
            directory.join(own).is_file() && {
                for file in *files {
                    // What is not here is the loader's to find; whether all were found the last one tells.
                    let beside = directory.join(file);
                    let path = if beside.is_file() { beside } else { in_sibling(directory, file) };
                    open(&path);
                }
                open(&directory.join(own))
            }
        })
    })
}

/// In the packages of CUDA 12 each library has a directory of its own: `nvidia/cublas/lib`, `nvidia/nvjitlink/lib`.
fn in_sibling(directory: &Path, file: &str) -> PathBuf {
    let package = file.strip_prefix("lib").and_then(|file| file.split('.').next()).unwrap_or(file);
    let package = match package {
        "cublasLt" => "cublas".to_owned(),
        other => other.to_lowercase(),
    };
    let home = directory.parent().and_then(Path::parent).unwrap_or(directory);
    home.join(package).join("lib").join(file)
}

/// The directories that are looked into, in order; those that the user named first.
pub(super) fn directories(named: &[PathBuf]) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = named.to_vec();
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    for name in ["CUDA_HOME", "CUDA_PATH"] {
        found.extend(variable(name).map(|home| home.join("lib64")));
    }
    found.extend(matching(Path::new("/usr/local"), "cuda").map(|home| home.join("lib64")));
    found.push(PathBuf::from("/opt/cuda/lib64"));
    let mut prefixes: Vec<PathBuf> =
        ["VIRTUAL_ENV", "CONDA_PREFIX"].into_iter().filter_map(variable).collect();
    prefixes.extend(python_prefix());
    prefixes.extend(variable("HOME").map(|home| home.join(".local")));
    prefixes.extend(["/usr/local", "/usr"].map(PathBuf::from));
    for prefix in prefixes {
        found.push(prefix.join("lib"));
        for python in matching(&prefix.join("lib"), "python3") {
            for packages in ["site-packages", "dist-packages"] {
                let nvidia = python.join(packages).join("nvidia");
                found.extend(["cu13", "cusolver", "cublas"].map(|package| nvidia.join(package).join("lib")));
            }
        }
    }
    found.retain(|directory| directory.is_absolute());
    let mut seen = std::collections::HashSet::new();
    found.retain(|directory| seen.insert(directory.clone()));
    found
}

/// Where the `python3` that a shell would run is installed: found by following links, not by running it.
fn python_prefix() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let python = std::env::split_paths(&path)
        .filter(|directory| directory.is_absolute())
        .map(|directory| directory.join("python3"))
        .find(|python| python.is_file())?;
    Some(python.canonicalize().ok()?.parent()?.parent()?.to_owned())
}

/// The directories in `home` whose names begin so, in order of their names.
fn matching(home: &Path, start: &str) -> impl Iterator<Item = PathBuf> {
    let entries = std::fs::read_dir(home).into_iter().flatten().filter_map(Result::ok);
    let mut found: Vec<PathBuf> = entries
        .filter(|entry| entry.file_name().as_bytes().starts_with(start.as_bytes()))
        .map(|entry| entry.path())
        .filter(|path| path.is_dir())
        .collect();
    found.sort();
    found.into_iter()
}

/// Opens a library for as long as the process lives; false where it cannot be.
fn open(path: &Path) -> bool {
    let Ok(path) = CString::new(path.as_os_str().as_bytes()) else { return false };
    // SAFETY: a string that ends with a zero. Opening runs the library's own start-up code: it is one of CUDA's, from a directory that
    // the user named or that programs are installed to, and as trusted as the driver. It is never closed.
    let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) };
    !handle.is_null()
}

/// The file that a function was loaded from.
pub(super) fn file_of(function: *const ()) -> Option<PathBuf> {
    let mut found = std::mem::MaybeUninit::<libc::Dl_info>::zeroed();
    // SAFETY: `dladdr` only compares the address with the maps of what is loaded, and writes to the one struct, which is zeroed before.
    let known = unsafe { libc::dladdr(function.cast(), found.as_mut_ptr()) } != 0;
    // SAFETY: a struct of pointers and integers: zeros are a value, and `dladdr` has written the rest.
    let found = unsafe { found.assume_init() };
    if !known || found.dli_fname.is_null() {
        return None;
    }
    // SAFETY: a name that the loader keeps for as long as the library is loaded, and these are never closed.
    let name = unsafe { CStr::from_ptr(found.dli_fname) };
    Some(PathBuf::from(OsStr::from_bytes(name.to_bytes())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_that_are_named_come_first_and_none_is_relative() {
        let found = directories(&[PathBuf::from("/named"), PathBuf::from("here")]);
        assert_eq!(found[0], Path::new("/named"));
        assert!(found.iter().all(|directory| directory.is_absolute()), "{found:?}");
    }

    #[test]
    fn packages_of_cuda_12_lie_in_directories_of_their_own() {
        let solver = Path::new("/v/nvidia/cusolver/lib");
        assert_eq!(
            in_sibling(solver, "libcublasLt.so.12"),
            Path::new("/v/nvidia/cublas/lib/libcublasLt.so.12")
        );
        assert_eq!(
            in_sibling(solver, "libnvJitLink.so.12"),
            Path::new("/v/nvidia/nvjitlink/lib/libnvJitLink.so.12")
        );
    }

    #[test]
    fn what_is_no_library_is_not_opened() {
        assert!(!open(Path::new("/dev/null")));
        assert!(!open(Path::new("/no/such/file.so")));
        assert!(!open(Path::new(OsStr::from_bytes(b"/a\0b"))));
    }
}
