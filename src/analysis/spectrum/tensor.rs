//! The spectrum of one tensor: what kind of map it is, and which measurement that takes.

use super::choice::{self, On};
use super::geometry::Stated;
use super::{convolution_norm, device, recurrence};
use crate::analysis::model::{
    Degenerate, MeasureLevel, Measured, Role, Section, Spectrum, SpectrumOf, SpectrumPart, TensorAnalysis,
};
use crate::analysis::statistics::STOPPED;
use crate::compute::{Cpu, Matrix};
use crate::context::Context;
use crate::error::Result;
use crate::tensor::{DType, Kind, Tensor};

/// Largest recurrence whose radius is computed: 26 products of n×n matrices. Of several gates it is the multiplications of all of them that count.
const LARGEST_RECURRENCE: u64 = 1024;

/// The gates of LSTM and of GRU in the order in which PyTorch stacks them.
const LSTM_GATES: [&str; 4] = ["i", "f", "g", "o"];
const GRU_GATES: [&str; 3] = ["r", "z", "n"];

/// Exponents of elements whose squares and sums of squares are safe in f64.
const SAFE: std::ops::Range<f64> = 1e-100..1e100;

/// What is known about a tensor beside its elements.
pub(super) struct Subject<'a> {
    pub analysis: &'a TensorAnalysis,
    pub tensor: &'a Tensor,
    /// Parts that are stored as one matrix, with their rows and columns.
    pub parts: Vec<(&'static str, Matrix<'a>)>,
    /// What is known of its geometry, where it is a convolution.
    pub geometry: Stated,
    /// The eigenvalues of the Gram matrix of [`as_matrix`], where a GPU had them with those of other tensors.
    pub eigenvalues: Option<&'a [f64]>,
}

/// Why no spectrum is measured for a tensor; `None` where one is.
pub(super) fn reason(analysis: &TensorAnalysis) -> Option<Measured<Spectrum>> {
    if let Measured::NotMeasured(reason) = &analysis.statistics {
        return Some(Measured::not(reason.clone()));
    }
    if let Measured::Degenerate(kind) = &analysis.statistics {
        return Some(Measured::Degenerate(*kind));
    }
    if !matches!(analysis.section, Section::Model | Section::Average) {
        return Some(Measured::not("no part of the model"));
    }
    if analysis.dtype.is_none_or(|dtype| dtype.kind() != Kind::Float) {
        return Some(Measured::not("counts and indices map nothing"));
    }
    if analysis.elements == 0 {
        return Some(Measured::Degenerate(Degenerate::Empty));
    }
    let is_map = !matches!(analysis.role, Role::NormGain | Role::NormBias | Role::Bias | Role::Buffer);
    if analysis.shape.len() < 2 || !is_map {
        return Some(Measured::not("no map: a vector, a bias or a buffer"));
    }
    let statistics = analysis.statistics.value()?;
    match statistics.non_finite() {
        0 => None,
        count => Some(Measured::not(format!("{count} elements are not finite"))),
    }
}

fn is_convolution(analysis: &TensorAnalysis) -> bool {
    analysis.role == Role::Convolution && analysis.shape.len() > 2
}

fn is_stack_of_experts(analysis: &TensorAnalysis) -> bool {
    analysis.role == Role::Expert && analysis.shape.len() == 3
}

/// The tensor as one matrix, for whose elements squares are safe.
pub(super) fn as_matrix<'a>(analysis: &TensorAnalysis, tensor: &'a Tensor) -> Matrix<'a> {
    Matrix::new(tensor).scaled(scale(analysis))
}

/// At which depth [`measure`] measures [`as_matrix`]; `None` where it does not.
pub(super) fn depth_as_matrix(
    analysis: &TensorAnalysis,
    tensor: &Tensor,
    level: MeasureLevel,
) -> Option<MeasureLevel> {
    let (_, repeats) = tensor.without_repeats();
    if repeats > 1 || is_stack_of_experts(analysis) {
        return None;
    }
    // Beside a convolution stands what its unfolded kernel does.
    Some(if is_convolution(analysis) { MeasureLevel::Spectra } else { level })
}

