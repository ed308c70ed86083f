//! The kernels against the same arithmetic in plain loops, bit for bit, through the whole path: backend, cudarc, the fake driver, the
//! interpreter. The libraries are fakes of plain loops; the device without them is flashpoint's own kernels alone.

use std::path::Path;
use std::sync::Arc;

use flashpoint::analysis::model::MeasureLevel;
use flashpoint::analysis::self_test::{self, Extent};
use flashpoint::analysis::statistics::{self, Pivot};
use flashpoint::compute::cuda::{self, Device};
use flashpoint::compute::{Backend, Gemm, Matrix, Real, Side};
use flashpoint::context::Context;
use flashpoint::files::InputFile;
use flashpoint::random::Stream;
use flashpoint::tensor::{DType, Tensor};
use half::{bf16, f16};

use crate::fake::fake;

/// The fake device with the fake libraries.
fn device() -> Arc<Device> {
    let fake = fake();
    let named = [fake.driver.clone(), fake.libraries.clone()];
    cuda::open(0, &named).unwrap_or_else(|reason| panic!("the fake driver has a device: {reason}"))
}

fn numbers<T: Real>(stream: u64, count: usize) -> Vec<T> {
    Stream::new(77, stream).normals(count).into_iter().map(T::from_f64).collect()
}

/// A fused multiplication and addition, rounded once.
trait Fused: Real {
    fn fused(self, factor: Self, sum: Self) -> Self;
}

impl Fused for f32 {
    fn fused(self, factor: Self, sum: Self) -> Self {
        self.mul_add(factor, sum)
    }
}

impl Fused for f64 {
    fn fused(self, factor: Self, sum: Self) -> Self {
        self.mul_add(factor, sum)
    }
}

/// Every element of C adds its products in the order of k, each fused with the sum.
fn product<T: Fused>(gemm: &Gemm<T>, a: &[T], b: &[T], c: &mut [T]) {
    let Gemm { m, n, k, .. } = *gemm;
    for batch in 0..gemm.batch {
        let (a, b) = (&a[batch * m * k..], &b[batch * k * n..]);
        for row in 0..m {
            for column in 0..n {
                let mut sum = T::zero();
                for deep in 0..k {
                    let x = if gemm.transpose_a { a[deep * m + row] } else { a[row * k + deep] };
                    let y = if gemm.transpose_b { b[column * k + deep] } else { b[deep * n + column] };
                    sum = x.fused(y, sum);
                }
                let to = &mut c[(batch * m + row) * n + column];
                let product = gemm.alpha * sum;
                *to = if gemm.beta == T::zero() { product } else { product + gemm.beta * *to };
            }
        }
    }
}

fn gemm_is_its_mirror<T: Fused + std::fmt::Debug>() {
    let backend = device().plain().backend();
    for (m, n, k, batch) in [(1, 1, 1, 1), (33, 31, 17, 2), (64, 32, 48, 1), (5, 70, 3, 3), (40, 1, 64, 1)] {
        for (transpose_a, transpose_b) in [(false, false), (true, false), (false, true), (true, true)] {
            for beta in [0.0, -0.75] {
                let (alpha, beta) = (T::from_f64(1.25), T::from_f64(beta));
                let gemm = Gemm { batch, m, n, k, transpose_a, transpose_b, alpha, beta };
                let (a, b) = (numbers::<T>(1, batch * m * k), numbers::<T>(2, batch * k * n));
                let mut expected = numbers::<T>(3, batch * m * n);
                let mut c = backend.upload(&expected).unwrap();
                product(&gemm, &a, &b, &mut expected);
                backend
                    .gemm(&gemm, &backend.upload(&a).unwrap(), &backend.upload(&b).unwrap(), &mut c)
                    .unwrap();
                assert_eq!(backend.download(&c).unwrap(), expected, "{gemm:?}");
            }
        }
    }
}

#[test]
fn products_of_the_own_kernel_are_those_of_three_loops() {
    gemm_is_its_mirror::<f32>();
    gemm_is_its_mirror::<f64>();
}

/// Lanes added by halving: what a warp does.
fn halved(mut lanes: Vec<f64>) -> f64 {
    while lanes.len() > 1 {
        let half = lanes.len() / 2;
        lanes = (0..half).map(|lane| lanes[lane] + lanes[lane + half]).collect();
    }
    lanes[0]
}

