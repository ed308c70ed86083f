//! What a GPU costs and gains: its links, its kernels, spectra beside PyTorch on the same GPU, in one run.
//!
//! `FLASHPOINT_PYTHON=python3 cargo bench --bench gpu`, with a Python whose torch sees the GPU. `FLASHPOINT_CUDA_LIBS` names directories
//! of cuBLAS and cuSOLVER, separated by colons. `FLASHPOINT_BENCH_SIDE` is the side of the large square matrix (4096);
//! `FLASHPOINT_BENCH_QUICK=1` leaves out PyTorch's default driver, which takes minutes. Without a GPU it says so, and measures
//! nothing.

use std::hint::black_box;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use flashpoint::analysis::model::Measured;
use flashpoint::analysis::self_test::{self, Extent};
use flashpoint::analysis::spectrum::choice::Route;
use flashpoint::analysis::spectrum::matrix;
use flashpoint::analysis::statistics::{self, Pivot};
use flashpoint::compute::cuda::{self, Device};
use flashpoint::compute::{Backend, Cpu, Gemm, Matrix, Real, Side};
use flashpoint::context::Context;
use flashpoint::files::InputFile;
use flashpoint::random::Stream;
use flashpoint::tensor::{DType, Tensor};

fn main() {
    let named: Vec<PathBuf> = std::env::var_os("FLASHPOINT_CUDA_LIBS")
        .map(|paths| std::env::split_paths(&paths).collect())
        .unwrap_or_default();
    print!("{}", cuda::inventory(&named));
    let start = Instant::now();
    let device = match cuda::open(0, &named) {
        Ok(device) => device,
        Err(reason) => {
            println!("SKIPPED: {reason}");
            return;
        }
    };
    println!("{}: opened, and one kernel compiled, in {:.3} s", device.name(), start.elapsed().as_secs_f64());
    let side: u64 =
        std::env::var("FLASHPOINT_BENCH_SIDE").ok().and_then(|text| text.parse().ok()).unwrap_or(4096);
    check(&device);
    for dtype in [DType::Bf16, DType::F32, DType::F8E4M3] {
        blocks(&device, dtype, side);
    }
    for part in [8, 4, 2] {
        routes(&device, side / part, side / part);
    }
    for (rows, columns) in [(side, side), (side * 43 / 16, side)] {
        spectra(&device, rows, columns);
    }
    for n in [64, 128, 256, 512] {
        batches(&device, n);
    }
    products::<f64>(&device, "f64", 2 * side as usize);
    products::<f32>(&device, "f32", 2 * side as usize);
    for (dtype, name) in [(DType::Bf16, "bf16"), (DType::F32, "f32"), (DType::F8E4M3, "fp8 e4m3")] {
        norms(&device, dtype, name, 4 * side, 4 * side);
    }
}

/// Numbers of a device that computes something else are none.
fn check(device: &Arc<Device>) {
    let checks = self_test::run(device, &std::env::temp_dir(), Extent::Whole)
        .expect("the temporary directory can be written");
    let failed: Vec<_> = checks.iter().filter(|check| !check.has_passed()).collect();
    for check in &failed {
        println!("FAIL {}: {:?}", check.name, check.outcome);
    }
    println!("self-test: {} checks, {} failed", checks.len(), failed.len());
}

/// The least of several runs, each waited for.
fn best(runs: usize, mut run: impl FnMut()) -> f64 {
    let once = |run: &mut dyn FnMut()| {
        let start = Instant::now();
        run();
        start.elapsed().as_secs_f64()
    };
    run();
    (0..runs).map(|_| once(&mut run)).fold(f64::INFINITY, f64::min)
}

fn products<T: Real>(device: &Arc<Device>, name: &str, n: usize) {
    let gemm = Gemm {
        batch: 1,
        m: n,
        n,
        k: n,
        transpose_a: false,
        transpose_b: true,
        alpha: T::one(),
        beta: T::zero(),
    };
    let operations = 2.0 * (n as f64).powi(3);
    for (library, device) in [("cuBLAS", device.clone()), ("own kernel", device.plain())] {
        if library == "cuBLAS" && !device.has_blas() {
            continue;
        }
        let backend = device.backend();
        let a = backend.upload::<T>(&vec![T::one(); n * n]).expect("the device has room");
        let mut c = backend.zeros::<T>(n * n).expect("the device has room");
        let seconds = best(3, || {
            backend.gemm::<T>(&gemm, &a, &a, &mut c).expect("a product");
            // Waits for it: one number comes back.
            let one = backend.upload::<T>(&[T::one()]).expect("a number");
            black_box(backend.download::<T>(&one).expect("a number"));
        });
        println!("{name} product of {n}, {library}: {:.2} TFLOP/s", operations / seconds * 1e-12);
    }
}

