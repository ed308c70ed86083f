//! Comparisons of patterns in 256-bit vectors, for AVX2 and AVX-512. Left to itself, the compiler takes two instructions
//! for an unsigned comparison, or takes the elements one by one where several limits are counted at once.

#![expect(unsafe_code, reason = "vector intrinsics and unaligned loads")]

use std::arch::x86_64::{
    __m256i, _mm256_and_si256, _mm256_cmpgt_epi16, _mm256_cmpgt_epi32, _mm256_cmpgt_epi64,
    _mm256_loadu_si256, _mm256_set1_epi16, _mm256_set1_epi32, _mm256_set1_epi64x, _mm256_setzero_si256,
    _mm256_storeu_si256, _mm256_sub_epi16, _mm256_sub_epi32, _mm256_sub_epi64,
};

use super::element::Bits;

/// How many of at most 65535 patterns of `B` have a magnitude below each of `limits`, none of which has a sign bit.
#[inline(always)]
pub(super) fn count_below<B: Bits, const N: usize>(bytes: &[u8], limits: [B; N]) -> [u64; N] {
    debug_assert!(u16::try_from(bytes.len() / B::SIZE).is_ok());
    let limits = limits.map(Into::into);
    match B::SIZE {
        2 => count_below_16(bytes, limits),
        4 => count_below_32(bytes, limits),
        _ => count_below_64(bytes, limits),
    }
}

macro_rules! count_below {
    ($name:ident, $signed:ty, $unsigned:ty, $splat:ident, $greater:ident, $subtract:ident) => {
        #[inline(always)]
        fn $name<const N: usize>(bytes: &[u8], limits: [u64; N]) -> [u64; N] {
            let limits = limits.map(|limit| (limit as $unsigned).cast_signed());
            let (rows, rest) = bytes.as_chunks::<{ size_of::<__m256i>() }>();
            let mut lanes = [[0 as $unsigned; size_of::<__m256i>() / size_of::<$unsigned>()]; N];
            // SAFETY: this is inlined into entry points that carry AVX2, to which only an `Isa` of a processor that
            // has it leads. Each load and store is of 32 bytes that are there, and needs no alignment.
            unsafe {
                let wanted = limits.map(|limit| $splat(limit));
                let no_sign = $splat(<$signed>::MAX);
                let mut counts = [_mm256_setzero_si256(); N];
                for row in rows {
                    let magnitudes = _mm256_and_si256(_mm256_loadu_si256(row.as_ptr().cast()), no_sign);
                    for (count, limit) in counts.iter_mut().zip(wanted) {
                        // What is true is −1.
                        *count = $subtract(*count, $greater(limit, magnitudes));
                    }
                }
                for (lanes, count) in lanes.iter_mut().zip(counts) {
                    _mm256_storeu_si256(lanes.as_mut_ptr().cast(), count);
                }
            }
            let mut counts = lanes.map(|lanes| lanes.into_iter().map(u64::from).sum::<u64>());
            for &word in rest.as_chunks().0 {
                let magnitude = <$signed>::from_le_bytes(word) & <$signed>::MAX;
                for (count, limit) in counts.iter_mut().zip(limits) {
                    *count += u64::from(magnitude < limit);
                }
            }
            counts
        }
    };
}

count_below!(count_below_16, i16, u16, _mm256_set1_epi16, _mm256_cmpgt_epi16, _mm256_sub_epi16);
count_below!(count_below_32, i32, u32, _mm256_set1_epi32, _mm256_cmpgt_epi32, _mm256_sub_epi32);
count_below!(count_below_64, i64, u64, _mm256_set1_epi64x, _mm256_cmpgt_epi64, _mm256_sub_epi64);
