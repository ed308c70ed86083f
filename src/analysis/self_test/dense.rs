//! Buffers of numbers: products, sums, and what networks are made of.

use std::sync::Arc;

use super::{Allowed, Check, numbers, wide};
use crate::compute::cuda::Device;
use crate::compute::{Backend, Binary, Cpu, Gemm, Norm, Real, Spread, Strip, Unary, Window};
use crate::error::Result;

/// What is done with dense buffers.
#[derive(Clone, Copy)]
enum Case {
    Gemm(bool, bool),
    Gemv(bool),
    GemmOfFewColumns(bool),
    Dot,
    Axpy,
    Scale,
    Place,
    Map(Unary),
    Zip(Binary),
    Broadcast(Binary, Spread),
    Reduce(Spread),
    ReduceLong(Spread),
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

/// Elements of a sum of four parts.
const LONG: usize = 3077;

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

pub(super) fn check<T: Real>(device: &Arc<Device>, plain: &Arc<Device>, checks: &mut Vec<Check>) {
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
    for turn in [false, true] {
        cases.push((format!("gemv {}·x", turned('A', turn)), Case::Gemv(turn), product));
    }
    for turn in [false, true] {
        let name = format!("gemm {}·B of few columns", turned('A', turn));
        cases.push((name, Case::GemmOfFewColumns(turn), product));
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
    let (few, many) = (Spread::columns(3), Spread::rows(3, LONG));
    cases.push(("reduce columns of several parts".to_owned(), Case::ReduceLong(few), summed));
    cases.push(("reduce rows of several parts".to_owned(), Case::ReduceLong(many), summed));
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
        if matches!(case, Case::Gemm(..) | Case::Gemv(_) | Case::GemmOfFewColumns(_)) && device.has_blas() {
            let found = result::<_, T>(&device.backend(), case);
            super::check(format!("{number} {name}, cuBLAS"), found, expected.clone(), allowed, checks);
        }
        super::check(
            format!("{number} {name}"),
            result::<_, T>(&plain.backend(), case),
            expected,
            allowed,
            checks,
        );
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
        Case::Gemv(transpose_a) => {
            let (a, b) = (backend.upload::<T>(&numbers(3, M * K))?, backend.upload::<T>(&numbers(4, K))?);
            let mut c = backend.upload::<T>(&numbers(5, M))?;
            let (alpha, beta) = (T::from_f64(0.75), T::from_f64(-0.5));
            let gemm = Gemm { batch: 1, m: M, n: 1, k: K, transpose_a, transpose_b: false, alpha, beta };
            backend.gemm(&gemm, &a, &b, &mut c)?;
            return Ok(wide(backend.download::<T>(&c)?));
        }
        Case::GemmOfFewColumns(transpose_a) => {
            let (a, b) = (backend.upload::<T>(&numbers(3, M * K))?, backend.upload::<T>(&numbers(4, 7 * K))?);
            let mut c = backend.upload::<T>(&numbers(5, 7 * M))?;
            let (alpha, beta) = (T::from_f64(-1.0), T::from_f64(1.0));
            let gemm = Gemm { batch: 1, m: M, n: 7, k: K, transpose_a, transpose_b: false, alpha, beta };
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
        Case::ReduceLong(spread) => {
            let x = backend.upload::<T>(&numbers(13, 3 * LONG))?;
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
