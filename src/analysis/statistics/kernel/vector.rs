//! What power sums and counts need of an instruction set, so that they are written once.

use super::element::Bits;

/// A few neighbouring elements as f64.
///
/// Every operation is one correctly rounded IEEE operation per lane, and a product is fused with a sum only where it is
/// exact: that is why all implementations give the same bits.
pub(in crate::analysis::statistics) trait Vector: Copy {
    /// Elements it holds; divides 32.
    const LANES: usize;

    /// `value` in every lane.
    fn splat(value: f64) -> Self;
    /// The first lanes of `lanes`.
    fn read(lanes: &[f64]) -> Self;
    /// Stores the lanes at the start of `lanes`.
    fn write(self, lanes: &mut [f64]);

    /// f64 elements from the start of little-endian `bytes`.
    fn from_f64(bytes: &[u8]) -> Self;
    /// f32 elements, widened.
    fn from_f32(bytes: &[u8]) -> Self;
    /// bf16 elements, widened.
    fn from_bf16(bytes: &[u8]) -> Self;
    /// f16 elements, widened.
    fn from_f16(bytes: &[u8]) -> Self;

    /// |self|.
    fn abs(self) -> Self;
    /// self + other.
    fn add(self, other: Self) -> Self;
    /// self − other.
    fn sub(self, other: Self) -> Self;
    /// self · other.
    fn mul(self, other: Self) -> Self;
    /// self + left · right, where f64 holds the product exactly: then it does not matter whether it is rounded.
    fn add_exact_product(self, left: Self, right: Self) -> Self;

    /// How many bytes equal `value`; the length is a multiple of 32 and at most 8160.
    fn count_equal(bytes: &[u8], value: u8) -> u64;
    /// How many of at most 65535 little-endian patterns have a magnitude below each limit. No limit has a sign bit.
    fn count_below<B: Bits, const N: usize>(bytes: &[u8], limits: [B; N]) -> [u64; N];
    /// Asks for the cache line at `address`, which may be anything: nothing is read.
    fn prefetch(address: *const u8);
}
