//! Where the learning rate stopped rising (C10).

use crate::history::Record;

/// A rate that rises by less over its whole rise is no warm-up.
const RISE: f64 = 1.5;

/// The step at which the first rise of the learning rate ends; `None` where the log does not begin with one, or ends in it.
pub fn end(records: &[Record]) -> Option<u64> {
    let rates: Vec<(u64, f64)> = records
        .iter()
        .filter_map(|record| {
            Some((record.step, record.learning_rate.filter(|rate| rate.is_finite() && *rate >= 0.0)?))
        })
        .collect();
    let (_, first) = *rates.first()?;
    let rising = rates.windows(2).take_while(|pair| pair[1].1 > pair[0].1).count();
    let (step, top) = rates[rising];
    let ends = rising + 1 < rates.len();
    (rising > 0 && ends && top > RISE * first).then_some(step)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(rates: &[f64]) -> Option<u64> {
        let record = |(index, rate): (usize, &f64)| Record {
            step: 10 * (index as u64 + 1),
            learning_rate: Some(*rate),
            ..Record::default()
        };
        end(&rates.iter().enumerate().map(record).collect::<Vec<_>>())
    }

    #[test]
    fn the_first_rise_ends_where_the_rate_stands_or_falls() {
        assert_eq!(ends(&[0.1, 0.2, 0.3, 0.3, 0.2]), Some(30));
        assert_eq!(ends(&[0.0, 0.5, 0.4]), Some(20));
        for none in [&[0.3, 0.3, 0.2][..], &[0.1, 0.2, 0.3], &[0.3, 0.31, 0.3], &[]] {
            assert_eq!(ends(none), None, "{none:?}");
        }
    }
}
