//! What a GPU computes against what the processor computes: every kernel, every route to a spectrum, every operation of networks.
//!
//! Where both do the same operations in the same order the results must be the same bits; elsewhere they may differ by what the
//! order of a sum, or the rounding of a function, makes of it.

use std::path::Path;
use std::sync::Arc;

use super::model::{MeasureLevel, Measured, Spectrum};
use super::spectrum::choice::Route;
use super::spectrum::matrix;
use super::statistics::{self, Pivot};
use crate::compute::cuda::Device;
use crate::compute::{Backend, Binary, Cpu, Gemm, Matrix, Norm, Real, Side, Spread, Strip, Unary, Window};
use crate::context::Context;
use crate::error::{Error, Result};
use crate::files::InputFile;
use crate::random::Stream;
use crate::tensor::{DType, Tensor};

/// One comparison.
#[derive(Debug, Clone)]
pub struct Check {
    /// What was compared.
    pub name: String,
    /// The largest difference, and the one that is allowed; or what went wrong.
    pub outcome: std::result::Result<(f64, f64), String>,
}

impl Check {
    /// Whether the two agree.
    pub fn has_passed(&self) -> bool {
        matches!(self.outcome, Ok((difference, allowed)) if difference <= allowed)
    }
}

/// Compares everything, with matrices that are written to `directory` and removed again.
///
/// # Errors
/// The directory cannot be written or read.
pub fn run(device: &Arc<Device>, directory: &Path) -> Result<Vec<Check>> {
    let mut checks = Vec::new();
    let plain = device.plain();
    dense::<f32>(device, &plain, &mut checks);
    dense::<f64>(device, &plain, &mut checks);
    for dtype in [DType::F64, DType::F32, DType::F16, DType::Bf16, DType::F8E4M3, DType::F8E5M2] {
        stored(device, &plain, dtype, directory, &mut checks)?;
    }
    let shapes = [("tall", 90u64, 40u64), ("wide", 33, 75)];
    for (name, rows, columns) in shapes {
        let tensor = written(directory, DType::F32, rows, columns)?;
        spectra(device, &tensor, name, &mut checks);
    }
    Ok(checks)
}

/// How far results may be apart: relative to the largest of them for sums, to each for functions.
#[derive(Clone, Copy)]
enum Allowed {
    SameBits,
    OfLargest(f64),
    OfEach(f64),
}

/// Compares numbers; NaN and infinities must be the same.
fn compared(found: &[f64], expected: &[f64], allowed: Allowed) -> std::result::Result<(f64, f64), String> {
    if found.len() != expected.len() {
        return Err(format!("{} numbers instead of {}", found.len(), expected.len()));
    }
    let largest = expected.iter().filter(|x| x.is_finite()).fold(0.0f64, |most, x| most.max(x.abs()));
    let mut worst = 0.0f64;
    for (at, (&found, &expected)) in found.iter().zip(expected).enumerate() {
        let same = found.to_bits() == expected.to_bits() || (found.is_nan() && expected.is_nan());
        if same {
            continue;
        }
        if !found.is_finite() || !expected.is_finite() {
            return Err(format!("number {at} is {found:e} instead of {expected:e}"));
        }
        let scale = match allowed {
            // A difference that is not one of bits is one of the sign of zero, or counts.
            Allowed::SameBits => 1.0,
            Allowed::OfLargest(_) => largest,
            Allowed::OfEach(_) => expected.abs().max(f64::MIN_POSITIVE),
        };
        worst = worst.max(if found == expected { 0.0 } else { (found - expected).abs() / scale });
    }
    let bound = match allowed {
        Allowed::SameBits => 0.0,
        Allowed::OfLargest(bound) | Allowed::OfEach(bound) => bound,
    };
    Ok((worst, bound))
}

fn check(
    name: String,
    found: Result<Vec<f64>>,
    expected: Result<Vec<f64>>,
    allowed: Allowed,
    checks: &mut Vec<Check>,
) {
    let outcome = match (found, expected) {
        (Ok(found), Ok(expected)) => compared(&found, &expected, allowed),
        (Err(error), _) | (_, Err(error)) => Err(error.to_string()),
    };
    checks.push(Check { name, outcome });
}

