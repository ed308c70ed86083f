//! Matrices as they are stored: products, norms, spectra.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use super::{Allowed, Check, numbers};
use crate::analysis::model::{MeasureLevel, Measured, Spectrum};
use crate::analysis::spectrum::choice::Route;
use crate::analysis::spectrum::matrix;
use crate::analysis::statistics::{self, Pivot};
use crate::compute::cuda::Device;
use crate::compute::{Backend, Cpu, Matrix, Side};
use crate::context::Context;
use crate::error::{Error, Result};
use crate::files::InputFile;
use crate::random::Stream;
use crate::tensor::{DType, Tensor};

/// What a tensor is filled with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Content {
    /// Standard normal numbers; finite numbers of all sizes for FP8.
    Normals,
    /// Any bits: NaN and infinities as often as they come, and zeros of both signs and the smallest subnormal numbers.
    Bits,
    /// Twelve largest singular values that differ by a hundredth at most, above noise.
    NearTies,
    /// Integers of rank three.
    ThreeRanks,
    /// Zeros.
    Zeros,
    /// Standard normal numbers, one NaN and one infinity.
    NotFinite,
}

fn numbers_of(content: Content, rows: usize, columns: usize, stream: Stream) -> Vec<f64> {
    let mut values = stream.normals(rows * columns);
    match content {
        Content::NearTies => {
            for x in &mut values {
                *x *= 0.001;
            }
            for at in 0..12.min(rows).min(columns) {
                values[at * columns + at] = if at % 2 == 0 { 1.0 } else { 1.0 + 1.0 / 128.0 };
            }
        }
        Content::ThreeRanks => {
            let factor = |index: usize, term: usize| ((index * (term + 2) + index / 7) % 5) as f64 - 2.0;
            for (at, value) in values.iter_mut().enumerate() {
                *value = (0..3).map(|term| factor(at / columns, term) * factor(at % columns, term + 1)).sum();
            }
        }
        Content::Zeros => values.fill(0.0),
        Content::NotFinite => {
            values[rows * columns / 3] = f64::NAN;
            values[rows * columns / 2] = f64::INFINITY;
        }
        Content::Normals | Content::Bits => {}
    }
    values
}

fn stored_as(dtype: DType, values: &[f64]) -> Vec<u8> {
    match dtype {
        DType::F64 => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
        DType::F32 => values.iter().flat_map(|x| (*x as f32).to_le_bytes()).collect(),
        DType::F16 => values.iter().flat_map(|x| half::f16::from_f64(*x).to_le_bytes()).collect(),
        DType::Bf16 => values.iter().flat_map(|x| half::bf16::from_f64(*x).to_le_bytes()).collect(),
        // Below the patterns of NaN and infinity.
        _ => values.iter().map(|x| ((x * 40.0) as i64).to_le_bytes()[0] & 0xf7 & 0xbb).collect(),
    }
}

#[expect(clippy::cast_sign_loss, reason = "a uniform number is not negative")]
fn bits(dtype: DType, count: usize, stream: Stream) -> Vec<u8> {
    let size = dtype.size().expect("only dtypes of whole bytes are matrices") as usize;
    let mut bytes: Vec<u8> = stream.uniforms(count * size).into_iter().map(|u| (u * 256.0) as u8).collect();
    for (index, element) in bytes.chunks_exact_mut(size).enumerate() {
        match index % 16 {
            0 => element.fill(0),
            5 | 10 => {
                element.fill(0);
                if index % 16 == 5 { element[size - 1] = 0x80 } else { element[0] = 1 }
            }
            _ => {}
        }
    }
    bytes
}

