//! The power sums of whole stripes of 32 finite elements, written once for every instruction set.
//!
//! Five sums of 32 lanes are 160 doubles, more than any register file holds. So the stripes of a tile, which stay in
//! the first cache, are passed over several times, each pass taking the lanes that fit: elements 0..8 of every stripe,
//! then 8..16, and so on.

use super::element::Element;
use super::vector::Vector;
use crate::analysis::statistics::sums::{LANES, Lanes};

/// Bytes that come from memory together.
const CACHE_LINE: usize = 64;

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
    if MOMENTS || E::SIZE < size_of::<f32>() {
        add_columns::<E, V, 1, MOMENTS, PIVOTED>(stripes, pivot, scale, lanes);
    } else {
        // With three sums, and nothing needed to widen what is stored, there is room for twice the lanes: then an
        // addition need not wait for the one before.
        add_columns::<E, V, 2, false, PIVOTED>(stripes, pivot, scale, lanes);
    }
}

/// [`add`], taking the lanes of `VECTORS` vectors in each pass.
#[inline(always)]
fn add_columns<E: Element, V: Vector, const VECTORS: usize, const MOMENTS: bool, const PIVOTED: bool>(
    stripes: &[u8],
    pivot: f64,
    scale: f64,
    lanes: &mut Lanes,
) {
    let (pivot, scale) = (V::splat(pivot), V::splat(scale));
    for first in (0..LANES).step_by(VECTORS * V::LANES) {
        // By index: what passes through `map` or an iterator by value passes through memory.
        let mut l1 = [V::splat(0.0); VECTORS];
        let (mut square, mut powers) = (l1, [l1; 4]);
        for vector in 0..VECTORS {
            let column = first + vector * V::LANES;
            l1[vector] = V::read(&lanes.l1[column..]);
            square[vector] = V::read(&lanes.square[column..]);
            for power in 0..powers.len() {
                powers[power][vector] = V::read(&lanes.powers[power][column..]);
            }
        }
        for stripe in stripes.chunks_exact(LANES * E::SIZE) {
            for vector in 0..VECTORS {
                let column = first + vector * V::LANES;
                let bytes = column * E::SIZE..(column + V::LANES) * E::SIZE;
                // The next tile comes from memory while this one is computed on; each of its lines is asked for once.
                for line in (bytes.start.next_multiple_of(CACHE_LINE)..bytes.end).step_by(CACHE_LINE) {
                    V::prefetch(stripe.as_ptr().wrapping_add(stripes.len() + line));
                }
                let x = E::load(&stripe[bytes], scale);
                l1[vector] = l1[vector].add(x.abs());
                let x2 = x.mul(x);
                square[vector] = if E::EXACT_SQUARE {
                    square[vector].add_exact_product(x, x)
                } else {
                    square[vector].add(x2)
                };
                let d = if PIVOTED { x.sub(pivot) } else { x };
                let d2 = if PIVOTED { d.mul(d) } else { x2 };
                powers[0][vector] = powers[0][vector].add(d);
                if MOMENTS {
                    if PIVOTED {
                        powers[1][vector] = powers[1][vector].add(d2);
                    }
                    if E::EXACT_FOURTH && !PIVOTED {
                        powers[2][vector] = powers[2][vector].add_exact_product(d2, d);
                        powers[3][vector] = powers[3][vector].add_exact_product(d2, d2);
                    } else {
                        powers[2][vector] = powers[2][vector].add(d2.mul(d));
                        powers[3][vector] = powers[3][vector].add(d2.mul(d2));
                    }
                }
            }
        }
        for vector in 0..VECTORS {
            let column = first + vector * V::LANES;
            l1[vector].write(&mut lanes.l1[column..]);
            square[vector].write(&mut lanes.square[column..]);
            for power in 0..powers.len() {
                powers[power][vector].write(&mut lanes.powers[power][column..]);
            }
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