/// What is done with dense buffers.
#[derive(Clone, Copy)]
enum Case {
    Gemm(bool, bool),
    Dot,
    Axpy,
    Scale,
    Place,
    Map(Unary),
    Zip(Binary),
    Broadcast(Binary, Spread),
    Reduce(Spread),
    Softmax(bool),
    SoftmaxProduct,
    Normalize(bool),
    NormalizeProduct(bool),
    Gather,
    ScatterAdd,
    Argmax,
    Im2col,
    Col2im,
    Permute,
    CopyStrip,
    Convert,
}

/// Sizes that no tile and no warp divides.
const M: usize = 37;
const N: usize = 45;
const K: usize = 70;

/// A window with everything that a window can have.
const WINDOW: Window = Window {
    batch: 2,
    channels: 4,
    groups: 2,
    size: [9, 7],
    kernel: [3, 2],
    stride: [2, 1],
    padding: [1, 1],
    dilation: [2, 3],
    places: [4, 6],
};

fn dense<T: Real>(device: &Arc<Device>, plain: &Arc<Device>, checks: &mut Vec<Check>) {
    let is_wide = size_of::<T>() == size_of::<f64>();
    let unit = if is_wide { f64::EPSILON } else { f64::from(f32::EPSILON) };
    let rounded = Allowed::OfEach(if is_wide { 64.0 * unit } else { unit });
    let summed = Allowed::OfLargest(if is_wide { 64.0 * unit } else { 2.0 * unit });
    let product = Allowed::OfLargest(K as f64 * unit);
    let mut cases = Vec::new();
    for (left, right) in [(false, false), (true, false), (false, true), (true, true)] {
        cases.push((
            format!("gemm {}·{}", turned('A', left), turned('B', right)),
            Case::Gemm(left, right),
            product,
        ));
    }
    cases.push(("dot".to_owned(), Case::Dot, Allowed::OfEach(1e-13)));
    for (name, case) in [("axpy", Case::Axpy), ("scale", Case::Scale), ("place", Case::Place)] {
        cases.push((name.to_owned(), case, Allowed::SameBits));
    }
    for function in FUNCTIONS {
        let name = format!("map {function:?}");
        // What cancels is relative to 1, the size of what it cancels from.
        let allowed = Allowed::OfLargest(if is_wide { 64.0 * unit } else { unit });
        cases.push((name, Case::Map(function), allowed));
    }
    for operation in [Binary::Add, Binary::Subtract, Binary::Multiply] {
        cases.push((format!("zip {operation:?}"), Case::Zip(operation), Allowed::SameBits));
        let spread = Spread::rows(M, N);
        cases.push((
            format!("broadcast {operation:?}"),
            Case::Broadcast(operation, spread),
            Allowed::SameBits,
        ));
    }
    cases.push(("reduce columns".to_owned(), Case::Reduce(Spread::columns(N)), summed));
    cases.push(("reduce rows".to_owned(), Case::Reduce(Spread::rows(M, N)), summed));
    for (name, case, allowed) in [
        // In f32 the processor rounds before it divides.
        ("softmax", Case::Softmax(false), Allowed::OfEach(if is_wide { 64.0 * unit } else { 2.0 * unit })),
        ("softmax, logarithm", Case::Softmax(true), rounded),
        ("softmax product", Case::SoftmaxProduct, summed),
        ("normalize", Case::Normalize(true), summed),
        ("normalize, not centred", Case::Normalize(false), summed),
        ("normalize product", Case::NormalizeProduct(true), summed),
        ("normalize product, not centred", Case::NormalizeProduct(false), summed),
        ("gather", Case::Gather, Allowed::SameBits),
        ("scatter add", Case::ScatterAdd, Allowed::SameBits),
        ("argmax", Case::Argmax, Allowed::SameBits),
        ("im2col", Case::Im2col, Allowed::SameBits),
        ("col2im", Case::Col2im, Allowed::SameBits),
        ("permute", Case::Permute, Allowed::SameBits),
        ("copy strip", Case::CopyStrip, Allowed::SameBits),
        ("convert", Case::Convert, Allowed::SameBits),
    ] {
        cases.push((name.to_owned(), case, allowed));
    }
    let number = if is_wide { "f64" } else { "f32" };
    for (name, case, allowed) in cases {
        let expected = result::<Cpu, T>(&Cpu, case);
        if matches!(case, Case::Gemm(..)) && device.has_blas() {
            let found = result::<_, T>(&device.backend(), case);
            check(format!("{number} {name}, cuBLAS"), found, expected.clone(), allowed, checks);
        }
        check(format!("{number} {name}"), result::<_, T>(&plain.backend(), case), expected, allowed, checks);
    }
}

