//! Matrices as they are stored: products, norms, spectra.

use std::path::Path;
use std::sync::Arc;

use super::{Allowed, Check, numbers, wide};
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

/// A tensor of bits that are all kinds of finite numbers, in a file of its own.
pub(super) fn written(directory: &Path, dtype: DType, rows: u64, columns: u64) -> Result<Tensor> {
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
pub(super) fn check(
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
            for vectors in [1, 3] {
                for (side, way) in [(Side::Plain, "·x"), (Side::Transposed, "ᵀ·x")] {
                    let expected = applied(&Cpu, matrix, side, vectors);
                    let name = format!("{dtype} {what}{way}, {vectors} vectors");
                    let held = plain.holding(matrix).and_then(|cuda| applied(&cuda, matrix, side, vectors));
                    super::check(format!("{name}, kept"), held, expected.clone(), bound, checks);
                    let streamed = applied(&plain.backend(), matrix, side, vectors);
                    super::check(format!("{name}, in panels"), streamed, expected, bound, checks);
                }
            }
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
        let loaded = plain.backend().load::<f32>(&tensor).and_then(|x| plain.backend().download::<f32>(&x));
        let expected = Cpu.load::<f32>(&tensor).map(wide);
        super::check(format!("{dtype} {shape}, load"), loaded.map(wide), expected, Allowed::SameBits, checks);
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
pub(super) fn spectra(device: &Arc<Device>, tensor: &Tensor, shape: &str, checks: &mut Vec<Check>) {
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
        super::check(format!("spectrum, {shape}, {route:?}"), of(found), of(expected), allowed, checks);
    }
}
