//! What goes wrong on a GPU, typed. No fault is the input's: the piece of work is done again on the processor.

use std::fmt;
use std::path::Path;

use cudarc::driver::DriverError;
use cudarc::driver::sys::CUresult;

use crate::error::{Error, ErrorKind};

/// A piece of work that the GPU did not do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fault {
    /// The device has no memory left.
    OutOfMemory {
        /// Bytes that were asked for.
        wanted: usize,
    },
    /// More than flashpoint lets itself have.
    OverBudget {
        /// Bytes that were asked for.
        wanted: usize,
        /// Bytes that are left.
        left: usize,
    },
    /// A call of the driver failed.
    Driver {
        /// The call.
        call: &'static str,
        /// The driver's name of the error.
        code: String,
    },
    /// A call of a library failed.
    Library {
        /// The call.
        call: &'static str,
        /// What it returned.
        code: String,
    },
    /// The eigenvalue iteration of cuSOLVER did not converge.
    NotConverged {
        /// The call.
        call: &'static str,
        /// How many values did not; of several matrices, those of the first that did not.
        values: i32,
    },
    /// More than a kernel counts.
    TooMany {
        /// The kernel.
        kernel: &'static str,
        /// How many.
        count: usize,
    },
    /// The device has failed before, in a way that it does not recover from in this process.
    Lost {
        /// How.
        reason: String,
    },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutOfMemory { wanted } => write!(f, "out of memory, {wanted} bytes were asked for"),
            Self::OverBudget { wanted, left } => {
                write!(f, "{wanted} bytes are more than the {left} that are left of its budget")
            }
            Self::Driver { call, code } | Self::Library { call, code } => write!(f, "{call}: {code}"),
            Self::NotConverged { call, values } => write!(f, "{call}: {values} values did not converge"),
            Self::TooMany { kernel, count } => write!(f, "{count} is more than its kernel {kernel} counts"),
            Self::Lost { reason } => write!(f, "it failed before and is not used again: {reason}"),
        }
    }
}

impl Fault {
    /// True where every later call would fail too.
    pub(super) fn is_final(&self) -> bool {
        const FINAL: &[&str] = &[
            "CUDA_ERROR_DEINITIALIZED",
            "CUDA_ERROR_CONTEXT_IS_DESTROYED",
            "CUDA_ERROR_ILLEGAL_ADDRESS",
            "CUDA_ERROR_MISALIGNED_ADDRESS",
            "CUDA_ERROR_INVALID_ADDRESS_SPACE",
            "CUDA_ERROR_INVALID_PC",
            "CUDA_ERROR_ILLEGAL_INSTRUCTION",
            "CUDA_ERROR_HARDWARE_STACK_ERROR",
            "CUDA_ERROR_LAUNCH_FAILED",
            "CUDA_ERROR_LAUNCH_TIMEOUT",
            "CUDA_ERROR_ECC_UNCORRECTABLE",
            "CUDA_ERROR_NVLINK_UNCORRECTABLE",
            "CUDA_ERROR_ASSERT",
        ];
        matches!(self, Self::Driver { code, .. } if FINAL.contains(&code.as_str()))
    }

    /// The fault as the error of device `ordinal`.
    pub(super) fn on(self, ordinal: usize) -> Error {
        ErrorKind::Device { message: self.to_string() }.in_file(Path::new(&format!("cuda:{ordinal}")))
    }
}

/// Names the driver's answer; the call `call` was about `wanted` bytes, where it was about memory.
pub(super) fn checked<T>(
    call: &'static str,
    wanted: usize,
    answer: Result<T, DriverError>,
) -> Result<T, Fault> {
    answer.map_err(|DriverError(code)| match code {
        CUresult::CUDA_ERROR_OUT_OF_MEMORY => Fault::OutOfMemory { wanted },
        // Not `Display`: it asks the driver, which may lack the call.
        code => Fault::Driver { call, code: format!("{code:?}") },
    })
}
