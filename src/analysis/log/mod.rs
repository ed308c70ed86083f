//! Statistics of a run's log: how each point stands against the points before it, and what happened to the loss scale,
//! the learning rate and the accumulation. Judges nothing.

use std::collections::BTreeMap;

use super::model::{AccumulationChange, LogAnalysis, LogPoint, Number, ScaleFall};
use crate::history::{History, Log, Record};
use crate::robust::robust;

mod changes;
mod loss;
mod scale;
mod warmup;

/// Everything measured about the log of `history`; `None` where it has none.
pub fn measure(history: &History) -> Option<LogAnalysis> {
    history.log.as_ref().map(measure_log)
}

/// Everything measured about `log`.
pub fn measure_log(log: &Log) -> LogAnalysis {
    let mut points: Vec<LogPoint> = log.records.iter().map(point).collect();
    let norms: Vec<Option<f64>> = log.records.iter().map(|record| record.grad_norm).collect();
    for (point, spread) in points.iter_mut().zip(robust(&norms)) {
        point.grad_norm_z = spread.map(|spread| spread.z);
        point.grad_norm_ratio = spread.map(|spread| spread.ratio);
    }
    let losses: Vec<Option<f64>> = log.records.iter().map(|record| record.loss).collect();
    for (point, z) in points.iter_mut().zip(loss::z_scores(&losses)) {
        point.loss_z = z;
    }
    for (point, ratio) in points.iter_mut().zip(loss::ratios(&losses)) {
        point.loss_ratio = ratio;
    }
    for (point, noise) in points.iter_mut().zip(loss::noise(&losses)) {
        point.loss_noise = noise;
    }
    let scale_falls: Vec<ScaleFall> = scale::falls(&log.records);
    let accumulation_changes: Vec<AccumulationChange> = changes::at_seams(&log.records, &log.semantics.seams);
    LogAnalysis {
        sources: log.sources.clone(),
        points,
        semantics: log.semantics.clone(),
        scale_falls,
        accumulation_changes,
        warmup_end: warmup::end(&log.records),
    }
}

fn point(record: &Record) -> LogPoint {
    let layers: BTreeMap<String, Number> =
        record.grad_norm_by_layer.iter().map(|(layer, norm)| (layer.clone(), Number(*norm))).collect();
    LogPoint {
        step: record.step,
        loss: record.loss.map(Number),
        grad_norm: record.grad_norm.map(Number),
        learning_rate: record.learning_rate.map(Number),
        loss_scale: record.loss_scale.map(Number),
        non_finite: record.non_finite,
        skipped: record.skipped,
        grad_norm_by_layer: layers,
        data: record.data.clone(),
        ..LogPoint::default()
    }
}
