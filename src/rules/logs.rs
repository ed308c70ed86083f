//! What rules over logs have in common: spikes of the gradient norm, and where a run began to go wrong.

use std::cell::LazyCell;

use super::sawtooth::sawtooth;
use super::{Findings, Subject};
use crate::analysis::model::{Analysis, LogAnalysis, LogPoint, Number};
use crate::robust::{FEWEST, MAD_TO_DEVIATION, MEDIAN_ERROR, median, robust};

/// Spikes closer than this are one, in measured points.
const TOGETHER: usize = 5;

/// So many of [`TOGETHER`] points make a spike that stays (risk.md §6: 3 of 5 removes isolated hits of heavy tails).
const STAYS: usize = 3;

/// The log, which the planner has made sure of.
pub(super) fn log(analysis: &Analysis) -> Option<&LogAnalysis> {
    analysis.log.as_ref()
}

/// A stretch of points that stand out.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Spike {
    /// The first of them.
    pub onset: u64,
    /// The last of them.
    pub last: u64,
    /// Step and value of the largest.
    pub peak: (u64, f64),
    /// Largest z among them.
    pub z: f64,
    /// How many stand out.
    pub points: usize,
    /// The step at which three of five stood out.
    pub confirmed: Option<u64>,
    /// The first measured step behind it that does not stand out.
    pub recovered: Option<u64>,
}

/// One measured value and how it stands.
pub(super) struct Placed {
    pub step: u64,
    pub value: f64,
    pub z: f64,
    pub stands_out: bool,
}

/// Spikes of the gradient norm: z and ratio above the limits.
pub(super) fn norm_spikes(log: &LogAnalysis, z: f64, ratio: f64) -> Vec<Spike> {
    let placed = log.points.iter().filter_map(|point| {
        Some(Placed {
            step: point.step,
            value: point.grad_norm.and_then(Number::finite)?,
            z: point.grad_norm_z.unwrap_or(0.0),
            stands_out: point.grad_norm_z.is_some_and(|found| found > z)
                && point.grad_norm_ratio.is_some_and(|found| found > ratio),
        })
    });
    spikes(placed)
}

/// Groups points that stand out.
pub(super) fn spikes(placed: impl Iterator<Item = Placed>) -> Vec<Spike> {
    let mut found: Vec<Spike> = Vec::new();
    // Whether each of the last points stood out, the newest last.
    let mut recent: Vec<(u64, bool)> = Vec::new();
    let mut quiet = TOGETHER;
    for Placed { step, value, z, stands_out } in placed {
        recent.push((step, stands_out));
        if recent.len() > TOGETHER {
            recent.remove(0);
        }
        if !stands_out {
            quiet += 1;
            if let Some(spike) = found.last_mut() {
                spike.recovered = spike.recovered.or(Some(step));
            }
            continue;
        }
        if quiet >= TOGETHER || found.is_empty() {
            found.push(Spike {
                onset: step,
                last: step,
                peak: (step, value),
                z,
                points: 0,
                confirmed: None,
                recovered: None,
            });
        }
        quiet = 0;
        let Some(spike) = found.last_mut() else { continue };
        spike.points += 1;
        spike.last = step;
        spike.recovered = None;
        spike.z = spike.z.max(z);
        if value > spike.peak.1 {
            spike.peak = (step, value);
        }
        let onset = spike.onset;
        if recent.iter().filter(|(step, out)| *out && *step >= onset).count() >= STAYS {
            spike.confirmed = spike.confirmed.or(Some(step));
        }
    }
    found
}

/// The largest z of the log outside of `spike`: what its tail is like without it.
pub(super) fn rest(log: &LogAnalysis, spike: &Spike, z: impl Fn(&LogPoint) -> Option<f64>) -> f64 {
    let outside = log.points.iter().filter(|point| point.step < spike.onset || point.step > spike.last);
    outside.filter_map(z).fold(0.0, f64::max)
}

/// Factor from one norm to the next up to which norms grow by themselves, and no batch threw them.
const GROWS_BY: f64 = 2.5;

