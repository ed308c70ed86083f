//! Logits that grow: those of attention, by its queries and keys, and those of the output layer.

use super::{Case, STRONG, SUPPORTING, drift, fast, standstill};
use crate::analysis::model::{CheckpointAnalysis, Role, TensorAnalysis};
use crate::diagnosis::Mechanism;
use crate::diagnosis::facts::{Facts, is_matrix, is_query_or_key, median, rms};
use crate::diagnosis::onset::Onset;
use crate::diagnosis::{bracket, pulse, run_up};
use crate::number::{counted, short};
use crate::robust::largest_first;
use crate::rules::Confidence;

/// RMS of a logit map over that of the model's other matrices from which it has outgrown them: at most 3.2 in healthy
/// transformers of the zoo.
const OUTGROWN: f64 = 4.0;

/// Growth of that ratio since the first checkpoint, without which the map began so.
const GROWTH: f64 = 1.5;

/// Standard deviation of attention logits, for random tokens, from which a softmax over 1024 of them condenses:
/// √(2 ln 1024) (D1).
const CONDENSED: f64 = 3.72;

/// Outgrowth of the worst map over that of another, up to which the two are alike.
const ALIKE: f64 = 2.0;

/// Maps that are named where several are alike.
const NAMED: usize = 6;

/// How a map stands against the model's other matrices.
struct Outgrowth<'a> {
    tensor: &'a TensorAnalysis,
    step: u64,
    ratio: f64,
    growth: f64,
}

/// Queries and keys that outgrow the rest, so that attention condenses on single tokens.
pub(super) fn attention_logits(facts: Facts, _: Option<&Onset>) -> Option<Case> {
    let rated = rated(facts, is_attention);
    let outgrown = outgrown(facts, is_query_or_key);
    let mut case = Case::of(Mechanism::AttentionLogits);
    let mut names: Vec<String> = Vec::new();
    if let Some((step, fast)) = rated {
        names = fast.iter().map(|own| own.name.clone()).collect();
        let largest = fast.iter().map(|own| own.rate).fold(0.0, f64::max);
        case = case.since_the_start(step).because(
            STRONG,
            format!("{} by {} times the learning rate of the others", trained(&names), short(largest)),
        );
        case = case.because(STRONG, farther(&names));
    }
    if let Some(outgrown) = &outgrown {
        let worst = outgrown.iter().max_by(|a, b| a.ratio.total_cmp(&b.ratio))?;
        let (_, seen) = facts.checkpoints().find(|(step, _)| *step == worst.step)?;
        let alike = alike(seen, worst, is_query_or_key);
        if names.is_empty() {
            case = dated(facts, case, worst);
        }
        names.extend(alike.iter().map(|(name, _)| (*name).to_owned()));
        case = case.because(STRONG, outgrew(worst.step, &alike));
        let whose = if alike.len() == 1 { "its" } else { "the worst one's" };
        case = match logit_spread(seen, &worst.tensor.layer.path) {
            Some(spread) if spread >= CONDENSED => case
                .because(
                    SUPPORTING,
                    format!("{whose} logits spread by {} even for random tokens", short(spread)),
                )
                .number("standard deviation of attention logits", spread, Some(CONDENSED), "1"),
            _ => case.although(SUPPORTING, format!("{whose} logits are still small for random tokens")),
        };
    }
    (!case.reasons.is_empty()).then(|| case.in_tensor(names.first().cloned()))
}

/// The maps that stand nearly as far above the other matrices as the worst one does, and that first: of some the first checkpoint
/// may be too late to show that they grew.
fn alike<'a>(
    checkpoint: &'a CheckpointAnalysis,
    worst: &Outgrowth,
    wanted: fn(Role) -> bool,
) -> Vec<(&'a str, f64)> {
    let maps = checkpoint.tensors.iter().filter(|tensor| is_matrix(tensor) && wanted(tensor.role));
    let ratios =
        maps.filter_map(|map| Some((map.canonical_name.as_str(), against_others(checkpoint, map, wanted)?)));
    let near = ratios.filter(|(_, ratio)| *ratio >= OUTGROWN && ratio * ALIKE >= worst.ratio);
    let near: Vec<(&str, f64)> = near.collect();
    let is_worst = |name: &str| name == worst.tensor.canonical_name;
    let rank = |(name, ratio): &(&str, f64)| if is_worst(name) { f64::INFINITY } else { *ratio };
    let order = largest_first(&near.iter().map(rank).collect::<Vec<f64>>());
    order.into_iter().map(|index| near[index]).collect()
}

