//! What happened to norm and loss where the accumulation, the world size or the batch changed, or another attempt began (E5).

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

/// One for every step at which a logged divisor changes, and for every seam.
pub fn at_seams(records: &[Record], seams: &[u64]) -> Vec<AccumulationChange> {
    let mut places: Vec<(usize, Option<f64>)> =
        seams.iter().map(|step| (records.partition_point(|record| record.step < *step), None)).collect();
    let mut last: Option<&Record> = None;
    for (at, record) in records.iter().enumerate() {
        if record.accumulation.is_none() && record.world_size.is_none() && record.batch_size.is_none() {
            continue;
        }
        if let Some(factor) = last.and_then(|last| factor(last, record)) {
            places.retain(|(place, _)| *place != at);
            places.push((at, Some(factor)));
        }
        last = Some(record);
    }
    let shifts = [shifts(records, |record| record.grad_norm), shifts(records, |record| record.loss)].concat();
    for at in shifts {
        if places.iter().all(|(place, _)| place.abs_diff(at) > SIDE) {
            places.push((at, None));
        }
    }
    places.sort_by_key(|(at, _)| *at);
    places.into_iter().filter_map(|(at, factor)| change(records, at, factor)).collect()
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

fn change(records: &[Record], at: usize, factor: Option<f64>) -> Option<AccumulationChange> {
    let step = records.get(at)?.step;
    let (before, after) = records.split_at(at);
    let norm = |record: &Record| record.grad_norm;
    let loss = |record: &Record| record.loss;
    Some(AccumulationChange {
        step,
        factor,
        grad_norm_ratio: ratio(before, after, norm),
        grad_norm_noise: noise(before.iter().rev(), norm),
        loss_ratio: ratio(before, after, loss),
        loss_noise: noise(before.iter().rev(), loss),
    })
}

/// Where a value goes to another level from one point to the next and stays there, moving no more than before.
fn shifts(records: &[Record], of: fn(&Record) -> Option<f64>) -> Vec<usize> {
    let mut found: Vec<usize> = Vec::new();
    let mut last: Option<f64> = None;
    for (at, record) in records.iter().enumerate() {
        let Some(value) = usable(of(record)) else { continue };
        let jumps = last.replace(value).is_some_and(|last| (value / last).ln().abs() > JUMP);
        // Sorting both sides is for the few points that jump.
        if jumps && is_shift(records, at, of) && found.last().is_none_or(|last| at - last > SIDE) {
            found.push(at);
        }
    }
    found
}

fn is_shift(records: &[Record], at: usize, of: fn(&Record) -> Option<f64>) -> bool {
    let (before, after) = records.split_at(at);
    let full = |side: usize| side >= SIDE;
    if !full(before.len()) || !full(after.len()) {
        return false;
    }
    let (Some(ratio), Some(quiet), Some(still)) =
        (ratio(before, after, of), noise(before.iter().rev(), of), noise(after.iter(), of))
    else {
        return false;
    };
    ratio.ln().abs() > JUMP && ratio.ln().abs() > SHIFT_OVER_NOISE * quiet && still <= 2.0 * quiet + STILL
}

fn usable(value: Option<f64>) -> Option<f64> {
    value.filter(|value| value.is_finite() && *value > 0.0)
}

/// Median of the first points behind over that of the last points before.
fn ratio(before: &[Record], after: &[Record], of: fn(&Record) -> Option<f64>) -> Option<f64> {
    let before: Vec<f64> = before.iter().rev().filter_map(|record| usable(of(record))).take(SIDE).collect();
    let after: Vec<f64> = after.iter().filter_map(|record| usable(of(record))).take(SIDE).collect();
    Some(median(&after)? / median(&before)?)
}

/// Median distance of ln of a value to the median of the points on one side: how much it moves by itself.
fn noise<'a>(side: impl Iterator<Item = &'a Record>, of: fn(&Record) -> Option<f64>) -> Option<f64> {
    let logs: Vec<f64> = side.filter_map(|record| usable(of(record))).take(SIDE).map(f64::ln).collect();
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
}
