//! QK-clip: the queries and keys of heads whose logits are too large, scaled so that they are not.
//!
//! For head h with largest expected logit S the product of queries and keys is multiplied by γ = min(1, τ/S). S is that of T independent
//! normal logits, s·√(2·ln T), with s the standard deviation that the weights alone give; measured activations would be better
//! and are not kept. Keys of a group take √γ of its smallest γ, queries the rest, so that heads within the limit stay what
//! they are (Kimi K2, arXiv:2507.20534, with its α = ½).

use super::edit::{Action, Edit, Operation, ScaledRange, TensorEdit};
use super::plan::QkLimit;
use crate::analysis::model::{AttentionAnalysis, CheckpointAnalysis};
use crate::analysis::spectrum::AttentionRows;
use crate::checkpoint::Checkpoint;
use crate::number::short;

/// By how much a head is brought below its limit, so that rounding to the stored dtype does not bring it back.
const MARGIN: f64 = 1e-4;

/// The edit that brings every head to `limit`; `None` where all are within it.
///
/// # Errors
/// As a sentence: when heads cannot be told apart, or scaling the projections would not change the logits.
pub(super) fn edit(
    checkpoint: &Checkpoint,
    measured: &CheckpointAnalysis,
    limit: QkLimit,
) -> Result<Option<Edit>, String> {
    let layers = AttentionRows::of(checkpoint)?;
    let found = measured.attention.value().ok_or("the attention heads were not measured")?;
    if layers.is_empty() || found.is_empty() {
        return Err("no attention layer whose queries and keys could be told apart by the config".to_owned());
    }
    let mut tensors = Vec::new();
    let mut why = Vec::new();
    for analysis in found {
        let Some(layer) = layers.iter().find(|layer| layer.layer == analysis.layer) else { continue };
        let Some(factors) = factors(analysis, limit)? else { continue };
        if analysis.normalises_queries {
            return Err(format!(
                "{} normalises its queries and keys: scaling the projections does not change its logits",
                analysis.layer
            ));
        }
        let (worst, gamma) = factors
            .iter()
            .copied()
            .enumerate()
            .fold((0, 1.0), |worst, (head, gamma)| if gamma < worst.1 { (head, gamma) } else { worst });
        why.push(format!(
            "head {worst} of {} gives logits of standard deviation {}: its queries and keys times {} together",
            analysis.layer,
            short(analysis.heads[worst].logit_std),
            short(gamma),
        ));
        scale(checkpoint, layer, &factors, &mut tensors);
    }
    if tensors.is_empty() {
        return Ok(None);
    }
    Ok(Some(Edit {
        action: Action::QkClip,
        what: format!("scale queries and keys of {} attention layers", why.len()),
        why,
        changes_function: true,
        tensors,
        numbers: Vec::new(),
        added: Vec::new(),
    }))
}

/// γ of each head; `None` where all are 1.
fn factors(layer: &AttentionAnalysis, limit: QkLimit) -> Result<Option<Vec<f64>>, String> {
    let context = layer
        .context
        .ok_or_else(|| format!("the config does not say how long the context of {} is", layer.layer))?;
    let condensation = 2.0 * (context as f64).ln();
    let limit = match limit {
        QkLimit::Condensation => condensation,
        QkLimit::Logit(limit) => limit,
    };
    let gamma = |std: f64| {
        let largest = std * condensation.sqrt();
        if largest > limit { (1.0 - MARGIN) * limit / largest } else { 1.0 }
    };
    let factors: Vec<f64> = layer.heads.iter().map(|head| gamma(head.logit_std)).collect();
    Ok(factors.iter().any(|gamma| *gamma < 1.0).then_some(factors))
}

/// Adds what the factors do to the projections of one layer.
fn scale(checkpoint: &Checkpoint, layer: &AttentionRows, gammas: &[f64], tensors: &mut Vec<TensorEdit>) {
    let group = |head: usize| &layer.heads[head].1;
    // Of the heads that share their keys, the smallest γ.
    let shared = |head: usize| {
        let same = (0..gammas.len()).filter(|&other| group(other) == group(head));
        same.map(|other| gammas[other]).fold(1.0, f64::min)
    };
    let mut queries = Vec::new();
    let mut keys: Vec<ScaledRange> = Vec::new();
    for (head, gamma) in gammas.iter().enumerate() {
        let (query, key) = &layer.heads[head];
        let root = shared(head).sqrt();
        let range =
            |rows: &std::ops::Range<u64>, factor| ScaledRange { from: rows.start, to: rows.end, factor };
        queries.push(range(query, gamma / root));
        if !keys.iter().any(|known| known.from == key.start) {
            keys.push(range(key, root));
        }
    }
    let mut add = |index: Option<usize>, axis: usize, mut ranges: Vec<ScaledRange>| {
        ranges.retain(|range| range.factor != 1.0);
        let Some(index) = index.filter(|_| !ranges.is_empty()) else { return };
        let tensor = &checkpoint.tensors[index];
        let file = tensor.file.map_or_else(String::new, |file| checkpoint.files[file].name.clone());
        let operation = Operation::ScaleRanges { axis, ranges };
        tensors.push(TensorEdit { tensor: tensor.name.clone(), file, operation, index });
    };
    let axis = usize::from(layer.transposed);
    if layer.query == layer.key {
        let both = [queries, keys].concat();
        add(Some(layer.query), axis, both.clone());
        add(layer.query_bias, 0, both);
    } else {
        add(Some(layer.query), axis, queries.clone());
        add(layer.query_bias, 0, queries);
        add(Some(layer.key), axis, keys.clone());
        add(layer.key_bias, 0, keys);
    }
}
