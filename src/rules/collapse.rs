//! A run that ends no better than it began: it exploded at its start and never learned, or gave back what it had learned.
//!
//! Neither needs to rise far above its lowest loss (E3): a loss that explodes in the first steps has its lowest behind it, and
//! a network that is back at guessing is at the level of its first step, however little below that it had come.

use super::logs::{LEVEL_POINTS, MEDIAN_OF};
use super::sawtooth::sawtooth;
use crate::analysis::model::{LogPoint, Number};
use crate::robust::{MEDIAN_ERROR, median};

/// Runs with fewer losses than three levels have no beginning, course and end.
const FEWEST: usize = 3 * LEVEL_POINTS;

/// What makes a collapse.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Losses of the first points, medians of three, over the first one, from which it exploded: the noise of so long a log is known, and a rise
    /// that is beyond it is one as later.
    pub early_peak: f64,
    /// The median of all losses after that, and the last level, over the first loss, from which nothing was learned.
    pub unlearned: f64,
    /// The share of the loss that has to be learned before giving it back is more than noise.
    pub learned: f64,
    /// The share of what was learned that is gone.
    pub gone: f64,
}

impl Limits {
    pub(crate) const DEFAULT: Self = Self { early_peak: 1.5, unlearned: 0.9, learned: 0.1, gone: 0.9 };
}

/// Deviations of ln(loss) that a rise has to be larger than.
const NOISE: f64 = 7.0;

/// A run that ends no better than it began.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Collapse {
    /// The first step that shows it.
    pub step: u64,
    /// Loss over what it was before.
    pub ratio: f64,
    /// It was in the first steps, before anything was learned.
    pub at_the_start: bool,
}

/// Whether, and where, the run of these points collapsed. What rises again and again, by `rise` times, and is given back each time is back at no beginning.
pub(crate) fn collapse(points: &[LogPoint], limits: Limits, rise: f64) -> Option<Collapse> {
    let losses: Vec<(u64, f64)> =
        points.iter().filter_map(|point| Some((point.step, point.loss.and_then(Number::finite)?))).collect();
    if losses.len() < FEWEST || losses.iter().any(|(_, loss)| *loss <= 0.0) {
        return None;
    }
    let noise = points.iter().rev().find_map(|point| point.loss_noise)?;
    let levels: Vec<f64> = losses
        .windows(LEVEL_POINTS)
        .filter_map(|window| median(window.iter().map(|(_, loss)| *loss)))
        .collect();
    early(&losses, &levels, noise, limits).or_else(|| {
        let found = late(&losses, &levels, noise, limits)?;
        let recurs = sawtooth(points, rise).is_some_and(|rises| rises.has(found.step));
        (!recurs).then_some(found)
    })
}

/// An explosion among the first points that nothing is learned after.
fn early(losses: &[(u64, f64)], levels: &[f64], noise: f64, limits: Limits) -> Option<Collapse> {
    let (_, first) = *losses.first()?;
    // The lowest of hundreds of levels is below them by noise alone: what it mostly was, and where it ended, say what was learned.
    let (mostly, end) = (median(losses[LEVEL_POINTS..].iter().map(|(_, loss)| *loss))?, *levels.last()?);
    let limit = first * limits.early_peak.max((NOISE * noise).exp());
    // One batch may be hard: three together are taken.
    let is_up =
        |three: &&[(u64, f64)]| median(three.iter().map(|(_, loss)| *loss)).is_some_and(|loss| loss >= limit);
    let up = losses[..LEVEL_POINTS].windows(MEDIAN_OF).find(is_up)?;
    let (step, _) = up.iter().find(|(_, loss)| *loss >= limit)?;
    let peak = losses[..LEVEL_POINTS].iter().map(|(_, loss)| *loss).fold(first, f64::max);
    (mostly.min(end) >= limits.unlearned * first).then_some(Collapse {
        step: *step,
        ratio: peak / first,
        at_the_start: true,
    })
}

