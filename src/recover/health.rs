//! What is looked at after a repair, before it gets its name: that nothing else changed, and that what was repaired is whole.

use std::collections::{BTreeSet, HashMap, VecDeque};

use serde::Serialize;

use super::edit::{Action, Edit, NumberAt, NumberEdit};
use super::limits;
use super::manifest::SourceFile;
use super::plan::QkLimit;
use super::write::compare;
use crate::analysis::model::CheckpointAnalysis;
use crate::checkpoint::Checkpoint;
use crate::checkpoint::optimizer::{OptimizerState, ParameterState, Place};
use crate::context::Context;
use crate::error::Result;
use crate::number::{counted, short};
use crate::rules::{self, Assessment, NotEvaluated, Severity, Subject};

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Check {
    /// What.
    pub name: String,
    /// How it stands.
    pub outcome: Outcome,
    /// The numbers, in a sentence.
    pub detail: String,
}

/// How a check came out. One that could not run is no pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
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
const FILES: &str = "files without an edit are byte for byte the source's";

/// How much larger than the learning rate the first update after a reset may be, by rounding.
const FIRST_UPDATE_ROUNDING: f64 = 1e-9;

/// The rules of a state that training can go on from (the certificate of section 4 of the risk catalogue).
const RULES: [&str; 10] =
    ["FP101", "FP107", "FP303", "FP307", "FP308", "FP309", "FP401", "FP701", "FP702", "FP708"];

impl Check {
    pub(super) fn new(name: &str, outcome: Outcome, detail: impl Into<String>) -> Self {
        Self { name: name.to_owned(), outcome, detail: detail.into() }
    }

    pub(super) fn is_no_failure(&self) -> bool {
        self.outcome != Outcome::Fail
    }

    /// Whether something else was written than was planned.
    pub(super) fn is_broken_promise(&self) -> bool {
        self.outcome == Outcome::Fail && [UNTOUCHED, NUMBERS, FILES].contains(&self.name.as_str())
    }
}

/// A checkpoint, measured and judged.
#[derive(Clone, Copy)]
pub(super) struct Judged<'a> {
    pub checkpoint: &'a Checkpoint,
    pub analysis: &'a CheckpointAnalysis,
    pub assessment: &'a Assessment,
}