/// That these maps, the worst first, stood above the others by `step`.
fn outgrew(step: u64, maps: &[(&str, f64)]) -> String {
    if let [(only, ratio)] = maps {
        return format!("by step {step} {only} had outgrown the other matrices by {} times", short(*ratio));
    }
    let names: Vec<&str> = maps.iter().map(|(name, _)| *name).take(NAMED).collect();
    let more = maps.len() - names.len();
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let ratios = maps.iter().map(|(_, ratio)| *ratio);
    let (least, most) = (ratios.clone().fold(f64::INFINITY, f64::min), ratios.fold(0.0, f64::max));
    format!(
        "by step {step} {} maps of attention stood {} to {} times above the other matrices: {}{more}",
        maps.len(),
        short(least),
        short(most),
        names.join(", ")
    )
}

/// What is trained, as the start of a sentence.
fn trained(names: &[String]) -> String {
    if let [only] = names {
        return format!("{only} is trained");
    }
    let more = counted(names.len() as u64 - 1, "more map");
    format!("{} and {more} of attention are trained", names[0])
}

fn farther(names: &[String]) -> &'static str {
    if names.len() == 1 { "it moved that much farther" } else { "they moved that much farther" }
}

fn is_attention(role: Role) -> bool {
    is_query_or_key(role) || role == Role::AttentionValue
}

/// The matrices that are trained by rates of their own, where all of them have a wanted role.
fn rated(facts: Facts, wanted: fn(Role) -> bool) -> Option<(u64, Vec<fast::Own>)> {
    let fast = fast::parameters(facts)?;
    let parameters = facts.parameters();
    let role =
        |name: &str| parameters.iter().find(|tensor| tensor.canonical_name == name).map(|tensor| tensor.role);
    fast.matrices.iter().all(|own| role(&own.name).is_some_and(wanted)).then_some((fast.step, fast.matrices))
}

/// Standard deviation of the logits of an attention layer for random tokens of RMS 1: that of its widest head (D1), where heads were measured.
fn logit_spread(checkpoint: &CheckpointAnalysis, layer: &str) -> Option<f64> {
    let own = checkpoint.attention.value().and_then(|layers| {
        let own = layers.iter().find(|own| own.layer == layer || own.layer == block(layer))?;
        own.heads.iter().map(|head| head.logit_std).reduce(f64::max)
    });
    own.or_else(|| spread_by_norms(checkpoint, layer))
}

/// The path of what holds a layer.
fn block(path: &str) -> &str {
    path.rsplit_once('.').map_or("", |(block, _)| block)
}

/// The same without heads: d·RMS(W_q)·RMS(W_k), where queries and keys are independent maps of d inputs.
fn spread_by_norms(checkpoint: &CheckpointAnalysis, layer: &str) -> Option<f64> {
    let own = |role: Role| {
        checkpoint.tensors.iter().find(|tensor| {
            is_matrix(tensor)
                && tensor.role == role
                && (tensor.layer.path == layer || block(&tensor.layer.path) == block(layer))
        })
    };
    if let (Some(query), Some(key)) = (own(Role::AttentionQuery), own(Role::AttentionKey)) {
        return Some(query.shape[1] as f64 * rms(query)? * rms(key)?);
    }
    let fused = own(Role::AttentionQkv)?;
    let inputs = fused.shape.iter().copied().min().unwrap_or(0);
    Some(inputs as f64 * rms(fused)?.powi(2))
}

/// Gradient norm over what was usual from which a step that came before an outgrown output layer is what threw it there: what a layer does to
/// gradients by growing comes by and by.
const CAME_FIRST: f64 = 10.0;

