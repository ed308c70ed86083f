//! What of a checkpoint cannot be judged because it is damaged, and which bytes of no tensor a policy lets be.
//!
//! A hole is a problem of its file and a finding of FP904 alike. The finding decides: bytes within its limit are no damage to the gate,
//! in any format, and all others are.

use std::collections::HashSet;

use crate::analysis::model::{CheckpointAnalysis, Problem};
use crate::rules::{Finding, Severity, Subject};

/// The rule that tells damage. It has notes as well, of what is only odd.
pub(super) const DAMAGED: &str = "FP903";

/// The rule that tells bytes of no tensor.
pub(super) const UNCOVERED: &str = "FP904";

/// The kind of the problem that a hole is.
const HOLE: &str = "uncovered-bytes";

/// Whether a finding is of what cannot be judged.
pub(super) fn is_told_by(finding: &Finding) -> bool {
    finding.rule == UNCOVERED || finding.rule == DAMAGED && finding.severity == Severity::Critical
}

/// Every problem of `checkpoint` that keeps it from being judged; `findings` are what the rules said of it.
pub(super) fn of<'a>(
    checkpoint: &'a CheckpointAnalysis,
    findings: &[&Finding],
) -> impl Iterator<Item = &'a Problem> {
    let allowed: HashSet<&str> = let_be(checkpoint, findings).map(|(file, _)| file).collect();
    let problems = checkpoint.problems.iter().filter(|problem| problem.damage);
    problems.filter(move |problem| problem.kind != HOLE || !allowed.contains(problem.file.as_str()))
}

/// Those of them that no finding tells.
pub(super) fn untold<'a>(
    checkpoint: &'a CheckpointAnalysis,
    findings: &[&'a Finding],
) -> impl Iterator<Item = &'a Problem> {
    let told = findings.iter().filter(|finding| is_told_by(finding)).filter_map(|finding| {
        let Subject::File(file) = &finding.subject else { return None };
        Some((finding.rule == UNCOVERED, file.as_str()))
    });
    let told: HashSet<(bool, &str)> = told.collect();
    of(checkpoint, findings)
        .filter(move |problem| !told.contains(&(problem.kind == HOLE, problem.file.as_str())))
}

/// Files with bytes of no tensor that FP904 lets be, and how many.
pub(super) fn let_be<'a>(
    checkpoint: &'a CheckpointAnalysis,
    findings: &[&Finding],
) -> impl Iterator<Item = (&'a str, u64)> {
    let told = findings.iter().filter(|finding| finding.rule == UNCOVERED);
    let told: HashSet<&str> = told
        .filter_map(|finding| match &finding.subject {
            Subject::File(file) => Some(file.as_str()),
            _ => None,
        })
        .collect();
    let files = checkpoint.files.iter();
    let files = files.filter(|file| file.uncovered_bytes > 0 && !told.contains(file.name.as_str()));
    files.map(|file| (file.name.as_str(), file.uncovered_bytes)).collect::<Vec<_>>().into_iter()
}
