//! cuSOLVER: all eigenvalues of symmetric matrices, of one or of many in one call.
//!
//! cuSOLVER counts columns first; a symmetric matrix is itself.

#![expect(unsafe_code, reason = "calls of cuSOLVER")]

use std::sync::{Arc, Mutex, PoisonError};

use cudarc::cusolver;
use cudarc::cusolver::sys::{
    cublasFillMode_t, cudaDataType_t, cusolverDnHandle_t, cusolverDnParams_t, cusolverEigMode_t,
};

use super::driver::{Driver, Memory};
use super::fault::Fault;

/// Calls that are needed.
pub(super) const SOLVER_CALLS: &[&str] = &[
    "cusolverDnCreate",
    "cusolverDnDestroy",
    "cusolverDnSetStream",
    "cusolverDnCreateParams",
    "cusolverDnDestroyParams",
    "cusolverGetProperty",
    "cusolverDnXsyevd_bufferSize",
    "cusolverDnXsyevd",
];

/// Calls that came with cuSOLVER 11.7.1 of CUDA 12.6 Update 2: without them one matrix comes after the other.
pub(super) const BATCH_CALLS: &[&str] = &["cusolverDnXsyevBatched", "cusolverDnXsyevBatched_bufferSize"];

const REAL: cudaDataType_t = cudaDataType_t::CUDA_R_64F;
const VALUES: cusolverEigMode_t = cusolverEigMode_t::CUSOLVER_EIG_MODE_NOVECTOR;
const LOWER: cublasFillMode_t = cublasFillMode_t::CUBLAS_FILL_MODE_LOWER;

/// Bytes of the matrices of one call. Its documentation allows n·n·count ≤ 2³¹ - 1 numbers; JAX counts these in bytes
/// (`jaxlib/gpu/solver_kernels_ffi.cc`), and so it is done here.
const MOST_BYTES: usize = i32::MAX as usize;

/// Matrices of one call. What is documented does not say so, but 40,000 of 3×3 are refused (`CUSOLVER_STATUS_INVALID_VALUE`) and 16,000
/// are not (mujocolab/mjlab#732).
const MOST_MATRICES: usize = 16_000;

/// cuSOLVER on a device.
pub(super) struct Solver {
    handle: Mutex<SolverHandle>,
    /// Whether it takes many matrices in one call.
    has_batch: bool,
}

struct SolverHandle {
    handle: cusolverDnHandle_t,
    parameters: cusolverDnParams_t,
}

// SAFETY: a handle may be used from any thread, one at a time, which the mutex sees to.
unsafe impl Send for SolverHandle {}

impl Drop for SolverHandle {
    fn drop(&mut self) {
        // SAFETY: made by their counterparts, and not used any more. What they return changes nothing.
        unsafe {
            if !self.parameters.is_null() {
                let _nothing_to_do = cusolver::result::dn_destroy_params(self.parameters);
            }
            let _nothing_to_do = cusolver::result::dn_destroy(self.handle);
        }
    }
}

/// Matrices that a call replaces by anything, what it writes, and how many they are.
struct Work {
    matrices: Memory,
    values: Memory,
    information: Memory,
    n: usize,
    count: usize,
}

impl Work {
    /// Copies of the matrices from number `first` on.
    fn of(driver: &Arc<Driver>, from: &Memory, n: usize, first: usize, count: usize) -> Result<Self, Fault> {
        let bytes = n * n * size_of::<f64>();
        let mut matrices = driver.allocate(count * bytes)?;
        let values = driver.allocate(count * n * size_of::<f64>())?;
        let mut information = driver.allocate(count * size_of::<i32>())?;
        driver.zero(&mut information)?;
        driver.copy(from, first * bytes..(first + count) * bytes, &mut matrices, 0)?;
        Ok(Self { matrices, values, information, n, count })
    }

    fn side(&self) -> i64 {
        i64::try_from(self.n).expect("the side of a buffer")
    }

    fn matrices(&self) -> i64 {
        i64::try_from(self.count).expect("matrices of a buffer")
    }

    /// The values, once the device has come to the end of `call`.
    fn answer(&self, driver: &Driver, call: &'static str) -> Result<Vec<f64>, Fault> {
        let mut failed = vec![0; self.information.bytes()];
        driver.read(&self.information, 0, &mut failed)?;
        let mut failed = failed.as_chunks().0.iter().map(|word| i32::from_le_bytes(*word));
        if let Some(values) = failed.find(|values| *values != 0) {
            return Err(Fault::NotConverged { call, values });
        }
        let mut bytes = vec![0; self.values.bytes()];
        driver.read(&self.values, 0, &mut bytes)?;
        Ok(bytes.as_chunks().0.iter().map(|word| f64::from_le_bytes(*word)).collect())
    }
}

impl Solver {
    /// With `has_batch` it has [`BATCH_CALLS`].
    pub(super) fn new(driver: &Driver, has_batch: bool) -> Result<Self, Fault> {
        driver.enter()?;
        let handle = solver("cusolverDnCreate", cusolver::result::dn_create())?;
        let mut own = SolverHandle { handle, parameters: std::ptr::null_mut() };
        own.parameters = solver("cusolverDnCreateParams", cusolver::result::dn_create_params())?;
        // SAFETY: the handle was just made, the stream is that of the device.
        let answer = unsafe { cusolver::result::dn_set_stream(own.handle, driver.stream().cast()) };
        solver("cusolverDnSetStream", answer)?;
        Ok(Self { handle: Mutex::new(own), has_batch })
    }