/// A level that had come down and is back where it began, to the end of the log.
fn late(losses: &[(u64, f64)], levels: &[f64], noise: f64, limits: Limits) -> Option<Collapse> {
    let (first, end) = (*levels.first()?, *levels.last()?);
    let lowest = levels.iter().copied().fold(f64::INFINITY, f64::min);
    let learned = first - lowest;
    // The deviation of a median of so many points, with what is around it.
    let error = first * noise * MEDIAN_ERROR / (LEVEL_POINTS as f64).sqrt();
    let is_learned = learned >= limits.learned * first && learned >= NOISE * error;
    if !is_learned || end < first - (1.0 - limits.gone) * learned {
        return None;
    }
    let half = lowest + learned / 2.0;
    let low = levels.iter().rposition(|level| *level <= half)?;
    let (step, _) = *losses.get(low + 1 + LEVEL_POINTS / 2)?;
    Some(Collapse { step, ratio: end / lowest, at_the_start: false })
}

#[cfg(test)]
mod tests {
    use super::{Collapse, Limits, LogPoint, Number};
    use crate::rules::test_support::point;

    fn collapse(points: &[LogPoint]) -> Option<Collapse> {
        super::collapse(points, Limits::DEFAULT, 1.5)
    }

    fn run(losses: impl Iterator<Item = f64>) -> Vec<LogPoint> {
        let noise = |step: u64| if step.is_multiple_of(2) { 1.01 } else { 0.99 };
        let points = losses.enumerate().map(|(at, loss)| {
            let step = at as u64 + 1;
            let mut point = point(step).with_loss(loss * noise(step));
            point.loss_noise = Some(0.014);
            point
        });
        points.collect()
    }

    #[test]
    fn an_explosion_in_the_first_steps_is_one_where_nothing_is_learned_after_it() {
        let hot = |end: f64| run((0..100).map(move |at| if (2..6).contains(&at) { 600.0 } else { end }));
        let mut chance = hot(2.2);
        chance[0] = point(1).with_loss(2.2);
        let found = collapse(&chance).unwrap();
        assert_eq!((found.step, found.at_the_start), (3, true));
        assert!((found.ratio - 600.0 * 1.01 / 2.2).abs() < 1.0);
        let mut learned = hot(1.5);
        learned[0] = point(1).with_loss(2.2);
        assert_eq!(collapse(&learned), None);
    }

    /// A learning rate far too high for Adam: the first steps leave the logits of a softmax large, then zero, and it guesses from there on.
    #[test]
    fn a_small_peak_in_the_first_steps_is_one_where_the_loss_stays_at_guessing_after_it() {
        let peak = |peak: [f64; 3], end: f64| {
            let start = [10_f64.ln()].into_iter().chain(peak);
            run(start.chain(std::iter::repeat_n(end, 200)))
        };
        let found = collapse(&peak([5.9, 4.4, 3.6], 10_f64.ln())).unwrap();
        assert_eq!((found.step, found.at_the_start), (2, true));
        assert_eq!(collapse(&peak([5.9, 4.4, 3.6], 1.9)), None);
        // A hard task that a slow run comes to learn in the end.
        let mut late = peak([5.9, 4.4, 3.6], 10_f64.ln());
        for point in &mut late[180..] {
            point.loss = Some(Number(1.9));
        }
        assert_eq!(collapse(&late), None);
        assert_eq!(collapse(&peak([2.3, 5.9, 2.3], 10_f64.ln())), None);
        assert_eq!(collapse(&peak([3.3, 3.3, 3.3], 10_f64.ln())), None);
    }

    #[test]
    fn a_loss_that_comes_back_to_where_it_began_has_collapsed_however_little_it_had_fallen() {
        let falls =
            |end: f64| run((0..200).map(move |at| if at < 100 { 4.6 - 0.01 * f64::from(at) } else { end }));
        let found = collapse(&falls(4.6)).unwrap();
        assert!((99..=102).contains(&found.step) && !found.at_the_start, "{found:?}");
        assert_eq!(collapse(&falls(4.2)), None);
        assert_eq!(collapse(&falls(3.5)), None);
    }

    #[test]
    fn noise_and_runs_that_never_learned_are_none() {
        assert_eq!(collapse(&run(std::iter::repeat_n(4.6, 200))), None);
        assert_eq!(collapse(&run(std::iter::repeat_n(4.6, 20))), None);
        let mut noisy = run((0..200).map(|at| if at < 100 { 4.6 - 0.01 * f64::from(at) } else { 4.6 }));
        for point in &mut noisy {
            point.loss_noise = Some(0.2);
        }
        assert_eq!(collapse(&noisy), None);
    }
}