/// Whether the norms of a spike only swung out, as those of full batches do at the edge of stability: each grew out of the one before, they came
/// back, and the loss right behind is lower than it was right before.
pub(super) fn swings(log: &LogAnalysis, spike: &Spike) -> bool {
    let from = log.points.partition_point(|point| point.step < spike.onset);
    let to = log.points.partition_point(|point| point.step <= spike.last);
    let norms =
        log.points[from.saturating_sub(1)..to].iter().map(|point| point.grad_norm.and_then(Number::finite));
    let norms: Option<Vec<f64>> = norms.collect();
    let grows = norms.is_some_and(|norms| norms.windows(2).all(|pair| pair[1] < GROWS_BY * pair[0]));
    let level = |points: &[LogPoint]| {
        let losses: Vec<f64> = finite_losses(points).collect();
        median(losses.iter().copied())
            .filter(|_| losses.len() == points.len() && losses.len() == LEVEL_POINTS)
    };
    let before = level(&log.points[from.saturating_sub(LEVEL_POINTS)..from]);
    let behind = level(&log.points[to..log.points.len().min(to + LEVEL_POINTS)]);
    grows && matches!((before, behind), (Some(before), Some(behind)) if behind < before)
}

/// The steps of the spikes that only swung out, by z and ratio as of FP501.
#[derive(Debug)]
pub(crate) struct Swings {
    /// First and last step of each, in order.
    spans: Vec<(u64, u64)>,
}

impl Swings {
    pub(crate) fn of(log: &LogAnalysis, z: f64, ratio: f64) -> Self {
        let swung = norm_spikes(log, z, ratio).into_iter().filter(|spike| swings(log, spike));
        Self { spans: swung.map(|spike| (spike.onset, spike.last)).collect() }
    }

    /// Whether a step is part of one.
    pub(crate) fn has(&self, step: u64) -> bool {
        let next = self.spans.partition_point(|(_, last)| *last < step);
        self.spans.get(next).is_some_and(|(onset, _)| *onset <= step)
    }
}

/// Robust deviations of ln(loss) above the window before it from which a loss stands out among those of its run, and the ratio.
const TAIL_Z: f64 = 3.5;
const TAIL_RATIO: f64 = 2.5;

/// Losses that stand out elsewhere from which a run's losses have a tail: so many, and this share of all. A normal ln(loss) has one in 4300.
const FEWEST_OF_TAIL: usize = 3;
const TAIL_SHARE: f64 = 0.005;

/// Points after a spike whose losses may be what it left behind.
const LEFT_BEHIND: usize = 30;

/// Whether the loss of one of the steps `[from, to]` stood out, and others do all over the run, each gone at once: then now and then a batch is far
/// harder than the others, and a gradient of such a batch is none that anything went wrong with.
pub(crate) fn is_of_a_tail(log: &LogAnalysis, [from, to]: [u64; 2]) -> bool {
    let losses: Vec<Option<f64>> =
        log.points.iter().map(|point| point.loss.and_then(Number::finite)).collect();
    let out: Vec<bool> = robust(&losses)
        .into_iter()
        .map(|own| own.is_some_and(|own| own.z > TAIL_Z && own.ratio > TAIL_RATIO))
        .collect();
    let first = log.points.partition_point(|point| point.step < from);
    let behind = log.points.partition_point(|point| point.step <= to);
    let is_alone = |index: &usize| out[*index] && !out.get(index + 1).is_some_and(|next| *next);
    let elsewhere = (0..first).chain(behind + LEFT_BEHIND..out.len()).filter(is_alone).count();
    let all = losses.iter().flatten().count();
    out[first..behind].contains(&true)
        && elsewhere >= FEWEST_OF_TAIL
        && elsewhere as f64 >= TAIL_SHARE * all as f64
}

/// The first step at which the loss, or the norm of a step that was taken, is not finite.
pub(super) fn first_non_finite(log: &LogAnalysis) -> Option<u64> {
    let bad = |number: Option<Number>| number.is_some_and(|number| number.finite().is_none());
    let mut points = log.points.iter().zip(log.skips());
    let point = points.find(|(point, skipped)| bad(point.loss) || (bad(point.grad_norm) && !skipped));
    point.map(|(point, _)| point.step)
}

/// How far a quantity has risen before and come back, in ln: what a run came back from more than once is its way of going
/// down, as at the edge of stability.
#[derive(Debug, Default)]
pub(crate) struct Habit {
    /// The two largest tops of the rises that are over, the largest first.
    largest: [f64; 2],
    /// Top of the present one.
    top: f64,
}

impl Habit {
    /// A rise of at most this, in ln, has come back: a quarter above the lowest.
    pub(crate) const CALM: f64 = 0.223;

