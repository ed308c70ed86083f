//! What there is of CUDA on this machine, as plain data: for `flashpoint devices`.

use std::fmt;
use std::path::{Path, PathBuf};

use super::libraries::{self, Library};
use super::math;
use super::probe::{self, Unavailable};

/// What was found.
#[derive(Debug, Clone)]
pub struct Inventory {
    /// The driver, or why there is none that can be used.
    pub driver: Result<DriverFacts, Unavailable>,
    /// Each device, or why it cannot be used.
    pub devices: Vec<Result<DeviceFacts, Unavailable>>,
    /// The libraries beside the driver.
    pub libraries: Vec<LibraryFacts>,
    /// Where libraries were looked for, beside the loader's path.
    pub directories: Vec<PathBuf>,
}

/// The driver.
#[derive(Debug, Clone)]
pub struct DriverFacts {
    /// Its file.
    pub file: Option<PathBuf>,
    /// The newest version of CUDA that it runs, such as `13.0`.
    pub version: String,
}

/// A device that can be used.
#[derive(Debug, Clone)]
pub struct DeviceFacts {
    /// Its number.
    pub ordinal: usize,
    /// Its name.
    pub name: String,
    /// Its compute capability.
    pub capability: (i32, i32),
    /// Bytes that flashpoint lets itself have.
    pub budget: usize,
}

/// A library beside the driver.
#[derive(Debug, Clone)]
pub struct LibraryFacts {
    /// `cuBLAS`.
    pub name: &'static str,
    /// Its file and version, or what is wrong.
    pub found: Result<(Option<PathBuf>, String), String>,
    /// What happens without it.
    pub without: &'static str,
    /// A call that it lacks and that is done without.
    pub lacks: Option<&'static str>,
}

/// Looks for everything.
pub fn inventory(named: &[PathBuf]) -> Inventory {
    let present = probe::driver(named);
    let version = present.as_ref().map_or(13000, |present| present.version);
    let library = |library: Library, without| {
        let found = math::find(library, named, version);
        LibraryFacts {
            name: library.name(),
            lacks: found.as_ref().ok().and_then(|found| found.lacks),
            found: found.map(|found| (found.file, found.version)),
            without,
        }
    };
    let devices = present.as_ref().map_or_else(
        |_| Vec::new(),
        |present| {
            let device = |ordinal| {
                probe::open(present, ordinal).map(|driver| DeviceFacts {
                    ordinal,
                    name: driver.name.clone(),
                    capability: driver.capability,
                    budget: driver.left(),
                })
            };
            (0..present.devices).map(device).collect()
        },
    );
    Inventory {
        devices,
        libraries: vec![
            library(Library::Blas, "products are those of flashpoint's own kernel, which is slower"),
            library(
                Library::Solver,
                "all singular values are computed on the processor, from a Gram matrix of the GPU",
            ),
        ],
        directories: libraries::directories(named),
        driver: present
            .map(|present| DriverFacts { file: present.file, version: probe::version(present.version) }),
    }
}

fn from(file: Option<&Path>) -> String {
    file.map_or_else(String::new, |file| format!(", {}", file.display()))
}

impl fmt::Display for Inventory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.driver {
            Ok(driver) => writeln!(f, "driver: for CUDA {}{}", driver.version, from(driver.file.as_deref()))?,
            Err(reason) => writeln!(f, "driver: {reason}")?,
        }
        for (ordinal, device) in self.devices.iter().enumerate() {
            match device {
                Ok(DeviceFacts { name, capability: (major, minor), budget, .. }) => writeln!(
                    f,
                    "cuda:{ordinal}: {name}, compute capability {major}.{minor}, {budget} bytes to use"
                )?,
                Err(reason) => writeln!(f, "cuda:{ordinal}: {reason}")?,
            }
        }
        let mut is_missing = false;
        for library in &self.libraries {
            match &library.found {
                Ok((file, version)) => {
                    write!(f, "{}: {version}{}", library.name, from(file.as_deref()))?;
                    match library.lacks {
                        Some(call) => writeln!(
                            f,
                            "; it lacks {call}, which came with CUDA 12.6 Update 2: small matrices are decomposed one after the other"
                        )?,
                        None => writeln!(f)?,
                    }
                }
                Err(reason) => {
                    writeln!(f, "{}: {reason}; {}", library.name, library.without)?;
                    is_missing = true;
                }
            }
        }
        if is_missing {
            writeln!(f, "looked for in the loader's path and in:")?;
            for directory in &self.directories {
                writeln!(f, "  {}", directory.display())?;
            }
        }
        if self.devices.iter().any(Result::is_ok) {
            Ok(())
        } else {
            writeln!(f, "everything is computed on the processor")
        }
    }
}
