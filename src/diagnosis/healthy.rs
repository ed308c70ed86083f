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
    /// The distance that is wanted of it, and why, where it is of a time before an onset.
    pub wanted: Option<Distance>,
    /// It is nearer to the onset than that, because no clean one is older.
    pub is_near: bool,
}

/// How far before an onset a checkpoint should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Distance {
    /// Steps.
    pub steps: u64,
    /// Why no fewer.
    pub because: &'static str,
}

/// The newest checkpoint without a critical finding that is far enough before `onset`; else the newest clean one
/// before it; the newest clean one of all where there is no onset.
pub(super) fn find(facts: Facts, onset: Option<u64>) -> Option<Healthy> {
    let clean: Vec<(u64, &CheckpointAnalysis)> =
        facts.checkpoints().filter(|(_, one)| is_clean(facts, one)).collect();
    let told = |(step, one): &(u64, &CheckpointAnalysis), wanted, is_near| Healthy {
        name: one.name.clone(),
        step: *step,
        wanted,
        is_near,
    };
    let Some(onset) = onset else { return clean.last().map(|one| told(one, None, false)) };
    let wanted = distance(facts);
    let far = clean.iter().rev().find(|(step, _)| step + wanted.steps <= onset);
    let before = || clean.iter().rev().find(|(step, _)| *step < onset);
    far.map(|one| told(one, Some(wanted), false))
        .or_else(|| before().map(|one| told(one, Some(wanted), true)))
}

/// No critical finding is about it.
pub(super) fn is_clean(facts: Facts, checkpoint: &CheckpointAnalysis) -> bool {
    let of_it = |name: &str| name == checkpoint.name;
    !facts.assessment.findings.iter().any(|own| own.severity == Severity::Critical && of_it(&own.checkpoint))
}

/// Steps that the state remembers: 1/(1−β₂) of its slowest second moment, and no fewer than a hundred.
fn distance(facts: Facts) -> Distance {
    let newest = facts.checkpoints().next_back();
    let betas = newest.map(|(_, one)| states(one)).unwrap_or_default();
    let slowest = betas.values().filter_map(|(_, group)| group.beta2).filter(|&beta| beta < 1.0);
    let memory = slowest.fold(0.0, f64::max);
    let steps = whole(1.0 / (1.0 - memory));
    if steps > FEWEST_STEPS {
        Distance { steps, because: "the second moments remember as many" }
    } else {
        Distance { steps: FEWEST_STEPS, because: "a failure begins before it shows" }
    }
}
