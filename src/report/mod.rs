//! What the user reads: one output format a file. Computes no statistic, decides no severity.

mod gate;
mod github;
mod items;
mod json;
mod junit;
mod markdown;
mod moments;
mod sarif;
mod terminal;
mod text;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::analysis::model::Analysis;
use crate::gate::Judgement;
use crate::rules::{Assessment, Finding, NotEvaluated, Overrides, Severity};

pub use gate::gate_report;
pub use github::to_github;
pub use json::to_json;
pub use junit::to_junit;
pub use markdown::to_markdown;
pub use sarif::to_sarif;
pub use terminal::{Style, checkpoint_reports};
pub use text::safe;

/// Everything one command has to say about checkpoints.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Report {
    /// What was measured.
    #[serde(flatten)]
    pub analysis: Analysis,
    /// What the rules found, worst first.
    pub findings: Vec<Finding>,
    /// What could not be evaluated, and why.
    pub not_evaluated: Vec<NotEvaluated>,
    /// Limits that replaced the rules' own, such as `FP406.ratio`.
    pub replaced_limits: BTreeMap<String, f64>,
    /// One line.
    pub verdict: Verdict,
    /// What the gate decided, where it was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gate: Option<Judgement>,
}

/// The findings in one line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Verdict {
    /// Critical findings.
    pub critical: u64,
    /// Warnings.
    pub warnings: u64,
    /// Notes.
    pub notes: u64,
    /// Checks that could not run.
    pub not_evaluated: u64,
    /// The sentence.
    pub sentence: String,
}

impl Report {
    /// Puts an analysis and what the rules said about it under `overrides` together.
    pub fn new(analysis: Analysis, assessment: Assessment, overrides: &Overrides) -> Self {
        let Assessment { findings, not_evaluated } = assessment;
        let mut verdict = Verdict::of(&findings, &not_evaluated);
        if verdict.critical + verdict.warnings == 0 && !analysis.is_judged() {
            verdict.sentence = format!("nothing was judged: no element was read{}", verdict.unchecked());
        }
        let limits = overrides.0.iter().map(|((rule, limit), &value)| (format!("{rule}.{limit}"), value));
        Self { analysis, findings, not_evaluated, replaced_limits: limits.collect(), verdict, gate: None }
    }

    /// Adds what the gate decided.
    #[must_use]
    pub fn judged(mut self, judgement: Judgement) -> Self {
        self.gate = Some(judgement);
        self
    }

    /// Says that the user ended the command before everything was measured.
    #[must_use]
    pub fn interrupted(mut self) -> Self {
        self.verdict.sentence =
            format!("interrupted before everything was measured; {}", self.verdict.sentence);
        self
    }
}

impl Verdict {
    /// The verdict on `findings`, worst first.
    fn of(findings: &[Finding], not_evaluated: &[NotEvaluated]) -> Self {
        let count = |severity| findings.iter().filter(|finding| finding.severity == severity).count() as u64;
        let mut verdict = Self {
            critical: count(Severity::Critical),
            warnings: count(Severity::Warning),
            notes: count(Severity::Note),
            not_evaluated: not_evaluated.len() as u64,
            sentence: String::new(),
        };
        verdict.sentence = verdict.sentence_for(findings.first());
        verdict
    }

    fn unchecked(&self) -> String {
        match self.not_evaluated {
            0 => String::new(),
            1 => "; 1 check could not run".to_owned(),
            checks => format!("; {checks} checks could not run"),
        }
    }

    fn sentence_for(&self, worst: Option<&Finding>) -> String {
        let unchecked = self.unchecked();
        match worst {
            Some(worst) if worst.severity > Severity::Note => {
                let counts = [(self.critical, "critical"), (self.warnings, "warning")];
                let counts = counts.iter().filter(|(count, _)| *count > 0);
                let counts =
                    counts.map(|(count, name)| format!("{count} {name}")).collect::<Vec<_>>().join(", ");
                format!("{counts}: {}{unchecked}", worst.message)
            }
            _ => format!("nothing critical, no warning{unchecked}"),
        }
    }
}