/// The norm pass, file in the page cache: on the GPU, which includes the way there, and on the processor.
fn norms(device: &Device, dtype: DType, name: &str, rows: u64, columns: u64) {
    let tensor = tensor(dtype, rows, columns);
    let (context, bytes) = (Context::default(), tensor.byte_count() as f64);
    let mut on_device = None;
    let seconds = best(3, || {
        on_device = statistics::measure_on_device(device, &tensor, Pivot::Zero, &context).expect("norms");
    });
    let plan = statistics::Plan::new(false);
    let mut on_processor = None;
    let processor = best(3, || {
        on_processor =
            Some(statistics::measure_as_planned(&tensor, plan, Pivot::Zero, &context).expect("norms"));
    });
    let same = if on_device == on_processor { "the same bits" } else { "DIFFERENT" };
    println!(
        "norms of {name}: {:.2} GB/s with the upload, {:.2} GB/s on the processor, {same}",
        bytes / seconds * 1e-9,
        bytes / processor * 1e-9
    );
}

fn spectra(device: &Arc<Device>, rows: u64, columns: u64) {
    let tensor = tensor(DType::Bf16, rows, columns);
    let whole = Matrix::new(&tensor);
    let bytes = tensor.byte_count() as f64;
    let upload = best(3, || {
        let backend = device.holding(&whole).expect("the device has room");
        // Waits for it: one number comes back.
        let one = backend.upload::<f64>(&[1.0]).expect("a number");
        black_box(backend.download::<f64>(&one).expect("a number"));
    });
    println!("{rows}×{columns} bf16: uploaded at {:.2} GB/s", bytes / upload * 1e-9);
    routes(device, rows, columns);
    let start = Instant::now();
    let lanczos = matrix::measure(&Cpu, &whole, Route::Lanczos, &Context::default());
    black_box(lanczos.expect("a spectrum"));
    println!("{rows}×{columns} bf16, σ₁ on the processor: {:.4} s", start.elapsed().as_secs_f64());
    let path = file(DType::Bf16, rows, columns);
    pytorch(&path, rows, columns);
}

/// What a device does for a spectrum, which the table of routes chooses from: with the upload, and as PyTorch has it below, where the
/// matrix is there.
fn routes(device: &Arc<Device>, rows: u64, columns: u64) {
    let tensor = tensor(DType::Bf16, rows, columns);
    let whole = Matrix::new(&tensor);
    for (route, name) in [
        (Route::Lanczos, "σ₁ with its bracket, one vector at a time"),
        (Route::BlockLanczos, "σ₁ with its bracket and the next, by blocks"),
        (Route::Gram, "all singular values"),
    ] {
        let mut found = None;
        let seconds = best(5, || {
            let backend = device.holding(&whole).expect("the device has room");
            found = matrix::measure(&backend, &whole, route, &Context::default()).expect("a spectrum");
        });
        let backend = device.holding(&whole).expect("the device has room");
        let without = best(5, || {
            let found = matrix::measure(&backend, &whole, route, &Context::default());
            black_box(found.expect("a spectrum"));
        });
        let Some(Measured::Value(spectrum)) = &found else { panic!("the matrix has a spectrum") };
        let norm = &spectrum.spectral_norm;
        println!(
            "{rows}×{columns} bf16, {name}: {seconds:.5} s with the upload, {without:.5} s without, {} steps, σ₁ {}, at most {}, {} values",
            norm.steps,
            norm.value,
            norm.upper.value().copied().unwrap_or(f64::NAN),
            spectrum.largest.len()
        );
    }
}

/// All eigenvalues of a hundred matrices in one call, and in one call each.
fn batches(device: &Arc<Device>, n: usize) {
    const COUNT: usize = 100;
    if !device.has_solver() {
        println!("SKIPPED: cuSOLVER was not found");
        return;
    }
    let backend = device.backend();
    let vectors = backend.upload::<f64>(&Stream::new(2, n as u64).normals(COUNT * n * n)).expect("room");
    let gemm =
        |batch| Gemm { batch, m: n, n, k: n, transpose_a: false, transpose_b: true, alpha: 1.0, beta: 0.0 };
    let mut matrices = backend.zeros::<f64>(COUNT * n * n).expect("room");
    backend.gemm(&gemm(COUNT), &vectors, &vectors, &mut matrices).expect("products");
    let mut one = backend.zeros::<f64>(n * n).expect("room");
    backend.gemm(&gemm(1), &vectors, &vectors, &mut one).expect("a product");
    let together = best(3, || {
        black_box(backend.eigenvalues(&matrices, n, COUNT).expect("eigenvalues"));
    });
    let alone = best(3, || {
        for _ in 0..COUNT {
            black_box(backend.eigenvalues(&one, n, 1).expect("eigenvalues"));
        }
    });
    println!(
        "eigenvalues of {COUNT} of {n}×{n}: {:.2} ms in one call, {:.2} ms in one call each",
        together * 1e3,
        alone * 1e3
    );
}

