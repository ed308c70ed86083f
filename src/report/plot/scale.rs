//! An axis: linear, or logarithmic where values are positive and far apart, with ticks at numbers that people count in.
//!
//! Every range has a width: that of no value, of one value and of values that are all the same too.

use std::ops::Range;

use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};

/// Most ticks of one axis.
const TICKS: f64 = 6.0;

/// Largest over smallest value from which an axis is logarithmic.
const FAR_APART: f64 = 8.0;

/// Values onto a stretch of pixels. What is outside is drawn at the edge.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Scale {
    /// First value.
    pub low: f64,
    /// Last value.
    pub high: f64,
    /// Equal factors are equally wide.
    pub is_log: bool,
    ticks: Vec<f64>,
}

impl Scale {
    /// For quantities that are compared by their ratio: logarithmic, unless a value is not positive or all are close together.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let Some((low, high)) = extent(values) else { return Self::linear(0.0, 1.0) };
        if low > 0.0 && high / low >= FAR_APART { Self::log(low, high) } else { Self::linear(low, high) }
    }

    /// Logarithmic over the positive values; linear where there are none.
    pub fn positive(values: impl IntoIterator<Item = f64>) -> Self {
        match extent(values.into_iter().filter(|value| *value > 0.0)) {
            Some((low, high)) => Self::log(low, high),
            None => Self::linear(0.0, 1.0),
        }
    }

    /// Logarithmic from `low` to `high`, both above 0, with a little room at both ends.
    pub fn log(low: f64, high: f64) -> Self {
        // What f64 holds, less the room at both ends.
        let [first, last] = [low, high].map(|end| end.max(f64::MIN_POSITIVE).log10().clamp(-306.5, 306.5));
        let room = ((last - first) * 0.06).max(0.15);
        let (low, high) = (10f64.powf((first - room).max(-307.0)), 10f64.powf((last + room).min(307.0)));
        Self { low, high, is_log: true, ticks: log_ticks(low, high) }
    }

    /// Linear from `low` to `high`, with a little room at both ends.
    pub fn linear(low: f64, high: f64) -> Self {
        let span = high / 2.0 - low / 2.0;
        // Values that differ in their last digits alone are the same to a reader.
        let is_wide = span > low.abs().max(high.abs()) * 1e-9;
        let room = if is_wide { span * 0.12 } else { low.abs() * 0.1 };
        let room = if room > 0.0 { room } else { 0.5 };
        let (low, high) = ((low - room).max(f64::MIN / 2.0), (high + room).min(f64::MAX / 2.0));
        Self { low, high, is_log: false, ticks: linear_ticks(low, high) }
    }

    /// Exactly from `low` to `high`, in whole numbers: steps, layers, binades.
    pub fn whole(low: f64, high: f64) -> Self {
        let (low, high) = if high > low { (low, high) } else { (low - 1.0, low + 1.0) };
        let ticks = linear_ticks(low, high).into_iter().filter(|tick| tick.fract() == 0.0).collect();
        Self { low, high, is_log: false, ticks }
    }

    /// Where a value is, from 0 to 1.
    pub fn share(&self, value: f64) -> f64 {
        let place = |value: f64| if self.is_log { value.max(f64::MIN_POSITIVE).ln() } else { value / 2.0 };
        let (low, high) = (place(self.low), place(self.high));
        ((place(value) - low) / (high - low)).clamp(0.0, 1.0)
    }

    /// A number of this axis.
    pub fn label(&self, value: f64) -> String {
        let is_thousands = |tick: &f64| tick % 1000.0 == 0.0;
        if !self.is_log && self.high >= 1e4 && self.high < 1e7 && self.ticks.iter().all(is_thousands) {
            return if value == 0.0 { "0".to_owned() } else { format!("{}k", value / 1000.0) };
        }
        number(value)
    }
}

/// Smallest and largest of the finite values.
fn extent(values: impl IntoIterator<Item = f64>) -> Option<(f64, f64)> {
    values.into_iter().filter(|value| value.is_finite()).fold(None, |found, value| match found {
        None => Some((value, value)),
        Some((low, high)) => Some((value.min(low), value.max(high))),
    })
}

