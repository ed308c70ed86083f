//! Which algorithm measures a matrix: a table for each kind of device, by depth of measurement and by the shorter side.

use crate::analysis::model::MeasureLevel;

/// How a matrix is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// One row or column: its norm.
    Direct,
    /// All singular values, from the Gram matrix.
    Gram,
    /// All singular values from the Gram matrix, and by bidiagonalisation where the smallest are below its error.
    GramThenBidiagonal,
    /// The largest by Lanczos, with a bracket.
    Lanczos,
    /// The largest by Lanczos with blocks of vectors, with a bracket.
    BlockLanczos,
    /// The largest by Lanczos, more by block Krylov, the rest as a density by quadrature.
    LanczosAndDensity,
}

/// A depth, the longest shorter side, and the route up to there.
type Line = (MeasureLevel, usize, Route);

/// However long.
const ANY: usize = usize::MAX;

/// Up to which shorter side, at which depth: the first line that holds decides.
///
/// The costs are those of one core for a square matrix: 256: 2 ms. 1024: 0.3 s, by bidiagonalisation 1.5 s. 4096: 20 s and
/// 130 MB. Lanczos takes some 80 times as long as reading the matrix at any size.
const TABLE: &[Line] = &[
    (MeasureLevel::Spectra, 1, Route::Direct),
    (MeasureLevel::Spectra, 256, Route::Gram),
    (MeasureLevel::Spectra, ANY, Route::Lanczos),
    (MeasureLevel::Full, 1, Route::Direct),
    (MeasureLevel::Full, 1024, Route::GramThenBidiagonal),
    (MeasureLevel::Full, 4096, Route::Gram),
    (MeasureLevel::Full, ANY, Route::LanczosAndDensity),
];

/// The same on a GPU with cuSOLVER, where the Gram matrix costs a thousandth of what it does on one core.
///
/// Milliseconds on an H200 for bf16 that is there already (`cargo bench --bench gpu`; docs/benchmarks.md, "On a GPU"):
///
/// | | 512² | 1024² | 2048² | 4096² | 11008×4096 |
/// |---|---|---|---|---|---|
/// | Lanczos, one vector at a time | 6.1 | 7.4 | 10.0 | 8.2 | 9.2 |
/// | Lanczos by blocks | 4.7 | 6.1 | 6.0 | 8.2 | 10.5 |
/// | all singular values | 5.9 | 14.7 | 39 | 181 | 148 |
///
/// Alone one vector at a time is quicker for the largest; of a whole 7B model, three matrices under way at once, blocks take 3.3 s and
/// one vector at a time for those beyond 4096² 3.7 s.
const TABLE_WITH_SOLVER: &[Line] = &on_gpu(LARGEST_ON_DEVICE);

/// The same on a GPU whose driver is alone: the processor has the eigenvalues of Gram matrices. Not timed by itself: blocks are as with a solver.
const TABLE_OF_DRIVER: &[Line] = &on_gpu(4096);

/// The table of a GPU whose Gram matrices are worth it up to this shorter side.
const fn on_gpu(largest: usize) -> [Line; 7] {
    [
        (MeasureLevel::Spectra, 1, Route::Direct),
        (MeasureLevel::Spectra, 256, Route::Gram),
        (MeasureLevel::Spectra, ANY, Route::BlockLanczos),
        (MeasureLevel::Full, 1, Route::Direct),
        (MeasureLevel::Full, 1024, Route::GramThenBidiagonal),
        (MeasureLevel::Full, largest, Route::Gram),
        (MeasureLevel::Full, ANY, Route::LanczosAndDensity),
    ]
}

/// Up to which shorter side all singular values are computed on a device with a solver of its own: 2 GB for the Gram matrix.
const LARGEST_ON_DEVICE: usize = 1 << 14;

/// Bidiagonalisation holds the matrix in f64: larger ones keep the error of the Gram matrix.
pub const LARGEST_BIDIAGONAL: usize = 1 << 22;

/// What measures a matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum On {
    /// The processor.
    Processor,
    /// A GPU, and whether it has a solver of its own for all eigenvalues.
    Gpu {
        /// See [`crate::compute::Backend::eigenvalues`].
        has_solver: bool,
    },
}

/// The route for a matrix of this shape; `None` where no spectrum is asked for.
pub fn route(on: On, level: MeasureLevel, rows: usize, columns: usize) -> Option<Route> {
    let table = match on {
        On::Processor => TABLE,
        On::Gpu { has_solver: true } => TABLE_WITH_SOLVER,
        On::Gpu { has_solver: false } => TABLE_OF_DRIVER,
    };
    let shorter = rows.min(columns);
    let level = level.min(MeasureLevel::Full);
    let holds = |&&(depth, longest, _): &&Line| depth == level && shorter <= longest;
    table.iter().find(holds).map(|&(.., route)| route)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shape_has_a_route_at_every_depth_that_asks_for_one() {
        for on in [On::Processor, On::Gpu { has_solver: true }, On::Gpu { has_solver: false }] {
            for level in [MeasureLevel::Spectra, MeasureLevel::Full] {
                for shorter in [1, 2, 256, 257, 1024, 1025, 4096, 4097, 16384, 16385, usize::MAX] {
                    let route = route(on, level, shorter, usize::MAX);
                    assert!(route.is_some_and(|route| (route == Route::Direct) == (shorter == 1)));
                }
            }
            assert_eq!(route(on, MeasureLevel::Stats, 300, 300), None);
        }
    }

    #[test]
    fn a_gpu_takes_blocks_and_a_solver_more_of_all_singular_values() {
        let at = |on, level, shorter| route(on, level, shorter, 20_000).unwrap();
        let (processor, gpu) = (On::Processor, On::Gpu { has_solver: true });
        assert_eq!(at(processor, MeasureLevel::Spectra, 4096), Route::Lanczos);
        assert_eq!(at(gpu, MeasureLevel::Spectra, 4096), Route::BlockLanczos);
        assert_eq!(at(processor, MeasureLevel::Full, 8192), Route::LanczosAndDensity);
        assert_eq!(at(On::Gpu { has_solver: false }, MeasureLevel::Full, 8192), Route::LanczosAndDensity);
        assert_eq!(at(gpu, MeasureLevel::Full, 8192), Route::Gram);
    }
}
