//! When it began: the earliest sign in the log, or, where there is no log, in the checkpoints.

use std::cell::LazyCell;

use super::facts::{Facts, median, whole};
use super::{bracket, burst, jump, pulse, run_up};
use crate::analysis::model::{CheckpointAnalysis, LogPoint, Measured};
use crate::robust::{MAD_TO_DEVIATION, MEDIAN_ERROR};
use crate::rules::{CollapseLimits, GIVEN_BACK, Habit, LEVEL_ERRORS, Swings, collapse, diverges, sawtooth};

/// Robust z of ln(gradient norm) from which a step is a spike (risk catalogue E1, benchmarked in its section 6).
pub(super) const SPIKE_Z: f64 = 6.0;

/// Gradient norm over the median of its window from which a step is a spike (E1).
pub(super) const SPIKE_RATIO: f64 = 2.5;

/// A spike is confirmed by this many spikes among `CONFIRMED_AMONG` points: isolated ones come with heavy tails (E1).
pub(super) const CONFIRMED_BY: usize = 3;

/// See `CONFIRMED_BY`; logged points.
pub(super) const CONFIRMED_AMONG: usize = 5;

/// Spikes of nearly its size in its aftermath that one spike of all parameters may leave behind.
pub(super) const FEW_AGAIN: usize = 1;

/// Points after a spike whose excursions are taken for its aftermath: three times the memory of m for β₁ = 0.9.
pub(super) const AFTERMATH: usize = 30;

/// Level of the loss over its lowest so far from which a run diverges (E3).
pub(super) const LOSS_RATIO: f64 = 1.5;

/// Level of the loss over its lowest from which a rise is none that a run just comes back from.
const DOUBLED: f64 = 2.0;

/// Points whose median is the level of the loss. The median of three that E3 asks for has a lowest value that is far
/// below the level where batches are small, and flags half of all healthy runs.
pub(super) const LEVEL_POINTS: usize = 15;

/// Points whose distances to their level are the noise of the loss; the window of E1.
const NOISE_POINTS: usize = 128;

/// Distances without which the noise is not known.
const FEWEST_DISTANCES: usize = 8;

/// Halvings of the loss scale within `HALVINGS_WITHIN` that are a collapse (A4).
pub(super) const HALVINGS: usize = 3;

/// See `HALVINGS`; steps.
pub(super) const HALVINGS_WITHIN: u64 = 100;

/// Steps within which as many gradient norms that are not finite, the loss being finite, say the same as `HALVINGS` where
/// no loss scale is logged: growing too far costs a scaler one step, and then it is right again.
const SKIPPED_WITHIN: usize = 10;

/// Points after which a rise of the loss that FP503 does not tell is none: three levels.
const KNOWN_AFTER: usize = 45;

/// Points after one without which it is not known whether it recovers.
const FEWEST_AFTER: usize = 3;

/// When it began, and what says so.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Onset {
    /// The first step that shows it.
    pub step: u64,
    /// The last step that does not, and the first that does.
    pub interval: [u64; 2],
    /// What shows it.
    pub sign: Sign,
}

/// What shows an onset.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Sign {
    /// A logged loss or gradient norm is NaN or infinite.
    NonFinite,
    /// Weights or moments of a checkpoint are.
    NonFiniteState,
    /// The gradient norm left its window, by this ratio, and stayed out or stood alone.
    GradientNorm(f64),
    /// The loss left its minimum, by this ratio.
    Loss(f64),
    /// The loss scale was halved again and again.
    LossScale,
}

/// Loss over its lowest before from which it exploded: what dying units make of it is less, since they only stop to help.
pub(super) const EXPLODED: f64 = 10.0;

impl Onset {
    /// Whether the loss exploded, rather than rose.
    pub fn is_explosion(&self) -> bool {
        matches!(self.sign, Sign::Loss(ratio) if ratio >= EXPLODED)
    }
}

/// The earliest of all signs; of those at the same step, the gravest.
pub(super) fn find(facts: Facts) -> Option<Onset> {
    earliest(facts, loss(facts))
}

/// The same, without a rise of the loss that FP503 does not tell.
pub(super) fn find_confirmed(facts: Facts) -> Option<Onset> {
    earliest(facts, loss(facts).filter(|onset| is_divergence(facts, onset.step)))
}

