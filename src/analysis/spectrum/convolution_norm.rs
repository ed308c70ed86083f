//! The spectrum of a convolution's weight: of one block where its outputs share no input, and otherwise σ₁ of the operator.

use super::convolution::{Convolution, Geometry};
use super::geometry::Stated;
use super::matrix::{self, SEED};
use super::tensor::{Subject, as_matrix, of_matrix};
use super::{bracket, lanczos};
use crate::analysis::model::{
    ConvolutionSetting, GeometrySource, MeasureLevel, Measured, Spectrum, SpectrumMethod, SpectrumOf,
};
use crate::analysis::statistics::STOPPED;
use crate::compute::Cpu;
use crate::context::Context;
use crate::error::Result;
use crate::random::Stream;

/// Multiplications that a convolution may take unless everything is asked for: about a second.
const CHEAP: u64 = 4_000_000_000;

/// Multiplications that its bound by frequencies may take: about a second, and a minute where everything is asked for.
const CHEAP_BOUND: u64 = 1_000_000_000;
const DEAREST_BOUND: u64 = 60_000_000_000;

/// Pairs of an output place and a tap, 256 MB.
const LARGEST_GEOMETRY: u64 = 1 << 25;

/// Numbers of the shorter of input and output, of which some 50 are kept: 256 MB.
const LARGEST_KEPT: u64 = 1 << 19;

/// Numbers of the longer.
const LARGEST_VECTOR: u64 = 1 << 23;

/// Outputs along an axis where no size of the input is told: enough for most kernels to have their value of large inputs.
const CIRCULAR_OUTPUTS: usize = 16;

/// A kernel and how it is laid over its input.
struct Layout {
    outputs: usize,
    /// Of one group.
    inputs: usize,
    groups: usize,
    kernel: Vec<usize>,
    stride: Vec<usize>,
    padding: Vec<usize>,
    dilation: Vec<usize>,
}

impl Layout {
    /// What is stated, and what is usual of the rest.
    fn of(shape: &[u64], stated: &Stated) -> Self {
        let sizes = |sizes: &[u64]| sizes.iter().map(|size| *size as usize).collect::<Vec<_>>();
        let kernel = sizes(&shape[2..]);
        let or = |told: &[u64], usual: Vec<usize>| if told.is_empty() { usual } else { sizes(told) };
        let dilation = or(&stated.dilation, vec![1; kernel.len()]);
        let same = kernel.iter().zip(&dilation).map(|(taps, dilation)| dilation * (taps - 1) / 2).collect();
        Self {
            outputs: shape[0] as usize,
            inputs: shape[1] as usize,
            groups: stated.groups as usize,
            stride: or(&stated.stride, vec![1; kernel.len()]),
            padding: or(&stated.padding, same),
            dilation,
            kernel,
        }
    }

    fn reach(&self, axis: usize) -> usize {
        self.dilation[axis] * (self.kernel[axis] - 1) + 1
    }

    /// Whether no input goes into two outputs, nor any group apart from others: the map is one matrix, over and over.
    fn is_in_blocks(&self) -> bool {
        let is_apart = |axis: usize| self.padding[axis] == 0 && self.reach(axis) <= self.stride[axis];
        self.groups == 1 && (0..self.kernel.len()).all(is_apart)
    }

    fn on(&self, input: Vec<usize>, circular: bool) -> Geometry {
        Geometry {
            input,
            stride: self.stride.clone(),
            padding: self.padding.clone(),
            dilation: self.dilation.clone(),
            circular,
        }
    }

    /// An input round whose edge so many outputs lie that their frequencies are near those of any input.
    fn around(&self) -> Geometry {
        let side = |axis: usize| {
            let (reach, stride) = (self.reach(axis), self.stride[axis]);
            // An axis that the kernel does not reach along only repeats the map.
            if reach == 1 { stride } else { stride * CIRCULAR_OUTPUTS.max((2 * reach).div_ceil(stride)) }
        };
        self.on((0..self.kernel.len()).map(side).collect(), true)
    }

