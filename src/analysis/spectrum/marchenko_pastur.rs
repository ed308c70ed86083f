//! The part of a spectrum that noise explains (Marchenko and Pastur 1967), fitted as WeightWatcher does (`fit_density_with_range`).
//!
//! Eigenvalues λ = σ² are scaled to mean 1 and smoothed with a triangular kernel; the width of the noise is the one whose
//! density is nearest to that. Eigenvalues above the edge of the noise, by more than the edge fluctuates, are spikes. For square
//! matrices, where the density of λ is infinite at 0, that of σ is fitted: a quarter of a circle. (WeightWatcher scales the height of
//! that one alone, so that its width means nothing; this is the one place where the two differ.)

use crate::analysis::model::MarchenkoPastur;

/// Width of the kernel.
const BANDWIDTH: f64 = 0.1;
/// Points that the densities are compared at.
const POINTS: usize = 1000;
/// Points where the smoothed density is lower take no part.
const LOWEST_DENSITY: f64 = 0.01;
/// Widths that are tried, in hundredths of the width whose edge is the largest eigenvalue.
const WIDTHS: std::ops::Range<u32> = 5..200;
/// What a width scores that puts an edge on the wrong side of the bulk.
const REFUSED: f64 = 1e6;

/// The fit for all singular values, largest first, of a rows×columns matrix; `None` of zeros or fewer than two.
pub fn fit(singular_values: &[f64], rows: usize, columns: usize) -> Option<MarchenkoPastur> {
    let n = singular_values.len();
    let total: f64 = singular_values.iter().map(|x| x * x).sum();
    if n < 2 || !(total > 0.0 && total.is_finite()) {
        return None;
    }
    let scale = n as f64 / total;
    let eigenvalues: Vec<f64> = singular_values.iter().map(|x| x * x * scale).collect();
    let (longer, shorter) = (rows.max(columns) as f64, rows.min(columns) as f64);
    let law = Law { root: (shorter / longer).sqrt(), is_square: rows == columns };
    let sigma = law.sigma(&eigenvalues)?;
    let edge = law.edge(sigma);
    let fluctuation = law.root * edge.powf(2.0 / 3.0) * shorter.powf(-2.0 / 3.0);
    let limit = edge + fluctuation.sqrt();
    // λ of W = σ²·max(rows, columns)·(1 ± root)² for elements of that standard deviation.
    let elements = (sigma * sigma / scale / longer).sqrt();
    Some(MarchenkoPastur {
        sigma: elements,
        edge: (edge / scale).sqrt(),
        spikes: eigenvalues.iter().filter(|x| **x > limit).count() as u64,
        softrank: edge / eigenvalues[0],
    })
}

/// The law of one shape, for eigenvalues scaled to mean 1.
struct Law {
    /// √(shorter/longer)
    root: f64,
    is_square: bool,
}

impl Law {
    fn edge(&self, sigma: f64) -> f64 {
        (sigma * (1.0 + self.root)).powi(2)
    }

    /// The width whose density is nearest to that of the eigenvalues.
    fn sigma(&self, eigenvalues: &[f64]) -> Option<f64> {
        let values: Vec<f64> = if self.is_square {
            eigenvalues.iter().map(|x| x.sqrt()).collect()
        } else {
            eigenvalues.to_vec()
        };
        let bulk = Smoothed::of(&values)?;
        // As `calc_sigma`: the width whose edge is the largest eigenvalue.
        let unit = eigenvalues[0].sqrt() / (1.0 + self.root);
        let score = |sigma: f64| self.distance(sigma, &bulk);
        let tried = WIDTHS.map(|step| (f64::from(step) * 0.01 * unit, step));
        let best = tried.map(|(sigma, _)| (score(sigma), sigma)).min_by(|a, b| a.0.total_cmp(&b.0))?;
        if best.0 >= REFUSED {
            return None;
        }
        Some(minimum(score, best.1 - 0.01 * unit, best.1 + 0.01 * unit))
    }

    fn distance(&self, sigma: f64, bulk: &Smoothed) -> f64 {
        let (low, high) = (sigma * (1.0 - self.root), sigma * (1.0 + self.root));
        let (low, high) = if self.is_square { (low, high) } else { (low * low, high * high) };
        if high < bulk.peak || high > bulk.last || low > bulk.peak {
            return REFUSED;
        }
        let residual = |(x, y): &(f64, f64)| (self.density(sigma, *x) - y).powi(2);
        bulk.points.iter().map(residual).sum()
    }

