//! Whether a logged norm is the one before clipping: those after it end at the threshold.

use super::super::{LogSemantics, Record, RemarkKind};
use super::Say;
use crate::number::grain;

/// Clipping divides by the norm plus 1e-6, and loggers round: a clipped norm equals the threshold this closely.
const EQUAL: f64 = 1e-3;

/// Share of norms at their maximum from which a threshold is seen in the norms themselves.
const PILED_UP: f64 = 0.05;

/// And so many of them at least.
const FEWEST: usize = 5;

/// Where a config says the threshold and no norm is above it, so many norms that equal it are no chance.
const FEWEST_AT_CONFIGURED: usize = 2;

/// Norms that are cut off come to the threshold from far below it again and again, or are there from the first on: what merely saturates, as a
/// sum of gradients that are 0 by now, comes to its largest value once, and from next to it.
const FEWEST_ARRIVALS: usize = 2;

/// Share of the threshold below it from which norms that come to it within `EQUAL` were cut off as well, and not only those that equal it: norms of
/// gradients that were clipped in bf16 scatter, and a sum that saturates does not fall back so far.
const WELL_BELOW: f64 = 0.1;

/// They equal it this closely, but for what 1e-6 and the logger's rounding take off.
const EXACTLY: f64 = 1e-5;

/// What `torch.nn.utils.clip_grad_norm_` adds to the norm that it divides by.
const ADDED: f64 = 1e-6;

/// Rounding puts many norms at one value: those at the largest are cut off where they are so many times those at any of the next
/// [`NEIGHBOURS`] values below.
const OVER_NEIGHBOURS: usize = 3;

/// Norms that spread over fewer rounded values have hardly a spread: their largest value may hold most of them.
const NEIGHBOURS: usize = 4;

/// Finds out by the largest norm: torch, the Trainer, Megatron and torchtitan log the norm before clipping.
pub(super) fn settle(records: &[Record], semantics: &mut LogSemantics, say: &mut Say<'_>) {
    let norms: Vec<f64> =
        records.iter().filter_map(|record| record.grad_norm).filter(|norm| norm.is_finite()).collect();
    let Some(largest) = norms.iter().copied().reduce(f64::max) else { return };
    let configured = semantics.clip_threshold.filter(|limit| *limit > 0.0);
    if let Some(limit) = configured
        && largest > limit * (1.0 + EQUAL)
    {
        semantics.before_clipping = Some(true);
        let message =
            format!("gradient norms are those before clipping: {largest:.4} is above the threshold {limit}");
        say(None, RemarkKind::Semantics, message);
        return;
    }
    let limit = configured.unwrap_or(largest);
    if limit > 0.0 && end_at(&norms, limit, configured.is_some()) {
        semantics.before_clipping = Some(false);
        let message = format!(
            "gradient norms are those after clipping: {} of {} equal {limit:.4}, how large they were is not recorded",
            count_at(&norms, limit, EQUAL * limit),
            norms.len()
        );
        say(None, RemarkKind::Semantics, message);
    }
}

/// Whether norms of which none is above `limit` were cut off there.
fn end_at(norms: &[f64], limit: f64, is_configured: bool) -> bool {
    let grain = grain(norms);
    let about = EQUAL * limit;
    let exactly = (EXACTLY * limit + ADDED + grain / 2.0).min(about);
    let piled_up = |distance: f64| {
        let count = count_at(norms, limit, distance);
        count >= FEWEST && count as f64 >= PILED_UP * norms.len() as f64
    };
    let arrives = |distance: f64, below: f64| {
        arrivals(norms, limit, distance, below) >= FEWEST_ARRIVALS
            || is_there_at_first(norms, limit, distance)
    };
    if grain > about {
        let count = count_at(norms, limit, about);
        return piled_up(about)
            && (is_configured || arrives(about, about))
            && (count == norms.len() || stands_out(norms, limit, grain, count));
    }
    if is_configured {
        // A config's own threshold is no value that norms may come to by themselves.
        return piled_up(about) || count_at(norms, limit, exactly) >= FEWEST_AT_CONFIGURED;
    }
    (piled_up(exactly) && arrives(exactly, about))
        || (piled_up(about) && arrivals(norms, limit, about, WELL_BELOW * limit) >= FEWEST)
}

