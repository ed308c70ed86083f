//! A CUDA driver without a GPU: device memory in main memory, kernels run by the interpreter. The calls that flashpoint makes, and no
//! other: a further one would be missing, and cudarc's panic would say so.
//!
//! `FAKE_CUDA` injects failures, separated by commas: `memory=BYTES`, `devices=N`, `capability=MAJOR.MINOR`, `pools=0|1`,
//! `version=N`, `reversed` (warps last to first), `fail=CALL:N:CODE` (the N-th such call, or with `N+` every one from it on, answers CODE). What is wrong with a
//! call is written to stderr after `fake CUDA:`.

#![allow(non_snake_case, clippy::missing_safety_doc, clippy::not_unsafe_ptr_arg_deref, dead_code)]

#[path = "../ptx/mod.rs"]
mod ptx;

use std::collections::{BTreeMap, HashMap};
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use ptx::{Grid, Memory, Module, Order, launch};

type Answer = u32;
const SUCCESS: Answer = 0;
const INVALID_VALUE: Answer = 1;
const OUT_OF_MEMORY: Answer = 2;
const NOT_INITIALIZED: Answer = 3;
const NO_DEVICE: Answer = 100;
const INVALID_DEVICE: Answer = 101;
const INVALID_IMAGE: Answer = 200;
const INVALID_CONTEXT: Answer = 201;
const INVALID_HANDLE: Answer = 400;
const NOT_FOUND: Answer = 500;
const LAUNCH_FAILED: Answer = 719;

/// The one context.
const CONTEXT: usize = 0xc0de;

#[derive(Default)]
struct Settings {
    memory: u64,
    devices: c_int,
    capability: (c_int, c_int),
    pools: c_int,
    version: c_int,
    reversed: bool,
    /// A call, the first that fails and the last, and what they answer.
    failures: Vec<(String, [u64; 2], Answer)>,
}

#[derive(Default)]
struct State {
    initialised: bool,
    allocations: BTreeMap<u64, Vec<u8>>,
    used: u64,
    next: u64,
    pinned: HashMap<usize, usize>,
    modules: Vec<Option<Arc<Module>>>,
    functions: Vec<(Arc<Module>, String)>,
    events: u64,
    calls: HashMap<&'static str, u64>,
    bound: HashMap<std::thread::ThreadId, usize>,
}

fn settings() -> &'static Settings {
    static SETTINGS: OnceLock<Settings> = OnceLock::new();
    SETTINGS.get_or_init(|| {
        let mut settings = Settings { memory: 1 << 30, devices: 1, capability: (9, 0), pools: 1, version: 13000, ..Settings::default() };
        for item in std::env::var("FAKE_CUDA").unwrap_or_default().split(',').filter(|item| !item.is_empty()) {
            let (name, value) = item.split_once('=').unwrap_or((item, ""));
            let number = || value.parse().expect("a number");
            match name {
                "memory" => settings.memory = value.parse().expect("bytes"),
                "devices" => settings.devices = number(),
                "pools" => settings.pools = number(),
                "version" => settings.version = number(),
                "reversed" => settings.reversed = true,
                "capability" => {
                    let (major, minor) = value.split_once('.').expect("major.minor");
                    settings.capability = (major.parse().expect("major"), minor.parse().expect("minor"));
                }
                "fail" => {
                    let parts: Vec<&str> = value.split(':').collect();
                    let [call, nth, code] = parts[..] else { panic!("fail=CALL:N:CODE") };
                    let first = nth.trim_end_matches('+').parse().expect("N");
                    let last = if nth.ends_with('+') { u64::MAX } else { first };
                    settings.failures.push((call.to_owned(), [first, last], code.parse().expect("CODE")));
                }
                _ => panic!("FAKE_CUDA has no {name}"),
            }
        }
        settings
    })
}

fn state() -> MutexGuard<'static, State> {
    static STATE: OnceLock<Mutex<State>> = OnceLock::new();
    STATE.get_or_init(|| Mutex::new(State { next: 0x7000_0000_0000, ..State::default() })).lock().unwrap_or_else(PoisonError::into_inner)
}

fn wrong(message: &str, answer: Answer) -> Answer {
    eprintln!("fake CUDA: {message}");
    answer
}