    /// The next rise above the lowest so far.
    pub(crate) fn add(&mut self, rise: f64) {
        self.top = self.top.max(rise);
        if rise <= Self::CALM {
            let [first, second] = self.largest;
            let top = std::mem::take(&mut self.top);
            self.largest = [first.max(top), second.max(first.min(top))];
        }
    }

    /// A rise that is no larger than this is no other than those before: twice the second largest of them, in ln.
    pub(crate) fn allows(&self) -> f64 {
        2.0 * self.largest[1]
    }
}

/// Points behind a rise that are looked at, and the share of them that must be up as well.
const RISEN_POINTS: usize = 10;
const RISEN_SHARE: f64 = 0.7;

/// What the loss may rise to before its noise is known.
const EARLY_RISE: f64 = 3.0;

/// How far above its lowest a loss of this noise may be.
fn allowed_rise(loss_noise: Option<f64>, limit: f64, noise: f64) -> f64 {
    limit.max(loss_noise.map_or(EARLY_RISE, |found| (noise * found).exp()))
}

/// The noise of each loss. That of the first ones is known from fewer than [`FEWEST`] steps, or from none, while a median of eight errs by
/// 40 %: what the noise was once it was known counts for them too, as everything has happened when a log is read.
fn settled_noise(points: &[LogPoint]) -> Vec<Option<f64>> {
    let settled = points.iter().filter_map(|point| point.loss_noise).take(FEWEST).last();
    let mut losses = 0;
    let noise = |point: &LogPoint| {
        losses += usize::from(point.loss.is_some());
        let settled = settled.filter(|_| losses <= FEWEST);
        point.loss_noise.into_iter().chain(settled).reduce(f64::max)
    };
    points.iter().map(noise).collect()
}

/// The deviation of ln(loss) over the next level: what is known of the noise where a log is too short to say more.
fn spread(next: &[LogPoint]) -> Option<f64> {
    let losses = finite_losses(next).filter(|loss| *loss > 0.0).take(LEVEL_POINTS);
    let logs: Vec<f64> = losses.map(f64::ln).collect();
    let level = median(logs.iter().copied())?;
    Some(MAD_TO_DEVIATION * median(logs.iter().map(|log| (log - level).abs()))?)
}

/// What a level of so many points may be above the lowest one by its own noise.
pub(super) fn level_noise(loss_noise: Option<f64>, points: usize) -> f64 {
    let error = loss_noise.map_or(0.0, |noise| MEDIAN_ERROR * noise / (points as f64).sqrt());
    (LEVEL_ERRORS * error).exp()
}

/// Share of what the loss had fallen that a divergence gives back: near zero, noise alone is a multiple of the lowest loss.
pub(crate) const GIVEN_BACK: f64 = 0.05;

/// Standard errors of a level by which it must have left its lowest: at most 5.7 in 32 healthy runs (noise with two degrees of
/// freedom), at least 8.1 in 22 that failed.
pub(crate) const LEVEL_ERRORS: f64 = 7.0;

/// Points whose median is the level of a loss: medians of three have a lowest far below it where batches are small.
pub(super) const LEVEL_POINTS: usize = 15;

/// The fewest points of a level. Two of the first three squared errors of single examples are next to nothing in one of some hundred runs.
const FEWEST_OF_LEVEL: usize = 5;

/// Points whose median is held against the lowest (`loss_ratio`).
pub(super) const MEDIAN_OF: usize = 3;

/// Where a loss left its lowest for good.
pub(super) struct Divergence<'a> {
    pub point: &'a LogPoint,
    /// What the loss over its lowest may have been there.
    pub allowed: f64,
    /// The log ends no higher than the lowest level before it.
    pub came_back: bool,
}

/// The lowest level so far, and of how many points it is the median: of all there are, before there are [`LEVEL_POINTS`].
#[derive(Debug, Clone, Copy)]
struct Lowest {
    level: f64,
    points: usize,
}

impl Lowest {
    const NONE: Self = Self { level: f64::INFINITY, points: 0 };

    /// With the level of the last ones of `losses`: one of all points that a level takes counts for more than any of fewer.
    fn with(self, losses: &[f64]) -> Self {
        let window = &losses[losses.len().saturating_sub(LEVEL_POINTS)..];
        let is_fuller = window.len() == LEVEL_POINTS && self.points < LEVEL_POINTS;
        match median(window.iter().copied()).filter(|_| window.len() >= FEWEST_OF_LEVEL) {
            Some(level) if is_fuller || level < self.level => Self { level, points: window.len() },
            _ => self,
        }
    }
}

