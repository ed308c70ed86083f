//! The few calls of cuBLAS and cuSOLVER that flashpoint makes, as plain loops over the fake driver's memory. Column-major, as theirs are.
//! What is wrong with a call is written to stderr after `fake CUDA:`. `FAKE_MATH=gemm`, `FAKE_MATH=eigen` and `FAKE_MATH=batch` make these
//! calls fail, `FAKE_MATH=diverge` keeps the eigenvalues of every matrix from converging, and `FAKE_MATH=diverge-second` those of the second
//! of a batch. Each call for eigenvalues adds a line to the file `FAKE_MATH_CALLS`: its name, n, how many matrices.

#![allow(non_snake_case, clippy::missing_safety_doc, clippy::not_unsafe_ptr_arg_deref, clippy::too_many_arguments)]

use std::ffi::{c_char, c_int, c_longlong, c_void};
use std::sync::OnceLock;

type Copy = extern "C" fn(c_int, u64, *mut u8, usize) -> u32;

unsafe extern "C" {
    fn dlopen(name: *const c_char, flags: c_int) -> *mut c_void;
    fn dlsym(library: *mut c_void, name: *const c_char) -> *mut c_void;
}

/// The copy call of the fake driver, which is loaded already.
fn copy() -> Copy {
    static COPY: OnceLock<usize> = OnceLock::new();
    let address = *COPY.get_or_init(|| unsafe {
        let library = dlopen(c"libcuda.so.1".as_ptr(), 2);
        assert!(!library.is_null(), "the fake driver is loaded");
        dlsym(library, c"fake_cuda_copy".as_ptr()) as usize
    });
    unsafe { std::mem::transmute::<usize, Copy>(address) }
}

fn wrong(message: &str) -> u32 {
    eprintln!("fake CUDA: {message}");
    7
}

fn injected(what: &str) -> bool {
    std::env::var("FAKE_MATH").is_ok_and(|value| value == what)
}

/// Numbers of the device; a part outside of an allocation is an error of the driver.
fn read<T: Clone + Default>(address: u64, count: usize) -> Option<Vec<T>> {
    let mut values = vec![T::default(); count];
    let bytes = std::mem::size_of_val(&values[..]);
    (copy()(0, address, values.as_mut_ptr().cast(), bytes) == 0).then_some(values)
}

fn write<T>(address: u64, values: &mut [T]) -> bool {
    let bytes = std::mem::size_of_val(values);
    copy()(1, address, values.as_mut_ptr().cast(), bytes) == 0
}

#[unsafe(no_mangle)]
pub extern "C" fn cublasCreate_v2(handle: *mut usize) -> u32 {
    unsafe { handle.write(0xb1a5) };
    0
}

#[unsafe(no_mangle)]
pub extern "C" fn cublasDestroy_v2(handle: usize) -> u32 {
    if handle == 0xb1a5 { 0 } else { 1 }
}

#[unsafe(no_mangle)]
pub extern "C" fn cublasSetStream_v2(handle: usize, stream: usize) -> u32 {
    if handle == 0xb1a5 && stream == 0 { 0 } else { wrong("cublasSetStream") }
}

#[unsafe(no_mangle)]
pub extern "C" fn cublasGetProperty(property: c_int, value: *mut c_int) -> u32 {
    unsafe { value.write([13, 9, 1][property as usize]) };
    0
}

