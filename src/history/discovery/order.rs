//! Candidates by step, one for each: which of several is taken, and what is said of the others.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::names;
use crate::history::log::LogFile;
use crate::history::{Found, FoundKind, History, Remark, RemarkKind};

/// A checkpoint or a dump that may be one of several of its step.
#[derive(Debug)]
pub(super) struct Candidate {
    path: PathBuf,
    shown: String,
    step: u64,
    kind: FoundKind,
    /// Its name has the step.
    named: bool,
    /// What its name has is an epoch, and nothing says a step.
    by_epoch: bool,
}

impl Candidate {
    pub(super) fn new(path: PathBuf, shown: String, step: u64) -> Self {
        Self { path, shown, step, kind: FoundKind::Stored, named: true, by_epoch: false }
    }

    pub(super) fn measured(path: PathBuf, shown: String, step: u64) -> Self {
        Self { kind: FoundKind::Measured, ..Self::new(path, shown, step) }
    }

    /// One whose step only its contents tell, such as `last.ckpt`.
    pub(super) fn unnamed(path: PathBuf, shown: String, step: u64) -> Self {
        Self { named: false, ..Self::new(path, shown, step) }
    }

    /// One of which only the epoch is known, such as `model_epoch_3.pth`.
    pub(super) fn of_epoch(path: PathBuf, shown: String, epoch: u64) -> Self {
        Self { by_epoch: true, ..Self::new(path, shown, epoch) }
    }

    fn found(self) -> Found {
        Found { path: self.path, step: self.step, kind: self.kind, by_epoch: self.by_epoch }
    }
}

/// One for each step, by ascending step. Replicas of other ranks go to [`History::replicas`].
///
/// What is stored goes before what was measured of it, a name with the step before one without, and the last in natural
/// order (`version_10` is later than `version_2`) before the others.
pub(super) fn settle(candidates: Vec<Candidate>, what: &str, history: &mut History) -> Vec<Found> {
    let mut by_step: BTreeMap<u64, Vec<Candidate>> = BTreeMap::new();
    for candidate in candidates {
        by_step.entry(candidate.step).or_default().push(candidate);
    }
    let mut found = Vec::new();
    for (step, mut group) in by_step {
        set_ranks_apart(&mut group, history);
        group
            .sort_by_cached_key(|one| (one.kind == FoundKind::Stored, one.named, names::natural(&one.shown)));
        let Some(taken) = group.pop() else { continue };
        for other in group {
            history.remarks.push(Remark {
                kind: RemarkKind::Duplicate,
                steps: Some([step, step]),
                file: Some(other.shown),
                message: format!(
                    "{} is taken as the {what} of step {step}, this one is left out",
                    taken.shown
                ),
            });
        }
        found.push(taken.found());
    }
    found
}

/// Leaves the lowest rank of each set of replicas in `group`.
fn set_ranks_apart(group: &mut Vec<Candidate>, history: &mut History) {
    let mut lowest: BTreeMap<String, u64> = BTreeMap::new();
    for candidate in group.iter() {
        if let Some((rank, name)) = names::rank(&candidate.shown) {
            let entry = lowest.entry(name).or_insert(rank);
            *entry = rank.min(*entry);
        }
    }
    let (kept, others) = std::mem::take(group).into_iter().partition(|candidate: &Candidate| {
        names::rank(&candidate.shown).is_none_or(|(rank, name)| lowest.get(&name) == Some(&rank))
    });
    *group = kept;
    let others: Vec<Candidate> = others;
    history.replicas.extend(others.into_iter().map(Candidate::found));
}

/// Of logs that differ only in the rank, leaves the lowest.
pub(super) fn one_rank(logs: &mut Vec<LogFile>, history: &mut History) {
    let mut lowest: BTreeMap<String, u64> = BTreeMap::new();
    for (rank, name) in logs.iter().filter_map(|log| names::rank(&log.name)) {
        let entry = lowest.entry(name).or_insert(rank);
        *entry = rank.min(*entry);
    }
    logs.retain(|log| {
        let keep = names::rank(&log.name).is_none_or(|(rank, name)| lowest.get(&name) == Some(&rank));
        if !keep {
            history.remark(RemarkKind::LeftOut, Some(log.name.clone()), "the log of another rank");
        }
        keep
    });
}
