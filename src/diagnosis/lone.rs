//! One gradient of one parameter that the norm of all parameters hides: its share of the gradients left what it was before and after in one
//! interval alone, and a step of that interval has just the norm that this takes.
//!
//! The share is the norm of its gradient over the median parameter's (I4): what is common to all, a batch or the course of training, leaves it
//! as it was.

use std::collections::BTreeMap;

use super::facts::{Facts, median};
use super::suspects::is_vector;
use crate::analysis::model::{CheckpointAnalysis, IntervalAnalysis, TensorInterval};
use crate::robust::{MAD_FLOOR, MAD_TO_DEVIATION};

/// Share of one interval over that of those around it from which it left it, in ln: 0.45 and more with one gradient of 6 to 9 times its size
/// among 20; less in 312 healthy runs, or not alone.
pub(super) const LEFT: f64 = 0.4;

/// The same in robust standard deviations of the share.
const DEVIATIONS: f64 = 4.0;

/// Share of its departure up to which that of another parameter in the same interval, or of its own in those around, is none.
const ALONE: f64 = 0.5;

/// Intervals before without which its share is not known, and after one: as many are looked at.
const AROUND: usize = 3;

/// Parameters without which the median one is not known.
const FEWEST: usize = 8;

/// Logged norms a step from which a log has every step, but for a few.
const COMPLETE: f64 = 0.9;

/// Excess of the largest norm of the interval over that which the energy takes, between which they are the same: 0.98 to 1.13 in runs with such a
/// gradient.
const SAME: (f64, f64) = (0.9, 1.2);

/// A parameter whose gradient left its share of all in one step.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Lone {
    /// Its canonical name.
    pub tensor: String,
    /// The step.
    pub step: u64,
    /// The interval.
    pub interval: [u64; 2],
    /// Its share of that interval over what it was around it.
    pub ratio: f64,
}

/// ln(share) of each parameter, by interval.
type Shares<'a> = BTreeMap<&'a str, BTreeMap<usize, f64>>;

/// The first of them.
pub(super) fn lone(facts: Facts) -> Option<Lone> {
    let intervals = &facts.analysis.intervals;
    let shares = shares(intervals);
    (0..intervals.len()).find_map(|index| {
        let departures = shares.iter().filter_map(|(name, own)| Some((*name, departure(own, index)?)));
        let departures: Vec<(&str, Departure)> = departures.collect();
        let (tensor, first) = departures.iter().max_by(|a, b| a.1.log_ratio.total_cmp(&b.1.log_ratio))?;
        let mut others = departures.iter().filter(|(name, _)| name != tensor).map(|(_, own)| own.log_ratio);
        let is_small = |log_ratio: f64| log_ratio <= ALONE * first.log_ratio;
        let is_one = departures.len() >= FEWEST
            && first.log_ratio >= LEFT
            && first.log_ratio >= DEVIATIONS * first.deviation
            && is_small(first.nearest)
            && others.all(is_small);
        let interval = &intervals[index];
        let step = is_one.then(|| confirmed(facts, interval, tensor, first.log_ratio)).flatten()?;
        let (tensor, interval) = ((*tensor).to_owned(), [interval.from_step, interval.to_step]);
        Some(Lone { tensor, step, interval, ratio: first.log_ratio.exp() })
    })
}

/// How far the share of an interval is from the usual one of those around it.
struct Departure {
    log_ratio: f64,
    /// The largest of those around it.
    nearest: f64,
    /// What it is by chance.
    deviation: f64,
}

