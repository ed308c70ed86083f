//! What a rule says: a subject, a sentence, the numbers behind it, and what to do next.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Rule;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// Worth knowing; healthy runs may have it.
    Note,
    /// Likely to end badly unless something changes.
    Warning,
    /// Broken, or about to be: do not ship it, do not resume from it.
    Critical,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Severity::Note => "note",
            Severity::Warning => "warning",
            Severity::Critical => "critical",
        })
    }
}

/// How far a finding can be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Confidence {
    /// True by arithmetic: counting, an identity, an inequality that cannot be broken.
    Exact,
    /// The limit was set on labelled runs; the page names them.
    Calibrated,
    /// A rule of thumb with a source.
    Heuristic,
}

impl fmt::Display for Confidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Confidence::Exact => "exact",
            Confidence::Calibrated => "calibrated",
            Confidence::Heuristic => "heuristic",
        })
    }
}

/// What a finding is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Subject {
    /// A tensor, by its name as stored.
    Tensor(String),
    /// A layer, by its path.
    Layer(String),
    /// A file, by its name in the checkpoint.
    File(String),
    /// The checkpoint as a whole.
    Checkpoint,
    /// Steps of a run, first and last.
    Steps(u64, u64),
    /// The run as a whole.
    Run,
}

/// One number behind a finding.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Evidence {
    /// What was measured.
    pub label: String,
    /// How much.
    pub value: f64,
    /// The limit it was held against.
    pub limit: Option<f64>,
    /// The unit of both.
    pub unit: String,
}

/// One bad state found in one place.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Finding {
    /// The rule's code.
    pub rule: String,
    /// The rule's name.
    pub name: String,
    /// How bad.
    pub severity: Severity,
    /// How sure.
    pub confidence: Confidence,
    /// The checkpoint's name; the run's for what no single checkpoint shows.
    pub checkpoint: String,
    /// Its step, where known; the step at which it began, for a run.
    pub step: Option<u64>,
    /// What it is about.
    pub subject: Subject,
    /// One sentence, lower case, without a full stop: the subject, the value, the limit.
    pub message: String,
    /// The numbers.
    pub evidence: Vec<Evidence>,
    /// What to do next.
    pub advice: String,
}

/// Where a rule puts what it finds in one checkpoint.
#[derive(Debug)]
pub struct Findings {
    rule: &'static Rule,
    pub(super) checkpoint: String,
    step: Option<u64>,
    pub(super) found: Vec<Finding>,
    pub(super) not_evaluated: Vec<(Subject, String)>,
}

impl Findings {
    pub(super) fn new(rule: &'static Rule, checkpoint: &str, step: Option<u64>) -> Self {
        Self { rule, checkpoint: checkpoint.to_owned(), step, found: Vec::new(), not_evaluated: Vec::new() }
    }

    /// A finding at the rule's own severity; add evidence to what is returned.
    pub fn push(&mut self, subject: Subject, message: String, advice: &str) -> &mut Finding {
        self.found.push(Finding {
            rule: self.rule.code.to_owned(),
            name: self.rule.name.to_owned(),
            severity: self.rule.severity,
            confidence: self.rule.confidence,
            checkpoint: self.checkpoint.clone(),
            step: self.step,
            subject,
            message,
            evidence: Vec::new(),
            advice: advice.to_owned(),
        });
        self.found.last_mut().expect("one was pushed")
    }

    /// This part of the checkpoint could not be judged, because `reason`.
    pub fn not_evaluated(&mut self, subject: Subject, reason: impl Into<String>) {
        self.not_evaluated.push((subject, reason.into()));
    }
}

impl Finding {
    /// Adds a number without a limit.
    pub fn evidence(&mut self, label: &str, value: f64, unit: &str) -> &mut Self {
        self.evidence.push(Evidence { label: label.to_owned(), value, limit: None, unit: unit.to_owned() });
        self
    }

    /// Adds a number and the limit it broke.
    pub fn against(&mut self, label: &str, value: f64, limit: f64, unit: &str) -> &mut Self {
        self.evidence.push(Evidence {
            label: label.to_owned(),
            value,
            limit: Some(limit),
            unit: unit.to_owned(),
        });
        self
    }

    /// Says at which step of a run it began.
    pub fn at_step(&mut self, step: u64) -> &mut Self {
        self.step = Some(step);
        self
    }

    /// Replaces the rule's default severity, where the rule's page says so.
    pub fn severity(&mut self, severity: Severity) -> &mut Self {
        self.severity = severity;
        self
    }
}
