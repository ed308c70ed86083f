//! The norm pass on a GPU: its sums are those of the processor, in the same order, and so the same bits.

use super::block::Contribution;
use super::kernel::Job;
use super::sums::Sums;
use super::tally::{Tally, Uniform};
use super::{Pivot, Plan, STOPPED, bytes, finish, job, patterns, terms};
use crate::analysis::model::{Measured, Statistics};
use crate::compute::cuda::{BlockNorms, Device};
use crate::context::Context;
use crate::error::Result;
use crate::tensor::{DType, Kind, Tensor, decode};

/// The norms of `tensor` by `device`; `None` where it has no kernel for it: f64, integers, and elements that stand for many.
///
/// # Errors
/// The device fails, or the file cannot be read.
pub fn measure_on(
    device: &Device,
    tensor: &Tensor,
    pivot: Pivot,
    context: &Context,
) -> Result<Option<Measured<Statistics>>> {
    let (tensor, repeats) = tensor.without_repeats();
    let is_byte = matches!(tensor.dtype, DType::F8E4M3 | DType::F8E5M2);
    if repeats != 1 || tensor.count() == 0 || tensor.dtype.kind() != Kind::Float {
        return Ok(None);
    }
    let plan = Plan::new(false);
    let job = job(plan, pivot, None);
    // Counted when all of it is known to have been measured: what fails is measured, and counted, on the processor.
    let mut done = 0;
    let uploaded = |bytes: u64| {
        done += bytes;
        !context.cancelled()
    };
    let (whole, one) = if is_byte {
        let format = patterns::format(tensor.dtype).expect("FP8 has a format");
        let histogram = device.histogram(&tensor, uploaded)?;
        (histogram.map(|histogram| bytes::of_histogram(&histogram, &job, &format)), format.one())
    } else if Device::has_norms(tensor.dtype) {
        let blocks = device.norms(&tensor, job.pivot, uploaded)?;
        (blocks.map(|blocks| joined(&blocks, &tensor, &job)), one(tensor.dtype))
    } else {
        return Ok(None);
    };
    context.progress.advance(done);
    Ok(Some(match whole {
        Some(whole) => Measured::Value(finish(whole, 1, &terms(&job, plan, None, one))),
        None => Measured::not(STOPPED),
    }))
}

/// The pattern of 1.
fn one(dtype: DType) -> u64 {
    match dtype {
        DType::F32 => 0x3f80_0000,
        DType::F16 => 0x3c00,
        _ => 0x3f80,
    }
}

fn joined(blocks: &[BlockNorms], tensor: &Tensor, job: &Job) -> Contribution {
    let mut whole = Contribution { tally: Tally::new(0), sums: Sums::default() };
    let value = |bits: u32| {
        let size = tensor.dtype.size().expect("floats have whole bytes") as usize;
        let mut values = Vec::new();
        decode::to_f64(tensor.dtype, &bits.to_le_bytes()[..size], &mut values);
        values[0]
    };
    for block in blocks {
        let mut tally = Tally::new(0);
        tally.count = block.count;
        tally.nan = u64::from(block.nan);
        tally.positive_infinity = u64::from(block.positive_infinity);
        tally.negative_infinity = u64::from(block.negative_infinity);
        tally.zero = u64::from(block.zero);
        tally.subnormal = u64::from(block.subnormal);
        tally.negative = u64::from(block.negative);
        if let Some((smallest, largest)) = block.extrema {
            (tally.min, tally.max) = (value(smallest), value(largest));
        }
        tally.uniform = block.uniform.map_or(Uniform::Mixed, |bits| Uniform::All(u64::from(bits)));
        whole.tally.add(&tally);
        let mut sums = Sums { l1: block.l1, square: block.square, powers: [block.sum, 0.0, 0.0, 0.0] };
        if job.pivot == 0.0 {
            sums.powers[1] = sums.square;
        }
        whole.sums.add(&sums);
    }
    whole
}
