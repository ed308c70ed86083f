//! The findings of all checkpoints of a run, each told once: where it was first seen, and how many checkpoints have it.

use crate::rules::Finding;

/// One finding and those like it in later checkpoints.
#[derive(Debug)]
pub(in crate::report) struct Group<'a> {
    /// The earliest.
    pub first: &'a Finding,
    /// Checkpoints that have it.
    pub checkpoints: usize,
}

/// Findings of the same rule about the same thing, together; worst first, then by the step of the earliest.
pub(in crate::report) fn grouped(findings: &[Finding]) -> Vec<Group<'_>> {
    let mut groups: Vec<Group> = Vec::new();
    for finding in findings {
        let same =
            |group: &&mut Group| group.first.rule == finding.rule && group.first.subject == finding.subject;
        match groups.iter_mut().find(same) {
            Some(group) => {
                group.checkpoints += 1;
                let worse = finding.severity > group.first.severity;
                let earlier = finding.severity == group.first.severity && finding.step < group.first.step;
                if worse || earlier {
                    group.first = finding;
                }
            }
            None => groups.push(Group { first: finding, checkpoints: 1 }),
        }
    }
    groups.sort_by(|a, b| {
        let key =
            |group: &Group| (std::cmp::Reverse(group.first.severity), group.first.step.unwrap_or(u64::MAX));
        key(a).cmp(&key(b)).then_with(|| a.first.rule.cmp(&b.first.rule))
    });
    groups
}
