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

/// Stripes that are added between two looks at whether there are more.
const UNROLLED: usize = 4;

/// [`add`], taking the lanes of `VECTORS` vectors in each pass.
#[inline(always)]
fn add_columns<E: Element, V: Vector, const VECTORS: usize, const MOMENTS: bool, const PIVOTED: bool>(
    stripes: &[u8],
    pivot: f64,
    scale: f64,
    lanes: &mut Lanes,
) {
    let (pivot, scale) = (V::splat(pivot), V::splat(scale));
    let stripe = LANES * E::SIZE;
    let column = VECTORS * V::LANES;
    for first in (0..LANES).step_by(column) {
        let mut sums = Columns::<V, VECTORS>::read(lanes, first);
        // The next tile comes from memory while this one is computed on; each pass asks for its share of the lines.
        let share = column * E::SIZE;
        let mut next = stripes.as_ptr().wrapping_add(stripes.len() + stripes.len() / LANES * first);
        let together = stripes.chunks_exact(UNROLLED * stripe);
        for some in together.clone() {
            for line in (0..UNROLLED * share).step_by(CACHE_LINE) {
                V::prefetch(next.wrapping_add(line));
            }
            next = next.wrapping_add(UNROLLED * share);
            for number in 0..UNROLLED {
                sums.add::<E, MOMENTS, PIVOTED>(
                    &some[number * stripe + first * E::SIZE..][..share],
                    pivot,
                    scale,
                );
            }
        }
        for stripe in together.remainder().chunks_exact(stripe) {
            sums.add::<E, MOMENTS, PIVOTED>(&stripe[first * E::SIZE..][..share], pivot, scale);
        }
        sums.write(lanes, first);
    }
}

/// The sums of some neighbouring lanes. Arrays are walked by index: what passes through `map` or an iterator by value passes
/// through memory.
struct Columns<V, const VECTORS: usize> {
    l1: [V; VECTORS],
    square: [V; VECTORS],
    powers: [[V; VECTORS]; 4],
}

impl<V: Vector, const VECTORS: usize> Columns<V, VECTORS> {
    /// Those of the lanes from `first` on.
    #[inline(always)]
    fn read(lanes: &Lanes, first: usize) -> Self {
        let nothing = [V::splat(0.0); VECTORS];
        let mut sums = Self { l1: nothing, square: nothing, powers: [nothing; 4] };
        for vector in 0..VECTORS {
            let column = first + vector * V::LANES;
            sums.l1[vector] = V::read(&lanes.l1[column..]);
            sums.square[vector] = V::read(&lanes.square[column..]);
            for power in 0..sums.powers.len() {
                sums.powers[power][vector] = V::read(&lanes.powers[power][column..]);
            }
        }
        sums
    }

    #[inline(always)]
    fn write(self, lanes: &mut Lanes, first: usize) {
        for vector in 0..VECTORS {
            let column = first + vector * V::LANES;
            self.l1[vector].write(&mut lanes.l1[column..]);
            self.square[vector].write(&mut lanes.square[column..]);
            for power in 0..self.powers.len() {
                self.powers[power][vector].write(&mut lanes.powers[power][column..]);
            }
        }
    }

    /// Adds the elements of one stripe that belong to these lanes.
    #[inline(always)]
    fn add<E: Element, const MOMENTS: bool, const PIVOTED: bool>(
        &mut self,
        bytes: &[u8],
        pivot: V,
        scale: V,
    ) {
        for vector in 0..VECTORS {
            let x = E::load(&bytes[vector * V::LANES * E::SIZE..], scale);
            self.l1[vector] = self.l1[vector].add(x.abs());
            let x2 = x.mul(x);
            self.square[vector] = if E::EXACT_SQUARE {
                self.square[vector].add_exact_product(x, x)
            } else {
                self.square[vector].add(x2)
            };
            let d = if PIVOTED { x.sub(pivot) } else { x };
            let d2 = if PIVOTED { d.mul(d) } else { x2 };
            self.powers[0][vector] = self.powers[0][vector].add(d);
            if !MOMENTS {
                continue;
            }
            if PIVOTED {
                self.powers[1][vector] = self.powers[1][vector].add(d2);
            }
            if E::EXACT_FOURTH && !PIVOTED {
                self.powers[2][vector] = self.powers[2][vector].add_exact_product(d2, d);
                self.powers[3][vector] = self.powers[3][vector].add_exact_product(d2, d2);
            } else {
                self.powers[2][vector] = self.powers[2][vector].add(d2.mul(d));
                self.powers[3][vector] = self.powers[3][vector].add(d2.mul(d2));
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
