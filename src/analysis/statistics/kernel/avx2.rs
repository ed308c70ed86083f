//! AVX2 and F16C: eight f64 lanes in two registers.
//!
//! `#[inline(always)]` and `#[target_feature]` exclude each other, so the intrinsics are called from plain functions
//! that are inlined into the one entry point that carries the features.

#![expect(unsafe_code, reason = "vector intrinsics and unaligned loads")]

use std::arch::x86_64::{
    __m128i, __m256, __m256d, _MM_HINT_T0, _mm_castsi128_ps, _mm_loadu_ps, _mm_loadu_si128, _mm_prefetch,
    _mm_setzero_si128, _mm_unpackhi_epi16, _mm_unpacklo_epi16, _mm256_add_epi64, _mm256_add_pd,
    _mm256_andnot_pd, _mm256_castps256_ps128, _mm256_cmpeq_epi8, _mm256_cvtph_ps, _mm256_cvtps_pd,
    _mm256_extract_epi64, _mm256_extractf128_ps, _mm256_fmadd_pd, _mm256_loadu_pd, _mm256_loadu_si256,
    _mm256_mul_pd, _mm256_sad_epu8, _mm256_set1_epi8, _mm256_set1_pd, _mm256_setzero_si256,
    _mm256_srli_si256, _mm256_storeu_pd, _mm256_sub_epi8, _mm256_sub_pd,
};

use super::comparisons;
use super::element::{Bits, Element};
use super::powers::add_squares;
use super::tile::{Job, tiles};
use super::vector::Vector;
use crate::analysis::statistics::block::Block;
use crate::analysis::statistics::sums::LANES;

/// [`tiles`] compiled for AVX2.
#[target_feature(enable = "avx2,f16c,fma,popcnt,bmi1,bmi2,lzcnt")]
pub(super) fn entry<E: Element>(job: &Job, bytes: &[u8], block: &mut Block) {
    tiles::<E, Avx2>(job, bytes, block);
}

/// [`add_squares`] compiled for AVX2.
#[target_feature(enable = "avx2,f16c,fma,popcnt,bmi1,bmi2,lzcnt")]
pub(super) fn squares<E: Element>(stripes: &[u8], lanes: &mut [f64; LANES]) {
    add_squares::<E, Avx2>(stripes, lanes);
}

/// Eight f64 lanes.
#[derive(Clone, Copy)]
pub(super) struct Avx2([__m256d; 2]);

/// Calls intrinsics that touch registers only.
macro_rules! registers {
    ($($operation:tt)*) => {
        // SAFETY: `Avx2` is named only by functions inlined into `entry`-like functions that carry these features,
        // and an `Isa` that leads to them exists only where the processor has them.
        unsafe { $($operation)* }
    };
}

impl Avx2 {
    #[inline(always)]
    fn widen(narrow: __m256) -> Self {
        registers!(Self([
            _mm256_cvtps_pd(_mm256_castps256_ps128(narrow)),
            _mm256_cvtps_pd(_mm256_extractf128_ps::<1>(narrow)),
        ]))
    }
}

/// Eight 16-bit elements.
#[inline(always)]
fn load_16(bytes: &[u8]) -> __m128i {
    let bytes = &bytes[..16];
    // SAFETY: sixteen bytes are there, and the load needs no alignment.
    unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) }
}

impl Vector for Avx2 {
    const LANES: usize = 8;

    #[inline(always)]
    fn splat(value: f64) -> Self {
        registers!(Self([_mm256_set1_pd(value); 2]))
    }

    #[inline(always)]
    fn read(lanes: &[f64]) -> Self {
        let lanes = &lanes[..8];
        // SAFETY: eight lanes are there, and the load needs no alignment.
        unsafe { Self([_mm256_loadu_pd(lanes.as_ptr()), _mm256_loadu_pd(lanes.as_ptr().add(4))]) }
    }

    #[inline(always)]
    fn write(self, lanes: &mut [f64]) {
        let lanes = &mut lanes[..8];
        // SAFETY: eight lanes are there, and the store needs no alignment.
        unsafe {
            _mm256_storeu_pd(lanes.as_mut_ptr(), self.0[0]);
            _mm256_storeu_pd(lanes.as_mut_ptr().add(4), self.0[1]);
        }
    }

