//! Multilayer perceptrons by the shapes of their layers alone: linear layers, with LayerNorm and BatchNorm among them.
//!
//! All layers have one name but for a number: `fc1`, `fc2`; `layers.0`, `layers.1`; `0`, `2`, `4` in an `nn.Sequential`.
//! A number that is left out is that of a module without parameters. Which it is no shape tells: one or two in a row are
//! taken to be ReLU (and a dropout, which does nothing here); where no number is left out, ReLU is taken to stand between
//! every two linear layers. That is said in [`Built::assumptions`](super::Built).

use std::collections::BTreeMap;

use super::state::{State, below};
use crate::compute::Unary;
use crate::error::Result;
use crate::network::{
    Activation, Assembly, BatchNorm, Block, InputKind, LayerNorm, Linear, Network, ValueId,
};

/// What stands in no file.
const ACTIVATION: &str = "ReLU is taken to be the activation between the layers: no shape tells it; give --model where it is another";
const EPSILON: &str = "1e-5 is taken to be what the norms add to the variance, as PyTorch does";

/// Names of the projections of an attention, without the module's own: `nn.MultiheadAttention`, and hands' own.
const ATTENTION: &[&str] =
    &["in_proj_weight", "q_proj.weight", "query.weight", "qkv.weight", "c_attn.weight", "attn.weight"];

/// What PyTorch's norms add to the variance unless told otherwise.
pub(super) const DEFAULT_EPSILON: f64 = 1e-5;

/// A layer with parameters.
struct Layer<'c> {
    name: &'c str,
    number: u64,
    kind: Kind,
}

enum Kind {
    Linear { inputs: usize, outputs: usize },
    LayerNorm { width: usize },
    BatchNorm { width: usize },
}

/// The network and what was assumed for it.
///
/// # Errors
/// When the shapes do not determine it; says what is missing.
pub(super) fn build(state: &State<'_>) -> Result<(Network, Vec<String>)> {
    let layers = layers(state)?;
    check_chain(state, &layers)?;
    let gap = |pair: &[Layer<'_>]| (pair[1].number - pair[0].number).saturating_sub(1);
    let gaps: Vec<u64> = layers.windows(2).map(gap).collect();
    let no_gap = gaps.iter().all(|&gap| gap == 0);
    let all_linear = layers.iter().all(|layer| matches!(layer.kind, Kind::Linear { .. }));
    if no_gap && !all_linear && layers.len() > 1 {
        let message =
            "where the activations stand among linear layers and norms is not told by their numbers";
        return Err(state.unknown(message));
    }
    if let Some(at) = gaps.iter().position(|&gap| gap > 2) {
        let (first, second) = (layers[at].name, layers[at + 1].name);
        let message = format!("between {first} and {second} are {} modules that no shape tells", gaps[at]);
        return Err(state.unknown(message));
    }
    let is_active = |at: usize| gaps.get(at).is_some_and(|&gap| no_gap || gap > 0);

    let Kind::Linear { inputs, .. } = layers[0].kind else {
        return Err(state.unknown(format!("{} is a norm in front of every layer", layers[0].name)));
    };
    let mut assembly = Assembly::new("perceptron", InputKind::Features { shape: vec![Some(inputs)] });
    let mut x = assembly.input();
    let mut block = None;
    for (at, layer) in layers.iter().enumerate() {
        if matches!(layer.kind, Kind::Linear { .. }) {
            end_block(&mut assembly, block.replace((layer.name, x)), x);
        }
        x = push(state, &mut assembly, layer, x);
        if is_active(at) {
            x = assembly.push(&format!("{}.act", layer.name), Activation { function: Unary::Relu }, &[x]);
        }
    }
    end_block(&mut assembly, block, x);
    let mut assumptions = Vec::new();
    if (0..layers.len()).any(is_active) {
        assumptions.push(ACTIVATION.to_owned());
    }
    if !all_linear {
        assumptions.push(EPSILON.to_owned());
    }
    Ok((assembly.finish(x), assumptions))
}

fn end_block(assembly: &mut Assembly, block: Option<(&str, ValueId)>, output: ValueId) {
    if let Some((name, input)) = block {
        assembly.block(Block { name: name.to_owned(), input, output, parts: Vec::new() });
    }
}

fn push(state: &State<'_>, assembly: &mut Assembly, layer: &Layer<'_>, x: ValueId) -> ValueId {
    let name = |leaf: &str| below(layer.name, leaf);
    let bias = |assembly: &mut Assembly, width: usize| {
        state.has(&name("bias")).then(|| assembly.parameter(&name("bias"), &[width]))
    };
    match layer.kind {
        Kind::Linear { inputs, outputs } => {
            let weight = assembly.parameter(&name("weight"), &[outputs, inputs]);
            let bias = bias(assembly, outputs);
            assembly.push(layer.name, Linear { inputs, outputs, weight, bias, transposed: false }, &[x])
        }
        Kind::LayerNorm { width } => {
            let gain = Some(assembly.parameter(&name("weight"), &[width]));
            let bias = bias(assembly, width);
            let norm = LayerNorm { columns: width, centred: true, epsilon: DEFAULT_EPSILON, gain, bias };
            assembly.push(layer.name, norm, &[x])
        }
        Kind::BatchNorm { width } => {
            let [mean, variance, gain] = ["running_mean", "running_var", "weight"]
                .map(|leaf| assembly.parameter(&name(leaf), &[width]));
            let bias = bias(assembly, width);
            let norm = BatchNorm {
                channels: width,
                epsilon: DEFAULT_EPSILON,
                mean,
                variance,
                gain: Some(gain),
                bias,
            };
            assembly.push(layer.name, norm, &[x])
        }
    }
}

/// The layers in the order of their numbers.
fn layers<'c>(state: &State<'c>) -> Result<Vec<Layer<'c>>> {
    let mut leaves: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for name in state.names() {
        let (layer, leaf) = name.rsplit_once('.').unwrap_or(("", name));
        leaves.entry(layer).or_default().push(leaf);
    }
    let convolutions: Vec<&str> = leaves
        .keys()
        .copied()
        .filter(|layer| {
            state.shape(&below(layer, "weight")).is_ok_and(|shape| shape.is_some_and(|s| s.len() > 2))
        })
        .collect();
    if let Some(first) = convolutions.first() {
        let message = format!(
            "{first} is a convolution{}, whose stride and padding no shape tells",
            if convolutions.len() > 1 {
                format!(" ({} are there)", convolutions.len())
            } else {
                String::new()
            }
        );
        return Err(state.unknown(message));
    }
    if let Some(attention) = state.names().iter().find_map(|name| attention(name)) {
        return Err(
            state.unknown(format!("{attention} is an attention, whose heads and mask no shape tells"))
        );
    }
    let mut layers = Vec::new();
    let mut stem = None;
    for (name, leaves) in leaves {
        let (own, number) = numbered(name).ok_or_else(|| {
            state.unknown(format!("the place of {name:?} among the layers is not told by a number"))
        })?;
        if *stem.get_or_insert(own) != own {
            let message = format!("{:?} and {own:?} both begin names of layers", stem.unwrap_or(own));
            return Err(state.unknown(message));
        }
        layers.push(Layer { name, number, kind: kind(state, name, &leaves)? });
    }
    layers.sort_by_key(|layer| layer.number);
    if layers.is_empty() {
        return Err(state.unknown("it has no layers"));
    }
    Ok(layers)
}

