//! cuBLAS and cuSOLVER, where they are found: dense products, and all eigenvalues of a symmetric matrix.
//!
//! Both count columns first. A row-major matrix is a column-major one transposed, so that `C = A·B` is asked for as `Cᵀ = Bᵀ·Aᵀ`, and a
//! symmetric matrix is itself.

#![expect(unsafe_code, reason = "calls of cuBLAS and cuSOLVER")]

use std::any::TypeId;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use cudarc::cublas;
use cudarc::cublas::sys::cublasOperation_t::{CUBLAS_OP_N, CUBLAS_OP_T};
use cudarc::cusolver;
use cudarc::cusolver::sys::{cublasFillMode_t, cudaDataType_t, cusolverEigMode_t};

use super::driver::{Driver, Memory};
use super::fault::Fault;
use super::libraries::{self, Library};
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

/// Calls of cuSOLVER.
const SOLVER_CALLS: &[&str] = &[
    "cusolverDnCreate",
    "cusolverDnDestroy",
    "cusolverDnSetStream",
    "cusolverDnCreateParams",
    "cusolverDnDestroyParams",
    "cusolverGetProperty",
    "cusolverDnXsyevd_bufferSize",
    "cusolverDnXsyevd",
];

/// A library that was found, or why it is not used.
pub(super) struct Found {
    pub file: Option<PathBuf>,
    /// `13.0.2`.
    pub version: String,
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
    let calls = match library {
        Library::Blas => BLAS_CALLS,
        Library::Solver => SOLVER_CALLS,
    };
    let mut file = None;
    for call in calls {
        // SAFETY: the library is present, so that this cannot panic; the address is not called.
        let address = unsafe {
            let library = match library {
                Library::Blas => cublas::sys::culib(),
                Library::Solver => cusolver::sys::culib(),
            };
            library.get::<*const ()>(call.as_bytes()).map(|symbol| symbol.try_as_raw_ptr())
        };
        match address {
            Ok(Some(address)) => file = file.or_else(|| libraries::file_of(address.cast_const().cast())),
            _ => {
                return Err(format!("{} lacks {call}", file.as_deref().unwrap_or(Path::new("it")).display()));
            }
        }
    }
    Ok(Found { file, version: version(library) })
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

/// cuSOLVER on a device.
pub(super) struct Solver(Mutex<SolverHandle>);

struct SolverHandle {
    handle: cusolver::sys::cusolverDnHandle_t,
    parameters: cusolver::sys::cusolverDnParams_t,
}

// SAFETY: as for cuBLAS.
unsafe impl Send for SolverHandle {}

impl Drop for SolverHandle {
    fn drop(&mut self) {
        // SAFETY: made by their counterparts, and not used any more.
        unsafe {
            if !self.parameters.is_null() {
                let _nothing_to_do = cusolver::result::dn_destroy_params(self.parameters);
            }
            let _nothing_to_do = cusolver::result::dn_destroy(self.handle);
        }
    }
}

impl Solver {
    pub(super) fn new(driver: &Driver) -> Result<Self, Fault> {
        driver.enter()?;
        let handle = solver("cusolverDnCreate", cusolver::result::dn_create())?;
        let mut own = SolverHandle { handle, parameters: std::ptr::null_mut() };
        own.parameters = solver("cusolverDnCreateParams", cusolver::result::dn_create_params())?;
        // SAFETY: the handle was just made, the stream is that of the device.
        let answer = unsafe { cusolver::result::dn_set_stream(own.handle, driver.stream().cast()) };
        solver("cusolverDnSetStream", answer)?;
        Ok(Self(Mutex::new(own)))
    }

    /// Replaces the symmetric n×n matrix by anything, and returns its eigenvalues, ascending.
    pub(super) fn eigenvalues(
        &self,
        driver: &Arc<Driver>,
        matrix: &Memory,
        n: usize,
    ) -> Result<Vec<f64>, Fault> {
        const REAL: cudaDataType_t = cudaDataType_t::CUDA_R_64F;
        const VALUES: cusolverEigMode_t = cusolverEigMode_t::CUSOLVER_EIG_MODE_NOVECTOR;
        const LOWER: cublasFillMode_t = cublasFillMode_t::CUBLAS_FILL_MODE_LOWER;
        assert_eq!(matrix.bytes(), n * n * size_of::<f64>());
        let values = driver.allocate(n * size_of::<f64>())?;
        let mut information = driver.allocate(size_of::<i32>())?;
        driver.zero(&mut information)?;
        let own = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let size = i64::try_from(n).expect("the side of a buffer");
        let (mut on_device, mut on_host) = (0, 0);
        // SAFETY: a matrix of n columns of n numbers, and room for n values; only sizes are written.
        let answer = unsafe {
            cusolver::sys::cusolverDnXsyevd_bufferSize(
                own.handle,
                own.parameters,
                VALUES,
                LOWER,
                size,
                REAL,
                matrix.address(0),
                size,
                REAL,
                values.address(0),
                REAL,
                &raw mut on_device,
                &raw mut on_host,
            )
        };
        solver("cusolverDnXsyevd_bufferSize", answer.result())?;
        let workspace = driver.allocate(on_device)?;
        let mut host = vec![0u8; on_host];
        // SAFETY: as above, with the workspaces that it asked for. It returns when the host's is no longer used, and what is asked of
        // the device is done before anything that is asked for later, the freeing of its memory too.
        let answer = unsafe {
            cusolver::sys::cusolverDnXsyevd(
                own.handle,
                own.parameters,
                VALUES,
                LOWER,
                size,
                REAL,
                matrix.address(0),
                size,
                REAL,
                values.address(0),
                REAL,
                workspace.address(0),
                on_device,
                host.as_mut_ptr().cast(),
                on_host,
                information.address(0).cast(),
            )
        };
        solver("cusolverDnXsyevd", answer.result())?;
        let mut failed = [0; size_of::<i32>()];
        driver.read(&information, 0, &mut failed)?;
        // The host's workspace lives until here: the device has come to the end of it.
        drop(host);
        match i32::from_le_bytes(failed) {
            0 => {
                let mut bytes = vec![0; values.bytes()];
                driver.read(&values, 0, &mut bytes)?;
                Ok(bytes.as_chunks().0.iter().map(|word| f64::from_le_bytes(*word)).collect())
            }
            values => Err(Fault::NotConverged { values }),
        }
    }
}

fn solver<T>(call: &'static str, answer: Result<T, cusolver::result::CusolverError>) -> Result<T, Fault> {
    answer.map_err(|error| Fault::Library { call, code: format!("{:?}", error.0) })
}