/// What a block of 256 threads makes of a sum a thread.
fn of_block(threads: &[f64]) -> f64 {
    threads.chunks(32).map(|warp| halved(warp.to_vec())).fold(0.0, |sum, warp| sum + warp)
}

fn dot_mirror<T: Real>(x: &[T], y: &[T]) -> f64 {
    let pairs: Vec<(f64, f64)> = x.iter().zip(y).map(|(&x, &y)| (x.into(), y.into())).collect();
    let parts: Vec<f64> = pairs
        .chunks(4096)
        .map(|part| {
            let thread = |thread: usize| {
                part.iter().skip(thread).step_by(256).fold(0.0f64, |sum, (x, y)| x.mul_add(*y, sum))
            };
            of_block(&(0..256).map(thread).collect::<Vec<f64>>())
        })
        .collect();
    let thread = |thread: usize| parts.iter().skip(thread).step_by(256).fold(0.0, |sum, part| sum + part);
    of_block(&(0..256).map(thread).collect::<Vec<f64>>())
}

#[test]
fn dot_products_have_the_shape_that_is_written_down() {
    let backend = device().backend();
    for count in [0, 1, 255, 4096, 4097, 30_000] {
        let (x, y) = (numbers::<f64>(1, count), numbers::<f64>(2, count));
        let found = backend.dot(&backend.upload(&x).unwrap(), &backend.upload(&y).unwrap()).unwrap();
        assert_eq!(found.to_bits(), dot_mirror(&x, &y).to_bits(), "{count} of f64");
        let (x, y) = (numbers::<f32>(1, count), numbers::<f32>(2, count));
        let found = backend.dot(&backend.upload(&x).unwrap(), &backend.upload(&y).unwrap()).unwrap();
        assert_eq!(found.to_bits(), dot_mirror(&x, &y).to_bits(), "{count} of f32");
    }
}

/// A tensor of these bytes in a file.
fn tensor(directory: &Path, dtype: DType, shape: &[u64], bytes: &[u8]) -> Tensor {
    let path = directory.join(format!("{dtype}-{}", bytes.len()));
    std::fs::write(&path, bytes).unwrap();
    let file = Arc::new(InputFile::open(&path, &Context::default()).unwrap());
    Tensor::contiguous(dtype, shape.to_vec(), file, 0..bytes.len() as u64).unwrap()
}

fn bytes_of(dtype: DType, values: &[f64]) -> Vec<u8> {
    match dtype {
        DType::F64 => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
        DType::F32 => values.iter().flat_map(|x| (*x as f32).to_le_bytes()).collect(),
        DType::F16 => values.iter().flat_map(|x| f16::from_f64(*x).to_le_bytes()).collect(),
        DType::Bf16 => values.iter().flat_map(|x| bf16::from_f64(*x).to_le_bytes()).collect(),
        _ => values.iter().map(|x| ((x * 40.0) as i64).to_le_bytes()[0] & 0xb3).collect(),
    }
}

/// A stored matrix of the numbers of stream 4.
fn numbered(directory: &Path, dtype: DType, rows: u64, columns: u64) -> Tensor {
    let bytes = bytes_of(dtype, &numbers(4, (rows * columns) as usize));
    tensor(directory, dtype, &[rows, columns], &bytes)
}

#[test]
fn products_with_stored_matrices_have_the_shape_that_is_written_down() {
    let directory = tempfile::tempdir().unwrap();
    let device = device();
    // Columns that four divide are read four at a time, the others one by one: the sums are the same.
    for (rows, columns) in [(3u64, 5u64), (9, 64), (2, 4100), (600, 6)] {
        for dtype in [DType::F64, DType::F32, DType::F16, DType::Bf16, DType::F8E4M3, DType::F8E5M2] {
            let tensor = numbered(directory.path(), dtype, rows, columns);
            let matrix = Matrix::new(&tensor).scaled(4.0);
            let dense = Matrix::new(&tensor).to_dense().unwrap();
            let (rows, columns) = (rows as usize, columns as usize);
            let held = device.holding(&matrix).unwrap();
            for backend in [&held, &device.backend()] {
                let x = numbers::<f64>(5, columns);
                let mut y = backend.zeros::<f64>(rows).unwrap();
                backend.multiply(&matrix, Side::Plain, 1, &backend.upload(&x).unwrap(), &mut y).unwrap();
                let expected: Vec<f64> = dense.chunks(columns).map(|row| rows_dot(row, &x)).collect();
                assert_eq!(backend.download(&y).unwrap(), expected, "{dtype} {rows}x{columns}");
                let x = numbers::<f64>(6, rows);
                let mut y = backend.zeros::<f64>(columns).unwrap();
                backend.multiply(&matrix, Side::Transposed, 1, &backend.upload(&x).unwrap(), &mut y).unwrap();
                let expected: Vec<f64> =
                    (0..columns).map(|column| combined(&dense, columns, column, &x)).collect();
                assert_eq!(backend.download(&y).unwrap(), expected, "{dtype} {rows}x{columns}, transposed");
            }
        }
    }
}