/// The attention that a parameter is the projection of, by the names that frameworks give it.
fn attention(name: &str) -> Option<&str> {
    ATTENTION.iter().find_map(|leaf| name.strip_suffix(leaf)?.strip_suffix('.'))
}

/// A name without its last number, and that.
fn numbered(name: &str) -> Option<(&str, u64)> {
    let stem = name.trim_end_matches(|c: char| c.is_ascii_digit());
    Some((stem, name[stem.len()..].parse().ok()?))
}

fn kind(state: &State<'_>, name: &str, leaves: &[&str]) -> Result<Kind> {
    let refuse = |message: String| Err(state.unknown(message));
    let known = ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"];
    if let Some(other) = leaves.iter().find(|leaf| !known.contains(leaf)) {
        return refuse(format!("{} is a parameter of no linear layer or norm", below(name, other)));
    }
    let counted = leaves.contains(&"running_mean") && leaves.contains(&"running_var");
    match state.shape(&below(name, "weight"))?.as_deref() {
        Some(&[outputs, inputs]) => Ok(Kind::Linear { inputs, outputs }),
        Some(&[width]) if counted => Ok(Kind::BatchNorm { width }),
        Some(&[width]) => Ok(Kind::LayerNorm { width }),
        Some(shape) => refuse(format!("{name} has a weight of shape {shape:?}")),
        None => refuse(format!("{name} has no weight")),
    }
}

/// That each layer takes as many numbers as the one before it gives.
fn check_chain(state: &State<'_>, layers: &[Layer<'_>]) -> Result<()> {
    let mut given: Option<usize> = None;
    for layer in layers {
        let (takes, gives) = match layer.kind {
            Kind::Linear { inputs, outputs } => (inputs, outputs),
            Kind::LayerNorm { width } | Kind::BatchNorm { width } => (width, width),
        };
        if let Some(given) = given.filter(|&given| given != takes) {
            let message = format!("{} takes {takes} numbers, the layer before it gives {given}", layer.name);
            return Err(state.unknown(message));
        }
        given = Some(gives);
    }
    Ok(())
}
