//! What integer comparisons tell about a tile: extrema, zeros, subnormals, negatives, NaN and Inf.
//!
//! The largest and smallest of the patterns, taken as signed and as unsigned integers, give all four of: largest
//! positive, smallest positive, largest and smallest magnitude among the negatives. Two of these say whether anything
//! else (non-finite elements, zeros, subnormals) is in the tile at all, and only then is it counted. Plain loops: the
//! compiler turns them into whatever vectors the entry point allows.

use std::cmp::Ordering;

use super::element::{Bits, Element};

/// A tile without arithmetic.
pub(super) struct Scan<B> {
    /// NaN elements.
    pub nan: u64,
    /// +Inf elements.
    pub positive_infinity: u64,
    /// −Inf elements.
    pub negative_infinity: u64,
    /// +0 and −0.
    pub zero: u64,
    /// Non-zero, below the smallest normal.
    pub subnormal: u64,
    /// Finite, below 0.
    pub negative: u64,
    /// Finite elements.
    pub finite: u64,
    /// Patterns of the finite extrema, where there is a finite element.
    pub extrema: Option<Extrema<B>>,
}

/// Patterns of the extreme finite elements.
pub(super) struct Extrema<B> {
    /// Of the smallest element.
    pub min: B,
    /// Of the largest element.
    pub max: B,
    /// Of the smallest magnitude.
    pub min_abs: B,
    /// Of the largest magnitude.
    pub max_abs: B,
}

impl<B> Scan<B> {
    /// No NaN, no Inf.
    pub(super) fn all_finite(&self) -> bool {
        self.nan + self.positive_infinity + self.negative_infinity == 0
    }
}

/// Scans one tile.
#[inline(always)]
pub(super) fn scan<E: Element>(stored: &[<E::Bits as Bits>::Stored]) -> Scan<E::Bits> {
    match bounds::<E::Bits>(stored) {
        Some((extrema, signs)) if extrema.max_abs < E::infinity() => scan_finite::<E>(stored, extrema, signs),
        _ => scan_any::<E>(stored),
    }
}

/// Extrema of all patterns, and how many have their sign set. Nothing for an empty tile.
#[inline(always)]
fn bounds<B: Bits>(stored: &[B::Stored]) -> Option<(Extrema<B>, u64)> {
    let first = B::read(*stored.first()?);
    let (mut signed_max, mut signed_min) = (first.signed(), first.signed());
    let (mut unsigned_max, mut unsigned_min) = (first, first);
    let mut signs = B::low(0);
    for &word in stored {
        let bits = B::read(word);
        signs = signs.plus(bits >= B::SIGN);
        signed_max = signed_max.max(bits.signed());
        signed_min = signed_min.min(bits.signed());
        unsigned_max = unsigned_max.max(bits);
        unsigned_min = unsigned_min.min(bits);
    }
    let signs = signs.into();
    let (signed_max, signed_min) = (B::unsigned(signed_max), B::unsigned(signed_min));
    let (any_positive, any_negative) = (signed_max < B::SIGN, unsigned_max >= B::SIGN);
    let extrema = match (any_positive, any_negative) {
        (true, true) => Extrema {
            min: unsigned_max,
            max: signed_max,
            min_abs: unsigned_min.min(signed_min.magnitude()),
            max_abs: signed_max.max(unsigned_max.magnitude()),
        },
        (true, false) => {
            Extrema { min: unsigned_min, max: signed_max, min_abs: unsigned_min, max_abs: signed_max }
        }
        (false, _) => Extrema {
            min: unsigned_max,
            max: signed_min,
            min_abs: signed_min.magnitude(),
            max_abs: unsigned_max.magnitude(),
        },
    };
    Some((extrema, signs))
}

/// A tile known to be finite.
#[inline(always)]
fn scan_finite<E: Element>(
    stored: &[<E::Bits as Bits>::Stored],
    extrema: Extrema<E::Bits>,
    signs: u64,
) -> Scan<E::Bits> {
    let (mut zero, mut below_normal, mut negative_zero) = (0, 0, 0);
    if extrema.min_abs < E::smallest_normal() {
        let nothing = E::Bits::low(0);
        zero = E::Bits::count(stored, |bits| bits.magnitude() == nothing);
        below_normal = E::Bits::count(stored, |bits| bits.magnitude() < E::smallest_normal());
        negative_zero = E::Bits::count(stored, |bits| bits == E::Bits::SIGN);
    }
    Scan {
        nan: 0,
        positive_infinity: 0,
        negative_infinity: 0,
        zero,
        subnormal: below_normal - zero,
        negative: signs - negative_zero,
        finite: stored.len() as u64,
        extrema: Some(extrema),
    }
}

/// A tile with NaN or Inf in it, element by element.
fn scan_any<E: Element>(stored: &[<E::Bits as Bits>::Stored]) -> Scan<E::Bits> {
    let mut scan = Scan {
        nan: 0,
        positive_infinity: 0,
        negative_infinity: 0,
        zero: 0,
        subnormal: 0,
        negative: 0,
        finite: 0,
        extrema: None::<Extrema<E::Bits>>,
    };
    for &word in stored {
        let bits = E::Bits::read(word);
        let (magnitude, signed) = (bits.magnitude(), bits >= E::Bits::SIGN);
        match (magnitude.cmp(&E::infinity()), signed) {
            (Ordering::Greater, _) => scan.nan += 1,
            (Ordering::Equal, false) => scan.positive_infinity += 1,
            (Ordering::Equal, true) => scan.negative_infinity += 1,
            (Ordering::Less, _) => {
                let is_zero = magnitude.into() == 0;
                scan.finite += 1;
                scan.zero += u64::from(is_zero);
                scan.subnormal += u64::from(!is_zero && magnitude < E::smallest_normal());
                scan.negative += u64::from(signed && !is_zero);
                scan.extrema = Some(widened::<E>(scan.extrema, bits));
            }
        }
    }
    scan
}

/// The extrema with one more element.
fn widened<E: Element>(known: Option<Extrema<E::Bits>>, bits: E::Bits) -> Extrema<E::Bits> {
    let magnitude = bits.magnitude();
    let Some(known) = known else {
        return Extrema { min: bits, max: bits, min_abs: magnitude, max_abs: magnitude };
    };
    Extrema {
        min: if E::value(bits) < E::value(known.min) { bits } else { known.min },
        max: if E::value(bits) > E::value(known.max) { bits } else { known.max },
        min_abs: known.min_abs.min(magnitude),
        max_abs: known.max_abs.max(magnitude),
    }
}
