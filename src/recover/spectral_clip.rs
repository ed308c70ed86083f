//! Spectral clip: a map times limit/σ₁, where σ₁ may be above the limit.

use std::collections::BTreeMap;

use super::edit::{Action, Edit, Operation, TensorEdit};
use crate::analysis::model::{CheckpointAnalysis, SpectralNorm};
use crate::checkpoint::Checkpoint;
use crate::number::{counted, short};
use crate::tensor::DType;

/// The edit that brings every map, by its index, to its limit; `None` where all are within theirs.
///
/// # Errors
/// As a sentence: when the singular values of one were not measured.
pub(super) fn edit(
    checkpoint: &Checkpoint,
    measured: &CheckpointAnalysis,
    limits: &BTreeMap<usize, f64>,
) -> Result<Option<Edit>, String> {
    let (mut tensors, mut why) = (Vec::new(), Vec::new());
    for (&index, &limit) in limits {
        let analysis = &measured.tensors[index];
        let spectrum = analysis.spectrum.value();
        let norm = &spectrum
            .ok_or_else(|| format!("the singular values of {} were not measured", analysis.name))?
            .spectral_norm;
        let largest = at_most(norm);
        if largest <= limit {
            continue;
        }
        let factor = limit / (largest * (1.0 + margin(analysis.dtype)));
        let tensor = &checkpoint.tensors[index];
        let file = tensor.file.map_or_else(String::new, |file| checkpoint.files[file].name.clone());
        let operation = Operation::Scale { factor, limit };
        tensors.push(TensorEdit { tensor: tensor.name.clone(), file, operation, index });
        why.push(format!("{} had sigma_1 {} (limit {})", analysis.name, short(norm.value), short(limit)));
    }
    if tensors.is_empty() {
        return Ok(None);
    }
    let maps = counted(tensors.len() as u64, "map");
    Ok(Some(Edit {
        action: Action::SpectralClip,
        what: format!("scale {maps} down to the largest singular value asked for"),
        why,
        changes_function: true,
        tensors,
        numbers: Vec::new(),
        added: Vec::new(),
    }))
}

/// What σ₁ is at most, as far as that was measured; its best value otherwise.
pub(super) fn at_most(norm: &SpectralNorm) -> f64 {
    norm.upper.value().copied().unwrap_or(norm.value).max(norm.value)
}

/// By how much a map is brought below its limit, so that rounding each element to the stored dtype does not bring it back: twice
/// the unit roundoff, for the elements and for the measurement.
fn margin(dtype: Option<DType>) -> f64 {
    let unit = dtype.and_then(DType::unit_roundoff).unwrap_or(f64::from(f32::EPSILON) / 2.0);
    2.0 * unit
}
