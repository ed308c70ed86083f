//! Plain arrays: what every target has. On x86-64 this compiles to SSE2, on 64-bit Arm to NEON.
//!
//! The lanes are written out: `map` and `from_fn` are calls where crates are not optimised together.

use half::bf16;

use super::element::Bits;
use super::vector::Vector;

/// Four f64 lanes.
#[derive(Clone, Copy)]
pub(super) struct Portable([f64; 4]);

impl Portable {
    #[inline(always)]
    fn decode<const N: usize>(bytes: &[u8], decode: impl Fn([u8; N]) -> f64) -> Self {
        let elements = &bytes.as_chunks::<N>().0[..Self::LANES];
        Self([decode(elements[0]), decode(elements[1]), decode(elements[2]), decode(elements[3])])
    }
}

impl Vector for Portable {
    const LANES: usize = 4;

    #[inline(always)]
    fn splat(value: f64) -> Self {
        Self([value; 4])
    }

    #[inline(always)]
    fn read(lanes: &[f64]) -> Self {
        let lanes = &lanes[..4];
        Self([lanes[0], lanes[1], lanes[2], lanes[3]])
    }

    #[inline(always)]
    fn write(self, lanes: &mut [f64]) {
        let lanes = &mut lanes[..4];
        let [a, b, c, d] = self.0;
        (lanes[0], lanes[1], lanes[2], lanes[3]) = (a, b, c, d);
    }

    #[inline(always)]
    fn from_f64(bytes: &[u8]) -> Self {
        Self::decode(bytes, f64::from_le_bytes)
    }

    #[inline(always)]
    fn from_f32(bytes: &[u8]) -> Self {
        Self::decode(bytes, |word| f64::from(f32::from_le_bytes(word)))
    }

    #[inline(always)]
    fn from_bf16(bytes: &[u8]) -> Self {
        Self::decode(bytes, |word| f64::from(bf16::from_le_bytes(word).to_f32()))
    }

    #[inline(always)]
    fn from_f16(bytes: &[u8]) -> Self {
        Self::decode(bytes, |word| widen_f16(u16::from_le_bytes(word)))
    }

    #[inline(always)]
    fn abs(self) -> Self {
        let [a, b, c, d] = self.0;
        Self([a.abs(), b.abs(), c.abs(), d.abs()])
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        let ([a, b, c, d], [e, f, g, h]) = (self.0, other.0);
        Self([a + e, b + f, c + g, d + h])
    }

    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        let ([a, b, c, d], [e, f, g, h]) = (self.0, other.0);
        Self([a - e, b - f, c - g, d - h])
    }

    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        let ([a, b, c, d], [e, f, g, h]) = (self.0, other.0);
        Self([a * e, b * f, c * g, d * h])
    }

    #[inline(always)]
    fn add_exact_product(self, left: Self, right: Self) -> Self {
        self.add(left.mul(right))
    }

    #[inline(always)]
    fn count_below<B: Bits, const N: usize>(bytes: &[u8], limits: [B; N]) -> [u64; N] {
        // Most processors compare signed vectors only; without sign bits the order is the same.
        let stored = B::split(bytes);
        let mut counts = [0; N];
        for place in 0..N {
            let limit = limits[place].signed();
            counts[place] = B::count(stored, |bits| bits.magnitude().signed() < limit);
        }
        counts
    }

    #[inline(always)]
    fn count_equal(bytes: &[u8], value: u8) -> u64 {
        const LOW_BITS: u64 = 0x7f7f_7f7f_7f7f_7f7f;
        const ROWS: usize = u8::MAX as usize;
        let pattern = u64::from_le_bytes([value; 8]);
        let count = |rows: &[[u8; 8]]| {
            let matches = rows.iter().fold(0u64, |matches, &row| {
                let different = u64::from_le_bytes(row) ^ pattern;
                // The top bit of a byte of `any` is clear exactly where no bit of `different` is set.
                let any = ((different & LOW_BITS) + LOW_BITS) | different;
                matches + (!any & !LOW_BITS) / 128
            });
            matches.to_le_bytes().into_iter().map(u64::from).sum::<u64>()
        };
        bytes.as_chunks::<8>().0.chunks(ROWS).map(count).sum()
    }

    #[inline(always)]
    fn prefetch(_address: *const u8) {}
}

/// A finite f16 without branches: its exponent and mantissa in the place f32 has them, rebiased by a product with
/// 2^112, which is exact for normal and subnormal halves alike.
#[inline(always)]
fn widen_f16(bits: u16) -> f64 {
    const REBIAS: f32 = f32::from_bits((127 + 112) << 23);
    let magnitude = f32::from_bits(u32::from(bits & 0x7fff) << 13) * REBIAS;
    let sign = u32::from(bits & 0x8000) << 16;
    f64::from(f32::from_bits(magnitude.to_bits() | sign))
}

#[cfg(test)]
mod tests {
    use half::f16;

    use super::*;

    #[test]
    fn every_finite_half_widens_to_itself() {
        for bits in 0..=u16::MAX {
            let half = f16::from_bits(bits);
            if half.is_finite() {
                assert_eq!(widen_f16(bits).to_bits(), half.to_f64().to_bits(), "{bits:#06x}");
            }
        }
    }
}
