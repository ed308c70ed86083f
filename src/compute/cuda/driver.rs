//! One GPU through its driver: memory, copies, launches. The calls are cudarc's; errors are [`Fault`]s, never panics.
//!
//! Everything goes to one stream, the default one, so that work is done in the order in which it is asked for, from whichever
//! thread. Memory is bounded by a budget. Once a fault is final no further call is made.

#![expect(unsafe_code, reason = "calls of the CUDA driver")]

use std::collections::HashMap;
use std::ffi::c_void;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use cudarc::driver::sys::{CUdevice_attribute, CUdeviceptr, CUmemPool_attribute, CUstream};
use cudarc::driver::{CudaContext, CudaFunction, CudaModule, CudaStream, result};
use cudarc::nvrtc::Ptx;

use super::fault::{Fault, checked};
use super::kernels::{Kernel, Module, counted};
use super::upload::Ring;

/// Of the memory that is free when the device is opened flashpoint leaves one part in so many to others.
const LEFT_TO_OTHERS: usize = 5;

/// One GPU.
pub(super) struct Driver {
    pub ordinal: usize,
    pub name: String,
    /// Major and minor.
    pub capability: (i32, i32),
    pub context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    pools: bool,
    budget: usize,
    used: AtomicUsize,
    spare: Mutex<Spare>,
    lost: OnceLock<String>,
    modules: Mutex<HashMap<Module, Arc<CudaModule>>>,
    functions: Mutex<HashMap<(Module, &'static str), CudaFunction>>,
    /// For uploads; made when it is first needed.
    pub ring: Mutex<Option<Ring>>,
}

/// Memory that was let go of, for the next who asks for as much. The calls of the driver that it saves take longer than most kernels.
/// On the one stream whoever is given it comes after whoever had it.
struct Spare {
    addresses: HashMap<usize, Vec<CUdeviceptr>>,
    bytes: usize,
    /// No more than so many bytes in all.
    most: usize,
}

/// Larger pieces are not kept.
const LARGEST_SPARE: usize = 64 << 20;
/// No more is kept, and no more than one part in [`SHARE_OF_SPARE`] of what is left to others.
const MOST_SPARE: usize = 1 << 30;
const SHARE_OF_SPARE: usize = 2;

impl Spare {
    fn take(&mut self, bytes: usize) -> Option<CUdeviceptr> {
        let address = self.addresses.get_mut(&bytes)?.pop()?;
        self.bytes -= bytes;
        Some(address)
    }

    fn take_all(&mut self) -> Vec<CUdeviceptr> {
        self.bytes = 0;
        std::mem::take(&mut self.addresses).into_values().flatten().collect()
    }

    /// Whether a piece of this size is kept at all.
    fn keeps(&self, bytes: usize) -> bool {
        bytes <= LARGEST_SPARE.min(self.most)
    }

    /// False where it is too much.
    fn keep(&mut self, address: CUdeviceptr, bytes: usize) -> bool {
        let keeps = self.keeps(bytes) && self.bytes + bytes <= self.most;
        if keeps {
            self.addresses.entry(bytes).or_default().push(address);
            self.bytes += bytes;
        }
        keeps
    }
}

/// Memory of a device, let go of when it is dropped.
pub(super) struct Memory {
    driver: Arc<Driver>,
    address: CUdeviceptr,
    bytes: usize,
}

/// What a kernel is given.
#[derive(Clone, Copy)]
pub(super) enum Argument<'a> {
    /// Memory from this byte on.
    At(&'a Memory, usize),
    U32(u32),
    /// A number that has to fit where kernels count with 32 bits.
    Count(usize),
    U64(u64),
    F32(f32),
    F64(f64),
}

impl Driver {
    /// Opens device `ordinal`, whose calls have been found.
    pub(super) fn open(ordinal: usize) -> Result<Self, Fault> {
        let context = checked("cuDevicePrimaryCtxRetain", 0, CudaContext::new(ordinal))?;
        // SAFETY: events would order several streams; here is one.
        unsafe { context.disable_event_tracking() };
        let attribute = |which| checked("cuDeviceGetAttribute", 0, context.attribute(which));
        let capability = (
            attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        );
        let (free, _) = checked("cuMemGetInfo", 0, context.mem_get_info())?;
        if context.has_async_alloc() {
            keep_pool(&context)?;
        }
        Ok(Self {
            ordinal,
            name: checked("cuDeviceGetName", 0, context.name())?,
            capability,
            stream: context.default_stream(),
            pools: context.has_async_alloc(),
            context,
            budget: free - free / LEFT_TO_OTHERS,
            used: AtomicUsize::new(0),
            spare: Mutex::new(Spare {
                addresses: HashMap::new(),
                bytes: 0,
                most: MOST_SPARE.min(free / LEFT_TO_OTHERS / SHARE_OF_SPARE),
            }),
            lost: OnceLock::new(),
            modules: Mutex::default(),
            functions: Mutex::default(),
            ring: Mutex::default(),
        })
    }

