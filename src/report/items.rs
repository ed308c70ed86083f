//! What there is to say, one item a finding or a decision: the same for every format that tells them one by one.

use std::collections::HashMap;

use super::Report;
use crate::gate::{BaselineState, Effect, Judgement, UNREADABLE, find_check};
use crate::rules::{Evidence, RULES, Rule, Severity, Subject};

/// One thing to say.
#[derive(Clone, Copy)]
pub(super) struct Item<'a> {
    /// A rule's code, or that of a check of the gate.
    pub check: &'a str,
    pub name: &'a str,
    pub severity: Severity,
    /// What it does to the outcome; without a gate, critical findings fail and others are noticed.
    pub effect: Effect,
    pub checkpoint: &'a str,
    /// Where the checkpoint lies, as far as that is known; else its name.
    pub place: &'a str,
    pub subject: &'a Subject,
    pub message: &'a str,
    pub evidence: &'a [Evidence],
    pub advice: &'a str,
    /// Why it has this effect, where a gate judged.
    pub reason: Option<&'a str>,
    /// How it relates to the accepted checkpoint, where there is one.
    pub baseline_state: Option<BaselineState>,
    /// The file it lies in, by its name in the checkpoint.
    pub file: Option<&'a str>,
}

/// Everything there is to say, in the report's order.
pub(super) fn items(report: &Report) -> Vec<Item<'_>> {
    let files = Files::of(report);
    match &report.gate {
        Some(judgement) => decided(report, judgement, &files),
        None => found(report, &files),
    }
}

fn decided<'a>(report: &'a Report, judgement: &'a Judgement, files: &Files<'a>) -> Vec<Item<'a>> {
    let item = |decision: &'a crate::gate::Decision| Item {
        check: &decision.check,
        name: &decision.name,
        severity: decision.severity,
        effect: decision.effect,
        checkpoint: &decision.checkpoint,
        place: report.place_of(&decision.checkpoint),
        subject: &decision.subject,
        message: &decision.message,
        evidence: &decision.evidence,
        advice: &decision.advice,
        reason: Some(&decision.reason),
        baseline_state: decision.baseline_state,
        file: files.of_subject(&decision.checkpoint, &decision.subject),
    };
    judgement.decisions.iter().map(item).collect()
}

fn found<'a>(report: &'a Report, files: &Files<'a>) -> Vec<Item<'a>> {
    let item = |finding: &'a crate::rules::Finding| Item {
        check: &finding.rule,
        name: &finding.name,
        severity: finding.severity,
        effect: if finding.severity == Severity::Critical { Effect::Fails } else { Effect::Noticed },
        checkpoint: &finding.checkpoint,
        place: report.place_of(&finding.checkpoint),
        subject: &finding.subject,
        message: &finding.message,
        evidence: &finding.evidence,
        advice: &finding.advice,
        reason: None,
        baseline_state: None,
        file: files.of_subject(&finding.checkpoint, &finding.subject),
    };
    let unread = report.unread.iter().map(|problem| Item {
        check: UNREADABLE.code,
        name: UNREADABLE.name(),
        severity: Severity::Critical,
        effect: Effect::Prevents,
        checkpoint: "",
        place: "",
        subject: &Subject::Checkpoint,
        message: &problem.message,
        evidence: &[],
        advice: &problem.advice,
        reason: None,
        baseline_state: None,
        file: Some(&problem.file),
    });
    unread.chain(report.findings.iter().map(item)).collect()
}

/// The file of every tensor, and the first of every checkpoint.
struct Files<'a> {
    tensors: HashMap<(&'a str, &'a str), &'a str>,
    first: HashMap<&'a str, &'a str>,
}

impl<'a> Files<'a> {
    fn of(report: &'a Report) -> Self {
        let mut files = Self { tensors: HashMap::new(), first: HashMap::new() };
        for checkpoint in &report.analysis.checkpoints {
            if let Some(file) = checkpoint.files.first() {
                files.first.insert(&checkpoint.name, &file.name);
            }
            for tensor in &checkpoint.tensors {
                if let Some(file) = &tensor.file {
                    files.tensors.insert((&checkpoint.name, &tensor.name), file);
                }
            }
        }
        files
    }

    fn of_subject(&self, checkpoint: &str, subject: &'a Subject) -> Option<&'a str> {
        match subject {
            Subject::File(name) => Some(name),
            Subject::Tensor(name) => {
                let file = self.tensors.get(&(checkpoint, name.as_str()));
                file.or_else(|| self.first.get(checkpoint)).copied()
            }
            _ => self.first.get(checkpoint).copied(),
        }
    }
}

/// The rule of a code.
pub(super) fn rule(code: &str) -> Option<&'static Rule> {
    RULES.iter().copied().find(|rule| rule.code == code)
}

/// One line on a rule or a check of the gate.
pub(super) fn summary(code: &str) -> &'static str {
    rule(code).map_or_else(|| find_check(code).map_or("", |check| check.summary), |rule| rule.summary)
}

/// The name of a tensor, layer or file; steps in words; nothing for a whole.
pub(super) fn subject_name(subject: &Subject) -> Option<String> {
    match subject {
        Subject::Tensor(name) | Subject::Layer(name) | Subject::File(name) => Some(name.clone()),
        Subject::Steps(first, last) => Some(format!("steps {first} to {last}")),
        Subject::Checkpoint | Subject::Run => None,
    }
}
