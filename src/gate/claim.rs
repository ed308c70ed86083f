//! Something that is the case, before it is weighed.

use super::check::GateCheck;
use super::judgement::{Decision, Effect};
use crate::rules::{Evidence, Finding, Severity, Subject};

/// What a rule or the gate itself says, without what follows from it.
pub(super) struct Claim {
    pub check: String,
    pub name: String,
    pub severity: Severity,
    pub checkpoint: String,
    pub subject: Subject,
    pub message: String,
    pub evidence: Vec<Evidence>,
    pub advice: String,
}

impl Claim {
    pub fn of_gate(
        check: &GateCheck,
        severity: Severity,
        checkpoint: &str,
        subject: Subject,
        message: String,
    ) -> Self {
        Self {
            check: check.code.to_owned(),
            name: check.name().to_owned(),
            severity,
            checkpoint: checkpoint.to_owned(),
            subject,
            message,
            evidence: Vec::new(),
            advice: check.help.to_owned(),
        }
    }

    pub fn of_rule(finding: &Finding) -> Self {
        Self {
            check: finding.rule.clone(),
            name: finding.name.clone(),
            severity: finding.severity,
            checkpoint: finding.checkpoint.clone(),
            subject: finding.subject.clone(),
            message: finding.message.clone(),
            evidence: finding.evidence.clone(),
            advice: finding.advice.clone(),
        }
    }

    /// The same with other advice.
    pub fn advised(self, advice: impl Into<String>) -> Self {
        Self { advice: advice.into(), ..self }
    }

    pub fn decided(self, effect: Effect, severity: Severity, reason: impl Into<String>) -> Decision {
        let Self { check, name, checkpoint, subject, message, evidence, advice, .. } = self;
        Decision {
            effect,
            check,
            name,
            severity,
            checkpoint,
            subject,
            message,
            evidence,
            advice,
            reason: reason.into(),
            baseline_state: None,
        }
    }
}
