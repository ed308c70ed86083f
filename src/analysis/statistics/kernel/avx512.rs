//! AVX-512 (F, BW, DQ, VL): sixteen f64 lanes in two registers. The algorithm is the one AVX2 runs.

#![expect(unsafe_code, reason = "vector intrinsics and unaligned loads")]

use std::arch::x86_64::{
    __m256i, __m512, __m512d, _MM_HINT_T0, _mm_prefetch, _mm256_cmpeq_epi8_mask, _mm256_loadu_si256,
    _mm256_set1_epi8, _mm512_abs_pd, _mm512_add_pd, _mm512_castps512_ps256, _mm512_castsi512_ps,
    _mm512_cvtepu16_epi32, _mm512_cvtph_ps, _mm512_cvtps_pd, _mm512_extractf32x8_ps, _mm512_fmadd_pd,
    _mm512_loadu_pd, _mm512_loadu_ps, _mm512_mul_pd, _mm512_set1_pd, _mm512_slli_epi32, _mm512_storeu_pd,
    _mm512_sub_pd,
};

use super::comparisons;
use super::element::{Bits, Element};
use super::powers::add_squares;
use super::tile::{Job, tiles};
use super::vector::Vector;
use crate::analysis::statistics::block::Block;
use crate::analysis::statistics::sums::LANES;

/// [`tiles`] compiled for AVX-512.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,f16c,fma,popcnt,bmi1,bmi2,lzcnt")]
pub(super) fn entry<E: Element>(job: &Job, bytes: &[u8], block: &mut Block) {
    tiles::<E, Avx512>(job, bytes, block);
}

/// [`add_squares`] compiled for AVX-512.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,f16c,fma,popcnt,bmi1,bmi2,lzcnt")]
pub(super) fn squares<E: Element>(stripes: &[u8], lanes: &mut [f64; LANES]) {
    add_squares::<E, Avx512>(stripes, lanes);
}

/// Sixteen f64 lanes.
#[derive(Clone, Copy)]
pub(super) struct Avx512([__m512d; 2]);

/// Calls intrinsics that touch registers only.
macro_rules! registers {
    ($($operation:tt)*) => {
        // SAFETY: `Avx512` is named only by functions inlined into `entry`-like functions that carry these features,
        // and an `Isa` that leads to them exists only where the processor has them.
        unsafe { $($operation)* }
    };
}

impl Avx512 {
    #[inline(always)]
    fn widen(narrow: __m512) -> Self {
        registers!(Self([
            _mm512_cvtps_pd(_mm512_castps512_ps256(narrow)),
            _mm512_cvtps_pd(_mm512_extractf32x8_ps::<1>(narrow)),
        ]))
    }
}

/// Sixteen 16-bit elements.
#[inline(always)]
fn load_16(bytes: &[u8]) -> __m256i {
    let bytes = &bytes[..32];
    // SAFETY: 32 bytes are there, and the load needs no alignment.
    unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
}

impl Vector for Avx512 {
    const LANES: usize = 16;

    #[inline(always)]
    fn splat(value: f64) -> Self {
        registers!(Self([_mm512_set1_pd(value); 2]))
    }

    #[inline(always)]
    fn read(lanes: &[f64]) -> Self {
        let lanes = &lanes[..16];
        // SAFETY: sixteen lanes are there, and the load needs no alignment.
        unsafe { Self([_mm512_loadu_pd(lanes.as_ptr()), _mm512_loadu_pd(lanes.as_ptr().add(8))]) }
    }

    #[inline(always)]
    fn write(self, lanes: &mut [f64]) {
        let lanes = &mut lanes[..16];
        // SAFETY: sixteen lanes are there, and the store needs no alignment.
        unsafe {
            _mm512_storeu_pd(lanes.as_mut_ptr(), self.0[0]);
            _mm512_storeu_pd(lanes.as_mut_ptr().add(8), self.0[1]);
        }
    }

    #[inline(always)]
    fn from_f64(bytes: &[u8]) -> Self {
        let bytes = &bytes[..128];
        // SAFETY: 128 bytes are there, and the load needs no alignment.
        unsafe {
            Self([_mm512_loadu_pd(bytes.as_ptr().cast()), _mm512_loadu_pd(bytes.as_ptr().add(64).cast())])
        }
    }

    #[inline(always)]
    fn from_f32(bytes: &[u8]) -> Self {
        let bytes = &bytes[..64];
        // SAFETY: 64 bytes are there, and the load needs no alignment.
        Self::widen(unsafe { _mm512_loadu_ps(bytes.as_ptr().cast()) })
    }

    #[inline(always)]
    fn from_bf16(bytes: &[u8]) -> Self {
        let words = load_16(bytes);
        Self::widen(registers!(_mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(words)))))
    }

    #[inline(always)]
    fn from_f16(bytes: &[u8]) -> Self {
        let words = load_16(bytes);
        Self::widen(registers!(_mm512_cvtph_ps(words)))
    }

    #[inline(always)]
    fn abs(self) -> Self {
        registers!(Self([_mm512_abs_pd(self.0[0]), _mm512_abs_pd(self.0[1])]))
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        registers!(Self([_mm512_add_pd(self.0[0], other.0[0]), _mm512_add_pd(self.0[1], other.0[1])]))
    }

    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        registers!(Self([_mm512_sub_pd(self.0[0], other.0[0]), _mm512_sub_pd(self.0[1], other.0[1])]))
    }

    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        registers!(Self([_mm512_mul_pd(self.0[0], other.0[0]), _mm512_mul_pd(self.0[1], other.0[1])]))
    }

    #[inline(always)]
    fn add_exact_product(self, left: Self, right: Self) -> Self {
        registers!(Self([
            _mm512_fmadd_pd(left.0[0], right.0[0], self.0[0]),
            _mm512_fmadd_pd(left.0[1], right.0[1], self.0[1]),
        ]))
    }

    #[inline(always)]
    fn count_below<B: Bits, const N: usize>(bytes: &[u8], limits: [B; N]) -> [u64; N] {
        comparisons::count_below(bytes, limits)
    }

    #[inline(always)]
    fn count_equal(bytes: &[u8], value: u8) -> u64 {
        let value = registers!(_mm256_set1_epi8(value.cast_signed()));
        let mut found = 0;
        for row in bytes.as_chunks::<32>().0 {
            // SAFETY: 32 bytes are there, and the load needs no alignment.
            let row = unsafe { _mm256_loadu_si256(row.as_ptr().cast()) };
            found += u64::from(registers!(_mm256_cmpeq_epi8_mask(row, value)).count_ones());
        }
        found
    }

    #[inline(always)]
    fn prefetch(address: *const u8) {
        // SAFETY: a prefetch of any address is a hint without effect on memory.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) }
    }
}
