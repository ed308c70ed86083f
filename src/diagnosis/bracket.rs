//! Which checkpoints stand before and after the onset.

use super::facts::Facts;

/// The checkpoints around a step.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bracket {
    /// Step of the newest checkpoint before it.
    pub before: Option<u64>,
    /// Step of the oldest checkpoint that has seen it.
    pub after: Option<u64>,
}

/// Step of the newest checkpoint before `step`, or that of the start.
pub(super) fn before(facts: Facts, step: u64) -> u64 {
    of(facts, step).before.unwrap_or(0)
}

/// The bracket of `step`: the state of a checkpoint at step N has seen the gradients of the steps up to N.
pub(super) fn of(facts: Facts, step: u64) -> Bracket {
    let steps: Vec<u64> = facts.checkpoints().map(|(step, _)| step).collect();
    Bracket {
        before: steps.iter().copied().filter(|&own| own < step).max(),
        after: steps.iter().copied().filter(|&own| own >= step).min(),
    }
}
