//! Which edits are made and why: those that were asked for, and those that follow from findings.
//!
//! From findings alone only optimizer state is edited, which training builds up again: what changes a hyperparameter or what
//! the network computes is proposed, with the argument that asks for it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde::Serialize;

use super::audit::{Audit, Exactness};
use super::edit::{Action, Edit, NumberAt, NumberEdit, Operation, Proposal, TensorEdit};
use super::moments::{Reset, Stateful, all, number_edit, untold};
use super::repair::Repaired;
use super::write::{replicas, state};
use super::{audit, qk_clip, spectral_clip};
use crate::analysis::model::{CheckpointAnalysis, Section, TensorAnalysis};
use crate::checkpoint::optimizer::{Algorithm, Place, Quantity};
use crate::checkpoint::{Checkpoint, Glob, NameRules};
use crate::context::Context;
use crate::error::{ErrorKind, Result};
use crate::format::Format;
use crate::number::{counted, short};
use crate::rules::{Assessment, Finding, Severity, Subject};
use crate::tensor::{DType, Kind, encode};

/// What the user asked for.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// Edits of optimizer state that follow from findings.
    pub from_findings: bool,
    /// Optimizer state that is not finite, or that no gradients give.
    pub drop_non_finite: bool,
    /// Globs of parameters whose moments and step are reset.
    pub reset_moments: Vec<String>,
    /// Factor for every learning rate.
    pub lr_scale: Option<f64>,
    /// New ε.
    pub epsilon: Option<f64>,
    /// New β₂.
    pub beta2: Option<f64>,
    /// Largest expected logit of a head.
    pub qk_clip: Option<QkLimit>,
    /// Globs of maps, and the largest singular value each may have.
    pub spectral_clip: Vec<(String, f64)>,
    /// Other ranks' checkpoints of the same state.
    pub replicas: Vec<PathBuf>,
    /// Globs of tensors, and their new dtype.
    pub cast: Vec<(String, DType)>,
    /// The network may compute something else afterwards.
    pub accept_function_change: bool,
}

/// What the largest logit of independent inputs may be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum QkLimit {
    /// 2·ln T: where a softmax over T independent normal logits condenses.
    Condensation,
    /// A number, as the 100 of Kimi K2 and Megatron.
    Logit(f64),
}

/// What a repair does, before it does it.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Plan {
    /// The checkpoint's name.
    pub checkpoint: String,
    /// Its step, where known.
    pub step: Option<u64>,
    /// What a resume from it has and lacks, before the repair.
    pub audit: Audit,
    /// The edits, in the order in which they are made.
    pub edits: Vec<Edit>,
    /// What would help and is not done unasked.
    pub proposals: Vec<Proposal>,
    /// What no edit repairs, a sentence each.
    pub irreparable: Vec<String>,
    /// How exactly training goes on from the repaired checkpoint.
    pub expected: Exactness,
    /// Why, in one sentence.
    pub expected_because: String,
}

/// What findings amount to.
#[derive(Default)]
struct FromFindings {
    /// Parameters to drop, to reset, by index among those with state, with the reasons.
    drop: BTreeMap<usize, Vec<String>>,
    reset: BTreeMap<usize, Vec<String>>,
    proposals: Vec<Proposal>,
    irreparable: Vec<String>,
}

/// Plans the repair of a checkpoint that was measured and judged alone.
///
/// # Errors
/// When something is asked for that cannot be done, or names nothing.
pub fn plan(before: Repaired<'_>, wanted: &Wanted, context: &Context) -> Result<Plan> {
    let Repaired { checkpoint, analysis, assessment, names, .. } = before;
    let measured =
        analysis.checkpoints.first().ok_or_else(|| ErrorKind::NoTensors.in_file(&checkpoint.path))?;
    let planner = Planner { checkpoint, measured, parameters: all(checkpoint, measured), wanted };
    let found = planner.consider_all(assessment);
    let mut edits = Vec::new();
    // Copies are made one before anything is done to them.
    edits.extend(planner.sync(names, context)?);
    edits.extend(planner.drop(&found)?);
    edits.extend(planner.reset(&found)?);
    edits.extend(planner.numbers()?);
    edits.extend(planner.qk_clip()?);
    edits.extend(planner.spectral_clip()?);
    edits.extend(planner.cast()?);
    if let Some(edit) = edits.iter().find(|edit| edit.changes_function && !wanted.accept_function_change) {
        let message = format!("{}: the network would compute something else", edit.what);
        let advice = "say that this is meant: --accept-function-change";
        return Err(ErrorKind::NotDone { message, advice }.in_file(&checkpoint.path));
    }
    let audit = audit(checkpoint, context);
    let (expected, expected_because) = planner.expected(&audit, &edits);
    Ok(Plan {
        checkpoint: checkpoint.name.clone(),
        step: checkpoint.step,
        audit,
        edits,
        proposals: found.proposals,
        irreparable: found.irreparable,
        expected,
        expected_because,
    })
}