/// Measures a tensor for which there is no [`reason`] not to.
///
/// # Errors
/// A file that cannot be read.
pub(super) fn measure(
    subject: &Subject<'_>,
    level: MeasureLevel,
    context: &Context,
) -> Result<Measured<Spectrum>> {
    let (analysis, tensor) = (subject.analysis, subject.tensor);
    let (_, repeats) = tensor.without_repeats();
    if repeats > 1 {
        return Ok(Measured::not("an expanded view repeats its elements by construction"));
    }
    if is_convolution(analysis) {
        return convolution_norm::measure(subject, level, context);
    }
    if is_stack_of_experts(analysis) {
        return experts(&analysis.name, tensor, level, context);
    }
    let whole = as_matrix(analysis, tensor);
    let mut spectrum = of_matrix(&analysis.name, &whole, subject.eigenvalues, level, context)?;
    if let Measured::Value(spectrum) = &mut spectrum {
        for (name, part) in &subject.parts {
            spectrum.parts.extend(measure_part(&analysis.name, (*name).to_owned(), part, context)?);
        }
        if analysis.role == Role::RecurrentHidden && is_square(&analysis.shape) {
            spectrum.spectral_radius = radius(&whole, analysis.shape[0], 1)?;
        }
        for (name, gate) in gates(analysis).iter().zip(0..) {
            let side = analysis.shape[1];
            let own = whole.clone().with_rows(std::iter::once(gate * side..(gate + 1) * side).collect());
            spectrum.parts.extend(measure_gate(analysis, name, &own, context)?);
        }
    }
    Ok(spectrum)
}

fn is_square(shape: &[u64]) -> bool {
    matches!(shape, [rows, columns] if rows == columns)
}

/// The gates whose square matrices are stacked in this one: the shape tells how many.
fn gates(analysis: &TensorAnalysis) -> &'static [&'static str] {
    let [rows, columns] = analysis.shape[..] else { return &[] };
    match rows.checked_div(columns) {
        _ if analysis.role != Role::RecurrentHidden || !rows.is_multiple_of(columns) => &[],
        Some(4) => &LSTM_GATES,
        Some(3) => &GRU_GATES,
        _ => &[],
    }
}

fn measure_gate(
    analysis: &TensorAnalysis,
    name: &str,
    gate: &Matrix<'_>,
    context: &Context,
) -> Result<Option<SpectrumPart>> {
    let part = measure_part(&analysis.name, name.to_owned(), gate, context)?;
    let Some(mut part) = part else { return Ok(None) };
    part.spectral_radius = radius(gate, analysis.shape[1], gates(analysis).len() as u64)?;
    Ok(Some(part))
}

/// A power of two that brings the elements near 1, where their squares would leave the range of f64.
fn scale(analysis: &TensorAnalysis) -> f64 {
    let most = analysis.statistics.value().and_then(|statistics| statistics.max_abs.value().copied());
    match most {
        Some(most) if analysis.dtype == Some(DType::F64) && most > 0.0 && !SAFE.contains(&most) => {
            2f64.powi((-most.log2().floor()).clamp(-1000.0, 1000.0) as i32)
        }
        _ => 1.0,
    }
}

/// The spectrum of a matrix, on the device that was chosen; `name` is the tensor's, and `eigenvalues` are those of its Gram matrix where
/// they are known.
pub(super) fn of_matrix(
    name: &str,
    matrix: &Matrix<'_>,
    eigenvalues: Option<&[f64]>,
    level: MeasureLevel,
    context: &Context,
) -> Result<Measured<Spectrum>> {
    if choice::route(On::Processor, level, matrix.row_count(), matrix.column_count()).is_none() {
        return Ok(Measured::not("needs --measure spectra"));
    }
    let measured = device::measure(name, matrix, eigenvalues, level, context)?;
    Ok(measured.unwrap_or_else(|| Measured::not(STOPPED)))
}

