//! What rounding to nearest, ties to even, in a narrower dtype does to an element, as limits on its magnitude.
//!
//! A target with m mantissa bits and smallest normal 2^e has subnormals that are multiples of q = 2^(e−m). A magnitude
//! a > 0 becomes
//! - zero when a ≤ q/2 (the tie goes to 0, which is even);
//! - subnormal when q/2 < a < 2^e − q/2 (the tie at the top goes to 2^e, which is even: the largest subnormal is odd);
//! - infinite when a ≥ max + half the spacing at max, where max has an odd mantissa (f16, bf16, E5M2: the tie goes up).
//!   E4M3 (fn) has no infinity and its max, 448 = 1.110₂·2⁸, is even: 464 rounds back to it, and what is above
//!   overflows. (OCP 8-bit floating point specification; IEEE 754 §4.3.1.)
//!
//! Each limit becomes the first magnitude pattern of the source dtype on its far side, found by bisection over the
//! patterns, whose order is the order of values. Counting is then integer comparison.

use super::kernel::element::{Bits, Element};
use super::tally::Tally;
use crate::analysis::model::{Cast, Headroom};

/// Number of target dtypes.
pub(super) const TARGETS: usize = 4;

/// A dtype one may cast to.
struct Target {
    mantissa: i32,
    smallest_normal: i32,
    /// Halfway from the largest finite value to what would follow.
    overflow: f64,
    /// Whether that tie overflows.
    tie_overflows: bool,
}

/// f16, bf16, E4M3, E5M2, in the order of [`Headroom`]'s fields.
const fn targets() -> [Target; TARGETS] {
    /// (2 − 2⁻⁸)·2¹²⁷.
    const BF16_TIE: f64 = 511.0 / 256.0 * f64::from_bits((1023 + 127) << 52);
    [
        Target { mantissa: 10, smallest_normal: -14, overflow: 65520.0, tie_overflows: true },
        Target { mantissa: 7, smallest_normal: -126, overflow: BF16_TIE, tie_overflows: true },
        Target { mantissa: 3, smallest_normal: -6, overflow: 464.0, tie_overflows: false },
        Target { mantissa: 2, smallest_normal: -14, overflow: 61440.0, tie_overflows: true },
    ]
}

impl Target {
    /// For a magnitude: not flushed, not subnormal, overflows. Each is false up to a point and true from there.
    fn limits(&self) -> [impl Fn(f64) -> bool; 3] {
        let half_step = 2f64.powi(self.smallest_normal - self.mantissa - 1);
        let normal = 2f64.powi(self.smallest_normal) - half_step;
        let beyond = |limit: f64, inclusive: bool| move |a: f64| a > limit || (inclusive && a == limit);
        [beyond(half_step, false), beyond(normal, true), beyond(self.overflow, self.tie_overflows)]
    }
}

/// For each target, the first pattern that is not flushed, that is not subnormal, that overflows.
pub(super) type Limits = [[u64; 3]; TARGETS];

/// The limits among the magnitudes of `E`.
pub(super) fn limits_of<E: Element>() -> Limits {
    limits(E::infinity().into(), |magnitude| E::value(E::Bits::low(magnitude)))
}

/// The limits among magnitudes of which `beyond` is the first that is not finite.
pub(super) fn limits(beyond: u64, value: impl Fn(u64) -> f64) -> Limits {
    targets().map(|target| target.limits().map(|limit| first_pattern(beyond, |bits| limit(value(bits)))))
}

/// The first magnitude up to `end` that is on the far side. Bisection.
fn first_pattern(end: u64, is_beyond: impl Fn(u64) -> bool) -> u64 {
    let (mut low, mut high) = (0, end);
    while low < high {
        let middle = u64::midpoint(low, high);
        if is_beyond(middle) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    low
}

/// The counts as what each cast would lose.
pub(super) fn headroom(tally: &Tally) -> Headroom {
    let [f16, bf16, f8_e4m3, f8_e5m2] = tally.below.map(|[flush, normal, overflow]| Cast {
        overflow: tally.finite() - overflow,
        flush: flush - tally.zero,
        subnormal: normal - flush,
    });
    Headroom { f16, bf16, f8_e4m3, f8_e5m2 }
}
