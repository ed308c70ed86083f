//! All eigenvalues of symmetric matrices, of one and of many in one call; the spectra of small matrices that are gathered, and heads of
//! attention.

use std::path::Path;
use std::sync::Arc;

use super::stored::{self, Content};
use super::{Allowed, Check, Extent};
use crate::analysis::model::{HeadAnalysis, Measured, Spectrum};
use crate::analysis::spectrum::choice::Route;
use crate::analysis::spectrum::head::{self, Head};
use crate::analysis::spectrum::{batch, matrix, symmetric};
use crate::compute::cuda::Device;
use crate::compute::{Backend, Cpu, Matrix};
use crate::context::Context;
use crate::error::Result;
use crate::random::Stream;
use crate::tensor::{DType, Tensor};

/// Sides around those where libraries change what they do, and the largest that is gathered.
const SIDES: [usize; 7] = [2, 3, 31, 32, 33, 128, 512];
/// The largest where kernels are interpreted.
const LARGEST_QUICK: usize = 33;

/// Matrices of one call: one, two, one of each content, and many.
const COUNTS: [usize; 4] = [1, 2, KINDS, 70];

/// Kinds of matrices that [`entries`] makes.
const KINDS: usize = 5;

/// A symmetric matrix: a Gram matrix of normal numbers, ties, rank three, zeros, or numbers from 1 to 1e-12.
fn entries(number: usize, n: usize) -> Vec<f64> {
    let normals = Stream::new(0x5e1f, 100 + number as u64).normals(2 * n * n);
    let gram = |length: usize| -> Vec<f64> {
        let entry = |row: usize, column: usize| -> f64 {
            (0..length).map(|k| normals[row * length + k] * normals[column * length + k]).sum()
        };
        (0..n * n).map(|at| entry(at / n, at % n)).collect()
    };
    match number % KINDS {
        0 => gram(2 * n),
        // 1 - 2·u·uᵀ with u = (1, …, 1)/√n: all eigenvalues are 1 but one, which is -1.
        1 => (0..n * n).map(|at| f64::from(u8::from(at / n == at % n)) - 2.0 / n as f64).collect(),
        2 => gram(3),
        3 => vec![0.0; n * n],
        _ => {
            let scale = |index: usize| 10f64.powf(-6.0 * index as f64 / n as f64);
            let scaled = |(at, x): (usize, f64)| x * scale(at / n) * scale(at % n);
            gram(2 * n).into_iter().enumerate().map(scaled).collect()
        }
    }
}

/// Compares eigenvalues with the processor's.
pub(super) fn check(device: &Arc<Device>, extent: Extent, checks: &mut Vec<Check>) {
    if !device.has_solver() {
        return;
    }
    let largest = if extent == Extent::Quick { LARGEST_QUICK } else { usize::MAX };
    for n in SIDES.into_iter().filter(|n| *n <= largest) {
        // The processor is asked once for each: many are the same kinds over and over where they are large.
        let distinct = if n > 128 { KINDS } else { COUNTS[COUNTS.len() - 1] };
        let own: Vec<Vec<f64>> = (0..distinct).map(|number| entries(number, n)).collect();
        let solved: Vec<Option<Vec<f64>>> =
            own.iter().map(|entries| symmetric::eigenvalues(entries.clone(), n)).collect();
        for count in COUNTS {
            let matrices: Vec<f64> =
                (0..count).flat_map(|number| own[number % distinct].iter().copied()).collect();
            let cuda = device.backend();
            let found = cuda.upload::<f64>(&matrices).and_then(|on| cuda.eigenvalues(&on, n, count));
            let expected: Option<Vec<Vec<f64>>> =
                (0..count).map(|number| solved[number % distinct].clone()).collect();
            let expected = expected.unwrap_or_default().concat();
            // Relative to the largest that is expected of each matrix, with n·ε for its rounding and as much for the processor's.
            let largest: Vec<f64> = expected
                .chunks(n)
                .map(|values| values.iter().fold(f64::MIN_POSITIVE, |most, x| most.max(x.abs())))
                .collect();
            let scaled = |values: Vec<f64>| -> Vec<f64> {
                values
                    .chunks(n)
                    .zip(&largest)
                    .flat_map(|(own, most)| own.iter().map(move |x| x / most))
                    .collect()
            };
            let allowed = Allowed::OfLargest(10.0 * (n as f64) * f64::EPSILON);
            let name = format!("eigenvalues of {count} of {n}×{n}");
            let found = found.map(|found| scaled(found.unwrap_or_default()));
            let expected = Ok(scaled(expected));
            super::check(name, found, expected, allowed, checks);
        }
    }
}

