//! Order statistics: the median, a sliding window, and how a gradient norm stands against the window before it, on a logarithmic
//! scale: median and MAD (E1). Knows no log and no run.
//!
//! The median of the window does not move for a spike in it, and the logarithm of a norm is nearly symmetric where the norm
//! itself is not. O(n log w) but for a copy of w numbers a point.

use std::collections::VecDeque;

/// Points of the window (OLMo-core looks back as far).
pub const WINDOW: usize = 128;

/// Fewer points before one say nothing about it.
pub const FEWEST: usize = 32;

/// A smaller MAD of ln(norm) is taken for this: a run whose norm hardly moves would make a spike of every breath.
pub const MAD_FLOOR: f64 = 0.05;

/// MAD of a normal distribution with standard deviation 1 is its inverse.
pub const MAD_TO_DEVIATION: f64 = 1.4826;

/// Standard error of a median of n normal values is this times σ/√n.
pub const MEDIAN_ERROR: f64 = 1.2533;

/// How one norm stands.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    /// (ln n − median)/(1.4826·MAD).
    pub z: f64,
    /// n over the median.
    pub ratio: f64,
}

/// For each norm, its place against up to [`WINDOW`] finite, positive ones before it; `None` where there are fewer than
/// [`FEWEST`], or it is itself none.
pub fn robust(norms: &[Option<f64>]) -> Vec<Option<Spread>> {
    let mut window = Sorted::new(WINDOW);
    norms
        .iter()
        .map(|norm| {
            let log = norm.filter(|norm| norm.is_finite() && *norm > 0.0)?.ln();
            let spread = window.spread(log);
            window.push(log);
            spread
        })
        .collect()
}

/// For each norm, finite and positive, the median of the window before it, where the norm is beyond `z` and `ratio` of it; as
/// [`robust`] has them, but the deviation is only looked for where the ratio already stands out.
pub fn spikes(norms: &[f64], z: f64, ratio: f64) -> Vec<Option<f64>> {
    let mut window = Sorted::new(WINDOW);
    let one = |norm: &f64| {
        let log = norm.ln();
        let is_far = window.len() >= FEWEST && log - window.median() > ratio.ln();
        let spread = if is_far { window.spread(log) } else { None };
        window.push(log);
        spread.filter(|spread| spread.z > z).map(|spread| norm / spread.ratio)
    };
    norms.iter().map(one).collect()
}

/// Places of values, those of the largest first; equal ones stay in order.
///
/// That sorting is compiled once, for whatever is ranked by a number: `O(n log n)`.
pub fn largest_first(values: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&one, &other| values[other].total_cmp(&values[one]));
    order
}

/// Sorts pairs by their first number, the smallest first; equal ones stay in order.
pub fn by_first(pairs: &mut [(f64, f64)]) {
    pairs.sort_by(|one, other| one.0.total_cmp(&other.0));
}

/// The median of any values, the mean of the middle two for an even number; `None` of nothing.
pub fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.into_iter().collect();
    let middle = values.len() / 2;
    if values.is_empty() {
        return None;
    }
    let is_odd = values.len() % 2 == 1;
    let (below, upper, _) = values.select_nth_unstable_by(middle, f64::total_cmp);
    let upper = *upper;
    if is_odd {
        return Some(upper);
    }
    let lower = below.iter().copied().max_by(f64::total_cmp)?;
    Some(f64::midpoint(lower, upper))
}

/// The last values, in order of time and by size.
#[derive(Debug)]
pub struct Sorted {
    most: usize,
    in_time: VecDeque<f64>,
    by_size: Vec<f64>,
}

impl Sorted {
    /// None yet of at most `most` values.
    pub fn new(most: usize) -> Self {
        Self { most, in_time: VecDeque::with_capacity(most), by_size: Vec::with_capacity(most) }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.by_size.len()
    }

    /// Whether there is none yet.
    pub fn is_empty(&self) -> bool {
        self.by_size.is_empty()
    }

    /// Drops the oldest value, where there is one.
    pub fn drop_oldest(&mut self) {
        if let Some(oldest) = self.in_time.pop_front() {
            let at = self.by_size.partition_point(|kept| *kept < oldest);
            self.by_size.remove(at);
        }
    }

    /// Adds a value, and drops the oldest where there are too many.
    pub fn push(&mut self, value: f64) {
        if self.in_time.len() == self.most {
            self.drop_oldest();
        }
        self.in_time.push_back(value);
        let at = self.by_size.partition_point(|kept| *kept < value);
        self.by_size.insert(at, value);
    }

    /// The median of at least one value.
    pub fn median(&self) -> f64 {
        let middle = self.by_size.len() / 2;
        if self.by_size.len() % 2 == 1 {
            self.by_size[middle]
        } else {
            f64::midpoint(self.by_size[middle - 1], self.by_size[middle])
        }
    }

    /// Median of the distances to the median, which both halves hold in order.
    fn mad(&self, median: f64) -> f64 {
        let count = self.by_size.len();
        let below = self.by_size.partition_point(|value| *value < median);
        let lower = |index: usize| median - self.by_size[below - 1 - index];
        let upper = |index: usize| self.by_size[below + index] - median;
        let at = |rank: usize| smallest(rank, below, count - below, &lower, &upper);
        if count % 2 == 1 { at(count / 2) } else { f64::midpoint(at(count / 2 - 1), at(count / 2)) }
    }