    /// Why the operator is not measured on such inputs.
    fn refusal(&self, geometry: &Geometry, level: MeasureLevel) -> Option<String> {
        let Some(output) = geometry.output(&self.kernel) else {
            return Some("the kernel is larger than the input".to_owned());
        };
        let count = |sizes: &[usize]| sizes.iter().fold(1u64, |all, size| all.saturating_mul(*size as u64));
        let (taps, places) = (count(&self.kernel), count(&output));
        let elements = count(&[self.outputs, self.inputs]).saturating_mul(taps);
        let cost = elements.saturating_mul(places).saturating_mul(2 * bracket::steps(1 << 16) as u64);
        if cost > CHEAP && level < MeasureLevel::Full {
            return Some(format!(
                "as an operator this convolution takes {:.0} billion multiplications: needs --measure full",
                cost as f64 * 1e-9
            ));
        }
        let rows = places.saturating_mul(self.outputs as u64);
        let columns = count(&geometry.input).saturating_mul((self.inputs * self.groups) as u64);
        let is_large = places.saturating_mul(taps) > LARGEST_GEOMETRY
            || rows.min(columns) > LARGEST_KEPT
            || rows.max(columns) > LARGEST_VECTOR;
        is_large.then(|| {
            let sizes = geometry.input.iter().map(ToString::to_string).collect::<Vec<_>>().join("x");
            format!("as an operator on inputs of {sizes} it takes too much memory")
        })
    }

    fn setting(&self, geometry: &Geometry, stated: &Stated, unfolded: f64) -> ConvolutionSetting {
        let sizes = |sizes: &[usize]| sizes.iter().map(|size| *size as u64).collect::<Vec<_>>();
        ConvolutionSetting {
            input: sizes(&geometry.input),
            circular: geometry.circular,
            depthwise: self.inputs == 1 && self.groups == self.outputs,
            unfolded,
            stride: sizes(&self.stride),
            padding: sizes(&self.padding),
            dilation: sizes(&self.dilation),
            groups: self.groups as u64,
            sources: stated.sources,
            blocks: None,
            fourier_bound: Measured::not("the opposite edge is beyond the edge"),
        }
    }
}

/// Measures the convolution that `subject` is.
///
/// # Errors
/// A file that cannot be read.
pub(super) fn measure(
    subject: &Subject<'_>,
    level: MeasureLevel,
    context: &Context,
) -> Result<Measured<Spectrum>> {
    if level < MeasureLevel::Spectra {
        return Ok(Measured::not("needs --measure spectra"));
    }
    let mut stated = subject.geometry.clone();
    let layout = Layout::of(&subject.analysis.shape, &stated);
    let told: Vec<usize> = stated.input.iter().map(|size| *size as usize).collect();
    let mut geometry = layout.on(told, false);
    if layout.is_in_blocks() {
        let places = if geometry.input.is_empty() { None } else { geometry.output(&layout.kernel) };
        if places.is_none() {
            geometry.input = (0..layout.kernel.len()).map(|axis| layout.reach(axis)).collect();
            stated.sources.input = GeometrySource::Assumed;
        }
        let blocks = places.map_or(1, |places| places.iter().map(|size| *size as u64).product());
        return in_blocks(subject, &layout, &geometry, &stated, blocks, level, context);
    }
    let mut refusal = None;
    if !geometry.input.is_empty() {
        refusal = layout.refusal(&geometry, level);
    }
    // What a config says of sizes is of no use where it is too dear; what the user says is what was asked for.
    if geometry.input.is_empty() || (refusal.is_some() && stated.sources.input != GeometrySource::Flag) {
        geometry = layout.around();
        stated.sources.input = GeometrySource::Assumed;
        refusal = layout.refusal(&geometry, level);
    }
    match refusal {
        Some(reason) => Ok(Measured::not(reason)),
        None => as_operator(subject, &layout, geometry, &stated, level, context),
    }
}