fn earliest(facts: Facts, loss: Option<Onset>) -> Option<Onset> {
    let gradient_norm = gradient_norm(facts);
    // The first loss of a level that is high may be one of noise: a gradient that stands out within that level is what raised it.
    let is_within = |loss: &Onset| {
        let level = facts.points_from(loss.step).iter().take(LEVEL_POINTS).next_back();
        gradient_norm.is_some_and(|norm| level.is_some_and(|last| norm.step <= last.step))
    };
    let loss = loss.filter(|loss| loss.is_explosion() || !is_within(loss));
    let signs = [
        non_finite(facts),
        non_finite_state(facts),
        scale_collapse(facts).map(|found| at(facts, found.step, Sign::LossScale)),
        gradient_norm,
        loss,
        led_up(facts),
    ];
    signs.into_iter().flatten().min_by_key(|onset| onset.step)
}

/// An onset at a logged step.
fn at(facts: Facts, step: u64, sign: Sign) -> Onset {
    Onset { step, interval: interval(facts, step), sign }
}

/// The logged step before one, or the start of the run, and the step itself.
pub(super) fn interval(facts: Facts, step: u64) -> [u64; 2] {
    let before = facts.points().iter().rev().find(|point| point.step < step).map_or(0, |point| point.step);
    [before, step]
}

/// The first point from which on there is no finite loss, or no finite gradient norm, any more.
///
/// A gradient norm alone that is not finite and is followed by finite ones is a step that a loss scaler skipped.
pub(super) fn first_lost(facts: Facts<'_>) -> Option<&LogPoint> {
    let points = facts.points();
    let is_lost = |&(index, point): &(usize, &LogPoint)| {
        let later = points[index + 1..].iter().take(AFTERMATH);
        let recovers = later.clone().any(|later| later.grad_norm.is_some_and(|norm| norm.finite().is_some()));
        let loss = point.loss.is_some_and(|loss| loss.finite().is_none());
        loss || (is_skipped(point) && !recovers && later.count() >= FEWEST_AFTER)
    };
    let (lost, _) = points.iter().enumerate().find(is_lost)?;
    // A gradient that was not finite just before it was no step that a scaler skipped.
    let before = points[..lost].iter().rev().take_while(|point| is_skipped(point)).count();
    points.get(lost - before)
}

/// Whether the gradient norm of a step is not finite.
fn is_skipped(point: &LogPoint) -> bool {
    point.grad_norm.is_some_and(|norm| norm.finite().is_none())
}

fn non_finite(facts: Facts) -> Option<Onset> {
    Some(at(facts, first_lost(facts)?.step, Sign::NonFinite))
}

/// Whether FP503 says so too, once a log has gone on for a while after `step`: the noise of a loss is known better by then, and a verdict that
/// no finding stands behind accuses runs whose losses spread.
fn is_divergence(facts: Facts, step: u64) -> bool {
    let is_measured = |point: &LogPoint| point.loss_ratio.is_some();
    let has_gone_on = facts.points_from(step).len() >= KNOWN_AFTER && facts.points().iter().any(is_measured);
    !has_gone_on || facts.analysis.log.as_ref().is_some_and(diverges)
}

/// The first of the steps that led up to the loss of the run.
fn led_up(facts: Facts) -> Option<Onset> {
    let found = run_up::run_up(facts)?;
    Some(at(facts, found.first.step, Sign::Loss(found.ratio)))
}

/// The first checkpoint whose weights or moments are not finite.
fn non_finite_state(facts: Facts) -> Option<Onset> {
    let (step, _) = facts.checkpoints().find(|(_, one)| has_non_finite(one))?;
    Some(Onset { step, interval: [bracket::before(facts, step), step], sign: Sign::NonFiniteState })
}

/// Whether a parameter or a moment holds NaN or infinity.
pub(super) fn has_non_finite(checkpoint: &CheckpointAnalysis) -> bool {
    let weights = checkpoint.tensors.iter().filter(|tensor| tensor.is_parameter());
    let weights = weights.filter_map(|tensor| tensor.statistics.value());
    let moments = checkpoint.optimizer.value().map_or(&[][..], |state| &state.parameters);
    weights.into_iter().any(|statistics| statistics.non_finite() > 0)
        || moments.iter().any(|parameter| match &parameter.defects {
            Measured::Value(defects) => defects.non_finite_first + defects.non_finite_second > 0,
            _ => false,
        })
}

