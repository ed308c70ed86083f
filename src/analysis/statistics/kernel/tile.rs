//! One tile after the other: a piece of a block that stays in the first cache while it is looked at several times.

use super::element::{Bits, Element};
use super::powers;
use super::scan::{Extrema, Scan, scan};
use super::vector::Vector;
use crate::analysis::statistics::block::Block;
use crate::analysis::statistics::headroom::{Limits, TARGETS};
use crate::analysis::statistics::sums::LANES;
use crate::analysis::statistics::tally::Uniform;

/// Elements per tile; a multiple of the 32 lanes, and at most 65535.
const TILE: usize = 2048;

/// What to compute.
#[derive(Debug, Clone, Copy)]
pub(in crate::analysis::statistics) struct Job {
    /// Second to fourth powers.
    pub moments: bool,
    /// Limits of the casts, to count elements below each.
    pub limits: Option<Limits>,
    /// Elements per binade.
    pub binades: bool,
    /// K of the pivoted powers.
    pub pivot: f64,
    /// Power of two that every f64 element is multiplied by.
    pub scale: f64,
}

/// Adds `bytes`, whole elements of which all but the block's last come in stripes of 32, to `block`.
#[inline(always)]
pub(super) fn tiles<E: Element, V: Vector>(job: &Job, bytes: &[u8], block: &mut Block) {
    for tile in bytes.chunks(TILE * E::SIZE) {
        let stored = E::Bits::split(tile);
        let scan = scan::<E>(stored);
        count(&scan, stored.len(), |bits| E::value(bits), block);
        block.tally.uniform = block.tally.uniform.and(uniform::<E>(tile));
        if scan.all_finite() {
            add_finite::<E, V>(job, tile, block);
        } else {
            add_some::<E>(job, stored, block);
        }
        let Some(extrema) = &scan.extrema else { continue };
        if let Some(limits) = &job.limits {
            count_below::<E, V>(tile, limits, extrema, scan.finite, &mut block.tally.below);
        }
        if job.binades {
            count_binades::<E, V>(stored, &scan, extrema, &mut block.tally.binades);
        }
    }
}

/// Adds the counts and extrema of a scanned tile.
#[inline(always)]
fn count<B: Bits>(scan: &Scan<B>, elements: usize, value: impl Fn(B) -> f64, block: &mut Block) {
    let tally = &mut block.tally;
    tally.count += elements as u64;
    tally.nan += scan.nan;
    tally.positive_infinity += scan.positive_infinity;
    tally.negative_infinity += scan.negative_infinity;
    tally.zero += scan.zero;
    tally.subnormal += scan.subnormal;
    tally.negative += scan.negative;
    if let Some(extrema) = &scan.extrema {
        tally.min = tally.min.min(value(extrema.min));
        tally.max = tally.max.max(value(extrema.max));
    }
}

/// Whether all elements of a tile have the same bits: it then equals itself moved by one element. The comparison ends
/// at the first difference, which in weights is at once.
#[inline(always)]
fn uniform<E: Element>(tile: &[u8]) -> Uniform {
    let Some(&first) = E::Bits::split(tile).first() else { return Uniform::Nothing };
    if tile[E::SIZE..] == tile[..tile.len() - E::SIZE] {
        Uniform::All(E::Bits::read(first).into())
    } else {
        Uniform::Mixed
    }
}

/// Adds a tile without NaN or Inf to the sums: stripes in vectors, what is left one by one.
#[inline(always)]
fn add_finite<E: Element, V: Vector>(job: &Job, tile: &[u8], block: &mut Block) {
    let (stripes, rest) = tile.split_at(tile.len() - tile.len() % (LANES * E::SIZE));
    let lanes = &mut block.lanes;
    match (job.moments, job.pivot == 0.0) {
        (false, true) => powers::add::<E, V, false, false>(stripes, 0.0, job.scale, lanes),
        (false, false) => powers::add::<E, V, false, true>(stripes, job.pivot, job.scale, lanes),
        (true, true) => powers::add::<E, V, true, false>(stripes, 0.0, job.scale, lanes),
        (true, false) => powers::add::<E, V, true, true>(stripes, job.pivot, job.scale, lanes),
    }
    add_some::<E>(job, E::Bits::split(rest), block);
}