/// A tensor in a file of its own.
pub(super) fn written(
    directory: &Path,
    dtype: DType,
    rows: u64,
    columns: u64,
    content: Content,
) -> Result<Tensor> {
    let (count, stream) = ((rows * columns) as usize, Stream::new(0x5e1f, dtype.bits() + rows));
    let bytes = match content {
        Content::Bits => bits(dtype, count, stream),
        content => stored_as(dtype, &numbers_of(content, rows as usize, columns as usize, stream)),
    };
    let path = directory.join(format!("self-test-{}-{dtype}-{rows}", std::process::id()));
    let failed = |error: std::io::Error| Error::io(&path, "write it", &error);
    // A file that is there already, or a link to one, is another's.
    let file = OpenOptions::new().write(true).create_new(true).open(&path);
    file.and_then(|mut file| file.write_all(&bytes)).map_err(failed)?;
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
pub(super) fn check(
    device: &Arc<Device>,
    plain: &Arc<Device>,
    dtype: DType,
    directory: &Path,
    checks: &mut Vec<Check>,
) -> Result<()> {
    for (shape, rows, columns) in [("tall", 300u64, 70u64), ("wide", 35, 129)] {
        let tensor = written(directory, dtype, rows, columns, Content::Normals)?;
        let whole = Matrix::new(&tensor);
        let part = Matrix::new(&tensor).with_rows(vec![5..20, 25..30]).with_columns(3..50).scaled(0.25);
        for (what, matrix) in [(shape.to_owned(), &whole), (format!("part of {shape}"), &part)] {
            let bound = Allowed::OfLargest(1e-12);
            products(plain, matrix, &format!("{dtype} {what}"), checks);
            for (library, device) in [("", plain), (", cuBLAS", device)] {
                if library.is_empty() || device.has_blas() {
                    let found = device.holding(matrix).and_then(|cuda| cuda.download(&cuda.gram(matrix)?));
                    super::check(
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
            super::check(format!("{dtype} {what}, sum of squares"), found, expected, bound, checks);
        }
        loaded(plain, &tensor, &format!("{dtype} {shape}"), checks);
        checks.extend(norms(device, &tensor, &format!("{dtype} {shape}, norms")));
    }
    Ok(())
}

/// Products with one vector, with blocks of a few and with more than a block has, of a matrix that is kept and of one that is not.
fn products(plain: &Arc<Device>, matrix: &Matrix<'_>, what: &str, checks: &mut Vec<Check>) {
    let bound = Allowed::OfLargest(1e-12);
    for vectors in [1, 3, 8, 9] {
        for (side, way) in [(Side::Plain, "·x"), (Side::Transposed, "ᵀ·x")] {
            let expected = applied(&Cpu, matrix, side, vectors);
            let name = format!("{what}{way}, {vectors} vectors");
            let held = plain.holding(matrix).and_then(|cuda| applied(&cuda, matrix, side, vectors));
            super::check(format!("{name}, kept"), held, expected.clone(), bound, checks);
            let streamed = applied(&plain.backend(), matrix, side, vectors);
            super::check(format!("{name}, in panels"), streamed, expected, bound, checks);
        }
    }
}

fn loaded(plain: &Arc<Device>, tensor: &Tensor, what: &str, checks: &mut Vec<Check>) {
    let found = plain.backend().load::<f32>(tensor).and_then(|x| plain.backend().download::<f32>(&x));
    let expected = Cpu.load::<f32>(tensor).map(super::wide);
    super::check(format!("{what}, load"), found.map(super::wide), expected, Allowed::SameBits, checks);
}

/// What is done element by element, on elements of any bits.
pub(super) fn patterns(
    device: &Arc<Device>,
    plain: &Arc<Device>,
    dtype: DType,
    directory: &Path,
    checks: &mut Vec<Check>,
) -> Result<()> {
    let tensor = written(directory, dtype, 48, 64, Content::Bits)?;
    let what = format!("{dtype} of any bits");
    loaded(plain, &tensor, &what, checks);
    checks.extend(norms(device, &tensor, &format!("{what}, norms")));
    Ok(())
}

/// Products with rows that are longer than one part of a dot product.
pub(super) fn wide(
    plain: &Arc<Device>,
    dtype: DType,
    directory: &Path,
    checks: &mut Vec<Check>,
) -> Result<()> {
    let tensor = written(directory, dtype, 3, 4166, Content::Normals)?;
    let matrix = Matrix::new(&tensor);
    for vectors in [1, 5] {
        let expected = applied(&Cpu, &matrix, Side::Plain, vectors);
        let found = plain.holding(&matrix).and_then(|cuda| applied(&cuda, &matrix, Side::Plain, vectors));
        let name = format!("{dtype} rows of several parts·x, {vectors} vectors");
        super::check(name, found, expected, Allowed::OfLargest(1e-12), checks);
    }
    Ok(())
}

/// A matrix that is uploaded through each of the page-locked buffers, over several blocks of the norm pass.
pub(super) fn large(
    device: &Arc<Device>,
    plain: &Arc<Device>,
    dtype: DType,
    directory: &Path,
    checks: &mut Vec<Check>,
) -> Result<()> {
    let size = dtype.size().expect("only dtypes of whole bytes are matrices");
    // 28 MB: three buffers of 8, and the first once more.
    let tensor = written(directory, dtype, (28 << 20) / size / 2050, 2050, Content::Normals)?;
    let what = format!("{dtype} large");
    products(plain, &Matrix::new(&tensor), &what, checks);
    loaded(plain, &tensor, &what, checks);
    checks.extend(norms(device, &tensor, &format!("{what}, norms")));
    Ok(())
}

/// The norm pass over two blocks, which go through a page-locked buffer.
pub(super) fn blocks(device: &Arc<Device>, directory: &Path, checks: &mut Vec<Check>) -> Result<()> {
    let tensor = written(directory, DType::Bf16, 1025, 1024, Content::Bits)?;
    checks.extend(norms(device, &tensor, "BF16 of two blocks, norms"));
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
pub(super) fn spectra(device: &Arc<Device>, tensor: &Tensor, shape: &str, checks: &mut Vec<Check>) {
    let context = Context::default();
    let whole = Matrix::new(tensor);
    for route in [
        Route::Gram,
        Route::GramThenBidiagonal,
        Route::Lanczos,
        Route::BlockLanczos,
        Route::LanczosAndDensity,
    ] {
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
        super::check(format!("spectrum, {shape}, {route:?}"), of(found), of(expected), allowed, checks);
    }
}