/// Products with blocks of eight vectors, of a square matrix that is there: bytes of the matrix a second.
fn blocks(device: &Arc<Device>, dtype: DType, side: u64) {
    let tensor = tensor(dtype, side, side);
    let whole = Matrix::new(&tensor);
    let backend = device.holding(&whole).expect("the device has room");
    let n = side as usize;
    for vectors in [1, 8] {
        let x = backend.upload::<f64>(&Stream::new(1, 1).normals(vectors * n)).expect("the device has room");
        let mut y = backend.zeros::<f64>(vectors * n).expect("the device has room");
        for side in [Side::Plain, Side::Transposed] {
            const TIMES: usize = 50;
            let seconds = best(3, || {
                for _ in 0..TIMES {
                    backend.multiply(&whole, side, vectors, &x, &mut y).expect("a product");
                }
                black_box(backend.download::<f64>(&y).expect("numbers"));
            });
            println!(
                "{n}×{n} {dtype}, {side:?}, {vectors} vectors: {:.1} us, {:.0} GB/s",
                seconds / TIMES as f64 * 1e6,
                tensor.byte_count() as f64 * TIMES as f64 / seconds * 1e-9
            );
        }
    }
}

/// What a user of PyTorch runs on the same matrix.
fn pytorch(path: &Path, rows: u64, columns: u64) {
    let Some(python) = std::env::var_os("FLASHPOINT_PYTHON") else {
        println!("SKIPPED: FLASHPOINT_PYTHON does not name a Python with torch");
        return;
    };
    let script = r#"
import os, sys, time, torch
path, rows, columns = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
w = torch.frombuffer(bytearray(open(path, "rb").read()), dtype=torch.bfloat16).view(rows, columns).cuda().float()
def clock(name, run, runs):
    run(); torch.cuda.synchronize()
    times = []
    for _ in range(runs):
        start = time.perf_counter(); out = run(); torch.cuda.synchronize(); times.append(time.perf_counter() - start)
    print(f"torch {torch.__version__}, {name}: {min(times):.4f} s, sigma_1 {float(out.flatten()[0])}", flush=True)
    return out
exact = clock("svdvals float64, gesvd", lambda: torch.linalg.svdvals(w.double(), driver="gesvd"), 1)
ours_like = clock("svdvals, gesvd", lambda: torch.linalg.svdvals(w, driver="gesvd"), 2)
clock("svdvals, gesvda", lambda: torch.linalg.svdvals(w, driver="gesvda"), 2)
if not os.environ.get("FLASHPOINT_BENCH_QUICK"):
    clock("svdvals, default driver", lambda: torch.linalg.svdvals(w), 1)
    clock("matrix_norm 2", lambda: torch.linalg.matrix_norm(w, 2), 1)
n = 2 * columns
a = torch.randn(n, n, device="cuda", dtype=torch.float64)
clock(f"float64 product of {n}", lambda: a @ a.T, 3)
"#;
    let run = Command::new(python)
        .args(["-c", script])
        .arg(path)
        .args([rows.to_string(), columns.to_string()])
        .status();
    match run {
        Ok(status) if status.success() => {}
        Ok(status) => println!("SKIPPED: PyTorch ended with {status}"),
        Err(error) => println!("SKIPPED: {error}"),
    }
}

fn tensor(dtype: DType, rows: u64, columns: u64) -> Tensor {
    let path = file(dtype, rows, columns);
    let file = Arc::new(InputFile::open(&path, &Context::default()).expect("the file was just made"));
    let range = 0..file.len();
    Tensor::contiguous(dtype, vec![rows, columns], file, range).expect("it was made to fit")
}

/// A file of normal numbers, made once.
fn file(dtype: DType, rows: u64, columns: u64) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("gpu-{dtype}-{rows}x{columns}"));
    let count = (rows * columns) as usize;
    if std::fs::metadata(&path).is_ok_and(|metadata| metadata.len() == count as u64 * dtype.bits() / 8) {
        return path;
    }
    let mut file =
        std::io::BufWriter::new(std::fs::File::create(&path).expect("the target directory can be written"));
    for part in 0..count.div_ceil(1 << 20) {
        for x in Stream::new(8, part as u64).normals((count - (part << 20)).min(1 << 20)) {
            let x = 0.02 * x;
            let written = match dtype {
                DType::F32 => file.write_all(&(x as f32).to_le_bytes()),
                DType::Bf16 => file.write_all(&half::bf16::from_f64(x).to_le_bytes()),
                _ => file.write_all(&[((x * 1000.0) as i64).to_le_bytes()[0] & 0xf7]),
            };
            written.expect("the disk has room");
        }
    }
    file.flush().expect("the disk has room");
    path
}
