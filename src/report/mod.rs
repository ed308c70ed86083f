//! What the user reads: one output format a file. Computes no statistic, decides no severity.

mod json;
mod moments;
mod terminal;
mod text;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::analysis::model::Analysis;
use crate::rules::{Assessment, Finding, NotEvaluated, Severity};

pub use json::to_json;
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
    /// One line.
    pub verdict: Verdict,
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
    /// Puts an analysis and what the rules said about it together.
    pub fn new(analysis: Analysis, assessment: Assessment) -> Self {
        let verdict = Verdict::of(&assessment.findings, &assessment.not_evaluated);
        Self { analysis, findings: assessment.findings, not_evaluated: assessment.not_evaluated, verdict }
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

    fn sentence_for(&self, worst: Option<&Finding>) -> String {
        let unchecked = match self.not_evaluated {
            0 => String::new(),
            1 => "; 1 check could not run".to_owned(),
            checks => format!("; {checks} checks could not run"),
        };
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