macro_rules! gemm {
    ($name:ident, $real:ty) => {
        #[unsafe(no_mangle)]
        pub extern "C" fn $name(
            handle: usize, transa: c_int, transb: c_int, m: c_int, n: c_int, k: c_int, alpha: *const $real,
            a: u64, lda: c_int, stride_a: c_longlong, b: u64, ldb: c_int, stride_b: c_longlong,
            beta: *const $real, c: u64, ldc: c_int, stride_c: c_longlong, batch: c_int,
        ) -> u32 {
            if injected("gemm") { return 13; }
            if handle != 0xb1a5 { return 1; }
            if m < 0 || n < 0 || k < 0 || batch < 0 { return wrong("a negative size"); }
            if !(0..=1).contains(&transa) || !(0..=1).contains(&transb) { return wrong("an operation that is not used"); }
            let (rows_a, rows_b) = (if transa == 0 { m } else { k }, if transb == 0 { k } else { n });
            if lda < rows_a.max(1) || ldb < rows_b.max(1) || ldc < m.max(1) {
                return wrong(&format!("leading dimensions {lda}, {ldb}, {ldc} of a product {m}x{n}x{k}"));
            }
            let (columns_a, columns_b) = (if transa == 0 { k } else { m }, if transb == 0 { n } else { k });
            if batch > 1 && (stride_a < i64::from(lda) * i64::from(columns_a) || stride_b < i64::from(ldb) * i64::from(columns_b) || stride_c < i64::from(ldc) * i64::from(n)) {
                return wrong("strides that overlap");
            }
            let (alpha, beta) = unsafe { (*alpha, *beta) };
            let size = std::mem::size_of::<$real>() as u64;
            for index in 0..batch as u64 {
                let at = |address: u64, stride: c_longlong| address + index * stride as u64 * size;
                let (Some(left), Some(right), Some(mut result)) = (
                    read::<$real>(at(a, stride_a), (lda * columns_a) as usize),
                    read::<$real>(at(b, stride_b), (ldb * columns_b) as usize),
                    read::<$real>(at(c, stride_c), (ldc * n) as usize),
                ) else { return wrong("operands outside of their memory") };
                for column in 0..n {
                    for row in 0..m {
                        let mut sum: $real = 0.0;
                        for deep in 0..k {
                            let x = if transa == 0 { left[(row + deep * lda) as usize] } else { left[(deep + row * lda) as usize] };
                            let y = if transb == 0 { right[(deep + column * ldb) as usize] } else { right[(column + deep * ldb) as usize] };
                            sum += x * y;
                        }
                        let to = &mut result[(row + column * ldc) as usize];
                        *to = if beta == 0.0 { alpha * sum } else { alpha * sum + beta * *to };
                    }
                }
                if !write(at(c, stride_c), &mut result) { return wrong("a result outside of its memory"); }
            }
            0
        }
    };
}

macro_rules! gemv {
    ($name:ident, $real:ty) => {
        #[unsafe(no_mangle)]
        pub extern "C" fn $name(
            handle: usize, trans: c_int, m: c_int, n: c_int, alpha: *const $real, a: u64, lda: c_int, x: u64,
            step_x: c_int, beta: *const $real, y: u64, step_y: c_int,
        ) -> u32 {
            if injected("gemm") { return 13; }
            if handle != 0xb1a5 { return 1; }
            if m < 0 || n < 0 { return wrong("a negative size"); }
            if !(0..=1).contains(&trans) { return wrong("an operation that is not used"); }
            if lda < m.max(1) || step_x != 1 || step_y != 1 {
                return wrong(&format!("leading dimension {lda}, steps {step_x}, {step_y} of a product {m}x{n}"));
            }
            let (alpha, beta) = unsafe { (*alpha, *beta) };
            let (inputs, outputs) = if trans == 0 { (n, m) } else { (m, n) };
            let (Some(left), Some(right), Some(mut result)) = (
                read::<$real>(a, (lda * n) as usize),
                read::<$real>(x, inputs as usize),
                read::<$real>(y, outputs as usize),
            ) else { return wrong("operands outside of their memory") };
            for output in 0..outputs {
                let mut sum: $real = 0.0;
                for input in 0..inputs {
                    let at = if trans == 0 { output + input * lda } else { input + output * lda };
                    sum += left[at as usize] * right[input as usize];
                }
                let to = &mut result[output as usize];
                *to = if beta == 0.0 { alpha * sum } else { alpha * sum + beta * *to };
            }
            if write(y, &mut result) { 0 } else { wrong("a result outside of its memory") }
        }
    };
}

gemv!(cublasSgemv_v2, f32);
gemv!(cublasDgemv_v2, f64);
gemm!(cublasSgemmStridedBatched, f32);
gemm!(cublasDgemmStridedBatched, f64);

#[unsafe(no_mangle)]
pub extern "C" fn cusolverDnCreate(handle: *mut usize) -> u32 {
    unsafe { handle.write(0x501e) };
    0
}

#[unsafe(no_mangle)]
pub extern "C" fn cusolverDnDestroy(handle: usize) -> u32 {
    if handle == 0x501e { 0 } else { 1 }
}

