//! What the gate decided: plain data, from which every output is written.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::rules::{Evidence, Severity, Subject};

/// What the gate says about checkpoints, each decision with its reason.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Judgement {
    /// Pass, fail, or neither.
    pub outcome: Outcome,
    /// One sentence.
    pub sentence: String,
    /// The policy's file name, or `built-in`.
    pub policy: String,
    /// The least severity that fails.
    pub fail_on: Severity,
    /// What the checkpoint was held against.
    pub baseline: Option<BaselineSummary>,
    /// What prevents a decision, what fails, what was noticed, what was tolerated; in this order.
    pub decisions: Vec<Decision>,
}

/// How the gate ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Everything that is required was judged, and nothing fails.
    Pass,
    /// Something fails.
    Fail,
    /// Damaged, not read as a whole, or not judged as the policy requires: neither a pass nor a failure.
    CouldNotDecide,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Outcome::Pass => "pass",
            Outcome::Fail => "fail",
            Outcome::CouldNotDecide => "could not decide",
        })
    }
}

/// The accepted checkpoint that this one was held against.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct BaselineSummary {
    /// Name of the accepted checkpoint.
    pub checkpoint: String,
    /// Its step, where known.
    pub step: Option<u64>,
    /// Tensors of its model.
    pub tensors: u64,
    /// Those that the judged checkpoint has under the same name.
    pub shared: u64,
    /// BLAKE3 of each of its files, where it was recorded: file name and digest.
    pub digests: Vec<(String, String)>,
}

/// One thing that was weighed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Decision {
    /// What it does to the outcome.
    pub effect: Effect,
    /// A rule's code, or a check of the gate itself, `gate-…`.
    pub check: String,
    /// The check's name.
    pub name: String,
    /// The severity that counted, after the policy's say.
    pub severity: Severity,
    /// The checkpoint's name.
    pub checkpoint: String,
    /// What it is about.
    pub subject: Subject,
    /// What is the case, in one sentence.
    pub message: String,
    /// The numbers.
    pub evidence: Vec<Evidence>,
    /// What to do next.
    pub advice: String,
    /// Why it has this effect.
    pub reason: String,
    /// How it relates to the accepted checkpoint; nothing where none was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub baseline_state: Option<BaselineState>,
}

/// How something relates to the accepted checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum BaselineState {
    /// The accepted checkpoint does not have it.
    New,
    /// The accepted checkpoint has it, no milder.
    Unchanged,
    /// The accepted checkpoint has a milder one.
    Worse,
}

/// What one decision does to the outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Effect {
    /// Neither pass nor fail can be said: takes precedence over a failure.
    Prevents,
    /// The gate fails.
    Fails,
    /// Told, and below what fails.
    Noticed,
    /// Left out of the judgement: known from the baseline, excepted, or switched off.
    Tolerated,
}

impl Judgement {
    /// The decisions of one effect.
    pub fn of(&self, effect: Effect) -> impl Iterator<Item = &Decision> {
        self.decisions.iter().filter(move |decision| decision.effect == effect)
    }
}
