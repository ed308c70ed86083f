//! The accepted checkpoint: what it is, what is known of it, and what changed since.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use super::check::{self, GateCheck};
use super::damage;
use super::judge::is_measured;
use super::judgement::{BaselineState, BaselineSummary};
use super::limit::Then;
use super::names::Names;
use super::policy::Comparison;
use super::ties::Ties;
use super::written::Level;
use crate::analysis::model::{Analysis, CheckpointAnalysis, Measured, Section, TensorAnalysis};
use crate::error::{ErrorKind, Result};
use crate::number::short;
use crate::rules::{self, Evidence, Finding, Overrides, Subject};

/// An accepted checkpoint and the findings it was accepted with.
#[derive(Debug)]
pub struct Baseline {
    checkpoint: CheckpointAnalysis,
    findings: Vec<Finding>,
}

/// Below this share of common tensors, two checkpoints are not of one model.
const LEAST_SHARED: f64 = 0.5;

/// A rule whose findings are never taken as known: a new function in an old file looks like the one before.
const NEVER_KNOWN: &str = "FP901";

/// What changed in one tensor.
pub(super) struct Change {
    pub check: &'static GateCheck,
    pub level: Level,
    /// The tensor as it is stored in the one checkpoint that has it, or in the new one.
    pub tensor: String,
    pub canonical_name: String,
    pub message: String,
}

impl Baseline {
    /// The accepted checkpoint in the measurement file at `path`, judged by the same limits as the new one.
    ///
    /// # Errors
    /// Several checkpoints, a damaged one, or one of which no element was read.
    pub fn new(mut analysis: Analysis, path: &Path, overrides: &Overrides) -> Result<Self> {
        let refused = |message: String| ErrorKind::Baseline { message }.in_file(path);
        if analysis.checkpoints.len() != 1 {
            let count = analysis.checkpoints.len();
            return Err(refused(format!("it holds {count} checkpoints where one is needed")));
        }
        let findings = rules::evaluate(&analysis, overrides).findings;
        let checkpoint = analysis.checkpoints.remove(0);
        let said =
            findings.iter().filter(|finding| finding.checkpoint == checkpoint.name).collect::<Vec<_>>();
        if damage::of(&checkpoint, &said).next().is_some() {
            return Err(refused(format!("{} was damaged when it was measured", checkpoint.name)));
        }
        if !is_measured(&checkpoint) {
            return Err(refused(format!("no element of {} was read when it was measured", checkpoint.name)));
        }
        Ok(Self { checkpoint, findings })
    }

    /// Refuses a checkpoint of another model.
    ///
    /// # Errors
    /// Fewer than half of the tensors of either have a tensor of that name in the other.
    pub fn check_same_model(&self, checkpoint: &CheckpointAnalysis, path: &Path) -> Result<()> {
        let (before, now) = (by_name(&self.checkpoint), by_name(checkpoint));
        let shared = now.keys().filter(|name| before.contains_key(*name)).count();
        let most = before.len().max(now.len());
        // Of a checkpoint without a model every tensor of the baseline is told as missing.
        if now.is_empty() || shared as f64 >= LEAST_SHARED * most as f64 {
            return Ok(());
        }
        let message = format!(
            "it is of another model: {shared} tensors have the same name in {} ({}) and {} ({})",
            self.checkpoint.name,
            before.len(),
            checkpoint.name,
            now.len()
        );
        Err(ErrorKind::Baseline { message }.in_file(path))
    }

    pub(super) fn summary(&self, checkpoint: Option<&CheckpointAnalysis>) -> BaselineSummary {
        let (before, now) = (by_name(&self.checkpoint), checkpoint.map(by_name).unwrap_or_default());
        let files = self.checkpoint.files.iter();
        BaselineSummary {
            checkpoint: self.checkpoint.name.clone(),
            step: self.checkpoint.step.value().copied(),
            tensors: before.len() as u64,
            shared: now.keys().filter(|name| before.contains_key(*name)).count() as u64,
            digests: files.filter_map(|file| Some((file.name.clone(), file.digest.clone()?))).collect(),
        }
    }

    /// The findings of the baseline, to be matched with those of `checkpoint`.
    pub(super) fn known<'a>(&'a self, checkpoint: &'a CheckpointAnalysis) -> Known<'a> {
        let mut findings: BTreeMap<(String, Subject), Vec<&Finding>> = BTreeMap::new();
        let names = Names::of(&self.checkpoint);
        for finding in self.findings.iter().filter(|finding| finding.rule != NEVER_KNOWN) {
            let subject = names.shared(&finding.subject);
            findings.entry((finding.rule.clone(), subject)).or_default().push(finding);
        }
        Known { findings, names: Names::of(checkpoint) }
    }