#[unsafe(no_mangle)]
pub extern "C" fn cusolverDnSetStream(handle: usize, stream: usize) -> u32 {
    if handle == 0x501e && stream == 0 { 0 } else { wrong("cusolverDnSetStream") }
}

#[unsafe(no_mangle)]
pub extern "C" fn cusolverDnCreateParams(parameters: *mut usize) -> u32 {
    unsafe { parameters.write(0x9a9a) };
    0
}

#[unsafe(no_mangle)]
pub extern "C" fn cusolverDnDestroyParams(parameters: usize) -> u32 {
    if parameters == 0x9a9a { 0 } else { 1 }
}

#[unsafe(no_mangle)]
pub extern "C" fn cusolverGetProperty(property: c_int, value: *mut c_int) -> u32 {
    unsafe { value.write([12, 8, 7][property as usize]) };
    0
}

/// f64, values only, the lower triangle, whole columns.
fn is_expected(mode: c_int, triangle: c_int, n: i64, line: i64, types: [c_int; 3]) -> bool {
    mode == 0 && triangle == 0 && n > 0 && line >= n && types == [1, 1, 1]
}

#[unsafe(no_mangle)]
pub extern "C" fn cusolverDnXsyevd_bufferSize(
    handle: usize, parameters: usize, mode: c_int, triangle: c_int, n: i64, type_a: c_int, _a: u64, line: i64,
    type_w: c_int, _w: u64, compute: c_int, device: *mut usize, host: *mut usize,
) -> u32 {
    if handle != 0x501e || parameters != 0x9a9a || !is_expected(mode, triangle, n, line, [type_a, type_w, compute]) {
        return wrong("cusolverDnXsyevd_bufferSize");
    }
    unsafe {
        device.write(n as usize * 8);
        host.write(24);
    }
    0
}

#[unsafe(no_mangle)]
pub extern "C" fn cusolverDnXsyevd(
    handle: usize, parameters: usize, mode: c_int, triangle: c_int, n: i64, type_a: c_int, a: u64, line: i64,
    type_w: c_int, w: u64, compute: c_int, on_device: u64, device_bytes: usize, host: *mut u8, host_bytes: usize, information: u64,
) -> u32 {
    if injected("eigen") { return 7; }
    if handle != 0x501e || parameters != 0x9a9a || !is_expected(mode, triangle, n, line, [type_a, type_w, compute]) {
        return wrong("cusolverDnXsyevd");
    }
    told("cusolverDnXsyevd", n, 1);
    let size = n as usize;
    if device_bytes < size * 8 || host_bytes < 24 || host.is_null() { return wrong("a workspace too small"); }
    if !write(on_device, &mut vec![1.0f64; size]) { return wrong("a workspace outside of its memory"); }
    unsafe { host.write_bytes(1, 24) };
    if decomposed(size, a, line as usize, w, information, if injected("diverge") { 3 } else { 0 }) { 0 } else { wrong("an operand outside of its memory") }
}

/// Notes a call.
fn told(call: &str, n: i64, count: i64) {
    use std::io::Write;
    let Ok(path) = std::env::var("FAKE_MATH_CALLS") else { return };
    let mut file = std::fs::OpenOptions::new().append(true).create(true).open(path).expect("a file of calls");
    writeln!(file, "{call} {n} {count}").expect("a file of calls");
}

/// Replaces a matrix, of which only the lower triangle counts, by NaN, and writes its eigenvalues and how many did not converge.
fn decomposed(n: usize, a: u64, line: usize, w: u64, information: u64, failed: i32) -> bool {
    let Some(stored) = read::<f64>(a, line * n) else { return false };
    let entry = |row: usize, column: usize| stored[row.max(column) + row.min(column) * line];
    let matrix: Vec<Vec<f64>> = (0..n).map(|row| (0..n).map(|column| entry(row, column)).collect()).collect();
    let mut values = jacobi(matrix);
    write(w, &mut values) && write(a, &mut vec![f64::NAN; line * n]) && write(information, &mut [failed])
}

/// Bytes of the workspace of a batch: four times those of the matrices.
#[cfg(not(without_batch))]
fn batch_workspace(n: i64, count: i64) -> usize {
    32 * (n * n * count) as usize
}

