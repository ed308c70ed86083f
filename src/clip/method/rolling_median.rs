//! A power of a multiple of the median of the last few norms: a threshold that goes where the norms of a healthy run go, and that clips about a
//! twelfth of them.
//!
//! Our own, after the remark of Pascanu, Mikolov, Bengio 2013 (arXiv:1211.5063, section 3.2) that a threshold is to be a multiple of the
//! usual norm. Norms are remembered as if they were clipped to it: for a spike of up to four steps a median of ten stays among the norms around
//! it, and for a longer one it grows by about the multiple, at most by its square, in five steps. Norms that rise for good it follows as slowly;
//! a slow explosion it would follow too, hence the most that it may be. A norm of 0 is not remembered: a median of 0 would clip all to 0 for good.
//!
//! How far norms spread over that median changes in a run, and a multiple that was right clips nothing, or a quarter, later on. So its power p,
//! 1 at first, is itself a step of gradient descent on the pinball loss, as the adaptive intervals of Gibbs, Candès 2021 (arXiv:2106.00170,
//! equation 2) are: p ← p + η·(b − γ), b = 1 where the step was clipped, else 0. While p does not come to its ends, the share that is clipped of T
//! steps is within 2/(ηT) of γ, whatever the norms are: the sum of b − γ is the change of p over η. At its ends it is not: norms that fall by some
//! percent a step are never clipped, of those that rise so most are, and of norms that jump between two values every other step half.
//!
//! What is clipped comes half way back, to the geometric mean of what it is and of the limit, since nobody knows that it is a spike; and no further
//! above the limit than √(m^p) or half of it: beyond that it is one.

use serde::{Deserialize, Serialize};

use super::window::Window;

/// Norms whose median it goes by.
pub const RECENT_NORMS: usize = 10;

/// γ: the share of steps that is clipped, a little below the tenth of the risk catalogue, section 2.4; chosen on ten zoos (docs/benchmarks-clip.md).
pub const CLIPPED_SHARE: f64 = 0.08;

/// η: by how much of itself, as a power, a clipped step raises the multiple; chosen with the share.
pub const POWER_RATE: f64 = 0.5;

/// The power is between 0 and this: a long spike can make no more of the multiple than its square.
pub const MOST_POWER: f64 = 2.0;

/// A norm is taken for at most the multiple times the limit, and at most this many times: so no norm is left at more than √2.25 = 1.5 times the limit.
pub const MOST_REACH: f64 = 2.25;

/// The method and its constants.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct RollingMedian {
    /// The threshold over the median at first, above 1.
    pub multiple: f64,
    /// Norms that are looked back at.
    pub window: usize,
    /// The threshold is not above this.
    pub max_norm: Option<f64>,
}

impl Default for RollingMedian {
    /// A little above what a fit gives most runs, for one that was not fitted; nothing bounds it then.
    fn default() -> Self {
        Self { multiple: 1.5, window: RECENT_NORMS, max_norm: None }
    }
}

/// The last norms as they were left, and the power of the multiple.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct State {
    recent: Window,
    power: f64,
}

impl Default for State {
    fn default() -> Self {
        Self { recent: Window::default(), power: 1.0 }
    }
}

impl RollingMedian {
    /// What a step of this norm is limited to: the multiple of the median of the norms before it, or half way there where it is above; before half a
    /// window of norms nothing but the most it may be.
    pub fn threshold(&self, state: &mut State, norm: f64) -> f64 {
        let most = self.max_norm.unwrap_or(f64::INFINITY);
        let usual = state.recent.median().filter(|_| state.recent.len() >= (self.window / 2).max(1));
        let Some(usual) = usual else {
            state.remember(norm.min(most), self.window);
            return most;
        };
        let multiple = self.multiple.powf(state.power);
        let limit = (multiple * usual).min(most);
        let clipped = if norm > limit { 1.0 } else { 0.0 };
        state.power = (state.power + POWER_RATE * (clipped - CLIPPED_SHARE)).clamp(0.0, MOST_POWER);
        state.remember(norm.min(limit), self.window);
        if norm <= limit {
            return limit;
        }
        let taken_for = norm.min(limit * multiple.clamp(1.0, MOST_REACH));
        (limit * taken_for).sqrt().min(most)
    }
}

