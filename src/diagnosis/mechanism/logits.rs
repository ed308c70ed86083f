//! Logits that grow: those of attention, by its queries and keys, and those of the output layer.

use super::{Case, STRONG, SUPPORTING};
use crate::analysis::model::{CheckpointAnalysis, Role, TensorAnalysis};
use crate::diagnosis::Mechanism;
use crate::diagnosis::facts::{Facts, is_matrix, is_query_or_key, median, rms, states};
use crate::diagnosis::onset::Onset;
use crate::number::short;
use crate::rules::Confidence;

/// RMS of a logit map over that of the model's other matrices from which it has outgrown them.
const OUTGROWN: f64 = 2.5;

/// Growth of that ratio since the first checkpoint, without which the map began so.
const GROWTH: f64 = 1.5;

/// Standard deviation of attention logits, for random tokens, from which a softmax over 1024 of them condenses:
/// √(2 ln 1024) (D1).
const CONDENSED: f64 = 3.72;

/// Learning rate over the median of the others from which a parameter is trained by a rate of its own.
const OWN_RATE: f64 = 3.0;

/// How a map stands against the model's other matrices.
struct Outgrowth<'a> {
    tensor: &'a TensorAnalysis,
    step: u64,
    ratio: f64,
    growth: f64,
}

/// Queries and keys that outgrow the rest, so that attention condenses on single tokens.
pub(super) fn attention_logits(facts: Facts, _: Option<&Onset>) -> Option<Case> {
    let outgrown = outgrown(facts, |role| is_query_or_key(role))?;
    let (_, last) = facts.checkpoints().find(|(step, _)| *step == outgrown[0].step)?;
    let worst = outgrown.iter().max_by(|a, b| a.ratio.total_cmp(&b.ratio))?;
    let maps = last.tensors.iter().filter(|tensor| is_matrix(tensor) && is_query_or_key(tensor.role)).count();
    let everywhere = outgrown.len() == maps && maps > 1 && !is_one_pair(&outgrown);
    let case = Case::of(Mechanism::AttentionLogits)
        .with_confidence(Confidence::Heuristic)
        .in_tensor((!everywhere).then(|| worst.tensor.canonical_name.clone()));
    let case = dated(facts, case, worst).because(
        STRONG,
        format!(
            "by step {} the query and key maps had outgrown the other matrices, {} by {} times",
            worst.step,
            worst.tensor.canonical_name,
            short(worst.ratio)
        ),
    );
    let spread = logit_spread(last, &worst.tensor.layer.path).unwrap_or(0.0);
    let case = if spread >= CONDENSED {
        case.because(SUPPORTING, format!("its logits spread by {} even for random tokens", short(spread)))
            .number("standard deviation of attention logits", spread, Some(CONDENSED), "1")
    } else {
        case.although(SUPPORTING, "its logits are still small for random tokens")
    };
    Some(with_own_rate(last, case, worst))
}

/// Whether all are of one attention layer.
fn is_one_pair(outgrown: &[Outgrowth]) -> bool {
    let block = |one: &Outgrowth| one.tensor.layer.path.rsplit_once('.').map(|(block, _)| block.to_owned());
    outgrown.len() > 1 && outgrown.iter().all(|one| block(one) == block(&outgrown[0]))
}

/// Standard deviation of the logits of an attention layer for random tokens of RMS 1: d·RMS(W_q)·RMS(W_k) where queries
/// and keys are independent maps of d inputs (D1 without its head-wise spectrum).
fn logit_spread(checkpoint: &CheckpointAnalysis, layer: &str) -> Option<f64> {
    let block = |path: &str| path.rsplit_once('.').map_or("", |(block, _)| block).to_owned();
    let own = |role: Role| {
        checkpoint.tensors.iter().find(|tensor| {
            is_matrix(tensor) && tensor.role == role && (tensor.layer.path == layer || block(&tensor.layer.path) == block(layer))
        })
    };
    let width = |tensor: &TensorAnalysis| tensor.shape.iter().copied().min().unwrap_or(0) as f64;
    if let (Some(query), Some(key)) = (own(Role::AttentionQuery), own(Role::AttentionKey)) {
        return Some(query.shape[1] as f64 * rms(query)? * rms(key)?);
    }
    let fused = own(Role::AttentionQkv)?;
    Some(width(fused) * rms(fused)?.powi(2))
}

