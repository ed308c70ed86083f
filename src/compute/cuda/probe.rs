//! Whether there is a GPU that can be used, and if not, why: asked so that nothing can panic.
//!
//! cudarc panics where the driver's library, or a call in it, is missing. So the library is looked for first, then every call that
//! is used, and only then is one made.

#![expect(unsafe_code, reason = "asking for the CUDA driver's library and its calls")]

use std::ffi::c_int;
use std::fmt;
use std::path::PathBuf;

use cudarc::driver::{result, sys};

use super::driver::Driver;
use super::fault::{Fault, checked};
use super::libraries;

/// Every call of the driver that is made, by cudarc or here. Those of memory pools came with CUDA 11.2, and cudarc asks any device
/// whether it has pools, which an older driver takes for an error.
const CALLS: &[&str] = &[
    "cuInit",
    "cuDriverGetVersion",
    "cuDeviceGet",
    "cuDeviceGetCount",
    "cuDeviceGetName",
    "cuDeviceGetAttribute",
    "cuDeviceGetDefaultMemPool",
    "cuMemPoolSetAttribute",
    "cuDevicePrimaryCtxRetain",
    "cuDevicePrimaryCtxRelease_v2",
    "cuCtxGetCurrent",
    "cuCtxSetCurrent",
    "cuMemGetInfo_v2",
    "cuMemAlloc_v2",
    "cuMemFree_v2",
    "cuMemAllocAsync",
    "cuMemFreeAsync",
    "cuMemsetD8Async",
    "cuMemcpyHtoDAsync_v2",
    "cuMemcpyDtoHAsync_v2",
    "cuMemcpyDtoDAsync_v2",
    "cuMemHostAlloc",
    "cuMemFreeHost",
    "cuStreamSynchronize",
    "cuEventCreate",
    "cuEventRecord",
    "cuEventSynchronize",
    "cuEventDestroy_v2",
    "cuModuleLoadData",
    "cuModuleUnload",
    "cuModuleGetFunction",
    "cuLaunchKernel",
];

/// The oldest devices that the kernels are compiled for.
pub(super) const OLDEST: (i32, i32) = (7, 5);

/// Why no GPU is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unavailable {
    /// There is no driver.
    NoDriver {
        /// Where it was looked for, beside the loader's path.
        directories: Vec<PathBuf>,
    },
    /// The driver lacks calls.
    OldDriver {
        /// Its file.
        file: Option<PathBuf>,
        /// What it lacks.
        calls: Vec<&'static str>,
    },
    /// The driver finds no device.
    NoDevice {
        /// Its file.
        file: Option<PathBuf>,
        /// What it answers.
        code: String,
    },
    /// There are fewer devices than was asked for.
    NoSuchDevice {
        /// The number asked for.
        ordinal: usize,
        /// How many there are.
        count: usize,
    },
    /// The device is older than the kernels.
    OldDevice {
        /// Its name.
        name: String,
        /// Its capability.
        capability: (i32, i32),
    },
    /// The device could not be opened.
    Failed {
        /// Why.
        reason: String,
    },
}

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = |file: &Option<PathBuf>| {
            file.as_ref()
                .map_or_else(|| "the driver".to_owned(), |file| format!("the driver {}", file.display()))
        };
        match self {
            Self::NoDriver { directories } => {
                let directories: Vec<String> =
                    directories.iter().map(|path| path.display().to_string()).collect();
                write!(
                    f,
                    "no CUDA driver: {} was looked for in the loader's path, {}",
                    libraries::DRIVER,
                    directories.join(", ")
                )
            }
            Self::OldDriver { file, calls } => {
                write!(f, "{} lacks {}: one of CUDA 11.2 or later is needed", named(file), calls.join(", "))
            }
            Self::NoDevice { file, code } => write!(f, "{} finds no device: {code}", named(file)),
            Self::NoSuchDevice { ordinal, count } => {
                write!(f, "device {ordinal} was asked for, and they are numbered from 0 to {}", count - 1)
            }
            Self::OldDevice { name, capability: (major, minor) } => write!(
                f,
                "{name} has compute capability {major}.{minor}, and the kernels need {}.{}",
                OLDEST.0, OLDEST.1
            ),
            Self::Failed { reason } => f.write_str(reason),
        }
    }
}

/// A driver whose calls were all found.
pub(super) struct Present {
    pub file: Option<PathBuf>,
    /// 13000 is 13.0: the newest version of CUDA that it runs.
    pub version: i32,
    pub devices: usize,
}

/// `13.0` of 13000.
pub(super) fn version(number: i32) -> String {
    format!("{}.{}", number / 1000, number % 1000 / 10)
}

/// Looks for the driver and its devices.
pub(super) fn driver(named: &[PathBuf]) -> Result<Present, Unavailable> {
    // SAFETY: opens and closes the driver's library by its names, which runs its start-up code where it is there.
    let is_present = || unsafe { sys::is_culib_present() };
    // What the user named comes before what the loader knows.
    if !libraries::preload_driver(named) && !is_present() {
        libraries::preload_driver(&libraries::driver_directories(named));
        if !is_present() {
            return Err(Unavailable::NoDriver { directories: libraries::driver_directories(named) });
        }
    }
    let (mut file, mut missing) = (None, Vec::new());
    for call in CALLS {
        // SAFETY: the library is present, so that this cannot panic; the address is not called.
        let address =
            unsafe { sys::culib().get::<*const ()>(call.as_bytes()).map(|symbol| symbol.try_as_raw_ptr()) };
        match address {
            Ok(Some(address)) => file = file.or_else(|| libraries::file_of(address.cast_const().cast())),
            _ => missing.push(*call),
        }
    }
    if !missing.is_empty() {
        return Err(Unavailable::OldDriver { file, calls: missing });
    }
    let none = |call, answer| checked(call, 0, answer).map_err(|fault: Fault| fault.to_string());
    let no_device = |code| Unavailable::NoDevice { file: file.clone(), code };
    none("cuInit", result::init()).map_err(no_device)?;
    let devices = checked("cuDeviceGetCount", 0, result::device::get_count());
    let devices = devices.map_err(|fault| no_device(fault.to_string()))?;
    if devices <= 0 {
        return Err(no_device("it counts none".to_owned()));
    }
    let mut version: c_int = 0;
    // SAFETY: found above, and writes one integer.
    let answer = unsafe { sys::cuDriverGetVersion(&raw mut version).result() };
    none("cuDriverGetVersion", answer).map_err(|reason| Unavailable::Failed { reason })?;
    Ok(Present { file, version, devices: devices.unsigned_abs() as usize })
}

/// Opens device `ordinal` of a driver that is present.
pub(super) fn open(present: &Present, ordinal: usize) -> Result<Driver, Unavailable> {
    if ordinal >= present.devices {
        return Err(Unavailable::NoSuchDevice { ordinal, count: present.devices });
    }
    let device = Driver::open(ordinal).map_err(|fault| Unavailable::Failed { reason: fault.to_string() })?;
    if device.capability < OLDEST {
        return Err(Unavailable::OldDevice { name: device.name.clone(), capability: device.capability });
    }
    Ok(device)
}
