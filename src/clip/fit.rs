//! What is usual for a run: its healthy norms, without start, trend and outliers, and the quantile that a threshold is set at.
//!
//! The steps are those of the risk catalogue, section 2.4: cut at the onset, drop the start, detrend, keep the core, take its .90
//! quantile. Where we leave it: a norm is taken over the median of the ten before it, as the rule that is recommended takes it (but
//! for what that clips), and not over a median that looks ahead; and the interval spans those of the two halves of the steps, since spreads change and an interval of
//! all of them does not know it. Both were found on runs whose later steps the fit had not seen (docs/benchmarks-clip.md).

use super::estimate::{Estimate, correlation_time, quantile};
use super::method::{RECENT_NORMS, RollingMedian};
use super::onset::{ONSET_RATIO, rises};
use super::series::{Point, Series};
use crate::number::{counted, grain};
use crate::robust::{MAD_FLOOR, MAD_TO_DEVIATION, Sorted, median};

/// Norms below which nothing is recommended.
pub const FEWEST_NORMS: usize = 100;

/// Norms that have to be left of them without the start.
pub const FEWEST_CORE: usize = 50;

/// Steps of the start that are not like the rest.
pub const START_STEPS: u64 = 50;

/// Deviations within which a norm is of the core.
pub const CORE_DEVIATIONS: f64 = 6.0;

/// Norms whose median is the present scale.
pub const SCALE_NORMS: usize = 200;

/// Share of healthy steps that stay below the threshold as a constant (risk catalogue, section 2.4); the rule begins there.
pub const TARGET: f64 = 0.9;

/// The threshold over the median is kept between these.
pub const MULTIPLE_RANGE: [f64; 2] = [1.05, 3.0];

/// The recommended rule never goes above this many times the highest median it was fitted on (ours): a run whose usual norm is there explodes, and one that
/// begins anew passes through the norms of its beginning.
pub const MOST_OVER_MEDIAN: f64 = 10.0;

/// What is usual.
#[derive(Debug, Clone, PartialEq)]
pub struct Fit {
    /// First and last step that were looked at.
    pub steps: [u64; 2],
    /// Index behind the last of the series' points that were looked at, and of the first.
    pub range: std::ops::Range<usize>,
    /// The step from which norms rose to three times their lowest, where they did and the run did not learn on.
    pub onset: Option<u64>,
    /// The step from which they rose so while the loss went on falling: these are norms of a healthy run.
    pub learned_on: Option<u64>,
    /// Norms of the core.
    pub core: u64,
    /// How many independent norms the core is worth.
    pub effective: f64,
    /// Median of the last norms.
    pub median: f64,
    /// The largest median of [`RECENT_NORMS`] norms one after the other, and at least `median`.
    pub highest: f64,
    /// The quantile over the median of the [`RECENT_NORMS`] norms before a step.
    pub unbounded: Estimate,
    /// The threshold over that median: the quantile within `MULTIPLE_RANGE`.
    pub multiple: Estimate,
    /// The threshold at `median`: `multiple` times it.
    pub threshold: Estimate,
    /// Median of the last quarter over that of the first.
    pub trend: f64,
}

impl Fit {
    /// The rule that clips the norms above the quantile, wherever the norms go.
    pub fn rule(&self) -> RollingMedian {
        RollingMedian {
            multiple: self.multiple.value,
            max_norm: Some(MOST_OVER_MEDIAN * self.highest),
            ..RollingMedian::default()
        }
    }
}

