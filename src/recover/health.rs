//! What is looked at after a repair, before it gets its name: that nothing else changed, and that what was repaired is whole.

use std::collections::{BTreeSet, HashMap, VecDeque};

use schemars::JsonSchema;
use serde::Serialize;

use super::edit::{Action, Edit, NumberEdit};
use super::write::compare;
use crate::analysis::model::{CheckpointAnalysis, Measured};
use crate::checkpoint::Checkpoint;
use crate::checkpoint::optimizer::{OptimizerState, ParameterState};
use crate::context::Context;
use crate::error::Result;
use crate::number::{counted, short};
use crate::rules::{self, Assessment, Severity, Subject};

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Check {
    /// What.
    pub name: String,
    /// How it stands.
    pub outcome: Outcome,
    /// The numbers, in a sentence.
    pub detail: String,
}

/// How a check came out. One that could not run is no pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// As it should be.
    Pass,
    /// Not as it should be.
    Fail,
    /// It could not be looked at, or says nothing here.
    NotEvaluated,
}

/// Checks of what was written against what was planned.
const UNTOUCHED: &str = "untouched tensors are bit for bit the source's";
const NUMBERS: &str = "edited numbers say what was asked for";

/// How much larger than the learning rate the first update after a reset may be, by rounding.
const FIRST_UPDATE_ROUNDING: f64 = 1e-9;

/// The rules of a state that training can go on from (the certificate of section 4 of the risk catalogue).
const RULES: [&str; 10] =
    ["FP101", "FP107", "FP303", "FP307", "FP308", "FP309", "FP401", "FP701", "FP702", "FP708"];

impl Check {
    fn new(name: &str, outcome: Outcome, detail: impl Into<String>) -> Self {
        Self { name: name.to_owned(), outcome, detail: detail.into() }
    }

    pub(super) fn is_no_failure(&self) -> bool {
        self.outcome != Outcome::Fail
    }

    /// Whether something else was written than was planned.
    pub(super) fn is_broken_promise(&self) -> bool {
        self.outcome == Outcome::Fail && [UNTOUCHED, NUMBERS].contains(&self.name.as_str())
    }
}

/// A checkpoint, measured and judged.
#[derive(Clone, Copy)]
pub(super) struct Judged<'a> {
    pub checkpoint: &'a Checkpoint,
    pub analysis: &'a CheckpointAnalysis,
    pub assessment: &'a Assessment,
}

/// Every check. `None` when the user asked to stop.
pub(super) fn checks(
    before: Judged<'_>,
    after: Judged<'_>,
    edits: &[Edit],
    context: &Context,
) -> Result<Option<Vec<Check>>> {
    let Some(untouched) = untouched(before.checkpoint, after.checkpoint, edits, context)? else {
        return Ok(None);
    };
    let mut checks = vec![untouched];
    checks.extend(numbers(after.checkpoint, edits));
    checks.extend(first_update(after));
    checks.extend(RULES.iter().map(|code| by_rule(code, before, after, edits)));
    Ok(Some(checks))
}

/// Every tensor that no edit names, bit by bit.
fn untouched(
    before: &Checkpoint,
    after: &Checkpoint,
    edits: &[Edit],
    context: &Context,
) -> Result<Option<Check>> {
    let edited: BTreeSet<usize> =
        edits.iter().flat_map(|edit| &edit.tensors).map(|change| change.index).collect();
    let by_number: BTreeSet<usize> = edits
        .iter()
        .flat_map(|edit| &edit.numbers)
        .filter_map(|number| match number.at {
            super::edit::NumberAt::Tensor(index) => Some(index),
            _ => None,
        })
        .collect();
    let touched = |index: usize| edited.contains(&index) || by_number.contains(&index);
    let names: BTreeSet<&str> = (0..before.tensors.len())
        .filter(|&index| touched(index))
        .map(|index| before.tensors[index].tied_to.as_deref().unwrap_or(&before.tensors[index].name))
        .collect();
    let mut found: HashMap<&str, VecDeque<usize>> = HashMap::new();
    for (index, tensor) in after.tensors.iter().enumerate() {
        found.entry(&tensor.name).or_default().push_back(index);
    }
    let (mut same, mut wrong) = (0u64, Vec::new());
    for (index, tensor) in before.tensors.iter().enumerate() {
        let twin = found.get_mut(tensor.name.as_str()).and_then(VecDeque::pop_front);
        let Some(twin) = twin else {
            wrong.push(format!("{} is not there", tensor.name));
            continue;
        };
        let is_tied = tensor.tied_to.as_deref().is_some_and(|name| names.contains(name));
        if touched(index) || is_tied || names.contains(tensor.name.as_str()) {
            continue;
        }
        match (&tensor.tensor, &after.tensors[twin].tensor) {
            (Ok(one), Ok(other)) => match compare(one, other, context)? {
                None => return Ok(None),
                Some(true) => same += 1,
                Some(false) => wrong.push(format!("{} differs", tensor.name)),
            },
            (Err(_), Err(_)) => {}
            _ => wrong.push(format!("{} can be read in one of both only", tensor.name)),
        }
    }
    Ok(Some(match wrong.first() {
        None => Check::new(UNTOUCHED, Outcome::Pass, format!("{} compared", counted(same, "tensor"))),
        Some(first) => Check::new(UNTOUCHED, Outcome::Fail, format!("{first}; {} in all", wrong.len())),
    }))
}

