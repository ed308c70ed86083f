//! Which rules can be evaluated on which checkpoint, and what the others lack.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Finding, Findings, Overrides, RULES, Rule, Severity, Subject, Thresholds};
use crate::analysis::model::{Analysis, CheckpointAnalysis, MeasureLevel, Measured};

/// A set of measurements that a rule cannot do without.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Needs(u32);

impl Needs {
    /// Files, names, shapes: what reading alone gives.
    pub const LIST: Needs = Needs(0);
    /// Counts, extrema and norms of the weights.
    pub const NORMS: Needs = Needs(1);
    /// Moments, exponent histogram, rows and pages of the weights.
    pub const STATS: Needs = Needs(2);
    /// The number of optimizer steps taken.
    pub const STEP: Needs = Needs(4);
    /// The architecture's config.
    pub const CONFIG: Needs = Needs(8);
    /// Optimizer state.
    pub const OPTIMIZER: Needs = Needs(16);

    /// The largest singular values.
    pub const SPECTRA: Needs = Needs(256);
    /// All singular values.
    pub const FULL: Needs = Needs(512);

    /// Attention layers whose heads can be told apart.
    pub const ATTENTION: Needs = Needs(1024);

    const fn has(self, need: Needs) -> bool {
        self.0 & need.0 == need.0 && need.0 != 0
    }

    /// The measurement level that satisfies the set.
    pub fn level(self) -> MeasureLevel {
        if self.has(Needs::FULL) {
            MeasureLevel::Full
        } else if self.has(Needs::SPECTRA) {
            MeasureLevel::Spectra
        } else if self.has(Needs::STATS) {
            MeasureLevel::Stats
        } else if self.has(Needs::NORMS) {
            MeasureLevel::Norms
        } else {
            MeasureLevel::List
        }
    }

    /// What of the set is missing, as a reason; `None` when nothing is.
    fn missing(self, measured: MeasureLevel, checkpoint: &CheckpointAnalysis) -> Option<String> {
        let level = self.level();
        if measured < level {
            let name = match level {
                MeasureLevel::Full => "full",
                MeasureLevel::Spectra => "spectra",
                MeasureLevel::Stats => "stats",
                MeasureLevel::List | MeasureLevel::Norms => "norms",
            };
            return Some(format!("needs --measure {name}"));
        }
        if self.has(Needs::STEP)
            && let Measured::NotMeasured(reason) = &checkpoint.step
        {
            return Some(format!("needs the number of steps taken: {reason}"));
        }
        if self.has(Needs::CONFIG)
            && let Measured::NotMeasured(reason) = &checkpoint.config
        {
            return Some(format!("needs the architecture's config: {reason}"));
        }
        if self.has(Needs::ATTENTION)
            && let Measured::NotMeasured(reason) = &checkpoint.attention
        {
            return Some(format!("needs attention heads: {reason}"));
        }
        if self.has(Needs::OPTIMIZER)
            && let Measured::NotMeasured(reason) = &checkpoint.optimizer
        {
            return Some(format!("needs optimizer state: {reason}"));
        }
        None
    }
}

impl Needs {
    /// Both sets; `const`, for use in descriptors.
    #[must_use]
    pub const fn and(self, other: Needs) -> Needs {
        Needs(self.0 | other.0)
    }
}

/// What the rules say about an analysis.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
pub struct Assessment {
    /// Worst first, then by rule and subject.
    pub findings: Vec<Finding>,
    /// Rules, or parts of what they judge, that could not be evaluated.
    pub not_evaluated: Vec<NotEvaluated>,
}

/// A check that could not run: never a pass.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct NotEvaluated {
    /// The checkpoint's name.
    pub checkpoint: String,
    /// The rule's code; `None` where no rule could look, such as at a tensor that could not be read.
    pub rule: Option<String>,
    /// What was not judged.
    pub subject: Subject,
    /// Why.
    pub reason: String,
}

/// Every rule over every checkpoint.
pub fn evaluate(analysis: &Analysis, overrides: &Overrides) -> Assessment {
    let mut assessment = Assessment::default();
    for checkpoint in &analysis.checkpoints {
        assessment.not_evaluated.extend(unread_tensors(checkpoint, analysis.measured));
        for &rule in RULES {
            evaluate_rule(rule, analysis.measured, checkpoint, overrides, &mut assessment);
        }
    }
    // Stable: within a rule the order in which it found them, which is file order, stays.
    assessment.findings.sort_by(|a, b| (b.severity, a.rule.as_str()).cmp(&(a.severity, b.rule.as_str())));
    assessment
}

fn evaluate_rule(
    rule: &'static Rule,
    measured: MeasureLevel,
    checkpoint: &CheckpointAnalysis,
    overrides: &Overrides,
    assessment: &mut Assessment,
) {
    let not_evaluated = |subject, reason| NotEvaluated {
        checkpoint: checkpoint.name.clone(),
        rule: Some(rule.code.to_owned()),
        subject,
        reason,
    };
    if let Some(reason) = rule.needs.missing(measured, checkpoint) {
        assessment.not_evaluated.push(not_evaluated(Subject::Checkpoint, reason));
        return;
    }
    let mut findings = Findings::new(rule, &checkpoint.name, checkpoint.step.value().copied());
    (rule.check)(checkpoint, &Thresholds::new(rule, overrides), &mut findings);
    assessment.findings.append(&mut findings.found);
    let skipped = findings.not_evaluated.into_iter();
    assessment.not_evaluated.extend(skipped.map(|(subject, reason)| not_evaluated(subject, reason)));
}

/// Tensors whose elements no rule could look at: damaged ones, and kinds that have no plain elements.
fn unread_tensors(checkpoint: &CheckpointAnalysis, measured: MeasureLevel) -> Vec<NotEvaluated> {
    if measured == MeasureLevel::List {
        // No element of any tensor was read: each rule says so for itself.
        return Vec::new();
    }
    let unread = checkpoint.tensors.iter().filter_map(|tensor| match &tensor.statistics {
        Measured::NotMeasured(reason) => Some(NotEvaluated {
            checkpoint: checkpoint.name.clone(),
            rule: None,
            subject: Subject::Tensor(tensor.name.clone()),
            reason: reason.clone(),
        }),
        _ => None,
    });
    unread.collect()
}

impl Assessment {
    /// The worst severity found.
    pub fn worst(&self) -> Option<Severity> {
        self.findings.iter().map(|finding| finding.severity).max()
    }
}