/// Counts a call, and answers with an injected failure or with what a call before `cuInit` or without a context gets.
fn enter(state: &mut State, call: &'static str) -> Option<Answer> {
    let count = state.calls.entry(call).or_default();
    *count += 1;
    let hit = settings().failures.iter().find(|(name, [first, last], _)| name == call && (first..=last).contains(&&*count));
    if let Some((_, _, code)) = hit {
        return Some(*code);
    }
    let before_all = ["cuInit", "cuDriverGetVersion"].contains(&call);
    if !before_all && !state.initialised {
        return Some(wrong(&format!("{call} before cuInit"), NOT_INITIALIZED));
    }
    let needs_context = call.starts_with("cuMem") || call.starts_with("cuModule") || call.starts_with("cuStream") || call.starts_with("cuEvent") || call == "cuLaunchKernel";
    let bound = state.bound.get(&std::thread::current().id()).copied().unwrap_or(0);
    if needs_context && bound != CONTEXT {
        return Some(wrong(&format!("{call} in a thread without a context"), INVALID_CONTEXT));
    }
    None
}

impl State {
    /// The allocation that holds these bytes.
    fn hold(&self, address: u64, bytes: usize) -> Result<(u64, usize), String> {
        let found = self.allocations.range(..=address).next_back();
        let fits = found.filter(|(start, memory)| address - **start + bytes as u64 <= memory.len() as u64);
        fits.map(|(start, _)| (*start, (address - start) as usize)).ok_or_else(|| match found {
            Some((start, memory)) => format!("{bytes} bytes at offset {} of an allocation of {}", address - start, memory.len()),
            None => format!("{bytes} bytes at {address:#x}, which is no allocation"),
        })
    }
}

impl Memory for State {
    fn load(&mut self, address: u64, bytes: usize) -> Result<(u64, u64), String> {
        let (start, offset) = self.hold(address, bytes)?;
        let mut word = [0; 8];
        word[..bytes].copy_from_slice(&self.allocations[&start][offset..offset + bytes]);
        Ok((start, u64::from_le_bytes(word)))
    }

    fn store(&mut self, address: u64, bytes: usize, value: u64) -> Result<u64, String> {
        let (start, offset) = self.hold(address, bytes)?;
        let memory = self.allocations.get_mut(&start).expect("just found");
        memory[offset..offset + bytes].copy_from_slice(&value.to_le_bytes()[..bytes]);
        Ok(start)
    }
}

macro_rules! call {
    ($name:ident($($argument:ident: $type:ty),*) $state:ident $body:block) => {
        #[unsafe(no_mangle)]
        pub extern "C" fn $name($($argument: $type),*) -> Answer {
            let mut guard = state();
            if let Some(answer) = enter(&mut guard, stringify!($name)) {
                return answer;
            }
            #[allow(unused)]
            let $state: &mut State = &mut guard;
            $body
        }
    };
}

/// Writes through a pointer that the caller made for it.
fn put<T>(to: *mut T, value: T) {
    unsafe { to.write(value) }
}

call!(cuInit(flags: c_uint) state {
    if flags != 0 { return wrong("flags of cuInit", INVALID_VALUE); }
    if settings().devices == 0 { return NO_DEVICE; }
    state.initialised = true;
    SUCCESS
});
call!(cuDriverGetVersion(version: *mut c_int) state { put(version, settings().version); SUCCESS });
call!(cuDeviceGetCount(count: *mut c_int) state { put(count, settings().devices); SUCCESS });
call!(cuDeviceGet(device: *mut c_int, ordinal: c_int) state {
    if ordinal < 0 || ordinal >= settings().devices { return INVALID_DEVICE; }
    put(device, ordinal);
    SUCCESS
});
call!(cuDeviceGetName(name: *mut c_char, length: c_int, device: c_int) state {
    let text = format!("Fake GPU {device}\0");
    if text.len() > length as usize { return INVALID_VALUE; }
    for (index, byte) in text.bytes().enumerate() { put(unsafe { name.add(index) }, byte as c_char); }
    SUCCESS
});
call!(cuDeviceGetAttribute(value: *mut c_int, attribute: c_uint, device: c_int) state {
    put(value, match attribute {
        75 => settings().capability.0,
        76 => settings().capability.1,
        115 => settings().pools,
        _ => return wrong(&format!("attribute {attribute}"), INVALID_VALUE),
    });
    SUCCESS
});
call!(cuDeviceGetDefaultMemPool(pool: *mut usize, device: c_int) state {
    if settings().pools == 0 { return wrong("a pool of a device without pools", INVALID_VALUE); }
    put(pool, 0x9001);
    SUCCESS
});
call!(cuMemPoolSetAttribute(pool: usize, attribute: c_uint, value: *const u64) state {
    if pool != 0x9001 || attribute != 4 { return wrong("cuMemPoolSetAttribute", INVALID_VALUE); }
    SUCCESS
});
call!(cuDevicePrimaryCtxRetain(context: *mut usize, device: c_int) state { put(context, CONTEXT); SUCCESS });
call!(cuDevicePrimaryCtxRelease_v2(device: c_int) state { SUCCESS });
call!(cuCtxGetCurrent(context: *mut usize) state {
    put(context, state.bound.get(&std::thread::current().id()).copied().unwrap_or(0));
    SUCCESS
});
call!(cuCtxSetCurrent(context: usize) state {
    if context != CONTEXT { return wrong("no such context", INVALID_CONTEXT); }
    state.bound.insert(std::thread::current().id(), context);
    SUCCESS
});
call!(cuMemGetInfo_v2(free: *mut usize, total: *mut usize) state {
    put(free, (settings().memory - state.used) as usize);
    put(total, settings().memory as usize);
    SUCCESS
});

