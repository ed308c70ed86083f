//! I7: how long ago one gradient outweighed all others, from a single checkpoint.
//!
//! A gradient g of age a that dominates leaves m = (1−β₁)β₁^a·g and v = (1−β₂)β₂^a·g², so that
//!
//! ```text
//! a = ln( (m²/v)·(1−β₂)/(1−β₁)² ) / ln(β₁²/β₂)
//! ```
//!
//! whatever g was. It is read from the coordinates with the largest v, where domination is most likely, and believed
//! only where they agree: in noise m²/v is spread like χ²₁, which spreads ages over some ten steps, while under one
//! spike they agree within one. Calibrated by simulation: a gradient of 1000 times the usual is dated to half a step
//! up to age 40, for (0.9, 0.999). Beyond 6/(1−β₁) steps m has forgotten it.
//!
//! Where the reading fails: a steady gradient leaves m²/v as a spike of one certain age does, so this age has no
//! reading; gradients that shrink or grow together mimic others, which is why the parameters of a checkpoint must agree
//! on one date (`consensus`); rows that a batch rarely reaches (embeddings, experts) date their last visit.

use super::bound::bound;
use super::history::History;
use super::pass::{Coordinate, TOP};
use super::{UNCOUNTED, quantile};
use crate::analysis::model::{Degenerate, Measured, ParameterOptimizer, Spike, SpikeAge};

/// Interquartile range beyond which ages do not agree: in noise it is about ten.
const LARGEST_SPREAD: f64 = 1.0;
/// Rows that the coordinates must come from, where there are as many: one odd row is not the parameter.
const FEWEST_ROWS: usize = 8;
/// Ages beyond this many times 1/(1−β₁) are forgotten.
const LONGEST_AGE: f64 = 6.0;
/// Steps on either side of the age that a steady gradient mimics.
const STEADY_ZONE: f64 = 1.0;
/// Part of the history that is the beginning of training, when gradients are large anyway.
const BEGINNING: f64 = 0.5;
/// Steps between dates of parameters that speak of one event.
const SAME_EVENT: f64 = 1.0;
/// Share of dated parameters that must agree.
const AGREEMENT: f64 = 0.8;

/// Dates the gradient that dominates `top`, the coordinates with the largest v of a parameter whose Σv is `second`. Absent where
/// no single gradient does.
pub(super) fn date(
    history: &History,
    top: &[Coordinate],
    second: f64,
    row_length: u64,
) -> Measured<SpikeAge> {
    if !history.is_counted() {
        return Measured::not(UNCOUNTED);
    }
    let ratio = history.beta1 * history.beta1 / history.beta2;
    if history.beta1 == 0.0 || ratio >= 1.0 {
        return Measured::not("m keeps nothing of a spike, or more than v, with these betas");
    }
    if top.len() < TOP {
        return Measured::not(format!("fewer than {TOP} elements with a second moment"));
    }
    let ages = ages(history, top);
    let age = quantile(&ages, 0.5);
    let spread = quantile(&ages, 0.75) - quantile(&ages, 0.25);
    if !spread.is_finite() || spread > LARGEST_SPREAD {
        return Measured::Degenerate(Degenerate::Absent);
    }
    if let Some(reason) = why_undated(history, age, top, row_length) {
        return Measured::not(reason);
    }
    let energy = second / ((1.0 - history.beta2) * history.beta2.powf(age));
    Measured::Value(SpikeAge {
        age: age.max(0.0),
        spread,
        coordinates: top.len() as u64,
        gradient_norm: energy.sqrt(),
    })
}

/// The age that each coordinate gives; infinite where m is 0.
fn ages(history: &History, top: &[Coordinate]) -> Vec<f64> {
    let unit = (1.0 - history.beta2) / (1.0 - history.beta1).powi(2);
    let slope = (history.beta1 * history.beta1 / history.beta2).ln();
    let mut ages: Vec<f64> = top.iter().map(|c| (c.first * c.first / c.second * unit).ln() / slope).collect();
    ages.sort_by(f64::total_cmp);
    ages
}

/// The age that a gradient which never changed mimics.
fn steady_age(history: &History) -> f64 {
    let steady =
        Coordinate { index: 0, first: history.first_correction(), second: history.second_correction() };
    ages(history, &[steady])[0]
}