    /// Bytes that may still be asked for.
    pub(super) fn left(&self) -> usize {
        self.budget.saturating_sub(self.used.load(Ordering::Relaxed))
    }

    pub(super) fn stream(&self) -> CUstream {
        self.stream.cu_stream()
    }

    pub(super) fn cuda_stream(&self) -> &CudaStream {
        &self.stream
    }

    /// Makes the device this thread's, unless it is lost.
    pub(super) fn enter(&self) -> Result<(), Fault> {
        if let Some(reason) = self.lost.get() {
            return Err(Fault::Lost { reason: reason.clone() });
        }
        self.note(checked("cuCtxSetCurrent", 0, self.context.bind_to_thread()))
    }

    /// Remembers a final fault.
    pub(super) fn note<T>(&self, answer: Result<T, Fault>) -> Result<T, Fault> {
        if let Err(fault) = &answer
            && fault.is_final()
        {
            // The first is the reason of all that follow.
            let _first = self.lost.get_or_init(|| fault.to_string());
        }
        answer
    }

    /// `bytes` bytes, of unknown content.
    pub(super) fn allocate(self: &Arc<Self>, bytes: usize) -> Result<Memory, Fault> {
        self.enter()?;
        if bytes == 0 {
            return Ok(Memory { driver: self.clone(), address: 0, bytes });
        }
        if bytes > self.left() {
            return Err(Fault::OverBudget { wanted: bytes, left: self.left() });
        }
        let spare = lock(&self.spare).take(bytes);
        if cfg!(debug_assertions)
            && let Some(address) = spare
        {
            self.spoil(address, bytes)?;
        }
        let address = match spare.map_or_else(|| self.allocate_anew(bytes), Ok) {
            Err(Fault::OutOfMemory { .. }) => {
                self.free_spare();
                self.allocate_anew(bytes)?
            }
            answer => answer?,
        };
        self.used.fetch_add(bytes, Ordering::Relaxed);
        Ok(Memory { driver: self.clone(), address, bytes })
    }

    fn allocate_anew(&self, bytes: usize) -> Result<CUdeviceptr, Fault> {
        // SAFETY: the device is this thread's, and the length is not 0.
        let address = unsafe {
            if self.pools {
                checked("cuMemAllocAsync", bytes, result::malloc_async(self.stream(), bytes))
            } else {
                checked("cuMemAlloc", bytes, result::malloc_sync(bytes))
            }
        };
        self.note(address)
    }

    /// Makes NaN of memory that is given out again: in tests what is read before it is written shall be seen.
    fn spoil(&self, address: CUdeviceptr, bytes: usize) -> Result<(), Fault> {
        // SAFETY: all of an allocation that nobody else has.
        let answer = unsafe { result::memset_d8_async(address, 0xff, bytes, self.stream()) };
        self.note(checked("cuMemsetD8Async", 0, answer))
    }

    fn free(&self, address: CUdeviceptr) {
        // SAFETY: allocated by the same call's counterpart, freed once, and in the order of the stream after everything that uses it.
        // What cannot be freed is lost to this process until it ends; the next call says what is wrong.
        let _nothing_to_do = unsafe {
            if self.pools { result::free_async(address, self.stream()) } else { result::free_sync(address) }
        };
    }

    fn free_spare(&self) {
        let addresses = lock(&self.spare).take_all();
        for address in addresses {
            self.free(address);
        }
    }