const FUNCTIONS: [Unary; 14] = [
    Unary::Relu,
    Unary::Relu6,
    Unary::LeakyRelu { slope: 0.1 },
    Unary::Elu { alpha: 1.3 },
    Unary::GeluErf,
    Unary::GeluTanh,
    Unary::GeluSigmoid,
    Unary::Silu,
    Unary::Tanh,
    Unary::Sigmoid,
    Unary::Softplus,
    Unary::Exp,
    Unary::Log,
    Unary::SoftCap { cap: 3.0 },
];

fn turned(name: char, transposed: bool) -> String {
    if transposed { format!("{name}ᵀ") } else { name.to_string() }
}

fn numbers<T: Real>(stream: u64, count: usize) -> Vec<T> {
    Stream::new(0x5e1f, stream).normals(count).into_iter().map(T::from_f64).collect()
}

fn wide<T: Real>(values: Vec<T>) -> Vec<f64> {
    values.into_iter().map(Into::into).collect()
}

/// Everything that a case writes, in f64.
fn result<B: Backend, T: Real>(backend: &B, case: Case) -> Result<Vec<f64>> {
    let x = backend.upload::<T>(&numbers(1, M * N))?;
    let mut y = backend.upload::<T>(&numbers(2, M * N))?;
    let mut z = backend.zeros::<T>(M * N)?;
    let both = |y: &B::Buffer<T>, z: &B::Buffer<T>| -> Result<Vec<f64>> {
        Ok([wide(backend.download::<T>(y)?), wide(backend.download::<T>(z)?)].concat())
    };
    let rows = [3u32, 0, 36, 3, 7, 7, 7, 20, 1, 3, 0];
    match case {
        Case::Gemm(transpose_a, transpose_b) => {
            let (a, b) =
                (backend.upload::<T>(&numbers(3, 2 * M * K))?, backend.upload::<T>(&numbers(4, 2 * K * N))?);
            let mut c = backend.upload::<T>(&numbers(5, 2 * M * N))?;
            let (alpha, beta) = (T::from_f64(0.75), T::from_f64(-0.5));
            let gemm = Gemm { batch: 2, m: M, n: N, k: K, transpose_a, transpose_b, alpha, beta };
            backend.gemm(&gemm, &a, &b, &mut c)?;
            return Ok(wide(backend.download::<T>(&c)?));
        }
        Case::Dot => return Ok(vec![backend.dot::<T>(&x, &x)?, backend.dot::<T>(&x, &y)?]),
        Case::Axpy => backend.axpy(T::from_f64(0.3), &x, &mut y)?,
        Case::Scale => backend.scale(T::from_f64(-1.7), &mut y)?,
        Case::Place => {
            let part = backend.upload::<T>(&numbers(3, N))?;
            backend.place::<T>(&part, &mut y, 3 * N)?;
        }
        Case::Map(function) => {
            let mut values: Vec<T> = numbers::<T>(1, M * N);
            for (value, special) in
                values.iter_mut().zip([0.0, -0.0, 1.0, -1.0, 6.0, 30.0, -30.0, 5.9, 1e-9, -1e-9, 0.3])
            {
                *value = T::from_f64(special);
            }
            let x = backend.upload::<T>(&values)?;
            backend.map::<T>(function, &x, &mut y, Some(&mut z))?;
        }
        Case::Zip(operation) => backend.zip::<T>(operation, &x, &y, &mut z)?,
        Case::Broadcast(operation, spread) => {
            let v = backend.upload::<T>(&numbers(3, spread.count))?;
            backend.broadcast::<T>(operation, spread, &v, &mut y)?;
        }
        Case::Reduce(spread) => {
            let mut v = backend.upload::<T>(&numbers(3, spread.count))?;
            backend.reduce::<T>(spread, &x, &mut v)?;
            return Ok(wide(backend.download::<T>(&v)?));
        }
        Case::Softmax(logarithm) => {
            let mut values: Vec<T> = numbers::<T>(1, M * N);
            values[5] = T::from_f64(f64::NEG_INFINITY);
            values[N..2 * N].fill(T::from_f64(f64::NEG_INFINITY));
            let x = backend.upload::<T>(&values)?;
            backend.softmax::<T>(N, logarithm, &x, &mut y)?;
        }
        Case::SoftmaxProduct => {
            backend.softmax::<T>(N, false, &y, &mut z)?;
            let mut product = backend.zeros::<T>(M * N)?;
            backend.softmax_product::<T>(N, &z, &x, &mut product)?;
            return Ok(wide(backend.download::<T>(&product)?));
        }
        Case::Normalize(centred) => {
            let norm = Norm { columns: N, centred, epsilon: 1e-5 };
            let mut inverse = backend.zeros::<T>(M)?;
            backend.normalize::<T>(norm, &x, &mut y, &mut inverse)?;
            return both(&y, &inverse);
        }
        Case::NormalizeProduct(centred) => {
            let norm = Norm { columns: N, centred, epsilon: 1e-5 };
            let normal = backend.upload::<T>(&numbers(6, M * N))?;
            let inverse = backend.upload::<T>(&numbers(7, M))?;
            backend.normalize_product::<T>(norm, &normal, &inverse, &x, &mut y)?;
        }
        Case::Gather => {
            let index = backend.index(&rows)?;
            let mut picked = backend.zeros::<T>(rows.len() * N)?;
            backend.gather::<T>(N, &index, &x, &mut picked)?;
            return Ok(wide(backend.download::<T>(&picked)?));
        }
        Case::ScatterAdd => {
            let index = backend.index(&rows)?;
            let added = backend.upload::<T>(&numbers(8, rows.len() * N))?;
            backend.scatter_add::<T>(N, &index, &added, &mut y)?;
        }
        Case::Argmax => {
            let mut values: Vec<T> = numbers::<T>(1, M * N);
            // Two of the same, a NaN, two NaN.
            values[3] = T::from_f64(9.0);
            values[40] = T::from_f64(9.0);
            for at in [N + 7, 2 * N + 30, 2 * N + 31] {
                values[at] = T::from_f64(f64::NAN);
            }
            let x = backend.upload::<T>(&values)?;
            let index = backend.argmax::<T>(N, &x)?;
            // The places themselves: gathered from their own numbers.
            let places: Vec<T> = (0..M * N).map(|at| T::from_f64(at as f64)).collect();
            let places = backend.upload::<T>(&places)?;
            let mut found = backend.zeros::<T>(M)?;
            backend.gather::<T>(1, &index, &places, &mut found)?;
            return Ok(wide(backend.download::<T>(&found)?));
        }
        Case::Im2col => {
            let image = backend.upload::<T>(&numbers(9, WINDOW.image_length()))?;
            let mut patches = backend.zeros::<T>(WINDOW.patch_length())?;
            backend.im2col::<T>(&WINDOW, T::from_f64(-3.0), &image, &mut patches)?;
            return Ok(wide(backend.download::<T>(&patches)?));
        }
        Case::Col2im => {
            let patches = backend.upload::<T>(&numbers(9, WINDOW.patch_length()))?;
            let mut image = backend.upload::<T>(&numbers(10, WINDOW.image_length()))?;
            backend.col2im::<T>(&WINDOW, &patches, &mut image)?;
            return Ok(wide(backend.download::<T>(&image)?));
        }
        Case::Permute => {
            let shape = [3, 2, 5, 4, 2];
            let count = shape.iter().product();
            let (from, mut to) = (backend.upload::<T>(&numbers(3, count))?, backend.zeros::<T>(count)?);
            backend.permute::<T>(&shape, &[2, 4, 0, 3, 1], &from, &mut to)?;
            return Ok(wide(backend.download::<T>(&to)?));
        }
        Case::CopyStrip => {
            let strip = Strip { rows: M, columns: 11, from_width: N, from: 4, to_width: N, to: 30 };
            backend.copy_strip::<T>(&strip, &x, &mut y)?;
        }
        Case::Convert => {
            let (mut narrow, mut double) = (backend.zeros::<f32>(M * N)?, backend.zeros::<f64>(M * N)?);
            backend.convert::<T, f32>(&x, &mut narrow)?;
            backend.convert::<T, f64>(&y, &mut double)?;
            return Ok([wide(backend.download::<f32>(&narrow)?), backend.download::<f64>(&double)?].concat());
        }
    }
    both(&y, &z)
}