fn why_undated(history: &History, age: f64, top: &[Coordinate], row_length: u64) -> Option<String> {
    let mut rows: Vec<u64> = top.iter().map(|coordinate| coordinate.index / row_length).collect();
    rows.dedup();
    rows.sort_unstable();
    rows.dedup();
    if row_length > 1 && rows.len() < FEWEST_ROWS {
        Some("its largest second moments are all in few rows".to_owned())
    } else if age < -0.5 {
        let limit = bound(history);
        Some(format!(
            "m is larger than one gradient leaves it: several in a row, growing (at most {limit:.2}·√v)"
        ))
    } else if age > LONGEST_AGE / (1.0 - history.beta1) {
        Some("what dominates its moments is too old to be dated".to_owned())
    } else if age > BEGINNING * history.steps {
        Some("what dominates its moments is the beginning of training".to_owned())
    } else if (age - steady_age(history)).abs() < STEADY_ZONE {
        Some("a steady gradient leaves the same moments".to_owned())
    } else {
        None
    }
}

/// C12: the factor by which the dated gradient inflates √v.
///
/// A spike of r times the usual gradient makes √v larger by √(1 + (1−β₂)β₂^a·r²), and every step of the parameter
/// shorter by as much, with a half-life of ln 2/(1−β₂) steps (693 for 0.999). The usual gradient is read from what the
/// spike leaves unexplained in m: noise of √f times its RMS, f being the noise floor. Heuristic: a usual gradient with a
/// large mean is taken to be smaller than it is.
pub(super) fn inflation(
    history: &History,
    top: &[Coordinate],
    gradient_rms: f64,
    noise_floor: f64,
) -> Measured<f64> {
    let mut ratios: Vec<f64> = top.iter().map(|c| c.first.abs() / c.second.sqrt()).collect();
    ratios.sort_by(f64::total_cmp);
    let typical = quantile(&ratios, 0.5);
    let mut residuals: Vec<f64> =
        top.iter().map(|c| (c.first.abs() - typical * c.second.sqrt()).abs()).collect();
    residuals.sort_by(f64::total_cmp);
    let noise = DEVIATIONS_PER_MEDIAN * quantile(&residuals, 0.5) / history.first_correction();
    let usual = noise / noise_floor.sqrt();
    if usual > 0.0 {
        super::number((gradient_rms / usual).max(1.0))
    } else {
        Measured::not("its moments hold nothing but the spike")
    }
}

/// Standard deviations of a Gaussian per median absolute deviation.
const DEVIATIONS_PER_MEDIAN: f64 = 1.482_602_218_505_602;

/// The one event that the dated parameters speak of.
pub(super) fn consensus(parameters: &[ParameterOptimizer]) -> Measured<Spike> {
    let dated: Vec<(&ParameterOptimizer, f64)> =
        parameters.iter().filter_map(|parameter| Some((parameter, parameter.spike.value()?.age))).collect();
    if dated.is_empty() {
        return Measured::not("no parameter's moments are dominated by a single gradient");
    }
    let mut ages: Vec<f64> = dated.iter().map(|&(_, age)| age).collect();
    ages.sort_by(f64::total_cmp);
    let age = quantile(&ages, 0.5);
    let agreed: Vec<_> = dated.iter().filter(|(_, own)| (own - age).abs() <= SAME_EVENT).collect();
    if (agreed.len() as f64) < AGREEMENT * dated.len() as f64 {
        return Measured::not(
            "parameters disagree on the date: their gradients changed steadily, not at once",
        );
    }
    let inflation = |parameter: &ParameterOptimizer| parameter.inflation.value().copied().unwrap_or(1.0);
    let worst = agreed.iter().map(|(parameter, _)| *parameter).max_by(|a, b| {
        // The first of equals.
        inflation(a).total_cmp(&inflation(b)).then(std::cmp::Ordering::Greater)
    });
    let worst = worst.expect("the median agrees with itself");
    Measured::Value(Spike {
        age,
        name: worst.name.clone(),
        parameters: agreed.len() as u64,
        inflation: inflation(worst),
    })
}

#[cfg(test)]
mod tests {
    use std::sync::OnceLock;

    use super::super::history::history;
    use super::super::pass::TOP;
    use super::super::simulation::{Adam, Noise};
    use super::*;

    const ELEMENTS: usize = 20_000;