/// How often norms come to within `distance` of `limit` from more than `below` below it.
fn arrivals(norms: &[f64], limit: f64, distance: f64, below: f64) -> usize {
    norms.windows(2).filter(|pair| limit - pair[0] > below && limit - pair[1] <= distance).count()
}

/// Whether the first norm is at `limit` already.
fn is_there_at_first(norms: &[f64], limit: f64, distance: f64) -> bool {
    norms.first().is_some_and(|norm| limit - norm <= distance)
}

fn count_at(norms: &[f64], limit: f64, distance: f64) -> usize {
    norms.iter().filter(|norm| (**norm - limit).abs() <= distance).count()
}

/// Whether `count` norms at `limit` are more than rounding to multiples of `grain` puts at the largest value.
fn stands_out(norms: &[f64], limit: f64, grain: f64, count: usize) -> bool {
    let places: Vec<f64> = norms.iter().map(|norm| ((limit - norm) / grain).round()).collect();
    let at = |place: usize| places.iter().filter(|own| **own == place as f64).count();
    let next = (1..=NEIGHBOURS).map(at).max();
    let spread = places.iter().copied().fold(0.0, f64::max);
    spread >= NEIGHBOURS as f64 && next.is_some_and(|next| count >= OVER_NEIGHBOURS * next)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Stream;

    fn settled(norms: &[f64], clip_threshold: Option<f64>) -> Option<bool> {
        let records: Vec<Record> =
            norms.iter().map(|norm| Record { grad_norm: Some(*norm), ..Record::default() }).collect();
        let mut semantics = LogSemantics { clip_threshold, ..LogSemantics::default() };
        settle(&records, &mut semantics, &mut |_, _, _| {});
        semantics.before_clipping
    }

    #[test]
    fn a_norm_above_the_threshold_was_not_clipped() {
        assert_eq!(settled(&[0.5, 3.0, 0.7], Some(1.0)), Some(true));
        assert_eq!(settled(&[0.5, 0.6, 0.7], Some(1.0)), None);
    }

    #[test]
    fn norms_that_end_at_one_value_were_clipped_to_it() {
        let mut norms = vec![0.999_999; 6];
        norms.extend([0.5, 0.6, 0.7]);
        assert_eq!(settled(&norms, Some(1.0)), Some(false));
        assert_eq!(settled(&norms, None), Some(false));
        assert_eq!(settled(&[0.999_999; 40], None), Some(false));
        assert_eq!(settled(&[0.5, 0.6, 0.7, 0.8], None), None);
    }

    /// Norms that a few of were clipped, as torch does it, and the same before: 2 to 5 % of them lie above.
    #[test]
    fn a_few_norms_at_the_configured_threshold_were_clipped_to_it() {
        for seed in 0..20 {
            let before: Vec<f64> =
                Stream::new(seed, 7).normals(300).iter().map(|one| 0.6 * (0.25 * one).exp()).collect();
            let limit = {
                let mut sorted = before.clone();
                sorted.sort_by(f64::total_cmp);
                sorted[294]
            };
            let after: Vec<f64> = before.iter().map(|norm| norm * (limit / (norm + 1e-6)).min(1.0)).collect();
            assert_eq!(settled(&after, Some(limit)), Some(false), "seed {seed}");
            assert_eq!(settled(&before, Some(limit)), Some(true), "seed {seed}");
            // None was clipped: the next threshold that could be meant is far away.
            assert_eq!(settled(&before, Some(100.0 * limit)), None, "seed {seed}");
        }
    }

    /// A sum of gradients that no `zero_grad` takes away, while the network dies: it saturates, at once or slowly, with or without noise.
    #[test]
    fn norms_that_saturate_were_not_clipped() {
        for (rate, noise) in [(0.5, 0.0), (0.9, 0.0), (0.97, 0.0), (0.97, 1e-4), (0.9, 1e-4), (0.99, 1e-3)] {
            let noises = Stream::new(3, 10).normals(600);
            let sum = |(step, one): (usize, &f64)| {
                let step = i32::try_from(step).expect("it is small");
                1854.73 * (1.0 - f64::powi(rate, step + 1)) * (1.0 - noise * one.abs())
            };
            let norms: Vec<f64> = noises.iter().enumerate().map(sum).collect();
            let largest = norms.iter().copied().fold(0.0, f64::max);
            assert!(count_at(&norms, largest, 3.0 * EQUAL * largest) > 60, "they nearly are equal");
            assert_eq!(settled(&norms, None), None, "rate {rate}, noise {noise}");
        }
        // What exploded within a step and never moved again.
        let mut frozen = vec![0.5, 0.6, 0.7, 0.65];
        frozen.extend([3.7e15; 100]);
        assert_eq!(settled(&frozen, None), None);
    }

    /// Gradients in bf16 have eight bits: what is left of one that was clipped to 1 is 1 within some ten-thousandths.
    #[test]
    fn norms_that_were_clipped_in_half_precision_were_clipped() {
        for seed in 0..20 {
            let [noises, errors] = [12, 13].map(|stream| Stream::new(seed, stream).normals(400));
            let clipped = |(noise, error): (&f64, &f64)| {
                let norm = 0.8 * (0.4 * noise).exp();
                if norm > 1.0 { 1.0 - 4e-4 * error.abs().min(2.0) } else { norm }
            };
            let norms: Vec<f64> = noises.iter().zip(&errors).map(clipped).collect();
            assert_eq!(settled(&norms, None), Some(false), "seed {seed}");
        }
    }

    /// More and more of them are clipped while norms grow, as torch does it.
    #[test]
    fn norms_that_grow_until_all_are_clipped_were_clipped() {
        for seed in 0..20 {
            let noises = Stream::new(seed, 11).normals(300);
            let grow = |(step, one): (usize, &f64)| 0.3 * (step as f64 / 100.0 + 0.3 * one).exp();
            let before = noises.iter().enumerate().map(grow);
            let after: Vec<f64> = before.map(|norm| norm * (1.0 / (norm + 1e-6)).min(1.0)).collect();
            assert_eq!(settled(&after, None), Some(false), "seed {seed}");
        }
    }

    /// Medians of a few units of the last decimal: many norms at the largest value, and no threshold.
    #[test]
    fn rounding_alone_cuts_no_norm_off() {
        for (median, deviation, places) in
            [(0.03, 0.2, 100.0), (0.1, 0.1, 100.0), (0.16, 0.05, 10.0), (0.9, 0.1, 10.0)]
        {
            for seed in 0..50 {
                let normals = Stream::new(seed, 8).normals(300);
                let norms: Vec<f64> = normals
                    .iter()
                    .map(|one| (median * (deviation * one).exp() * places).round() / places)
                    .filter(|norm| *norm > 0.0)
                    .collect();
                assert_eq!(settled(&norms, None), None, "median {median}, seed {seed}");
                let largest = norms.iter().copied().fold(0.0, f64::max);
                assert_eq!(settled(&norms, Some(largest)), None, "median {median}, seed {seed}");
            }
        }
    }

    /// Two decimals of norms of which a tenth was clipped to 1.
    #[test]
    fn rounded_norms_that_were_cut_off_are_seen() {
        let normals = Stream::new(4, 9).normals(300);
        let clipped = |one: &f64| ((0.72 * (0.25 * one).exp()).min(1.0) * 100.0).round() / 100.0;
        let norms: Vec<f64> = normals.iter().map(clipped).collect();
        assert_eq!(settled(&norms, None), Some(false));
    }
}