    /// The eigenvalues of `count` symmetric n×n matrices, ascending for each, in as few calls as the library's limits and the memory
    /// allow.
    pub(super) fn eigenvalues(
        &self,
        driver: &Arc<Driver>,
        matrices: &Memory,
        n: usize,
        count: usize,
    ) -> Result<Vec<f64>, Fault> {
        let mut values = Vec::with_capacity(n * count);
        if n == 0 {
            return Ok(values);
        }
        let mut most = if self.has_batch { most_in_a_call(n) } else { 1 };
        let mut first = 0;
        while first < count {
            let piece = most.min(count - first);
            // Of many a last one goes as the others did: the two calls are different algorithms.
            let together = self.has_batch && count > 1;
            let found = Work::of(driver, matrices, n, first, piece)
                .and_then(|work| if together { self.batch(driver, &work) } else { self.one(driver, &work) });
            match found {
                Ok(found) => values.extend(found),
                Err(Fault::OverBudget { .. } | Fault::OutOfMemory { .. }) if piece > 1 => {
                    most = piece / 2;
                    continue;
                }
                Err(fault) => return Err(fault),
            }
            first += piece;
        }
        Ok(values)
    }

    fn one(&self, driver: &Arc<Driver>, work: &Work) -> Result<Vec<f64>, Fault> {
        let own = self.handle.lock().unwrap_or_else(PoisonError::into_inner);
        let (size, matrix, values) = (work.side(), work.matrices.address(0), work.values.address(0));
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
                matrix,
                size,
                REAL,
                values,
                REAL,
                &raw mut on_device,
                &raw mut on_host,
            )
        };
        solver("cusolverDnXsyevd_bufferSize", answer.result())?;
        let workspace = driver.allocate(on_device)?;
        let mut host = vec![0u8; on_host];
        // SAFETY: as above, with the workspaces that it asked for. What is asked of the device is done before anything that is asked for
        // later, the freeing of its memory too; the host's is freed behind the wait for the answer, or where nothing was asked for.
        let answer = unsafe {
            cusolver::sys::cusolverDnXsyevd(
                own.handle,
                own.parameters,
                VALUES,
                LOWER,
                size,
                REAL,
                matrix,
                size,
                REAL,
                values,
                REAL,
                workspace.address(0),
                on_device,
                host.as_mut_ptr().cast(),
                on_host,
                work.information.address(0).cast(),
            )
        };
        solver("cusolverDnXsyevd", answer.result())?;
        let answer = work.answer(driver, "cusolverDnXsyevd");
        drop(host);
        answer
    }

    fn batch(&self, driver: &Arc<Driver>, work: &Work) -> Result<Vec<f64>, Fault> {
        let own = self.handle.lock().unwrap_or_else(PoisonError::into_inner);
        let (size, count) = (work.side(), work.matrices());
        let (matrices, values) = (work.matrices.address(0), work.values.address(0));
        let (mut on_device, mut on_host) = (0, 0);
        // SAFETY: the calls were found; `count` matrices of n columns of n numbers, and room for n values of each; only sizes are written.
        let answer = unsafe {
            cusolver::sys::cusolverDnXsyevBatched_bufferSize(
                own.handle,
                own.parameters,
                VALUES,
                LOWER,
                size,
                REAL,
                matrices,
                size,
                REAL,
                values,
                REAL,
                &raw mut on_device,
                &raw mut on_host,
                count,
            )
        };
        solver("cusolverDnXsyevBatched_bufferSize", answer.result())?;
        let workspace = driver.allocate(on_device)?;
        let mut host = vec![0u8; on_host];
        // SAFETY: as for one, with room for an integer a matrix.
        let answer = unsafe {
            cusolver::sys::cusolverDnXsyevBatched(
                own.handle,
                own.parameters,
                VALUES,
                LOWER,
                size,
                REAL,
                matrices,
                size,
                REAL,
                values,
                REAL,
                workspace.address(0),
                on_device,
                host.as_mut_ptr().cast(),
                on_host,
                work.information.address(0).cast(),
                count,
            )
        };
        solver("cusolverDnXsyevBatched", answer.result())?;
        let answer = work.answer(driver, "cusolverDnXsyevBatched");
        drop(host);
        answer
    }
}

/// How many matrices of n×n one call takes.
fn most_in_a_call(n: usize) -> usize {
    (MOST_BYTES / (n * n * size_of::<f64>())).clamp(1, MOST_MATRICES)
}

fn solver<T>(call: &'static str, answer: Result<T, cusolver::result::CusolverError>) -> Result<T, Fault> {
    answer.map_err(|error| Fault::Library { call, code: format!("{:?}", error.0) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_stays_within_what_its_counters_hold() {
        // n·n·8·count up to 2³¹ - 1: 1023 of 512×512 are 2,145,386,496 bytes, and 1024 are 2³¹.
        assert_eq!(most_in_a_call(512), 1023);
        assert_eq!(most_in_a_call(2), 16_000);
        assert_eq!(most_in_a_call(16_384), 1, "one is 2³¹ bytes, and goes alone");
    }
}