/// A tensor of bits that are all kinds of finite numbers, in a file of its own.
fn written(directory: &Path, dtype: DType, rows: u64, columns: u64) -> Result<Tensor> {
    let count = (rows * columns) as usize;
    let values = Stream::new(0x5e1f, dtype.bits() + rows).normals(count);
    let bytes: Vec<u8> = match dtype {
        DType::F64 => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
        DType::F32 => values.iter().flat_map(|x| (*x as f32).to_le_bytes()).collect(),
        DType::F16 => values.iter().flat_map(|x| half::f16::from_f64(*x).to_le_bytes()).collect(),
        DType::Bf16 => values.iter().flat_map(|x| half::bf16::from_f64(*x).to_le_bytes()).collect(),
        // Below the patterns of NaN and infinity.
        _ => values.iter().map(|x| ((x * 40.0) as i64).to_le_bytes()[0] & 0xf7 & 0xbb).collect(),
    };
    let path = directory.join(format!("self-test-{}-{dtype}-{rows}", std::process::id()));
    let failed = |error: std::io::Error| Error::io(&path, "write it", &error);
    std::fs::write(&path, &bytes).map_err(failed)?;
    // Read into memory, so that nothing is left behind whatever happens.
    let context = Context { mmap: false, ..Context::default() };
    let opened = InputFile::open(&path, &context);
    let file = opened.map(|file| Arc::new(InputFile::inflated(&Arc::new(file), bytes)));
    std::fs::remove_file(&path).map_err(failed)?;
    let file = file?;
    let range = 0..file.len();
    Tensor::contiguous(dtype, vec![rows, columns], file, range)
}

