//! What the steps of the procedure look up in an analysis, asked in one place. Decides nothing.

use std::collections::BTreeMap;

use crate::analysis::model::{
    Analysis, CheckpointAnalysis, LogPoint, ParameterGroup, ParameterOptimizer, Role, TensorAnalysis,
};
use crate::robust;
use crate::rules::{Assessment, Finding, Subject};

/// An analysis and what the rules said about it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Facts<'a> {
    /// What was measured.
    pub analysis: &'a Analysis,
    /// What was found.
    pub assessment: &'a Assessment,
}

impl<'a> Facts<'a> {
    /// The points of the log, none where there is no log.
    pub fn points(self) -> &'a [LogPoint] {
        self.analysis.log.as_ref().map_or(&[], |log| &log.points)
    }

    /// The points of the log up to and including `step`.
    pub fn points_until(self, step: u64) -> &'a [LogPoint] {
        let points = self.points();
        &points[..points.partition_point(|point| point.step <= step)]
    }

    /// The points of the log from `step` on.
    pub fn points_from(self, step: u64) -> &'a [LogPoint] {
        let points = self.points();
        &points[points.partition_point(|point| point.step < step)..]
    }

    /// The learning rates of the run: those of its log, or, where that has none, those that the checkpoints' optimizers say.
    pub fn learning_rates(self) -> Rates {
        let logged =
            self.points().iter().filter_map(|point| Some((point.step, point.learning_rate?.finite()?)));
        let logged: Vec<(u64, f64)> = logged.collect();
        if !logged.is_empty() {
            return Rates { by_step: logged, are_logged: true };
        }
        // As of a log with a list of them, that of the first group.
        let first = |one: &CheckpointAnalysis| {
            one.optimizer.value()?.optimizers.first()?.groups.first()?.learning_rate
        };
        let saved = self.checkpoints().filter_map(|(step, one)| Some((step, first(one)?)));
        Rates { by_step: saved.filter(|(_, rate)| rate.is_finite()).collect(), are_logged: false }
    }

    /// Checkpoints with a known step, by step.
    pub fn checkpoints(self) -> impl DoubleEndedIterator<Item = (u64, &'a CheckpointAnalysis)> {
        self.analysis.checkpoints.iter().filter_map(|one| Some((*one.step.value()?, one)))
    }

    /// The last step of which anything is known.
    pub fn last_step(self) -> Option<u64> {
        let logged = self.points().last().map(|point| point.step);
        self.checkpoints().next_back().map(|(step, _)| step).max(logged)
    }

    /// What a rule found, in the order of its steps.
    pub fn findings(self, code: &str) -> Vec<&'a Finding> {
        let own = self.assessment.findings.iter().filter(|finding| finding.rule == code);
        let mut own: Vec<&Finding> = own.collect();
        own.sort_by_key(|finding| finding.step);
        own
    }

    /// The canonical name of the tensor a finding is about.
    pub fn tensor_of(self, finding: &Finding) -> Option<String> {
        let Subject::Tensor(stored) = &finding.subject else { return None };
        let tensors = self.analysis.checkpoints.iter().flat_map(|one| &one.tensors);
        let known = tensors.into_iter().find(|tensor| tensor.name == *stored);
        Some(known.map_or_else(|| stored.clone(), |tensor| tensor.canonical_name.clone()))
    }

    /// The parameters of the newest checkpoint that can be read, in its order.
    pub fn parameters(self) -> Vec<&'a TensorAnalysis> {
        let readable = |one: &&CheckpointAnalysis| one.tensors.iter().any(TensorAnalysis::is_parameter);
        let newest = self.analysis.checkpoints.iter().rev().find(readable);
        newest
            .map_or_else(Vec::new, |one| one.tensors.iter().filter(|tensor| tensor.is_parameter()).collect())
    }
}

/// Learning rates by step.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Rates {
    /// Step and rate, by step.
    pub by_step: Vec<(u64, f64)>,
    /// They are of the log; else of the optimizers' groups in the checkpoints.
    pub are_logged: bool,
}

impl Rates {
    /// Those up to and including `step`.
    pub fn until(&self, step: u64) -> &[(u64, f64)] {
        &self.by_step[..self.by_step.partition_point(|(own, _)| *own <= step)]
    }

    /// The newest one at `step`.
    pub fn at(&self, step: u64) -> Option<f64> {
        self.until(step).last().map(|(_, rate)| *rate)
    }

    /// The largest one up to and including `step`.
    pub fn peak(&self, step: u64) -> f64 {
        self.until(step).iter().map(|(_, rate)| *rate).fold(0.0, f64::max)
    }
}

/// Whether a tensor is a matrix of the model, by whose size and steps networks are compared.
pub(super) fn is_matrix(tensor: &TensorAnalysis) -> bool {
    tensor.is_parameter() && tensor.shape.len() >= 2 && tensor.elements > 0
}

/// Whether a parameter maps queries or keys, alone or with the values.
pub(super) fn is_query_or_key(role: Role) -> bool {
    matches!(role, Role::AttentionQuery | Role::AttentionKey | Role::AttentionQkv)
}

/// RMS of a parameter's finite elements.
pub(super) fn rms(tensor: &TensorAnalysis) -> Option<f64> {
    tensor.statistics.value()?.rms.value().copied()
}

/// States of parameters, with their groups, by canonical name.
pub(super) type States<'a> = BTreeMap<&'a str, (&'a ParameterOptimizer, &'a ParameterGroup)>;

/// The state of every parameter that is mapped.
pub(super) fn states(checkpoint: &CheckpointAnalysis) -> States<'_> {
    let Some(state) = checkpoint.optimizer.value() else { return BTreeMap::new() };
    let mapped = state.parameters.iter().filter_map(|parameter| {
        let name = parameter.tensor.as_ref()?.canonical_name.as_str();
        let group =
            state.optimizers.get(parameter.optimizer as usize)?.groups.get(parameter.group as usize)?;
        Some((name, (parameter, group)))
    });
    mapped.collect()
}

/// The median over the matrices of one step over the weight it changes.
pub(super) fn step_length(checkpoint: &CheckpointAnalysis) -> Option<f64> {
    let states = states(checkpoint);
    let matrices = checkpoint.tensors.iter().filter(|tensor| is_matrix(tensor));
    median(
        matrices
            .filter_map(|tensor| states.get(tensor.canonical_name.as_str())?.0.update_ratio.value().copied()),
    )
}

/// The middle of finite values; the mean of both middle ones; `None` of nothing.
pub(super) fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    robust::median(values.into_iter().filter(|value| value.is_finite()))
}

/// A non-negative number, rounded.
pub(super) fn whole(value: f64) -> u64 {
    #[expect(clippy::cast_sign_loss, reason = "what is negative becomes 0 first")]
    let rounded = value.max(0.0).round() as u64;
    rounded
}
