//! The same architecture with weights as it is initialised: what the gain of a checkpoint is held against.
//!
//! GPT-2 (Radford et al. 2019): normal with the config's `initializer_range`, 0.02 where it says nothing, and the projections
//! into the residual stream divided by √(2·blocks). LLaMA, BERT and their kin: normal with `initializer_range`. Others by the
//! defaults of PyTorch's layers: uniform within 1/√fan-in, embeddings standard normal. Norm gains 1, biases of the former 0.

use std::collections::BTreeMap;

use crate::compute::{Backend, Real};
use crate::error::Result;
use crate::network::{Array, Network, Operation, ParameterId, Weights};
use crate::random::Stream;

/// Standard deviation of transformers' weights where their config does not say.
const RANGE: f64 = 0.02;

/// Architectures whose weights are normal, by what their names hold.
const NORMAL: [&str; 12] = [
    "llama", "mistral", "qwen2", "qwen3", "bert", "roberta", "albert", "minilm", "gemma", "phi", "opt",
    "neox",
];

/// Streams of the weights, behind those of probes and vectors.
const FIRST_STREAM: u64 = 1 << 32;

/// How an architecture draws its weights.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Scheme {
    /// Normal with this deviation; projections into the residual stream divided by the root of twice the number of blocks.
    Gpt2 {
        /// Standard deviation.
        range: f64,
    },
    /// Normal with this deviation.
    Normal {
        /// Standard deviation.
        range: f64,
    },
    /// The defaults of PyTorch's layers.
    LayerDefaults,
}

impl Scheme {
    /// That of an architecture by its name, with what its config says.
    pub fn of(architecture: &str, config: Option<&BTreeMap<String, serde_json::Value>>) -> Self {
        let range = config
            .and_then(|config| config.get("initializer_range"))
            .and_then(serde_json::Value::as_f64)
            .filter(|range| *range > 0.0 && range.is_finite())
            .unwrap_or(RANGE);
        let name = architecture.to_ascii_lowercase();
        if name.starts_with("gpt2") || name.starts_with("nanogpt") {
            Self::Gpt2 { range }
        } else if NORMAL.iter().any(|known| name.contains(known)) {
            Self::Normal { range }
        } else {
            Self::LayerDefaults
        }
    }

    /// In words.
    pub fn describe(self) -> String {
        match self {
            Self::Gpt2 { range } => {
                format!("normal, deviation {range}, projections into the residual stream / sqrt(2 blocks)")
            }
            Self::Normal { range } => format!("normal, deviation {range}"),
            Self::LayerDefaults => "the defaults of PyTorch's layers".to_owned(),
        }
    }
}

/// Weights for `network` by `scheme` under `seed`; `None` where a parameter is of an operation that no scheme knows.
///
/// # Errors
/// When memory cannot be had.
pub fn draw<B: Backend, T: Real>(
    backend: &B,
    network: &Network,
    scheme: Scheme,
    seed: u64,
) -> Result<Option<Weights<B, T>>> {
    let mut weights = Weights::none(network);
    let mut is_drawn = vec![false; network.parameters.len()];
    for node in &network.nodes {
        for id in node.operation.shaped().parameters() {
            if std::mem::replace(&mut is_drawn[id.0], true) {
                continue;
            }
            let Some(law) = law(network, &node.operation, id, scheme) else { return Ok(None) };
            let shape = &network.parameters[id.0].shape;
            let values = sample(law, shape.iter().product(), Stream::new(seed, FIRST_STREAM + id.0 as u64));
            weights.set(id, Array::upload(backend, shape, &values)?);
        }
    }
    Ok(Some(weights))
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Law {
    Constant(f64),
    Normal(f64),
    Uniform(f64),
}

fn sample(law: Law, count: usize, stream: Stream) -> Vec<f64> {
    match law {
        Law::Constant(value) => vec![value; count],
        Law::Normal(deviation) => stream.normals(count).into_iter().map(|x| deviation * x).collect(),
        Law::Uniform(bound) => stream.uniforms(count).into_iter().map(|x| bound * (2.0 * x - 1.0)).collect(),
    }
}

fn law(network: &Network, operation: &Operation, id: ParameterId, scheme: Scheme) -> Option<Law> {
    let parameter = &network.parameters[id.0];
    let is_vector = parameter.shape.len() < 2;
    let depth = 2.0 * network.blocks.len().max(1) as f64;
    match operation {
        Operation::LayerNorm(norm) => Some(Law::Constant(if norm.gain == Some(id) { 1.0 } else { 0.0 })),
        Operation::Embedding(_) | Operation::PositionEmbedding(_) => Some(match scheme {
            Scheme::Gpt2 { range } | Scheme::Normal { range } => Law::Normal(range),
            Scheme::LayerDefaults => Law::Normal(1.0),
        }),
        Operation::Linear(linear) => Some(match scheme {
            Scheme::Gpt2 { .. } | Scheme::Normal { .. } if is_vector => Law::Constant(0.0),
            Scheme::Gpt2 { range } if is_residual_projection(&parameter.name) => {
                Law::Normal(range / depth.sqrt())
            }
            Scheme::Gpt2 { range } | Scheme::Normal { range } => Law::Normal(range),
            Scheme::LayerDefaults => of_fan(linear.inputs),
        }),
        Operation::GroupNorm(norm) => Some(Law::Constant(if norm.gain == Some(id) { 1.0 } else { 0.0 })),
        // Running statistics of nothing: mean 0, variance 1.
        Operation::BatchNorm(norm) => {
            Some(Law::Constant(if norm.gain == Some(id) || norm.variance == id { 1.0 } else { 0.0 }))
        }
        Operation::Conv1d(own) => Some(of_fan(own.inputs / own.groups * own.kernel)),
        Operation::Conv2d(own) => Some(of_fan(own.inputs / own.groups * own.kernel[0] * own.kernel[1])),
        Operation::RecurrentCell(cell) => Some(of_fan(cell.hidden)),
        Operation::RecurrentLayer(layer) => Some(of_fan(layer.cell.hidden)),
        _ => None,
    }
}

/// PyTorch's default for a map of so many inputs.
fn of_fan(inputs: usize) -> Law {
    Law::Uniform(1.0 / (inputs as f64).sqrt())
}

fn is_residual_projection(name: &str) -> bool {
    name.contains("c_proj")
}