/// An output layer that outgrows the rest.
pub(super) fn output_logits(facts: Facts, onset: Option<&Onset>) -> Option<Case> {
    let is_head = |role: Role| role == Role::OutputHead;
    let mut case = Case::of(Mechanism::OutputLogits);
    if let Some((step, fast)) = rated(facts, is_head) {
        let own = fast.first()?;
        case = case
            .in_tensor(Some(own.name.clone()))
            .since_the_start(step)
            .because(
                STRONG,
                format!(
                    "{} is trained by {} times the learning rate of the others",
                    own.name,
                    short(own.rate)
                ),
            )
            .because(STRONG, "it moved that much farther")
            .number("learning rate over the median of the others", own.rate, Some(fast::OWN_RATE), "1");
    }
    if let Some(outgrown) = outgrown(facts, is_head)
        && let Some(worst) = outgrown.first()
        // A head that has few other layers to be held against, or whose scale a batch norm before it sets, outgrows them by learning.
        && !standstill::learned_on(facts, [bracket::before(facts, worst.step), worst.step], onset, drift::LEARNED)
    {
        if case.reasons.is_empty() {
            case = dated(facts, case, worst).in_tensor(Some(worst.tensor.canonical_name.clone()));
        }
        case = case.because(
            STRONG,
            format!(
                "by step {} the output layer had outgrown the other matrices by {} times",
                worst.step,
                short(worst.ratio)
            ),
        );
        let pulses = pulse::pulses(facts).into_iter().map(|pulse| (pulse.point.step, pulse.ratio));
        let thrown = onset.and_then(|onset| Some((onset.step, run_up::thrown(facts, onset.step)?)));
        let mut large = pulses.filter(|(_, ratio)| *ratio >= CAME_FIRST).chain(thrown);
        if let Some((step, ratio)) = large.find(|(step, _)| *step < worst.step) {
            case = case.although(
                STRONG + SUPPORTING,
                format!(
                    "one gradient of {} times the usual came first, at step {}: the layer had not outgrown the others before it",
                    short(ratio),
                    step
                ),
            );
        }
    }
    if let Some(drift) = drift::of(facts, Role::OutputHead) {
        let sentence = format!(
            "between steps {} and {} the output layer grew faster and faster, by {} times (the other matrices by {}), and the loss did not fall for it",
            drift.began[0],
            drift.to,
            short(drift.growth),
            short(drift.others)
        );
        if case.reasons.is_empty() {
            case = case.at(drift.began[0] + 1, drift.began).in_tensor(Some(drift.tensor));
        }
        case = case.because(STRONG, sentence);
    }
    (!case.reasons.is_empty()).then_some(case)
}

