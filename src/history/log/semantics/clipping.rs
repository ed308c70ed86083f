//! Whether a logged norm is the one before clipping: those after it end at the threshold.

use super::super::{LogSemantics, Record, RemarkKind};
use super::Say;

/// Clipping divides by the norm plus 1e-6, and loggers round: a clipped norm equals the threshold this closely.
const EQUAL: f64 = 1e-3;

/// Share of norms at their maximum from which a threshold is seen in the norms themselves.
const PILED_UP: f64 = 0.05;

/// And so many of them at least.
const FEWEST: usize = 5;

/// Finds out by the largest norm: torch, the Trainer, Megatron and torchtitan log the norm before clipping.
pub(super) fn settle(records: &[Record], semantics: &mut LogSemantics, say: &mut Say<'_>) {
    let norms: Vec<f64> =
        records.iter().filter_map(|record| record.grad_norm).filter(|norm| norm.is_finite()).collect();
    let Some(largest) = norms.iter().copied().reduce(f64::max) else { return };
    let at = |limit: f64| norms.iter().filter(|norm| (**norm - limit).abs() <= EQUAL * limit).count();
    let piled_up = |count: usize| count >= FEWEST && count as f64 >= PILED_UP * norms.len() as f64;
    match semantics.clip_threshold.filter(|limit| *limit > 0.0) {
        Some(limit) if largest > limit * (1.0 + EQUAL) => {
            semantics.before_clipping = Some(true);
            let message = format!(
                "gradient norms are those before clipping: {largest:.4} is above the threshold {limit}"
            );
            say(None, RemarkKind::Semantics, message);
        }
        limit => {
            let end = limit.unwrap_or(largest);
            if end > 0.0 && piled_up(at(end)) {
                semantics.before_clipping = Some(false);
            }
        }
    }
    if semantics.before_clipping == Some(false) {
        let limit = semantics.clip_threshold.unwrap_or(largest);
        let count = at(limit);
        let message = format!(
            "gradient norms are those after clipping: {count} of {} equal {limit:.4}, how large they were is not recorded",
            norms.len()
        );
        say(None, RemarkKind::Semantics, message);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
