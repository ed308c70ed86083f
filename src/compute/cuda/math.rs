//! cuBLAS and cuSOLVER, where they are found, and the dense products of cuBLAS.
//!
//! cuBLAS counts columns first. A row-major matrix is a column-major one transposed, so that `C = A·B` is asked for as `Cᵀ = Bᵀ·Aᵀ`.

#![expect(unsafe_code, reason = "calls of cuBLAS, and looking for those of cuSOLVER")]

use std::any::TypeId;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use cudarc::cublas;
use cudarc::cublas::sys::cublasOperation_t::{CUBLAS_OP_N, CUBLAS_OP_T};
use cudarc::cusolver;

use super::driver::{Driver, Memory};
use super::fault::Fault;
use super::libraries::{self, Library};
use super::solver::{BATCH_CALLS, SOLVER_CALLS};
use crate::compute::{Gemm, Real};

/// Calls of cuBLAS.
const BLAS_CALLS: &[&str] = &[
    "cublasCreate_v2",
    "cublasDestroy_v2",
    "cublasSetStream_v2",
    "cublasGetProperty",
    "cublasSgemv_v2",
    "cublasDgemv_v2",
    "cublasSgemmStridedBatched",
    "cublasDgemmStridedBatched",
];

/// A library that was found, or why it is not used.
pub(super) struct Found {
    pub file: Option<PathBuf>,
    /// `13.0.2`.
    pub version: String,
    /// A call that it lacks and that is done without.
    pub lacks: Option<&'static str>,
}

/// Looks for a library: what the loader finds, or else what lies in the directories. Says what is wrong with it.
pub(super) fn find(library: Library, named: &[PathBuf], driver_version: i32) -> Result<Found, String> {
    // SAFETY: these open and close libraries by cudarc's names for them; one that is there runs its start-up code, as the driver does.
    let is_present = || unsafe {
        match library {
            Library::Blas => cublas::sys::is_culib_present(),
            Library::Solver => cusolver::sys::is_culib_present(),
        }
    };
    // What the user named comes before what the loader knows.
    let preloaded = !named.is_empty() && libraries::preload(library, named, driver_version / 1000);
    if !preloaded && !is_present() {
        libraries::preload(library, named, driver_version / 1000);
        if !is_present() {
            return Err("not found".to_owned());
        }
    }
    let (calls, optional) = match library {
        Library::Blas => (BLAS_CALLS, &[][..]),
        Library::Solver => (SOLVER_CALLS, BATCH_CALLS),
    };
    let mut file = None;
    for call in calls {
        match address(library, call) {
            Some(address) => file = file.or_else(|| libraries::file_of(address)),
            None => {
                return Err(format!("{} lacks {call}", file.as_deref().unwrap_or(Path::new("it")).display()));
            }
        }
    }
    let lacks = optional.iter().copied().find(|call| address(library, call).is_none());
    Ok(Found { file, version: version(library), lacks })
}

/// Where a call of a library that is present lies.
fn address(library: Library, call: &str) -> Option<*const ()> {
    // SAFETY: the library is present, so that this cannot panic; the address is not called.
    let address = unsafe {
        let library = match library {
            Library::Blas => cublas::sys::culib(),
            Library::Solver => cusolver::sys::culib(),
        };
        library.get::<*const ()>(call.as_bytes()).map(|symbol| symbol.try_as_raw_ptr())
    };
    address.ok().flatten().map(|address| address.cast_const().cast())
}

fn version(library: Library) -> String {
    let part = |which| -> i32 {
        let mut value = 0;
        // SAFETY: the calls have been found, and write one integer. They need no device.
        unsafe {
            match library {
                Library::Blas => {
                    let which = std::mem::transmute::<u32, cublas::sys::libraryPropertyType_t>(which);
                    let _unknown_is_0 = cublas::sys::cublasGetProperty(which, &raw mut value);
                }
                Library::Solver => {
                    let which = std::mem::transmute::<u32, cusolver::sys::libraryPropertyType_t>(which);
                    let _unknown_is_0 = cusolver::sys::cusolverGetProperty(which, &raw mut value);
                }
            }
        }
        value
    };
    format!("{}.{}.{}", part(0), part(1), part(2))
}

/// cuBLAS on a device. Its workspace is the handle's: one product after the other.
pub(super) struct Blas(Mutex<BlasHandle>);