    /// Zeros all of `memory`.
    pub(super) fn zero(&self, memory: &mut Memory) -> Result<(), Fault> {
        if memory.bytes == 0 {
            return Ok(());
        }
        self.enter()?;
        // SAFETY: all of an allocation that is held by reference.
        let answer = unsafe { result::memset_d8_async(memory.address, 0, memory.bytes, self.stream()) };
        self.note(checked("cuMemsetD8Async", 0, answer))
    }

    /// Copies `bytes` to `memory` from byte `at` on, and waits for it.
    pub(super) fn write(&self, memory: &Memory, at: usize, bytes: &[u8]) -> Result<(), Fault> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.start_write(memory, at, bytes)?;
        self.synchronize()
    }

    /// Begins to copy `bytes`, which stay as they are until the device has come to it: the caller waits.
    pub(super) fn start_write(&self, memory: &Memory, at: usize, bytes: &[u8]) -> Result<(), Fault> {
        assert!(at + bytes.len() <= memory.bytes);
        self.enter()?;
        // SAFETY: the range lies in the allocation; all callers wait before `bytes` changes or goes.
        let answer = unsafe { result::memcpy_htod_async(memory.address + at as u64, bytes, self.stream()) };
        self.note(checked("cuMemcpyHtoDAsync", 0, answer))
    }

    /// Copies from `memory`, byte `at` on, to `bytes`, after everything that was asked for before.
    pub(super) fn read(&self, memory: &Memory, at: usize, bytes: &mut [u8]) -> Result<(), Fault> {
        assert!(at + bytes.len() <= memory.bytes);
        if bytes.is_empty() {
            return self.synchronize();
        }
        self.enter()?;
        // SAFETY: the range lies in the allocation, and the copy has ended, or the device with it, before `bytes` can be used.
        let answer = unsafe { result::memcpy_dtoh_async(bytes, memory.address + at as u64, self.stream()) };
        let answer = self.note(checked("cuMemcpyDtoHAsync", 0, answer));
        // The first that went wrong is the reason.
        let waited = self.synchronize();
        answer.and(waited)
    }

    /// Copies these bytes of `from` to `to`, from byte `at` on.
    pub(super) fn copy(
        &self,
        from: &Memory,
        part: Range<usize>,
        to: &mut Memory,
        at: usize,
    ) -> Result<(), Fault> {
        assert!(part.end <= from.bytes && at + part.len() <= to.bytes);
        if part.is_empty() {
            return Ok(());
        }
        self.enter()?;
        let (start, target) = (from.address + part.start as u64, to.address + at as u64);
        // SAFETY: both ranges lie in allocations that are held by reference, and these are two.
        let answer = unsafe { result::memcpy_dtod_async(target, start, part.len(), self.stream()) };
        self.note(checked("cuMemcpyDtoDAsync", 0, answer))
    }

    /// Waits for everything that was asked for.
    pub(super) fn synchronize(&self) -> Result<(), Fault> {
        self.enter()?;
        // SAFETY: the default stream of the context that is this thread's.
        self.note(checked("cuStreamSynchronize", 0, unsafe { result::stream::synchronize(self.stream()) }))
    }