fn allocate(state: &mut State, address: *mut u64, bytes: usize) -> Answer {
    if bytes == 0 { return wrong("an allocation of 0 bytes", INVALID_VALUE); }
    if state.used + bytes as u64 > settings().memory { return OUT_OF_MEMORY; }
    state.used += bytes as u64;
    // Apart, so that what runs over one does not run into the next; and never given out again.
    let start = state.next;
    state.next = (start + bytes as u64 + 4096).next_multiple_of(512);
    // NaN in every float: what is read before it is written is seen in what comes of it.
    state.allocations.insert(start, vec![0xff; bytes]);
    put(address, start);
    SUCCESS
}

fn free(state: &mut State, address: u64) -> Answer {
    match state.allocations.remove(&address) {
        Some(memory) => { state.used -= memory.len() as u64; SUCCESS }
        None => wrong(&format!("{address:#x} is freed and is no allocation"), INVALID_VALUE),
    }
}

call!(cuMemAlloc_v2(address: *mut u64, bytes: usize) state { allocate(state, address, bytes) });
call!(cuMemFree_v2(address: u64) state { free(state, address) });
call!(cuMemAllocAsync(address: *mut u64, bytes: usize, stream: usize) state {
    if settings().pools == 0 { return wrong("pools are not supported", INVALID_VALUE); }
    if stream != 0 { return INVALID_HANDLE; }
    allocate(state, address, bytes)
});
call!(cuMemFreeAsync(address: u64, stream: usize) state {
    if stream != 0 { return INVALID_HANDLE; }
    free(state, address)
});
call!(cuMemsetD8Async(address: u64, value: u8, bytes: usize, stream: usize) state {
    match state.hold(address, bytes) {
        Ok((start, offset)) => { state.allocations.get_mut(&start).unwrap()[offset..offset + bytes].fill(value); SUCCESS }
        Err(error) => wrong(&format!("cuMemsetD8Async: {error}"), INVALID_VALUE),
    }
});
call!(cuMemcpyHtoDAsync_v2(to: u64, from: *const u8, bytes: usize, stream: usize) state { copy_in(state, to, from, bytes) });
call!(cuMemcpyDtoHAsync_v2(to: *mut u8, from: u64, bytes: usize, stream: usize) state { copy_out(state, to, from, bytes) });
call!(cuMemcpyDtoDAsync_v2(to: u64, from: u64, bytes: usize, stream: usize) state {
    match (state.hold(to, bytes), state.hold(from, bytes)) {
        (Ok((to, at)), Ok((from, start))) => {
            let copied = state.allocations[&from][start..start + bytes].to_vec();
            state.allocations.get_mut(&to).unwrap()[at..at + bytes].copy_from_slice(&copied);
            SUCCESS
        }
        (to, from) => wrong(&format!("cuMemcpyDtoDAsync: {to:?} {from:?}"), INVALID_VALUE),
    }
});

fn copy_in(state: &mut State, to: u64, from: *const u8, bytes: usize) -> Answer {
    match state.hold(to, bytes) {
        Ok((start, offset)) => {
            let from = unsafe { std::slice::from_raw_parts(from, bytes) };
            state.allocations.get_mut(&start).unwrap()[offset..offset + bytes].copy_from_slice(from);
            SUCCESS
        }
        Err(error) => wrong(&format!("a copy to the device: {error}"), INVALID_VALUE),
    }
}

