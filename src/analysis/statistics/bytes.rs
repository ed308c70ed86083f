//! FP8: 256 patterns, so how often each occurs says everything, exactly.

use super::block::{Contribution, fold};
use super::headroom;
use super::kernel::Job;
use super::sums::Sums;
use super::tally::{Tally, Uniform};
use crate::context::Context;
use crate::error::Result;
use crate::tensor::{DType, Tensor, decode};

/// How often each byte occurs.
pub(super) type Histogram = [u64; 256];

/// Tally and sums of an FP8 tensor. Nothing when the user asked to stop.
pub(super) fn contribution(
    tensor: &Tensor,
    job: &Job,
    format: &Format,
    context: &Context,
) -> Result<Option<Contribution>> {
    let mut whole = [0; 256];
    let finished = fold(
        tensor,
        context,
        || [0; 256],
        |histogram, _, bytes| {
            count(bytes, histogram);
            Ok(())
        },
        |histogram: Histogram| whole.iter_mut().zip(histogram).for_each(|(sum, count)| *sum += count),
    )?;
    Ok(finished.then(|| of_histogram(&whole, job, format)))
}

/// Counts bytes in four histograms, so that equal neighbours do not wait for each other.
fn count(bytes: &[u8], histogram: &mut Histogram) {
    let mut parts = [[0u32; 256]; 4];
    let (quads, rest) = bytes.as_chunks::<4>();
    for quad in quads {
        for (part, &byte) in parts.iter_mut().zip(quad) {
            part[usize::from(byte)] += 1;
        }
    }
    for &byte in rest {
        parts[0][usize::from(byte)] += 1;
    }
    for part in parts {
        histogram.iter_mut().zip(part).for_each(|(sum, count)| *sum += u64::from(count));
    }
}

/// An FP8 format.
pub(super) struct Format {
    decode: fn(u8) -> f64,
    /// Stored mantissa bits.
    mantissa: u32,
    /// Bias of the exponent.
    bias: u32,
    /// ⌊log2⌋ of the smallest subnormal.
    pub lowest: i32,
    /// Binades from there to the largest value.
    pub binades: usize,
}

impl Format {
    /// The pattern of 1.
    pub(super) fn one(&self) -> u64 {
        u64::from(self.bias << self.mantissa)
    }
}

/// The format of an FP8 dtype.
pub(super) fn format(dtype: DType) -> Option<Format> {
    match dtype {
        DType::F8E4M3 => {
            Some(Format { decode: decode::f8_e4m3_to_f64, mantissa: 3, bias: 7, lowest: -9, binades: 18 })
        }
        DType::F8E5M2 => {
            Some(Format { decode: decode::f8_e5m2_to_f64, mantissa: 2, bias: 15, lowest: -16, binades: 32 })
        }
        _ => None,
    }
}

/// Everything from the histogram: 256 terms a sum, each a count times an exact value.
pub(super) fn of_histogram(histogram: &Histogram, job: &Job, format: &Format) -> Contribution {
    let mut tally = Tally::new(if job.binades { format.binades } else { 0 });
    let mut sums = Sums::default();
    for (byte, &weight) in (0u8..=255).zip(histogram) {
        if weight == 0 {
            continue;
        }
        let value = (format.decode)(byte);
        tally.count += weight;
        tally.uniform = tally.uniform.and(Uniform::All(u64::from(byte)));
        if value.is_finite() {
            add_finite(byte, value, weight, job, format, &mut tally);
            add_terms(value, weight as f64, job.pivot, &mut sums);
        } else {
            tally.nan += if value.is_nan() { weight } else { 0 };
            tally.positive_infinity += if value == f64::INFINITY { weight } else { 0 };
            tally.negative_infinity += if value == f64::NEG_INFINITY { weight } else { 0 };
        }
    }
    Contribution { tally, sums }
}

fn add_finite(byte: u8, value: f64, weight: u64, job: &Job, format: &Format, tally: &mut Tally) {
    tally.min = tally.min.min(value);
    tally.max = tally.max.max(value);
    if job.limits.is_some() {
        headroom::count_value(value, weight, &mut tally.below);
    }
    if value == 0.0 {
        tally.zero += weight;
        return;
    }
    let magnitude = u32::from(byte & 0x7f);
    let exponent = magnitude >> format.mantissa;
    tally.subnormal += if exponent == 0 { weight } else { 0 };
    tally.negative += if value < 0.0 { weight } else { 0 };
    if job.binades {
        let binade = if exponent == 0 { magnitude.ilog2() } else { exponent - 1 + format.mantissa };
        tally.binades[binade as usize] += weight;
    }
}

fn add_terms(x: f64, weight: f64, pivot: f64, sums: &mut Sums) {
    let d = x - pivot;
    sums.l1 += weight * x.abs();
    sums.square += weight * (x * x);
    let mut power = 1.0;
    for sum in &mut sums.powers {
        power *= d;
        *sum += weight * power;
    }
}
