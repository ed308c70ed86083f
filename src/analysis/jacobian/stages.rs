//! The stages of a network: its blocks, or the layers of one that has none, each taking what the one before it gives; and
//! the parts within them that are measured by themselves.

use crate::analysis::model::PartKind;
use crate::network::{Network, Segment, ValueId};

/// One stage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stage {
    /// Its name.
    pub name: String,
    /// From what it takes to what it gives.
    pub segment: Segment,
    /// Its branches, and its operations where they were asked for.
    pub parts: Vec<StagePart>,
    /// The stage is more than one of its own operations, so that it is measured as well.
    pub is_block: bool,
}

/// A part of a stage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StagePart {
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: PartKind,
    /// From what it takes to what it gives.
    pub segment: Segment,
    /// The values that softmax is taken of, for an attention.
    pub logits_from: Vec<ValueId>,
}

/// Operations that move numbers, or add and scale them: their Jacobians say nothing.
const TRIVIAL: &[&str] = &[
    "Source",
    "Reshape",
    "Transpose",
    "Slice",
    "Concat",
    "Add",
    "Scale",
    "PositionEmbedding",
    "Embedding",
    "CrossEntropy",
    "MeanSquaredError",
    "Rotary",
];

/// The stages of `network`, with each operation of them where `per_operation` is set.
pub fn stages(network: &Network, per_operation: bool) -> Vec<Stage> {
    let mut stages = if network.blocks.is_empty() { layers(network) } else { blocks(network) };
    if per_operation {
        for stage in &mut stages {
            let (first, last) = (stage.segment.from.0 + 1, stage.segment.to.0);
            stage.parts.extend((first..=last).flat_map(|node| operations(network, ValueId(node))));
        }
    }
    stages
}

fn blocks(network: &Network) -> Vec<Stage> {
    let stage = |block: &crate::network::Block| Stage {
        name: block.name.clone(),
        segment: block.segment(),
        parts: block.parts.iter().map(|part| branch(&block.name, part)).collect(),
        is_block: true,
    };
    network.blocks.iter().map(stage).collect()
}

fn branch(block: &str, part: &crate::network::Part) -> StagePart {
    let kind = match part.name.as_str() {
        _ if !part.logits_from.is_empty() => PartKind::Attention,
        "mlp" | "feed-forward" | "feed_forward" => PartKind::FeedForward,
        _ => PartKind::Branch,
    };
    StagePart {
        name: format!("{block} {}", part.name),
        kind,
        segment: Segment::new(part.input, part.output),
        logits_from: part.logits_from.clone(),
    }
}

/// The layers of a network without blocks: from each value that all later ones come from alone to the next before an operation
/// with a matrix.
fn layers(network: &Network) -> Vec<Stage> {
    let cuts = cuts(network);
    let (Some(&first), Some(&last)) = (cuts.first(), cuts.last()) else { return Vec::new() };
    let begins = |value: &&ValueId| {
        let next = value.0 + 1;
        next < network.nodes.len() && has_matrix(network, ValueId(next))
    };
    let mut ends: Vec<ValueId> = cuts.iter().filter(begins).copied().filter(|cut| *cut != first).collect();
    ends.push(last);
    ends.dedup();
    let mut stages = Vec::new();
    let mut from = first;
    for to in ends.into_iter().filter(|end| *end > first) {
        let named = (from.0 + 1..=to.0).map(ValueId).find(|&node| has_matrix(network, node));
        stages.push(Stage {
            name: network.node(named.unwrap_or(to)).name.clone(),
            segment: Segment::new(from, to),
            parts: Vec::new(),
            is_block: true,
        });
        from = to;
    }
    stages
}

fn has_matrix(network: &Network, node: ValueId) -> bool {
    let parameters = network.node(node).operation.shaped().parameters();
    parameters.iter().any(|id| network.parameters[id.0].shape.len() > 1)
}

/// Values, in order, without which nothing behind them can be computed.
fn cuts(network: &Network) -> Vec<ValueId> {
    let mut earliest = vec![usize::MAX; network.nodes.len() + 1];
    // From behind: the earliest value that anything from here on takes from before here.
    for index in (0..network.nodes.len()).rev() {
        let own = network.nodes[index].inputs.iter().map(|input| input.0).min().unwrap_or(usize::MAX);
        earliest[index] = earliest[index + 1].min(own);
    }
    (0..=network.output.0)
        .filter(|&index| index == network.output.0 || earliest[index + 1] >= index)
        .map(ValueId)
        .collect()
}

/// A node by each of its inputs, with the others held still.
fn operations(network: &Network, node: ValueId) -> Vec<StagePart> {
    let operation = network.node(node);
    if TRIVIAL.contains(&operation.operation.name()) {
        return Vec::new();
    }
    let mut inputs = operation.inputs.clone();
    inputs.dedup();
    let part = |&from: &ValueId| {
        let frozen = inputs.iter().copied().filter(|other| *other != from).collect();
        let name = if inputs.len() == 1 {
            operation.name.clone()
        } else {
            format!("{} by {}", operation.name, network.node(from).name)
        };
        let segment = Segment { from, to: node, frozen };
        StagePart { name, kind: PartKind::Operation, segment, logits_from: Vec::new() }
    };
    inputs.iter().map(part).collect()
}

/// The whole from the first stage to the last.
pub fn whole(stages: &[Stage]) -> Option<Segment> {
    Some(Segment::new(stages.first()?.segment.from, stages.last()?.segment.to))
}

/// Whether each stage begins where the one before it ends, and takes nothing else that depends on what came before: their
/// product is the Jacobian of the whole.
pub fn are_a_chain(network: &Network, stages: &[Stage]) -> bool {
    let Some(first) = stages.first() else { return false };
    let mut depends = vec![false; network.nodes.len()];
    depends[first.segment.from.0] = true;
    for index in first.segment.from.0 + 1..network.nodes.len() {
        depends[index] = network.nodes[index].inputs.iter().any(|input| depends[input.0]);
    }
    let joined = stages.windows(2).all(|pair| pair[0].segment.to == pair[1].segment.from);
    joined
        && stages.iter().all(|stage| {
            let (from, to) = (stage.segment.from, stage.segment.to);
            let mut inputs = network.nodes[from.0 + 1..=to.0].iter().flat_map(|node| &node.inputs);
            inputs.all(|&input| input >= from || !depends[input.0])
        })
}