/// Whether the real one takes them: numbers are counted with 31 bits, and matrices with 15.
#[cfg(not(without_batch))]
fn is_within_limits(n: i64, line: i64, count: i64) -> bool {
    count > 0 && count < 1 << 15 && n * line * count <= i64::from(i32::MAX)
}

#[cfg(not(without_batch))]
#[unsafe(no_mangle)]
pub extern "C" fn cusolverDnXsyevBatched_bufferSize(
    handle: usize, parameters: usize, mode: c_int, triangle: c_int, n: i64, type_a: c_int, _a: u64, line: i64,
    type_w: c_int, _w: u64, compute: c_int, device: *mut usize, host: *mut usize, count: i64,
) -> u32 {
    if handle != 0x501e || parameters != 0x9a9a || !is_expected(mode, triangle, n, line, [type_a, type_w, compute]) {
        return wrong("cusolverDnXsyevBatched_bufferSize");
    }
    if !is_within_limits(n, line, count) { return 3; }
    unsafe {
        device.write(batch_workspace(n, count));
        host.write(40);
    }
    0
}

#[cfg(not(without_batch))]
#[unsafe(no_mangle)]
pub extern "C" fn cusolverDnXsyevBatched(
    handle: usize, parameters: usize, mode: c_int, triangle: c_int, n: i64, type_a: c_int, a: u64, line: i64,
    type_w: c_int, w: u64, compute: c_int, on_device: u64, device_bytes: usize, host: *mut u8, host_bytes: usize, information: u64, count: i64,
) -> u32 {
    if injected("batch") || injected("eigen") { return 7; }
    if handle != 0x501e || parameters != 0x9a9a || !is_expected(mode, triangle, n, line, [type_a, type_w, compute]) {
        return wrong("cusolverDnXsyevBatched");
    }
    if !is_within_limits(n, line, count) { return 3; }
    told("cusolverDnXsyevBatched", n, count);
    let needed = batch_workspace(n, count);
    if device_bytes < needed || host_bytes < 40 || host.is_null() { return wrong("a workspace too small"); }
    if !write(on_device, &mut vec![1u8; needed]) { return wrong("a workspace outside of its memory"); }
    unsafe { host.write_bytes(1, 40) };
    for index in 0..count as u64 {
        let (size, area) = (n as u64, (n * line) as u64);
        let failed = if injected("diverge") || (injected("diverge-second") && index == 1) { 3 } else { 0 };
        if !decomposed(n as usize, a + 8 * area * index, line as usize, w + 8 * size * index, information + 4 * index, failed) {
            return wrong("an operand outside of its memory");
        }
    }
    0
}

/// Eigenvalues by cyclic rotations (Jacobi 1846), ascending.
fn jacobi(mut a: Vec<Vec<f64>>) -> Vec<f64> {
    let n = a.len();
    for _ in 0..60 {
        let off: f64 = (0..n).flat_map(|row| (0..row).map(move |column| (row, column))).map(|(row, column)| a[row][column].powi(2)).sum();
        let all: f64 = a.iter().flatten().map(|x| x * x).sum();
        if off <= 1e-32 * all {
            break;
        }
        for p in 0..n {
            for q in p + 1..n {
                if a[p][q] == 0.0 {
                    continue;
                }
                let theta = (a[q][q] - a[p][p]) / (2.0 * a[p][q]);
                let t = theta.signum() / (theta.abs() + (theta * theta + 1.0).sqrt());
                let t = if theta == 0.0 { 1.0 } else { t };
                let c = 1.0 / (t * t + 1.0).sqrt();
                let s = t * c;
                for row in a.iter_mut() {
                    let (x, y) = (row[p], row[q]);
                    (row[p], row[q]) = (c * x - s * y, s * x + c * y);
                }
                for column in 0..n {
                    let (x, y) = (a[p][column], a[q][column]);
                    (a[p][column], a[q][column]) = (c * x - s * y, s * x + c * y);
                }
            }
        }
    }
    let mut values: Vec<f64> = (0..n).map(|index| a[index][index]).collect();
    values.sort_by(f64::total_cmp);
    values
}
