//! Which rules can be evaluated on which checkpoint, and what the others lack.

use serde::{Deserialize, Serialize};

use super::{Check, Finding, Findings, Overrides, RULES, Rule, Severity, Subject, Thresholds, find};
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
    /// At least two checkpoints of one run, compared.
    pub const INTERVALS: Needs = Needs(32);
    /// Gradient dumps of a run.
    pub const DUMPS: Needs = Needs(64);
    /// The log of a run.
    pub const LOG: Needs = Needs(128);
    /// The largest singular values.
    pub const SPECTRA: Needs = Needs(256);
    /// All singular values.
    pub const FULL: Needs = Needs(512);
    /// Attention layers whose heads can be told apart.
    pub const ATTENTION: Needs = Needs(1024);
    /// The Jacobians of the network.
    pub const JACOBIAN: Needs = Needs(2048);

    /// Whether `need` is in the set.
    pub const fn has(self, need: Needs) -> bool {
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

    /// The level that would have to be measured, where it was not.
    fn missing_level(self, measured: MeasureLevel) -> Option<String> {
        let level = self.level();
        (measured < level).then(|| format!("{NEEDS_LEVEL}{}", level.max(MeasureLevel::Norms).name()))
    }

    /// What of the set is missing, as a reason; `None` when nothing is.
    fn missing(self, measured: MeasureLevel, checkpoint: &CheckpointAnalysis) -> Option<String> {
        if let Some(missing) = self.missing_level(measured) {
            return Some(missing);
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
        if self.has(Needs::JACOBIAN)
            && let Measured::NotMeasured(reason) = &checkpoint.jacobian
        {
            return Some(format!("needs Jacobians: {reason}"));
        }
        if self.has(Needs::OPTIMIZER)
            && let Measured::NotMeasured(reason) = &checkpoint.optimizer
        {
            return Some(format!("needs optimizer state: {reason}"));
        }
        None
    }

    /// What of the set a run lacks, as a reason; `None` when nothing is.
    fn missing_in_run(self, analysis: &Analysis) -> Option<String> {
        if analysis.run.is_none() {
            return Some("needs a run: flashpoint postmortem RUN".to_owned());
        }
        if self.has(Needs::INTERVALS) && analysis.intervals.is_empty() {
            return Some("needs two checkpoints of the run with known steps".to_owned());
        }
        if let Some(missing) = self.missing_level(analysis.measured).filter(|_| self.has(Needs::INTERVALS)) {
            return Some(missing);
        }
        if self.has(Needs::DUMPS) && analysis.dumps.is_empty() {
            return Some("needs gradient dumps of the run".to_owned());
        }
        let has_jacobian = |checkpoint: &&CheckpointAnalysis| checkpoint.jacobian.value().is_some();
        if self.has(Needs::JACOBIAN) && analysis.checkpoints.iter().filter(has_jacobian).count() < 2 {
            return Some("needs the Jacobians of two checkpoints of the run: --measure jacobian".to_owned());
        }
        if self.has(Needs::LOG) && analysis.log.as_ref().is_none_or(|log| log.points.is_empty()) {
            return Some("needs the log of the run".to_owned());
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

/// How the reason begins where a deeper measurement is missing.
const NEEDS_LEVEL: &str = "needs --measure ";

/// The level of measurement that a check lacked, where `reason` says that it was one. At that level it may lack something else.
pub fn level_needed(reason: &str) -> Option<MeasureLevel> {
    let name = reason.strip_prefix(NEEDS_LEVEL)?;
    MeasureLevel::ALL.into_iter().find(|level| level.name() == name)
}

/// What the rules say about an analysis.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Assessment {
    /// Worst first, then by rule and subject.
    pub findings: Vec<Finding>,
    /// Rules, or parts of what they judge, that could not be evaluated.
    pub not_evaluated: Vec<NotEvaluated>,
}

/// A check that could not run: never a pass.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct NotEvaluated {
    /// The checkpoint's name, or the run's.
    pub checkpoint: String,
    /// The rule's code; `None` where no rule could look, such as at a tensor that could not be read.
    pub rule: Option<String>,
    /// What was not judged.
    pub subject: Subject,
    /// Why.
    pub reason: String,
}

impl NotEvaluated {
    /// The checkpoint whose part it is; `None` of the run as a whole.
    pub fn of_checkpoint(&self) -> Option<&str> {
        (self.subject != Subject::Run).then_some(self.checkpoint.as_str())
    }
}

/// Every rule over every checkpoint.
pub fn evaluate(analysis: &Analysis, overrides: &Overrides) -> Assessment {
    let mut assessment = Assessment::default();
    for checkpoint in &analysis.checkpoints {
        assessment.not_evaluated.extend(unread_tensors(checkpoint, analysis.measured));
        assessment.not_evaluated.extend(unchecked_archives(checkpoint, analysis.measured));
        for &rule in RULES {
            if let Check::Checkpoint(check) = rule.check {
                let missing = rule.needs.missing(analysis.measured, checkpoint);
                let findings = Findings::new(rule, &checkpoint.name, checkpoint.step.value().copied());
                assessment.ask(rule, missing, findings, |findings| {
                    check(checkpoint, &Thresholds::new(rule, overrides), findings);
                    if rule.needs.has(Needs::OPTIMIZER) {
                        super::assumed_order::tell(checkpoint, &mut findings.found);
                    }
                });
            }
        }
    }
    let name = analysis.run.as_ref().map_or("", |run| run.name.as_str());
    for &rule in RULES {
        if let Check::Run(check) = rule.check {
            let missing = rule.needs.missing_in_run(analysis);
            assessment.ask(rule, missing, Findings::new(rule, name, None), |findings| {
                check(analysis, &Thresholds::new(rule, overrides), findings);
            });
        }
    }
    // Stable: within a rule the order in which it found them, which is file order, stays.
    assessment.findings.sort_by(|a, b| (b.severity, a.rule.as_str()).cmp(&(a.severity, b.rule.as_str())));
    assessment
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
            reason: reason.to_string(),
        }),
        _ => None,
    });
    unread.collect()
}