    #[inline(always)]
    fn from_f64(bytes: &[u8]) -> Self {
        let bytes = &bytes[..64];
        // SAFETY: 64 bytes are there, and the load needs no alignment.
        unsafe {
            Self([_mm256_loadu_pd(bytes.as_ptr().cast()), _mm256_loadu_pd(bytes.as_ptr().add(32).cast())])
        }
    }

    #[inline(always)]
    fn from_f32(bytes: &[u8]) -> Self {
        let bytes = &bytes[..32];
        // SAFETY: 32 bytes are there, and the loads need no alignment.
        unsafe {
            Self([
                _mm256_cvtps_pd(_mm_loadu_ps(bytes.as_ptr().cast())),
                _mm256_cvtps_pd(_mm_loadu_ps(bytes.as_ptr().add(16).cast())),
            ])
        }
    }

    #[inline(always)]
    fn from_bf16(bytes: &[u8]) -> Self {
        let words = load_16(bytes);
        // A zero under every word makes it a float, four to a register.
        registers!({
            let (low, high) = (
                _mm_unpacklo_epi16(_mm_setzero_si128(), words),
                _mm_unpackhi_epi16(_mm_setzero_si128(), words),
            );
            Self([_mm256_cvtps_pd(_mm_castsi128_ps(low)), _mm256_cvtps_pd(_mm_castsi128_ps(high))])
        })
    }

    #[inline(always)]
    fn from_f16(bytes: &[u8]) -> Self {
        let words = load_16(bytes);
        Self::widen(registers!(_mm256_cvtph_ps(words)))
    }

    #[inline(always)]
    fn abs(self) -> Self {
        // Without `map`, which is a call where crates are not optimised together.
        registers!({
            let sign = _mm256_set1_pd(-0.0);
            Self([_mm256_andnot_pd(sign, self.0[0]), _mm256_andnot_pd(sign, self.0[1])])
        })
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        registers!(Self([_mm256_add_pd(self.0[0], other.0[0]), _mm256_add_pd(self.0[1], other.0[1])]))
    }

    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        registers!(Self([_mm256_sub_pd(self.0[0], other.0[0]), _mm256_sub_pd(self.0[1], other.0[1])]))
    }

    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        registers!(Self([_mm256_mul_pd(self.0[0], other.0[0]), _mm256_mul_pd(self.0[1], other.0[1])]))
    }

    #[inline(always)]
    fn add_exact_product(self, left: Self, right: Self) -> Self {
        registers!(Self([
            _mm256_fmadd_pd(left.0[0], right.0[0], self.0[0]),
            _mm256_fmadd_pd(left.0[1], right.0[1], self.0[1]),
        ]))
    }

    #[inline(always)]
    fn count_below<B: Bits, const N: usize>(bytes: &[u8], limits: [B; N]) -> [u64; N] {
        comparisons::count_below(bytes, limits)
    }

    #[inline(always)]
    fn count_equal(bytes: &[u8], value: u8) -> u64 {
        let value = registers!(_mm256_set1_epi8(value.cast_signed()));
        let mut lanes = registers!(_mm256_setzero_si256());
        for row in bytes.as_chunks::<32>().0 {
            // SAFETY: 32 bytes are there, and the load needs no alignment.
            let row = unsafe { _mm256_loadu_si256(row.as_ptr().cast()) };
            // A match is −1.
            lanes = registers!(_mm256_sub_epi8(lanes, _mm256_cmpeq_epi8(row, value)));
        }
        let sums = registers!(_mm256_sad_epu8(lanes, _mm256_setzero_si256()));
        let pairs = registers!(_mm256_add_epi64(sums, _mm256_srli_si256::<8>(sums)));
        registers!(_mm256_extract_epi64::<0>(pairs) + _mm256_extract_epi64::<2>(pairs)).cast_unsigned()
    }

    #[inline(always)]
    fn prefetch(address: *const u8) {
        // SAFETY: a prefetch of any address is a hint without effect on memory.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) }
    }
}
