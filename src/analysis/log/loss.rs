//! How a loss stands against those before it: by mean and deviation of a window (E2), and over its lowest so far (E3).

use std::collections::VecDeque;

use crate::robust::{MAD_TO_DEVIATION, Sorted};

/// Points of the window (OLMo-core).
pub const WINDOW: usize = 128;

/// Fewer points before one say nothing about it (OLMo-core asks for 64 of 128).
pub const FEWEST: usize = 32;

/// A deviation below this share of the mean is rounding: losses are logged with about four digits.
const DEVIATION_FLOOR: f64 = 1e-3;

/// Fewer steps from loss to loss do not show its noise.
const FEWEST_STEPS: usize = 8;

/// Losses of one batch are noise: three together are taken (risk.md E3).
const MEDIAN_OF: usize = 3;

/// (loss − mean)/standard deviation over up to [`WINDOW`] finite losses before each.
pub fn z_scores(losses: &[Option<f64>]) -> Vec<Option<f64>> {
    let mut window = Moments::default();
    losses
        .iter()
        .map(|loss| {
            let loss = loss.filter(|loss| loss.is_finite())?;
            let z = (window.values.len() >= FEWEST).then(|| window.z_score(loss)).flatten();
            window.push(loss);
            z
        })
        .collect()
}

/// Sums over the last values, of their distances to a pivot.
///
/// The pivot is their mean, taken anew once in a window: sums of squares of the values themselves would lose what is left of a
/// falling loss, and what rounding leaves in a running sum lives no longer than a window.
#[derive(Debug, Default)]
struct Moments {
    values: VecDeque<f64>,
    pivot: f64,
    sum: f64,
    squares: f64,
    pushed: usize,
}

impl Moments {
    fn push(&mut self, value: f64) {
        if self.values.len() == WINDOW
            && let Some(oldest) = self.values.pop_front()
        {
            self.add(oldest, -1.0);
        }
        self.values.push_back(value);
        self.add(value, 1.0);
        self.pushed += 1;
        if self.pushed.is_multiple_of(WINDOW) || self.pushed == FEWEST || !self.squares.is_finite() {
            self.settle();
        }
    }

    fn add(&mut self, value: f64, sign: f64) {
        let distance = value - self.pivot;
        self.sum += sign * distance;
        self.squares += sign * distance * distance;
    }

    fn settle(&mut self) {
        self.pivot = self.values.iter().sum::<f64>() / self.values.len() as f64;
        (self.sum, self.squares) = (0.0, 0.0);
        for index in 0..self.values.len() {
            self.add(self.values[index], 1.0);
        }
    }

    fn z_score(&self, loss: f64) -> Option<f64> {
        let count = self.values.len() as f64;
        let offset = self.sum / count;
        let mean = self.pivot + offset;
        let variance = (self.squares / count - offset * offset).max(0.0);
        let deviation = variance.sqrt().max(DEVIATION_FLOOR * mean.abs());
        let z = (loss - mean) / deviation;
        z.is_finite().then_some(z)
    }
}

/// Median of the last three losses over the lowest such median so far; `None` where there are fewer, or one is not
/// positive and finite.
pub fn ratios(losses: &[Option<f64>]) -> Vec<Option<f64>> {
    let mut last: VecDeque<f64> = VecDeque::with_capacity(MEDIAN_OF);
    let mut lowest = f64::INFINITY;
    losses
        .iter()
        .map(|loss| {
            let loss = (*loss)?;
            if !(loss.is_finite() && loss > 0.0) {
                last.clear();
                return None;
            }
            if last.len() == MEDIAN_OF {
                last.pop_front();
            }
            last.push_back(loss);
            if last.len() < MEDIAN_OF {
                return None;
            }
            let mut sorted = [last[0], last[1], last[2]];
            sorted.sort_by(f64::total_cmp);
            lowest = lowest.min(sorted[1]);
            let ratio = sorted[1] / lowest;
            ratio.is_finite().then_some(ratio)
        })
        .collect()
}

