//! Statistics of one tensor: counts, extrema, norms, moments, binades, what a cast would lose; its rows; its pages.
//!
//! Finite elements only; NaN and Inf are counted. A tensor is cut into blocks of 2²⁰ elements that all cores take
//! from; counts and extrema merge exactly, sums are added in a fixed order (`sums.rs`). The same bits come out for any
//! number of threads, any instruction set, mapped or read.
//!
//! Memory beyond the map: a read buffer of 64 KiB for each thread, at most 256 blocks waiting to be joined, and what
//! [`held_bytes`] says, of which the caller bounds the sum over the tensors that it measures side by side.

mod block;
mod bytes;
mod device;
mod finish;
mod headroom;
mod integers;
mod kernel;
mod median;
mod pages;
mod patterns;
mod rows;
mod sums;
mod tally;
mod words;

pub use block::Beside;
pub use device::measure_on as measure_on_device;
pub use kernel::Isa;
pub use median::measure_median_abs;
pub use pages::measure_pages;
pub use rows::measure_rows;

use block::{Alone, Contribution};
use finish::Terms;
use kernel::Job;
use kernel::element::{Bf16, Element, F16, F32, F64};
use patterns::Format;

use super::model::{MeasureLevel, Measured, Statistics};
use crate::context::Context;
use crate::error::{ErrorKind, Result};
use crate::tensor::{DType, Kind, Tensor};

/// What a measurement says that the user ended.
pub const STOPPED: &str = "stopped before it was measured";

/// K of the power sums Σ(x−K)ᵖ, by role and never by looking at the data: parts of a tensor must merge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pivot {
    /// Weights, biases, states.
    Zero,
    /// Gains of normalisation layers, which begin at 1 and stay near it.
    One,
}

/// What to measure beyond counts, extrema and norms, and with which instructions.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Variance, skewness, kurtosis.
    pub moments: bool,
    /// What casts would lose.
    pub headroom: bool,
    /// Elements per binade.
    pub exponents: bool,
    /// The instruction set. It does not change any result.
    pub isa: Isa,
}

impl Plan {
    /// Everything, or only what norms need, with the best instructions there are.
    pub fn new(everything: bool) -> Self {
        Self { moments: everything, headroom: everything, exponents: everything, isa: Isa::best() }
    }
}

/// Measures the elements of `tensor`.
///
/// When the user asks to stop on the way, the outcome is [`Measured::NotMeasured`] with [`STOPPED`].
///
/// # Errors
/// A file that cannot be read, or a dtype without plain elements.
pub fn measure(
    tensor: &Tensor,
    level: MeasureLevel,
    pivot: Pivot,
    context: &Context,
) -> Result<Measured<Statistics>> {
    measure_beside(tensor, level, pivot, &Alone, context).map(|(statistics, _)| statistics)
}

/// [`measure`], and what `beside` gathers from the same reading; nothing where the elements are none that it can be given:
/// they are no floats wider than a byte, or one stands for many, or the user asked to stop.
///
/// # Errors
/// As [`measure`], and those of `beside`.
pub fn measure_beside<B: Beside>(
    tensor: &Tensor,
    level: MeasureLevel,
    pivot: Pivot,
    beside: &B,
    context: &Context,
) -> Result<(Measured<Statistics>, Option<B::Sums>)> {
    match level {
        MeasureLevel::List => Ok((Measured::not("needs --measure norms"), None)),
        MeasureLevel::Norms => planned_beside(tensor, Plan::new(false), pivot, beside, context),
        MeasureLevel::Stats | MeasureLevel::Spectra | MeasureLevel::Full | MeasureLevel::Jacobian => {
            planned_beside(tensor, Plan::new(true), pivot, beside, context)
        }
    }
}

/// Bytes that the searches among rows and pages, or tables of patterns, hold while `tensor` is measured, besides a few buffers.
pub fn held_bytes(tensor: &Tensor) -> u64 {
    rows::held_bytes(tensor).max(pages::held_bytes(tensor)).max(words::held_bytes(tensor))
}

/// [`measure`], part by part: for benchmarks, and for tests that every instruction set gives the same bits.
///
/// # Errors
/// As [`measure`].
pub fn measure_as_planned(
    tensor: &Tensor,
    plan: Plan,
    pivot: Pivot,
    context: &Context,
) -> Result<Measured<Statistics>> {
    planned_beside(tensor, plan, pivot, &Alone, context).map(|(statistics, _)| statistics)
}

fn planned_beside<B: Beside>(
    tensor: &Tensor,
    plan: Plan,
    pivot: Pivot,
    beside: &B,
    context: &Context,
) -> Result<(Measured<Statistics>, Option<B::Sums>)> {
    let (tensor, repeats) = tensor.without_repeats();
    let measured = match tensor.dtype.kind() {
        Kind::Opaque => return Err(unsupported(&tensor)),
        Kind::Integer => integers::measure(&tensor, repeats, context)?.map(|statistics| (statistics, None)),
        Kind::Float if repeats == 1 => measure_floats(&tensor, repeats, plan, pivot, beside, context)?,
        Kind::Float => measure_floats(&tensor, repeats, plan, pivot, &Alone, context)?
            .map(|(statistics, _)| (statistics, None)),
    };
    Ok(match measured {
        Some((statistics, sums)) => (Measured::Value(statistics), sums),
        None => (Measured::not(STOPPED), None),
    })
}

fn unsupported(tensor: &Tensor) -> crate::error::Error {
    let path = tensor.file().map(|file| file.path().to_owned()).unwrap_or_default();
    ErrorKind::UnsupportedTensor { what: tensor.dtype.name(), shape: None }.in_file(&path)
}

