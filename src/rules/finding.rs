//! What a rule says: a subject, a sentence, the numbers behind it, and what to do next.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::Rule;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
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
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
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
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Evidence {
    /// What was measured.
    pub label: String,
    /// How much.
    pub value: f64,
    /// The limit it was held against.
    pub limit: Option<f64>,
    /// The unit of both.
    pub unit: String,
    /// On which side of the limit the number is as it should be.
    #[serde(default, skip_serializing_if = "Bound::is_at_most")]
    pub bound: Bound,
}

/// What a limit asks of a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Bound {
    /// It is the largest value that is as it should be.
    #[default]
    AtMost,
    /// It is the smallest one.
    AtLeast,
}

impl Bound {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands a reference")]
    fn is_at_most(&self) -> bool {
        *self == Bound::AtMost
    }
}

/// Units in which things are counted, not measured: one more is one more.
const COUNTED: &[&str] = &["elements", "tensors", "pages", "bytes"];

impl Evidence {
    /// Whether it is as its limit asks; what has no limit is. NaN never is.
    pub fn holds(&self) -> bool {
        self.limit.is_none_or(|limit| match self.bound {
            Bound::AtMost => self.value <= limit,
            Bound::AtLeast => self.value >= limit,
        })
    }

    /// Whether it is farther from what its limit asks than `before` is, by more than the factor `growth`. Counts have no such
    /// factor, and NaN is beyond everything.
    pub fn is_worse_than(&self, before: f64, growth: f64) -> bool {
        let growth = if COUNTED.contains(&self.unit.as_str()) { 1.0 } else { growth };
        let no_worse = match self.bound {
            Bound::AtMost => self.value <= before * growth,
            Bound::AtLeast => self.value >= before / growth,
        };
        !no_worse
    }
}

/// One bad state found in one place.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
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
        self.number(label, value, None, unit, Bound::AtMost)
    }

    /// Adds a number and the limit that it is above.
    pub fn against(&mut self, label: &str, value: f64, limit: f64, unit: &str) -> &mut Self {
        self.number(label, value, Some(limit), unit, Bound::AtMost)
    }

    /// Adds a number and the limit that it falls short of.
    pub fn short_of(&mut self, label: &str, value: f64, limit: f64, unit: &str) -> &mut Self {
        self.number(label, value, Some(limit), unit, Bound::AtLeast)
    }

    fn number(&mut self, label: &str, value: f64, limit: Option<f64>, unit: &str, bound: Bound) -> &mut Self {
        let (label, unit) = (label.to_owned(), unit.to_owned());
        self.evidence.push(Evidence { label, value, limit, unit, bound });
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

#[cfg(test)]
mod tests {
    use super::*;

    fn number(value: f64, limit: f64, unit: &str, bound: Bound) -> Evidence {
        Evidence { label: "x".to_owned(), value, limit: Some(limit), unit: unit.to_owned(), bound }
    }

    #[test]
    fn a_limit_is_the_last_value_that_holds_on_its_side() {
        assert!(number(3.0, 3.0, "1", Bound::AtMost).holds());
        assert!(!number(3.1, 3.0, "1", Bound::AtMost).holds());
        assert!(number(3.0, 3.0, "1", Bound::AtLeast).holds());
        assert!(!number(2.9, 3.0, "1", Bound::AtLeast).holds());
        for bound in [Bound::AtMost, Bound::AtLeast] {
            assert!(!number(f64::NAN, 3.0, "1", bound).holds());
            assert!(number(f64::NAN, 3.0, "1", bound).is_worse_than(3.0, 10.0));
        }
    }

    #[test]
    fn worse_is_larger_or_smaller_by_the_limit_and_counts_have_no_factor() {
        assert!(!number(1.1, 1.0, "1", Bound::AtMost).is_worse_than(1.0, 1.1));
        assert!(number(1.2, 1.0, "1", Bound::AtMost).is_worse_than(1.0, 1.1));
        assert!(!number(0.95, 2.0, "1", Bound::AtLeast).is_worse_than(1.0, 1.1));
        assert!(number(0.8, 2.0, "1", Bound::AtLeast).is_worse_than(1.0, 1.1));
        assert!(!number(1.5, 2.0, "1", Bound::AtLeast).is_worse_than(1.0, 1.1), "nearer to its limit");
        assert!(number(101.0, 0.0, "elements", Bound::AtMost).is_worse_than(100.0, 1.1));
        assert!(!number(100.0, 0.0, "elements", Bound::AtMost).is_worse_than(100.0, 1.1));
    }

    #[test]
    fn evidence_that_was_written_without_a_side_is_of_the_largest_value() {
        let old = r#"{"label":"x","value":2.0,"limit":1.0,"unit":"1"}"#;
        let read: Evidence = serde_json::from_str(old).unwrap();
        assert_eq!(read, number(2.0, 1.0, "1", Bound::AtMost));
        assert_eq!(serde_json::to_string(&read).unwrap(), old);
    }
}
