//! The spectrum of one tensor: what kind of map it is, and which measurement that takes.

use super::choice::{self, On};
use super::convolution::{Convolution, Geometry};
use super::matrix::{self, SEED};
use super::{bracket, device, lanczos, recurrence};
use crate::analysis::model::{
    ConvolutionSetting, Degenerate, MeasureLevel, Measured, Role, Section, Spectrum, SpectrumMethod,
    SpectrumOf, SpectrumPart, TensorAnalysis,
};
use crate::analysis::statistics::STOPPED;
use crate::compute::{Cpu, Matrix};
use crate::context::Context;
use crate::error::Result;
use crate::random::Stream;
use crate::tensor::{DType, Kind, Tensor, saturating_count};

/// Multiplications that a convolution may take unless everything is asked for: about a second.
const CHEAP: u64 = 4_000_000_000;

/// Pairs of an output place and a tap, 256 MB.
const LARGEST_GEOMETRY: u64 = 1 << 25;

/// Numbers of the shorter of input and output, of which some 50 are kept: 256 MB.
const LARGEST_KEPT: u64 = 1 << 19;

/// Numbers of the longer.
const LARGEST_VECTOR: u64 = 1 << 23;

/// Side of the input where none is told: large enough for most kernels to have their value of large inputs.
const CIRCULAR_SIDE: usize = 16;

/// Largest recurrence whose radius is computed: 26 products of n×n matrices.
const LARGEST_RECURRENCE: u64 = 1024;

/// Exponents of elements whose squares and sums of squares are safe in f64.
const SAFE: std::ops::Range<f64> = 1e-100..1e100;

/// What is known about a tensor beside its elements.
pub(super) struct Subject<'a> {
    pub analysis: &'a TensorAnalysis,
    pub tensor: &'a Tensor,
    /// Parts that are stored as one matrix, with their rows and columns.
    pub parts: Vec<(&'static str, Matrix<'a>)>,
    /// A convolution that comes after another, so that a single input channel means one filter a channel.
    pub is_depthwise: bool,
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

/// Measures a tensor for which there is no [`reason`] not to.
///
/// # Errors
/// A file that cannot be read.
pub(super) fn measure(
    subject: &Subject<'_>,
    level: MeasureLevel,
    input: &[u64],
    context: &Context,
) -> Result<Measured<Spectrum>> {
    let (analysis, tensor) = (subject.analysis, subject.tensor);
    let (_, repeats) = tensor.without_repeats();
    if repeats > 1 {
        return Ok(Measured::not("an expanded view repeats its elements by construction"));
    }
    if analysis.role == Role::Convolution && analysis.shape.len() > 2 {
        return convolution(subject, level, input, context);
    }
    if analysis.role == Role::Expert && analysis.shape.len() == 3 {
        return experts(&analysis.name, tensor, level, context);
    }
    let whole = Matrix::new(tensor).scaled(scale(analysis));
    let mut spectrum = of_matrix(&analysis.name, &whole, level, context)?;
    if let Measured::Value(spectrum) = &mut spectrum {
        for (name, part) in &subject.parts {
            spectrum.parts.extend(measure_part(&analysis.name, (*name).to_owned(), part, context)?);
        }
        if analysis.role == Role::RecurrentHidden && is_square(&analysis.shape) {
            spectrum.spectral_radius = radius(&whole, analysis)?;
        }
    }
    Ok(spectrum)
}

