//! From findings and series to one story: onset, mechanism, tensor, last healthy state, what to do.
//!
//! Pure functions over what was measured and found; overrides no severity, touches no file.

mod actions;
mod bracket;
mod burst;
mod facts;
mod healthy;
mod jump;
mod lone;
mod mechanism;
mod onset;
mod outrun;
mod pulse;
mod quoted;
mod recovery;
mod run_up;
mod story;
mod suspects;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::analysis::model::Analysis;
pub use crate::clip::Snippet;
use crate::rules::{Assessment, Confidence, Evidence, Severity};
use facts::Facts;
use mechanism::Case;
use onset::{Onset, Sign};

/// What happened to a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Diagnosis {
    /// The kind of failure.
    pub mechanism: Mechanism,
    /// The parameter it began in, by its canonical name; `None` where it began everywhere at once.
    pub tensor: Option<String>,
    /// The step at which it began, as well as it can be told.
    pub onset_step: Option<u64>,
    /// The steps between which it began: checkpoints or log points that bracket it.
    pub onset_interval: Option<[u64; 2]>,
    /// Name of the newest checkpoint to go back to.
    pub last_healthy: Option<String>,
    /// Its step.
    pub last_healthy_step: Option<u64>,
    /// Step of the newest clean checkpoint of a run that came back by itself, and has nothing to go back for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub go_on_step: Option<u64>,
    /// How far to trust the mechanism.
    pub confidence: Confidence,
    /// All of it in one line.
    pub verdict: String,
    /// The story, one sentence a line, in order of time.
    pub story: Vec<String>,
    /// The numbers it stands on.
    pub evidence: Vec<Evidence>,
    /// What speaks against it.
    pub against: Vec<String>,
    /// The next most likely mechanism.
    pub runner_up: Option<RunnerUp>,
    /// Tensors ranked, the most suspect first.
    pub suspects: Vec<Suspect>,
    /// What to do, in order.
    pub actions: Vec<Action>,
}

/// Kinds of failure: a closed list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "each variant is its own name; docs/postmortem.md explains them")]
pub enum Mechanism {
    GradientSpike,
    LearningRate,
    NoWarmup,
    RecurrentGain,
    InitGain,
    ZeroInit,
    AttentionLogits,
    OutputLogits,
    SecondMomentDecoupled,
    Epsilon,
    StateLost,
    LowPrecisionState,
    Fp16Overflow,
    NonFinite,
    DeadUnits,
    WeightDecay,
    Frozen,
    AccumulationChange,
    ScheduleBreak,
    ReplicaDrift,
    /// Nothing is wrong.
    None,
    /// Something is, and what is kept does not show what.
    Unknown,
}

/// A mechanism that was considered and not chosen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct RunnerUp {
    /// Which.
    pub mechanism: Mechanism,
    /// The parameter it would have begun in.
    pub tensor: Option<String>,
    /// What speaks for it.
    pub reason: String,
    /// What speaks against it.
    pub against: String,
}

/// How suspect one parameter is, on each side.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Suspect {
    /// Its canonical name.
    pub tensor: String,
    /// Gradient side: its interval gradient over its own trailing median.
    pub gradient_ratio: Option<f64>,
    /// Update side: its relative change over its own trailing median.
    pub change_ratio: Option<f64>,
    /// Geometry side: its width over that of the model's other matrices.
    pub geometry_ratio: Option<f64>,
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Action {
    /// What, in one sentence.
    pub what: String,
    /// Commands or configuration lines that do it, each with the framework it is for.
    pub snippets: Vec<Snippet>,
}

/// Where a run and its checkpoints lie, as one would write it from where the command was given: lines of advice are to work there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Places {
    /// The run's directory.
    pub run: Option<String>,
    /// Each checkpoint that can be loaded, by its step; another one is called by its name.
    pub checkpoints: BTreeMap<u64, String>,
}

/// The step of a divergence that a rule found: a run of which that is said has failed, whether or not anything shows why.
fn diverged(assessment: &Assessment) -> Option<u64> {
    let critical = assessment.findings.iter().filter(|found| found.severity == Severity::Critical);
    critical.filter(|found| found.rule == "FP503").find_map(|found| found.step)
}

/// The diagnosis of a run: a function of what was measured and found, and of nothing else.
pub fn diagnose(analysis: &Analysis, assessment: &Assessment) -> Diagnosis {
    diagnose_at(analysis, assessment, &Places::default())
}

/// When it began, and what speaks for which mechanism. A rise of the loss that FP503 does not tell is an onset where what else is known names a
/// mechanism: by itself it accuses runs whose losses spread.
fn onset_and_cases(facts: Facts) -> (Option<Onset>, Vec<Case>) {
    let found = onset::find(facts);
    let is_rise = found.is_some_and(|onset| matches!(onset.sign, Sign::Loss(_)));
    let is_doubtful = is_rise && mechanism::named(&mechanism::cases(facts, None)).is_none();
    let onset = if is_doubtful { onset::find_confirmed(facts) } else { found };
    (onset, mechanism::cases(facts, onset.as_ref()))
}

