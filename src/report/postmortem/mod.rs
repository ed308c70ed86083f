//! The report on a run: when, where and why it failed, and what to do.

mod findings;
mod page;
mod timeline;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Report, Verdict};
use crate::analysis::model::{Analysis, Problem};
use crate::diagnosis::Diagnosis;
use crate::rules::{Assessment, Finding, NotEvaluated, Overrides};

pub(super) use findings::grouped;
pub(super) use page::counted;
pub use page::postmortem_page;
pub(super) use timeline::draw as draw_timeline;

/// Everything a post-mortem has to say about a run; enough to draw its timeline again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct PostMortem {
    /// What happened.
    pub diagnosis: Diagnosis,
    /// One line.
    pub verdict: Verdict,
    /// What the rules found, worst first.
    pub findings: Vec<Finding>,
    /// What could not be evaluated, and why.
    pub not_evaluated: Vec<NotEvaluated>,
    /// What of the run could not be read: the verdict is on the rest.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unread: Vec<Problem>,
    /// Limits that replaced the rules' own, such as `FP406.ratio`.
    pub replaced_limits: BTreeMap<String, f64>,
    /// What was measured.
    #[serde(flatten)]
    pub analysis: Analysis,
}

impl PostMortem {
    /// Puts an analysis, what the rules said about it under `overrides`, and the diagnosis together.
    pub fn new(
        analysis: Analysis,
        assessment: Assessment,
        diagnosis: Diagnosis,
        overrides: &Overrides,
    ) -> Self {
        let Assessment { findings, not_evaluated } = assessment;
        let mut verdict = Verdict::of(&findings.iter(), not_evaluated.iter(), analysis.is_judged(), true);
        verdict.sentence = format!("{}; {}", diagnosis.verdict, verdict.counts());
        let limits = overrides.0.iter().map(|((rule, limit), &value)| (format!("{rule}.{limit}"), value));
        Self {
            diagnosis,
            verdict,
            findings,
            not_evaluated,
            unread: Vec::new(),
            replaced_limits: limits.collect(),
            analysis,
        }
    }

    /// Says first that some of the run could not be read: what is said behind it is about the rest.
    #[must_use]
    pub fn without(mut self, unread: Vec<Problem>) -> Self {
        if let Some(first) = unread.first() {
            let files = counted(unread.len(), "file");
            self.verdict.sentence = format!(
                "{files} of the run could not be read ({}); of the rest: {}",
                first.told(),
                self.verdict.sentence
            );
        }
        self.unread = unread;
        self
    }

    /// Its findings with its verdict, for the formats that tell findings one by one.
    #[must_use]
    pub fn as_report(&self) -> Report {
        Report {
            analysis: self.analysis.clone(),
            findings: self.findings.clone(),
            not_evaluated: self.not_evaluated.clone(),
            replaced_limits: self.replaced_limits.clone(),
            unread: self.unread.clone(),
            verdicts: Vec::new(),
            verdict: self.verdict.clone(),
            places: BTreeMap::new(),
            gate: None,
        }
    }

    /// Says that the user ended the command before everything was measured.
    #[must_use]
    pub fn interrupted(mut self) -> Self {
        self.verdict.sentence =
            format!("interrupted before everything was measured; {}", self.verdict.sentence);
        self
    }
}