    /// Starts a kernel on `blocks` blocks of `threads` threads.
    pub(super) fn launch(
        &self,
        module: Module,
        kernel: Kernel,
        blocks: [usize; 3],
        threads: u32,
        arguments: &[Argument<'_>],
    ) -> Result<(), Fault> {
        assert_eq!(kernel.parameters.len(), arguments.len(), "{}", kernel.name);
        for (kind, argument) in kernel.parameters.chars().zip(arguments) {
            let fits = match argument {
                Argument::At(..) => kind == 'p',
                Argument::U32(_) | Argument::Count(_) => kind == 'u',
                Argument::U64(_) => kind == 'l',
                Argument::F32(_) => kind == 'r' && module.number() == 4,
                Argument::F64(_) => kind == 'd' || (kind == 'r' && module.number() == 8),
            };
            assert!(fits, "{} has {}", kernel.name, kernel.parameters);
        }
        self.enter()?;
        let function = self.function(module, kernel.name)?;
        // Little end first: a narrow number lies at the start of its slot.
        let mut slots: Vec<u64> = arguments
            .iter()
            .map(|argument| match argument {
                Argument::At(memory, at) => Ok(memory.address + *at as u64),
                Argument::U32(value) => Ok(u64::from(*value)),
                Argument::Count(count) => counted(kernel, *count, u32::MAX).map(u64::from),
                Argument::U64(value) => Ok(*value),
                Argument::F32(value) => Ok(u64::from(value.to_bits())),
                Argument::F64(value) => Ok(value.to_bits()),
            })
            .collect::<Result<_, _>>()?;
        let mut pointers: Vec<*mut c_void> = slots.iter_mut().map(|slot| (&raw mut *slot).cast()).collect();
        let [x, y, z] = blocks;
        let (x, y, z) = (
            counted(kernel, x, i32::MAX.unsigned_abs())?,
            counted(kernel, y, MOST_BLOCKS)?,
            counted(kernel, z, MOST_BLOCKS)?,
        );
        // SAFETY: the function is loaded; number and kinds of its arguments are those of its declaration, which a test holds against
        // the PTX. That a kernel stays within the memory it is given rests on its text, which the tests run in an interpreter that
        // checks every access; a mistake there is an error of the device, not of this process.
        let answer = unsafe {
            result::launch_kernel(
                function.cu_function(),
                (x, y, z),
                (threads, 1, 1),
                0,
                self.stream(),
                &mut pointers,
            )
        };
        self.note(checked("cuLaunchKernel", 0, answer))
    }

    /// The function, whose module is compiled when it is first needed.
    fn function(&self, module: Module, name: &'static str) -> Result<CudaFunction, Fault> {
        if let Some(function) = lock(&self.functions).get(&(module, name)) {
            return Ok(function.clone());
        }
        let known = lock(&self.modules).get(&module).cloned();
        let loaded = if let Some(loaded) = known {
            loaded
        } else {
            let answer = self.context.load_module(Ptx::from_src(module.text()));
            let loaded = self.note(checked("cuModuleLoadData", 0, answer))?;
            lock(&self.modules).insert(module, loaded.clone());
            loaded
        };
        let function = self.note(checked("cuModuleGetFunction", 0, loaded.load_function(name)))?;
        lock(&self.functions).insert((module, name), function.clone());
        Ok(function)
    }
}

/// The hardware counts blocks of the second and third axis with 16 bits.
pub(super) const MOST_BLOCKS: u32 = 65535;

/// Memory that is freed stays the process's, and serves the next allocation: otherwise every wait gives it back, and the small buffers of
/// a sum cost more than the sum.
fn keep_pool(context: &CudaContext) -> Result<(), Fault> {
    const RELEASE_THRESHOLD: CUmemPool_attribute = CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
    let mut everything = u64::MAX;
    // SAFETY: the device has pools, and the attribute is a u64 that is read before the call returns.
    let answer = unsafe {
        result::device::get_default_mem_pool(context.cu_device()).and_then(|pool| {
            result::mem_pool::set_attribute(pool, RELEASE_THRESHOLD, (&raw mut everything).cast())
        })
    };
    checked("cuMemPoolSetAttribute", 0, answer)
}

/// A panic elsewhere leaves no half-made entry behind.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Memory {
    /// Its length in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Its address from byte `at` on, for libraries.
    pub(super) fn address(&self, at: usize) -> *mut c_void {
        assert!(at <= self.bytes);
        (self.address as usize + at) as *mut c_void
    }

    /// All of it from byte `at` on.
    pub(super) fn at(&self, at: usize) -> Argument<'_> {
        assert!(at <= self.bytes);
        Argument::At(self, at)
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if self.bytes == 0 {
            return;
        }
        self.driver.used.fetch_sub(self.bytes, Ordering::Relaxed);
        if self.driver.enter().is_err() {
            // The device is gone, and its memory with it.
            return;
        }
        if !lock(&self.driver.spare).keeps(self.bytes) {
            return self.driver.free(self.address);
        }
        let keep = || lock(&self.driver.spare).keep(self.address, self.bytes);
        if keep() {
            return;
        }
        // Sizes that do not come again make room for those of now.
        self.driver.free_spare();
        if !keep() {
            self.driver.free(self.address);
        }
    }
}