fn departure(own: &BTreeMap<usize, f64>, index: usize) -> Option<Departure> {
    let now = own.get(&index)?;
    let before: Vec<f64> = own.range(index.saturating_sub(AROUND)..index).map(|(_, share)| *share).collect();
    let after = own.range(index + 1..=index + AROUND).map(|(_, share)| *share);
    if before.len() < AROUND {
        return None;
    }
    let around: Vec<f64> = before.into_iter().chain(after).collect();
    let usual = median(around.iter().copied())?;
    let others: Vec<f64> = own.iter().filter(|(at, _)| **at != index).map(|(_, share)| *share).collect();
    let middle = median(others.iter().copied())?;
    let spread = median(others.iter().map(|share| (share - middle).abs()))?;
    let nearest = around.iter().copied().fold(f64::NEG_INFINITY, f64::max) - usual;
    Some(Departure { log_ratio: now - usual, nearest, deviation: MAD_TO_DEVIATION * spread.max(MAD_FLOOR) })
}

fn shares(intervals: &[IntervalAnalysis]) -> Shares<'_> {
    let mut shares = Shares::new();
    for (index, interval) in intervals.iter().enumerate() {
        // Gains and biases have few elements, and gradients of anything.
        let own = interval.tensors.iter().filter(|tensor| !is_vector(tensor.role));
        let own = own.filter_map(|tensor| {
            Some((tensor, tensor.gradient_norm.value().copied().filter(|norm| *norm > 0.0)?.ln()))
        });
        let own: Vec<(&TensorInterval, f64)> = own.collect();
        let Some(usual) = median(own.iter().map(|(_, norm)| *norm)) else { continue };
        for (tensor, norm) in own {
            shares.entry(tensor.canonical_name.as_str()).or_default().insert(index, norm - usual);
        }
    }
    shares
}

/// The step of the largest logged norm of an interval, where its excess is what one gradient of `tensor` must have given, and β₂ has discounted since.
fn confirmed(facts: Facts, interval: &IntervalAnalysis, tensor: &str, log_ratio: f64) -> Option<u64> {
    let (step, excess) = largest_norm(facts, interval, tensor, log_ratio.exp())?;
    let (_, saved) = facts.checkpoints().find(|(own, _)| *own == interval.to_step)?;
    let kept = beta2(saved)?.powf((interval.to_step - step) as f64);
    let (least, most) = SAME;
    (least..=most).contains(&(excess * kept.sqrt())).then_some(step)
}

/// The step of the largest logged norm of an interval, and its excess over the usual one against that which one gradient of `tensor` must have given
/// whose gradient was `ratio` times the usual: energy that came in one step is an excess of as much in the squared norm of that step, and of no other
/// size. It takes a log of every step, but for a few.
pub(super) fn largest_norm(
    facts: Facts,
    interval: &IntervalAnalysis,
    tensor: &str,
    ratio: f64,
) -> Option<(u64, f64)> {
    let own = interval.tensors.iter().find(|own| own.canonical_name == tensor)?;
    let wanted = own.energy.value()? * (1.0 - ratio.powi(-2));
    let points = facts.points_until(interval.to_step).iter().filter(|point| point.step > interval.from_step);
    let norms: Vec<(u64, f64)> =
        points.filter_map(|point| Some((point.step, point.grad_norm?.finite()?))).collect();
    let usual = median(norms.iter().map(|(_, norm)| *norm))?;
    let (step, largest) = norms.iter().copied().max_by(|a, b| a.1.total_cmp(&b.1))?;
    let steps = interval.to_step - interval.from_step;
    let excess = (largest.powi(2) - usual.powi(2)).max(0.0);
    (norms.len() as f64 >= COMPLETE * steps as f64).then(|| (step, (excess / wanted).sqrt()))
}

