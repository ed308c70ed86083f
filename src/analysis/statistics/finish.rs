//! From tally and sums to statistics.
//!
//! With n finite elements, pivot K, sₚ = Σ(x−K)ᵖ and d = s₁/n (Pébay 2008, SAND2008-6212, for one part):
//!
//! - mean = K + d
//! - M₂ = s₂ − n·d², M₃ = s₃ − 3d·s₂ + 2n·d³, M₄ = s₄ − 4d·s₃ + 6d²·s₂ − 3n·d⁴
//! - variance = M₂/n, skewness = √n·M₃/M₂^1.5, excess kurtosis = n·M₄/M₂² − 3
//!
//! # When a moment is given
//! These differences cancel when the mean is far from the pivot. The pivot is 0, or 1 for norm gains, and is never
//! chosen from the data, because the parts of a tensor must merge. Instead the worst case is computed: γ of
//! [`super::sums`] times the sum of the absolute values of the terms. A moment is a value only when that is at most
//! 1e-3 of it (of 1 for the skewness, which is 0 for anything symmetric). With K = 0 and a full block, that is
//! |mean| up to about 10⁴ standard deviations for the variance, 300 for the skewness, 80 for the kurtosis. The error
//! seen is far smaller: roundings do not conspire.

use super::block::Contribution;
use super::headroom;
use super::sums::error_bound;
use super::tally::Uniform;
use crate::analysis::model::{Degenerate, Exponents, Measured, Statistics};

/// What was asked for, as far as the formulas need to know.
pub(super) struct Terms {
    /// K.
    pub pivot: f64,
    /// What every element was multiplied by.
    pub scale: f64,
    /// Second to fourth powers are there.
    pub moments: bool,
    /// Counts below the limits of the casts are there.
    pub headroom: bool,
    /// ⌊log2|x|⌋ of the first count of binades, if they are there.
    pub lowest: Option<i32>,
    /// The bits of 1.0 in the stored dtype.
    pub one: u64,
}

/// Why what is not there is not.
const NEEDS_STATS: &str = "needs --measure stats";
/// The largest worst-case error a moment may have.
const TOLERANCE: f64 = 1e-3;

/// The statistics of a float tensor.
pub(super) fn statistics(whole: &Contribution, terms: &Terms) -> Statistics {
    let tally = &whole.tally;
    let finite = tally.finite();
    let missing = if tally.count == 0 { Some(Degenerate::Empty) } else { Some(Degenerate::NoFiniteElement) };
    let missing = missing.filter(|_| finite == 0);
    let value = |value: f64| match missing {
        Some(kind) => Measured::Degenerate(kind),
        None if value.is_finite() => Measured::Value(value),
        None => Measured::Degenerate(Degenerate::Overflow),
    };
    let n = finite as f64;
    let unscale = terms.scale.recip();
    let l2 = whole.sums.square.sqrt() * unscale;
    let rms = (whole.sums.square / n).sqrt() * unscale;
    let moments = match missing {
        Some(kind) => Moments::all(&Measured::Degenerate(kind)),
        None if !terms.moments => Moments::all(&Measured::not(NEEDS_STATS)),
        None if tally.min == tally.max => Moments::of_constant(),
        None => Moments::of_sums(&whole.sums.powers, n, error_bound(finite), unscale),
    };
    Statistics {
        count: tally.count,
        nan: tally.nan,
        positive_infinity: tally.positive_infinity,
        negative_infinity: tally.negative_infinity,
        zero: tally.zero,
        subnormal: tally.subnormal,
        negative: tally.negative,
        // Adding +0 makes a −0 a +0: which of the two zeros was met first must not show.
        min: value(tally.min + 0.0),
        max: value(tally.max + 0.0),
        max_abs: value(tally.max.max(-tally.min) + 0.0),
        l1: value(whole.sums.l1 * unscale),
        l2: value(l2),
        rms: value(rms),
        mean: value(mean(whole, terms.pivot, n, unscale)),
        variance: moments.variance,
        skewness: moments.skewness,
        excess_kurtosis: moments.excess_kurtosis,
        exponents: exponents(whole, terms.lowest, missing),
        headroom: match missing {
            Some(kind) => Measured::Degenerate(kind),
            None if terms.headroom => Measured::Value(headroom::headroom(tally)),
            None => Measured::not(NEEDS_STATS),
        },
        all_equal: match missing {
            Some(kind) => Measured::Degenerate(kind),
            None => Measured::Value(tally.min == tally.max && finite == tally.count),
        },
        all_one: match missing {
            Some(Degenerate::Empty) => Measured::Degenerate(Degenerate::Empty),
            _ => Measured::Value(tally.uniform == Uniform::All(terms.one)),
        },
    }
}

