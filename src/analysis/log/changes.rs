//! What happened to norm and loss where the accumulation, the world size or the batch changed, or another attempt began (E5).

use std::collections::BTreeMap;

use crate::analysis::model::AccumulationChange;
use crate::history::Record;
use crate::robust;

/// Points on either side whose median is compared.
const SIDE: usize = 15;

/// ln of the smallest jump that may be a factor.
const JUMP: f64 = 0.47;

/// A shift is so many times what the value moves by itself.
const SHIFT_OVER_NOISE: f64 = 4.0;

/// Allowed on top of twice the noise before, for values that hardly move.
const STILL: f64 = 0.03;

/// Fewer points on a side have no median to speak of.
const FEWEST: usize = 5;

/// The values of one quantity that a level can be told from, in the order of their records: a log may lack it at most steps, or at
/// all.
struct Values {
    /// Index of the record of each.
    places: Vec<usize>,
    values: Vec<f64>,
}

impl Values {
    fn of(records: &[Record], of: impl Fn(&Record) -> Option<f64>) -> Self {
        let usable = |record| of(record).filter(|value| value.is_finite() && *value > 0.0);
        let found = records.iter().enumerate().filter_map(|(at, record)| Some((at, usable(record)?)));
        let (places, values) = found.unzip();
        Self { places, values }
    }

    /// The last ones before the record `at`.
    fn before(&self, at: usize) -> &[f64] {
        let end = self.places.partition_point(|place| *place < at);
        &self.values[end.saturating_sub(SIDE)..end]
    }

    /// The first ones from the record `at` on.
    fn after(&self, at: usize) -> &[f64] {
        let begin = self.places.partition_point(|place| *place < at);
        &self.values[begin..(begin + SIDE).min(self.values.len())]
    }

    /// Median of the first ones behind `at` over that of the last ones before.
    fn ratio(&self, at: usize) -> Option<f64> {
        Some(median(self.after(at))? / median(self.before(at))?)
    }
}

/// One for every step at which a logged divisor changes, and for every seam.
pub fn at_seams(records: &[Record], seams: &[u64]) -> Vec<AccumulationChange> {
    let norms = Values::of(records, |record| record.grad_norm);
    let losses = Values::of(records, |record| record.loss);
    let mut places: BTreeMap<usize, Option<f64>> =
        seams.iter().map(|step| (records.partition_point(|record| record.step < *step), None)).collect();
    let mut last: Option<&Record> = None;
    for (at, record) in records.iter().enumerate() {
        if record.accumulation.is_none() && record.world_size.is_none() && record.batch_size.is_none() {
            continue;
        }
        if let Some(factor) = last.and_then(|last| factor(last, record)) {
            places.insert(at, Some(factor));
        }
        last = Some(record);
    }
    for at in [shifts(&norms, records.len()), shifts(&losses, records.len())].concat() {
        if places.range(at.saturating_sub(SIDE)..=at + SIDE).next().is_none() {
            places.insert(at, None);
        }
    }
    let change = |(at, factor): (usize, Option<f64>)| {
        Some(AccumulationChange {
            step: records.get(at)?.step,
            factor,
            grad_norm_ratio: norms.ratio(at),
            grad_norm_noise: noise(norms.before(at)),
            loss_ratio: losses.ratio(at),
            loss_noise: noise(losses.before(at)),
        })
    };
    places.into_iter().filter_map(change).collect()
}

/// By what the divisor changed: accumulation times world size where logged, or else the batch.
fn factor(before: &Record, now: &Record) -> Option<f64> {
    let ratio = |before: Option<u64>, now: Option<u64>| match (before, now) {
        (Some(before), Some(now)) if before > 0 && now > 0 => Some(now as f64 / before as f64),
        _ => None,
    };
    let accumulation = ratio(before.accumulation, now.accumulation);
    let world_size = ratio(before.world_size, now.world_size);
    let factor = match (accumulation, world_size) {
        (None, None) => ratio(before.batch_size, now.batch_size)?,
        (accumulation, world_size) => accumulation.unwrap_or(1.0) * world_size.unwrap_or(1.0),
    };
    (factor != 1.0).then_some(factor)
}

/// Where a value goes to another level from one point to the next and stays there, moving no more than before; of a log of so many
/// records.
fn shifts(values: &Values, records: usize) -> Vec<usize> {
    let mut found: Vec<usize> = Vec::new();
    for (pair, &at) in values.values.windows(2).zip(values.places.iter().skip(1)) {
        let jumps = (pair[1] / pair[0]).ln().abs() > JUMP;
        // Sorting both sides is for the few points that jump.
        if jumps && is_shift(values, at, records) && found.last().is_none_or(|last| at - last > SIDE) {
            found.push(at);
        }
    }
    found
}