struct BlasHandle(cublas::sys::cublasHandle_t);

// SAFETY: a handle may be used from any thread, one at a time, which the mutex sees to.
unsafe impl Send for BlasHandle {}

impl Drop for BlasHandle {
    fn drop(&mut self) {
        // SAFETY: made by `cublasCreate`, and not used any more. What it returns changes nothing.
        let _nothing_to_do = unsafe { cublas::result::destroy_handle(self.0) };
    }
}

impl Blas {
    pub(super) fn new(driver: &Driver) -> Result<Self, Fault> {
        driver.enter()?;
        let handle = blas("cublasCreate", cublas::result::create_handle())?;
        let handle = BlasHandle(handle);
        // SAFETY: the handle was just made, the stream is that of the device.
        blas("cublasSetStream", unsafe { cublas::result::set_stream(handle.0, driver.stream().cast()) })?;
        Ok(Self(Mutex::new(handle)))
    }

    /// The products, or none where they count beyond 31 bits.
    pub(super) fn gemm<T: Real>(
        &self,
        driver: &Driver,
        gemm: &Gemm<T>,
        a: (&Memory, usize),
        b: (&Memory, usize),
        c: (&Memory, usize),
    ) -> Result<bool, Fault> {
        let Gemm { m, n, k, batch, transpose_a, transpose_b, alpha, beta } = *gemm;
        let sizes = [m, n, k, batch].map(i32::try_from);
        let [Ok(rows), Ok(columns), Ok(depth), Ok(count)] = sizes else { return Ok(false) };
        driver.enter()?;
        let handle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (turn_a, line_a) = if transpose_a { (CUBLAS_OP_T, rows) } else { (CUBLAS_OP_N, depth) };
        let (turn_b, line_b) = if transpose_b { (CUBLAS_OP_T, depth) } else { (CUBLAS_OP_N, columns) };
        let [stride_a, stride_b, stride_c] =
            [m * k, k * n, m * n].map(|elements| i64::try_from(elements).expect("elements of a buffer"));
        let (a, b, c) = (a.0.address(a.1), b.0.address(b.1), c.0.address(c.1));
        if columns == 1 && count == 1 {
            // A product of matrices takes several times as long for one column.
            let (turned, long) = if transpose_a { (CUBLAS_OP_N, rows) } else { (CUBLAS_OP_T, depth) };
            let across = if transpose_a { depth } else { rows };
            macro_rules! call {
                ($call:path, $real:ty) => {{
                    let alpha: $real = Into::<f64>::into(alpha) as $real;
                    let beta: $real = Into::<f64>::into(beta) as $real;
                    // SAFETY: as below; one column is as long turned as not.
                    unsafe {
                        $call(
                            handle.0,
                            turned,
                            long,
                            across,
                            &raw const alpha,
                            a.cast(),
                            long,
                            b.cast(),
                            1,
                            &raw const beta,
                            c.cast(),
                            1,
                        )
                    }
                }};
            }
            let answer = if TypeId::of::<T>() == TypeId::of::<f32>() {
                call!(cublas::result::sgemv, f32)
            } else {
                call!(cublas::result::dgemv, f64)
            };
            return blas("cublasGemv", answer).map(|()| true);
        }
        macro_rules! call {
            ($call:path, $real:ty) => {{
                let alpha: $real = Into::<f64>::into(alpha) as $real;
                let beta: $real = Into::<f64>::into(beta) as $real;
                // SAFETY: the caller holds buffers of these sizes; the leading dimensions are those of whole rows; the factors
                // are read before the call returns.
                unsafe {
                    $call(
                        handle.0, turn_b, turn_a, columns, rows, depth, &raw const alpha, b.cast(), line_b, stride_b,
                        a.cast(), line_a, stride_a, &raw const beta, c.cast(), columns, stride_c, count,
                    )
                }
            }};
        }
        let answer = if TypeId::of::<T>() == TypeId::of::<f32>() {
            call!(cublas::result::sgemm_strided_batched, f32)
        } else {
            call!(cublas::result::dgemm_strided_batched, f64)
        };
        blas("cublasGemmStridedBatched", answer).map(|()| true)
    }
}

fn blas<T>(call: &'static str, answer: Result<T, cublas::result::CublasError>) -> Result<T, Fault> {
    answer.map_err(|error| Fault::Library { call, code: format!("{:?}", error.0) })
}