/// β₂ of a checkpoint's optimizer, where all of its groups have the same.
fn beta2(checkpoint: &CheckpointAnalysis) -> Option<f64> {
    let state = checkpoint.optimizer.value()?;
    let mut betas = state.optimizers.iter().flat_map(|own| &own.groups).map(|group| group.beta2);
    let first = betas.next()??;
    betas.all(|own| own == Some(first)).then_some(first)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::model::{Analysis, LogAnalysis, LogPoint, Measured, Number};
    use crate::diagnosis::{Mechanism, diagnose};
    use crate::rules::Assessment;
    use crate::rules::test_support::{interval_tensor, run_of};

    const NAMES: [&str; 8] =
        ["a.weight", "b.weight", "c.weight", "d.weight", "e.weight", "f.weight", "g.weight", "h.weight"];

    /// Eight intervals of 100 steps of eight matrices whose gradients have norm 1 each, but for the factor of `by` in an interval; the norm of
    /// all is √8 in every step, but for that of step 450, which is √(8 + excess).
    fn run(by: impl Fn(&str, usize) -> f64, excess: f64) -> Analysis {
        let mut run = run_of(8, || NAMES.map(interval_tensor).to_vec());
        for (index, interval) in run.intervals.iter_mut().enumerate() {
            for own in &mut interval.tensors {
                let factor = by(&own.name, index);
                own.gradient_norm = Measured::Value(factor);
                // Undiscounted but for what one gradient at step 450 gave: Σ of 100 squares.
                own.energy = Measured::Value(100.0 * factor.powi(2));
            }
        }
        let points = (1..=800).map(|step| LogPoint {
            step,
            grad_norm: Some(Number((8.0 + if step == 450 { excess } else { 0.0 }).sqrt())),
            ..LogPoint::default()
        });
        run.log = Some(LogAnalysis { points: points.collect(), ..LogAnalysis::default() });
        run
    }

    fn found(run: &Analysis) -> Option<Lone> {
        lone(Facts { analysis: run, assessment: &Assessment::default() })
    }

    /// `b` at 1.6 times its share in the interval from step 400 to 500.
    fn lead(name: &str, index: usize) -> f64 {
        if name == "b.weight" && index == 4 { 1.6 } else { 1.0 }
    }

    /// What one gradient gave that the energy of that interval is above the usual by, 50 steps of β₂ = 0.999 before its end.
    fn wanted() -> f64 {
        100.0 * (1.6f64.powi(2) - 1.0) / 0.999f64.powi(50)
    }

    #[test]
    fn one_gradient_that_the_norm_of_its_step_confirms_is_found_with_its_step() {
        let run = run(lead, wanted());
        let told = found(&run).expect("b left its share");
        assert_eq!((told.tensor.as_str(), told.step, told.interval), ("b.weight", 450, [400, 500]));
        assert!((told.ratio - 1.6).abs() < 1e-12, "{told:?}");
        let diagnosis = diagnose(&run, &Assessment::default());
        assert_eq!((diagnosis.mechanism, diagnosis.onset_step), (Mechanism::GradientSpike, Some(450)));
        assert_eq!(diagnosis.tensor.as_deref(), Some("b.weight"));
    }

    #[test]
    fn energy_that_no_step_explains_is_no_lone_gradient() {
        assert_eq!(found(&run(lead, 0.0)), None);
        assert_eq!(found(&run(lead, 0.5 * wanted())), None);
        assert_eq!(found(&run(lead, 2.0 * wanted())), None);
    }

    #[test]
    fn a_share_that_others_share_or_that_comes_and_goes_or_that_stays_is_none() {
        let two = |name: &str, index: usize| match name {
            "c.weight" if index == 4 => 1.5,
            _ => lead(name, index),
        };
        assert_eq!(found(&run(two, wanted())), None);
        let often = |name: &str, index: usize| {
            if name == "b.weight" && index.is_multiple_of(2) { 1.6 } else { 1.0 }
        };
        assert_eq!(found(&run(often, wanted())), None);
        let stays = |name: &str, index: usize| {
            if name == "b.weight" && index >= 4 { 1.6 } else { 1.0 }
        };
        assert_eq!(found(&run(stays, wanted())), None);
        // All together: no share is another one.
        assert_eq!(found(&run(|_, index| if index == 4 { 1.6 } else { 1.0 }, wanted())), None);
    }
}