struct Planner<'a> {
    checkpoint: &'a Checkpoint,
    measured: &'a CheckpointAnalysis,
    parameters: Vec<Stateful<'a>>,
    wanted: &'a Wanted,
}

impl Planner<'_> {
    fn refuse<T>(&self, message: String, advice: &'static str) -> Result<T> {
        Err(ErrorKind::NotDone { message, advice }.in_file(&self.checkpoint.path))
    }

    fn consider_all(&self, assessment: &Assessment) -> FromFindings {
        let mut found = FromFindings::default();
        for finding in &assessment.findings {
            self.consider(finding, &mut found);
        }
        found
    }

    fn consider(&self, finding: &Finding, found: &mut FromFindings) {
        let why = || format!("{} {}: {}", finding.rule, finding.name, finding.message);
        let owners = self.owners(&finding.subject);
        match finding.rule.as_str() {
            "FP101" | "FP701" if !owners.is_empty() => {
                for &owner in &owners {
                    found.drop.entry(owner).or_default().push(why());
                }
            }
            "FP101" => {
                found.irreparable.push(format!("{}; no edit brings the numbers back: roll back", why()));
            }
            "FP702" | "FP312" => {
                for &owner in &owners {
                    found.reset.entry(owner).or_default().push(why());
                }
            }
            "FP107" | "FP308" | "FP708" if finding.severity > Severity::Note => {
                for index in self.with_siblings(&owners, &finding.subject) {
                    found.reset.entry(index).or_default().push(why());
                }
            }
            "FP108" | "FP901" | "FP903" => {
                found.irreparable.push(format!("{}; {}", why(), finding.advice));
            }
            _ => self.propose(finding, why(), found),
        }
    }

    /// What would help against a finding, and is not done unasked.
    fn propose(&self, finding: &Finding, why: String, found: &mut FromFindings) {
        let value = |label: &str| {
            finding.evidence.iter().find(|evidence| evidence.label == label).map(|evidence| evidence.value)
        };
        let (what, ask) = match finding.rule.as_str() {
            "FP301" | "FP307" => ("lower the learning rate", Some("--lr-scale 0.5".to_owned())),
            "FP302" | "FP303" => {
                ("let the second moment follow within tens of steps", Some("--beta2 0.95".to_owned()))
            }
            "FP304" => {
                let epsilon = value("RMS of sqrt(v)").map_or(1e-8, below);
                (
                    "lower epsilon to a hundredth of the gradients it is added to",
                    Some(format!("--epsilon {epsilon:e}")),
                )
            }
            "FP305" => ("raise epsilon above the rounding noise", Some("--epsilon 1e-8".to_owned())),
            "FP401" | "FP402" => {
                ("scale queries and keys down", Some("--qk-clip --accept-function-change".to_owned()))
            }
            "FP203" | "FP210" | "FP406" if finding.severity > Severity::Note => (
                "roll back; where no earlier state is left, scale the map down and train on",
                self.spectral_argument(&finding.subject),
            ),
            "FP601" | "FP602" => {
                ("make the ranks' copies one again", Some("--sync-replicas CHECKPOINT-OF-RANK…".to_owned()))
            }
            _ if finding.severity > Severity::Note => (finding.advice.as_str(), None),
            _ => return,
        };
        match found.proposals.iter_mut().find(|known| known.what == what && known.ask == ask) {
            Some(known) => known.why.push(why),
            None => found.proposals.push(Proposal { what: what.to_owned(), why: vec![why], ask }),
        }
    }

    fn spectral_argument(&self, subject: &Subject) -> Option<String> {
        let Subject::Tensor(name) = subject else { return None };
        let tensor = self.measured.tensors.iter().find(|tensor| tensor.name == *name)?;
        (tensor.shape.len() >= 2).then(|| format!("--spectral-clip {name}=LIMIT --accept-function-change"))
    }

    /// The parameters that a finding is about: by its own name, or by that of a tensor of its state.
    fn owners(&self, subject: &Subject) -> Vec<usize> {
        let Subject::Tensor(name) = subject else { return Vec::new() };
        let is_model = self
            .measured
            .tensors
            .iter()
            .any(|tensor| tensor.name == *name && tensor.section != Section::Optimizer);
        let holds = |parameter: &Stateful<'_>| {
            parameter.moments().any(|index| self.checkpoint.tensors[index].name == *name)
        };
        let own = |(index, parameter): (usize, &Stateful<'_>)| {
            (parameter.name == name || holds(parameter)).then_some(index)
        };
        let own: Vec<usize> = self.parameters.iter().enumerate().filter_map(own).collect();
        // A weight that is not finite has the name of its own state; only the state can be dropped.
        let weight_is_bad = is_model
            && self.measured.tensors.iter().any(|tensor| {
                tensor.name == *name
                    && tensor.statistics.value().is_some_and(|statistics| statistics.non_finite() > 0)
            });
        if weight_is_bad { Vec::new() } else { own }
    }

    /// All parameters of the optimizers that `owners` are of; of all optimizers, where the finding is about the checkpoint.
    fn with_siblings(&self, owners: &[usize], subject: &Subject) -> Vec<usize> {
        let optimizers: BTreeSet<usize> =
            owners.iter().map(|&owner| self.parameters[owner].optimizer_index).collect();
        let everything = *subject == Subject::Checkpoint;
        (0..self.parameters.len())
            .filter(|&index| everything || optimizers.contains(&self.parameters[index].optimizer_index))
            .collect()
    }

    fn drop(&self, found: &FromFindings) -> Result<Option<Edit>> {
        if !self.wanted.from_findings && !self.wanted.drop_non_finite {
            return Ok(None);
        }
        self.reset_these(Action::DropNonFinite, &found.drop)
    }

    fn reset(&self, found: &FromFindings) -> Result<Option<Edit>> {
        let mut chosen = if self.wanted.from_findings { found.reset.clone() } else { BTreeMap::new() };
        for pattern in &self.wanted.reset_moments {
            let glob = self.glob(pattern)?;
            let matching = |parameter: &Stateful<'_>| {
                let canonical =
                    parameter.state.parameter.map(|index| &self.checkpoint.tensors[index].canonical_name);
                glob.is_match(parameter.name) || canonical.is_some_and(|name| glob.is_match(name))
            };
            let matched: Vec<usize> =
                (0..self.parameters.len()).filter(|&index| matching(&self.parameters[index])).collect();
            if matched.is_empty() {
                return self.refuse(
                    format!("no parameter with optimizer state is called {pattern}"),
                    "flashpoint inspect --all lists them",
                );
            }
            let left = untold(self.checkpoint, &self.parameters, |name| glob.is_match(name));
            for index in matched {
                let why = chosen.entry(index).or_default();
                why.push(format!("asked for: --reset-moments {pattern}"));
                why.extend(left.clone());
            }
        }
        let dropped = self.wanted.from_findings || self.wanted.drop_non_finite;
        chosen.retain(|index, _| !(dropped && found.drop.contains_key(index)));
        self.reset_these(Action::ResetMoments, &chosen)
    }

    fn reset_these(&self, action: Action, chosen: &BTreeMap<usize, Vec<String>>) -> Result<Option<Edit>> {
        if chosen.is_empty() {
            return Ok(None);
        }
        let mut reset = Reset::default();
        for &index in chosen.keys() {
            let own = &self.parameters[index];
            if matches!(own.optimizer.algorithm, Algorithm::Adafactor | Algorithm::Unknown { .. }) {
                let message =
                    format!("the state of {} is of an optimizer whose parts are not known", own.name);
                return Err(ErrorKind::NotEditable { message }.in_file(&self.checkpoint.path));
            }
            let of_it = |other: &usize| self.parameters[*other].optimizer_index == own.optimizer_index;
            let all = (0..self.parameters.len()).filter(of_it).all(|other| chosen.contains_key(&other));
            own.reset(self.checkpoint, all, &mut reset)?;
        }
        let mut why: Vec<String> = Vec::new();
        for reason in chosen.values().flatten() {
            if !why.contains(reason) {
                why.push(reason.clone());
            }
        }
        let names = match &chosen.keys().map(|&index| self.parameters[index].name).collect::<Vec<_>>()[..] {
            [one] => (*one).to_owned(),
            names => counted(names.len() as u64, "parameter"),
        };
        let what = match action {
            Action::DropNonFinite => {
                format!("treat the optimizer state of {names} as reset: moments and step to 0")
            }
            _ => format!("reset moments and step of {names} to 0, and warm the learning rate up again"),
        };
        let Reset { tensors, numbers, added } = reset;
        Ok(Some(Edit { action, what, why, changes_function: false, tensors, numbers, added }))
    }

    /// Learning rates, ε, β₂.
    fn numbers(&self) -> Result<Vec<Edit>> {
        let mut edits = Vec::new();
        if let Some(factor) = self.wanted.lr_scale {
            let quantities = [Quantity::LearningRate, Quantity::BaseRate, Quantity::ScheduledRate];
            let numbers = self.change(&quantities, |rate| rate * factor)?;
            let what = format!("every learning rate times {}", short(factor));
            edits.push(self.number_edit(
                Action::LearningRate,
                what,
                numbers,
                "learning rate",
                "--lr-scale",
            )?);
        }
        if let Some(epsilon) = self.wanted.epsilon {
            let numbers = self.change(&[Quantity::Epsilon], |_| epsilon)?;
            let what = format!("epsilon to {}", short(epsilon));
            edits.push(self.number_edit(Action::Epsilon, what, numbers, "epsilon", "--epsilon")?);
        }
        if let Some(beta2) = self.wanted.beta2 {
            let numbers = self.change(&[Quantity::Beta2], |_| beta2)?;
            let what = format!(
                "beta2 to {beta2}; second moments stay as they are, a mixture of both until they are forgotten"
            );
            edits.push(self.number_edit(Action::Beta2, what, numbers, "beta2", "--beta2")?);
        }
        Ok(edits)
    }

    fn number_edit(
        &self,
        action: Action,
        what: String,
        numbers: Vec<NumberEdit>,
        quantity: &str,
        flag: &str,
    ) -> Result<Edit> {
        if numbers.is_empty() {
            return self.refuse(
                format!("no {quantity} is written in the checkpoint"),
                "set it where the training program is started",
            );
        }
        let why = vec![format!("asked for: {flag}")];
        Ok(Edit {
            action,
            what,
            why,
            changes_function: false,
            tensors: Vec::new(),
            numbers: numbers.into_iter().filter(|number| number.from != number.to).collect(),
            added: Vec::new(),
        })
    }

    /// Every number of these quantities, wherever the checkpoint holds it.
    fn change(&self, quantities: &[Quantity], change: impl Fn(f64) -> f64) -> Result<Vec<NumberEdit>> {
        let own =
            self.checkpoint.optimizers.iter().map(|optimizer| (optimizer.file, &optimizer.hyperparameters));
        let scheduled = self.checkpoint.schedules.iter().map(|schedule| (schedule.file, &schedule.rates));
        let mut edits = Vec::new();
        for (file, numbers) in own.chain(scheduled) {
            for number in numbers.iter().filter(|number| quantities.contains(&number.quantity)) {
                let edit = number_edit(self.checkpoint, file, number, change(number.value))?;
                // Groups may share one tuple of betas.
                if !edits.iter().any(|known: &NumberEdit| known.at == edit.at) {
                    edits.push(edit);
                }
            }
        }
        for (pointer, quantity, value) in state::numbers(self.checkpoint)? {
            if quantities.contains(&quantity) {
                edits.push(NumberEdit {
                    name: pointer.trim_start_matches('/').replace('/', "."),
                    file: state::STATE.to_owned(),
                    from: value,
                    to: change(value),
                    at: NumberAt::Json(pointer),
                });
            }
        }
        Ok(edits)
    }

    fn qk_clip(&self) -> Result<Option<Edit>> {
        let Some(limit) = self.wanted.qk_clip else { return Ok(None) };
        let edit = qk_clip::edit(self.checkpoint, self.measured, limit).map_err(|message| {
            let advice = "inspect it with its config.json beside it, or leave --qk-clip out";
            ErrorKind::NotDone { message, advice }.in_file(&self.checkpoint.path)
        })?;
        Ok(edit.map(|edit| self.with_masters(edit)))
    }

    fn spectral_clip(&self) -> Result<Option<Edit>> {
        // Of several globs that name a map the smallest limit holds: it is scaled once.
        let mut limits: BTreeMap<usize, f64> = BTreeMap::new();
        for (pattern, limit) in &self.wanted.spectral_clip {
            let glob = self.glob(pattern)?;
            let is_it = |tensor: &TensorAnalysis| {
                let named = glob.is_match(&tensor.name) || glob.is_match(&tensor.canonical_name);
                named && tensor.is_parameter() && tensor.shape.len() >= 2
            };
            let all = self.measured.tensors.iter().enumerate();
            let matched: Vec<usize> =
                all.filter(|(_, tensor)| is_it(tensor)).map(|(index, _)| index).collect();
            if matched.is_empty() {
                return self.refuse(
                    format!("no map of the model is called {pattern}"),
                    "flashpoint inspect lists them",
                );
            }
            for index in matched {
                limits.entry(index).and_modify(|known| *known = known.min(*limit)).or_insert(*limit);
            }
        }
        let edit = spectral_clip::edit(self.checkpoint, self.measured, &limits).map_err(|message| {
            let advice = "name maps whose singular values `flashpoint inspect` shows";
            ErrorKind::NotDone { message, advice }.in_file(&self.checkpoint.path)
        })?;
        Ok(edit.map(|edit| self.with_masters(edit)))
    }

    /// Does to every f32 master what is done to the weight rounded from it: the optimizer would write the old one back.
    fn with_masters(&self, mut edit: Edit) -> Edit {
        let masters = edit.tensors.iter().filter_map(|edit| {
            let &master = self.checkpoint.masters.get(&edit.index)?;
            Some(self.tensor_edit(master, edit.operation.clone()))
        });
        let masters: Vec<TensorEdit> = masters.collect();
        edit.tensors.extend(masters);
        edit
    }

    /// The mean of all copies of every tensor that differs; equal ones stay as they are.
    fn sync(&self, names: &NameRules, context: &Context) -> Result<Option<Edit>> {
        if self.wanted.replicas.is_empty() {
            return Ok(None);
        }
        if self.wanted.qk_clip.is_some() || !self.wanted.spectral_clip.is_empty() {
            return self.refuse(
                "--qk-clip and --spectral-clip measure this rank's maps, and --sync-replicas would change them"
                    .to_owned(),
                "sync first, then clip what came of it",
            );
        }
        let copies = self.wanted.replicas.len() as u64 + 1;
        let replicas = replicas::open(&self.wanted.replicas, names, context)?;
        let differing = replicas::differing(self.checkpoint, &replicas, context)?;
        let tensors: Vec<TensorEdit> = differing
            .into_iter()
            .map(|index| self.tensor_edit(index, Operation::Average { copies }))
            .collect();
        let what = format!("{} to the mean over {copies} ranks", counted(tensors.len() as u64, "tensor"));
        let why = vec!["asked for: --sync-replicas".to_owned()];
        let (numbers, added) = (Vec::new(), Vec::new());
        let action = Action::SyncReplicas;
        Ok((!tensors.is_empty()).then_some(Edit {
            action,
            what,
            why,
            changes_function: false,
            tensors,
            numbers,
            added,
        }))
    }

    fn cast(&self) -> Result<Vec<Edit>> {
        let mut edits = Vec::new();
        for (pattern, to) in &self.wanted.cast {
            if !encode::is_written(*to) {
                return self.refuse(format!("{to} is not written"), "cast to F64, F32, F16 or BF16");
            }
            let glob = self.glob(pattern)?;
            let mut tensors = Vec::new();
            for index in self.castable(&glob) {
                let tensor = &self.checkpoint.tensors[index];
                if tensor.tensor.as_ref().is_ok_and(|stored| stored.dtype == *to) {
                    continue;
                }
                if tensor.file.is_none_or(|file| self.checkpoint.files[file].format != Format::Safetensors) {
                    let message =
                        format!("{} lies in a pickle's storage, whose type others may share", tensor.name);
                    return Err(ErrorKind::NotEditable { message }.in_file(&self.checkpoint.path));
                }
                tensors.push(self.tensor_edit(index, Operation::Cast { to: *to }));
            }
            if tensors.is_empty() {
                return self.refuse(
                    format!("no tensor that {pattern} names would change its dtype"),
                    "flashpoint inspect --all lists them",
                );
            }
            edits.push(Edit {
                action: Action::Cast,
                what: format!("{} to {to}", counted(tensors.len() as u64, "tensor")),
                why: vec![format!("asked for: --cast {pattern}={to}")],
                changes_function: false,
                tensors,
                numbers: Vec::new(),
                added: Vec::new(),
            });
        }
        Ok(edits)
    }

    /// The tensors that a cast by this glob is about: never step counters, which a dtype of few digits would make other numbers,
    /// and optimizer state only where the glob names nothing else.
    fn castable(&self, glob: &Glob) -> Vec<usize> {
        let counters: BTreeSet<usize> = self
            .checkpoint
            .optimizers
            .iter()
            .flat_map(|optimizer| {
                let own = optimizer.parameters.iter().map(|state| state.step_place);
                own.chain(optimizer.hyperparameters.iter().map(|number| number.place))
            })
            .filter_map(|place| match place {
                Some(Place::Tensor(index)) => Some(index),
                _ => None,
            })
            .collect();
        let is_named = |index: &usize| {
            let tensor = &self.checkpoint.tensors[*index];
            let named = glob.is_match(&tensor.name) || glob.is_match(&tensor.canonical_name);
            let is_float = tensor.tensor.as_ref().is_ok_and(|stored| stored.dtype.kind() == Kind::Float);
            named && is_float && !counters.contains(index)
        };
        let is_state = |index: &usize| self.checkpoint.tensors[*index].section == Section::Optimizer;
        let (state, others): (Vec<usize>, Vec<usize>) =
            (0..self.checkpoint.tensors.len()).filter(is_named).partition(is_state);
        if others.is_empty() { state } else { others }
    }

    fn tensor_edit(&self, index: usize, operation: Operation) -> TensorEdit {
        let tensor = &self.checkpoint.tensors[index];
        let file = tensor.file.map_or_else(String::new, |file| self.checkpoint.files[file].name.clone());
        TensorEdit { tensor: tensor.name.clone(), file, operation, index }
    }

    fn glob(&self, pattern: &str) -> Result<Glob> {
        Glob::new(pattern).or_else(|error| self.refuse(error, "quote it: 'layers.*.weight'"))
    }

    /// How exactly training goes on after the edits.
    fn expected(&self, audit: &Audit, edits: &[Edit]) -> (Exactness, String) {
        let resets: BTreeSet<usize> = edits
            .iter()
            .filter(|edit| matches!(edit.action, Action::DropNonFinite | Action::ResetMoments))
            .flat_map(|edit| edit.tensors.iter().map(|tensor| tensor.index))
            .collect();
        let moments: Vec<usize> = self.parameters.iter().flat_map(Stateful::moments).collect();
        let all_reset = !resets.is_empty() && moments.iter().all(|index| resets.contains(index));
        let by_edits = match edits {
            [] => Exactness::Bit,
            _ if all_reset => Exactness::Restart,
            _ => Exactness::Numeric,
        };
        if by_edits < audit.exactness || edits.is_empty() {
            return (audit.exactness, audit.sentence.clone());
        }
        let because = if all_reset {
            "every moment starts anew: the optimizer goes on from these weights as from a first step"
        } else {
            "what was edited was edited to be different; everything else is bit for bit what it was"
        };
        (by_edits, because.to_owned())
    }
}

/// A hundredth of `rms`, rounded down to a power of ten.
fn below(rms: f64) -> f64 {
    10f64.powf((rms / 100.0).max(f64::MIN_POSITIVE).log10().floor())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn epsilon_is_proposed_at_a_power_of_ten_below_a_hundredth() {
        assert_eq!(format!("{:e}", below(2.4e-8)), "1e-10");
        assert_eq!(format!("{:e}", below(1e-6)), "1e-8");
    }
}
