//! The floating-point element types as bit patterns: what can be asked of an element without arithmetic.
//!
//! For patterns without their sign, the order of unsigned integers is the order of values: that is IEEE 754's layout,
//! and why extrema, zeros, subnormals and thresholds are all integer comparisons here.

use half::{bf16, f16};

use super::vector::Vector;

/// The unsigned integer that holds one element.
pub(in crate::analysis::statistics) trait Bits:
    Copy + Ord + Into<u64>
{
    /// The same bits as a signed integer.
    type Signed: Copy + Ord;
    /// An element as stored, of any alignment.
    type Stored: Copy;
    /// Only the sign bit.
    const SIGN: Self;
    /// Bytes of an element.
    const SIZE: usize;

    /// The elements of little-endian `bytes`.
    fn split(bytes: &[u8]) -> &[Self::Stored];
    /// One of them.
    fn read(stored: Self::Stored) -> Self;
    /// As signed.
    fn signed(self) -> Self::Signed;
    /// From signed.
    fn unsigned(signed: Self::Signed) -> Self;
    /// Without the sign.
    fn magnitude(self) -> Self;
    /// The low bits of `value`.
    fn low(value: u64) -> Self;
    /// One more where `counted`: enough for 65535 elements.
    fn plus(self, counted: bool) -> Self;
    /// How many of at most 65535 elements satisfy `predicate`. Counts in lanes as wide as the element.
    fn count(stored: &[Self::Stored], predicate: impl Fn(Self) -> bool) -> u64;
}

macro_rules! bits {
    ($unsigned:ty, $signed:ty) => {
        impl Bits for $unsigned {
            type Signed = $signed;
            type Stored = [u8; size_of::<$unsigned>()];
            const SIGN: Self = 1 << (<$unsigned>::BITS - 1);
            const SIZE: usize = size_of::<$unsigned>();

            #[inline(always)]
            fn split(bytes: &[u8]) -> &[Self::Stored] {
                bytes.as_chunks().0
            }
            #[inline(always)]
            fn read(stored: Self::Stored) -> Self {
                Self::from_le_bytes(stored)
            }
            #[inline(always)]
            fn signed(self) -> Self::Signed {
                self.cast_signed()
            }
            #[inline(always)]
            fn unsigned(signed: Self::Signed) -> Self {
                signed.cast_unsigned()
            }
            #[inline(always)]
            fn magnitude(self) -> Self {
                self & !Self::SIGN
            }
            #[inline(always)]
            fn low(value: u64) -> Self {
                value as Self
            }
            #[inline(always)]
            fn plus(self, counted: bool) -> Self {
                self.wrapping_add(Self::from(counted))
            }
            #[inline(always)]
            fn count(stored: &[Self::Stored], predicate: impl Fn(Self) -> bool) -> u64 {
                debug_assert!(u16::try_from(stored.len()).is_ok());
                let count =
                    stored.iter().fold(0, |count: Self, &word| count.plus(predicate(Self::read(word))));
                u64::from(count)
            }
        }
    };
}

bits!(u16, i16);
bits!(u32, i32);
bits!(u64, i64);

/// A floating-point format with infinities, wider than a byte.
pub(in crate::analysis::statistics) trait Element: 'static {
    /// Its patterns.
    type Bits: Bits;
    /// Stored mantissa bits.
    const MANTISSA: u32;
    /// Bias of the exponent.
    const BIAS: i32;

    /// Whether f64 holds the square of every element.
    const EXACT_SQUARE: bool = 2 * (Self::MANTISSA + 1) <= f64::MANTISSA_DIGITS;
    /// Whether f64 holds the fourth power of every element, and so the third.
    const EXACT_FOURTH: bool = 4 * (Self::MANTISSA + 1) <= f64::MANTISSA_DIGITS;

    /// Bytes of an element.
    const SIZE: usize = Self::Bits::SIZE;
    /// ⌊log2⌋ of the smallest subnormal.
    const LOWEST: i32 = 1 - Self::BIAS - Self::MANTISSA.cast_signed();
    /// Binades from the smallest subnormal to the largest finite value.
    const BINADES: usize = (Self::BIAS - Self::LOWEST + 1).unsigned_abs() as usize;

    /// The value of a pattern.
    fn value(bits: Self::Bits) -> f64;
    /// `V::LANES` elements times `scale`, a power of two that only f64 uses: nothing narrower needs it.
    fn load<V: Vector>(bytes: &[u8], scale: V) -> V;

    /// The pattern of +Inf: the first magnitude that is not finite.
    #[inline(always)]
    fn infinity() -> Self::Bits {
        Self::Bits::low((2 * u64::from(Self::BIAS.unsigned_abs()) + 1) << Self::MANTISSA)
    }
    /// The pattern of 1.
    #[inline(always)]
    fn one() -> u64 {
        u64::from(Self::BIAS.unsigned_abs()) << Self::MANTISSA
    }
    /// The first magnitude that is not subnormal.
    #[inline(always)]
    fn smallest_normal() -> Self::Bits {
        Self::Bits::low(1 << Self::MANTISSA)
    }
    /// The biased exponent.
    #[inline(always)]
    fn exponent(bits: Self::Bits) -> u64 {
        bits.magnitude().into() >> Self::MANTISSA
    }
}

/// IEEE double.
pub(in crate::analysis::statistics) struct F64;
/// IEEE single.
pub(in crate::analysis::statistics) struct F32;
/// The upper half of an IEEE single.
pub(in crate::analysis::statistics) struct Bf16;
/// IEEE half.
pub(in crate::analysis::statistics) struct F16;

impl Element for F64 {
    type Bits = u64;
    const MANTISSA: u32 = 52;
    const BIAS: i32 = 1023;

    #[inline(always)]
    fn value(bits: u64) -> f64 {
        f64::from_bits(bits)
    }
    #[inline(always)]
    fn load<V: Vector>(bytes: &[u8], scale: V) -> V {
        V::from_f64(bytes).mul(scale)
    }
}

impl Element for F32 {
    type Bits = u32;
    const MANTISSA: u32 = 23;
    const BIAS: i32 = 127;

    #[inline(always)]
    fn value(bits: u32) -> f64 {
        f64::from(f32::from_bits(bits))
    }
    #[inline(always)]
    fn load<V: Vector>(bytes: &[u8], _scale: V) -> V {
        V::from_f32(bytes)
    }
}

impl Element for Bf16 {
    type Bits = u16;
    const MANTISSA: u32 = 7;
    const BIAS: i32 = 127;

    #[inline(always)]
    fn value(bits: u16) -> f64 {
        bf16::from_bits(bits).to_f64()
    }
    #[inline(always)]
    fn load<V: Vector>(bytes: &[u8], _scale: V) -> V {
        V::from_bf16(bytes)
    }
}

impl Element for F16 {
    type Bits = u16;
    const MANTISSA: u32 = 10;
    const BIAS: i32 = 15;

    #[inline(always)]
    fn value(bits: u16) -> f64 {
        f16::from_bits(bits).to_f64()
    }
    #[inline(always)]
    fn load<V: Vector>(bytes: &[u8], _scale: V) -> V {
        V::from_f16(bytes)
    }
}
