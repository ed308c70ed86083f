//! The power sums of whole stripes of 32 finite elements, written once for every instruction set.
//!
//! Five sums of 32 lanes are 160 doubles, more than any register file holds. So the stripes of a tile, which stay in
//! the first cache, are passed over several times, each pass taking the lanes that fit: elements 0..8 of every stripe,
//! then 8..16, and so on.

use super::element::Element;
use super::vector::Vector;
use crate::analysis::statistics::sums::{LANES, Lanes};

/// Adds `stripes`, a whole number of stripes without NaN or Inf, to `lanes`.
///
/// `MOMENTS`: also the second to fourth pivoted powers. `PIVOTED`: the pivot is not 0; without it the second power is
/// the square, and [`super::super::block`] copies it.
#[inline(always)]
pub(super) fn add<E: Element, V: Vector, const MOMENTS: bool, const PIVOTED: bool>(
    stripes: &[u8],
    pivot: f64,
    scale: f64,
    lanes: &mut Lanes,
) {
    let (pivot, scale) = (V::splat(pivot), V::splat(scale));
    for first in (0..LANES).step_by(V::LANES) {
        let mut l1 = V::read(&lanes.l1[first..]);
        let mut square = V::read(&lanes.square[first..]);
        let mut powers = [0, 1, 2, 3].map(|power: usize| V::read(&lanes.powers[power][first..]));
        for stripe in stripes.chunks_exact(LANES * E::SIZE) {
            // The next tile comes from memory while this one is computed on.
            V::prefetch(stripe.as_ptr().wrapping_add(stripes.len() + first * E::SIZE));
            let x = E::load(&stripe[first * E::SIZE..][..V::LANES * E::SIZE], scale);
            let x2 = x.mul(x);
            l1 = l1.add(x.abs());
            square = square.add(x2);
            let d = if PIVOTED { x.sub(pivot) } else { x };
            let d2 = if PIVOTED { d.mul(d) } else { x2 };
            powers[0] = powers[0].add(d);
            if MOMENTS {
                if PIVOTED {
                    powers[1] = powers[1].add(d2);
                }
                powers[2] = powers[2].add(d2.mul(d));
                powers[3] = powers[3].add(d2.mul(d2));
            }
        }
        l1.write(&mut lanes.l1[first..]);
        square.write(&mut lanes.square[first..]);
        for (power, sum) in powers.into_iter().enumerate() {
            sum.write(&mut lanes.powers[power][first..]);
        }
    }
}

/// Adds the squares of `stripes`, whatever they are: a NaN or Inf makes its lane so.
#[inline(always)]
pub(super) fn add_squares<E: Element, V: Vector>(stripes: &[u8], squares: &mut [f64; LANES]) {
    let one = V::splat(1.0);
    for first in (0..LANES).step_by(V::LANES) {
        let mut square = V::read(&squares[first..]);
        for stripe in stripes.chunks_exact(LANES * E::SIZE) {
            let x = E::load(&stripe[first * E::SIZE..][..V::LANES * E::SIZE], one);
            square = square.add(x.mul(x));
        }
        square.write(&mut squares[first..]);
    }
}