/// Standard deviation of ln(loss) by itself, over up to [`WINDOW`] steps from one loss to the next before each: 1.4826 times
/// the median of their sizes, over √2. A trend hardly moves it, and neither does a jump.
pub fn noise(losses: &[Option<f64>]) -> Vec<Option<f64>> {
    let mut window = Sorted::new(WINDOW);
    let mut before: Option<f64> = None;
    losses
        .iter()
        .map(|loss| {
            let log = loss.filter(|loss| loss.is_finite() && *loss > 0.0)?.ln();
            let noise =
                (window.len() >= FEWEST_STEPS).then(|| MAD_TO_DEVIATION * window.median() / 2_f64.sqrt());
            if let Some(before) = before.replace(log) {
                window.push((log - before).abs());
            }
            noise
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ratio_is_that_of_medians_of_three() {
        let losses: Vec<Option<f64>> = [4.0, 2.0, 3.0, 1.0, 2.0, 9.0, 6.0, 6.0].map(Some).to_vec();
        // Medians: 3, 2, 2, 2, 6, 6.
        let expected = [None, None, Some(1.0), Some(1.0), Some(1.0), Some(1.0), Some(3.0), Some(3.0)];
        assert_eq!(ratios(&losses), expected);
    }

    #[test]
    fn losses_that_are_not_positive_have_no_ratio() {
        let losses = [Some(1.0), Some(1.0), Some(1.0), Some(-1.0), Some(1.0), None, Some(1.0), Some(2.0)];
        assert_eq!(ratios(&losses), [None, None, Some(1.0), None, None, None, None, Some(1.0)]);
    }

    #[test]
    fn noise_is_that_of_the_steps_and_not_of_the_trend() {
        // ln(loss) falls by 0.01 a step, and goes 0.1 up and down beside it.
        let losses: Vec<Option<f64>> = (0..60)
            .map(|i| Some((-0.01 * f64::from(i) + if i % 2 == 0 { 0.05 } else { -0.05 }).exp()))
            .collect();
        let noise = noise(&losses);
        assert!(noise[8].is_none());
        // Sizes are 0.11 and 0.09 in turn.
        assert!((noise[50].unwrap() - 1.4826 * 0.1 / 2_f64.sqrt()).abs() < 0.012, "{:?}", noise[50]);
    }

    #[test]
    fn sliding_gives_what_two_passes_over_each_window_give() {
        let mut state = 7_u64;
        let losses: Vec<f64> = (0..600)
            .map(|step| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let uniform = (state >> 11) as f64 / (1_u64 << 53) as f64;
                1e4 * (-f64::from(step) / 20.0).exp() + 2.0 + 0.1 * uniform
            })
            .collect();
        let sliding = z_scores(&losses.iter().copied().map(Some).collect::<Vec<_>>());
        for (at, sliding) in sliding.into_iter().enumerate().skip(FEWEST) {
            let window = &losses[at.saturating_sub(WINDOW)..at];
            let mean = window.iter().sum::<f64>() / window.len() as f64;
            let variance = window.iter().map(|loss| (loss - mean).powi(2)).sum::<f64>() / window.len() as f64;
            let expected = (losses[at] - mean) / variance.sqrt().max(1e-3 * mean);
            assert!(
                (sliding.unwrap() - expected).abs() < 1e-6 * (1.0 + expected.abs()),
                "{at}: {sliding:?} {expected}"
            );
        }
    }

    #[test]
    fn the_z_score_is_that_of_the_window_before() {
        // 32 losses of mean 2 and deviation 0.1.
        let mut losses: Vec<Option<f64>> =
            (0..32).map(|i| Some(if i % 2 == 0 { 1.9 } else { 2.1 })).collect();
        losses.push(Some(2.7));
        let z = z_scores(&losses);
        assert!(z[..32].iter().all(Option::is_none));
        assert!((z[32].unwrap() - 7.0).abs() < 1e-9);
        // Equal losses have no deviation of their own.
        let mut equal = vec![Some(2.0); 40];
        equal.push(Some(2.02));
        assert!((z_scores(&equal)[40].unwrap() - 10.0).abs() < 1e-9);
    }
}
