//! What is counted exactly: it merges exactly, in any order.

use super::headroom::TARGETS;

/// Counts, extrema and histograms over elements, of one block or of many.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Tally {
    /// Elements.
    pub count: u64,
    /// NaN elements.
    pub nan: u64,
    /// +Inf elements.
    pub positive_infinity: u64,
    /// −Inf elements.
    pub negative_infinity: u64,
    /// +0 and −0.
    pub zero: u64,
    /// Non-zero, below the smallest normal of the stored dtype.
    pub subnormal: u64,
    /// Finite, below 0.
    pub negative: u64,
    /// Smallest finite element; +Inf where there is none.
    pub min: f64,
    /// Largest finite element; −Inf where there is none.
    pub max: f64,
    /// Whether all elements have the same bits.
    pub uniform: Uniform,
    /// For each target of a cast, finite elements below each of its three limits.
    pub below: [[u64; 3]; TARGETS],
    /// Finite, non-zero elements per binade, from the smallest subnormal's upwards; empty when not asked for.
    pub binades: Vec<u64>,
}

/// Whether all elements have the same bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Uniform {
    /// There was no element yet.
    Nothing,
    /// All have these.
    All(u64),
    /// Two differ.
    Mixed,
}

impl Uniform {
    /// Of both parts together.
    pub(super) fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Nothing, known) | (known, Self::Nothing) => known,
            (Self::All(one), Self::All(two)) if one == two => self,
            _ => Self::Mixed,
        }
    }
}

impl Tally {
    /// Of nothing, with room for `binades` counts.
    pub(super) fn new(binades: usize) -> Self {
        Self {
            count: 0,
            nan: 0,
            positive_infinity: 0,
            negative_infinity: 0,
            zero: 0,
            subnormal: 0,
            negative: 0,
            min: f64::INFINITY,
            max: f64::NEG_INFINITY,
            uniform: Uniform::Nothing,
            below: [[0; 3]; TARGETS],
            binades: vec![0; binades],
        }
    }

    /// Elements that are neither NaN nor infinite.
    pub(super) fn finite(&self) -> u64 {
        self.count - self.nan - self.positive_infinity - self.negative_infinity
    }

    /// Adds another part.
    pub(super) fn add(&mut self, other: &Self) {
        for (count, other) in self.counts_mut().zip(other.clone().counts_mut()) {
            *count += *other;
        }
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
        self.uniform = self.uniform.and(other.uniform);
    }

    /// The tally of `times` copies of the same elements.
    pub(super) fn repeat(&mut self, times: u64) {
        for count in self.counts_mut() {
            *count *= times;
        }
    }

    fn counts_mut(&mut self) -> impl Iterator<Item = &mut u64> {
        [
            &mut self.count,
            &mut self.nan,
            &mut self.positive_infinity,
            &mut self.negative_infinity,
            &mut self.zero,
            &mut self.subnormal,
            &mut self.negative,
        ]
        .into_iter()
        .chain(self.below.as_flattened_mut())
        .chain(&mut self.binades)
    }
}