/// Statistics, and what was gathered beside them, where it was.
type Outcome<B> = Result<Option<(Statistics, Option<<B as Beside>::Sums>)>>;

fn measure_floats<B: Beside>(
    tensor: &Tensor,
    repeats: u64,
    plan: Plan,
    pivot: Pivot,
    beside: &B,
    context: &Context,
) -> Outcome<B> {
    match tensor.dtype {
        DType::F64 => measure_elements::<F64, B>(tensor, repeats, plan, pivot, beside, context),
        DType::F32 => measure_elements::<F32, B>(tensor, repeats, plan, pivot, beside, context),
        _ if words::are_many(tensor) && plan.moments => {
            // Counts of patterns cost the same whatever is asked; for norms alone, the GPU has the same sums by vectors.
            measure_words(tensor, repeats, plan, pivot, beside, context)
        }
        DType::F16 => measure_elements::<F16, B>(tensor, repeats, plan, pivot, beside, context),
        DType::Bf16 => measure_elements::<Bf16, B>(tensor, repeats, plan, pivot, beside, context),
        _ => Ok(measure_bytes(tensor, repeats, plan, pivot, context)?.map(|statistics| (statistics, None))),
    }
}

fn measure_elements<E: Element, B: Beside>(
    tensor: &Tensor,
    repeats: u64,
    plan: Plan,
    pivot: Pivot,
    beside: &B,
    context: &Context,
) -> Outcome<B> {
    let binades = if plan.exponents { E::BINADES } else { 0 };
    let mut job = job(plan, pivot, plan.headroom.then(headroom::limits_of::<E>));
    let Some((mut whole, gathered)) = block::contribution(tensor, &job, binades, plan.isa, beside, context)?
    else {
        return Ok(None);
    };
    if let Some(scale) = rescue_scale(&whole) {
        job = Job { scale, pivot: 0.0, ..job };
        match block::contribution(tensor, &job, binades, plan.isa, &Alone, &quiet(context))? {
            Some((rescued, ())) => whole = rescued,
            None => return Ok(None),
        }
    }
    let terms = terms(&job, plan, plan.exponents.then_some(E::LOWEST), E::one());
    Ok(Some((finish(whole, repeats, &terms), Some(gathered))))
}

fn measure_words<B: Beside>(
    tensor: &Tensor,
    repeats: u64,
    plan: Plan,
    pivot: Pivot,
    beside: &B,
    context: &Context,
) -> Outcome<B> {
    let (format, job, terms) = patterned(tensor.dtype, plan, pivot);
    let whole = words::contribution(tensor, &job, &format, beside, context)?;
    Ok(whole.map(|(whole, gathered)| (finish(whole, repeats, &terms), Some(gathered))))
}

fn measure_bytes(
    tensor: &Tensor,
    repeats: u64,
    plan: Plan,
    pivot: Pivot,
    context: &Context,
) -> Result<Option<Statistics>> {
    let (format, job, terms) = patterned(tensor.dtype, plan, pivot);
    let whole = bytes::contribution(tensor, &job, &format, context)?;
    Ok(whole.map(|whole| finish(whole, repeats, &terms)))
}

/// The format of a dtype whose patterns are counted, what to compute, and what the formulas need of it.
fn patterned(dtype: DType, plan: Plan, pivot: Pivot) -> (Format, Job, Terms) {
    let format = patterns::format(dtype).expect("every wider float dtype has a path of its own");
    let job = job(plan, pivot, plan.headroom.then(|| format.limits()));
    let terms = terms(&job, plan, plan.exponents.then_some(format.lowest), format.one());
    (format, job, terms)
}

fn job(plan: Plan, pivot: Pivot, limits: Option<headroom::Limits>) -> Job {
    let pivot = match pivot {
        Pivot::Zero => 0.0,
        Pivot::One => 1.0,
    };
    Job { moments: plan.moments, limits, binades: plan.exponents, pivot, scale: 1.0 }
}

fn terms(job: &Job, plan: Plan, lowest: Option<i32>, one: u64) -> Terms {
    Terms { pivot: job.pivot, scale: job.scale, moments: plan.moments, headroom: plan.headroom, lowest, one }
}

fn finish(mut whole: Contribution, repeats: u64, terms: &Terms) -> Statistics {
    if repeats > 1 {
        whole.tally.repeat(repeats);
        whole.sums.repeat(repeats);
    }
    finish::statistics(&whole, terms)
}

/// Binary exponents of the largest magnitude between which no fourth power, nor a sum of 2⁶³ of them, leaves the range
/// of f64, and what underflows does not matter. Only f64 elements reach beyond.
const SAFE_EXPONENTS: std::ops::RangeInclusive<i32> = -240..=240;

/// The power of two that brings the largest magnitude near 1, where squares and fourth powers would leave the range of
/// f64. The tensor is then read again: as good as the three accumulators of Blue's algorithm (TOMS 978), and nothing
/// to pay for ordinary data. The pivot, at that distance, is as good as 0.
fn rescue_scale(whole: &Contribution) -> Option<f64> {
    let largest = whole.tally.max.max(-whole.tally.min);
    if !largest.is_finite() || largest == 0.0 {
        return None;
    }
    let exponent = largest.log2().floor() as i32;
    // 2^1023 is the largest power of two; the subnormals it cannot lift to 1 it lifts far enough.
    (!SAFE_EXPONENTS.contains(&exponent)).then(|| 2f64.powi((-exponent).clamp(-1022, 1022)))
}

/// The same context for a second reading: these bytes were counted already.
fn quiet(context: &Context) -> Context {
    Context { progress: std::sync::Arc::default(), ..context.clone() }
}