    fn density(&self, sigma: f64, x: f64) -> f64 {
        use std::f64::consts::PI;
        let square = sigma * sigma;
        if self.is_square {
            return (4.0 * square - x * x).max(0.0).sqrt() / (PI * square);
        }
        let (low, high) = ((sigma * (1.0 - self.root)).powi(2), (sigma * (1.0 + self.root)).powi(2));
        let inside = (high - x) * (x - low);
        if inside <= 0.0 || x <= 0.0 {
            0.0
        } else {
            inside.sqrt() / (2.0 * PI * square * x * self.root.powi(2))
        }
    }
}

/// A smoothed density where it is not almost zero.
struct Smoothed {
    points: Vec<(f64, f64)>,
    peak: f64,
    last: f64,
}

impl Smoothed {
    /// Of values that are largest first.
    #[expect(clippy::cast_sign_loss, reason = "at least 0")]
    fn of(values: &[f64]) -> Option<Self> {
        let n = values.len() as f64;
        let step = (values.first()? + 0.5) / (POINTS - 1) as f64;
        let mut density = vec![0.0; POINTS];
        for value in values {
            let first = ((value - BANDWIDTH) / step).ceil().max(0.0) as usize;
            for (point, density) in density.iter_mut().enumerate().skip(first) {
                let distance = (point as f64 * step - value).abs();
                if distance >= BANDWIDTH && point as f64 * step > *value {
                    break;
                }
                *density += (1.0 - distance / BANDWIDTH).max(0.0) / (BANDWIDTH * n);
            }
        }
        let points = density.into_iter().enumerate().map(|(point, y)| (point as f64 * step, y));
        let points: Vec<(f64, f64)> = points.filter(|(_, y)| *y > LOWEST_DENSITY).collect();
        // The first of equals, as in numpy.
        let peak = points.iter().rev().max_by(|a, b| a.1.total_cmp(&b.1))?.0;
        Some(Self { peak, last: points.last()?.0, points })
    }
}

/// The minimum of `score` between two widths by the golden section.
fn minimum(score: impl Fn(f64) -> f64, mut low: f64, mut high: f64) -> f64 {
    const GOLDEN: f64 = 0.618_033_988_749_894_9;
    for _ in 0..60 {
        let (left, right) = (high - GOLDEN * (high - low), low + GOLDEN * (high - low));
        if score(left) <= score(right) { high = right } else { low = left }
    }
    f64::midpoint(low, high)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::spectrum::bidiagonal;
    use crate::random::Stream;

    fn gaussian(rows: usize, columns: usize, spikes: &[f64]) -> Vec<f64> {
        let mut values = Stream::new(4, 2).normals(rows * columns);
        for (index, spike) in spikes.iter().enumerate() {
            values[index * columns + index] += spike;
        }
        bidiagonal::singular_values(values, rows, columns).unwrap()
    }

    #[test]
    fn noise_has_its_own_width_and_no_spikes() {
        for (rows, columns) in [(400, 200), (200, 400), (300, 300)] {
            let fit = fit(&gaussian(rows, columns, &[]), rows, columns).unwrap();
            assert!((fit.sigma - 1.0).abs() < 0.03, "{rows}×{columns}: {fit:?}");
            assert_eq!(fit.spikes, 0, "{rows}×{columns}: {fit:?}");
            assert!((fit.softrank - 1.0).abs() < 0.1, "{rows}×{columns}: {fit:?}");
        }
    }

    #[test]
    fn directions_above_the_noise_are_counted() {
        let fit = fit(&gaussian(400, 200, &[60.0, 80.0, 100.0]), 400, 200).unwrap();
        assert_eq!(fit.spikes, 3, "{fit:?}");
        assert!((fit.sigma - 1.0).abs() < 0.05, "{fit:?}");
    }

    #[test]
    fn zeros_and_single_values_have_no_fit() {
        assert!(fit(&[0.0, 0.0], 2, 2).is_none());
        assert!(fit(&[1.0], 1, 5).is_none());
    }
}