/// Every check. Heads that were clipped have the limit `qk`. `None` when the user asked to stop.
pub(super) fn checks(
    before: Judged<'_>,
    after: Judged<'_>,
    edits: &[Edit],
    files: &[SourceFile],
    qk: Option<QkLimit>,
    context: &Context,
) -> Result<Option<Vec<Check>>> {
    let Some(untouched) = untouched(before.checkpoint, after.checkpoint, edits, context)? else {
        return Ok(None);
    };
    let mut checks = vec![untouched, same_files(before.checkpoint, edits, files)];
    checks.extend(numbers(after.checkpoint, edits));
    checks.extend(first_update(after, edits));
    checks.extend(limits::checks(after.analysis, edits, qk));
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
            NumberAt::Tensor(index) => Some(index),
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

/// Every file that no edit names, by its digest.
fn same_files(before: &Checkpoint, edits: &[Edit], files: &[SourceFile]) -> Check {
    let of_tensor = |index: usize| {
        let own = &before.tensors[index];
        // Tied tensors are edited where the first of them lies.
        let first =
            own.tied_to.as_ref().and_then(|name| before.tensors.iter().find(|tensor| tensor.name == *name));
        [own.file, first.and_then(|tensor| tensor.file)].into_iter().flatten()
    };
    let mut edited: BTreeSet<&str> = BTreeSet::new();
    for edit in edits {
        let tensors = edit.tensors.iter().flat_map(|change| of_tensor(change.index));
        edited.extend(tensors.map(|file| before.files[file].name.as_str()));
        edited.extend(edit.numbers.iter().map(|number| number.file.as_str()));
        edited.extend(edit.added.iter().map(|added| added.file.as_str()));
    }
    let is_cast = edits.iter().any(|edit| edit.action == Action::Cast);
    // The index of shards states the total of their new dtypes.
    let is_edited =
        |name: &str| edited.contains(name) || is_cast && name.ends_with(".safetensors.index.json");
    let untouched: Vec<&SourceFile> = files.iter().filter(|file| !is_edited(&file.name)).collect();
    let differing = untouched.iter().find(|file| file.source != file.written);
    if let Some(file) = differing {
        return Check::new(FILES, Outcome::Fail, format!("{} differs", file.name));
    }
    if untouched.is_empty() {
        return Check::new(FILES, Outcome::NotEvaluated, "every file has an edit");
    }
    Check::new(FILES, Outcome::Pass, format!("{} compared", counted(untouched.len() as u64, "file")))
}

/// Every number that was written, read again: by its place where that stays the same, by its name otherwise.
fn numbers(after: &Checkpoint, edits: &[Edit]) -> Option<Check> {
    let edited: Vec<&NumberEdit> = edits.iter().flat_map(|edit| &edit.numbers).collect();
    if edited.is_empty() {
        return None;
    }
    let written = Written::of(after);
    let wrong = edited.iter().find(|number| !written.says(after, number));
    Some(match wrong {
        None => Check::new(
            NUMBERS,
            Outcome::Pass,
            format!("{} read again", counted(edited.len() as u64, "number")),
        ),
        Some(number) => Check::new(NUMBERS, Outcome::Fail, format!("{} does not", number.name)),
    })
}

/// The numbers of a checkpoint, by where they stand.
struct Written {
    pickled: HashMap<(usize, u32, u32), f64>,
    json: HashMap<String, f64>,
}

impl Written {
    fn of(checkpoint: &Checkpoint) -> Self {
        let groups =
            checkpoint.optimizers.iter().map(|optimizer| (optimizer.file, &optimizer.hyperparameters));
        let schedules = checkpoint.schedules.iter().map(|schedule| (schedule.file, &schedule.rates));
        let numbers = groups
            .chain(schedules)
            .flat_map(|(file, list)| list.iter().map(move |number| (file, number.place, number.value)));
        let states = checkpoint.optimizers.iter().flat_map(|optimizer| {
            let counted =
                optimizer.parameters.iter().filter_map(|state| Some((state.step_place, state.step?)));
            counted.map(|(place, step)| (optimizer.file, place, step))
        });
        let pickled = numbers.chain(states).filter_map(|(file, place, value)| match place {
            Some(Place::Pickled { start, end }) => Some(((file, start, end), value)),
            _ => None,
        });
        let own = super::write::state::numbers(checkpoint).unwrap_or_default();
        Self {
            pickled: pickled.collect(),
            json: own.into_iter().map(|(pointer, _, value)| (pointer, value)).collect(),
        }
    }

    /// Whether the number says what it was to say. The opcode over which it was written keeps its length, and a tensor that
    /// holds it keeps its name.
    fn says(&self, checkpoint: &Checkpoint, number: &NumberEdit) -> bool {
        let found = match &number.at {
            NumberAt::Pickled { file, start, end } => self.pickled.get(&(*file, *start, *end)).copied(),
            NumberAt::Json(pointer) => self.json.get(pointer).copied(),
            NumberAt::Tensor(index) => element(checkpoint, *index),
            NumberAt::Nowhere => None,
        };
        found == Some(number.to)
    }
}

/// The one element of a tensor that holds a number.
fn element(checkpoint: &Checkpoint, index: usize) -> Option<f64> {
    let tensor = checkpoint.tensors.get(index)?.tensor.as_ref().ok()?;
    let mut values = Vec::new();
    tensor.read_f64(0..tensor.count().min(1), &mut values).ok()?;
    values.first().copied()
}

/// What the first update after a reset can be, over the learning rate: 1 where moments **and** step are zero; without the step
/// √(1−β₂^(t+1))·(1−β₁)/((1−β₁^(t+1))·√(1−β₂)), which is 3.16 for β = (0.9, 0.999). Of what was reset only: a parameter that never had
/// a gradient has zero moments too.
fn first_update(after: Judged<'_>, edits: &[Edit]) -> Option<Check> {
    const NAME: &str = "the first update of what was reset is at most the learning rate";
    let resets = edits.iter().filter(|edit| is_reset(edit)).flat_map(|edit| &edit.tensors);
    let reset: BTreeSet<(&str, &str)> =
        resets.map(|change| (change.file.as_str(), change.tensor.as_str())).collect();
    let is_one = |index: Option<usize>| {
        index.is_some_and(|index| {
            let tensor = &after.checkpoint.tensors[index];
            let file = tensor.file.map_or("", |file| after.checkpoint.files[file].name.as_str());
            reset.contains(&(file, tensor.name.as_str()))
        })
    };
    let (mut largest, mut unsure) = (0.0f64, None);
    for optimizer in after.checkpoint.optimizers.iter().filter(|optimizer| optimizer.algorithm.is_adam()) {
        for state in optimizer.parameters.iter().filter(|state| state.stored && is_one(state.exp_avg)) {
            let update = match [state.exp_avg, state.exp_avg_sq].map(|index| is_zero(index, after)) {
                [Some(true), Some(true)] => largest_update(optimizer, state),
                [Some(false), _] | [_, Some(false)] => {
                    let detail = format!("the moments of {} are not zero", state.key);
                    return Some(Check::new(NAME, Outcome::Fail, detail));
                }
                _ => None,
            };
            match update {
                Some(update) => largest = largest.max(update),
                None => {
                    unsure.get_or_insert_with(|| {
                        format!("the moments or betas of {} are not known", state.key)
                    });
                }
            }
        }
    }
    let detail = format!("rms(u) is at most {}", short(largest));
    match unsure {
        _ if largest > 1.0 + FIRST_UPDATE_ROUNDING => Some(Check::new(NAME, Outcome::Fail, detail)),
        Some(reason) => Some(Check::new(NAME, Outcome::NotEvaluated, reason)),
        None if largest == 0.0 => None,
        None => Some(Check::new(NAME, Outcome::Pass, detail)),
    }
}

fn is_reset(edit: &Edit) -> bool {
    matches!(edit.action, Action::DropNonFinite | Action::ResetMoments)
}

/// Whether every element is zero; `None` where that was not measured, or there is none.
fn is_zero(index: Option<usize>, judged: Judged<'_>) -> Option<bool> {
    let statistics = judged.analysis.tensors[index?].statistics.value()?;
    Some(statistics.zero == statistics.count)
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
    let Some(rule) = rules::find(code) else {
        return Check::new(code, Outcome::NotEvaluated, "there is no such rule");
    };
    let name = format!("no {} ({code})", rule.name);
    if code == "FP708" && edits.iter().any(is_reset) {
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
    nothing_found(code, &name, after)
}

/// What a rule that found nothing says: only of what it looked at.
fn nothing_found(code: &str, name: &str, after: Judged<'_>) -> Check {
    // Tensors that no rule could look at are none that are known to be finite.
    let is_about = |rule: Option<&str>| rule == Some(code) || rule.is_none() && code == "FP101";
    let skipped: Vec<&NotEvaluated> =
        after.assessment.not_evaluated.iter().filter(|entry| is_about(entry.rule.as_deref())).collect();
    if let Some(entry) = skipped.iter().find(|entry| entry.subject == Subject::Checkpoint) {
        return Check::new(name, Outcome::NotEvaluated, entry.reason.clone());
    }
    let parameters = after.analysis.optimizer.value().map(|optimizer| optimizer.parameters.len());
    let subjects = match code {
        "FP101" => Some(after.analysis.tensors.len()),
        "FP401" => after.analysis.attention.value().map(Vec::len),
        _ => parameters,
    };
    let Some(subjects) = subjects else {
        return Check::new(name, Outcome::NotEvaluated, "there is no optimizer state");
    };
    let not_judged = skipped.iter().map(|entry| &entry.subject).collect::<BTreeSet<_>>().len();
    let Some(first) = skipped.first() else {
        return match subjects {
            0 => Check::new(name, Outcome::NotEvaluated, "there is nothing that it judges"),
            _ => Check::new(name, Outcome::Pass, "nothing found"),
        };
    };
    let reason = &first.reason;
    if not_judged >= subjects {
        return Check::new(name, Outcome::NotEvaluated, format!("nothing could be judged: {reason}"));
    }
    let detail = format!("nothing found; {not_judged} of {subjects} could not be judged, such as: {reason}");
    Check::new(name, Outcome::Pass, detail)
}