/// As short as it can be without another value.
fn number(value: f64) -> String {
    let magnitude = value.abs();
    if magnitude != 0.0 && !(1e-2..1e4).contains(&magnitude) {
        let text = format!("{value:.1e}");
        return text.replacen(".0e", "e", 1);
    }
    let text = format!("{value:.4}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text == "-0" { "0".to_owned() } else { text.to_owned() }
}

/// Multiples of 1, 2 or 5 times a power of ten.
fn linear_ticks(low: f64, high: f64) -> Vec<f64> {
    let raw = (high / TICKS - low / TICKS).max(f64::MIN_POSITIVE);
    let power = 10f64.powf(raw.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].iter().map(|factor| factor * power).find(|step| *step >= raw);
    let step = step.unwrap_or(10.0 * power);
    let mut ticks = Vec::new();
    let mut index = (low / step).ceil();
    while index * step <= high && ticks.len() <= 2 * TICKS as usize {
        ticks.push(index * step);
        index += 1.0;
    }
    ticks
}

/// Powers of ten; between them 2 and 5 where they are few; as on a linear axis where there are none.
fn log_ticks(low: f64, high: f64) -> Vec<f64> {
    let (first, last) = (low.log10().ceil(), high.log10().floor());
    let decades = last - first + 1.0;
    if decades >= 3.0 {
        let stride = (decades / TICKS).ceil();
        let mut ticks = Vec::new();
        let mut power = (first / stride).ceil() * stride;
        while power <= last {
            // By its text: a power of ten that reads as one.
            ticks.push(format!("1e{power}").parse().unwrap_or_else(|_| 10f64.powf(power)));
            power += stride;
        }
        return ticks;
    }
    let mut ticks = Vec::new();
    let mut power = first - 1.0;
    while power <= last + 1.0 {
        ticks.extend([1.0, 2.0, 5.0].map(|factor| factor * 10f64.powf(power)));
        power += 1.0;
    }
    ticks.retain(|tick| (low..=high).contains(tick));
    if ticks.len() < 2 { linear_ticks(low, high) } else { ticks }
}

impl Ranged for Scale {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        let width = f64::from(limit.1 - limit.0);
        limit.0 + (self.share(*value) * width).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        self.ticks.clone()
    }

    fn range(&self) -> Range<f64> {
        self.low..self.high
    }
}

impl ValueFormatter<f64> for Scale {
    fn format_ext(&self, value: &f64) -> String {
        self.label(*value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(scale: &Scale) -> Vec<String> {
        scale.ticks.iter().map(|tick| scale.label(*tick)).collect()
    }

    #[test]
    fn values_far_apart_are_on_powers_of_ten_and_close_ones_are_not() {
        assert_eq!(labels(&Scale::of([1e-5, 0.3])), ["1e-5", "1e-4", "1e-3", "0.01", "0.1"]);
        assert_eq!(labels(&Scale::of([2.0, 3.0])), ["2", "2.2", "2.4", "2.6", "2.8", "3"]);
        assert_eq!(labels(&Scale::positive([1.0, 20.0])), ["1", "2", "5", "10", "20"]);
    }

    #[test]
    fn a_range_of_nothing_one_value_zeros_and_the_largest_numbers_has_a_width_and_ticks() {
        let cases: [&[f64]; 9] = [
            &[],
            &[f64::NAN, f64::INFINITY],
            &[0.0],
            &[7.0, 7.0, 7.0],
            &[-3.0, -3.0],
            &[f64::MIN, f64::MAX],
            &[f64::MIN_POSITIVE, f64::MAX],
            &[5e-324, 1.0],
            &[1.0, 1.0 + f64::EPSILON],
        ];
        for values in cases {
            for scale in [Scale::of(values.iter().copied()), Scale::positive(values.iter().copied())] {
                assert!(
                    scale.low < scale.high && scale.low.is_finite() && scale.high.is_finite(),
                    "{scale:?}"
                );
                assert!((2..=13).contains(&scale.ticks.len()), "{values:?}: {scale:?}");
                let inside = |tick: &f64| (scale.low..=scale.high).contains(tick);
                assert!(scale.ticks.iter().all(inside), "{values:?}: {scale:?}");
                for value in values.iter().filter(|value| value.is_finite()) {
                    assert!((0.0..=1.0).contains(&scale.share(*value)), "{value} on {scale:?}");
                }
            }
        }
    }

    #[test]
    fn steps_are_whole_numbers_and_large_ones_are_short() {
        assert_eq!(labels(&Scale::whole(0.0, 240.0)), ["0", "50", "100", "150", "200"]);
        assert_eq!(labels(&Scale::whole(0.0, 120_000.0)), ["0", "20k", "40k", "60k", "80k", "100k", "120k"]);
        assert!(labels(&Scale::whole(1.0, 2.0)).iter().all(|label| !label.contains('.')));
        assert_eq!(labels(&Scale::whole(5.0, 5.0)), ["4", "5", "6"]);
    }
}
