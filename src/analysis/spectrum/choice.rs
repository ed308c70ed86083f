//! Which algorithm measures a matrix: a table by depth of measurement and by the shorter side.

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
    /// The largest by Lanczos, more by block Krylov, the rest as a density by quadrature.
    LanczosAndDensity,
}

/// Up to which shorter side, at which depth: the first line that holds decides.
///
/// The costs are those of one core for a square matrix: 256: 2 ms. 1024: 0.3 s, by bidiagonalisation 1.5 s. 4096: 20 s and
/// 130 MB. Lanczos takes some 80 times as long as reading the matrix at any size.
const TABLE: &[(MeasureLevel, usize, Route)] = &[
    (MeasureLevel::Spectra, 1, Route::Direct),
    (MeasureLevel::Spectra, 256, Route::Gram),
    (MeasureLevel::Spectra, usize::MAX, Route::Lanczos),
    (MeasureLevel::Full, 1, Route::Direct),
    (MeasureLevel::Full, 1024, Route::GramThenBidiagonal),
    (MeasureLevel::Full, 4096, Route::Gram),
    (MeasureLevel::Full, usize::MAX, Route::LanczosAndDensity),
];

/// Up to which shorter side all singular values are computed on a device with a solver of its own: 2 GB for the Gram matrix.
const LARGEST_ON_DEVICE: usize = 1 << 14;

/// Bidiagonalisation holds the matrix in f64: larger ones keep the error of the Gram matrix.
pub const LARGEST_BIDIAGONAL: usize = 1 << 22;

/// The route for a matrix of this shape; `None` where no spectrum is asked for.
pub fn route(level: MeasureLevel, rows: usize, columns: usize) -> Option<Route> {
    let shorter = rows.min(columns);
    let level = level.min(MeasureLevel::Full);
    TABLE.iter().find(|(depth, most, _)| *depth == level && shorter <= *most).map(|(_, _, route)| *route)
}

/// The route on a device with a solver of its own, where the Gram matrix costs a thousandth of what it does on one core.
pub fn route_with_solver(level: MeasureLevel, rows: usize, columns: usize) -> Option<Route> {
    match route(level, rows, columns) {
        Some(Route::LanczosAndDensity) if rows.min(columns) <= LARGEST_ON_DEVICE => Some(Route::Gram),
        route => route,
    }
}
