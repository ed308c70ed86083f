//! A loss whose rises recur and are given back each time, as where its target moves at times: a copy of the target network, a task that changes in turn.

use super::logs::{LEVEL_POINTS, level_noise};
use crate::analysis::model::{LogPoint, Number};
use crate::robust::median;

/// Share of a rise, as it is on paper, that is given back when it is over.
const RETURNED_SHARE: f64 = 0.75;

/// Times the level before the last rise below which a log has to end for that to be given back: an explosion that ends at guessing has given back most
/// of its height.
const RETURNED_BELOW: f64 = 2.0;

/// Rises that were given back from which they recur: a failing run may come back from itself twice, as runs whose second moments were outrun do.
const RECURS: usize = 3;

/// Times the second largest of the rises that were given back, in ln, up to which a rise is one of them; as FP503 has it of what a run came back from.
const AS_THE_OTHERS: f64 = 2.0;

/// One rise of the level of the loss.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Rise {
    /// The first step of the level that it rises from.
    from: u64,
    /// The first step of the level at which it was given back; `None` where it never was.
    to: Option<u64>,
    /// How far, in ln.
    height: f64,
}

/// The rises of a loss.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Sawtooth {
    rises: Vec<Rise>,
    /// The second largest of those that were given back, in ln.
    second: f64,
}

/// The rises of a log whose losses rise again and again, by `limit` times and beyond noise, and come back each time.
pub(crate) fn sawtooth(points: &[LogPoint], limit: f64) -> Option<Sawtooth> {
    let rises = rises(&levels(points), limit);
    let mut heights: Vec<f64> =
        rises.iter().filter(|rise| rise.to.is_some()).map(|rise| rise.height).collect();
    heights.sort_by(|a, b| b.total_cmp(a));
    (heights.len() >= RECURS).then(|| Sawtooth { rises, second: heights[1] })
}

impl Sawtooth {
    /// Whether what rose at `step` is of the rises that recur: no higher than the others. What exploded before there was a level to rise from is none
    /// of them.
    pub(crate) fn has(&self, step: u64) -> bool {
        let at = self.rises.partition_point(|rise| rise.from <= step).checked_sub(1);
        let Some(last) = at.map(|at| self.rises[at]) else { return false };
        let is_over = last.to.is_some_and(|to| to <= step);
        is_over || last.height <= AS_THE_OTHERS * self.second
    }
}

/// A level of the loss: the first step of it, the median, and what may be above it by its own noise.
#[derive(Debug, Clone, Copy)]
struct Level {
    step: u64,
    loss: f64,
    noise: f64,
}

fn levels(points: &[LogPoint]) -> Vec<Level> {
    let loss = |point: &&LogPoint| point.loss.and_then(Number::finite).is_some_and(|loss| loss > 0.0);
    let points: Vec<&LogPoint> = points.iter().filter(loss).collect();
    let level = |window: &[&LogPoint]| {
        let [first, .., last] = window else { return None };
        let loss = median(window.iter().filter_map(|point| point.loss?.finite()))?;
        Some(Level { step: first.step, loss, noise: level_noise(last.loss_noise, LEVEL_POINTS) })
    };
    points.windows(LEVEL_POINTS).filter_map(level).collect()
}

