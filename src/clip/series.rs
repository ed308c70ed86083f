//! The norms of a run, out of whatever it kept: its log, its gradient dumps, or, where there is neither, its optimizer's state.
//!
//! Collects and counts; recommends nothing. What the numbers mean was settled where the log was read.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::analysis::model::{Analysis, DumpAnalysis, LogAnalysis, LogPoint, Measured, Number};
use crate::robust::spikes;

/// Robust z of ln(norm) beyond which a step is a spike (risk catalogue E1, benchmarked in its section 6).
pub const SPIKE_Z: f64 = 6.0;

/// Norm over the median of its window beyond which a step is a spike (E1).
pub const SPIKE_RATIO: f64 = 2.5;

/// How far the norms of all tensors together may be from the norm of the whole before they are not all of them.
const SAME_NORM: f64 = 0.01;

/// What DeepSpeed writes for a norm that is not finite.
pub const OVERFLOWED: f64 = -1.0;

/// Where norms come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// The log.
    Log,
    /// Gradient dumps.
    Dumps,
    /// Second moments of the optimizer (I4, I5): means over many steps, after clipping.
    OptimizerState,
    /// Nothing of a run says how large its gradients were.
    Nothing,
}

/// One step.
#[derive(Debug, Clone, PartialEq)]
pub struct Point {
    /// The step.
    pub step: u64,
    /// Its norm: finite and above 0.
    pub norm: f64,
    /// Its loss, where it was logged and is finite.
    pub loss: Option<f64>,
    /// What was usual before it, where it is a spike.
    pub usual: Option<f64>,
    /// Norms of the tensors, in the order of [`Series::tensors`]; empty where they are not all known.
    pub tensors: Vec<f64>,
}

/// The norms of a run by step.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    /// Where they are from.
    pub source: Source,
    /// The usable ones.
    pub points: Vec<Point>,
    /// Steps whose norm is NaN, infinite, or `OVERFLOWED`.
    pub non_finite: u64,
    /// Steps whose norm is 0, or was logged as 0 without being measured.
    pub zeros: u64,
    /// Names and sizes of the tensors whose norms are known at every step; empty where there are none. A size is 0 where it is
    /// not known.
    pub tensors: Vec<(String, u64)>,
}

/// The norms of the log; of the dumps, where the log has fewer than they.
pub fn collect(analysis: &Analysis) -> Series {
    let logged = analysis.log.as_ref().map(of_log);
    let dumped = (!analysis.dumps.is_empty()).then(|| of_dumps(&analysis.dumps));
    match (logged, dumped) {
        (Some(log), Some(dumps)) if dumps.points.len() > log.points.len() => dumps,
        (Some(log), _) => log,
        (None, Some(dumps)) => dumps,
        (None, None) => Series {
            source: Source::Nothing,
            points: Vec::new(),
            non_finite: 0,
            zeros: 0,
            tensors: Vec::new(),
        },
    }
}

fn of_log(log: &LogAnalysis) -> Series {
    let mut series = Series {
        source: Source::Log,
        points: Vec::new(),
        non_finite: 0,
        zeros: log.semantics.unmeasured_zeros,
        tensors: tensors_of(log),
    };
    for point in log.points.iter().filter(|point| !point.skipped) {
        let Some(Number(norm)) = point.grad_norm else { continue };
        let tensors = norms_of(point, &series.tensors);
        series.push(point.step, norm, point.loss.and_then(Number::finite), tensors);
    }
    series.finish()
}

/// The tensors that every point with norms by layer has.
fn tensors_of(log: &LogAnalysis) -> Vec<(String, u64)> {
    let mut with_layers = log.points.iter().filter(|point| !point.grad_norm_by_layer.is_empty());
    let first: BTreeMap<&String, &Number> =
        with_layers.next().map(|point| point.grad_norm_by_layer.iter().collect()).unwrap_or_default();
    first.into_keys().map(|name| (name.clone(), 0)).collect()
}

fn norms_of(point: &LogPoint, tensors: &[(String, u64)]) -> Vec<f64> {
    let norm = |(name, _): &(String, u64)| point.grad_norm_by_layer.get(name).and_then(|norm| norm.finite());
    tensors.iter().map(norm).collect::<Option<Vec<f64>>>().unwrap_or_default()
}

fn of_dumps(dumps: &[DumpAnalysis]) -> Series {
    let tensors = dumps.first().map(|dump| {
        dump.tensors.iter().map(|tensor| (tensor.canonical_name.clone(), tensor.elements)).collect()
    });
    let mut series = Series {
        source: Source::Dumps,
        points: Vec::new(),
        non_finite: 0,
        zeros: 0,
        tensors: tensors.unwrap_or_default(),
    };
    for dump in dumps.iter().filter(|dump| dump.clipped != Some(true)) {
        if dump.tensors.iter().any(|tensor| tensor.non_finite > 0) {
            series.non_finite += 1;
            continue;
        }
        let Measured::Value(norm) = dump.norm else { continue };
        let norms: BTreeMap<&str, f64> = dump
            .tensors
            .iter()
            .filter_map(|tensor| Some((tensor.canonical_name.as_str(), *tensor.norm.value()?)))
            .collect();
        let own = series.tensors.iter().map(|(name, _)| norms.get(name.as_str()).copied());
        let own = own.collect::<Option<Vec<f64>>>().unwrap_or_default();
        series.push(dump.step, norm, None, own);
    }
    series.finish()
}

impl Series {
    fn push(&mut self, step: u64, norm: f64, loss: Option<f64>, tensors: Vec<f64>) {
        if !norm.is_finite() || norm == OVERFLOWED {
            self.non_finite += 1;
        } else if norm < 0.0 {
            // No norm at all: what it is the recommendation asks.
        } else if norm == 0.0 {
            self.zeros += 1;
        } else {
            let whole = tensors.iter().map(|norm| norm * norm).sum::<f64>().sqrt();
            let complete = (whole - norm).abs() <= SAME_NORM * norm;
            let tensors = if complete { tensors } else { Vec::new() };
            self.points.push(Point { step, norm, loss, usual: None, tensors });
        }
    }

    /// Marks the spikes, and forgets the tensors where a step lacks their norms.
    fn finish(mut self) -> Self {
        let norms: Vec<f64> = self.points.iter().map(|point| point.norm).collect();
        for (point, usual) in self.points.iter_mut().zip(spikes(&norms, SPIKE_Z, SPIKE_RATIO)) {
            point.usual = usual;
        }
        if self.points.iter().any(|point| point.tensors.is_empty()) {
            self.tensors.clear();
            self.points.iter_mut().for_each(|point| point.tensors.clear());
        }
        self
    }
}