/// The fit of a series; a sentence where there is too little.
pub fn fit(series: &Series, warmup_end: Option<u64>) -> Result<Fit, String> {
    let points = &series.points;
    if points.len() < FEWEST_NORMS {
        return Err(format!(
            "there {}, and a threshold needs {FEWEST_NORMS}",
            are(points.len(), "usable gradient norm")
        ));
    }
    let logs: Vec<f64> = points.iter().map(|point| point.norm.ln()).collect();
    let (learned_on, onset) = rises(points, &logs);
    let end = onset.unwrap_or(points.len());
    let [learned_on, onset] = [learned_on, onset].map(|at| at.map(|at| points[at].step));
    if end < FEWEST_NORMS {
        return Err(format!(
            "there {} before step {}, from which they rise to {ONSET_RATIO} times their lowest, and a threshold needs {FEWEST_NORMS}",
            are(end, "gradient norm"),
            onset.unwrap_or_default(),
        ));
    }
    let start = start(&points[..end], warmup_end);
    let norms: Vec<f64> = points[start..end].iter().map(|point| point.norm).collect();
    let usual = median(norms.iter().copied()).unwrap_or_default();
    let (residuals, highest) = recent_residuals(&logs[..end], start);
    let rounding = grain(&norms) / usual / 2.0;
    let (spanned, core, effective) = multiple(&residuals, rounding).ok_or("no gradient norm is left")?;
    if core < FEWEST_CORE {
        return Err(format!(
            "without the start of the run and what stands out there {}, and a threshold needs {FEWEST_CORE}",
            are(core, "gradient norm")
        ));
    }
    let multiple = spanned.map(|multiple| multiple.clamp(MULTIPLE_RANGE[0], MULTIPLE_RANGE[1]));
    let logs = &logs[start..end];
    let quarter = logs.len() / 4;
    let middle = |logs: &[f64]| median(logs.iter().copied()).unwrap_or_default();
    let now = middle(&logs[logs.len().saturating_sub(SCALE_NORMS)..]).exp();
    Ok(Fit {
        steps: [points[start].step, points[end - 1].step],
        range: start..end,
        onset,
        learned_on,
        core: core as u64,
        effective,
        median: now,
        highest: highest.exp().max(now),
        unbounded: spanned,
        multiple,
        threshold: multiple.map(|multiple| multiple * now),
        trend: (middle(&logs[logs.len() - quarter..]) - middle(&logs[..quarter])).exp(),
    })
}

/// So many things, with the verb before.
fn are(count: usize, thing: &str) -> String {
    format!("{} {}", if count == 1 { "is" } else { "are" }, counted(count as u64, thing))
}

/// Index of the first point behind the start of the run and its warm-up. A warm-up that would leave too little is not waited for.
fn start(points: &[Point], warmup_end: Option<u64>) -> usize {
    let behind = |step: u64| points.partition_point(|point| point.step <= step);
    let begun = points.partition_point(|point| point.step < START_STEPS);
    let warm = warmup_end.map_or(0, behind).max(begun);
    if points.len() - warm >= FEWEST_CORE { warm } else { begun }
}

/// The quantile of the core as a multiple, how many norms that is, and how many independent ones it is worth. Its interval spans
/// the 90 % intervals of the two halves.
fn multiple(residuals: &[f64], rounding: f64) -> Option<(Estimate, usize, f64)> {
    let (all, count, effective) = target(residuals, rounding)?;
    let (first, second) = residuals.split_at(residuals.len() / 2);
    let spanned = [first, second].into_iter().filter_map(|half| target(half, rounding)).fold(
        Estimate { low: all.value, high: all.value, ..all },
        |spanned, (half, ..)| Estimate {
            low: spanned.low.min(half.low),
            high: spanned.high.max(half.high),
            ..spanned
        },
    );
    Some((spanned.map(f64::exp), count, effective))
}

/// The quantile of the core of some residuals, its size, and how many independent ones it is worth.
fn target(residuals: &[f64], rounding: f64) -> Option<(Estimate, usize, f64)> {
    let mut core = core(residuals, rounding);
    let effective = core.len() as f64 / correlation_time(&core);
    core.sort_unstable_by(f64::total_cmp);
    Some((quantile(&core, TARGET, effective)?, core.len(), effective))
}

/// Each norm from `start` on over the median of the [`RECENT_NORMS`] before it, as logarithms; of those that have as many before them. And the
/// largest of these medians.
fn recent_residuals(logs: &[f64], start: usize) -> (Vec<f64>, f64) {
    let mut window = Sorted::new(RECENT_NORMS);
    let mut highest = f64::NEG_INFINITY;
    let mut residuals = Vec::with_capacity(logs.len() - start);
    for (at, &log) in logs.iter().enumerate() {
        if at >= start && window.len() == RECENT_NORMS {
            residuals.push(log - window.median());
            highest = highest.max(window.median());
        }
        window.push(log);
    }
    (residuals, highest)
}

