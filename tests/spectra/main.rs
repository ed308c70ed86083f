//! Singular values against numpy, against closed forms of random matrices, and against themselves: the same bits on any number of
//! threads, in every dtype, and a bracket that fails no more often than it says.

mod brackets;
#[path = "../common/mod.rs"]
mod common;
mod convolutions;
mod exact;
mod layers;
mod random_matrices;

use std::path::Path;
use std::sync::Arc;

use flashpoint::analysis::model::{Measured, Spectrum};
use flashpoint::analysis::spectrum::choice::Route;
use flashpoint::analysis::spectrum::{bidiagonal, matrix};
use flashpoint::compute::{Cpu, Matrix};
use flashpoint::context::Context;
use flashpoint::files::InputFile;
use flashpoint::random::Stream;
use flashpoint::tensor::{DType, Tensor};
use half::{bf16, f16};

/// A tensor of these values, stored in `dtype` behind an odd number of bytes.
fn stored(directory: &Path, dtype: DType, shape: &[u64], values: &[f64]) -> Tensor {
    let bytes: Vec<u8> = match dtype {
        DType::F64 => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
        DType::F32 => values.iter().flat_map(|x| (*x as f32).to_le_bytes()).collect(),
        DType::F16 => values.iter().flat_map(|x| f16::from_f64(*x).to_le_bytes()).collect(),
        DType::Bf16 => values.iter().flat_map(|x| bf16::from_f64(*x).to_le_bytes()).collect(),
        DType::F8E4M3 | DType::F8E5M2 => {
            values.iter().map(|x| ((x * 40.0) as i64).to_le_bytes()[0] & 0x77).collect()
        }
        _ => panic!("floats only"),
    };
    let path = directory.join("matrix");
    std::fs::write(&path, [&[0xa5; 13][..], &bytes].concat()).unwrap();
    let file = Arc::new(InputFile::open(&path, &Context::default()).unwrap());
    let range = 13..file.len();
    Tensor::contiguous(dtype, shape.to_vec(), file, range).unwrap()
}

fn f64_tensor(directory: &Path, rows: usize, columns: usize, values: &[f64]) -> Tensor {
    stored(directory, DType::F64, &[rows as u64, columns as u64], values)
}

fn spectrum(tensor: &Tensor, route: Route) -> Spectrum {
    match matrix::measure(&Cpu, &Matrix::new(tensor), route, &Context::default()).unwrap().unwrap() {
        Measured::Value(spectrum) => spectrum,
        other => panic!("no spectrum: {other:?}"),
    }
}

fn values(spectrum: &Spectrum) -> &[f64] {
    spectrum.values.value().expect("all singular values were asked for")
}

/// Standard normal numbers times `scale`.
fn gaussian(stream: u64, count: usize, scale: f64) -> Vec<f64> {
    Stream::new(2026, stream).normals(count).into_iter().map(|x| x * scale).collect()
}

fn singular_values(matrix: Vec<f64>, rows: usize, columns: usize) -> Vec<f64> {
    bidiagonal::singular_values(matrix, rows, columns).unwrap()
}

/// I − 2·u·uᵀ times `factor`.
fn reflection(stream: u64, n: usize, factor: f64) -> Vec<f64> {
    let u = gaussian(stream, n, 1.0);
    let square: f64 = u.iter().map(|x| x * x).sum();
    let entry =
        |row: usize, column: usize| f64::from(u8::from(row == column)) - 2.0 * u[row] * u[column] / square;
    (0..n * n).map(|at| factor * entry(at / n, at % n)).collect()
}
