//! A power of a multiple of the median of the last few norms: a threshold that goes where the norms of a healthy run go, and that clips about a
//! tenth of them.
//!
//! Our own, after the remark of Pascanu, Mikolov, Bengio 2013 (arXiv:1211.5063, section 3.2) that a threshold is to be a multiple of the
//! usual norm. Norms are remembered as they are after clipping: for a spike of up to four steps a median of ten stays among the norms around
//! it, and for a longer one it grows by about the multiple, at most by its square, in five steps. Norms that rise for good it follows as slowly;
//! a slow explosion it would follow too, hence the most that it may be. A norm of 0 is not remembered: a median of 0 would clip all to 0 for good.
//!
//! How far norms spread over that median changes in a run, and a multiple that was right clips nothing, or a quarter, later on. So its power p,
//! 1 at first, is itself a step of gradient descent on the pinball loss, as the adaptive intervals of Gibbs, Candès 2021 (arXiv:2106.00170,
//! equation 2) are: p ← p + η·(b − γ), b = 1 where the step was clipped, else 0. While p does not come to its ends, the share that is clipped of T
//! steps is within 2/(ηT) of γ, whatever the norms are: the sum of b − γ is the change of p over η. At its ends it is not: norms that fall by some
//! percent a step are never clipped, of those that rise so most are, and of norms that jump between two values every other step half.

use serde::{Deserialize, Serialize};

use super::window::Window;

/// Norms whose median it goes by.
pub const RECENT_NORMS: usize = 10;

/// γ: the share of steps that is clipped (risk catalogue, section 2.4).
pub const CLIPPED_SHARE: f64 = 0.1;

/// η: by how much of itself, as a power, a clipped step raises the multiple; chosen on zoos A, B and E (docs/benchmarks-clip.md).
pub const POWER_RATE: f64 = 0.25;

/// The power is between 0 and this: a long spike can make no more of the multiple than its square.
pub const MOST_POWER: f64 = 2.0;

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
    /// The multiple of the median of the norms before this one, before half a window of them nothing but the most it may be.
    pub fn threshold(&self, state: &mut State, norm: f64) -> f64 {
        let most = self.max_norm.unwrap_or(f64::INFINITY);
        let enough = state.recent.len() >= (self.window / 2).max(1);
        let limit = match state.recent.median().filter(|_| enough) {
            Some(usual) => (self.multiple.powf(state.power) * usual).min(most),
            None => most,
        };
        if enough {
            let clipped = if norm > limit { 1.0 } else { 0.0 };
            state.power = (state.power + POWER_RATE * (clipped - CLIPPED_SHARE)).clamp(0.0, MOST_POWER);
        }
        if norm > 0.0 {
            state.recent.push(norm.min(limit), self.window);
        }
        limit
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
    /// 2/(ηT) = .04 of a tenth, where the multiple of the beginning clips none of the later ones, or twice as many. A spread three times as large is
    /// more than the square of the multiple can follow: up to a quarter is clipped, and not the third that it would be.
    #[test]
    fn a_tenth_of_the_steps_is_clipped_wherever_norms_and_their_spread_go() {
        let noise = Stream::new(11, 4).normals(4000);
        for (spread, within, fixed_clips) in
            [(1.0 / 3.0, 0.04, 0.0..0.01), (1.5, 0.04, 0.15..0.3), (3.0, 0.15, 0.3..0.5)]
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

    /// Ten gradients in a row at thirty times the norm. By hand: the multiple of 1.2 is at most squared, and after five of them the median is what
    /// was left of the first ones, so that nothing gets beyond 1.44 · 1.44.
    #[test]
    fn a_long_spike_is_held_near_the_square_of_the_multiple() {
        let mut norms = vec![1.0_f64; 100];
        norms[60..70].fill(30.0);
        let rule = RollingMedian { multiple: 1.2, ..RollingMedian::default() };
        let mut state = State::default();
        let left: Vec<f64> = norms.iter().map(|&norm| norm.min(rule.threshold(&mut state, norm))).collect();
        let largest = left.iter().copied().fold(0.0, f64::max);
        assert!(largest > 1.2 && largest <= 1.44 * 1.44, "{largest}");
        assert!(left[85..].iter().all(|&norm| norm == 1.0));
    }
}