/// Products with matrices as they are stored, and the norm pass.
fn stored(
    device: &Arc<Device>,
    plain: &Arc<Device>,
    dtype: DType,
    directory: &Path,
    checks: &mut Vec<Check>,
) -> Result<()> {
    for (shape, rows, columns) in [("tall", 300u64, 70u64), ("wide", 35, 129)] {
        let tensor = written(directory, dtype, rows, columns)?;
        let whole = Matrix::new(&tensor);
        let part = Matrix::new(&tensor).with_rows(vec![5..20, 25..30]).with_columns(3..50).scaled(0.25);
        for (what, matrix) in [(shape.to_owned(), &whole), (format!("part of {shape}"), &part)] {
            let bound = Allowed::OfLargest(1e-12);
            let mut compare = |name: &str, run: &dyn Fn(&Side, &Arc<Device>) -> [Result<Vec<f64>>; 2]| {
                for (side, way) in [(Side::Plain, "·x"), (Side::Transposed, "ᵀ·x")] {
                    let [found, expected] = run(&side, plain);
                    check(format!("{dtype} {what}{way}, {name}"), found, expected, bound, checks);
                }
            };
            for vectors in [1, 3] {
                compare(&format!("{vectors} vectors, kept"), &|side, device| {
                    let held = device.holding(matrix).and_then(|cuda| applied(&cuda, matrix, *side, vectors));
                    [held, applied(&Cpu, matrix, *side, vectors)]
                });
                compare(&format!("{vectors} vectors, in panels"), &|side, device| {
                    let streamed = applied(&device.backend(), matrix, *side, vectors);
                    [streamed, applied(&Cpu, matrix, *side, vectors)]
                });
            }
            for (library, device) in [("", plain), (", cuBLAS", device)] {
                if library.is_empty() || device.has_blas() {
                    let found = device.holding(matrix).and_then(|cuda| cuda.download(&cuda.gram(matrix)?));
                    check(
                        format!("{dtype} {what}, Gram matrix{library}"),
                        found,
                        Cpu.gram(matrix),
                        bound,
                        checks,
                    );
                }
            }
            let found = device.backend().sum_of_squares(matrix).map(|sum| vec![sum]);
            let expected = Cpu.sum_of_squares(matrix).map(|sum| vec![sum]);
            check(format!("{dtype} {what}, sum of squares"), found, expected, bound, checks);
        }
        let loaded = plain.backend().load::<f32>(&tensor).and_then(|x| plain.backend().download::<f32>(&x));
        let expected = Cpu.load::<f32>(&tensor).map(wide);
        check(format!("{dtype} {shape}, load"), loaded.map(wide), expected, Allowed::SameBits, checks);
        checks.extend(norms(device, &tensor, &format!("{dtype} {shape}, norms")));
    }
    Ok(())
}

