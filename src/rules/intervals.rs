//! What several rules ask of the intervals of a run.

use std::collections::BTreeMap;

use super::{Findings, Subject};
use crate::analysis::model::{Analysis, IntervalAnalysis, Measured, TensorInterval};

/// Every tensor of every interval, in order of time.
pub(super) fn tensors(analysis: &Analysis) -> impl Iterator<Item = (&IntervalAnalysis, &TensorInterval)> {
    analysis
        .intervals
        .iter()
        .flat_map(|interval| interval.tensors.iter().map(move |tensor| (interval, tensor)))
}

/// The tensor as the subject of a finding.
pub(super) fn subject(tensor: &TensorInterval) -> Subject {
    Subject::Tensor(tensor.name.clone())
}

/// Steps of an interval, for people.
pub(super) fn span(interval: &IntervalAnalysis) -> String {
    format!("between steps {} and {}", interval.from_step, interval.to_step)
}

/// Says of each tensor for which `quantity` was never measured why that was so the last time.
pub(super) fn never_measured(
    analysis: &Analysis,
    quantity: impl Fn(&TensorInterval) -> &Measured<f64>,
    findings: &mut Findings,
) {
    let mut reasons: BTreeMap<&str, Option<&str>> = BTreeMap::new();
    for (_, tensor) in tensors(analysis) {
        let reason = match quantity(tensor) {
            Measured::NotMeasured(reason) => Some(reason.as_ref()),
            _ => None,
        };
        let kept = reasons.entry(tensor.name.as_str()).or_insert(reason);
        if reason.is_none() {
            *kept = None;
        }
    }
    for (name, reason) in reasons {
        if let Some(reason) = reason {
            findings.not_evaluated(Subject::Tensor(name.to_owned()), reason);
        }
    }
}