/// Adds the finite ones among elements that begin at lane 0, one by one.
fn add_some<E: Element>(job: &Job, stored: &[<E::Bits as Bits>::Stored], block: &mut Block) {
    for (index, &word) in stored.iter().enumerate() {
        let bits = E::Bits::read(word);
        if bits.magnitude() < E::infinity() {
            block.lanes.add(index % LANES, E::value(bits) * job.scale, job.pivot);
        }
    }
}

/// Counts the finite elements below each limit; limits outside the tile's magnitudes cost nothing.
#[inline(always)]
fn count_below<E: Element, V: Vector>(
    tile: &[u8],
    limits: &Limits,
    extrema: &Extrema<E::Bits>,
    finite: u64,
    below: &mut Limits,
) {
    let (limits, below) = (limits.as_flattened(), below.as_flattened_mut());
    let mut open = [0; 3 * TARGETS];
    let mut opened = 0;
    for (index, &limit) in limits.iter().enumerate() {
        if limit > extrema.max_abs.into() {
            below[index] += finite;
        } else if limit > extrema.min_abs.into() {
            open[opened] = index;
            opened += 1;
        }
    }
    for few in open[..opened].chunks(AT_ONCE) {
        match few.len() {
            1 => count_few::<E, V, 1>(tile, limits, few, below),
            2 => count_few::<E, V, 2>(tile, limits, few, below),
            3 => count_few::<E, V, 3>(tile, limits, few, below),
            4 => count_few::<E, V, 4>(tile, limits, few, below),
            5 => count_few::<E, V, 5>(tile, limits, few, below),
            _ => count_few::<E, V, AT_ONCE>(tile, limits, few, below),
        }
    }
}

/// Limits counted in one pass: a register for each, one for its count, and a few to work in.
const AT_ONCE: usize = 6;

/// Counts the elements below the `N` limits whose places are in `few`.
#[inline(always)]
fn count_few<E: Element, V: Vector, const N: usize>(
    tile: &[u8],
    limits: &[u64],
    few: &[usize],
    below: &mut [u64],
) {
    let mut wanted = [E::Bits::low(0); N];
    for (at, &place) in few.iter().enumerate() {
        wanted[at] = E::Bits::low(limits[place]);
    }
    let found = V::count_below::<E::Bits, N>(tile, wanted);
    for (at, &place) in few.iter().enumerate() {
        below[place] += found[at];
    }
}

/// Binades from the top that are counted by comparing whole vectors; below them lies 2⁻¹⁶ of anything bell-shaped.
const COMPARED_BINADES: u64 = 16;

/// Counts the finite, non-zero elements of each binade.
///
/// The exponents are packed into bytes, and from the largest downwards one comparison of the packed tile counts a
/// binade, until every normal element is accounted for. What is left after 16 binades, and subnormals, go one by one.
#[inline(always)]
fn count_binades<E: Element, V: Vector>(
    stored: &[<E::Bits as Bits>::Stored],
    scan: &Scan<E::Bits>,
    extrema: &Extrema<E::Bits>,
    binades: &mut [u64],
) {
    let place = |exponent: u64| exponent as usize + E::MANTISSA as usize - 1;
    let top = E::exponent(extrema.max_abs);
    let mut left = scan.finite - scan.zero - scan.subnormal;
    let mut packed = [0u8; TILE];
    let mut above = top + 1;
    // A double's exponent does not fit a byte, and a tile of doubles is rare enough to go one by one.
    if E::SIZE < 8 {
        for (byte, &word) in packed.iter_mut().zip(stored) {
            *byte = E::exponent(E::Bits::read(word)) as u8;
        }
        // The padding is 0, which no normal exponent is.
        let padded = stored.len().next_multiple_of(LANES);
        let end = top.saturating_sub(COMPARED_BINADES);
        while left > 0 && above - 1 > end {
            above -= 1;
            let found = V::count_equal(&packed[..padded], above as u8);
            binades[place(above)] += found;
            left -= found;
        }
    }
    if left + scan.subnormal == 0 {
        return;
    }
    for &word in stored {
        let magnitude: u64 = E::Bits::read(word).magnitude().into();
        let exponent = magnitude >> E::MANTISSA;
        if exponent > 0 && exponent < above {
            binades[place(exponent)] += 1;
        } else if exponent == 0 && magnitude > 0 {
            binades[magnitude.ilog2() as usize] += 1;
        }
    }
}
