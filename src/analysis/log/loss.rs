//! How a loss stands against those before it: by mean and deviation of a window (E2), and over its lowest so far (E3).

use std::collections::VecDeque;

use super::window::{MAD_TO_DEVIATION, Sorted};

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
    let mut window: VecDeque<f64> = VecDeque::with_capacity(WINDOW);
    losses
        .iter()
        .map(|loss| {
            let loss = loss.filter(|loss| loss.is_finite())?;
            let z = (window.len() >= FEWEST).then(|| z_score(&window, loss)).flatten();
            if window.len() == WINDOW {
                window.pop_front();
            }
            window.push_back(loss);
            z
        })
        .collect()
}

/// Two passes over the window: a running sum of squares loses what is left of a falling loss.
fn z_score(window: &VecDeque<f64>, loss: f64) -> Option<f64> {
    let count = window.len() as f64;
    let mean = window.iter().sum::<f64>() / count;
    let variance = window.iter().map(|value| (value - mean) * (value - mean)).sum::<f64>() / count;
    let deviation = variance.sqrt().max(DEVIATION_FLOOR * mean.abs());
    let z = (loss - mean) / deviation;
    z.is_finite().then_some(z)
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