/// Times 4, the matrix's scale.
fn rows_dot(row: &[f64], x: &[f64]) -> f64 {
    let parts = row.chunks(4096).zip(x.chunks(4096)).map(|(row, x)| {
        let lane = |lane: usize| {
            let mut sums = [0.0f64; 4];
            for first in (4 * lane..row.len()).step_by(128) {
                for at in first..(first + 4).min(row.len()) {
                    sums[at - first] = row[at].mul_add(x[at], sums[at - first]);
                }
            }
            (sums[0] + sums[1]) + (sums[2] + sums[3])
        };
        halved((0..32).map(lane).collect())
    });
    parts.fold(0.0, |sum, part| sum + part) * 4.0
}

fn combined(dense: &[f64], columns: usize, column: usize, x: &[f64]) -> f64 {
    let parts = x.chunks(64).enumerate().map(|(part, x)| {
        let rows = x.iter().enumerate();
        rows.fold(0.0f64, |sum, (row, x)| dense[(part * 64 + row) * columns + column].mul_add(*x, sum))
    });
    parts.fold(0.0, |sum, part| sum + part) * 4.0
}

#[test]
fn products_with_blocks_add_in_the_order_that_is_written_down() {
    let directory = tempfile::tempdir().unwrap();
    let device = device();
    for (rows, columns, vectors) in [(3u64, 5u64, 2), (9, 64, 8), (300, 70, 3), (2, 700, 8), (700, 6, 5)] {
        for dtype in [DType::F64, DType::F32, DType::F16, DType::Bf16, DType::F8E4M3, DType::F8E5M2] {
            let tensor = numbered(directory.path(), dtype, rows, columns);
            let matrix = Matrix::new(&tensor).scaled(4.0);
            let dense = Matrix::new(&tensor).to_dense().unwrap();
            let (rows, columns) = (rows as usize, columns as usize);
            let transposed: Vec<f64> =
                (0..rows * columns).map(|at| dense[at % rows * columns + at / rows]).collect();
            for (side, lines, inputs) in
                [(Side::Plain, &dense, columns), (Side::Transposed, &transposed, rows)]
            {
                let x = numbers::<f64>(5, inputs * vectors);
                let expected = in_parts(lines, inputs, &x, vectors);
                for backend in [&device.holding(&matrix).unwrap(), &device.backend()] {
                    let mut y = backend.zeros::<f64>(expected.len()).unwrap();
                    backend.multiply(&matrix, side, vectors, &backend.upload(&x).unwrap(), &mut y).unwrap();
                    let found = backend.download(&y).unwrap();
                    assert_eq!(found, expected, "{dtype} {rows}x{columns} {side:?}");
                }
            }
        }
    }
}

/// Each line of `inputs` numbers with each vector, in parts of 64, each in order, and these in order; times 4, the matrix's scale.
fn in_parts(lines: &[f64], inputs: usize, x: &[f64], vectors: usize) -> Vec<f64> {
    let mut sums = Vec::new();
    for line in lines.chunks(inputs) {
        for vector in 0..vectors {
            let product = |part: usize| {
                let places = part * 64..(part * 64 + 64).min(inputs);
                places.fold(0.0f64, |sum, at| line[at].mul_add(x[at * vectors + vector], sum))
            };
            sums.push((0..inputs.div_ceil(64)).map(product).fold(0.0, |sum, part| sum + part) * 4.0);
        }
    }
    sums
}

