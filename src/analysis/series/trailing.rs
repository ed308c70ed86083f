//! What is usual for a tensor: the median over the intervals before.
//!
//! A ratio to a median of up to eight intervals forgives one outlier in three and follows a schedule. It looks only back,
//! so that a run that is cut short has the same ratios up to there.

use std::collections::HashMap;

use super::number;
use crate::analysis::model::{Degenerate, IntervalAnalysis, Measured, TensorInterval};
use crate::robust::median;

/// Intervals that a median looks back on.
pub const WINDOW: usize = 8;

/// Fills `gradient_ratio` and `change_ratio` of every interval. Intervals are in order of time.
pub fn fill(intervals: &mut [IntervalAnalysis]) {
    let mut gradients: HashMap<String, Vec<f64>> = HashMap::new();
    let mut changes: HashMap<String, Vec<f64>> = HashMap::new();
    for interval in intervals {
        let span = interval.to_step.saturating_sub(interval.from_step);
        for tensor in &mut interval.tensors {
            let before = gradients.entry(tensor.canonical_name.clone()).or_default();
            tensor.gradient_ratio = against(&tensor.gradient_norm, before);
            let before = changes.entry(tensor.canonical_name.clone()).or_default();
            tensor.change_ratio = against(&speed(tensor, span), before);
        }
    }
}

/// Relative change per √step: what a random walk keeps, so that intervals of different lengths can be compared.
fn speed(tensor: &TensorInterval, span: u64) -> Measured<f64> {
    let steps = tensor.steps.value().copied().unwrap_or(span as f64);
    match &tensor.relative_change {
        Measured::Value(change) if steps > 0.0 => number(change / steps.sqrt()),
        Measured::Value(_) => Measured::not("no step lies between the two checkpoints"),
        other => other.clone(),
    }
}

/// `now` over the median of the last of `before`, to which it is then added.
fn against(now: &Measured<f64>, before: &mut Vec<f64>) -> Measured<f64> {
    let value = match now {
        Measured::Value(value) => *value,
        other => return other.clone(),
    };
    let window = &before[before.len().saturating_sub(WINDOW)..];
    let ratio = match median(window.iter().copied()) {
        None => Measured::not("no interval before it was measured"),
        Some(0.0) => Measured::Degenerate(Degenerate::AllZero),
        Some(median) => number(value / median),
    };
    before.push(value);
    ratio
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jump_stands_out_against_the_eight_before_it_and_not_against_itself() {
        let mut before = Vec::new();
        assert!(matches!(against(&Measured::Value(1.0), &mut before), Measured::NotMeasured(_)));
        for value in [100.0, 1.0, 3.0, 1.0, 3.0, 2.0, 2.0, 2.0] {
            against(&Measured::Value(value), &mut before);
        }
        assert_eq!(against(&Measured::Value(20.0), &mut before), Measured::Value(10.0));
        let failed = Measured::not("rounding");
        assert_eq!(against(&failed, &mut before), failed);
        assert_eq!(before.len(), 10);
        assert_eq!(against(&Measured::Value(5.0), &mut vec![0.0]), Measured::Degenerate(Degenerate::AllZero));
    }
}