/// Residuals within six robust deviations of their median, in the order of the steps. Norms of which most were rounded to the same value
/// deviate by `rounding` all the same.
fn core(residuals: &[f64], rounding: f64) -> Vec<f64> {
    let middle = median(residuals.iter().copied()).unwrap_or_default();
    let mad = median(residuals.iter().map(|residual| (residual - middle).abs())).unwrap_or_default();
    let bound = CORE_DEVIATIONS * MAD_TO_DEVIATION * mad.max(rounding).max(MAD_FLOOR);
    residuals.iter().copied().filter(|residual| (residual - middle).abs() <= bound).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clip::onset::{first_rise, trend};
    use crate::clip::series::Source;
    use crate::random::Stream;

    fn series(norms: &[f64], first: u64) -> Series {
        let point = |(at, &norm): (usize, &f64)| Point {
            step: first + at as u64,
            norm,
            loss: None,
            usual: None,
            tensors: Vec::new(),
        };
        Series {
            source: Source::Log,
            points: norms.iter().enumerate().map(point).collect(),
            non_finite: 0,
            zeros: 0,
            tensors: Vec::new(),
        }
    }

    fn log_normal(median: f64, deviation: f64, count: usize) -> Vec<f64> {
        Stream::new(3, 1).normals(count).iter().map(|one| median * (deviation * one).exp()).collect()
    }

    /// ln n is normal with deviation s: the multiple is e^{1.2816·s}, but for a fiftieth that the rolling median takes.
    #[test]
    fn the_threshold_of_log_normal_norms_is_their_quantile() {
        let fit = fit(&series(&log_normal(0.3, 0.2, 20_000), 1), None).unwrap();
        let expected = (1.2816f64 * 0.2).exp();
        assert!((fit.multiple.value / expected - 1.0).abs() < 0.02, "{fit:?}");
        assert!((fit.median / 0.3 - 1.0).abs() < 0.05 && fit.onset.is_none(), "{fit:?}");
        assert!((fit.trend - 1.0).abs() < 0.02 && fit.steps == [50, 20_000], "{fit:?}");
        assert!(fit.multiple.low < fit.multiple.value && fit.multiple.value < fit.multiple.high);
    }

    #[test]
    fn an_explosion_is_cut_off_and_a_warm_up_is_left_out() {
        let mut norms = log_normal(0.3, 0.1, 400);
        norms.extend((0..60).map(|step| 0.3 * 1.2f64.powi(step)));
        let found = fit(&series(&norms, 1), Some(120)).unwrap();
        let onset = found.onset.unwrap();
        assert!((395..=410).contains(&onset), "{onset}");
        assert_eq!(found.steps[0], 121);
        assert!(found.median < 0.32, "{found:?}");
        // A log that begins in the middle of a run has no start to leave out.
        assert_eq!(fit(&series(&norms, 31_000), None).unwrap().steps[0], 31_000);
    }

    /// Gradients grow to ten times when a plateau ends: those of a loss that falls on are norms of the run, those of one that
    /// does not, or that is not logged, are the beginning of its end.
    #[test]
    fn norms_that_rise_while_the_loss_falls_are_fitted() {
        let mut norms = log_normal(0.3, 0.1, 80);
        norms.extend(log_normal(3.0, 0.1, 400));
        let with_loss = |loss: &dyn Fn(u64) -> Option<f64>| {
            let mut series = series(&norms, 1);
            series.points.iter_mut().for_each(|point| point.loss = loss(point.step));
            fit(&series, None)
        };
        let learned =
            with_loss(&|step| Some(if step < 80 { 2.3 } else { 2.3 * 0.99f64.powi(step as i32 - 80) }));
        let learned = learned.unwrap();
        assert_eq!((learned.onset, learned.steps), (None, [50, 480]));
        // Eight of fifteen norms are high at step 88 for the first time, whose window begins behind step 73.
        assert_eq!(learned.learned_on, Some(73));
        assert!((learned.median / 3.0 - 1.0).abs() < 0.05, "{learned:?}");

        let worse = |step: u64| Some(if step < 80 { 2.3 } else { 2.5 });
        let came_back =
            |step: u64| Some(if (200..230).contains(&step) { 4.0 } else { 2.3 - 0.001 * step as f64 });
        let falling = |step: u64| if step < 80 { 2.3 } else { 2.3 * 0.99f64.powi(step as i32 - 80) };
        let became_nan = |step: u64| Some(falling(step)).filter(|_| step < 300);
        let seldom = |step: u64| Some(falling(step)).filter(|_| step.is_multiple_of(50));
        for loss in [&worse as &dyn Fn(u64) -> Option<f64>, &came_back, &became_nan, &seldom, &|_| None] {
            assert!(with_loss(loss).unwrap_err().contains("before step"));
        }
        let one_missing = |step: u64| Some(falling(step)).filter(|_| step != 300);
        let every_tenth = |step: u64| Some(falling(step)).filter(|_| step.is_multiple_of(10));
        for loss in [&one_missing as &dyn Fn(u64) -> Option<f64>, &every_tenth] {
            let found = with_loss(loss).unwrap();
            assert_eq!((found.onset, found.learned_on), (None, Some(73)));
            assert!((found.median / learned.median - 1.0).abs() < 1e-12, "{found:?}");
        }
    }

    /// A rise that the run learned on from does not excuse the one that it did not.
    #[test]
    fn an_explosion_behind_a_rise_that_was_learned_on_from_is_cut_off_all_the_same() {
        let mut norms = log_normal(0.3, 0.1, 80);
        norms.extend(log_normal(1.2, 0.1, 1000));
        norms.extend(log_normal(60.0, 0.1, 300));
        // Below the loss of before the first rise at the end, and far above all that was.
        for end in [7.0, 40.0] {
            let mut series = series(&norms, 1);
            for point in &mut series.points {
                let step = point.step as f64;
                point.loss = Some(if point.step <= 1080 { 10.4 - 0.007 * step } else { end });
            }
            let found = fit(&series, None).unwrap();
            let [learned_on, onset] = [found.learned_on, found.onset].map(|step| step.expect("there is one"));
            assert!(
                (65..=90).contains(&learned_on) && (1066..=1090).contains(&onset),
                "{learned_on} {onset}"
            );
            assert!((found.median / 1.2 - 1.0).abs() < 0.05, "{found:?}");
        }
    }

    /// Medians of 15 of norms with a log-sd of .7 range over more than ln 3 in twenty thousand steps: that is no onset.
    #[test]
    fn noise_is_no_onset_and_a_rise_out_of_it_is() {
        let mut norms = log_normal(1.0, 0.7, 20_000);
        let logs: Vec<f64> = norms.iter().map(|norm| norm.ln()).collect();
        assert!(first_rise(&logs, ONSET_RATIO.ln()).is_some(), "three times alone would take it for one");
        assert_eq!(fit(&series(&norms, 1), None).unwrap().onset, None);
        norms.extend((0..60).map(|step| 1.2f64.powi(step)));
        let onset = fit(&series(&norms, 1), None).unwrap().onset.expect("norms explode");
        assert!((19_985..=20_030).contains(&onset), "{onset}");
    }

    /// Norms that are a hundredth by the end: the lines are copied into a run that begins anew as well, and must let its beginning through.
    #[test]
    fn the_rule_lets_through_the_norms_of_a_beginning_that_it_was_fitted_on() {
        let falling: Vec<f64> = log_normal(1.0, 0.1, 1000)
            .iter()
            .zip(0..)
            .map(|(norm, step)| norm * 0.995_f64.powi(step))
            .collect();
        let found = fit(&series(&falling, 1), None).unwrap();
        let most = found.rule().max_norm.expect("it is bounded");
        // The median of ten around step 55 is 0.995^55 = .76.
        assert!(found.median < 0.02 && (6.0..9.0).contains(&most), "{most} {found:?}");
    }

    /// The .90 quantile of a log-normal of log-sd 1.5 is e^{1.9} times its median: kept at 3, and both are said.
    #[test]
    fn a_multiple_above_what_is_allowed_is_kept_there() {
        let found = fit(&series(&log_normal(1.0, 1.5, 2000), 1), None).unwrap();
        assert_eq!(found.multiple.value, 3.0);
        assert!((5.0..11.0).contains(&found.unbounded.value), "{found:?}");
    }

    #[test]
    fn equal_norms_are_clipped_just_above_and_too_few_are_not_evaluated() {
        let equal = fit(&series(&[2.0; 150], 1), None).unwrap();
        assert_eq!((equal.median, equal.multiple.value), (2.0, 1.05));
        assert!(fit(&series(&[2.0; 99], 1), None).unwrap_err().contains("99 usable"));
        let mut early = vec![1.0; 60];
        early.extend([50.0; 60]);
        assert!(fit(&series(&early, 1), None).unwrap_err().contains("before step"));
    }

    /// Norms of .03 with two decimals: half are equal, and those beside them are of the core. Of .035 to .045 there are 22 %, of more 2 %:
    /// the .90 quantile is .04.
    #[test]
    fn rounded_norms_keep_their_spread() {
        let rounded: Vec<f64> =
            log_normal(0.03, 0.2, 2000).iter().map(|norm| (norm * 100.0).round() / 100.0).collect();
        let found = fit(&series(&rounded, 1), None).unwrap();
        assert!(found.core >= 1940, "{found:?}");
        assert!((found.multiple.value / (4.0 / 3.0) - 1.0).abs() < 1e-9, "{found:?}");
    }

    #[test]
    fn the_rolling_median_is_that_of_each_window() {
        let values = Stream::new(5, 2).normals(140);
        for (at, found) in trend(&values).into_iter().enumerate() {
            let window = &values[at.saturating_sub(25)..(at + 26).min(140)];
            let expected = median(window.iter().copied()).unwrap();
            // The middle of two values may round the other way.
            assert!((found - expected).abs() < 1e-15, "{at}: {found} {expected}");
        }
    }
}