/// Norms of a part of a matrix, by the cheapest route; none of a part of zeros.
fn measure_part(
    tensor: &str,
    name: String,
    part: &Matrix<'_>,
    context: &Context,
) -> Result<Option<SpectrumPart>> {
    let measured = of_matrix(tensor, part, None, MeasureLevel::Spectra, context)?;
    Ok(measured.value().map(|spectrum| SpectrumPart {
        name,
        rows: spectrum.rows,
        columns: spectrum.columns,
        spectral_norm: spectrum.spectral_norm.clone(),
        frobenius_norm: spectrum.frobenius_norm,
        stable_rank: spectrum.stable_rank,
        spectral_radius: Measured::not("no square recurrence"),
    }))
}

/// ρ of a matrix of `side` rows and columns, one of `count` that are asked for.
fn radius(matrix: &Matrix<'_>, side: u64, count: u64) -> Result<Measured<f64>> {
    let largest = (1..=LARGEST_RECURRENCE).rev().find(|n| n.pow(3) * count <= LARGEST_RECURRENCE.pow(3));
    let largest = largest.unwrap_or(1);
    if side > largest {
        return Ok(Measured::not(format!("{side} units, more than {largest}")));
    }
    let radius = recurrence::spectral_radius(&Cpu, &matrix.to_dense()?, side as usize)?;
    Ok(Measured::Value(radius / matrix.scale()))
}

/// Experts stacked in one tensor are a population: each is a part, and the whole is the map that sends each its own input.
fn experts(
    name: &str,
    tensor: &Tensor,
    level: MeasureLevel,
    context: &Context,
) -> Result<Measured<Spectrum>> {
    let [count, rows, columns] = tensor.shape[..] else { return Ok(Measured::not("not a stack of experts")) };
    let folded = Tensor { shape: vec![count * rows, columns], ..tensor.clone() };
    let mut whole: Option<Spectrum> = None;
    let mut parts = Vec::new();
    let rows_of = |expert: u64| std::iter::once(expert * rows..(expert + 1) * rows).collect();
    let matrices: Vec<_> =
        (0..count).map(|expert| (Matrix::new(&folded).with_rows(rows_of(expert)), level)).collect();
    let eigenvalues = device::of_many(&matrices, context);
    for (expert, ((matrix, _), eigenvalues)) in matrices.iter().zip(&eigenvalues).enumerate() {
        if context.cancelled() {
            return Ok(Measured::not(STOPPED));
        }
        let spectrum = match of_matrix(name, matrix, eigenvalues.as_deref(), level, context)? {
            Measured::Value(spectrum) => spectrum,
            Measured::Degenerate(Degenerate::AllZero) => continue,
            other => return Ok(other),
        };
        parts.push(SpectrumPart {
            name: format!("expert {expert}"),
            rows,
            columns,
            spectral_norm: spectrum.spectral_norm.clone(),
            frobenius_norm: spectrum.frobenius_norm,
            stable_rank: spectrum.stable_rank,
            spectral_radius: Measured::not("no square recurrence"),
        });
        let larger =
            whole.as_ref().is_none_or(|whole| whole.spectral_norm.value < spectrum.spectral_norm.value);
        if larger {
            whole = Some(spectrum);
        }
    }
    let Some(mut whole) = whole else { return Ok(Measured::Degenerate(Degenerate::AllZero)) };
    let squares: f64 = parts.iter().map(|part| part.frobenius_norm.powi(2)).sum();
    let reason = "the experts are reported one by one";
    whole.of = SpectrumOf::Experts;
    (whole.rows, whole.columns) = (count * rows, count * columns);
    whole.frobenius_norm = squares.sqrt();
    whole.stable_rank = squares / whole.spectral_norm.value.powi(2);
    whole.keep_the_largest(reason);
    whole.parts = parts;
    Ok(Measured::Value(whole))
}
