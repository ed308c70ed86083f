//! Whether spikes are of a few tensors, so that clipping these alone would hold them.
//!
//! From the norms of tensors at each spike, or, where there are none, from the energy of intervals between checkpoints (I4). The
//! energy of a spike in a tensor is what its squared norm is above its usual one.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::series::Series;
use crate::analysis::model::{IntervalAnalysis, TensorInterval};
use crate::robust::median;

/// Share of the energy of spikes that has to be of [`FEW`] tensors (section 2.4).
pub const CONCENTRATED: f64 = 0.8;

/// See [`CONCENTRATED`].
pub const FEW: usize = 2;

/// Gradient of an interval over its trailing median from which it holds a spike (`FP704`).
const INTERVAL_SPIKE: f64 = 3.0;

/// Where the energy of spikes is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Concentration {
    /// What it was measured on: spikes in the series, or intervals between checkpoints.
    pub measured_on: String,
    /// Share of the two tensors with the most.
    pub share: f64,
    /// The tensors, most energy first.
    pub tensors: Vec<TensorEnergy>,
}

/// One tensor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct TensorEnergy {
    /// Its name.
    pub name: String,
    /// Its share of the energy of all spikes.
    pub share: f64,
    /// Its usual norm.
    pub usual: f64,
    /// The norm to clip it to, where the energy is in a few tensors and this is one of them.
    pub threshold: Option<f64>,
}

/// Where the energy of spikes is; a sentence where that cannot be said. `multiple` is the threshold over the median.
pub fn concentration(
    series: &Series,
    intervals: &[IntervalAnalysis],
    multiple: f64,
) -> Result<Concentration, String> {
    let spikes: Vec<&Vec<f64>> =
        series.points.iter().filter(|point| point.usual.is_some()).map(|point| &point.tensors).collect();
    if !series.tensors.is_empty() && !spikes.is_empty() {
        let energies = series.tensors.iter().enumerate().map(|(at, (name, _))| {
            let usual = median(series.points.iter().map(|point| point.tensors[at])).unwrap_or_default();
            let energy = spikes.iter().map(|norms| (norms[at].powi(2) - usual.powi(2)).max(0.0)).sum();
            (name.clone(), energy, usual)
        });
        return finish("the norms of tensors at each spike", energies.collect(), multiple);
    }
    if intervals.is_empty() {
        let missing = if series.tensors.is_empty() { "no norms of single tensors" } else { "no spike" };
        return Err(format!(
            "the record has {missing}, and there are no two checkpoints with optimizer state"
        ));
    }
    by_interval(intervals, multiple)
}

fn by_interval(intervals: &[IntervalAnalysis], multiple: f64) -> Result<Concentration, String> {
    let ratio = |tensor: &TensorInterval| tensor.gradient_ratio.value().copied().unwrap_or_default();
    let norm = |tensor: &TensorInterval| tensor.gradient_norm.value().copied();
    let mut usual: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for tensor in intervals.iter().flat_map(|interval| &interval.tensors) {
        usual.entry(&tensor.canonical_name).or_default().extend(norm(tensor));
    }
    let usual: BTreeMap<&str, f64> =
        usual.into_iter().filter_map(|(name, norms)| Some((name, median(norms)?))).collect();
    let spiked = intervals
        .iter()
        .filter(|interval| interval.tensors.iter().any(|tensor| ratio(tensor) >= INTERVAL_SPIKE));
    let mut energies: BTreeMap<&str, f64> = BTreeMap::new();
    for tensor in spiked.flat_map(|interval| &interval.tensors) {
        let name = tensor.canonical_name.as_str();
        if let (Some(norm), Some(usual)) = (norm(tensor), usual.get(name)) {
            let steps = tensor.steps.value().copied().unwrap_or(1.0);
            *energies.entry(name).or_default() += steps * (norm.powi(2) - usual.powi(2)).max(0.0);
        }
    }
    if energies.is_empty() {
        return Err("no interval between checkpoints holds a spike".to_owned());
    }
    let energies =
        energies.into_iter().map(|(name, energy)| (name.to_owned(), energy, usual[name])).collect();
    finish("the energy of gradients between checkpoints", energies, multiple)
}

fn finish(
    measured_on: &str,
    mut energies: Vec<(String, f64, f64)>,
    multiple: f64,
) -> Result<Concentration, String> {
    let whole: f64 = energies.iter().map(|(_, energy, _)| energy).sum();
    if whole <= 0.0 || !whole.is_finite() {
        return Err("no tensor's gradient was above its usual norm at a spike".to_owned());
    }
    energies.sort_by(|one, other| other.1.total_cmp(&one.1).then_with(|| one.0.cmp(&other.0)));
    let share = energies.iter().take(FEW).map(|(_, energy, _)| energy).sum::<f64>() / whole;
    // Of two tensors the energy is always in two.
    let is_concentrated = share >= CONCENTRATED && energies.len() > FEW;
    let tensors = energies.into_iter().enumerate().map(|(at, (name, energy, usual))| TensorEnergy {
        name,
        share: energy / whole,
        usual,
        threshold: (is_concentrated && at < FEW && energy >= (1.0 - CONCENTRATED) / FEW as f64 * whole)
            .then_some(multiple * usual),
    });
    Ok(Concentration { measured_on: measured_on.to_owned(), share, tensors: tensors.collect() })
}
