//! Quantiles, means and shares of a correlated series, each with an interval.
//!
//! A quantile's interval is that of order statistics: the ranks q ± 1.645·√(q(1−q)/ESS). ESS = n/IACT is how many independent
//! values the series is worth, IACT = 1 + 2Σρₖ summed until k ≥ 5·IACT (Sokal 1997, "Monte Carlo methods in statistical
//! mechanics"). Bootstraps of such series, by blocks or one by one, cover too seldom (risk catalogue, section 2.4).

use serde::{Deserialize, Serialize};

/// Standard normal quantile of a two-sided interval of 90 %.
pub const Z: f64 = 1.645;

/// Lags are summed until one is this many times the sum (Sokal).
const SOKAL_WINDOW: f64 = 5.0;

/// No lag beyond this is looked at. A series that is correlated over more has no one level (one that drifts slowly is so at every
/// lag), and each lag is another pass over it.
const LONGEST_LAG: usize = 1000;

/// A number with the ends of its 90 % interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Estimate {
    /// The number.
    pub value: f64,
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

impl Estimate {
    /// The same of something that grows with it.
    #[must_use]
    pub fn map(self, of: impl Fn(f64) -> f64) -> Self {
        Self { value: of(self.value), low: of(self.low), high: of(self.high) }
    }
}

/// Integrated autocorrelation time, at least 1: how many values are worth one independent value.
pub fn correlation_time(values: &[f64]) -> f64 {
    let count = values.len();
    let mean = values.iter().sum::<f64>() / count.max(1) as f64;
    let centred: Vec<f64> = values.iter().map(|value| value - mean).collect();
    let product = |lag: usize| -> f64 {
        let shifted = centred.get(lag..).unwrap_or_default();
        // Independent sums, which a processor adds up side by side.
        let mut lanes = [0.0; 8];
        for (ones, others) in centred[..shifted.len()].chunks(8).zip(shifted.chunks(8)) {
            for (lane, (one, other)) in lanes.iter_mut().zip(ones.iter().zip(others)) {
                *lane += one * other;
            }
        }
        lanes.iter().sum()
    };
    let variance = product(0);
    if variance <= 0.0 || !variance.is_finite() {
        return 1.0;
    }
    let mut time = 1.0;
    for lag in 1..(count / 2).min(LONGEST_LAG + 1) {
        time += 2.0 * product(lag) / variance;
        if lag as f64 >= SOKAL_WINDOW * time {
            break;
        }
    }
    time.clamp(1.0, count as f64)
}

/// The q-quantile of ascending values (linear between ranks), with its interval for a series worth `effective` values.
pub fn quantile(ascending: &[f64], q: f64, effective: f64) -> Option<Estimate> {
    let half = Z * (q * (1.0 - q) / effective).sqrt();
    Some(Estimate {
        value: at(ascending, q)?,
        low: at(ascending, (q - half).max(0.0))?,
        high: at(ascending, (q + half).min(1.0))?,
    })
}

/// The mean, with the interval of a normal mean of `effective` values.
pub fn mean(values: &[f64], effective: f64) -> Option<Estimate> {
    let count = values.len() as f64;
    let value = (!values.is_empty()).then(|| values.iter().sum::<f64>() / count)?;
    let variance = values.iter().map(|one| (one - value).powi(2)).sum::<f64>() / (count - 1.0).max(1.0);
    let half = Z * (variance / effective).sqrt();
    Some(Estimate { value, low: value - half, high: value + half })
}

/// A share, with Wilson's interval for `effective` trials (Wilson 1927).
pub fn share(part: u64, whole: u64, effective: f64) -> Option<Estimate> {
    let value = (whole > 0).then(|| part as f64 / whole as f64)?;
    let square = Z * Z / effective;
    let middle = (value + square / 2.0) / (1.0 + square);
    let half = Z / (1.0 + square) * (value * (1.0 - value) / effective + square / (4.0 * effective)).sqrt();
    // At 0 and 1 one end is the share itself, but for rounding.
    Some(Estimate { value, low: (middle - half).clamp(0.0, value), high: (middle + half).clamp(value, 1.0) })
}