/// The same, with lines of advice that name the checkpoints by `places`.
pub fn diagnose_at(analysis: &Analysis, assessment: &Assessment, places: &Places) -> Diagnosis {
    let facts = Facts { analysis, assessment };
    let (onset, cases) = onset_and_cases(facts);
    let chosen = mechanism::named(&cases);
    let others = &cases[usize::from(chosen.is_some())..];
    let seen = onset.map(|onset| onset.step);
    let step = match chosen {
        Some(case) => case.onset.or(seen),
        None => seen.or_else(|| diverged(assessment)),
    };
    let mechanism = match chosen {
        Some(case) => case.mechanism,
        None if step.is_some() => Mechanism::Unknown,
        None => Mechanism::None,
    };
    let healthy = healthy::find(facts, step);
    let recovery = match chosen {
        Some(case) => actions::recovered(facts, case),
        None => actions::recovered_without_a_cause(facts, onset.as_ref()),
    };
    let came_back = recovery.is_some();
    let newest = came_back.then(|| healthy::find(facts, None)).flatten();
    let tensor = chosen.and_then(|case| case.tensor.clone());
    let interval = chosen.and_then(|case| case.interval).or(onset.map(|onset| onset.interval));
    Diagnosis {
        mechanism,
        onset_step: step,
        onset_interval: interval,
        last_healthy: healthy.as_ref().map(|healthy| healthy.name.clone()),
        last_healthy_step: healthy.as_ref().map(|healthy| healthy.step),
        go_on_step: newest.map(|newest| newest.step),
        confidence: chosen.map_or(Confidence::Heuristic, |case| case.confidence),
        verdict: story::verdict(
            facts,
            mechanism,
            tensor.as_deref(),
            step,
            onset.map(|onset| onset.sign),
            came_back,
        ),
        story: story::tell(facts, step, onset.as_ref(), chosen, healthy.as_ref()),
        evidence: chosen.map_or_else(Vec::new, |case| case.evidence.clone()),
        against: chosen.map_or_else(Vec::new, |case| case.against.clone()),
        runner_up: others.first().filter(|case| case.points > 0.0).map(|case| runner_up(case, chosen)),
        suspects: if mechanism == Mechanism::None {
            Vec::new()
        } else {
            suspects::rank(facts, step, tensor.as_deref())
        },
        actions: match (chosen, mechanism) {
            (Some(case), _) => actions::recommend(facts, case, healthy.as_ref(), places),
            (None, Mechanism::Unknown) => {
                actions::without_a_cause(facts, onset.as_ref(), healthy.as_ref(), places)
            }
            (None, _) => Vec::new(),
        },
        tensor,
    }
}

fn runner_up(case: &Case, chosen: Option<&Case>) -> RunnerUp {
    let against = case.against.first().cloned().unwrap_or_else(|| match chosen {
        Some(chosen) => format!("what speaks for {} is stronger", chosen.mechanism),
        None => "it is too little to go by".to_owned(),
    });
    RunnerUp {
        mechanism: case.mechanism,
        tensor: case.tensor.clone(),
        reason: case.reasons.first().cloned().unwrap_or_default(),
        against,
    }
}

impl Diagnosis {
    /// What the verdict weighs by itself: a failure that is named, or one that is seen and not understood, is a warning. What is critical
    /// of it a rule says.
    pub fn severity(&self) -> Option<Severity> {
        (self.mechanism != Mechanism::None).then_some(Severity::Warning)
    }
}

impl Mechanism {
    /// Its name, as in JSON and in `docs/postmortem.md`.
    pub fn name(self) -> &'static str {
        match self {
            Mechanism::GradientSpike => "gradient-spike",
            Mechanism::LearningRate => "learning-rate",
            Mechanism::NoWarmup => "no-warmup",
            Mechanism::RecurrentGain => "recurrent-gain",
            Mechanism::InitGain => "init-gain",
            Mechanism::ZeroInit => "zero-init",
            Mechanism::AttentionLogits => "attention-logits",
            Mechanism::OutputLogits => "output-logits",
            Mechanism::SecondMomentDecoupled => "second-moment-decoupled",
            Mechanism::Epsilon => "epsilon",
            Mechanism::StateLost => "state-lost",
            Mechanism::LowPrecisionState => "low-precision-state",
            Mechanism::Fp16Overflow => "fp16-overflow",
            Mechanism::NonFinite => "non-finite",
            Mechanism::DeadUnits => "dead-units",
            Mechanism::WeightDecay => "weight-decay",
            Mechanism::Frozen => "frozen",
            Mechanism::AccumulationChange => "accumulation-change",
            Mechanism::ScheduleBreak => "schedule-break",
            Mechanism::ReplicaDrift => "replica-drift",
            Mechanism::None => "none",
            Mechanism::Unknown => "unknown",
        }
    }
}

impl fmt::Display for Mechanism {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