impl State {
    fn remember(&mut self, norm: f64, window: usize) {
        if norm > 0.0 {
            self.recent.push(norm, window);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Stream;

    fn clipped(rule: RollingMedian, norms: &[f64]) -> Vec<bool> {
        let mut state = State::default();
        norms.iter().map(|&norm| norm > rule.threshold(&mut state, norm)).collect()
    }

    fn share(clipped: &[bool]) -> f64 {
        clipped.iter().filter(|&&one| one).count() as f64 / clipped.len() as f64
    }

    /// Norms that fall to a hundredth while their spread goes to a third, or to half as much again: of every 200 steps the share is within
    /// 2/(ηT) = .02 of what is asked, where the multiple of the beginning clips none of the later ones, or twice as many. A spread three times as large is
    /// more than the square of the multiple can follow: up to a quarter is clipped, and not the third that it would be.
    #[test]
    fn the_share_that_is_asked_for_is_clipped_wherever_norms_and_their_spread_go() {
        let noise = Stream::new(11, 4).normals(4000);
        for (spread, within, fixed_clips) in
            [(1.0 / 3.0, 0.02, 0.0..0.01), (1.5, 0.02, 0.15..0.3), (3.0, 0.17, 0.3..0.5)]
        {
            let norm = |(step, normal): (usize, &f64)| {
                let way = step as f64 / 4000.0;
                (-4.6 * way + 0.15 * f64::powf(spread, way) * normal).exp()
            };
            let norms: Vec<f64> = noise.iter().enumerate().map(norm).collect();
            let rule = RollingMedian { multiple: (1.2816f64 * 0.15).exp(), ..RollingMedian::default() };
            for window in clipped(rule, &norms)[20..].chunks_exact(200) {
                assert!(
                    (share(window) - CLIPPED_SHARE).abs() <= within + 1e-9,
                    "{spread}: {}",
                    share(window)
                );
            }
            let median = |at: usize| crate::robust::median(norms[at - 10..at].iter().copied()).expect("ten");
            let fixed: Vec<bool> = (3600..4000).map(|at| norms[at] > rule.multiple * median(at)).collect();
            assert!(fixed_clips.contains(&share(&fixed)), "{spread}: {}", share(&fixed));
        }
    }

    #[test]
    fn gradients_of_nothing_are_not_what_is_usual() {
        let mut norms = vec![1.0; 60];
        norms[20..40].fill(0.0);
        let rule = RollingMedian { multiple: 1.2, ..RollingMedian::default() };
        let mut state = State::default();
        let limits: Vec<f64> = norms.iter().map(|&norm| rule.threshold(&mut state, norm)).collect();
        assert!(limits[5..].iter().all(|&limit| limit >= 1.0), "{limits:?}");
    }

    /// By hand, norms of 1, none of which was clipped, so that the power is 1 − 4·.04 at the tenth. A multiple of 1.2 gives the limit 1.2^.84 = 1.1655: 1.25 is
    /// left at √(1.1655·1.25), and all from 1.1655² = 1.3584 on at 1.1655^1.5. A multiple of 3 gives 2.5164, and at most 1.5 times that.
    #[test]
    fn a_norm_above_the_limit_comes_half_way_back_and_no_further_than_a_spike_is_let() {
        let left = |multiple: f64, max_norm: Option<f64>, norm: f64| {
            let rule = RollingMedian { multiple, max_norm, ..RollingMedian::default() };
            let mut state = State::default();
            for _ in 0..9 {
                rule.threshold(&mut state, 1.0);
            }
            rule.threshold(&mut state, norm)
        };
        for (multiple, max_norm, norm, expected) in [
            (1.2, None, 1.0, 1.1655),
            (1.2, None, 1.25, 1.2070),
            (1.2, None, 1.4, 1.2583),
            (1.2, None, 1e9, 1.2583),
            (1.2, Some(1.2), 1e9, 1.2),
            (1.2, Some(1.1), 1.12, 1.1),
            (3.0, None, 2.6, 2.5579),
            (3.0, None, 30.0, 3.7746),
        ] {
            let found = left(multiple, max_norm, norm);
            assert!((found - expected).abs() < 1e-4, "{multiple} {norm}: {found}");
        }
    }

    /// Ten gradients in a row, of any height. By hand: the multiple of 1.2 is at most squared, and after five of them the median is at most what the limit
    /// was for the first ones, 1.44, so that no limit is above 1.44 · 1.44, and nothing is left at more than √1.44 times that.
    #[test]
    fn a_long_spike_is_held_near_the_square_of_the_multiple() {
        for height in [1.3, 1.5, 2.0, 3.0, 5.7, 30.0, 1e6] {
            let mut norms = vec![1.0_f64; 100];
            norms[60..70].fill(height);
            let rule = RollingMedian { multiple: 1.2, ..RollingMedian::default() };
            let mut state = State::default();
            let left: Vec<f64> =
                norms.iter().map(|&norm| norm.min(rule.threshold(&mut state, norm))).collect();
            let largest = left.iter().copied().fold(0.0, f64::max);
            assert!(largest > 1.2 && largest <= 1.44 * 1.44 * 1.2, "{height}: {largest}");
            assert!(left[85..].iter().all(|&norm| norm == 1.0), "{height}");
        }
    }

    #[test]
    fn a_larger_norm_is_never_left_smaller() {
        let rule = RollingMedian { multiple: 2.0, ..RollingMedian::default() };
        let mut before = 0.0;
        for step in 0..400 {
            let mut state = State::default();
            let norm = 1.02_f64.powi(step);
            for one in 0..40 {
                rule.threshold(&mut state, 1.0 + 0.1 * f64::from(one % 7));
            }
            let left = norm.min(rule.threshold(&mut state, norm));
            assert!(left >= before, "{norm}: {left} after {before}");
            before = left;
        }
    }
}