/// The value at a share of the ranks.
fn at(ascending: &[f64], share: f64) -> Option<f64> {
    let last = ascending.len().checked_sub(1)?;
    let position = share * last as f64;
    #[expect(clippy::cast_sign_loss, reason = "a share of a count is not negative")]
    let below = (position.floor() as usize).min(last);
    let (one, other) = (ascending[below], ascending[(below + 1).min(last)]);
    Some(one + (other - one) * position.fract())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Stream;

    /// x_t = φ·x_{t−1} + √(1−φ²)·e_t: normal with variance 1.
    fn autoregressive(phi: f64, count: usize, seed: u64) -> Vec<f64> {
        let noise = Stream::new(seed, 24).normals(count);
        let mut previous = noise[0];
        let mut series = vec![previous];
        for one in &noise[1..] {
            previous = phi * previous + (1.0 - phi * phi).sqrt() * one;
            series.push(previous);
        }
        series
    }

    /// Section 2.4: for nominal .90, coverage of .89 to .97 over φ = 0 to .9 and 300 to 1000 points. 2000 series a cell: the
    /// standard error of a coverage of .9 is .007.
    #[test]
    fn intervals_of_a_quantile_cover_it_as_often_as_they_say() {
        let truth = 1.281_551_565_544_600_4;
        for phi in [0.0, 0.5, 0.9] {
            for count in [300, 1000] {
                let trials = 2000;
                let covered = (0..trials).filter(|&seed| {
                    let series = autoregressive(phi, count, seed);
                    let effective = count as f64 / correlation_time(&series);
                    let mut sorted = series;
                    sorted.sort_by(f64::total_cmp);
                    let found = quantile(&sorted, 0.9, effective).unwrap();
                    (found.low..=found.high).contains(&truth)
                });
                let coverage = covered.count() as f64 / trials as f64;
                println!("phi {phi}, {count} points: coverage {coverage:.3}");
                assert!((0.89..=0.97).contains(&coverage), "phi {phi}, {count} points: {coverage}");
            }
        }
    }

    /// IACT of AR(1) is (1+φ)/(1−φ).
    #[test]
    fn the_correlation_time_is_that_of_the_process() {
        for phi in [0.0, 0.5, 0.9] {
            let found = correlation_time(&autoregressive(phi, 200_000, 7));
            let expected = (1.0 + phi) / (1.0 - phi);
            assert!((found / expected - 1.0).abs() < 0.1, "phi {phi}: {found}, not {expected}");
        }
        // Two levels, one after the other: 1 + 2Σ(1 − 3k/n) over the lags that are looked at, all of which are correlated.
        let levels: Vec<f64> = (0..200_000).map(|at| if at < 100_000 { -1.0 } else { 1.0 }).collect();
        let lags = LONGEST_LAG as f64;
        let expected = 1.0 + 2.0 * (lags - 3.0 * lags * (lags + 1.0) / 2.0 / 200_000.0);
        assert!((correlation_time(&levels) / expected - 1.0).abs() < 1e-9);
        assert_eq!(correlation_time(&[3.0; 50]), 1.0);
        assert_eq!(correlation_time(&[]), 1.0);
    }

    /// numpy: `np.quantile([1, 2, 4, 8], .9)` is 6.8. Wilson: 10 of 100 at z = 1.645 is [0.0605, 0.1608] (by hand).
    #[test]
    fn quantiles_are_linear_between_ranks_and_shares_have_wilsons_interval() {
        let found = quantile(&[1.0, 2.0, 4.0, 8.0], 0.9, 4.0).unwrap();
        assert!((found.value - 6.8).abs() < 1e-12 && found.high == 8.0, "{found:?}");
        assert_eq!(quantile(&[], 0.9, 1.0), None);
        let found = share(10, 100, 100.0).unwrap();
        let square = 1.645f64.powi(2);
        let by_hand =
            (0.1 + square / 200.0 - 1.645 * (0.0009f64 + square / 40_000.0).sqrt()) / (1.0 + square / 100.0);
        assert!((found.low - by_hand).abs() < 1e-12, "{found:?} {by_hand}");
        let none = share(0, 100, 100.0).unwrap();
        assert!(none.low == 0.0 && none.high > 0.02 && none.high < 0.03, "{none:?}");
    }
}