/// The maps of the wanted roles that have outgrown the others, at the first checkpoint where any has.
fn outgrown(facts: Facts<'_>, wanted: fn(Role) -> bool) -> Option<Vec<Outgrowth<'_>>> {
    let (_, first) = facts.checkpoints().next()?;
    facts.checkpoints().find_map(|(step, checkpoint)| {
        let own = checkpoint.tensors.iter().filter(|tensor| is_matrix(tensor) && wanted(tensor.role));
        let outgrown = own.filter_map(|tensor| {
            let ratio = against_others(checkpoint, tensor, wanted)?;
            let before = first.tensors.iter().find(|one| one.canonical_name == tensor.canonical_name)?;
            let growth = ratio / against_others(first, before, wanted)?;
            (ratio >= OUTGROWN && growth >= GROWTH).then_some(Outgrowth { tensor, step, ratio, growth })
        });
        let outgrown: Vec<Outgrowth> = outgrown.collect();
        (!outgrown.is_empty()).then_some(outgrown)
    })
}

/// RMS over the median of the matrices of other roles.
fn against_others(
    checkpoint: &CheckpointAnalysis,
    tensor: &TensorAnalysis,
    wanted: fn(Role) -> bool,
) -> Option<f64> {
    let others = checkpoint.tensors.iter().filter(|other| is_matrix(other) && !wanted(other.role));
    Some(rms(tensor)? / median(others.filter_map(rms)).filter(|&usual| usual > 0.0)?)
}

fn dated(facts: Facts, case: Case, worst: &Outgrowth) -> Case {
    let before = bracket::before(facts, worst.step);
    case.with_confidence(Confidence::Heuristic)
        .at(before + 1, [before, worst.step])
        .number("RMS over that of the other matrices", worst.ratio, Some(OUTGROWN), "1")
        .number("growth of that since the first checkpoint", worst.growth, Some(GROWTH), "1")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::model::{LogAnalysis, LogPoint, Number};
    use crate::rules::Assessment;
    use crate::rules::test_support::{checkpoint, run_of, tensor};

    /// The case of a run whose queries and keys of two layers stand at these multiples of the other matrices by step 100.
    fn case(grown: [f64; 4]) -> Case {
        let at = |step: u64, factors: [f64; 4]| {
            let maps = [
                ("blocks.0.q_proj.weight", Role::AttentionQuery),
                ("blocks.0.k_proj.weight", Role::AttentionKey),
                ("blocks.1.q_proj.weight", Role::AttentionQuery),
                ("blocks.1.k_proj.weight", Role::AttentionKey),
            ];
            let maps = maps.into_iter().zip(factors);
            let maps = maps.map(|((name, role), factor)| tensor(name, role, &[64, 64]).filled(0.02 * factor));
            let others = ["blocks.0.fc1.weight", "blocks.1.fc1.weight"]
                .map(|name| tensor(name, Role::MlpIn, &[64, 64]).filled(0.02));
            checkpoint(maps.chain(others).collect()).at_step(step)
        };
        let mut run = run_of(0, Vec::new);
        run.checkpoints = vec![at(0, [1.0; 4]), at(100, grown)];
        let facts = Facts { analysis: &run, assessment: &Assessment::default() };
        attention_logits(facts, None).expect("they outgrew the others")
    }

    #[test]
    fn an_output_layer_that_outgrew_the_others_while_the_run_learned_is_none() {
        let told = |end: f64| {
            let at = |step: u64, factor: f64| {
                let head = tensor("head.weight", Role::OutputHead, &[64, 64]).filled(0.02 * factor);
                let others = ["blocks.0.fc1.weight", "blocks.1.fc1.weight"]
                    .map(|name| tensor(name, Role::MlpIn, &[64, 64]).filled(0.02));
                checkpoint(others.into_iter().chain([head]).collect()).at_step(step)
            };
            let mut run = run_of(0, Vec::new);
            run.checkpoints = vec![at(0, 1.0), at(100, 5.0)];
            let points = (1..=300).map(|step| LogPoint {
                step,
                loss: Some(Number(2.0 + (end - 2.0) * step as f64 / 300.0)),
                ..LogPoint::default()
            });
            run.log = Some(LogAnalysis { points: points.collect(), ..LogAnalysis::default() });
            output_logits(Facts { analysis: &run, assessment: &Assessment::default() }, None).is_some()
        };
        assert!(told(2.0), "nothing was learned");
        assert!(!told(0.5));
    }

    #[test]
    fn maps_that_outgrew_the_others_alike_are_all_named() {
        let all = case([9.9, 6.2, 6.4, 5.9]);
        assert_eq!(all.tensor.as_deref(), Some("blocks.0.q_proj.weight"), "the worst of every layer's");
        assert_eq!(
            all.reasons[0],
            "by step 100 4 maps of attention stood 5.900 to 9.900 times above the other matrices: blocks.0.q_proj.weight, blocks.1.q_proj.weight, blocks.0.k_proj.weight, blocks.1.k_proj.weight"
        );
        let one = case([9.9, 4.5, 1.0, 1.0]);
        assert_eq!(one.tensor.as_deref(), Some("blocks.0.q_proj.weight"));
        let told = "by step 100 blocks.0.q_proj.weight had outgrown the other matrices by 9.900 times";
        assert_eq!(one.reasons[0], told);
    }
}