/// The first step at which the loss is above `limit` times its lowest, above what its noise explains and what it came back
/// from before, mostly stays there for ten points, or to the end, and is no rise of those that recur and are given back. A loss that has fallen near to zero is soon a multiple
/// of its lowest: the level must give back the share `given_back` of what it fell, too. One that the run came back from only where there is no other.
pub(super) fn first_divergence(
    log: &LogAnalysis,
    limit: f64,
    noise: f64,
    given_back: f64,
) -> Option<Divergence<'_>> {
    let points = &log.points;
    let mut habit = Habit::default();
    let mut lowest = Lowest::NONE;
    let mut losses: Vec<f64> = Vec::new();
    let first = median(finite_losses(points).take(LEVEL_POINTS))?;
    let sawtooth = LazyCell::new(|| sawtooth(points, limit));
    let end = LazyCell::new(|| end(points));
    let mut found =
        points.iter().zip(settled_noise(points)).enumerate().filter_map(|(at, (point, loss_noise))| {
            let (before, loss) = (lowest, point.loss.and_then(Number::finite));
            losses.extend(loss);
            if loss.is_some() {
                lowest = lowest.with(&losses);
            }
            let ratio = point.loss_ratio?;
            habit.add(ratio.ln());
            let allowed = allowed_rise(loss_noise, limit, noise).max(habit.allows().exp());
            let is_up = ratio > allowed
                && stays_above(&points[at..], allowed)
                && level_left(&points[at..], &losses, before, first, given_back, |count| {
                    limit.max(level_noise(loss_noise.or_else(|| spread(&points[at..])), count))
                })
                && !sawtooth.as_ref().is_some_and(|rises| rises.has(point.step));
            is_up.then(|| {
                let has_gone_on = finite_losses(&points[at..]).nth(2 * LEVEL_POINTS - 1).is_some();
                let is_low = end.is_some_and(|end| end <= before.level);
                Divergence {
                    point,
                    allowed,
                    came_back: has_gone_on && before.points == LEVEL_POINTS && is_low,
                }
            })
        });
    let first = found.next()?;
    if !first.came_back {
        return Some(first);
    }
    found.find(|later| !later.came_back).or(Some(first))
}

/// The level that a log ends at; none where a loss among its last is none, or is zero, as which some trainers log what is none.
fn end(points: &[LogPoint]) -> Option<f64> {
    let last: Vec<f64> =
        points.iter().rev().filter_map(|point| Some(point.loss?.0)).take(LEVEL_POINTS).collect();
    let is_told = |loss: &f64| loss.is_finite() && *loss != 0.0;
    last.iter().all(is_told).then(|| median(last.iter().copied()))?
}

pub(super) fn finite_losses(points: &[LogPoint]) -> impl Iterator<Item = f64> {
    points.iter().filter_map(|point| point.loss.and_then(Number::finite))
}

/// Whether most of the next points are above the lowest by the factor `allowed`.
fn stays_above(points: &[LogPoint], allowed: f64) -> bool {
    let behind = points.iter().filter(|point| point.loss.is_some()).take(RISEN_POINTS);
    let up = |point: &&LogPoint| point.loss_ratio.is_none_or(|ratio| ratio > allowed);
    let (all, up) = (behind.clone().count(), behind.filter(up).count());
    up as f64 >= RISEN_SHARE * all as f64
}

/// Whether the level of the next points is above the lowest by the factor that a level of so few points may have, and by the share
/// `given_back` of its fall since `first`. Where the log ends first, the level is that of what is left with the points that make up
/// its first median: one loss alone is far above any level now and then. Before any level is known the losses before are one, of so few, and in
/// a log that is too short for a level on either side none is asked for.
fn level_left(
    next: &[LogPoint],
    so_far: &[f64],
    lowest: Lowest,
    first: f64,
    given_back: f64,
    factor: impl Fn(usize) -> f64,
) -> bool {
    let mut losses: Vec<f64> = finite_losses(next).take(LEVEL_POINTS).collect();
    if losses.len() < LEVEL_POINTS {
        let of_this = so_far.len().saturating_sub(1);
        losses.extend(&so_far[of_this.saturating_sub(MEDIAN_OF - 1)..of_this]);
    }
    if lowest.points == 0 && losses.len() < LEVEL_POINTS {
        return true;
    }
    let before = &so_far[..so_far.len().saturating_sub(1)];
    // There are a handful of losses before any level: later, sorting all of them at each point would take the square of the log.
    let early = if lowest.points == 0 { median(before.iter().copied()) } else { None };
    let lowest = early.map_or(lowest, |level| Lowest { level, points: before.len() });
    let points = losses.len().min(lowest.points);
    let Some(level) = median(losses) else { return false };
    let Lowest { level: lowest, .. } = lowest;
    level > factor(points) * lowest && level - lowest > given_back * (first - lowest)
}