/// The mean; exactly the element where all are equal, which no sum of roundings would be.
fn mean(whole: &Contribution, pivot: f64, n: f64, unscale: f64) -> f64 {
    if whole.tally.min == whole.tally.max {
        whole.tally.min + 0.0
    } else {
        (pivot + whole.sums.powers[0] / n) * unscale
    }
}

fn exponents(whole: &Contribution, lowest: Option<i32>, missing: Option<Degenerate>) -> Measured<Exponents> {
    if let Some(kind) = missing {
        return Measured::Degenerate(kind);
    }
    let Some(lowest) = lowest else { return Measured::not(NEEDS_STATS) };
    let binades = &whole.tally.binades;
    let Some(first) = binades.iter().position(|&count| count > 0) else {
        return Measured::Degenerate(Degenerate::AllZero);
    };
    let last = binades.iter().rposition(|&count| count > 0).expect("there is a first, so there is a last");
    let lowest = lowest + i32::try_from(first).expect("there are at most 2098 binades");
    Measured::Value(Exponents { lowest, counts: binades[first..=last].to_vec() })
}

/// What the sums of higher powers are for.
struct Moments {
    variance: Measured<f64>,
    skewness: Measured<f64>,
    excess_kurtosis: Measured<f64>,
}

impl Moments {
    fn all(outcome: &Measured<f64>) -> Self {
        Self { variance: outcome.clone(), skewness: outcome.clone(), excess_kurtosis: outcome.clone() }
    }

    fn of_constant() -> Self {
        let constant = || Measured::Degenerate(Degenerate::Constant);
        Self { variance: Measured::Value(0.0), skewness: constant(), excess_kurtosis: constant() }
    }

    fn of_sums(&[s1, s2, s3, s4]: &[f64; 4], n: f64, gamma: f64, unscale: f64) -> Self {
        let d = s1 / n;
        let m2 = s2 - n * d * d;
        let m3 = s3 - 3.0 * d * s2 + 2.0 * n * d * d * d;
        let m4 = s4 - 4.0 * d * s3 + 6.0 * d * d * s2 - 3.0 * n * d * d * d * d;
        // Σ|x−K| and Σ|x−K|³ are not known; by Cauchy and Schwarz they are at most these.
        let (a1, a3) = ((n * s2).sqrt(), (s2 * s4).sqrt());
        let e = a1 / n;
        let error2 = gamma * (s2 + 2.0 * e * a1);
        let error3 = gamma * (a3 + 6.0 * e * s2 + 6.0 * n * e * e * e);
        let error4 = gamma * (s4 + 8.0 * e * a3 + 18.0 * e * e * s2 + 12.0 * n * e * e * e * e);
        let resolved = |error: f64, value: f64| m2 > 0.0 && error <= TOLERANCE * value;
        let given = |is_resolved: bool, value: f64| match value {
            _ if !is_resolved => Measured::not("the elements differ by less than the rounding of their sums"),
            _ if value.is_finite() => Measured::Value(value),
            _ => Measured::Degenerate(Degenerate::Overflow),
        };
        let variance_resolved = resolved(error2, m2);
        let variance = m2 / n * unscale * unscale;
        // Elements that differ have a variance above 0, be it below anything f64 can hold.
        let in_range = if variance == 0.0 { f64::INFINITY } else { variance };
        Self {
            variance: given(variance_resolved, in_range),
            skewness: given(
                variance_resolved && resolved(error3, m2.powf(1.5) / n.sqrt()),
                n.sqrt() * m3 / m2.powf(1.5),
            ),
            excess_kurtosis: given(variance_resolved && resolved(error4, m4), n * m4 / (m2 * m2) - 3.0),
        }
    }
}