    fn spread(&self, value: f64) -> Option<Spread> {
        if self.by_size.len() < FEWEST {
            return None;
        }
        let median = self.median();
        let deviation = MAD_TO_DEVIATION * self.mad(median).max(MAD_FLOOR);
        Some(Spread { z: (value - median) / deviation, ratio: (value - median).exp() })
    }
}

/// The value of `rank` (from 0) in two ascending sequences together.
fn smallest(
    rank: usize,
    first_count: usize,
    second_count: usize,
    first: &impl Fn(usize) -> f64,
    second: &impl Fn(usize) -> f64,
) -> f64 {
    // How many of the first sequence are among the `rank` smallest.
    let (mut low, mut high) = (rank.saturating_sub(second_count), rank.min(first_count));
    while low < high {
        let taken = usize::midpoint(low, high);
        if first(taken) < second(rank - taken - 1) {
            low = taken + 1;
        } else {
            high = taken;
        }
    }
    let of_first = (low < first_count).then(|| first(low));
    let of_second = (rank - low < second_count).then(|| second(rank - low));
    match (of_first, of_second) {
        (Some(one), Some(other)) => one.min(other),
        (one, other) => one.or(other).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_ranked_by_a_number_stays_in_order_where_the_numbers_are_equal() {
        assert_eq!(largest_first(&[1.0, f64::INFINITY, -2.0, 1.0, f64::NAN]), [4, 1, 0, 3, 2]);
        let mut pairs = [(2.0, 0.0), (1.0, 1.0), (2.0, -1.0)];
        by_first(&mut pairs);
        assert_eq!(pairs, [(1.0, 1.0), (2.0, 0.0), (2.0, -1.0)]);
    }

    #[test]
    fn the_median_of_an_even_number_lies_between_the_middle_two() {
        assert_eq!(median([4.0, 1.0, 3.0, 2.0]), Some(2.5));
        assert_eq!(median([5.0, 1.0, 3.0]), Some(3.0));
        assert_eq!(median([3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median([]), None);
    }

    /// The definition, word by word.
    fn slow(norms: &[f64], at: usize) -> Option<Spread> {
        let before = &norms[at.saturating_sub(WINDOW)..at];
        if before.len() < FEWEST {
            return None;
        }
        let of = |mut values: Vec<f64>| {
            values.sort_by(f64::total_cmp);
            let middle = values.len() / 2;
            if values.len() % 2 == 1 {
                values[middle]
            } else {
                f64::midpoint(values[middle - 1], values[middle])
            }
        };
        let logs: Vec<f64> = before.iter().map(|norm| norm.ln()).collect();
        let center = of(logs.clone());
        let mad = of(logs.iter().map(|log| (log - center).abs()).collect());
        let z = (norms[at].ln() - center) / (1.4826 * mad.max(0.05));
        Some(Spread { z, ratio: norms[at] / center.exp() })
    }

    #[test]
    fn sliding_gives_what_sorting_each_window_gives() {
        let mut state = 12345_u64;
        let norms: Vec<f64> = (0..700)
            .map(|index| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let uniform = (state >> 11) as f64 / (1_u64 << 53) as f64;
                // Stretches of equal norms are among them.
                if index % 90 < 30 { 0.25 } else { (3.0 * uniform).exp() }
            })
            .collect();
        let fast = robust(&norms.iter().copied().map(Some).collect::<Vec<_>>());
        for (at, fast) in fast.into_iter().enumerate() {
            match (fast, slow(&norms, at)) {
                (Some(fast), Some(slow)) => {
                    assert!(
                        (fast.z - slow.z).abs() < 1e-9 && (fast.ratio / slow.ratio - 1.0).abs() < 1e-12,
                        "{at}"
                    );
                }
                (fast, slow) => assert_eq!(fast, slow, "{at}"),
            }
        }
    }

    #[test]
    fn spikes_are_the_norms_beyond_both_limits() {
        let mut norms: Vec<f64> = (0..300).map(|at| 1.0 + 0.1 * f64::from(at % 7)).collect();
        (norms[10], norms[100], norms[200], norms[201]) = (50.0, 4.0, 30.0, 2.0);
        let wanted: Vec<Option<f64>> = robust(&norms.iter().copied().map(Some).collect::<Vec<_>>())
            .into_iter()
            .zip(&norms)
            .map(|(spread, norm)| {
                spread.filter(|found| found.z > 6.0 && found.ratio > 2.5).map(|found| norm / found.ratio)
            })
            .collect();
        assert_eq!(spikes(&norms, 6.0, 2.5), wanted);
        // 30 is beyond both; 4 beyond the ratio alone, 2 beyond neither, and 50 stands where no window is.
        let found: Vec<usize> = (0..300).filter(|at| wanted[*at].is_some()).collect();
        assert_eq!(found, [200]);
    }

    #[test]
    fn what_is_no_norm_has_no_place_and_is_in_no_window() {
        let mut norms = vec![Some(1.0); 40];
        norms.extend([None, Some(f64::NAN), Some(0.0), Some(f64::INFINITY), Some(4.0)]);
        let spreads = robust(&norms);
        assert!(spreads[40..44].iter().all(Option::is_none));
        let spread = spreads[44].unwrap();
        assert!((spread.ratio - 4.0).abs() < 1e-12);
        assert!((spread.z - 4.0_f64.ln() / (1.4826 * 0.05)).abs() < 1e-9);
    }
}
