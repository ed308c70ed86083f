//! Sums of powers: 32 fixed lanes in a block, one value per block, added in block order.
//!
//! Element `i` of a block goes to lane `i mod 32`, whatever the width of the machine's vectors; each lane adds its
//! elements in index order; the lanes are joined by a fixed halving tree; blocks are added in index order. So the sums
//! are the same bits for any instruction set and any number of threads.
//!
//! # Error
//! With u = 2⁻⁵³, a block of b ≤ 2²⁰ elements and B blocks, each sum S of terms t carries
//! |Ŝ − S| ≤ γ·Σ|t|, γ = (⌈b/32⌉ + 5 + B + 8)·u: the additions that one element passes through, and at most eight
//! roundings of the term itself (two for a pivoted power, the rest in reserve). For a block that is full,
//! γ = 3.6e-12 + 1.1e-16 per block (Higham, *Accuracy and Stability of Numerical Algorithms*, §4.2). Squares of
//! anything narrower than f64 are exact.

/// Elements per block.
pub(super) const BLOCK: u64 = 1 << 20;
/// Lanes of a block.
pub(super) const LANES: usize = 32;
/// Half the distance from 1 to the next f64.
const UNIT_ROUNDOFF: f64 = f64::EPSILON / 2.0;

/// The lanes of one block.
#[derive(Debug, Clone)]
pub(super) struct Lanes {
    /// Σ|x|.
    pub l1: [f64; LANES],
    /// Σx².
    pub square: [f64; LANES],
    /// Σ(x−K)ᵖ for p = 1, 2, 3, 4.
    pub powers: [[f64; LANES]; 4],
}

impl Lanes {
    pub(super) fn new() -> Self {
        Self { l1: [0.0; LANES], square: [0.0; LANES], powers: [[0.0; LANES]; 4] }
    }

    /// Adds one element. The vector kernels do the same to a lane, operation by operation.
    #[inline]
    pub(super) fn add(&mut self, lane: usize, x: f64, pivot: f64) {
        let d = x - pivot;
        let d2 = d * d;
        self.l1[lane] += x.abs();
        self.square[lane] += x * x;
        self.powers[0][lane] += d;
        self.powers[1][lane] += d2;
        self.powers[2][lane] += d2 * d;
        self.powers[3][lane] += d2 * d2;
    }

    /// The block's sums.
    pub(super) fn join(&self) -> Sums {
        Sums { l1: halve(self.l1), square: halve(self.square), powers: self.powers.map(halve) }
    }
}

/// Adds the upper half of the lanes to the lower half until one is left.
pub(super) fn halve(mut lanes: [f64; LANES]) -> f64 {
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            lanes[lane] += lanes[lane + width];
        }
        width /= 2;
    }
    lanes[0]
}

/// Sums over elements, of one block or of many.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Sums {
    /// Σ|x|.
    pub l1: f64,
    /// Σx².
    pub square: f64,
    /// Σ(x−K)ᵖ for p = 1, 2, 3, 4.
    pub powers: [f64; 4],
}

impl Sums {
    /// Adds the next block.
    pub(super) fn add(&mut self, next: &Self) {
        self.l1 += next.l1;
        self.square += next.square;
        for (sum, next) in self.powers.iter_mut().zip(next.powers) {
            *sum += next;
        }
    }

    /// The sums of `times` copies of the same elements.
    pub(super) fn repeat(&mut self, times: u64) {
        let times = times as f64;
        self.l1 *= times;
        self.square *= times;
        self.powers = self.powers.map(|sum| sum * times);
    }
}

/// γ of the module's text, for a tensor of `count` elements.
pub(super) fn error_bound(count: u64) -> f64 {
    let per_lane = count.min(BLOCK).div_ceil(LANES as u64);
    (per_lane + 5 + count.div_ceil(BLOCK) + 8) as f64 * UNIT_ROUNDOFF
}