    /// What is new, missing, of another dtype or shape in `checkpoint`, in its order and then in the baseline's.
    pub(super) fn changes(&self, checkpoint: &CheckpointAnalysis, comparison: &Comparison) -> Vec<Change> {
        let (before, now) = (Ties::of(&self.checkpoint), Ties::of(checkpoint));
        let mut changes = Vec::new();
        // What cannot be read is told as damage: of its shape and dtype nothing is known.
        for tensor in model(checkpoint).filter(|tensor| !tensor.damaged) {
            let change = |check, level, message| Change {
                check,
                level,
                tensor: tensor.name.clone(),
                canonical_name: tensor.canonical_name.clone(),
                message,
            };
            let (name, canonical) = (&tensor.name, tensor.canonical_name.as_str());
            let Some(then) = before.get(canonical) else {
                // Another name of a tensor that the baseline has, or that is told under its first.
                let names = now.names(canonical);
                if tensor.tied_to.is_none() && !names.iter().any(|name| before.get(name).is_some()) {
                    let message = format!("{name} is not in the baseline {}", self.checkpoint.name);
                    changes.push(change(&check::NEW, comparison.new, message));
                }
                continue;
            };
            if let Some(first) = before.parted_in(canonical, &now) {
                let message = format!(
                    "{name} is a tensor of its own, in the baseline it is {first} under another name"
                );
                changes.push(change(&check::NEW, comparison.new, message));
            }
            if let Some(first) = now.parted_in(canonical, &before) {
                let message = format!(
                    "{name} is {first} under another name, in the baseline it is a tensor of its own"
                );
                changes.push(change(&check::MISSING, comparison.missing, message));
            }
            if then.shape != tensor.shape {
                let message =
                    format!("{name} has the shape {:?}, {:?} in the baseline", tensor.shape, then.shape);
                changes.push(change(&check::RESHAPED, comparison.reshaped, message));
            }
            if then.dtype != tensor.dtype {
                let dtype = |tensor: &TensorAnalysis| {
                    tensor.dtype.map_or_else(|| "no dtype".to_owned(), |dtype| dtype.to_string())
                };
                let message = format!("{name} is {}, {} in the baseline", dtype(tensor), dtype(then));
                changes.push(change(&check::RETYPED, comparison.retyped, message));
            }
        }
        for tensor in model(&self.checkpoint) {
            // Containers that hold no ties keep one of the names.
            let names = before.names(&tensor.canonical_name);
            if names.iter().any(|name| now.get(name).is_some()) {
                continue;
            }
            let message = format!("{} of the baseline {} is missing", tensor.name, self.checkpoint.name);
            changes.push(Change {
                check: &check::MISSING,
                level: comparison.missing,
                tensor: tensor.name.clone(),
                canonical_name: tensor.canonical_name.clone(),
                message,
            });
        }
        changes
    }

    /// The tensors of its model, by canonical name.
    pub(super) fn tensors(&self) -> HashMap<&str, &TensorAnalysis> {
        by_name(&self.checkpoint)
    }

    /// A value of the baseline, and how many steps before `checkpoint` it was.
    pub(super) fn then(&self, value: Measured<f64>, checkpoint: &CheckpointAnalysis) -> Then {
        let steps = match (self.checkpoint.step.value(), checkpoint.step.value()) {
            (Some(before), Some(now)) => Some(now.saturating_sub(*before)),
            _ => None,
        };
        Then { value, steps }
    }

    pub(super) fn checkpoint(&self) -> &CheckpointAnalysis {
        &self.checkpoint
    }
}

/// What the baseline was accepted with.
pub(super) struct Known<'a> {
    findings: BTreeMap<(String, Subject), Vec<&'a Finding>>,
    names: Names<'a>,
}

/// How a finding relates to the baseline.
pub(super) enum Recognition {
    /// The baseline does not have it.
    New,
    /// The baseline has it.
    Known,
    /// The baseline has a milder one, as the sentence says.
    Worse(String),
}

impl Recognition {
    pub fn state(&self) -> BaselineState {
        match self {
            Recognition::New => BaselineState::New,
            Recognition::Known => BaselineState::Unchanged,
            Recognition::Worse(_) => BaselineState::Worse,
        }
    }
}

impl Known<'_> {
    /// Whether the baseline has `finding`. Each finding of the baseline is the likeness of one.
    pub fn recognise(&mut self, finding: &Finding, growth: f64) -> Recognition {
        let subject = self.names.shared(&finding.subject);
        let Some(alike) = self.findings.get_mut(&(finding.rule.clone(), subject)) else {
            return Recognition::New;
        };
        if alike.is_empty() {
            return Recognition::New;
        }
        let before = alike.remove(0);
        if finding.severity > before.severity {
            return Recognition::Worse(format!("the baseline has it as a {}", before.severity));
        }
        match worse(finding, before, growth) {
            Some(sentence) => Recognition::Worse(sentence),
            None => Recognition::Known,
        }
    }
}

/// The first number behind a finding that is beyond its limit and worse than in the baseline by more than the factor `growth`. One
/// that the finding of the baseline lacks is worse as well.
fn worse(now: &Finding, before: &Finding, growth: f64) -> Option<String> {
    now.evidence.iter().filter(|evidence| !evidence.holds()).find_map(|evidence| {
        let Evidence { label, value, .. } = evidence;
        let Some(before) = before.evidence.iter().find(|other| other.label == *label) else {
            return Some(format!("the baseline has it without {label}, now {}", short(*value)));
        };
        let (before, now) = (before.value, *value);
        evidence
            .is_worse_than(before, growth)
            .then(|| format!("the baseline has it with {label} {}, now {}", short(before), short(now)))
    })
}

/// The tensors of the model, tied ones too: a tie that is gone is a tensor that is gone.
fn model(checkpoint: &CheckpointAnalysis) -> impl Iterator<Item = &TensorAnalysis> {
    checkpoint.tensors.iter().filter(|tensor| tensor.section == Section::Model)
}

fn by_name(checkpoint: &CheckpointAnalysis) -> HashMap<&str, &TensorAnalysis> {
    model(checkpoint).map(|tensor| (tensor.canonical_name.as_str(), tensor)).collect()
}