/// Why norms cannot be judged by the window before each, where they cannot; told to `findings`.
pub(super) fn norms_missing(log: &LogAnalysis, findings: &mut Findings) -> bool {
    let unplaced = || {
        let is_short = log.points.iter().all(|point| point.grad_norm_z.is_none());
        is_short.then_some("the log has too few gradient norms for a window before any of them")
    };
    let reason = no_norms(log).or_else(unplaced);
    if let Some(reason) = reason {
        findings.not_evaluated(Subject::Run, reason);
    }
    reason.is_some()
}

/// Why a log has no norms of gradients as they were, where it has none.
pub(super) fn no_norms(log: &LogAnalysis) -> Option<&'static str> {
    if log.points.iter().all(|point| point.grad_norm.is_none()) {
        Some("the log has no gradient norm")
    } else if log.semantics.before_clipping == Some(false) {
        Some("the logged gradient norms are those after clipping, which hides spikes")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn placed(flags: &[bool]) -> Vec<Spike> {
        let points = flags.iter().enumerate().map(|(index, out)| Placed {
            step: index as u64,
            value: index as f64,
            z: if *out { 10.0 } else { 0.0 },
            stands_out: *out,
        });
        spikes(points)
    }

    #[test]
    fn three_of_five_make_a_spike_that_stays() {
        let (o, x) = (false, true);
        let found = placed(&[o, x, o, x, x, o, o]);
        assert_eq!(found.len(), 1);
        assert_eq!(
            (found[0].onset, found[0].last, found[0].confirmed, found[0].recovered),
            (1, 4, Some(4), Some(5))
        );
        let apart = placed(&[x, o, o, o, o, o, x, x, o]);
        assert_eq!(
            apart.iter().map(|spike| (spike.onset, spike.confirmed)).collect::<Vec<_>>(),
            [(0, None), (6, None)]
        );
        assert_eq!(placed(&[x, x, x])[0].recovered, None);
    }

    #[test]
    fn a_habit_allows_twice_the_second_largest_of_all_rises_that_are_over() {
        let mut habit = Habit::default();
        let mut tops: Vec<f64> = vec![0.0; 2];
        for at in 0..200 {
            let top = 0.3 + f64::from(at * 37 % 101) / 100.0;
            habit.add(top);
            assert!((habit.allows() - 2.0 * tops[1]).abs() < 1e-12, "the present rise is not over");
            habit.add(0.1);
            tops.push(top);
            tops.sort_by(|a, b| b.total_cmp(a));
            assert!((habit.allows() - 2.0 * tops[1]).abs() < 1e-12);
        }
    }

    #[test]
    fn a_step_swings_that_is_part_of_a_spike_which_does() {
        // Two spikes that grow by two a step and come back; the loss is lower after the first alone.
        let norms = [2.0, 4.0, 8.0, 4.0, 2.0];
        let points = (1..=120).map(|step: u64| {
            let own =
                [40, 80].iter().find_map(|from| norms.get(usize::try_from(step.checked_sub(*from)?).ok()?));
            LogPoint {
                step,
                loss: Some(Number(if step < 40 { 2.0 } else { 1.0 })),
                grad_norm: Some(Number(own.copied().unwrap_or(1.0))),
                grad_norm_z: Some(if own.is_some() { 10.0 } else { 0.0 }),
                grad_norm_ratio: Some(if own.is_some() { 3.0 } else { 1.0 }),
                ..LogPoint::default()
            }
        });
        let log = LogAnalysis { points: points.collect(), ..LogAnalysis::default() };
        let swings = Swings::of(&log, 6.0, 2.5);
        let has: Vec<u64> = (1..=120).filter(|step| swings.has(*step)).collect();
        assert_eq!(has, [40, 41, 42, 43, 44]);
    }
}