fn copy_out(state: &mut State, to: *mut u8, from: u64, bytes: usize) -> Answer {
    match state.hold(from, bytes) {
        Ok((start, offset)) => {
            let to = unsafe { std::slice::from_raw_parts_mut(to, bytes) };
            to.copy_from_slice(&state.allocations[&start][offset..offset + bytes]);
            SUCCESS
        }
        Err(error) => wrong(&format!("a copy from the device: {error}"), INVALID_VALUE),
    }
}

call!(cuMemHostAlloc(pointer: *mut *mut c_void, bytes: usize, flags: c_uint) state {
    if flags != 0 { return wrong(&format!("flags {flags} of page-locked memory"), INVALID_VALUE); }
    let memory = vec![0xa5u8; bytes].leak();
    state.pinned.insert(memory.as_ptr() as usize, bytes);
    put(pointer, memory.as_mut_ptr().cast());
    SUCCESS
});
call!(cuMemFreeHost(pointer: *mut c_void) state {
    if state.pinned.remove(&(pointer as usize)).is_some() { SUCCESS } else { wrong("no page-locked memory", INVALID_VALUE) }
});
call!(cuStreamSynchronize(stream: usize) state { if stream == 0 { SUCCESS } else { INVALID_HANDLE } });
call!(cuEventCreate(event: *mut usize, flags: c_uint) state { state.events += 1; put(event, state.events as usize); SUCCESS });
call!(cuEventRecord(event: usize, stream: usize) state { if event as u64 <= state.events { SUCCESS } else { INVALID_HANDLE } });
call!(cuEventSynchronize(event: usize) state { if event as u64 <= state.events { SUCCESS } else { INVALID_HANDLE } });
call!(cuEventDestroy_v2(event: usize) state { SUCCESS });
call!(cuModuleLoadData(module: *mut usize, image: *const c_char) state {
    let Ok(text) = unsafe { CStr::from_ptr(image) }.to_str() else { return INVALID_IMAGE };
    match Module::read(text) {
        Ok(read) => { state.modules.push(Some(Arc::new(read))); put(module, state.modules.len()); SUCCESS }
        Err(error) => wrong(&error, INVALID_IMAGE),
    }
});
call!(cuModuleUnload(module: usize) state {
    match module.checked_sub(1).and_then(|index| state.modules.get_mut(index)) {
        Some(module) => { *module = None; SUCCESS }
        None => INVALID_HANDLE,
    }
});
call!(cuModuleGetFunction(function: *mut usize, module: usize, name: *const c_char) state {
    let Ok(name) = unsafe { CStr::from_ptr(name) }.to_str() else { return INVALID_VALUE };
    let Some(Some(module)) = module.checked_sub(1).and_then(|index| state.modules.get(index)).cloned() else { return INVALID_HANDLE };
    if !module.kernels.contains_key(name) { return NOT_FOUND; }
    state.functions.push((module, name.to_owned()));
    put(function, state.functions.len());
    SUCCESS
});

#[cfg(not(without_launch))]
call!(cuLaunchKernel(function: usize, x: c_uint, y: c_uint, z: c_uint, tx: c_uint, ty: c_uint, tz: c_uint, shared: c_uint, stream: usize, parameters: *const *const u8, extra: usize) state {
    let Some((module, name)) = function.checked_sub(1).and_then(|index| state.functions.get(index)).cloned() else { return INVALID_HANDLE };
    if shared != 0 || stream != 0 || extra != 0 { return wrong("shared memory, a stream or extras", INVALID_VALUE); }
    let kernel = &module.kernels[&name];
    let length = kernel.offsets.last().map_or(0, |offset| offset + 8);
    let mut bytes = vec![0u8; length];
    for (index, (offset, size)) in kernel.offsets.iter().zip(&kernel.parameters).enumerate() {
        let from = unsafe { std::slice::from_raw_parts(*parameters.add(index), *size) };
        bytes[*offset..offset + size].copy_from_slice(from);
    }
    let order = if settings().reversed { Order::LastToFirst } else { Order::FirstToLast };
    let grid = Grid { blocks: [x, y, z], threads: [tx, ty, tz] };
    match launch(kernel, grid, &bytes, state, order) {
        Ok(()) => SUCCESS,
        Err(error) => wrong(&error, LAUNCH_FAILED),
    }
});

/// For the libraries beside the driver: a copy to the device, or from it.
#[unsafe(no_mangle)]
pub extern "C" fn fake_cuda_copy(to_device: c_int, address: u64, host: *mut u8, bytes: usize) -> Answer {
    let mut guard = state();
    if to_device != 0 { copy_in(&mut guard, address, host, bytes) } else { copy_out(&mut guard, host, address, bytes) }
}