/// The first spike of the gradient norm that is a pulse, begins a burst, or is confirmed and hurts the loss: at the edge of stability
/// norms leave their window again and again while the loss goes on falling, or swing out with it and come back.
fn gradient_norm(facts: Facts) -> Option<Onset> {
    let points: Vec<&LogPoint> =
        facts.points().iter().filter(|point| point.grad_norm_ratio.is_some()).collect();
    let swings =
        LazyCell::new(|| facts.analysis.log.as_ref().map(|log| Swings::of(log, SPIKE_Z, SPIKE_RATIO)));
    let is_swing = |step: u64| swings.as_ref().is_some_and(|swings| swings.has(step));
    let confirmed = (0..points.len()).find(|&index| {
        let step = points[index].step;
        is_confirmed(&points, index) && loss_rose(facts, step) && !is_swing(step)
    });
    let confirmed = confirmed.and_then(|index| Some((points[index].step, points[index].grad_norm_ratio?)));
    // One that comes again and again, and that the loss does not feel, is the way of a run.
    let counts =
        |pulse: &pulse::Pulse| pulse::again(facts, *pulse) <= FEW_AGAIN || loss_rose(facts, pulse.point.step);
    let pulse = pulse::pulses(facts).into_iter().find(counts).map(|pulse| (pulse.point.step, pulse.ratio));
    let burst = burst::bursts(facts).first().map(|burst| (burst.first.step, burst.ratio));
    let (step, ratio) = [pulse, burst, confirmed].into_iter().flatten().min_by_key(|(step, _)| *step)?;
    Some(at(facts, step, Sign::GradientNorm(ratio)))
}

/// Whether the gradient norm of a step is out of its window.
pub(super) fn is_spike(point: &LogPoint) -> bool {
    point.grad_norm_z.is_some_and(|z| z > SPIKE_Z)
        && point.grad_norm_ratio.is_some_and(|ratio| ratio > SPIKE_RATIO)
}

fn is_confirmed(points: &[&LogPoint], index: usize) -> bool {
    let next = &points[index..points.len().min(index + CONFIRMED_AMONG)];
    is_spike(points[index]) && next.iter().filter(|point| is_spike(point)).count() >= CONFIRMED_BY
}

/// Whether the loss rose far above its minimum soon after `step`.
pub(super) fn loss_rose(facts: Facts, step: u64) -> bool {
    let soon = facts.points_from(step).iter().take(AFTERMATH);
    soon.filter_map(|point| point.loss_ratio).any(|ratio| ratio >= LOSS_RATIO)
}

/// The levels of the finite losses.
pub(super) fn loss_levels(facts: Facts) -> Vec<f64> {
    let losses: Vec<f64> = facts.points().iter().filter_map(|point| point.loss?.finite()).collect();
    losses.windows(LEVEL_POINTS).filter_map(|window| median(window.iter().copied())).collect()
}

/// The first step of the first stretch whose loss is far above the lowest level it had, in ratio and by its own noise, and
/// that it does not come back from, or only after it had doubled; no rise of those that recur.
fn loss(facts: Facts) -> Option<Onset> {
    let sawtooth = LazyCell::new(|| sawtooth(facts.points(), LOSS_RATIO));
    let mut returns = Returns::default();
    let mut found = first_rise(facts, |rise| {
        rise.height > LOSS_RATIO.ln()
            && rise.levels[rise.start].exp() - rise.lowest.exp()
                > GIVEN_BACK * (rise.levels[0].exp() - rise.lowest.exp())
            && !returns.at(rise)
            && !sawtooth.as_ref().is_some_and(|rises| rises.has(rise.step))
    });
    // The first loss of a level that is high may be one of noise: what jumped did so where it did.
    if let Some(onset) = &mut found
        && let Some(jump) = jump::near(facts, onset.step)
    {
        *onset = at(facts, jump.step, onset.sign);
    }
    found.or_else(|| {
        let collapse = collapse(facts.points(), CollapseLimits::DEFAULT, LOSS_RATIO)?;
        Some(at(facts, collapse.step, Sign::Loss(collapse.ratio)))
    })
}

/// The first explosion of the loss, however little of its fall it gave back: near zero it is none by itself.
pub(super) fn explosion(facts: Facts) -> Option<Onset> {
    first_rise(facts, |rise| rise.height > EXPLODED.ln())
}

/// The level of ln(loss) above its lowest so far.
struct Rise<'a> {
    /// The first step of the level that is above `LOSS_RATIO`.
    step: u64,
    height: f64,
    /// All levels.
    levels: &'a [f64],
    /// The one that is above.
    start: usize,
    /// The lowest until there.
    lowest: f64,
}