/// Compares the spectra of small matrices whose Gram matrices go together.
pub(super) fn gathered(device: &Arc<Device>, directory: &Path, checks: &mut Vec<Check>) -> Result<()> {
    if !device.has_solver() {
        return Ok(());
    }
    let contents = [Content::Normals, Content::NearTies, Content::ThreeRanks, Content::Zeros];
    let shapes = [(40u64, 24u64), (24, 31), (90, 33)];
    let tensors: Vec<Tensor> = shapes
        .into_iter()
        .flat_map(|(rows, columns)| contents.map(|content| (rows, columns, content)))
        .map(|(rows, columns, content)| stored::written(directory, DType::F32, rows, columns, content))
        .collect::<Result<_>>()?;
    let matrices: Vec<Matrix<'_>> = tensors.iter().map(Matrix::new).collect();
    let context = Context::default();
    let found = batch::eigenvalues(device, &matrices.iter().collect::<Vec<_>>(), &context);
    for (place, (whole, eigenvalues)) in matrices.iter().zip(found).enumerate() {
        let values = |measured: Measured<Spectrum>| match measured {
            Measured::Value(spectrum) => spectrum.values.value().cloned().unwrap_or_default(),
            // Zeros have none.
            _ => vec![0.0],
        };
        let found = match eigenvalues {
            Some(eigenvalues) => matrix::of_gram(whole, eigenvalues, Route::Gram).map(values),
            // Nothing that compares as equal: the batch was none.
            None => Ok(Vec::new()),
        };
        let expected = matrix::measure(&Cpu, whole, Route::Gram, &context);
        let expected = expected.map(|measured| measured.map_or_else(Vec::new, values));
        let (rows, columns) = (whole.row_count(), whole.column_count());
        let name =
            format!("spectrum of {rows}×{columns} among others, {:?}", contents[place % contents.len()]);
        // What the Gram matrix makes of zeros is √ε of the largest.
        super::check(name, found, expected, Allowed::OfLargest(1e-7), checks);
    }
    Ok(())
}

/// Compares the heads of a layer, which go together.
pub(super) fn heads(device: &Arc<Device>, plain: &Arc<Device>, checks: &mut Vec<Check>) {
    for (width, stream) in [(5, 37), (32, 48)] {
        let head = |number: u64| {
            let numbers = |which: u64, count| Stream::new(0x5e1f, 200 + 3 * number + which).normals(count);
            let (query, key) = (numbers(0, width * stream), numbers(1, width * stream));
            let query_bias = numbers(2, width);
            Head { query, key, width, query_bias, norms: None, rotates: number % 2 == 1 }
        };
        let heads: Vec<Head> = (0..6).map(head).collect();
        let numbers = |found: Option<Vec<HeadAnalysis>>| -> Vec<f64> {
            let of = |head: HeadAnalysis| [head.logit_std, head.logit_bound, head.spectral_entropy];
            found.into_iter().flatten().flat_map(of).collect()
        };
        let expected = head::measure(&Cpu, &heads).map(numbers);
        for (library, device) in [("", plain), (", libraries", device)] {
            let found = head::measure(&device.backend(), &heads).map(numbers);
            let name = format!("heads of {width}×{stream}{library}");
            super::check(name, found, expected.clone(), Allowed::OfEach(1e-11), checks);
        }
    }
}
