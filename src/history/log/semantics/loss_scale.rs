//! Norms of gradients that still have the loss scale in them (Megatron-DeepSpeed): they follow it, and are divided by it.

use super::super::{LogSemantics, Record, RemarkKind};
use super::Say;
use crate::robust::median;

/// ln n and ln scale that correlate more than this move together (risk.md A5).
pub const CORRELATION: f64 = 0.9;

/// What ln n does where the scale changes, over what ln scale does, from which norms contain it: 1 where they do, whatever they do
/// between, and 0 where they merely rise with the run while the scale doubles. The middle.
const SLOPE: f64 = 0.5;

/// Norms on either side of a change of the scale whose medians are compared.
const SIDE: usize = 15;

/// Fewer points show no correlation.
const FEWEST: usize = 8;

/// A median norm above this, of a run that goes on learning, is none: it has a factor in it.
const IMPLAUSIBLE_NORM: f64 = 1000.0;

/// What is left of such a norm without the scale must be one that occurs.
const PLAUSIBLE_NORM: f64 = 100.0;

/// Divides norms by the loss scale, where they contain it.
pub(super) fn settle(records: &mut [Record], semantics: &mut LogSemantics, say: &mut Say<'_>) {
    let pairs: Vec<(f64, f64)> = records.iter().filter_map(pair).collect();
    semantics.scale_correlation = correlation(&pairs);
    let follows = semantics.scale_correlation.is_some_and(|correlation| correlation > CORRELATION)
        && slope_at_changes(&pairs).is_some_and(|slope| slope > SLOPE);
    if !follows && !is_implausible(&pairs) {
        return;
    }
    semantics.loss_scaled = true;
    semantics.scaled_by_size = !follows;
    let mut scale = None;
    for record in records.iter_mut() {
        scale = record.loss_scale.filter(|scale| *scale > 0.0).or(scale);
        let divide = |norm: f64| scale.map(|scale| norm / scale);
        record.grad_norm = record.grad_norm.and_then(divide);
        record.grad_norm_by_layer.values_mut().for_each(|norm| *norm = divide(*norm).unwrap_or(f64::NAN));
        record.grad_norm_by_layer.retain(|_, norm| !norm.is_nan());
    }
    let reason = match semantics.scale_correlation {
        Some(correlation) if follows => format!("they follow it (correlation {correlation:.3})"),
        _ => format!("their median is above {IMPLAUSIBLE_NORM}"),
    };
    say(
        None,
        RemarkKind::Semantics,
        format!("gradient norms contain the loss scale and were divided by it: {reason}"),
    );
}

/// ln norm and ln scale.
fn pair(record: &Record) -> Option<(f64, f64)> {
    let norm = record.grad_norm.filter(|norm| norm.is_finite() && *norm > 0.0)?;
    let scale = record.loss_scale.filter(|scale| scale.is_finite() && *scale > 0.0)?;
    Some((norm.ln(), scale.ln()))
}

/// Slope of ln norm on ln scale by what both do where the scale changes, and by nothing between: norms that drift with the run do
/// not move there.
fn slope_at_changes(pairs: &[(f64, f64)]) -> Option<f64> {
    let middle = |pairs: &[(f64, f64)]| median(pairs.iter().map(|pair| pair.0)).unwrap_or_default();
    let stretches: Vec<&[(f64, f64)]> = pairs.chunk_by(|one, other| one.1 == other.1).collect();
    let (mut square, mut product) = (0.0, 0.0);
    for neighbours in stretches.windows(2) {
        let (before, after) = (neighbours[0], neighbours[1]);
        let norm =
            middle(&after[..after.len().min(SIDE)]) - middle(&before[before.len().saturating_sub(SIDE)..]);
        let scale = after[0].1 - before[0].1;
        square += scale * scale;
        product += norm * scale;
    }
    (square > 0.0).then(|| product / square)
}

/// Pearson's correlation, where both vary and there are enough points.
fn correlation(pairs: &[(f64, f64)]) -> Option<f64> {
    if pairs.len() < FEWEST {
        return None;
    }
    let count = pairs.len() as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| pairs.iter().map(of).sum::<f64>() / count;
    let (x, y) = (mean(|pair| pair.0), mean(|pair| pair.1));
    let (mut xx, mut yy, mut xy) = (0.0, 0.0, 0.0);
    for pair in pairs {
        let (dx, dy) = (pair.0 - x, pair.1 - y);
        xx += dx * dx;
        yy += dy * dy;
        xy += dx * dy;
    }
    (xx > 0.0 && yy > 0.0).then(|| xy / (xx * yy).sqrt())
}