/// The first rise of the level of ln(loss) that is beyond its noise and is one.
fn first_rise(facts: Facts, mut is_one: impl FnMut(&Rise) -> bool) -> Option<Onset> {
    let losses = facts.points().iter().filter_map(|point| Some((point.step, point.loss?.finite()?)));
    let logs: Vec<(u64, f64)> =
        losses.filter(|(_, loss)| *loss > 0.0).map(|(step, loss)| (step, loss.ln())).collect();
    let levels: Option<Vec<f64>> =
        logs.windows(LEVEL_POINTS).map(|window| median(window.iter().map(|(_, log)| *log))).collect();
    let levels = levels?;
    let mut distances: Vec<f64> = Vec::new();
    let mut lowest = f64::INFINITY;
    let mut habit = Habit::default();
    for (start, &level) in levels.iter().enumerate() {
        let window = &logs[start..start + LEVEL_POINTS];
        distances.push((window[LEVEL_POINTS - 1].1 - level).abs());
        lowest = lowest.min(level);
        if distances.len() < FEWEST_DISTANCES {
            continue;
        }
        let height = level - lowest;
        habit.add(height);
        if height <= habit.allows() {
            continue;
        }
        let recent = &distances[distances.len().saturating_sub(NOISE_POINTS)..];
        let noise = MAD_TO_DEVIATION * median(recent.iter().copied())?;
        let error = MEDIAN_ERROR * noise / (LEVEL_POINTS as f64).sqrt();
        if height <= LEVEL_ERRORS * error {
            continue;
        }
        // Of what comes within a few steps the first losses that high are noise: it began where it was half way up.
        let above = lowest + LOSS_RATIO.ln().max(height / 2.0);
        let Some(&(step, _)) = window.iter().find(|(_, log)| *log > above) else {
            continue;
        };
        if is_one(&Rise { step, height, levels: &levels, start, lowest }) {
            return Some(at(facts, step, Sign::Loss(height.exp())));
        }
    }
    None
}

/// Whether levels of ln(loss) come back to about the lowest before they are twice as high. No level is lower than the lowest before one of these
/// two comes, so one answer holds for each start until then: asked in order of the starts, all together look at each level once.
#[derive(Debug, Default)]
struct Returns {
    /// The newest answer, and the last start that it holds for.
    known: Option<(usize, bool)>,
}

impl Returns {
    fn at(&mut self, rise: &Rise) -> bool {
        if let Some((until, comes_back)) = self.known
            && rise.start <= until
        {
            return comes_back;
        }
        let (calm, doubled) = (rise.lowest + Habit::CALM, rise.lowest + DOUBLED.ln());
        let mut next = rise.levels.iter().enumerate().skip(rise.start);
        let end = next.find(|(_, level)| **level <= calm || **level >= doubled);
        let (until, comes_back) = end.map_or((usize::MAX, false), |(index, level)| (index, *level <= calm));
        self.known = Some((until, comes_back));
        comes_back
    }
}

/// A loss scale that collapsed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct ScaleCollapse {
    /// The first of its halvings.
    pub step: u64,
    /// How many; `None` where the next logged scale was 0, which any number of halvings is logged as.
    pub halvings: Option<usize>,
}

/// The first run of halvings that is a collapse.
///
/// A scaler starts far too high on purpose: its first descent, before any step was taken at all, is none.
pub(super) fn scale_collapse(facts: Facts) -> Option<ScaleCollapse> {
    halvings(facts).or_else(|| skipped_steps(facts))
}

/// The same by the steps that were skipped, where the scale is not logged.
fn skipped_steps(facts: Facts) -> Option<ScaleCollapse> {
    let points = facts.points();
    let descended = (0..points.len())
        .find(|&index| points[index..].iter().take(SKIPPED_WITHIN).all(|point| !is_skipped(point)))?;
    let is_finite = |point: &&LogPoint| point.loss.is_some_and(|loss| loss.finite().is_some());
    // Where norms had grown far beyond what is usual, it is the run that exploded, in whatever format.
    let mut is_calm = true;
    let mut skipped = (0..points.len()).filter(|&index| {
        let ratio = points[index].grad_norm_ratio.filter(|ratio| ratio.is_finite());
        is_calm = ratio.map_or(is_calm, |ratio| ratio < EXPLODED);
        index >= descended && is_calm && is_skipped(&points[index])
    });
    skipped.find_map(|first| {
        let run =
            points[first..].iter().take(SKIPPED_WITHIN).filter(|point| is_skipped(point)).filter(is_finite);
        let count = run.count();
        (count >= HALVINGS).then_some(ScaleCollapse { step: points[first].step, halvings: Some(count) })
    })
}

