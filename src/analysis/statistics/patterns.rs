//! Float formats of at most 16 bits: they have so few patterns that how often each occurs says everything, exactly.
//!
//! The patterns of FP8 are counted by [`super::bytes`], those of 16 bits by [`super::words`].

use half::{bf16, f16};

use super::block::Contribution;
use super::headroom::{self, Limits};
use super::kernel::Job;
use super::sums::Sums;
use super::tally::{Tally, Uniform};
use crate::tensor::{DType, decode};

/// What the patterns of a format stand for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Format {
    decode: fn(u16) -> f64,
    /// Only the sign bit.
    sign: u16,
    /// Stored mantissa bits.
    mantissa: u32,
    /// Bias of the exponent.
    bias: u32,
    /// The first magnitude that is not finite.
    beyond: u16,
    /// ⌊log2⌋ of the smallest subnormal.
    pub lowest: i32,
    /// Binades from there to the largest value.
    pub binades: usize,
}

const E4M3: Format = Format {
    decode: |bits| decode::f8_e4m3_to_f64(bits as u8),
    sign: 0x80,
    mantissa: 3,
    bias: 7,
    beyond: 0x7f,
    lowest: -9,
    binades: 18,
};

const E5M2: Format = Format {
    decode: |bits| decode::f8_e5m2_to_f64(bits as u8),
    sign: 0x80,
    mantissa: 2,
    bias: 15,
    beyond: 0x7c,
    lowest: -16,
    binades: 32,
};

const F16: Format = Format {
    decode: |bits| f16::from_bits(bits).to_f64(),
    sign: 0x8000,
    mantissa: 10,
    bias: 15,
    beyond: 0x7c00,
    lowest: -24,
    binades: 40,
};

const BF16: Format = Format {
    decode: |bits| bf16::from_bits(bits).to_f64(),
    sign: 0x8000,
    mantissa: 7,
    bias: 127,
    beyond: 0x7f80,
    lowest: -133,
    binades: 261,
};

/// The format of a float dtype, where it has at most 16 bits.
pub(super) fn format(dtype: DType) -> Option<Format> {
    match dtype {
        DType::F8E4M3 => Some(E4M3),
        DType::F8E5M2 => Some(E5M2),
        DType::F16 => Some(F16),
        DType::Bf16 => Some(BF16),
        _ => None,
    }
}

impl Format {
    /// The pattern of 1.
    pub(super) fn one(&self) -> u64 {
        u64::from(self.bias << self.mantissa)
    }

    /// The limits of the casts among its magnitudes.
    pub(super) fn limits(&self) -> Limits {
        headroom::limits(self.beyond.into(), |magnitude| (self.decode)(magnitude as u16))
    }

    /// What no element amounts to, with room for what `job` asks.
    pub(super) fn nothing(&self, job: &Job) -> Contribution {
        Contribution::new(if job.binades { self.binades } else { 0 })
    }

    /// Adds `weight` elements that have the pattern `bits`: each term is a count times a value.
    pub(super) fn add(&self, bits: u16, weight: u64, job: &Job, tally: &mut Tally, sums: &mut Sums) {
        if weight == 0 {
            return;
        }
        let value = (self.decode)(bits);
        tally.count += weight;
        tally.uniform = tally.uniform.and(Uniform::All(bits.into()));
        if bits & !self.sign < self.beyond {
            self.count_finite(bits, value, weight, job, tally);
            add_terms(value, weight as f64, job.pivot, sums);
        } else if value.is_nan() {
            tally.nan += weight;
        } else if value > 0.0 {
            tally.positive_infinity += weight;
        } else {
            tally.negative_infinity += weight;
        }
    }

    fn count_finite(&self, bits: u16, value: f64, weight: u64, job: &Job, tally: &mut Tally) {
        tally.min = tally.min.min(value);
        tally.max = tally.max.max(value);
        let magnitude = bits & !self.sign;
        if let Some(limits) = &job.limits {
            for (below, &limit) in tally.below.as_flattened_mut().iter_mut().zip(limits.as_flattened()) {
                *below += if u64::from(magnitude) < limit { weight } else { 0 };
            }
        }
        if magnitude == 0 {
            tally.zero += weight;
            return;
        }
        let exponent = u32::from(magnitude) >> self.mantissa;
        tally.subnormal += if exponent == 0 { weight } else { 0 };
        tally.negative += if bits == magnitude { 0 } else { weight };
        if job.binades {
            let binade = if exponent == 0 { magnitude.ilog2() } else { exponent - 1 + self.mantissa };
            tally.binades[binade as usize] += weight;
        }
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

#[cfg(test)]
mod tests {
    use super::super::kernel::element::{self, Element};
    use super::*;

    #[test]
    fn formats_of_16_bits_agree_with_the_elements_that_vectors_read() {
        fn agree<E: Element<Bits = u16>>(format: &Format) {
            assert_eq!(format.lowest, E::LOWEST);
            assert_eq!(format.binades, E::BINADES);
            assert_eq!(format.one(), E::one());
            assert_eq!(format.beyond, E::infinity());
            assert_eq!(format.limits(), headroom::limits_of::<E>());
            for bits in 0..=u16::MAX {
                assert_eq!((format.decode)(bits).to_bits(), E::value(bits).to_bits(), "{bits:#06x}");
            }
        }
        agree::<element::F16>(&F16);
        agree::<element::Bf16>(&BF16);
    }
}