/// Each rise begins at the last of the lowest levels since the one before it was given back.
fn rises(levels: &[Level], limit: f64) -> Vec<Rise> {
    let Some(mut floor) = levels.first().copied() else { return Vec::new() };
    let mut found = Vec::new();
    let mut top: Option<f64> = None;
    let rise = |from: Level, top: f64, to| Rise { from: from.step, to, height: (top / from.loss).ln() };
    // The level that the last rise began at.
    let mut began = floor;
    for level in levels {
        let is_up = top.is_some() || level.loss > floor.loss * limit.max(level.noise);
        if is_up {
            let peak = top.map_or(level.loss, |top| top.max(level.loss));
            top = Some(peak);
            if peak - level.loss >= RETURNED_SHARE * (peak - floor.loss) {
                found.push(rise(floor, peak, Some(level.step)));
                (began, floor, top) = (floor, *level, None);
            }
        } else if level.loss <= floor.loss {
            floor = *level;
        }
    }
    found.extend(top.map(|peak| rise(floor, peak, None)));
    let ends_high = levels.last().is_some_and(|end| end.loss >= RETURNED_BELOW * began.loss);
    if let Some(last) = found.last_mut()
        && ends_high
    {
        last.to = None;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::test_support::point;

    /// Losses of 1 that are `top` for the second half of each hundred, and then `end` for another hundred.
    fn run(tops: &[f64], end: f64) -> Option<Sawtooth> {
        let teeth =
            tops.iter().flat_map(|top| std::iter::repeat_n(1.0, 50).chain(std::iter::repeat_n(*top, 50)));
        let losses = teeth.chain(std::iter::repeat_n(1.0, 50)).chain(std::iter::repeat_n(end, 50));
        let points: Vec<LogPoint> =
            (1..).zip(losses).map(|(step, loss)| point(step).with_loss(loss)).collect();
        sawtooth(&points, 1.5)
    }

    #[test]
    fn rises_that_are_given_back_three_times_recur() {
        assert_eq!(run(&[3.0, 3.0], 1.0), None);
        assert_eq!(run(&[1.4; 5], 1.0), None);
        let found = run(&[3.0, 5.0, 4.0], 1.0).expect("they recur");
        assert!(found.rises.iter().all(|rise| rise.to.is_some()));
        assert!((found.second - 4.0_f64.ln()).abs() < 1e-12);
        assert!(found.has(51) && found.has(75) && found.has(251));
    }

    #[test]
    fn the_last_rise_may_be_as_large_as_two_of_the_others() {
        let has = |end: f64| run(&[3.0; 3], end).expect("they recur").has(370);
        // Twice as far in ln as 3 is 9.
        assert!(has(8.9) && !has(9.1));
    }

    #[test]
    fn an_explosion_in_the_first_steps_is_no_rise_of_those_that_recur_after_it() {
        let exploded =
            (0..4).flat_map(|_| std::iter::repeat_n(900.0, 50).chain(std::iter::repeat_n(2000.0, 50)));
        let losses = [2.3, 2.2, 2.4].into_iter().chain(exploded);
        let points: Vec<LogPoint> =
            (1..).zip(losses).map(|(step, loss)| point(step).with_loss(loss)).collect();
        let found = sawtooth(&points, 1.5).expect("they recur");
        assert!(!found.has(4) && found.has(60));
    }

    /// Three teeth, an explosion to a hundred, and what is left of it for good: three times what was before.
    #[test]
    fn an_explosion_that_ends_at_guessing_is_not_given_back() {
        let teeth = (0..3).flat_map(|_| std::iter::repeat_n(2.5, 50).chain(std::iter::repeat_n(6.0, 20)));
        let lost = std::iter::repeat_n(2.5, 50)
            .chain(std::iter::repeat_n(100.0, 30))
            .chain(std::iter::repeat_n(7.5, 200));
        let points: Vec<LogPoint> =
            (1..).zip(teeth.chain(lost)).map(|(step, loss)| point(step).with_loss(loss)).collect();
        let found = sawtooth(&points, 1.5).expect("three recur");
        assert!(found.has(60) && !found.has(262) && !found.has(400));
    }

    #[test]
    fn a_rise_that_keeps_a_third_is_not_given_back() {
        // From 1 to 10 and back to 4: a third of it stays.
        let losses = (0..4).flat_map(|_| std::iter::repeat_n(4.0, 50).chain(std::iter::repeat_n(10.0, 50)));
        let losses = std::iter::repeat_n(1.0, 50).chain(losses);
        let points: Vec<LogPoint> =
            (1..).zip(losses).map(|(step, loss)| point(step).with_loss(loss)).collect();
        assert_eq!(sawtooth(&points, 1.5), None);
    }
}
