//! What spectra cost beside numpy on the same matrices, in one run.
//!
//! `FLASHPOINT_PYTHON=python3 cargo bench --bench spectra`. `FLASHPOINT_BENCH_SIDE` is the side of the large square matrix (4096).

use std::hint::black_box;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use flashpoint::analysis::model::Measured;
use flashpoint::analysis::spectrum::choice::Route;
use flashpoint::analysis::spectrum::matrix;
use flashpoint::compute::{Cpu, Matrix};
use flashpoint::context::Context;
use flashpoint::files::InputFile;
use flashpoint::random::Stream;
use flashpoint::tensor::{DType, Tensor};

fn main() {
    let side: u64 =
        std::env::var("FLASHPOINT_BENCH_SIDE").ok().and_then(|text| text.parse().ok()).unwrap_or(4096);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("a thread can be started");
    let full = [(Route::Gram, "all, f64 Gram")];
    let largest = [(Route::Lanczos, "sigma_1 with bracket")];
    for (rows, columns, routes) in [
        (side, side, &largest),
        (side / 2, side / 2, &full),
        (side, side / 4, &full),
        (side / 4, side / 4, &full),
    ] {
        let path = make_file(rows, columns);
        let file = Arc::new(InputFile::open(&path, &Context::default()).expect("the file was just made"));
        let bytes = 0..file.len();
        let tensor =
            Tensor::contiguous(DType::F32, vec![rows, columns], file, bytes).expect("it was made to fit");
        for (route, name) in routes {
            pool.install(|| measure(&tensor, *route, name));
        }
        numpy(&path, rows, columns);
    }
}

fn measure(tensor: &Tensor, route: Route, name: &str) {
    let start = Instant::now();
    let measured = matrix::measure(&Cpu, &Matrix::new(tensor), route, &Context::default());
    let seconds = start.elapsed().as_secs_f64();
    let Ok(Some(Measured::Value(spectrum))) = black_box(measured) else {
        panic!("the matrix has a spectrum")
    };
    let norm = &spectrum.spectral_norm;
    println!(
        "{:?} {name}: {seconds:.3} s, sigma_1 {:.6} to {:.6}",
        tensor.shape,
        norm.value,
        norm.upper.value().copied().unwrap_or(f64::NAN)
    );
}

/// numpy's `svd(compute_uv=False)` in f64 on one thread.
fn numpy(path: &Path, rows: u64, columns: u64) {
    let Some(python) = std::env::var_os("FLASHPOINT_PYTHON") else { return };
    let script = format!(
        "import numpy as np, time\n\
         a = np.fromfile({path:?}, np.float32).reshape({rows}, {columns}).astype(np.float64)\n\
         t = time.perf_counter(); s = np.linalg.svd(a, compute_uv=False); t = time.perf_counter() - t\n\
         print(f'[{rows}, {columns}] numpy {{np.__version__}} svd f64: {{t:.3f}} s, sigma_1 {{s[0]:.6f}}')",
        path = path.display().to_string()
    );
    let threads = [("OMP_NUM_THREADS", "1"), ("OPENBLAS_NUM_THREADS", "1")];
    let status = Command::new(python).arg("-c").arg(script).envs(threads).status();
    if !status.is_ok_and(|status| status.success()) {
        println!("numpy could not be run");
    }
}

/// Standard normal numbers in f32.
fn make_file(rows: u64, columns: u64) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("gaussian-{rows}x{columns}.f32"));
    if std::fs::metadata(&path).is_ok_and(|found| found.len() == rows * columns * 4) {
        return path;
    }
    let mut file =
        std::io::BufWriter::new(std::fs::File::create(&path).expect("the target directory is writable"));
    for row in 0..rows {
        for value in Stream::new(7, row).normals(columns as usize) {
            file.write_all(&(value as f32).to_le_bytes()).expect("the disk has room");
        }
    }
    path
}