/// Where the scale hardly moved, or the run did much else, size alone tells: the norm is too large, and is not without it.
fn is_implausible(pairs: &[(f64, f64)]) -> bool {
    let norm = median(pairs.iter().map(|(norm, _)| *norm));
    let without = median(pairs.iter().map(|(norm, scale)| norm - scale));
    norm.zip(without).is_some_and(|(norm, without)| {
        norm > IMPLAUSIBLE_NORM.ln() && without < PLAUSIBLE_NORM.ln() && without > -PLAUSIBLE_NORM.ln() * 2.0
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settled(rows: &[(f64, f64)]) -> (Vec<Record>, LogSemantics) {
        let record = |(index, (scale, norm)): (usize, &(f64, f64))| Record {
            step: index as u64,
            loss_scale: Some(*scale),
            grad_norm: Some(*norm),
            ..Record::default()
        };
        let mut records: Vec<Record> = rows.iter().enumerate().map(record).collect();
        let mut semantics = LogSemantics::default();
        settle(&mut records, &mut semantics, &mut |_, _, _| {});
        (records, semantics)
    }

    #[test]
    fn norms_that_follow_the_scale_are_divided_by_it() {
        let rows: Vec<(f64, f64)> = (0..20).map(|i| (2_f64.powi(i % 5), 0.5 * 2_f64.powi(i % 5))).collect();
        let (records, semantics) = settled(&rows);
        assert!(semantics.loss_scaled && semantics.scale_correlation.unwrap() > 0.999);
        assert!(records.iter().all(|record| record.grad_norm == Some(0.5)));
    }

    #[test]
    fn norms_of_their_own_are_left_alone_whatever_the_scale_does() {
        let rows: Vec<(f64, f64)> =
            (0..20).map(|i| (2_f64.powi(10 + i % 5), 0.5 + 0.1 * f64::from(i % 3))).collect();
        let (records, semantics) = settled(&rows);
        assert!(!semantics.loss_scaled);
        assert_eq!(records[0].grad_norm, Some(0.5));
    }

    /// The scaler doubles its scale every 100 steps, and norms rise to eight times what they were: between changes, not at them.
    /// The same with the scale in them is divided by it.
    #[test]
    fn norms_that_merely_rise_while_the_scale_does_are_left_alone() {
        let noise = crate::random::Stream::new(11, 3).normals(500);
        let rows = |contained: bool| -> Vec<(f64, f64)> {
            let row = |(at, noise): (usize, &f64)| {
                let (at, scale) = (at as f64, 2_f64.powf((10 + at / 100) as f64));
                let norm = 0.3 * (at / 500.0 * 8_f64.ln() + 0.1 * noise).exp();
                (scale, if contained { norm * scale } else { norm })
            };
            noise.iter().enumerate().map(row).collect()
        };
        let (records, semantics) = settled(&rows(false));
        assert!(semantics.scale_correlation.unwrap() > CORRELATION && !semantics.loss_scaled);
        let given: Vec<Option<f64>> = rows(false).iter().map(|(_, norm)| Some(*norm)).collect();
        assert!(records.iter().map(|record| record.grad_norm).eq(given));
        // What falls to a sixteenth while the scale in it doubles seven times follows it by less than half.
        let (_, semantics) = settled(&falling(&noise));
        assert!(semantics.loss_scaled && !semantics.scaled_by_size);
        let (records, semantics) = settled(&rows(true));
        assert!(semantics.loss_scaled && !semantics.scaled_by_size);
        let close = |(record, (_, norm)): (&Record, &(f64, f64))| {
            (record.grad_norm.unwrap() / norm - 1.0).abs() < 1e-12
        };
        assert!(records.iter().zip(&rows(false)).all(close));
    }

    fn falling(noise: &[f64]) -> Vec<(f64, f64)> {
        let row = |(at, noise): (usize, &f64)| {
            let (at, scale) = (at as f64, 2_f64.powf((10 + at / 70) as f64));
            (scale, scale * 0.3 * (at / 500.0 * (1.0_f64 / 16.0).ln() + 0.1 * noise).exp())
        };
        noise.iter().enumerate().map(row).collect()
    }

    /// Norms of 2000 beside a scale that never moves: of a loss that is a sum, or with the scale in them.
    #[test]
    fn norms_that_are_divided_on_their_size_alone_say_so() {
        let rows: Vec<(f64, f64)> = (0..20).map(|i| (65536.0, 2000.0 + 10.0 * f64::from(i % 3))).collect();
        let (_, semantics) = settled(&rows);
        assert!(semantics.loss_scaled && semantics.scaled_by_size);
    }
}