fn is_shift(values: &Values, at: usize, records: usize) -> bool {
    if at < SIDE || records - at < SIDE {
        return false;
    }
    let (Some(ratio), Some(quiet), Some(still)) =
        (values.ratio(at), noise(values.before(at)), noise(values.after(at)))
    else {
        return false;
    };
    ratio.ln().abs() > JUMP && ratio.ln().abs() > SHIFT_OVER_NOISE * quiet && still <= 2.0 * quiet + STILL
}

/// Median distance of ln of a value to the median of the points on one side: how much it moves by itself.
fn noise(side: &[f64]) -> Option<f64> {
    let logs: Vec<f64> = side.iter().map(|value| value.ln()).collect();
    let center = median(&logs)?;
    let distances: Vec<f64> = logs.iter().map(|log| (log - center).abs()).collect();
    median(&distances)
}

/// The median, where there are enough values for one.
fn median(values: &[f64]) -> Option<f64> {
    if values.len() < FEWEST { None } else { robust::median(values.iter().copied()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records(factor: f64, accumulation: Option<u64>) -> Vec<Record> {
        (0..40)
            .map(|step| Record {
                step,
                grad_norm: Some(if step < 20 { 0.5 } else { 0.5 * factor }),
                loss: Some(2.0),
                accumulation: accumulation.map(|later| if step < 20 { 1 } else { later }),
                ..Record::default()
            })
            .collect()
    }

    #[test]
    fn a_change_of_the_divisor_is_found_with_what_it_did() {
        let changes = at_seams(&records(4.0, Some(4)), &[]);
        assert_eq!(changes.len(), 1);
        assert_eq!((changes[0].step, changes[0].factor), (20, Some(4.0)));
        assert_eq!((changes[0].grad_norm_ratio, changes[0].loss_ratio), (Some(4.0), Some(1.0)));
    }

    #[test]
    fn a_seam_is_looked_at_though_nothing_says_what_changed() {
        let changes = at_seams(&records(8.0, None), &[20]);
        assert_eq!((changes[0].step, changes[0].factor, changes[0].grad_norm_ratio), (20, None, Some(8.0)));
        assert_eq!(at_seams(&records(8.0, None), &[0])[0].grad_norm_ratio, None);
        assert!(at_seams(&records(1.2, None), &[]).is_empty());
    }

    #[test]
    fn a_step_to_another_level_is_found_where_nothing_announces_it() {
        let changes = at_seams(&records(3.0, None), &[]);
        assert_eq!(changes.len(), 1);
        assert_eq!((changes[0].step, changes[0].grad_norm_ratio), (20, Some(3.0)));
        // What goes on rising is no level.
        let mut rising = records(3.0, None);
        for record in rising.iter_mut().skip(20) {
            record.grad_norm = Some(1.5 * 1.3_f64.powf(record.step as f64 - 20.0));
        }
        assert!(at_seams(&rising, &[]).is_empty());
    }

    /// Levels that go up and down all the time, in a log without a loss: the nearest values are found, however far away the next
    /// one is.
    #[test]
    fn levels_are_those_of_the_nearest_values_in_a_log_that_lacks_some() {
        let noise = crate::random::Stream::new(2, 5).normals(4000);
        let norm = |at: usize| {
            (at % 3 != 1)
                .then(|| (0.01 * noise[at]).exp() * if (at / 50).is_multiple_of(2) { 0.2 } else { 0.6 })
        };
        let records: Vec<Record> = (0..4000)
            .map(|at| Record { step: at as u64, grad_norm: norm(at), ..Record::default() })
            .collect();
        let changes = at_seams(&records, &[]);
        let expected: Vec<u64> = (1..80).map(|level| 50 * level + u64::from(50 * level % 3 == 1)).collect();
        assert_eq!(changes.iter().map(|change| change.step).collect::<Vec<u64>>(), expected);
        for change in &changes {
            // The slow way: all that lies on either side.
            let (before, after) = records.split_at(change.step as usize);
            let near = |side: &mut dyn Iterator<Item = &Record>| {
                let mut near: Vec<f64> = side.filter_map(|record| record.grad_norm).take(SIDE).collect();
                near.sort_by(f64::total_cmp);
                near[SIDE / 2]
            };
            let ratio = near(&mut after.iter()) / near(&mut before.iter().rev());
            assert_eq!(change.grad_norm_ratio, Some(ratio));
            assert_eq!((change.loss_ratio, change.loss_noise), (None, None));
        }
    }
}