/// Bytes of a dtype in ways that norms are afraid of.
fn patterns(dtype: DType, count: usize, mode: &str) -> Vec<u8> {
    let size = dtype.size().unwrap() as usize;
    match mode {
        // Every pattern, NaN and infinity too.
        "random bits" => {
            let words = Stream::new(9, count as u64).normals(count * size);
            words.iter().map(|x| x.to_bits().to_le_bytes()[2]).collect()
        }
        "constant" => bytes_of(dtype, &vec![-0.375; count]),
        "zeros" => {
            bytes_of(dtype, &(0..count).map(|at| if at % 3 == 0 { -0.0 } else { 0.0 }).collect::<Vec<_>>())
        }
        mode => {
            let factor = match mode {
                "huge" => 1e38,
                "tiny" => 1e-40,
                _ => 0.02,
            };
            bytes_of(dtype, &numbers::<f64>(8, count).iter().map(|x| x * factor).collect::<Vec<_>>())
        }
    }
}

#[test]
fn norms_are_those_of_the_processor_bit_for_bit() {
    let directory = tempfile::tempdir().unwrap();
    let (device, context) = (device(), Context::default());
    let mut compared = 0;
    for dtype in [DType::F32, DType::F16, DType::Bf16, DType::F8E4M3, DType::F8E5M2] {
        for mode in ["normal", "random bits", "huge", "tiny", "constant", "zeros"] {
            for count in [1, 31, 33, 128, 1000, 4099] {
                let bytes = patterns(dtype, count, mode);
                let tensor = tensor(directory.path(), dtype, &[count as u64], &bytes);
                for pivot in [Pivot::Zero, Pivot::One] {
                    let found = statistics::measure_on_device(&device, &tensor, pivot, &context).unwrap();
                    let expected =
                        statistics::measure(&tensor, MeasureLevel::Norms, pivot, &context).unwrap();
                    let [found, expected] = [found.expect("these have kernels"), expected]
                        .map(|measured| serde_json::to_string(&measured).unwrap());
                    assert_eq!(found, expected, "{dtype}, {mode}, {count} elements, {pivot:?}");
                    compared += 1;
                }
            }
        }
    }
    assert_eq!(compared, 360);
}

#[test]
fn norms_of_several_blocks_are_joined_as_on_the_processor() {
    let directory = tempfile::tempdir().unwrap();
    let (device, context) = (device(), Context::default());
    for dtype in [DType::Bf16, DType::F8E5M2] {
        let count = (1 << 20) + 77;
        let tensor = tensor(directory.path(), dtype, &[count as u64], &patterns(dtype, count, "normal"));
        let found = statistics::measure_on_device(&device, &tensor, Pivot::Zero, &context).unwrap().unwrap();
        let expected = statistics::measure(&tensor, MeasureLevel::Norms, Pivot::Zero, &context).unwrap();
        assert_eq!(found, expected, "{dtype}");
    }
}

#[test]
fn matrices_that_go_through_the_ring_arrive_whole() {
    let directory = tempfile::tempdir().unwrap();
    let device = device();
    // More than a megabyte, so that the page-locked buffers and the copying threads take part.
    let (rows, columns) = (1100u64, 520u64);
    let bytes = bytes_of(DType::F32, &numbers(4, (rows * columns) as usize));
    let tensor = tensor(directory.path(), DType::F32, &[rows, columns], &bytes);
    for matrix in [Matrix::new(&tensor), Matrix::new(&tensor).with_columns(3..517)] {
        let backend = device.holding(&matrix).unwrap();
        let x: Vec<f64> = (0..matrix.column_count()).map(|column| f64::from(u8::from(column == 1))).collect();
        let mut y = backend.zeros::<f64>(rows as usize).unwrap();
        backend.multiply(&matrix, Side::Plain, 1, &backend.upload(&x).unwrap(), &mut y).unwrap();
        let dense = matrix.to_dense().unwrap();
        let expected: Vec<f64> = dense.chunks(matrix.column_count()).map(|row| row[1]).collect();
        assert_eq!(backend.download(&y).unwrap(), expected);
    }
}

#[test]
fn the_self_test_passes_on_the_fake_device() {
    let directory = tempfile::tempdir().unwrap();
    let checks = self_test::run(&device(), directory.path(), Extent::Quick).unwrap();
    let failed: Vec<String> = checks
        .iter()
        .filter(|check| !check.has_passed())
        .map(|check| format!("{}: {:?}", check.name, check.outcome))
        .collect();
    assert!(failed.is_empty(), "{} of {}:\n{}", failed.len(), checks.len(), failed.join("\n"));
    assert!(checks.len() > 250, "{} checks", checks.len());
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0, "nothing is left behind");
}