/// Where the halvings of a fall came together, as many as of a collapse within as few steps as skipped ones, and the scale before: what was halved
/// long before is a scale that had grown too far.
fn dense(fall: &[(u64, f64)]) -> Option<(u64, f64)> {
    let pairs = fall.windows(2).enumerate().filter(|(_, pair)| pair[1].1 < pair[0].1);
    pairs.map(|(index, pair)| (index, pair[0].1, pair[1].0)).find_map(|(index, before, step)| {
        let soon = fall[index..].iter().take_while(|(own, _)| *own < step + SKIPPED_WITHIN as u64).last()?;
        ((before / soon.1).log2().round() >= HALVINGS as f64).then_some((step, before))
    })
}

/// A scaler that grew too far is halved once or twice, and grows again: only a fall in which it never did counts.
fn halvings(facts: Facts) -> Option<ScaleCollapse> {
    let scales: Vec<(u64, f64)> =
        facts.points().iter().filter_map(|point| Some((point.step, point.loss_scale?.finite()?))).collect();
    let settled = scales.windows(2).position(|pair| pair[1].1 >= pair[0].1)?;
    // The step at which the present fall began, and the scale before it.
    let mut fall: Option<(u64, f64)> = None;
    for (index, pair) in scales.windows(2).enumerate().skip(settled) {
        let ((_, before), (step, now)) = (pair[0], pair[1]);
        if now > before {
            fall = None;
        }
        if now >= before {
            continue;
        }
        let (began, top) = fall.filter(|(began, _)| step < began + HALVINGS_WITHIN).unwrap_or((step, before));
        fall = Some((began, top));
        if (top / now).log2().round() >= HALVINGS as f64 {
            // A scale that has run down to 0 was halved to the smallest number that is none.
            let falls = |pair: &&[(u64, f64)]| pair[1].1 <= pair[0].1 && pair[1].1 > 0.0;
            let falling = scales[index..].windows(2).take_while(falls).count();
            let first = scales.partition_point(|(step, _)| *step < began);
            let fall = &scales[first.saturating_sub(1)..=index + falling];
            let bottom = fall.last().map_or(now, |(_, scale)| *scale);
            let (began, top) = dense(fall).unwrap_or((began, top));
            let halvings = whole((top / bottom).log2()) as usize;
            return Some(ScaleCollapse {
                step: began,
                halvings: Some(halvings).filter(|&own| own >= HALVINGS),
            });
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::model::{LogAnalysis, Number};
    use crate::rules::Assessment;
    use crate::rules::test_support::run_of;

    #[test]
    fn norms_that_are_infinite_out_of_usual_ones_are_skipped_steps_and_out_of_an_explosion_are_none() {
        let collapse = |ratio_before: f64| {
            let mut run = run_of(0, Vec::new);
            let points = (1..=200).map(|step| {
                let norm = if (150..154).contains(&step) { f64::INFINITY } else { 1.0 };
                LogPoint {
                    step,
                    loss: Some(Number(2.0)),
                    grad_norm: Some(Number(norm)),
                    grad_norm_ratio: norm.is_finite().then_some(if step == 149 { ratio_before } else { 1.0 }),
                    ..LogPoint::default()
                }
            });
            run.log = Some(LogAnalysis { points: points.collect(), ..LogAnalysis::default() });
            scale_collapse(Facts { analysis: &run, assessment: &Assessment::default() })
        };
        assert_eq!(collapse(1.0), Some(ScaleCollapse { step: 150, halvings: Some(4) }));
        assert_eq!(collapse(50.0), None);
    }

    #[test]
    fn one_answer_to_whether_levels_come_back_holds_until_the_level_that_gave_it() {
        // Waves of up to 2.2 times the lowest, which falls now and then, and a plateau that stays.
        let wave = |at: usize| {
            0.8 * (at as f64 / 9.0).sin().powi(2) * (at as f64 / 31.0).cos().abs() - (at / 70) as f64 * 0.1
        };
        let levels: Vec<f64> = (0..400).map(wave).chain(std::iter::repeat_n(0.0, 50)).collect();
        let mut returns = Returns::default();
        let mut lowest = f64::INFINITY;
        let mut told = [0; 2];
        for (start, &level) in levels.iter().enumerate() {
            lowest = lowest.min(level);
            let end = levels[start..]
                .iter()
                .find(|&&later| later <= lowest + Habit::CALM || later >= lowest + DOUBLED.ln());
            let wanted = end.is_some_and(|&later| later <= lowest + Habit::CALM);
            let rise = Rise { step: 0, height: level - lowest, levels: &levels, start, lowest };
            assert_eq!(returns.at(&rise), wanted, "{start}");
            told[usize::from(wanted)] += 1;
        }
        assert!(told.iter().all(|&times| times > 50), "{told:?}");
    }
}
