//! Counters, indices and masks: extrema and zeros, exactly. Never a norm.

use super::block::fold;
use crate::analysis::model::{Degenerate, Measured, Statistics};
use crate::context::Context;
use crate::error::Result;
use crate::tensor::{DType, Tensor};

/// Why everything else is missing.
const REASON: &str = "counts and indices have no norm";

/// What is known of some integers. 128 bits hold both i64 and u64.
#[derive(Clone, Copy)]
struct Range {
    count: u64,
    zero: u64,
    negative: u64,
    min: i128,
    max: i128,
}

const NOTHING: Range = Range { count: 0, zero: 0, negative: 0, min: i128::MAX, max: i128::MIN };

impl Range {
    fn add(&mut self, other: Self) {
        self.count += other.count;
        self.zero += other.zero;
        self.negative += other.negative;
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
    }
}

/// Measures a tensor of integers, `repeats` times over. Nothing when the user asked to stop.
pub(super) fn measure(tensor: &Tensor, repeats: u64, context: &Context) -> Result<Option<Statistics>> {
    let mut whole = NOTHING;
    let finished = fold(
        tensor,
        context,
        || NOTHING,
        |range, _, bytes| {
            range.add(of_bytes(tensor.dtype, bytes));
            Ok(())
        },
        |range| range,
        |range| whole.add(range),
    )?;
    Ok(finished.then(|| statistics(&whole, repeats)))
}

macro_rules! range_of {
    ($type:ty, $bytes:expr) => {{
        let values = || $bytes.as_chunks().0.iter().map(|&word| <$type>::from_le_bytes(word));
        #[allow(unused_comparisons, clippy::absurd_extreme_comparisons, reason = "one text for both signs")]
        let negative = values().filter(|&value| value < 0).count() as u64;
        Range {
            count: values().len() as u64,
            zero: values().filter(|&value| value == 0).count() as u64,
            negative,
            min: values().min().map_or(i128::MAX, i128::from),
            max: values().max().map_or(i128::MIN, i128::from),
        }
    }};
}

fn of_bytes(dtype: DType, bytes: &[u8]) -> Range {
    match dtype {
        DType::I64 => range_of!(i64, bytes),
        DType::I32 => range_of!(i32, bytes),
        DType::I16 => range_of!(i16, bytes),
        DType::I8 => range_of!(i8, bytes),
        DType::U64 => range_of!(u64, bytes),
        DType::U32 => range_of!(u32, bytes),
        DType::U16 => range_of!(u16, bytes),
        DType::U8 | DType::Bool => range_of!(u8, bytes),
        _ => unreachable!("only integers come here"),
    }
}

fn statistics(range: &Range, repeats: u64) -> Statistics {
    let not = || Measured::not(REASON);
    let any = range.count > 0;
    let bound = |value: i128| {
        if any { Measured::Value(value as f64) } else { Measured::Degenerate(Degenerate::Empty) }
    };
    Statistics {
        count: range.count * repeats,
        nan: 0,
        positive_infinity: 0,
        negative_infinity: 0,
        zero: range.zero * repeats,
        subnormal: 0,
        negative: range.negative * repeats,
        min: bound(range.min),
        max: bound(range.max),
        max_abs: not(),
        l1: not(),
        l2: not(),
        rms: not(),
        mean: not(),
        variance: not(),
        skewness: not(),
        excess_kurtosis: not(),
        exponents: Measured::not(REASON),
        headroom: Measured::not(REASON),
        all_equal: if any {
            Measured::Value(range.min == range.max)
        } else {
            Measured::Degenerate(Degenerate::Empty)
        },
        all_one: Measured::not(REASON),
    }
}
