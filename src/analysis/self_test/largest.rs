//! The largest singular values by blocks, against the processor's and against all singular values, of matrices that are hard for them.

use std::path::Path;
use std::sync::Arc;

use super::stored::{Content, written};
use super::{Allowed, Check, Extent};
use crate::analysis::model::{Measured, Spectrum};
use crate::analysis::spectrum::choice::Route;
use crate::analysis::spectrum::matrix;
use crate::compute::cuda::Device;
use crate::compute::{Backend, Cpu, Matrix};
use crate::context::Context;
use crate::error::Result;
use crate::tensor::{DType, Tensor};

const CONTENTS: [Content; 5] =
    [Content::Normals, Content::NearTies, Content::ThreeRanks, Content::Zeros, Content::NotFinite];

/// Large enough that the space stays incomplete, where it can, and small enough for an interpreter.
const SMALL: (u64, u64) = (136, 120);

/// Several blocks of threads and parts each way.
const LARGE: [(u64, u64); 2] = [(1500, 700), (600, 2100)];

pub(super) fn check(
    device: &Arc<Device>,
    plain: &Arc<Device>,
    directory: &Path,
    extent: Extent,
    checks: &mut Vec<Check>,
) -> Result<()> {
    for content in CONTENTS {
        let (rows, columns) = SMALL;
        let tensor = written(directory, DType::Bf16, rows, columns, content)?;
        of(&[(", cuBLAS", device)], &tensor, &format!("BF16 {content:?}"), checks);
        if extent == Extent::Quick {
            continue;
        }
        for dtype in [DType::F64, DType::F32, DType::F16, DType::Bf16] {
            for (rows, columns) in LARGE {
                let tensor = written(directory, dtype, rows, columns, content)?;
                let name = format!("{dtype} {rows}×{columns} {content:?}");
                of(&[("", plain), (", cuBLAS", device)], &tensor, &name, checks);
            }
        }
    }
    Ok(())
}

/// A matrix on each device.
fn of(devices: &[(&str, &Arc<Device>)], tensor: &Tensor, name: &str, checks: &mut Vec<Check>) {
    let whole = Matrix::new(tensor);
    let expected = measured(&Cpu, &whole, Route::BlockLanczos);
    let all = measured(&Cpu, &whole, Route::Gram);
    for (library, device) in devices {
        if !library.is_empty() && !device.has_blas() {
            continue;
        }
        let found = device.holding(&whole).and_then(|cuda| measured(&cuda, &whole, Route::BlockLanczos));
        if let (Ok(Measured::Value(found)), Ok(Measured::Value(all))) = (&found, &all) {
            let (norm, exact) = (&found.spectral_norm, all.spectral_norm.value);
            let upper = norm.upper.value().copied().unwrap_or(f64::NAN);
            // 1 each, where the bracket holds what the processor finds for certain.
            let ends = vec![(norm.value / exact).max(1.0), (upper / exact).min(1.0)];
            let name = format!("bracket by blocks, {name}{library}");
            super::check(name, Ok(ends), Ok(vec![1.0, 1.0]), Allowed::OfEach(1e-11), checks);
        }
        let name = format!("largest by blocks, {name}{library}");
        let expected = expected.as_ref().map(numbers).map_err(Clone::clone);
        super::check(
            name,
            found.as_ref().map(numbers).map_err(Clone::clone),
            expected,
            Allowed::OfLargest(1e-9),
            checks,
        );
    }
}

fn measured<B: Backend>(backend: &B, matrix: &Matrix<'_>, route: Route) -> Result<Measured<Spectrum>> {
    let measured = matrix::measure(backend, matrix, route, &Context::default())?;
    Ok(measured.expect("nobody asks to stop"))
}

/// The ends of the bracket, and NaN where there is none.
fn numbers(measured: &Measured<Spectrum>) -> Vec<f64> {
    match measured {
        Measured::Value(spectrum) => {
            let norm = &spectrum.spectral_norm;
            vec![norm.value, norm.upper.value().copied().unwrap_or(f64::NAN), spectrum.frobenius_norm]
        }
        Measured::Degenerate(_) => vec![0.0],
        Measured::NotMeasured(_) => vec![f64::NAN],
    }
}
