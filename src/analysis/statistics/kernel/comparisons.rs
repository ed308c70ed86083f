//! Comparisons of patterns in 256-bit vectors, for AVX2 and AVX-512. Left to itself, the compiler takes two instructions
//! for an unsigned comparison, or takes the elements one by one where several limits are counted at once. Arrays are walked by index: `map` and `zip` are
//! calls where crates are not optimised together, and what passes through a call passes through memory.

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
    let mut patterns = [0; N];
    for place in 0..N {
        patterns[place] = limits[place].into();
    }
    match B::SIZE {
        2 => count_below_16(bytes, &patterns),
        4 => count_below_32(bytes, &patterns),
        _ => count_below_64(bytes, &patterns),
    }
}

macro_rules! count_below {
    ($name:ident, $signed:ty, $unsigned:ty, $splat:ident, $greater:ident, $subtract:ident) => {
        #[inline(always)]
        fn $name<const N: usize>(bytes: &[u8], limits: &[u64; N]) -> [u64; N] {
            let (rows, rest) = bytes.as_chunks::<{ size_of::<__m256i>() }>();
            let mut lanes = [[0 as $unsigned; size_of::<__m256i>() / size_of::<$unsigned>()]; N];
            // SAFETY: this is inlined into entry points that carry AVX2, to which only an `Isa` of a processor that
            // has it leads. Each load and store is of 32 bytes that are there, and needs no alignment.
            unsafe {
                let mut wanted = [_mm256_setzero_si256(); N];
                for place in 0..N {
                    wanted[place] = $splat((limits[place] as $unsigned).cast_signed());
                }
                let no_sign = $splat(<$signed>::MAX);
                let mut counts = [_mm256_setzero_si256(); N];
                for row in rows {
                    let magnitudes = _mm256_and_si256(_mm256_loadu_si256(row.as_ptr().cast()), no_sign);
                    for place in 0..N {
                        // What is true is −1.
                        counts[place] = $subtract(counts[place], $greater(wanted[place], magnitudes));
                    }
                }
                for place in 0..N {
                    _mm256_storeu_si256(lanes[place].as_mut_ptr().cast(), counts[place]);
                }
            }
            let mut counts = [0; N];
            for place in 0..N {
                counts[place] = lanes[place].iter().map(|&lane| u64::from(lane)).sum();
            }
            for &word in rest.as_chunks().0 {
                let magnitude = <$signed>::from_le_bytes(word) & <$signed>::MAX;
                for place in 0..N {
                    counts[place] += u64::from(magnitude < (limits[place] as $unsigned).cast_signed());
                }
            }
            counts
        }
    };
}

count_below!(count_below_16, i16, u16, _mm256_set1_epi16, _mm256_cmpgt_epi16, _mm256_sub_epi16);
count_below!(count_below_32, i32, u32, _mm256_set1_epi32, _mm256_cmpgt_epi32, _mm256_sub_epi32);
count_below!(count_below_64, i64, u64, _mm256_set1_epi64x, _mm256_cmpgt_epi64, _mm256_sub_epi64);