fn applied<B: Backend>(backend: &B, matrix: &Matrix<'_>, side: Side, vectors: usize) -> Result<Vec<f64>> {
    let (inputs, outputs) = match side {
        Side::Plain => (matrix.column_count(), matrix.row_count()),
        Side::Transposed => (matrix.row_count(), matrix.column_count()),
    };
    let x = backend.upload::<f64>(&numbers(11, inputs * vectors))?;
    let mut y = backend.upload::<f64>(&numbers(12, outputs * vectors))?;
    backend.multiply(matrix, side, vectors, &x, &mut y)?;
    backend.download(&y)
}

/// The norm pass must be the processor's, bit for bit; nothing where the device has no kernel for the dtype.
fn norms(device: &Device, tensor: &Tensor, name: &str) -> Option<Check> {
    let context = Context::default();
    let found = match statistics::measure_on_device(device, tensor, Pivot::One, &context) {
        Ok(found) => found?,
        Err(error) => return Some(Check { name: name.to_owned(), outcome: Err(error.to_string()) }),
    };
    let outcome = match statistics::measure(tensor, MeasureLevel::Norms, Pivot::One, &context) {
        Ok(expected) if expected == found => Ok((0.0, 0.0)),
        Ok(expected) => Err(format!("{found:?} instead of {expected:?}")),
        Err(error) => Err(error.to_string()),
    };
    Some(Check { name: name.to_owned(), outcome })
}

/// Every route to a spectrum.
fn spectra(device: &Arc<Device>, tensor: &Tensor, shape: &str, checks: &mut Vec<Check>) {
    let context = Context::default();
    let whole = Matrix::new(tensor);
    for route in [Route::Gram, Route::GramThenBidiagonal, Route::Lanczos, Route::LanczosAndDensity] {
        let of = |measured: Result<Option<Measured<Spectrum>>>| -> Result<Vec<f64>> {
            let Ok(Some(Measured::Value(spectrum))) = &measured else {
                // Nothing that compares as equal.
                return measured.map(|_| Vec::new());
            };
            let mut values =
                vec![spectrum.spectral_norm.value, spectrum.frobenius_norm, spectrum.stable_rank];
            match spectrum.values.value() {
                Some(all) => values.extend(all),
                None => values.push(spectrum.largest[0]),
            }
            Ok(values)
        };
        let found = device.holding(&whole).and_then(|cuda| matrix::measure(&cuda, &whole, route, &context));
        let expected = matrix::measure(&Cpu, &whole, route, &context);
        // Of a matrix whose smallest value is a hundredth of the largest: 4·(√m + √n)·ε·κ for the Gram matrix.
        let allowed = Allowed::OfLargest(1e-10);
        check(format!("spectrum, {shape}, {route:?}"), of(found), of(expected), allowed, checks);
    }
}
