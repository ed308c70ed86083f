//! What the user reads: one output format a file. Computes no statistic, decides no severity.

mod clip;
mod difference;
mod gate;
mod github;
mod html;
mod items;
mod jacobian;
mod json;
mod junit;
mod maps;
mod markdown;
mod moments;
mod plot;
mod postmortem;
mod recover;
mod rule_page;
mod sarif;
#[cfg(test)]
mod schema;
mod terminal;
mod text;
mod train;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::analysis::model::{Analysis, CheckpointAnalysis, Problem};
use crate::gate::Judgement;
use crate::number::counted;
use crate::rules::{Assessment, Finding, NotEvaluated, Overrides, Severity};

pub use clip::{ClipReport, clip_page};
pub use difference::{DifferenceReport, difference_page};
pub use gate::gate_report;
pub use github::to_github;
pub use html::{checkpoints_html, clip_html, difference_html, jacobian_html, postmortem_html};
pub use jacobian::{JacobianPlan, jacobian_page, plan_page};
pub use json::Json;
pub use junit::to_junit;
pub use markdown::{clip_markdown, difference_markdown, postmortem_markdown, to_markdown};
pub use plot::{Plot, checkpoint_plots, clip_plots, difference_plots, postmortem_plots};
pub use postmortem::{PostMortem, postmortem_page};
pub use recover::{
    Continuation, ResumeReport, audit_page, conversion_page, manifest_page, repair_plan_page, resume_page,
};
pub use rule_page::rule_page;
pub use sarif::to_sarif;
pub use terminal::{Style, checkpoint_reports};
pub use text::safe;
pub use train::{clipping, train_page};

/// Everything one command has to say about checkpoints.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
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
    /// Paths that could not be read at all, each with the reason.
    #[serde(default)]
    pub unread: Vec<Problem>,
    /// One line a checkpoint, in their order.
    #[serde(default)]
    pub verdicts: Vec<CheckpointVerdict>,
    /// One line about all of them.
    pub verdict: Verdict,
    /// Where checkpoints lie, by their names: the path from the directory that the command ran in. For annotations alone, which
    /// lead to files; a report is the same wherever its checkpoint lies.
    #[serde(skip)]
    pub places: BTreeMap<String, String>,
    /// What the gate decided, where it was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gate: Option<Judgement>,
}

/// The verdict on one checkpoint of several.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct CheckpointVerdict {
    /// The checkpoint's name.
    pub checkpoint: String,
    /// What was found in it.
    pub verdict: Verdict,
}

/// The findings in one line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
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
    /// Puts an analysis and what the rules said about it under `overrides` together, and the paths that are not in it.
    pub fn new(
        analysis: Analysis,
        assessment: Assessment,
        overrides: &Overrides,
        unread: Vec<Problem>,
    ) -> Self {
        let Assessment { findings, not_evaluated } = assessment;
        let of_one = |checkpoint: &CheckpointAnalysis| CheckpointVerdict {
            checkpoint: checkpoint.name.clone(),
            verdict: Verdict::of(
                &findings.iter().filter(|finding| finding.checkpoint == checkpoint.name),
                not_evaluated.iter().filter(|entry| entry.checkpoint == checkpoint.name),
                checkpoint.is_judged(),
                false,
            ),
        };
        let verdicts = analysis.checkpoints.iter().map(of_one).collect();
        let several = analysis.checkpoints.len() > 1;
        let mut verdict = Verdict::of(&findings.iter(), not_evaluated.iter(), analysis.is_judged(), several);
        verdict.mention(&unread, analysis.checkpoints.len());
        let limits = overrides.0.iter().map(|((rule, limit), &value)| (format!("{rule}.{limit}"), value));
        Self {
            analysis,
            findings,
            not_evaluated,
            replaced_limits: limits.collect(),
            unread,
            verdicts,
            verdict,
            places: BTreeMap::new(),
            gate: None,
        }
    }

    /// Adds where checkpoints lie, by their names.
    #[must_use]
    pub fn at(mut self, places: BTreeMap<String, String>) -> Self {
        self.places = places;
        self
    }

    /// Where a checkpoint lies; its name where that is not known.
    fn place_of<'a>(&'a self, checkpoint: &'a str) -> &'a str {
        self.places.get(checkpoint).map_or(checkpoint, String::as_str)
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
    fn of<'a>(
        findings: &(impl Iterator<Item = &'a Finding> + Clone),
        not_evaluated: impl Iterator<Item = &'a NotEvaluated>,
        is_judged: bool,
        several: bool,
    ) -> Self {
        let count = |severity| findings.clone().filter(|finding| finding.severity == severity).count() as u64;
        let mut verdict = Self {
            critical: count(Severity::Critical),
            warnings: count(Severity::Warning),
            notes: count(Severity::Note),
            not_evaluated: not_evaluated.count() as u64,
            sentence: String::new(),
        };
        verdict.sentence = if verdict.critical + verdict.warnings == 0 && !is_judged {
            format!("nothing was judged: no element was read{}", verdict.unchecked())
        } else {
            verdict.sentence_for(findings.clone().next(), several)
        };
        verdict
    }

    /// Says first that something was not read: what is said behind it is about the rest.
    fn mention(&mut self, unread: &[Problem], read: usize) {
        if let Some(first) = unread.first() {
            let first = first.told();
            let rest = if read == 0 { String::new() } else { format!("; of the rest: {}", self.sentence) };
            let paths = unread.len() + read;
            self.sentence = format!("{} of {paths} paths could not be read ({first}){rest}", unread.len());
        }
    }

    fn unchecked(&self) -> String {
        match self.not_evaluated {
            0 => String::new(),
            1 => "; 1 check could not run".to_owned(),
            checks => format!("; {checks} checks could not run"),
        }
    }

    /// What was found and what could not be looked at, in numbers.
    fn counts(&self) -> String {
        format!("{}{}", self.severities(), self.unchecked())
    }

    fn severities(&self) -> String {
        let critical = (self.critical > 0).then(|| format!("{} critical", self.critical));
        let warnings = (self.warnings > 0).then(|| counted(self.warnings, "warning"));
        let counts = critical.into_iter().chain(warnings).collect::<Vec<_>>();
        if counts.is_empty() { "nothing critical, no warning".to_owned() } else { counts.join(", ") }
    }

    fn sentence_for(&self, worst: Option<&Finding>, several: bool) -> String {
        let place =
            |finding: &Finding| if several { format!("{}: ", finding.checkpoint) } else { String::new() };
        match worst {
            Some(worst) if worst.severity > Severity::Note => {
                format!("{}: {}{}{}", self.severities(), place(worst), worst.message, self.unchecked())
            }
            _ => self.counts(),
        }
    }
}
