//! The spectra of a whole checkpoint: every tensor once, then the layers that several tensors make up.

use std::collections::HashMap;

use super::attention;
use super::device;
use super::geometry::Evidence;
use super::layout::Attention;
use super::tensor::{self, Subject};
use super::{adapter, tensor::measure};
use crate::analysis::device::chosen;
use crate::analysis::model::{
    AdapterAnalysis, AttentionAnalysis, MeasureLevel, Measured, Spectrum, TensorAnalysis,
};
use crate::checkpoint::Checkpoint;
use crate::context::Context;
use crate::error::Error;
use crate::parallel;

/// The spectrum of a tensor, and the file that failed on the way.
type Outcome = (Measured<Spectrum>, Option<Error>);

/// Matrices that are measured on a GPU at once where only their largest values are: while one waits for a few numbers to come back, or is
/// copied into page-locked buffers, the device has another's kernels. All singular values take memory that is better not shared. Threads;
/// enough to cover a wait of as long as the kernels; other numbers were not tried.
const LANES: usize = 3;

const NEEDS_SPECTRA: &str = "needs --measure spectra";

/// What layers of several tensors do, and what could not be read.
pub struct Layers {
    /// Attention, head by head.
    pub attention: Measured<Vec<AttentionAnalysis>>,
    /// Low-rank adapters.
    pub adapters: Measured<Vec<AdapterAnalysis>>,
    /// Files that failed on the way.
    pub errors: Vec<Error>,
}

/// Gives every tensor of `analyses`, which are those of `checkpoint` in order, its spectrum.
pub fn measure_all(
    checkpoint: &Checkpoint,
    analyses: &mut [TensorAnalysis],
    level: MeasureLevel,
    context: &Context,
) -> Layers {
    if level < MeasureLevel::Spectra {
        for analysis in analyses.iter_mut() {
            analysis.spectrum = Measured::not(NEEDS_SPECTRA);
        }
        let attention = Measured::not(NEEDS_SPECTRA);
        return Layers { attention, adapters: Measured::not(NEEDS_SPECTRA), errors: Vec::new() };
    }
    let elements = analyses.iter().filter(|analysis| is_measured(analysis)).map(|analysis| analysis.elements);
    let context = &device::settled(elements.fold(0, u64::saturating_add), context);
    let layers = Attention::find(checkpoint);
    let evidence = Evidence::of(checkpoint.config.as_ref(), analyses, context);
    let spectrum_of = |index: usize, analysis: &TensorAnalysis, eigenvalues: Option<&[f64]>| {
        let Ok(stored) = &checkpoint.tensors[index].tensor else {
            let reason =
                tensor::reason(analysis).unwrap_or_else(|| Measured::not("the tensor cannot be read"));
            return (reason, None);
        };
        if let Some(reason) = tensor::reason(analysis) {
            return (reason, None);
        }
        if let Some(name) = &analysis.tied_to {
            return (Measured::not(format!("tied to {name}")), None);
        }
        let subject = Subject {
            analysis,
            tensor: stored,
            parts: attention::parts(layers.as_deref().unwrap_or_default(), index, stored),
            geometry: evidence.stated(analysis),
            eigenvalues,
        };
        context.progress.begin(&analysis.name);
        let measured = measure(&subject, level, context);
        context.progress.advance(stored.byte_count());
        match measured {
            Ok(spectrum) => (spectrum, None),
            Err(error) => (Measured::not(error.kind.to_string()), Some(error.for_tensor(&analysis.name))),
        }
    };
    let has_own = |index: &usize| is_measured(&analyses[*index]) && checkpoint.tensors[*index].tensor.is_ok();
    let sizes = (0..analyses.len()).filter(has_own);
    let sizes = sizes.filter_map(|index| Some(checkpoint.tensors[index].tensor.as_ref().ok()?.byte_count()));
    context.progress.expect_tensors(sizes.clone().count());
    context.progress.expect(sizes.fold(0, u64::saturating_add));
    // What goes to a GPU goes there from a few threads: there is one device, and one stream to it.
    let has_device = (0..analyses.len()).any(|index| has_own(&index)) && chosen(context).is_some();
    let (given, kept): (Vec<usize>, Vec<usize>) =
        (0..analyses.len()).partition(|index| has_device && has_own(index));
    let lanes = if level == MeasureLevel::Spectra { LANES } else { 1 };
    let all = &*analyses;
    let on_device = || {
        let together = together(checkpoint, all, &given, level, context);
        let one =
            |index: usize| (index, spectrum_of(index, &all[index], together.get(&index).map(Vec::as_slice)));
        let lane = |first: usize| given.iter().copied().skip(first).step_by(lanes);
        parallel::map_indices(lanes, |first| lane(first).map(one).collect::<Vec<_>>()).concat()
    };
    let on_processor = || parallel::map(&kept, |&index| (index, spectrum_of(index, &all[index], None)));
    let (given, kept) = rayon::join(on_device, on_processor);
    let mut measured: Vec<(usize, Outcome)> = given;
    measured.extend(kept);
    measured.sort_by_key(|(index, _)| *index);
    let measured = measured.into_iter().map(|(_, measured)| measured);
    let mut errors = Vec::new();
    for (analysis, (spectrum, error)) in analyses.iter_mut().zip(measured) {
        analysis.spectrum = spectrum.map(Box::new);
        errors.extend(error);
    }
    copy_ties(analyses);
    let attention = match layers {
        Ok(layers) => attention::measure_all(checkpoint, &layers, analyses, context, &mut errors),
        Err(reason) => Measured::not(reason),
    };
    let adapters = adapter::measure_all(checkpoint, analyses, context, &mut errors);
    Layers { attention, adapters, errors }
}

/// Whether a tensor gets a spectrum of its own.
fn is_measured(analysis: &TensorAnalysis) -> bool {
    analysis.tied_to.is_none() && tensor::reason(analysis).is_none()
}

/// Of these tensors, which are given to a GPU, those whose spectra come from a small Gram matrix, and its eigenvalues.
fn together(
    checkpoint: &Checkpoint,
    analyses: &[TensorAnalysis],
    indices: &[usize],
    level: MeasureLevel,
    context: &Context,
) -> HashMap<usize, Vec<f64>> {
    let matrix_of = |index: usize| {
        let (analysis, tensor) = (&analyses[index], checkpoint.tensors[index].tensor.as_ref().ok()?);
        let depth = tensor::depth_as_matrix(analysis, tensor, level)?;
        Some((index, (tensor::as_matrix(analysis, tensor), depth)))
    };
    let (indices, matrices): (Vec<usize>, Vec<_>) = indices.iter().copied().filter_map(matrix_of).unzip();
    let eigenvalues = device::of_many(&matrices, context);
    indices.into_iter().zip(eigenvalues).filter_map(|(index, found)| Some((index, found?))).collect()
}

fn copy_ties(analyses: &mut [TensorAnalysis]) {
    let found: HashMap<String, usize> =
        analyses.iter().enumerate().map(|(index, analysis)| (analysis.name.clone(), index)).collect();
    for index in 0..analyses.len() {
        let Some(source) = analyses[index].tied_to.as_ref().and_then(|name| found.get(name)).copied() else {
            continue;
        };
        analyses[index].spectrum = analyses[source].spectrum.clone();
    }
}