/// Every number that was written, read again.
fn numbers(after: &Checkpoint, edits: &[Edit]) -> Option<Check> {
    let edited: Vec<&NumberEdit> = edits.iter().flat_map(|edit| &edit.numbers).collect();
    if edited.is_empty() {
        return None;
    }
    let own = super::write::state::numbers(after).unwrap_or_default();
    let told: HashMap<String, f64> = own
        .into_iter()
        .map(|(pointer, _, value)| (pointer.trim_start_matches('/').replace('/', "."), value))
        .collect();
    let groups = after.optimizers.iter().map(|optimizer| (optimizer.file, &optimizer.hyperparameters));
    let schedules = after.schedules.iter().map(|schedule| (schedule.file, &schedule.rates));
    let mut values: HashMap<(&str, &str), Vec<f64>> = HashMap::new();
    for (file, list) in groups.chain(schedules) {
        for number in list {
            values.entry((&after.files[file].name, &number.name)).or_default().push(number.value);
        }
    }
    let step = |number: &NumberEdit| {
        let states = after.optimizers.iter().flat_map(|optimizer| &optimizer.parameters);
        let own = |state: &&ParameterState| format!("state[{}].step", state.key) == number.name;
        let counters: Vec<f64> = states.filter(own).filter_map(|state| state.step).collect();
        (!counters.is_empty()).then_some(counters)
    };
    let says = |number: &&&NumberEdit| {
        let key = (number.file.as_str(), number.name.as_str());
        let found = values.get(&key).cloned().or_else(|| step(number));
        let found = found.or_else(|| told.get(&number.name).map(|value| vec![*value]));
        found.is_some_and(|values| values.contains(&number.to))
    };
    let wrong = edited.iter().find(|number| !says(number));
    Some(match wrong {
        None => Check::new(
            NUMBERS,
            Outcome::Pass,
            format!("{} read again", counted(edited.len() as u64, "number")),
        ),
        Some(number) => Check::new(NUMBERS, Outcome::Fail, format!("{} does not", number.name)),
    })
}

/// What the first update after a reset can be, over the learning rate: 1 where moments **and** step are zero; without the step
/// √(1−β₂^(t+1))·(1−β₁)/((1−β₁^(t+1))·√(1−β₂)), which is 3.16 for β = (0.9, 0.999).
fn first_update(after: Judged<'_>) -> Option<Check> {
    const NAME: &str = "the first update of what was reset is at most the learning rate";
    let mut largest = 0.0f64;
    for optimizer in &after.checkpoint.optimizers {
        for state in optimizer.parameters.iter().filter(|state| state.stored) {
            if !is_zero(state.exp_avg, after) || !is_zero(state.exp_avg_sq, after) {
                continue;
            }
            largest = largest.max(largest_update(optimizer, state)?);
        }
    }
    if largest == 0.0 {
        return None;
    }
    let outcome = if largest <= 1.0 + FIRST_UPDATE_ROUNDING { Outcome::Pass } else { Outcome::Fail };
    Some(Check::new(NAME, outcome, format!("rms(u) is at most {}", short(largest))))
}

fn is_zero(index: Option<usize>, judged: Judged<'_>) -> bool {
    let Some(statistics) = index.and_then(|index| judged.analysis.tensors[index].statistics.value()) else {
        return false;
    };
    statistics.count > 0 && statistics.zero == statistics.count
}

fn largest_update(optimizer: &OptimizerState, state: &ParameterState) -> Option<f64> {
    let group = optimizer.groups.get(state.group)?;
    let (beta1, beta2) = (group.beta1?, group.beta2?);
    let next = state.step.unwrap_or(0.0) + 1.0;
    let first = (1.0 - beta1) / (1.0 - beta1.powf(next));
    let second = (1.0 - beta2) / (1.0 - beta2.powf(next));
    Some(first / second.sqrt())
}

/// A rule of the certificate: critical findings fail, and warnings that were not there before.
fn by_rule(code: &str, before: Judged<'_>, after: Judged<'_>, edits: &[Edit]) -> Check {
    let rule = rules::find(code);
    let name = rule.map_or_else(|| code.to_owned(), |rule| format!("no {} ({code})", rule.name));
    let resets = |edit: &Edit| matches!(edit.action, Action::DropNonFinite | Action::ResetMoments);
    if code == "FP708" && edits.iter().any(resets) {
        return Check::new(&name, Outcome::NotEvaluated, "parameters were set back to step 0 on purpose");
    }
    if code == "FP702" && edits.iter().any(|edit| edit.action == Action::Beta2) {
        let why =
            "second moments were gathered under another beta2, and are a mixture until they are forgotten";
        return Check::new(&name, Outcome::NotEvaluated, why);
    }
    let known: BTreeSet<&Subject> = before
        .assessment
        .findings
        .iter()
        .filter(|finding| finding.rule == code)
        .map(|finding| &finding.subject)
        .collect();
    let mut findings = after.assessment.findings.iter().filter(|finding| finding.rule == code);
    let fails = findings.clone().find(|finding| {
        finding.severity == Severity::Critical
            || finding.severity == Severity::Warning && !known.contains(&finding.subject)
    });
    if let Some(finding) = fails {
        return Check::new(&name, Outcome::Fail, finding.message.clone());
    }
    if let Some(finding) = findings.next() {
        let detail = format!("as before the repair: {}", finding.message);
        return Check::new(&name, Outcome::Pass, detail);
    }
    let whole = |subject: &Subject| matches!(subject, Subject::Checkpoint);
    let skipped = after
        .assessment
        .not_evaluated
        .iter()
        .find(|entry| entry.rule.as_deref() == Some(code) && whole(&entry.subject));
    if let Some(entry) = skipped {
        return Check::new(&name, Outcome::NotEvaluated, entry.reason.clone());
    }
    if code != "FP101" && code != "FP401" && !matches!(after.analysis.optimizer, Measured::Value(_)) {
        return Check::new(&name, Outcome::NotEvaluated, "there is no optimizer state");
    }
    Check::new(&name, Outcome::Pass, "nothing found")
}