    /// Moments after so many steps of noise that a steady gradient would mimic age 9.
    fn settled() -> Adam {
        static SETTLED: OnceLock<Adam> = OnceLock::new();
        let simulate = || {
            let mut noise = Noise::new(1);
            let mut adam = Adam::new(ELEMENTS, 0.9, 0.999);
            for _ in 0..1200 {
                adam.step(|_| noise.normal());
            }
            adam
        };
        SETTLED.get_or_init(simulate).clone()
    }

    fn top(adam: &Adam) -> Vec<Coordinate> {
        let mut all: Vec<Coordinate> = (0..adam.first.len())
            .map(|i| Coordinate {
                index: i as u64,
                first: adam.first[i].into(),
                second: adam.second[i].into(),
            })
            .collect();
        all.sort_by(|a, b| b.second.total_cmp(&a.second));
        all.truncate(TOP);
        all
    }

    fn second(adam: &Adam) -> f64 {
        adam.second.iter().map(|&v| f64::from(v)).sum()
    }

    fn dated(adam: &Adam) -> Measured<SpikeAge> {
        date(&history(adam.beta1, adam.beta2, adam.steps as f64), &top(adam), second(adam), 1)
    }

    /// Noise, one gradient `times` as large, and `age` steps of noise after it.
    fn spiked(times: f64, age: u64, seed: u64) -> Adam {
        let mut noise = Noise::new(seed);
        let mut adam = settled();
        adam.step(|_| times * noise.normal());
        for _ in 0..age {
            adam.step(|_| noise.normal());
        }
        adam
    }

    #[test]
    fn a_spike_is_dated_to_half_a_step() {
        for age in [0, 5, 20, 30, 40] {
            let found = dated(&spiked(1000.0, age, age + 1));
            let found = found.value().unwrap_or_else(|| panic!("{age}: {found:?}"));
            assert!((found.age - age as f64).abs() < 0.5, "{age}: {found:?}");
            let norm = 1000.0 * (ELEMENTS as f64).sqrt();
            assert!((found.gradient_norm / norm - 1.0).abs() < 0.05, "{age}: {found:?}");
        }
    }

    #[test]
    fn noise_and_steady_gradients_are_not_spikes() {
        assert!(dated(&settled()).value().is_none());
        let mut steady = Adam::new(ELEMENTS, 0.9, 0.999);
        for _ in 0..500 {
            steady.step(|index| index as f64 - 1e4);
        }
        assert_eq!(dated(&steady), Measured::not("a steady gradient leaves the same moments"));
    }

    #[test]
    fn a_spike_too_old_or_at_the_beginning_is_not_dated() {
        assert!(dated(&spiked(1000.0, 90, 3)).value().is_none());
        let mut noise = Noise::new(4);
        let mut adam = Adam::new(ELEMENTS, 0.9, 0.999);
        adam.step(|_| 1000.0 * noise.normal());
        for _ in 0..20 {
            adam.step(|_| noise.normal());
        }
        assert!(dated(&adam).value().is_none());
    }

    #[test]
    fn the_inflation_of_the_second_moment_is_the_predicted_one() {
        for (times, age) in [(100.0f64, 5), (100.0, 15), (300.0, 20)] {
            let adam = spiked(times, age, 11);
            let history = history(0.9, 0.999, adam.steps as f64);
            let rms = (second(&adam) / ELEMENTS as f64 / history.second_correction()).sqrt();
            let floor = super::super::signal::noise_floor(&history);
            let found = *inflation(&history, &top(&adam), rms, floor).value().unwrap();
            let expected = (1.0
                + 0.001 * 0.999f64.powi(age as i32) * times * times / history.second_correction())
            .sqrt();
            assert!((found / expected - 1.0).abs() < 0.35, "{times} {age}: {found} for {expected}");
        }
    }

    #[test]
    fn one_row_does_not_speak_for_a_matrix() {
        let mut noise = Noise::new(9);
        let mut adam = settled();
        adam.step(|index| if index < 200 { 1000.0 } else { 1.0 } * noise.normal());
        for _ in 0..5 {
            adam.step(|_| noise.normal());
        }
        let history = history(0.9, 0.999, adam.steps as f64);
        assert!(date(&history, &top(&adam), second(&adam), 200).value().is_none());
        assert!(date(&history, &top(&adam), second(&adam), 1).value().is_some());
    }
}