/// An output layer that outgrows the rest.
pub(super) fn output_logits(facts: Facts, _: Option<&Onset>) -> Option<Case> {
    let outgrown = outgrown(facts, |role| role == Role::OutputHead)?;
    let worst = outgrown.first()?;
    let case = Case::of(Mechanism::OutputLogits)
        .with_confidence(Confidence::Heuristic)
        .in_tensor(Some(worst.tensor.canonical_name.clone()));
    let case = dated(facts, case, worst).because(
        STRONG,
        format!(
            "by step {} the output layer {} had outgrown the other matrices by {} times",
            worst.step,
            worst.tensor.canonical_name,
            short(worst.ratio)
        ),
    );
    let (_, last) = facts.checkpoints().find(|(step, _)| *step == worst.step)?;
    Some(with_own_rate(last, case, worst))
}

/// The maps of the wanted roles that have outgrown the others, at the first checkpoint where any has.
fn outgrown(facts: Facts<'_>, wanted: impl Fn(Role) -> bool) -> Option<Vec<Outgrowth<'_>>> {
    let (_, first) = facts.checkpoints().next()?;
    facts.checkpoints().find_map(|(step, checkpoint)| {
        let own = checkpoint.tensors.iter().filter(|tensor| is_matrix(tensor) && wanted(tensor.role));
        let outgrown = own.filter_map(|tensor| {
            let ratio = against_others(checkpoint, tensor, &wanted)?;
            let before = first.tensors.iter().find(|one| one.canonical_name == tensor.canonical_name)?;
            let growth = ratio / against_others(first, before, &wanted)?;
            let is = ratio >= OUTGROWN && (growth >= GROWTH || owns_rate(checkpoint, tensor));
            is.then_some(Outgrowth { tensor, step, ratio, growth })
        });
        let outgrown: Vec<Outgrowth> = outgrown.collect();
        (!outgrown.is_empty()).then_some(outgrown)
    })
}

/// RMS over the median of the matrices of other roles.
fn against_others(
    checkpoint: &CheckpointAnalysis,
    tensor: &TensorAnalysis,
    wanted: impl Fn(Role) -> bool,
) -> Option<f64> {
    let others = checkpoint.tensors.iter().filter(|other| is_matrix(other) && !wanted(other.role));
    Some(rms(tensor)? / median(others.filter_map(rms)).filter(|&usual| usual > 0.0)?)
}

fn dated(facts: Facts, case: Case, worst: &Outgrowth) -> Case {
    let before = facts.checkpoints().map(|(own, _)| own).take_while(|&own| own < worst.step).last().unwrap_or(0);
    let case = case.at(before + 1, [before, worst.step]);
    case.number("RMS over that of the other matrices", worst.ratio, Some(OUTGROWN), "1")
        .number("growth of that since the first checkpoint", worst.growth, Some(GROWTH), "1")
}

fn with_own_rate(checkpoint: &CheckpointAnalysis, case: Case, worst: &Outgrowth) -> Case {
    if owns_rate(checkpoint, worst.tensor) {
        case.because(STRONG, format!("{} is trained by a learning rate of its own, far above the others'", worst.tensor.canonical_name))
    } else {
        case
    }
}

fn owns_rate(checkpoint: &CheckpointAnalysis, tensor: &TensorAnalysis) -> bool {
    own_rate(checkpoint, &tensor.canonical_name).is_some_and(|ratio| ratio >= OWN_RATE)
}

/// A parameter's learning rate over the median of all parameters'.
pub(super) fn own_rate(checkpoint: &CheckpointAnalysis, canonical_name: &str) -> Option<f64> {
    let states = states(checkpoint);
    let own = states.get(canonical_name)?.1.learning_rate?;
    let usual = median(states.values().filter_map(|(_, group)| group.learning_rate))?;
    (usual > 0.0).then(|| own / usual)
}
