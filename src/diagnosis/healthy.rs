//! The newest checkpoint to go back to.

use super::facts::{Facts, states, whole};
use crate::analysis::model::CheckpointAnalysis;
use crate::rules::Severity;

/// Steps that a checkpoint has to be older than the onset: what PaLM went back, and what tr8 learned the hard way was
/// too little.
const FEWEST_STEPS: u64 = 100;

/// The checkpoint to go back to.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Healthy {
    /// Its name.
    pub name: String,
    /// Its step.
    pub step: u64,
    /// It is nearer to the onset than it should be, because no clean one is older; the distance that was wanted.
    pub wanted: Option<u64>,
}

/// The newest checkpoint without a critical finding that is far enough before `onset`; else the newest clean one
/// before it; the newest clean one of all where there is no onset.
pub(super) fn find(facts: Facts, onset: Option<u64>) -> Option<Healthy> {
    let clean: Vec<(u64, &CheckpointAnalysis)> =
        facts.checkpoints().filter(|(_, one)| is_clean(facts, one)).collect();
    let told = |(step, one): &(u64, &CheckpointAnalysis), wanted| Healthy {
        name: one.name.clone(),
        step: *step,
        wanted,
    };
    let Some(onset) = onset else { return clean.last().map(|one| told(one, None)) };
    let distance = distance(facts);
    let far = clean.iter().rev().find(|(step, _)| step + distance <= onset);
    let before = || clean.iter().rev().find(|(step, _)| *step < onset);
    far.map(|one| told(one, None)).or_else(|| before().map(|one| told(one, Some(distance))))
}

/// No critical finding is about it.
pub(super) fn is_clean(facts: Facts, checkpoint: &CheckpointAnalysis) -> bool {
    let of_it = |name: &str| name == checkpoint.name;
    !facts.assessment.findings.iter().any(|own| own.severity == Severity::Critical && of_it(&own.checkpoint))
}

/// Steps that the state remembers: 1/(1−β₂) of its slowest second moment, and no fewer than a hundred.
fn distance(facts: Facts) -> u64 {
    let newest = facts.checkpoints().next_back();
    let betas = newest.map(|(_, one)| states(one)).unwrap_or_default();
    let slowest = betas.values().filter_map(|(_, group)| group.beta2).filter(|&beta| beta < 1.0);
    let memory = slowest.fold(0.0, f64::max);
    FEWEST_STEPS.max(whole(1.0 / (1.0 - memory)))
}