/// The spectrum of the matrix that is applied to every patch: each of its singular values is one of the whole map, as often as there are patches.
fn in_blocks(
    subject: &Subject<'_>,
    layout: &Layout,
    geometry: &Geometry,
    stated: &Stated,
    blocks: u64,
    level: MeasureLevel,
    context: &Context,
) -> Result<Measured<Spectrum>> {
    let matrix = as_matrix(subject.analysis, subject.tensor);
    let spectrum = of_matrix(&subject.analysis.name, &matrix, subject.eigenvalues, level, context)?;
    Ok(spectrum.map(|spectrum| {
        let setting = layout.setting(geometry, stated, spectrum.spectral_norm.value);
        let reason = "outputs share no input: the matrix of one is the whole";
        let fourier_bound = Measured::not(reason);
        let setting = ConvolutionSetting { blocks: Some(blocks), fourier_bound, ..setting };
        Spectrum { of: SpectrumOf::Convolution(setting), ..spectrum }
    }))
}

fn as_operator(
    subject: &Subject<'_>,
    layout: &Layout,
    geometry: Geometry,
    stated: &Stated,
    level: MeasureLevel,
    context: &Context,
) -> Result<Measured<Spectrum>> {
    let matrix = as_matrix(subject.analysis, subject.tensor);
    let (name, depth) = (&subject.analysis.name, MeasureLevel::Spectra);
    let unfolded = of_matrix(name, &matrix, subject.eigenvalues, depth, context)?;
    let unfolded = match unfolded {
        Measured::Value(spectrum) => spectrum,
        other => return Ok(other),
    };
    let mut setting = layout.setting(&geometry, stated, unfolded.spectral_norm.value);
    let kernel = layout.kernel.clone();
    let made = Convolution::new(matrix.to_dense()?, layout.outputs, layout.groups, kernel, geometry);
    let Some(operator) = made else {
        return Ok(Measured::not("its channels do not divide into its groups"));
    };
    let (rows, columns) = operator.sides();
    let shorter = rows.min(columns);
    let frobenius_norm = operator.frobenius_norm();
    let start = Stream::new(SEED, 0);
    let Some(ritz) = lanczos::run(&Cpu, &operator, bracket::steps(shorter), start, context)? else {
        return Ok(Measured::not(STOPPED));
    };
    if !setting.circular {
        setting.fourier_bound = fourier_bound(&operator, level).map(|bound| bound / matrix.scale());
    }
    let spectral_norm = matrix::norm_of(&ritz, shorter, frobenius_norm);
    let reason = "a convolution is measured by its largest singular value";
    let mut spectrum = unfolded;
    spectrum.of = SpectrumOf::Convolution(setting);
    (spectrum.rows, spectrum.columns) = (rows as u64, columns as u64);
    spectrum.method = SpectrumMethod::Lanczos;
    spectrum.stable_rank = (frobenius_norm / spectral_norm.value).powi(2);
    spectrum.largest = vec![spectral_norm.value];
    spectrum.spectral_norm = spectral_norm;
    spectrum.frobenius_norm = frobenius_norm;
    spectrum.rounding = Measured::not(reason);
    spectrum.keep_the_largest(reason);
    Ok(Measured::Value(spectrum.scaled(1.0 / matrix.scale())))
}

fn fourier_bound(operator: &Convolution, level: MeasureLevel) -> Measured<f64> {
    let cost = operator.cost_of_fourier_bound();
    let limit = if level < MeasureLevel::Full { CHEAP_BOUND } else { DEAREST_BOUND };
    if cost > limit {
        let more = if cost > DEAREST_BOUND { "" } else { ": needs --measure full" };
        return Measured::not(format!("it takes {:.0} billion multiplications{more}", cost as f64 * 1e-9));
    }
    let reason = || Measured::not("the singular values at a frequency did not converge");
    operator.fourier_bound().map_or_else(reason, Measured::Value)
}