fn is_square(shape: &[u64]) -> bool {
    matches!(shape, [rows, columns] if rows == columns)
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

/// The spectrum of a matrix, on the device that was chosen; `name` is the tensor's.
fn of_matrix(
    name: &str,
    matrix: &Matrix<'_>,
    level: MeasureLevel,
    context: &Context,
) -> Result<Measured<Spectrum>> {
    if choice::route(On::Processor, level, matrix.row_count(), matrix.column_count()).is_none() {
        return Ok(Measured::not("needs --measure spectra"));
    }
    let measured = device::measure(name, matrix, level, context)?;
    Ok(measured.unwrap_or_else(|| Measured::not(STOPPED)))
}

/// Norms of a part of a matrix, by the cheapest route; none of a part of zeros.
fn measure_part(
    tensor: &str,
    name: String,
    part: &Matrix<'_>,
    context: &Context,
) -> Result<Option<SpectrumPart>> {
    let measured = of_matrix(tensor, part, MeasureLevel::Spectra, context)?;
    Ok(measured.value().map(|spectrum| SpectrumPart {
        name,
        rows: spectrum.rows,
        columns: spectrum.columns,
        spectral_norm: spectrum.spectral_norm.clone(),
        frobenius_norm: spectrum.frobenius_norm,
        stable_rank: spectrum.stable_rank,
    }))
}

fn radius(matrix: &Matrix<'_>, analysis: &TensorAnalysis) -> Result<Measured<f64>> {
    let side = analysis.shape[0];
    if side > LARGEST_RECURRENCE {
        return Ok(Measured::not(format!("{side} units, more than {LARGEST_RECURRENCE}")));
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
    for expert in 0..count {
        if context.cancelled() {
            return Ok(Measured::not(STOPPED));
        }
        let range = expert * rows..(expert + 1) * rows;
        let matrix = Matrix::new(&folded).with_rows(vec![range]);
        let spectrum = match of_matrix(name, &matrix, level, context)? {
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
    whole.smallest = Measured::not(reason);
    whole.condition = Measured::not(reason);
    whole.effective_rank = Measured::not(reason);
    whole.spread = Measured::not(reason);
    whole.values = Measured::not(reason);
    whole.density = Measured::not(reason);
    whole.marchenko_pastur = Measured::not(reason);
    whole.weight_watcher = Measured::not(reason);
    whole.parts = parts;
    Ok(Measured::Value(whole))
}

fn convolution(
    subject: &Subject<'_>,
    level: MeasureLevel,
    input: &[u64],
    context: &Context,
) -> Result<Measured<Spectrum>> {
    if level < MeasureLevel::Spectra {
        return Ok(Measured::not("needs --measure spectra"));
    }
    let shape: Vec<usize> = subject.analysis.shape.iter().map(|size| *size as usize).collect();
    let kernel = shape[2..].to_vec();
    let circular = input.len() != kernel.len();
    // An axis that the kernel does not reach along only repeats the map.
    let side = |taps: usize| if taps == 1 { 1 } else { CIRCULAR_SIDE.max(2 * taps) };
    let sizes: Vec<usize> = if circular {
        kernel.iter().map(|taps| side(*taps)).collect()
    } else {
        input.iter().map(|size| *size as usize).collect()
    };
    let depthwise = subject.is_depthwise && shape[1] == 1;
    let groups = if depthwise { shape[0] } else { 1 };
    // Padding such as `same` of even kernels is one-sided: what stands here is the nearest symmetric one.
    let geometry = Geometry::same(&sizes, &kernel, circular);
    let places = sizes.iter().fold(1u64, |product, size| product.saturating_mul(*size as u64));
    let cost =
        subject.analysis.elements.saturating_mul(places).saturating_mul(2 * bracket::steps(1 << 16) as u64);
    if cost > CHEAP && level < MeasureLevel::Full {
        return Ok(Measured::not(format!(
            "as an operator this convolution takes {:.0} billion multiplications: needs --measure full",
            cost as f64 * 1e-9
        )));
    }
    let taps = saturating_count(&subject.analysis.shape[2..]);
    let (outputs, inputs) = (subject.analysis.shape[0], subject.analysis.shape[1]);
    let (shorter, longer) =
        (places.saturating_mul(inputs.min(outputs)), places.saturating_mul(inputs.max(outputs)));
    if places.saturating_mul(taps) > LARGEST_GEOMETRY || shorter > LARGEST_KEPT || longer > LARGEST_VECTOR {
        let sizes = sizes.iter().map(ToString::to_string).collect::<Vec<_>>().join("x");
        return Ok(Measured::not(format!("as an operator on inputs of {sizes} it takes too much memory")));
    }
    let matrix = Matrix::new(subject.tensor).scaled(scale(subject.analysis));
    let unfolded = of_matrix(&subject.analysis.name, &matrix, MeasureLevel::Spectra, context)?;
    let unfolded = match unfolded {
        Measured::Value(spectrum) => spectrum,
        other => return Ok(other),
    };
    let Some(operator) = Convolution::new(matrix.to_dense()?, shape[0], groups, kernel, geometry) else {
        return Ok(Measured::not("the kernel is larger than the input"));
    };
    let (rows, columns) = operator.sides();
    let shorter = rows.min(columns);
    let frobenius_norm = operator.frobenius_norm();
    let start = Stream::new(SEED, 0);
    let Some(ritz) = lanczos::run(&Cpu, &operator, bracket::steps(shorter), start, context)? else {
        return Ok(Measured::not(STOPPED));
    };
    let spectral_norm = matrix::norm_of(&ritz, shorter, frobenius_norm);
    let reason = "a convolution is measured by its largest singular value";
    let mut spectrum = unfolded;
    spectrum.of = SpectrumOf::Convolution(ConvolutionSetting {
        input: sizes.iter().map(|size| *size as u64).collect(),
        circular,
        depthwise,
        unfolded: spectrum.spectral_norm.value,
    });
    (spectrum.rows, spectrum.columns) = (rows as u64, columns as u64);
    spectrum.method = SpectrumMethod::Lanczos;
    spectrum.stable_rank = (frobenius_norm / spectral_norm.value).powi(2);
    spectrum.largest = vec![spectral_norm.value];
    spectrum.spectral_norm = spectral_norm;
    spectrum.frobenius_norm = frobenius_norm;
    spectrum.values = Measured::not(reason);
    spectrum.rounding = Measured::not(reason);
    spectrum.smallest = Measured::not(reason);
    spectrum.condition = Measured::not(reason);
    spectrum.effective_rank = Measured::not(reason);
    spectrum.spread = Measured::not(reason);
    spectrum.density = Measured::not(reason);
    spectrum.marchenko_pastur = Measured::not(reason);
    spectrum.weight_watcher = Measured::not(reason);
    Ok(Measured::Value(spectrum.scaled(1.0 / matrix.scale())))
}
