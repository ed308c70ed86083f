//! Where norms rise: the onset that a fit ends before, and rises that the run learned on from (risk catalogue, section 2.4, step 2).

use super::fit::FEWEST_NORMS;
use super::series::Point;
use crate::robust::{MAD_TO_DEVIATION, MEDIAN_ERROR, Sorted, median};

/// Norms of the rolling median that finds the onset.
pub const ONSET_WINDOW: usize = 15;

/// The onset is where that median is this many times its lowest so far.
pub const ONSET_RATIO: f64 = 3.0;

/// And as many standard errors of a median of [`ONSET_WINDOW`] norms above it: among many medians of noisy norms the lowest is far down.
pub const ONSET_ERRORS: f64 = 8.0;

/// Rises that a run may have learned on from; the next one counts as the onset, whatever the loss does.
const MOST_RISES: usize = 8;

/// Loss over its level before norms rose, above which the run got worse (E3).
pub const WORSE: f64 = 1.5;

/// Losses below which there is no level of the loss.
pub const FEWEST_LOSSES: usize = 5;

/// Steps from one loss to the next, over the usual ones, beyond which some are missing or were NaN.
pub const LONGEST_GAP: f64 = 3.0;

/// Norms of the rolling median that says at what level norms are: as many on either side.
pub const TREND_WINDOW: usize = 51;

/// Where norms first rose while the run learned on, and where they rose and it did not.
pub(super) fn rises(points: &[Point], logs: &[f64]) -> (Option<usize>, Option<usize>) {
    let rise = least_rise(logs);
    let (mut learned_on, mut risen) = (None, first_rise(logs, rise));
    for _ in 0..MOST_RISES {
        let Some(at) = risen else { return (learned_on, None) };
        // Behind the window that has risen, at the level that is the run's from there on if it learned.
        let behind = (at + ONSET_WINDOW + 1).min(logs.len());
        risen = first_rise(&logs[behind..], rise).map(|next| behind + next);
        // What comes of the run after its next rise says nothing of this one.
        if !learns_on(points, at) && !risen.is_some_and(|next| learns_on(&points[..next], at)) {
            return (learned_on, Some(at));
        }
        learned_on.get_or_insert(at);
    }
    (learned_on, risen)
}

/// How far a median of [`ONSET_WINDOW`] norms has to be above the lowest, in ln: three times, and beyond noise.
fn least_rise(logs: &[f64]) -> f64 {
    let noise = logs.iter().zip(trend(logs)).map(|(log, level)| (log - level).abs());
    let deviation = MAD_TO_DEVIATION * median(noise).unwrap_or_default();
    ONSET_RATIO.ln().max(ONSET_ERRORS * MEDIAN_ERROR * deviation / (ONSET_WINDOW as f64).sqrt())
}

/// Index of the first point of the window whose median is first so far above the lowest before it.
pub(super) fn first_rise(logs: &[f64], rise: f64) -> Option<usize> {
    let mut window = Sorted::new(ONSET_WINDOW);
    let mut lowest = f64::INFINITY;
    for (at, &log) in logs.iter().enumerate() {
        window.push(log);
        if window.len() < ONSET_WINDOW {
            continue;
        }
        let now = window.median();
        if now > lowest + rise {
            return Some(at.saturating_sub(ONSET_WINDOW));
        }
        lowest = lowest.min(now);
    }
    None
}

/// Whether the run learned on from point `at`, where norms rose: its loss ends below its level before, and was at no level far
/// above that, for as many norms as a threshold needs, since those before are of another level. Behind a plateau, and where a model
/// leaves its initialisation, gradients grow because there is something to learn. A loss may be logged at some of the steps only.
fn learns_on(points: &[Point], at: usize) -> bool {
    let losses = |points: &[Point]| points.iter().filter_map(|point| point.loss).collect::<Vec<f64>>();
    let (before, later) = (losses(&points[..at]), losses(&points[at..]));
    let before = &before[before.len().saturating_sub(ONSET_WINDOW)..];
    // As many losses as there are among the norms of a window, so that a level lasts as long.
    let logged = points.len() - at;
    let window = (ONSET_WINDOW * later.len()).div_ceil(logged.max(1)).clamp(FEWEST_LOSSES, ONSET_WINDOW);
    if logged < FEWEST_NORMS
        || before.len() < FEWEST_LOSSES
        || later.len() < ONSET_WINDOW
        || !is_logged_throughout(&points[at..])
    {
        return false;
    }
    let level = |losses: &[f64]| median(losses.iter().copied()).unwrap_or(f64::INFINITY);
    let (before, end) = (level(before), level(&later[later.len() - window..]));
    let highest = later.windows(window).map(level).fold(end, f64::max);
    before > 0.0 && end < before && highest <= WORSE * before
}

/// Whether the loss is logged from the first to the last of these points as often as it is at all. One that is NaN is none.
fn is_logged_throughout(points: &[Point]) -> bool {
    let places = points.iter().enumerate().filter(|(_, point)| point.loss.is_some()).map(|(at, _)| at + 1);
    let places: Vec<usize> = [0].into_iter().chain(places).chain([points.len() + 1]).collect();
    let gaps: Vec<f64> = places.windows(2).map(|pair| (pair[1] - pair[0]) as f64).collect();
    let longest = gaps.iter().copied().fold(0.0, f64::max);
    median(gaps).is_some_and(|usual| longest <= LONGEST_GAP * usual)
}

/// The rolling median around each value, the window cut off at the ends.
pub(super) fn trend(logs: &[f64]) -> Vec<f64> {
    let half = TREND_WINDOW / 2;
    let mut window = Sorted::new(TREND_WINDOW + 1);
    let (mut begin, mut end) = (0, 0);
    let at = |at: usize| {
        while end < logs.len() && end <= at + half {
            window.push(logs[end]);
            end += 1;
        }
        while begin + half < at {
            window.drop_oldest();
            begin += 1;
        }
        window.median()
    };
    (0..logs.len()).map(at).collect()
}