/// Archives whose checksums nobody held against their bytes: those are read as a whole only where pages are.
fn unchecked_archives(checkpoint: &CheckpointAnalysis, measured: MeasureLevel) -> Option<NotEvaluated> {
    let unchecked =
        measured < MeasureLevel::Stats && checkpoint.files.iter().any(|file| file.format.is_archive());
    unchecked.then(|| NotEvaluated {
        checkpoint: checkpoint.name.clone(),
        rule: Some("FP903".to_owned()),
        subject: Subject::Checkpoint,
        reason: "checksums of archives are compared from --measure stats on".to_owned(),
    })
}

impl Assessment {
    /// Has `check` fill `findings`, or notes the rule as not evaluated for what is `missing`.
    fn ask(
        &mut self,
        rule: &'static Rule,
        missing: Option<String>,
        mut findings: Findings,
        check: impl FnOnce(&mut Findings),
    ) {
        match missing {
            Some(reason) => {
                let whole =
                    if matches!(rule.check, Check::Run(_)) { Subject::Run } else { Subject::Checkpoint };
                findings.not_evaluated(whole, reason);
            }
            None => check(&mut findings),
        }
        let Findings { checkpoint, found, not_evaluated, .. } = findings;
        self.findings.extend(found);
        self.not_evaluated.extend(not_evaluated.into_iter().map(|(subject, reason)| NotEvaluated {
            checkpoint: checkpoint.clone(),
            rule: Some(rule.code.to_owned()),
            subject,
            reason,
        }));
    }

    /// What is said about `needs`, and whatever is critical.
    #[must_use]
    pub fn about(mut self, needs: Needs) -> Self {
        let is_about = |code: &str| find(code).is_some_and(|rule| rule.needs.has(needs));
        self.findings.retain(|finding| finding.severity == Severity::Critical || is_about(&finding.rule));
        self.not_evaluated.retain(|entry| entry.rule.as_deref().is_none_or(is_about));
        self
    }

    /// The worst severity found.
    pub fn worst(&self) -> Option<Severity> {
        self.findings.iter().map(|finding| finding.severity).max()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_that_is_a_level_alone_names_the_level() {
        let needs = Needs::SPECTRA.and(Needs::ATTENTION);
        let reason = needs.missing_level(MeasureLevel::Stats).expect("spectra lie deeper");
        assert_eq!(level_needed(&reason), Some(MeasureLevel::Spectra));
        assert_eq!(level_needed("needs Jacobians: needs flashpoint jacobian, or --measure jacobian"), None);
        assert_eq!(needs.missing_level(MeasureLevel::Full), None);
    }
}
